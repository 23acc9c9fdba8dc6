"""Shards die, hang, join and leave while people play: their sockets stay, no command is lost, snapshots go on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from tests.faults.conftest import SHARDS, Lab

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
ALL = {f"shard-{k + 1}" for k in range(SHARDS)}


async def test_a_killed_shard_is_taken_over_and_gets_zones_back_by_live_migration(lab: Lab) -> None:
    async with lab.crowd(12, "kill", longest_gap_s=5.0) as crowd:
        await lab.cluster.kill("shard-2")
        await lab.no_zone_on("shard-2")
        await crowd.plays_on()
        await lab.cluster.start_shard("shard-2")
        await lab.zones_run_by(ALL)
        log = lab.log((await lab.view()).leader)
        assert log.rindex("causes=['migration']") > log.rindex("causes=['failover']")


async def test_three_kills_within_two_seconds_leave_one_shard_that_runs_everything(lab: Lab) -> None:
    extra = await lab.cluster.add_shard()
    await lab.zones_run_by(ALL | {extra})
    async with lab.crowd(8, "three", longest_gap_s=8.0) as crowd:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for victim in sorted(ALL):
            await lab.cluster.kill(victim)
            await asyncio.sleep(0.3)  # so that the next falls into this one's failover
        assert loop.time() - began < 2.0
        await lab.zones_run_by({extra})
        await crowd.plays_on()


async def test_a_shard_that_hangs_comes_back_without_a_stale_frame_and_joins_anew(lab: Lab) -> None:
    async with lab.crowd(12, "zombie", longest_gap_s=6.0) as crowd:
        for victim in ("shard-1", "shard-3"):
            number = (await lab.view()).members[victim].number
            lab.cluster.send_signal(victim, signal.SIGSTOP)
            await asyncio.sleep(3.0)  # it hangs for so long
            await lab.no_zone_on(victim)
            lab.cluster.send_signal(victim, signal.SIGCONT)
            await lab.until("it joined anew", lambda v, n=victim, old=number: n in v.members and v.members[n].number != old)
            await lab.zones_run_by(ALL)
            await crowd.plays_on()  # everybody's `faults` say that no frame went back in time


async def test_a_shard_that_joins_gets_its_share_by_live_migration(lab: Lab) -> None:
    losses = lab.losses()
    async with lab.crowd(12, "join", longest_gap_s=2.0):
        name = await lab.cluster.add_shard()
        view = await lab.zones_run_by(ALL | {name})
        assert all(route.epoch > 0 for route in view.zones.values())
    assert lab.losses() == losses


async def test_drained_by_a_signal_or_by_the_verb_a_shard_moves_its_zones_and_exits_with_zero(lab: Lab) -> None:
    losses = lab.losses()
    async with lab.crowd(12, "drain", longest_gap_s=2.0) as crowd:
        lab.cluster.send_signal("shard-1", signal.SIGTERM)
        assert await lab.cluster.ended_of("shard-1") == 0
        await lab.zones_run_by(ALL - {"shard-1"})
        await crowd.plays_on()
        verb = [sys.executable, "-m", "perdure", "drain", "shard-2"]
        done = await asyncio.to_thread(subprocess.run, verb, env=lab.cluster.environment(), capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.strip()) == (0, "shard-2: drain ordered"), done.stderr
        assert await lab.cluster.ended_of("shard-2") == 0
        await lab.zones_run_by({"shard-3"})
    assert lab.losses() == losses, "a shard that left in order was taken for lost"


async def test_a_standby_leads_when_the_leader_dies_and_fails_over_the_next_dead_shard(lab: Lab) -> None:
    leader = (await lab.view()).leader
    async with lab.crowd(8, "leader", longest_gap_s=6.0):
        await lab.cluster.kill(leader)
        await lab.cluster.kill("shard-3")
        view = await lab.until("the standby leads", lambda v: v.leader not in ("", leader), 5.0)
        await lab.zones_run_by(ALL - {"shard-3"})
        assert view.leader in lab.cluster.pids


async def test_a_leader_that_hangs_and_comes_back_does_no_harm(lab: Lab) -> None:
    view = await lab.view()
    leader, term = view.leader, view.term
    async with lab.crowd(8, "term", longest_gap_s=6.0) as crowd:
        lab.cluster.send_signal(leader, signal.SIGSTOP)
        await lab.until("the standby leads", lambda v: v.leader not in ("", leader) and v.term > term, 5.0)
        await lab.cluster.kill("shard-1")  # the old leader's view still holds it, and its zones as they were
        after = await lab.zones_run_by(ALL - {"shard-1"})
        lab.cluster.send_signal(leader, signal.SIGCONT)
        await lab.until("it has seen the new term", lambda _: "no longer leading" in lab.log(leader), 10.0)
        await crowd.plays_on()
        seen = await lab.view()
        assert (seen.term, seen.leader) == (after.term, after.leader)
        assert {z: (r.owner, r.epoch) for z, r in seen.zones.items()} == {z: (r.owner, r.epoch) for z, r in after.zones.items()}
