"""Memory: what a connected player costs a gateway, what entities cost a shard, and whether anything grows while nothing changes.

Of each process, before players come, when all play, and from then on at intervals: what is resident (Rss in /proc/PID/smaps_rollup, pages
of files and of its siblings included), which is judged for each player, and beside it what it has to itself and has written
(Private_Dirty); the ledger's own count of its memory. Growth is the slope of a straight line through the samples of the later part of the
time, as a part of what there is, for an hour: of what a process has to itself, since pages of files come and go with what else the
machine does. Meanwhile everybody must be shown, send and have acknowledged what there should be: in each of many windows of time, but
for a few of an hour's, in which a disk may stand still; and on the whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks._crowded import COMMANDS_HZ, HZ, MEADOW, amiss, rates, reach_of
from benchmarks._playing import audit_findings, console
from benchmarks._swarm import Measured, Swarm
from benchmarks.endtoend import in_square
from perdure.cli.local_cluster import LocalCluster

BAR_PLAYER_KIB = 20.0
BAR_GROWTH_AN_HOUR = 0.05
"""Allocators and histograms take their time to settle: a leak of a player's pace is far above it, see docs/PERFORMANCE.md."""
GROWTH_MINUTES = 30.0
"""In less time a slope says nothing: tables and allocators fill, and checkpoints come and go."""
ENTER_DEADLINE_S, SETTLE_S = 120.0, 10.0
SAMPLE_S = 20.0
"""What players see in between is judged: in a shorter time, one flush of the disk that takes half a second would be amiss."""
LOOK_EVERY_S = 0.25
"""At the ledger's memory."""
WINDOWS_TO_ONE_AMISS, WHOLE_SHARE = 60, 0.99
"""One window of so many may be amiss, as long as players were shown, sent and had acknowledged so much of what they should on the whole.
In a short run none may be, and one stalled second is no part of the whole to judge by."""


@dataclass(frozen=True, slots=True)
class Kib:
    """What a process has in memory: resident, and of that, its own and written."""

    rss: int
    private: int


def run(players: int = 1000, minutes: float = 60.0) -> dict[str, Any]:
    """Measure with so many players, for so many minutes once all have come."""
    import uvloop

    return uvloop.run(_run(players, minutes))


async def _run(players: int, minutes: float) -> dict[str, Any]:
    import redis.asyncio

    cluster = LocalCluster(shards=1, gateways=1, coordinators=1, zones="2x2", game=MEADOW)
    swarm: Swarm | None = None
    at_s: list[float] = []
    ledger_kib: list[float] = []
    samples: list[dict[str, Kib]] = []
    wrong: list[str] = []
    seen: list[Measured] = []
    windows_amiss, swings = 0, list[float]()
    try:
        with console.status("a cluster"):
            await cluster.start()
        assert cluster.folder is not None
        client = redis.asyncio.Redis.from_url(cluster.redis_url, protocol=2)
        pids = {"gateway": cluster.pids["gateway-1"], "shard": cluster.pids["shard-1"], "coordinator": cluster.pids["coordinator-1"]}
        empty = {role: memory_of(pid) for role, pid in pids.items()}
        choices = [(heading, reach_of(players, in_square(players))) for heading in range(8)]
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
                window, looks = await ledger_meanwhile(client, swarm.measure(SAMPLE_S))
                seen.append(window)
                found = amiss(seen[-1], players)
                windows_amiss += bool(found)
                for what in found:
                    console.print(f"after {past_s / 60:.1f} minutes: {what}", highlight=False)
                    wrong.append(what)
            at_s.append(past_s)
            ledger_kib.append(fmean(looks))
            swings.append((max(looks) - min(looks)) / fmean(looks))
            samples.append({role: memory_of(pid) for role, pid in pids.items()})
        zones = len((await cluster.ledger.view()).zones)
        await client.aclose()
        await swarm.kill()
        findings = await audit_findings(cluster, MEADOW)
    finally:
        if swarm is not None:
            await swarm.kill()
        await cluster.stop()
    growth = {role: growth_an_hour(at_s, [one[role].private for one in samples]) for role in pids}
    growth["ledger"] = growth_an_hour(at_s, ledger_kib)
    judged = minutes >= GROWTH_MINUTES
    whole = whole_share(seen, players)
    played = windows_amiss <= len(seen) // WINDOWS_TO_ONE_AMISS and (whole >= WHOLE_SHARE or not judged)
    player_kib, player_private_kib = cost(empty["gateway"], samples[0]["gateway"], players)
    shard_kib, shard_private_kib = cost(empty["shard"], samples[0]["shard"], players)
    return {
        "gateway_kib_a_player": round(player_kib, 1), "bar_kib_a_player": BAR_PLAYER_KIB,
        "gateway_private_kib_a_player": round(player_private_kib, 1),
        "shard_kib_a_thousand_players": round(1000 * shard_kib), "shard_private_kib_a_thousand_players": round(1000 * shard_private_kib),
        "ledger_kib_a_zone": round(fmean(ledger_kib) / zones),
        **{f"{role}_growth_an_hour": round(value, 4) for role, value in growth.items()}, "bar_growth_an_hour": BAR_GROWTH_AN_HOUR,
        **{f"{role}_mib": round(one.rss / 1024, 1) for role, one in samples[-1].items()},
        **{f"{role}_private_mib": round(one.private / 1024, 1) for role, one in samples[-1].items()},
        "ledger_swing": round(max(swings), 3), "ledger_mib": round(ledger_kib[-1] / 1024, 1),
        "players": players, "minutes": minutes, "samples": len(samples), "growth_judged": judged, "amiss": wrong,
        "windows_amiss": windows_amiss, "windows_amiss_at_most": len(seen) // WINDOWS_TO_ONE_AMISS, "whole_share": round(whole, 4),
        "audit_findings": findings, "passed": player_kib <= BAR_PLAYER_KIB and played and findings == 0
        and (not judged or all(value <= BAR_GROWTH_AN_HOUR for value in growth.values())),
    }  # fmt: skip


async def ledger_meanwhile(client: Any, measuring: Coroutine[Any, Any, Measured]) -> tuple[Measured, list[float]]:
    """Return what is measured, and the ledger's memory meanwhile, in KiB, at each look.

    Logs grow from one checkpoint to the next, and are cut then. Single looks, a multiple of that time apart or nearly, come each a little
    later in it than the one before, which looks like growth.
    """
    task, looks = asyncio.get_running_loop().create_task(measuring), list[float]()
    done: set[Any] = set()
    while not done:
        looks.append((await client.info("memory"))["used_memory"] / 1024)
        done, _ = await asyncio.wait([task], timeout=LOOK_EVERY_S)
    return task.result(), looks


def whole_share(seen: list[Measured], players: int) -> float:
    """Return how much of what there should be players were shown, sent and had acknowledged over all windows: the least of the three."""
    each = [rates(one, players) for one in seen]
    should = {"snapshots_a_second_each": HZ, "commands_a_second_each": COMMANDS_HZ, "acknowledged_a_second_each": COMMANDS_HZ}
    return min(fmean(one[name] for one in each) / hz for name, hz in should.items())


def cost(empty: Kib, full: Kib, players: int) -> tuple[float, float]:
    """Return the KiB that each of so many players has added: of what is resident, and of what the process has to itself."""
    return (full.rss - empty.rss) / players, (full.private - empty.private) / players


def memory_of(pid: int) -> Kib:
    """Return what a process has in memory now."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return Kib(*(int(told[name].split()[0]) for name in ("Rss", "Private_Dirty")))


def growth_an_hour(at_s: list[float], values: list[float]) -> float:
    """Return the slope of the later three quarters, an hour of it, as a part of their mean; 0.0 where there are too few to tell."""
    begin = len(values) // 4
    times, kept = np.array(at_s[begin:]), np.array(values[begin:])
    if len(kept) < 4 or times[-1] <= times[0]:
        return 0.0
    return float(np.polyfit(times, kept, 1)[0] * 3600.0 / kept.mean())
