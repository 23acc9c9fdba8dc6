"""Real processes, real sockets, real faults: players notice a pause at most, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from perdure.cli.local_cluster import LocalCluster
from perdure.client.connection import ClientClosed
from perdure.game.loading import load_game
from perdure.wire.opcodes import Close, Notice
from shard.program import compile_program
from shard.replay import replay_zone
from tests.faults.crowd_lab import Arena, Crowd

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def arena() -> AsyncIterator[Arena]:
    """Three shards, two gateways, two coordinators; zones that moved may move again at once."""
    cluster = LocalCluster(shards=3, gateways=2, zones="3x2", settings={"migration_rest_ms": "500"})
    await cluster.start()
    try:
        yield Arena(cluster)
    finally:
        await cluster.stop()


async def _replay_all(arena: Arena) -> None:
    program = compile_program(load_game("games/arena"))
    for zone in range(6):
        report, _ = await replay_zone(arena.cluster.ledger, program, zone)
        assert report.fault == ""


async def test_shards_that_are_killed_one_after_the_other(arena: Arena) -> None:
    crowd = await Crowd(arena, 20, "kill").all_in()
    await arena.cluster.kill("shard-1")
    await arena.zones_run_by({"shard-2", "shard-3"})
    await arena.cluster.kill("shard-2")
    await arena.zones_run_by({"shard-3"})
    await arena.cluster.start_shard("shard-1")
    await arena.cluster.start_shard("shard-2")
    await arena.shards_with_zones(3)
    await crowd.check(longest_gap_s=6.0)
    await _replay_all(arena)


async def test_a_shard_that_hangs_and_comes_back_does_no_harm(arena: Arena) -> None:
    crowd = await Crowd(arena, 20, "zombie").all_in()
    for victim in ("shard-2", "shard-3"):
        number = (await arena.cluster.ledger.view()).members[victim].number
        arena.cluster.send_signal(victim, signal.SIGSTOP)
        await arena.zones_run_by({"shard-1", "shard-2", "shard-3"} - {victim})
        arena.cluster.send_signal(victim, signal.SIGCONT)
        await arena.until("it has joined anew", lambda v, n=victim, old=number: n in v.members and v.members[n].number != old)
        await arena.shards_with_zones(3)
    await crowd.check(longest_gap_s=8.0)
    await _replay_all(arena)


async def test_a_ledger_that_hangs_pauses_the_world_and_players_are_told(arena: Arena) -> None:
    crowd = await Crowd(arena, 10, "hang").all_in()
    async with arena.client("watcher") as watcher:
        before = await arena.cluster.ledger.view()
        arena.cluster.server.pause()
        try:
            await asyncio.wait_for(watcher.wait_until(lambda: any(n.notice == Notice.PAUSED for n in watcher.notices)), 10)
            stood = watcher.world.tick
            await asyncio.sleep(5.0)  # the outage that is meant to last five seconds
            assert watcher.world.tick <= stood + 1, "a tick was released that cannot be in the log"
        finally:
            arena.cluster.server.resume()
        await asyncio.wait_for(watcher.wait_until(lambda: any(n.notice == Notice.RESUMED for n in watcher.notices)), 15)
        after = await arena.until("zones tick on", lambda v: all(v.ticks[z] > t + 5 for z, t in before.ticks.items()))
        assert {n: m.number for n, m in after.members.items()} == {n: m.number for n, m in before.members.items()}, "somebody was given up"
    await crowd.check(longest_gap_s=9.0)
    await _replay_all(arena)


async def test_a_ledger_that_is_killed_and_comes_back_loses_nothing(arena: Arena) -> None:
    crowd = await Crowd(arena, 10, "aof").all_in()
    before = await arena.cluster.ledger.view()
    await asyncio.to_thread(arena.cluster.server.kill)
    await asyncio.to_thread(arena.cluster.server.start)
    deadline = time.monotonic() + 20
    while True:
        try:
            await arena.until("zones tick on", lambda v: all(v.ticks[z] > t + 5 for z, t in before.ticks.items()))
            break
        except Exception as error:
            if time.monotonic() > deadline or isinstance(error, AssertionError):
                raise
    await crowd.check(longest_gap_s=8.0)
    await _replay_all(arena)


async def test_drain_moves_zones_away_live_and_ends_with_zero(arena: Arena) -> None:
    crowd = await Crowd(arena, 20, "drain").all_in()
    arena.cluster.send_signal("shard-1", signal.SIGTERM)
    assert await arena.cluster.ended_of("shard-1") == 0
    await arena.zones_run_by({"shard-2", "shard-3"})
    await arena.cluster.ledger.set_draining("shard-2", True)
    assert await arena.cluster.ended_of("shard-2") == 0
    await arena.zones_run_by({"shard-3"})
    await crowd.check(longest_gap_s=4.0)


async def test_a_shard_that_joins_gets_its_share(arena: Arena) -> None:
    crowd = await Crowd(arena, 20, "join").all_in()
    name = await arena.cluster.add_shard()
    await arena.until("it has zones", lambda v: sum(r.owner == name for r in v.zones.values()) >= 1)
    await crowd.check(longest_gap_s=4.0)


async def test_a_standby_leads_when_the_leader_dies_and_fails_shards_over(arena: Arena) -> None:
    crowd = await Crowd(arena, 10, "leader").all_in()
    leader = (await arena.cluster.ledger.view()).leader
    await arena.cluster.kill(leader)
    await arena.cluster.kill("shard-3")
    view = await arena.zones_run_by({"shard-1", "shard-2"})
    assert view.leader != leader
    await crowd.check(longest_gap_s=8.0)


async def test_clients_of_a_killed_gateway_resume_at_another(arena: Arena) -> None:
    first, second = arena.urls
    async with arena.client("mover", first, second) as client, arena.client("other", second) as witness:
        for _ in range(20):
            await client.command("steer", mx=1, my=0, fire=False)
        session = client.welcome.session if client.welcome else 0
        name = next(n for n, url in arena.cluster.gateway_urls.items() if url == first)
        sent = [client.send_command("steer", mx=-1, my=0, fire=True) for _ in range(3)]
        await arena.cluster.kill(name)
        await asyncio.wait_for(client.wait_until(lambda: client.protocol.acked >= sent[-1]), 20)
        assert client.welcome is not None
        assert client.welcome.session > session
        assert await client.command("steer", mx=0, my=0, fire=False) == sent[-1] + 1
        assert not witness.stats.closes


async def test_a_newer_login_takes_over_and_the_older_is_told_why(arena: Arena) -> None:
    first, second = arena.urls
    async with arena.client("twin", first) as older, arena.client("twin", second) as newer:
        with pytest.raises(ClientClosed) as closed:
            await asyncio.wait_for(older.wait_until(lambda: False), 10)
        assert closed.value.code == Close.TAKEN_OVER
        await newer.command("steer", mx=1, my=1, fire=False)
    assert len([p for p in await arena.cluster.ledger.online() if p.name == "twin"]) == 1


async def test_a_player_who_is_cut_off_while_crossing_is_in_one_place_afterwards(arena: Arena) -> None:
    async with arena.client("walker") as client:
        zone = client.world.zone
        # One way all along: a zone keeps a player some units beyond its border, so that nobody flickers between two.
        sideways = -1 if zone % 3 == 2 else 1
        async with asyncio.timeout(30):
            while client.world.zone == zone:  # walk until just over a border, and lose the socket there
                await client.command("steer", mx=sideways, my=0, fire=False)
        client.drop_socket()
        await asyncio.wait_for(client.wait_until(lambda: client.stats.reconnects >= 1 and client.connected), 20)
        for _ in range(5):
            await client.command("steer", mx=0, my=0, fire=False)
        record = [p for p in await arena.cluster.ledger.online() if p.name == "walker"]
        assert len(record) == 1
        assert record[0].place == client.world.zone


async def test_nothing_is_left_behind(arena: Arena) -> None:
    pids = dict(arena.cluster.pids)
    await arena.cluster.stop()
    assert [name for name, pid in pids.items() if _alive(pid)] == []
    arena.cluster.pids.clear()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
