"""Real processes, real sockets, real faults: players notice a pause at most, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from perdure.client.connection import ClientClosed
from perdure.game.loading import load_game
from perdure.wire.opcodes import Close, Notice
from shard.program import compile_program
from shard.replay import replay_zone
from tests.faults.conftest import Crowd, Lab

pytestmark = pytest.mark.timeout(150)


async def _replay_all(lab: Lab) -> None:
    program = compile_program(load_game("games/arena"))
    for zone in range(6):
        report, _ = await replay_zone(lab.cluster.ledger, program, zone)
        assert report.fault == ""


async def test_shards_that_are_killed_one_after_the_other(lab: Lab) -> None:
    crowd = await Crowd(lab, 20, "kill").all_in()
    await lab.cluster.kill("shard-1")
    await lab.zones_run_by({"shard-2", "shard-3"})
    await lab.cluster.kill("shard-2")
    await lab.zones_run_by({"shard-3"})
    await lab.cluster.start_shard("shard-1")
    await lab.cluster.start_shard("shard-2")
    await lab.shards_with_zones(3)
    await crowd.check(longest_gap_s=3.0)
    await _replay_all(lab)


async def test_a_shard_that_hangs_and_comes_back_does_no_harm(lab: Lab) -> None:
    crowd = await Crowd(lab, 20, "zombie").all_in()
    for victim in ("shard-2", "shard-3"):
        number = (await lab.cluster.ledger.view()).members[victim].number
        lab.cluster.send_signal(victim, signal.SIGSTOP)
        await lab.zones_run_by({"shard-1", "shard-2", "shard-3"} - {victim})
        lab.cluster.send_signal(victim, signal.SIGCONT)
        await lab.until("it has joined anew", lambda v, n=victim, old=number: n in v.members and v.members[n].number != old)
        await lab.shards_with_zones(3)
    await crowd.check(longest_gap_s=4.0)
    await _replay_all(lab)


async def test_a_ledger_that_hangs_pauses_the_world_and_players_are_told(lab: Lab) -> None:
    crowd = await Crowd(lab, 10, "hang").all_in()
    async with lab.client("watcher") as watcher:
        before = await lab.cluster.ledger.view()
        lab.cluster.server.pause()
        try:
            await asyncio.wait_for(watcher.wait_until(lambda: any(n.notice == Notice.PAUSED for n in watcher.notices)), 10)
            stood = watcher.world.tick
            await asyncio.sleep(5.0)  # the outage that is meant to last five seconds
            assert watcher.world.tick <= stood + 1, "a tick was released that cannot be in the log"
        finally:
            lab.cluster.server.resume()
        await asyncio.wait_for(watcher.wait_until(lambda: any(n.notice == Notice.RESUMED for n in watcher.notices)), 15)
        after = await lab.until("zones tick on", lambda v: all(v.ticks[z] > t + 5 for z, t in before.ticks.items()))
        assert {n: m.number for n, m in after.members.items()} == {n: m.number for n, m in before.members.items()}, "somebody was given up"
    await crowd.check(longest_gap_s=9.0)
    await _replay_all(lab)


async def test_a_ledger_that_is_killed_and_comes_back_loses_nothing(lab: Lab) -> None:
    crowd = await Crowd(lab, 10, "aof").all_in()
    before = await lab.cluster.ledger.view()
    await asyncio.to_thread(lab.cluster.server.kill)
    await asyncio.to_thread(lab.cluster.server.start)
    deadline = time.monotonic() + 20
    while True:
        try:
            await lab.until("zones tick on", lambda v: all(v.ticks[z] > t + 5 for z, t in before.ticks.items()))
            break
        except Exception as error:
            if time.monotonic() > deadline or isinstance(error, AssertionError):
                raise
    await crowd.check(longest_gap_s=8.0)
    await _replay_all(lab)


async def test_drain_moves_zones_away_live_and_ends_with_zero(lab: Lab) -> None:
    crowd = await Crowd(lab, 20, "drain").all_in()
    lab.cluster.send_signal("shard-1", signal.SIGTERM)
    assert await lab.cluster.ended_of("shard-1") == 0
    await lab.zones_run_by({"shard-2", "shard-3"})
    await lab.cluster.ledger.set_draining("shard-2", True)
    assert await lab.cluster.ended_of("shard-2") == 0
    await lab.zones_run_by({"shard-3"})
    await crowd.check(longest_gap_s=1.0)


async def test_a_shard_that_joins_gets_its_share(lab: Lab) -> None:
    crowd = await Crowd(lab, 20, "join").all_in()
    name = await lab.cluster.add_shard()
    await lab.until("it has zones", lambda v: sum(r.owner == name for r in v.zones.values()) >= 1)
    await crowd.check(longest_gap_s=1.0)


async def test_a_standby_leads_when_the_leader_dies_and_fails_shards_over(lab: Lab) -> None:
    crowd = await Crowd(lab, 10, "leader").all_in()
    leader = (await lab.cluster.ledger.view()).leader
    await lab.cluster.kill(leader)
    await lab.cluster.kill("shard-3")
    view = await lab.zones_run_by({"shard-1", "shard-2"})
    assert view.leader != leader
    await crowd.check(longest_gap_s=5.0)


async def test_clients_of_a_killed_gateway_resume_at_another(lab: Lab) -> None:
    first, second = lab.urls
    async with lab.client("mover", first, second) as client, lab.client("other", second) as witness:
        for _ in range(20):
            await client.command("steer", mx=1, my=0, fire=False)
        session = client.welcome.session if client.welcome else 0
        name = next(n for n, url in lab.cluster.gateway_urls.items() if url == first)
        sent = [client.send_command("steer", mx=-1, my=0, fire=True) for _ in range(3)]
        await lab.cluster.kill(name)
        await asyncio.wait_for(client.wait_until(lambda: client.protocol.acked >= sent[-1]), 20)
        assert client.welcome is not None
        assert client.welcome.session > session
        assert await client.command("steer", mx=0, my=0, fire=False) == sent[-1] + 1
        assert not witness.stats.closes


async def test_a_newer_login_takes_over_and_the_older_is_told_why(lab: Lab) -> None:
    first, second = lab.urls
    async with lab.client("twin", first) as older, lab.client("twin", second) as newer:
        with pytest.raises(ClientClosed) as closed:
            await asyncio.wait_for(older.wait_until(lambda: False), 10)
        assert closed.value.code == Close.TAKEN_OVER
        await newer.command("steer", mx=1, my=1, fire=False)
    assert len([p for p in await lab.cluster.ledger.online() if p.name == "twin"]) == 1


async def test_a_player_who_is_cut_off_while_crossing_is_in_one_place_afterwards(lab: Lab) -> None:
    async with lab.client("walker") as client:
        zone = client.world.zone
        while client.world.zone == zone:  # walk until just over a border, and lose the socket there
            me = client.world.me
            assert me is not None
            to_right = me.x % (4096 / 3) > 4096 / 6
            await client.command("steer", mx=1 if to_right and me.x < 2700 else -1, my=0, fire=False)
        client.drop_socket()
        await asyncio.wait_for(client.wait_until(lambda: client.stats.reconnects >= 1 and client.connected), 20)
        for _ in range(5):
            await client.command("steer", mx=0, my=0, fire=False)
        record = [p for p in await lab.cluster.ledger.online() if p.name == "walker"]
        assert len(record) == 1
        assert record[0].place == client.world.zone


async def test_nothing_is_left_behind(lab: Lab) -> None:
    pids = dict(lab.cluster.pids)
    await lab.cluster.stop()
    for name, pid in pids.items():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
            pytest.fail(f"{name} is still there")
    lab.cluster.pids.clear()
