"""Memory: what a connected player costs a gateway, what entities cost a shard, and whether anything grows while nothing changes.

Of each process, what it has to itself and has written (Private_Dirty in /proc: less than what is resident, which counts pages of files and
of its siblings), before players come, when all play, and from then on at intervals; the ledger's own count of its memory beside it.
Growth is the slope of a straight line through the samples of the later part of the time, as a part of what there is, for an hour.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks._crowded import COMMANDS_HZ, INTEREST, MEADOW, reach_of
from benchmarks._playing import audit_findings, console
from benchmarks._swarm import Swarm
from perdure.cli.local_cluster import LocalCluster

BAR_PLAYER_KIB = 20.0
BAR_GROWTH_AN_HOUR = 0.05
"""Allocators and histograms take their time to settle: a leak of a player's pace is far above it, see docs/PERFORMANCE.md."""
GROWTH_MINUTES = 30.0
"""In less time a slope says nothing: tables and allocators fill, and checkpoints come and go."""
SIDE = 1000
ENTER_DEADLINE_S, SAMPLE_S, SETTLE_S = 120.0, 2.0, 10.0


def run(players: int = 1000, minutes: float = 60.0) -> dict[str, Any]:
    """Measure with so many players, for so many minutes once all have come."""
    import uvloop

    return uvloop.run(_run(players, minutes))


async def _run(players: int, minutes: float) -> dict[str, Any]:
    import redis.asyncio

    cluster = LocalCluster(shards=1, gateways=1, coordinators=1, zones="2x2", game=MEADOW)
    swarm: Swarm | None = None
    samples: list[dict[str, float]] = []
    missing = 0
    try:
        with console.status("a cluster"):
            await cluster.start()
        assert cluster.folder is not None
        client = redis.asyncio.Redis.from_url(cluster.redis_url, protocol=2)
        pids = {"gateway": cluster.pids["gateway-1"], "shard": cluster.pids["shard-1"], "coordinator": cluster.pids["coordinator-1"]}
        empty = {role: resident_kib(pid) for role, pid in pids.items()}
        reach = reach_of(players, players * math.pi * INTEREST**2 / SIDE**2)
        choices = [(heading, reach) for heading in range(8)]
        swarm = Swarm(cluster.folder, list(cluster.gateway_urls.values()), cluster.secret, players, choices=choices)
        with console.status(f"{players} players come"):
            entered = await swarm.start(ENTER_DEADLINE_S)
        if entered["in"] != players:
            raise RuntimeError(f"of {players} players: {entered}")
        await swarm.steer(COMMANDS_HZ)
        await swarm.measure(SETTLE_S)
        began_s = time.monotonic()
        while (past_s := time.monotonic() - began_s) < minutes * 60.0:
            with console.status(f"{past_s / 60:.1f} of {minutes:.1f} minutes"):
                missing = max(missing, players - (await swarm.measure(SAMPLE_S)).playing)
            told: Any = await client.info("memory")
            seen = {role: resident_kib(pid) for role, pid in pids.items()}
            samples.append({"at_s": past_s, "ledger": told["used_memory"] / 1024, **seen})
        zones = len((await cluster.ledger.view()).zones)
        await client.aclose()
        await swarm.kill()
        findings = await audit_findings(cluster, MEADOW)
    finally:
        if swarm is not None:
            await swarm.kill()
        await cluster.stop()
    first = samples[0]
    growth = {role: growth_an_hour([one["at_s"] for one in samples], [one[role] for one in samples]) for role in (*pids, "ledger")}
    judged = minutes >= GROWTH_MINUTES
    player_kib = (first["gateway"] - empty["gateway"]) / players
    return {
        "gateway_kib_a_player": round(player_kib, 1), "bar_kib_a_player": BAR_PLAYER_KIB,
        "shard_kib_a_thousand_players": round((first["shard"] - empty["shard"]) / players * 1000),
        "ledger_kib_a_zone": round(fmean(one["ledger"] for one in samples) / zones),
        **{f"{role}_growth_an_hour": round(value, 4) for role, value in growth.items()}, "bar_growth_an_hour": BAR_GROWTH_AN_HOUR,
        **{f"{role}_mib": round(samples[-1][role] / 1024, 1) for role in growth},
        "players": players, "minutes": minutes, "samples": len(samples), "growth_judged": judged, "players_missing": missing,
        "audit_findings": findings, "passed": player_kib <= BAR_PLAYER_KIB and missing == 0 and findings == 0
        and (not judged or all(value <= BAR_GROWTH_AN_HOUR for value in growth.values())),
    }  # fmt: skip


def resident_kib(pid: int) -> int:
    """Return the KiB that a process has to itself: pages that it shares with others of its image do not count."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/smaps_rollup does not say Private_Dirty")


def growth_an_hour(at_s: list[float], values: list[float]) -> float:
    """Return the slope of the later three quarters, an hour of it, as a part of their mean; 0.0 where there are too few to tell."""
    begin = len(values) // 4
    times, kept = np.array(at_s[begin:]), np.array(values[begin:])
    if len(kept) < 4 or times[-1] <= times[0]:
        return 0.0
    return float(np.polyfit(times, kept, 1)[0] * 3600.0 / kept.mean())
