"""Chaos rows of the machine below: a full disk, wall clocks that are wrong, no memory left."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from benchmarks import _disk, _shim
from benchmarks._chaos_row import row
from benchmarks._stage import Setup, Stage

CLOCKED = ("valkey", "nursery", "gateway-1", "gateway-2", "coordinator-1", "coordinator-2")
HOUR_S = 3600


@row("disk-full", "the ledger's disk is full: the world pauses; once there is room and Valkey runs again, it goes on, nothing lost",
     Setup(small_disk=True), missing=_disk.missing)  # fmt: skip
async def disk_full(stage: Stage) -> None:
    disk, server = stage.disk, stage.cluster.server
    assert disk is not None
    async with stage.blackout(deadline_s=60.0):
        disk.fill(200_000)
        await stage.until_so("Valkey ends, or refuses writes", lambda: server.pid is None or "MISCONF" in stage.logs("shard"), 30.0)
        stage.figures["valkey_ended"] = server.pid is None
        await asyncio.sleep(2.0)  # so long nobody is there to mend it
        disk.free()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)


@row("clocks", "wall clocks of every process an hour ahead or behind, and a shard dies meanwhile: nobody notices but that shard's players",
     Setup(shimmed=CLOCKED), missing=_shim.missing)  # fmt: skip
async def clocks(stage: Stage) -> None:
    before = await stage.settled()
    for sign in (1, -1):
        for k, name in enumerate(CLOCKED):
            stage.shims[name].clock(sign * HOUR_S * (1 if k % 2 else -1))
        async with stage.blackout(set()):
            await asyncio.sleep(2.0)  # so long they stay at it
    after = await stage.view()
    members = [{n: m.number for n, m in view.members.items()} for view in (before, after)]
    stage.expect(members[0] == members[1], "nobody is taken for lost", members)
    victim, players, number = await stage.victim()
    async with stage.blackout(players):
        await stage.cluster.kill(victim)
        await stage.off(victim)
    for shim in stage.shims.values():
        shim.clock(0)
    await stage.cluster.start_shard(victim)
    await stage.back(victim, number)


@row("leader-kill-clock-back", "the ledger's clock goes back an hour, and the leader dies: the standby leads within 10 s all the same",
     Setup(shimmed=("valkey",)), missing=_shim.missing, repeats=1)  # fmt: skip
async def leader_kill_clock_back(stage: Stage) -> None:
    leader = (await stage.view()).leader
    victim, players, _ = await stage.victim()
    async with stage.blackout(players):
        await stage.cluster.kill(leader)
        stage.shims["valkey"].clock(-HOUR_S)  # its lease, in the ledger, now ends in an hour
        await stage.until("the standby leads", lambda v: v.leader not in ("", leader), 10.0)
        await stage.cluster.kill(victim)
        await stage.off(victim)
    await stage.heal()


@row("shard-memory", "a shard gets no more memory (RLIMIT_AS at what it has): it goes on or dies, its zones run, nothing lost")
async def shard_memory(stage: Stage) -> None:
    victim, players, number = await stage.victim()
    pid = stage.cluster.pids[victim]
    async with stage.blackout(players):
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        limit = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (size - (1 << 20), limit[1]))
        await asyncio.sleep(8.0)  # a checkpoint of each zone comes into it
        await stage.until("every zone is run by somebody", lambda v: all(r.owner in v.members for r in v.zones.values()))
    stage.figures["shard_ended"] = victim not in stage.cluster.pids
    stage.figures["memory_errors"] = stage.log(victim).count("MemoryError")
    if victim in stage.cluster.pids:
        resource.prlimit(pid, resource.RLIMIT_AS, limit)
    else:
        await stage.cluster.start_shard(victim)
        await stage.back(victim, number)
