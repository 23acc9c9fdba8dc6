"""A gateway that gets two thirds of the processor time that it needs: what its players notice, and how soon all is well again.

A crowd as in `endtoend`, with the gateway alone on one core and all else on the other. Busy loops share that core with it until it has two
thirds of what it took when it was calm. It must be sent fewer snapshots instead of showing an ever older world: commands must go on being
acknowledged, snapshots come in time, nobody may be lost; and when the loops end, everybody is shown twenty a second again. Called by
`overload`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import Process
from statistics import median
from typing import Any

from benchmarks._crowded import COMMANDS_HZ, HZ, RATE_SHARE, Crowded, cores, crowded, reach_of
from benchmarks._playing import console
from benchmarks._tick_parts import read_metrics
from benchmarks.endtoend import in_square

NEEDS = 1.5
"""Times what it gets."""
WINDOW_S = 4.0
SETTLES_S = 16.0
"""So long the ladder may take to its rung, and the gateway for what has piled up."""
BAR_P99_MS, BAR_ACKNOWLEDGED = 500.0, 0.9
"""Of the times between two snapshots; of the commands that players would send in that time."""
BAR_RECOVERY_S = 20.0


async def starved_gateway(players: int, rounds: int) -> dict[str, Any]:
    """Return what became of a crowd of so many, in `rounds` windows; {} where the machine has one core."""
    gateways, others = cores()
    if gateways == others:
        return {"gateway_starved": "not measured: it takes two cores"}
    async with crowded(players, reach_of(players, in_square(players))) as world:
        _move(world, gateways, others)
        _, calm = await world.measure(WINDOW_S)
        # Loops get as much as the gateway does, each: with so many of them it has so much of the core.
        loops = [await _loop(gateways) for _ in range(max(1, round(NEEDS / calm["gateway"]) - 1))]
        try:
            with console.status("a gateway has two thirds of what it needs"):
                await asyncio.sleep(SETTLES_S)
                seen = [await world.measure(WINDOW_S) for _ in range(rounds)]
                rung, behind = await _rung(world), (await read_metrics(world.health_port))["perdure_gateways_behind"]
        finally:
            for loop in loops:
                loop.kill()
                await loop.wait()
        ended_s = time.monotonic()
        with console.status("and all of it again"):
            recovered = False
            while not recovered and time.monotonic() - ended_s < BAR_RECOVERY_S:
                after, _ = await world.measure(1.0)
                full = after.snapshots >= RATE_SHARE * HZ * after.seconds * players
                recovered = full and await _rung(world) == 0
        recovery_s = time.monotonic() - ended_s
    p99_ms = median(one.interval_ms_p99 for one, _ in seen)
    acknowledged = median(one.acknowledged / one.seconds for one, _ in seen) / players / COMMANDS_HZ
    kept = min(one.playing for one, _ in seen)
    return {
        "gateway_cores_calm": round(calm["gateway"], 3), "gateway_cores_starved": round(median(cpu["gateway"] for _, cpu in seen), 3),
        "gateway_interval_ms_p99": round(p99_ms, 1), "bar_gateway_interval_ms_p99": BAR_P99_MS,
        "gateway_snapshots_hz": round(median(one.snapshots / one.seconds for one, _ in seen) / players, 2),
        "gateway_acknowledged_share": round(acknowledged, 3), "bar_gateway_acknowledged_share": BAR_ACKNOWLEDGED,
        "gateway_rung": rung, "gateway_told_behind": behind == 1, "gateway_players_kept": kept,
        "gateway_recovery_s": round(recovery_s, 1), "gateway_players": players, "gateway_audit_findings": world.audit_findings,
        "gateway_as_it_should": p99_ms <= BAR_P99_MS and acknowledged >= BAR_ACKNOWLEDGED and rung >= 2 and kept == players
        and recovered and world.audit_findings == 0,
    }  # fmt: skip


async def _rung(world: Crowded) -> int:
    """Return how far up the ladder the zone is."""
    metrics = await read_metrics(world.health_port)
    return round(max(value for name, value in metrics.items() if name.startswith("perdure_zone_rung")))


def _move(world: Crowded, gateways: int, others: int) -> None:
    """Leave one core to the gateway."""
    pids = {**world.cluster.pids, "valkey": world.cluster.server.pid or 0}
    for name, pid in pids.items():
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {gateways if name.startswith("gateway") else others})


async def _loop(core: int) -> Process:
    """Start a process that does nothing, as fast as it can, until it is killed, or its standard input ends with this process."""
    code = f"import os, threading, sys; os.sched_setaffinity(0, {{{core}}})\n"
    code += "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\nwhile True: pass"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
