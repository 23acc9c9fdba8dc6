"""Chaos rows of the machine below: a full disk, wall clocks that are wrong, no memory left."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks import _disk, _shim
from benchmarks._chaos_row import row
from benchmarks._stage import Setup, Stage

CLOCKED = ("valkey", "nursery", "gateway-1", "gateway-2", "coordinator-1", "coordinator-2")
HOUR_S = 3600
STARVED = "shard-1"
REFUSED_BYTES = 1024


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


@row("shard-memory", "a shard is refused memory of 1 KB and more: it ends, or says so and goes on; its zones run; nothing lost",
     Setup(shimmed=(STARVED,)), missing=_shim.missing)  # fmt: skip
async def shard_memory(stage: Stage) -> None:
    shim = stage.shims[STARVED]
    # One that had no memory for its heartbeats, and went on, may have been put out the last time: it joins anew, and gets zones.
    await stage.until(f"{STARVED} runs zones", lambda v: STARVED in v.members and any(r.owner == STARVED for r in v.zones.values()))
    view, owner_of = await stage.owners()
    number = view.members[STARVED].number
    owned = {z for z, r in view.zones.items() if r.owner == STARVED}

    def told() -> bool:
        return STARVED not in stage.cluster.pids or _ended(stage, STARVED) or "MemoryError" in stage.log(STARVED)

    try:
        async with stage.blackout({player for player, owner in owner_of.items() if owner == STARVED}):
            shim.refuse_memory(REFUSED_BYTES)
            await stage.until_so(f"{STARVED} ends, or its log says MemoryError", told, 15.0)
            await stage.until(
                "its zones tick on, there or elsewhere",
                lambda v: all(r.owner in v.members and v.ticks[z] > view.ticks[z] + 20 for z, r in v.zones.items()),
            )
    finally:
        shim.refuse_memory(0)
    stage.figures["memory_errors"] = stage.log(STARVED).count("MemoryError")
    stage.figures["shard_ended"] = ended = _ended(stage, STARVED)
    stage.figures["zones_moved"] = sum(r.owner != STARVED for z, r in (await stage.view()).zones.items() if z in owned)
    if ended:
        await stage.cluster.ended_of(STARVED)
        await stage.cluster.start_shard(STARVED)
        await stage.back(STARVED, number)
    else:
        await stage.plays_on()


def _ended(stage: Stage, name: str) -> bool:
    """Whether a process is over, though nobody may have waited for it yet."""
    pid = stage.cluster.pids.get(name)
    if pid is None:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
