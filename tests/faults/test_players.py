"""Players change gateways, log in twice, cross borders at the worst moment: each is one body, in the right place, nothing lost."""

from __future__ import annotations

import asyncio
import signal

import pytest

from perdure.client.connection import ClientClosed
from perdure.wire.identifiers import LOBBY, player_key
from perdure.wire.opcodes import Close
from tests.faults.conftest import GRID, Lab, Player

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


def middle(zone: int) -> tuple[float, float]:
    x0, y0, x1, y1 = GRID.bounds(zone)
    return (x0 + x1) / 2, (y0 + y1) / 2


async def two_shards(lab: Lab) -> tuple[int, int]:
    """Return two zones that different shards run."""
    view = await lab.view()
    return next((a, b) for a in view.zones for b in view.zones if view.zones[a].owner != view.zones[b].owner)


def gateway_of(lab: Lab, player: Player) -> str:
    assert player.client.welcome is not None
    return player.client.welcome.gateway


async def resumed(player: Player, sockets: int = 1) -> None:
    await player.until("a snapshot on a new socket", lambda: player.client.connected and player.client.stats.reconnects >= sockets)


async def test_players_of_a_killed_gateway_resume_at_the_other_and_lose_no_command(lab: Lab) -> None:
    first, second = lab.urls
    async with Player(lab, "mover", first, second) as mover, Player(lab, "witness", second) as witness:
        victim = gateway_of(lab, mover)
        assert victim != gateway_of(lab, witness)
        assert mover.client.welcome is not None
        session = mover.client.welcome.session
        for zone in (1, 4, 2):
            await mover.goes(*middle(zone))
        sent = [mover.go(*middle(zone)) for zone in (0, 5, 3, 1)]  # on their way, or waiting for their tick: one is applied a tick
        await lab.cluster.kill(victim)
        await mover.until("all of them applied", lambda: mover.client.protocol.acked >= sent[-1])
        await mover.goes(*middle(3))
        assert mover.steps == sent[-1] + 1
        assert gateway_of(lab, mover) != victim
        assert mover.client.welcome.session > session
        mover.check(drops=len(mover.client.stats.closes))
        assert all(end.code is None for end in mover.client.stats.closes)
        witness.check()
        await lab.one_body_each(["mover", "witness"])


async def test_a_newer_login_at_the_other_gateway_closes_the_older_session(lab: Lab) -> None:
    first, second = lab.urls
    async with Player(lab, "twin", first) as older:
        await older.goes(*middle(4))
        async with Player(lab, "twin", second) as newer:
            with pytest.raises(ClientClosed) as closed:
                await asyncio.wait_for(older.client.wait_until(lambda: False), 10)
            assert closed.value.code == Close.TAKEN_OVER
            assert newer.zone == 4
            assert newer.place == middle(4)
            await newer.goes(*middle(1))
            assert newer.steps == 2
            await lab.one_body_each(["twin"])
            newer.check()


async def test_who_is_cut_off_while_crossing_a_border_comes_back_as_one_body_beyond_it(lab: Lab) -> None:
    here, there = await two_shards(lab)
    async with lab.player("walker") as walker:
        for round_ in range(4):
            await walker.goes(*middle(here))
            seq = walker.go(*middle(there))
            await asyncio.sleep(0.04 * round_)  # the cut falls before, into and after the crossing
            walker.client.drop_socket()
            await resumed(walker, round_ + 1)
            await walker.until("the place beyond the border", lambda s=seq: walker.client.protocol.acked >= s and walker.zone == there)
            assert walker.place == middle(there)
            await lab.one_body_each(["walker"])
        walker.check(drops=4)


async def test_who_stays_away_too_long_is_in_the_lobby_and_comes_back_as_it_was(lab: Lab) -> None:
    async with lab.player("late") as late:
        await late.goes(*middle(2))
        await late.goes(*middle(5))
    key = player_key("late")
    async with asyncio.timeout(15):
        while True:
            record = await lab.cluster.ledger.player(key)
            assert record is not None
            if record.presence.place == LOBBY:
                break
            await asyncio.sleep(0.05)
    assert not [p for p in await lab.cluster.ledger.online() if p.name == "late"]
    assert record.saved
    assert late.client.protocol.resume
    async with Player(lab, "late") as again:
        assert again.steps == 2
        assert again.place == middle(5)
        me = again.client.world.me
        assert me is not None
        assert me.joins == 2
        await again.goes(*middle(0))
        await lab.one_body_each(["late"])
        again.check()


async def test_who_logs_out_and_in_again_has_what_was_saved(lab: Lab) -> None:
    player = await lab.player("saver").__aenter__()
    await player.goes(*middle(1))
    await player.client.leave()
    async with lab.player("saver") as again:
        assert (again.zone, again.steps) == (1, 1)


async def test_two_players_swap_zones_in_the_same_moment(lab: Lab) -> None:
    here, there = await two_shards(lab)
    async with lab.player("left") as left, lab.player("right") as right:
        await asyncio.gather(left.goes(*middle(here)), right.goes(*middle(there)))
        for _ in range(5):
            here, there = there, here
            await asyncio.gather(left.goes(*middle(here)), right.goes(*middle(there)))
            assert (left.zone, right.zone) == (here, there)
        await lab.one_body_each(["left", "right"])
        for player in (left, right):
            player.check()
            assert player.steps == 6


async def test_crossings_at_the_corner_where_four_zones_meet(lab: Lab) -> None:
    around = [(97.0, 97.0), (103.0, 103.0), (103.0, 97.0), (97.0, 103.0), (97.0, 97.0)]
    async with lab.player("corner") as corner:
        for x, y in around:
            await corner.goes(x, y)
        seq = corner.go(100.5, 100.5)  # within the hysteresis of the corner: it stays where it was
        await corner.until("it applied", lambda: corner.client.protocol.acked >= seq)
        assert corner.zone == GRID.zone_at(*around[-1])
        await lab.one_body_each(["corner"])
        corner.check()
        assert corner.steps == 6


async def test_a_crossing_into_a_zone_whose_shard_is_killed_in_that_moment(lab: Lab) -> None:
    here, there = await two_shards(lab)
    victim = await lab.owner(there)
    async with lab.player("early") as early, lab.player("inside") as inside, lab.player("later") as later:
        await asyncio.gather(early.goes(*middle(here)), inside.goes(*middle(there)), later.goes(*middle(here)))
        early.go(*middle(there))
        lab.cluster.send_signal(victim, signal.SIGKILL)
        later.go(*middle(there))
        inside.go(*middle(here))
        for player, zone in ((early, there), (inside, here), (later, there)):
            await player.until(f"itself in zone {zone}", lambda p=player, z=zone: p.zone == z and p.steps == 2)
            player.check()
        await lab.cluster.ended_of(victim)
        await lab.one_body_each(["early", "inside", "later"])


async def test_a_gateway_and_a_shard_die_in_the_same_moment(lab: Lab) -> None:
    first, second = lab.urls
    here, there = await two_shards(lab)
    async with Player(lab, "both", first, second) as both:
        await both.goes(*middle(here))
        seqs = [both.go(*middle(there)), both.go(*middle(here)), both.go(*middle(there))]
        shard, gateway = await lab.owner(there), gateway_of(lab, both)
        lab.cluster.send_signal(shard, signal.SIGKILL)
        await lab.cluster.kill(gateway)
        await both.until("everything applied", lambda: both.client.protocol.acked >= seqs[-1] and both.zone == there)
        assert both.steps == 4
        assert both.faults == []
        await lab.one_body_each(["both"])
        await lab.cluster.ended_of(shard)
