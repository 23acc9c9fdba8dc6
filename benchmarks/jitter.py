"""Evenness: how regularly snapshots come, and how much longer the longest tick takes than the mean one, over ten minutes.

1,000 players as in `endtoend`, all servers on one core. Intervals are those at which clients read snapshots, in windows of so many
seconds, and the figures medians of the windows' percentiles, beside the worst window's p99; a shard tells its last ticks in its
heartbeats, and how long those are without the wait for their commits (`own_ratio`: what the shard itself is to blame for). A pause of
the collector, a checkpoint that blocks the loop, a cache that grows: each shows here and nowhere else. What held
the ledger's server up for 10 ms or more is what its latency monitor says, and `server_rewrites` how often it wrote its file anew. In
each window everybody must be shown, send and have acknowledged what there should be, with as many others in sight.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import time
from statistics import fmean, median
from typing import Any

import redis.asyncio

from benchmarks._crowded import Crowded, amiss, crowded, reach_of
from benchmarks._playing import console
from benchmarks.endtoend import in_square
from perdure.ledger.ledger import LedgerUnavailable

BAR_P99_MS, BAR_TICK_RATIO = 60.0, 5.0
WINDOW_S = 20.0
LOOK_S = 1.0
FLUSH_EVERY_S = 0.1
SLOW_MS = 10
"""Of what holds the ledger's server up for longer, it keeps a record (its latency monitor)."""


def run(players: int = 1000, minutes: float = 10.0) -> dict[str, Any]:
    """Play for so many minutes; percentiles are medians over windows of 20 s, the worst tick is that of the whole time."""
    import uvloop

    return uvloop.run(_run(players, minutes))


async def _run(players: int, minutes: float) -> dict[str, Any]:
    windows = max(1, math.ceil(minutes * 60.0 / WINDOW_S))
    found: list[dict[str, float]] = []
    wrong: list[str] = []
    told: dict[str, list[dict[str, float]]] = {name: [] for name in ("tick_ms", "commit_ms", "own_ms")}
    flushes: list[float] = []
    visible = in_square(players)
    async with crowded(players, reach_of(players, visible)) as world:
        server = redis.asyncio.Redis.from_url(world.cluster.redis_url, socket_timeout=None, protocol=2)
        await server.config_set("latency-monitor-threshold", SLOW_MS)
        looking = asyncio.ensure_future(_look(world, told))
        flushing = asyncio.ensure_future(_flush(flushes))
        try:
            for number in range(windows):
                with console.status(f"{number * WINDOW_S / 60:.1f} of {windows * WINDOW_S / 60:.1f} minutes"):
                    seen, _ = await world.measure(WINDOW_S)
                found.append({"p50": seen.interval_ms_p50, "p99": seen.interval_ms_p99, "p999": seen.interval_ms_p999,
                              "max": seen.interval_ms_max})  # fmt: skip
                for what in amiss(seen, players, sees=visible):
                    console.print(what, highlight=False)
                    wrong.append(what)
            await asyncio.sleep(2 * LOOK_S)  # so that the shortest run has a look too
            held_up, rewrites = await _held_up(server)
        finally:
            await server.aclose()
            for task in (looking, flushing):
                task.cancel()
            await asyncio.gather(looking, flushing, return_exceptions=True)
    if not all(told.values()):
        raise RuntimeError("no shard told how long its ticks take: was it at work?")
    p99 = median(one["p99"] for one in found)
    mean_ms = {name: fmean(one["mean"] for one in row) for name, row in told.items()}
    longest_ms = {name: max(one["longest"] for one in row) for name, row in told.items()}
    ratio = {name: longest_ms[name] / mean_ms[name] for name in told}
    return {
        "interval_ms_p99": round(p99, 1), "bar_p99_ms": BAR_P99_MS, "interval_ms_p999": round(median(one["p999"] for one in found), 1),
        "interval_ms_p99_worst_window": round(max(one["p99"] for one in found), 1),
        "interval_ms_max": round(max(one["max"] for one in found), 1),
        "tick_ratio": round(ratio["tick_ms"], 2), "bar_tick_ratio": BAR_TICK_RATIO, "own_ratio": round(ratio["own_ms"], 2),
        **{f"{name}_mean": round(ms, 2) for name, ms in mean_ms.items()},
        **{f"{name}_longest": round(ms, 2) for name, ms in longest_ms.items()},
        "flush_ms_longest": round(1e3 * max(flushes), 2), "server_ms_longest": held_up, "server_rewrites": rewrites,
        "minutes": round(windows * WINDOW_S / 60, 1), "players": players, "amiss": wrong,
        "audit_findings": world.audit_findings,
        "windows": [{name: round(value, 1) for name, value in one.items()} for one in found],
        "passed": p99 <= BAR_P99_MS and ratio["tick_ms"] <= BAR_TICK_RATIO and not wrong and world.audit_findings == 0,
    }  # fmt: skip


async def _held_up(server: redis.asyncio.Redis) -> tuple[dict[str, int], int]:
    """Return what held the ledger's server up for SLOW_MS or more, with its longest time in ms; and how often it wrote its file anew."""
    told: list[list[Any]] = await server.execute_command("LATENCY LATEST")  # type: ignore[no-untyped-call]
    return {event[0].decode(): int(event[3]) for event in told}, int((await server.info("stats"))["total_forks"])


async def _look(world: Crowded, told: dict[str, list[dict[str, float]]]) -> None:
    """Read what shards say of their ticks (and which part is commits, which their own), once a second.

    The first looks are of the time in which players came.
    """
    await asyncio.sleep(WINDOW_S - LOOK_S)
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            members = (await world.cluster.ledger.view()).members
        except LedgerUnavailable:
            continue  # busy: there is another look in a second, and a tick's length is told for longer than that
        for member in members.values():
            for name, into in told.items():
                times = member.info.get(name)
                if isinstance(times, dict) and times:
                    into.append(times)


async def _flush(flushes: list[float]) -> None:
    """Add a little to a file on the disk on which the ledger is, again and again, and note how long that takes, in seconds.

    A tick waits for the ledger's flush of a file that has grown, too. Where this one takes as long, it was the disk that stood still.
    """
    with tempfile.TemporaryFile() as file:

        def flush() -> float:
            began = time.monotonic()
            os.write(file.fileno(), b"x" * 4096)
            os.fdatasync(file.fileno())
            return time.monotonic() - began

        while True:
            flushes.append(await asyncio.to_thread(flush))
            await asyncio.sleep(FLUSH_EVERY_S)
