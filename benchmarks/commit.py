"""What a commit adds to a tick: latency and CPU, on a real server with `appendfsync always`, over its Unix socket.

Owns one server in a temporary folder. `run` answers figures in milliseconds and microseconds; `python -m benchmarks.commit`
prints them. Ticks come at the pace of a real shard where `tick_hz` is given, or back to back. The pipeline of redis-py is
measured beside ours with the very same bytes to the server, since it is what ours has to beat.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio

from perdure.ledger import keys
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.record import chain_digest
from perdure.ledger.redis_functions import LIBRARY_NAME
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import Commit, CommitStatus

RECORD_BYTES = 600
"""A zone of about 60 players at 10 commands a second: 30 rows of 16 bytes, and the header."""
PLAYERS_A_ZONE = 60
BAR_P50_MS, BAR_P99_MS = 1.5, 5.0


class Chains:
    """The chains of some zones; makes the commits of the next tick."""

    def __init__(self, zones: list[int]) -> None:
        self._heads: dict[int, tuple[int, str]] = dict.fromkeys(zones, (0, ""))
        self._record = bytes(range(256)) * (RECORD_BYTES // 256 + 1)

    def tick(self) -> list[Commit]:
        commits = []
        for zone, (tick, previous) in self._heads.items():
            record = self._record[:RECORD_BYTES]
            digest = chain_digest(previous, record)
            commits.append(Commit(zone, 1, 1, tick + 1, previous, digest, record))
            self._heads[zone] = (tick + 1, digest)
        return commits


async def server_cpu_s(client: redis.asyncio.Redis) -> float:
    """Return the seconds of processor time that the server's main thread has used."""
    info: Any = await client.info("cpu")
    # The main thread alone: the figure of the whole process counts background threads, which no tick waits for.
    return float(info.get("used_cpu_sys_main_thread", info["used_cpu_sys"])) + float(
        info.get("used_cpu_user_main_thread", info["used_cpu_user"])
    )


async def _series(
    commit: Callable[[list[Commit]], Awaitable[Any]], zones: Chains, ticks: int, client: redis.asyncio.Redis, tick_hz: int
) -> dict[str, float]:
    for _ in range(20):
        await commit(zones.tick())
    prepared = [zones.tick() for _ in range(ticks)]
    latencies: list[float] = []
    server, cpu = await server_cpu_s(client), 0.0
    due = time.perf_counter()
    for commits in prepared:
        if tick_hz:
            due += 1 / tick_hz
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
        began, began_cpu = time.perf_counter(), time.process_time()
        await commit(commits)
        latencies.append(time.perf_counter() - began)
        cpu += time.process_time() - began_cpu
    server = await server_cpu_s(client) - server
    calls = ticks * len(prepared[0])
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "p50_ms": round(cuts[49] * 1e3, 3),
        "p99_ms": round(cuts[98] * 1e3, 3),
        "client_us_a_zone": round(cpu / calls * 1e6, 1),
        "server_us_a_zone": round(server / calls * 1e6, 1),
    }


async def _measure(zones: int, ticks: int, rounds: int, tick_hz: int, folder: Path, binary: Path | None) -> dict[str, Any]:
    server = EmbeddedServer(folder, binary=binary)
    await asyncio.to_thread(server.start)
    ledger = await RedisLedger.connect(server.url, "bench", commit_deadline_s=10.0)
    client = redis.asyncio.Redis.from_url(server.url, socket_timeout=None, protocol=2)
    base = keys.base("bench")

    async def ours(commits: list[Commit]) -> None:
        answers = await ledger.commit(commits)
        assert all(answer.status is CommitStatus.OK for answer in answers)

    async def redis_py(commits: list[Commit]) -> None:
        pipeline = client.pipeline(transaction=False)
        for one in commits:
            fence = f"{one.generation} {one.epoch}"
            before, after = f"{fence} {one.tick - 1} {one.previous}", f"{fence} {one.tick} {one.digest}"
            pipeline.fcall(f"{LIBRARY_NAME}_commit", 1, base, str(one.zone), before, after, str(one.tick), one.digest, one.record)  # type: ignore[arg-type]
        answers = await pipeline.execute()
        assert all(answer[0] == b"OK" for answer in answers)

    results: dict[str, Any] = {}
    try:
        term = (await ledger.elect("bench")).term
        await ledger.open_world(term)
        next_zone = 0
        for name, commit in (("ours", ours), ("redis_py_pipeline", redis_py)):
            series = []
            for _ in range(rounds):
                fresh = list(range(next_zone, next_zone + zones))
                next_zone += zones
                for zone in fresh:
                    await ledger.assign(term, zone, "bench", 0)
                series.append(await _series(commit, Chains(fresh), ticks, client, tick_hz))
            # Medians of the rounds: a neighbour on the machine spoils a round, not the figure.
            results[name] = {figure: statistics.median(row[figure] for row in series) for figure in series[0]}
        began = time.perf_counter()
        for _ in range(50):
            await ledger.view()
        results["view_ms"] = round((time.perf_counter() - began) / 50 * 1e3, 3)
        results["view_zones"] = next_zone
        results["appendfsync"] = (await client.config_get("appendfsync"))["appendfsync"]
    finally:
        await ledger.close()
        await client.aclose()
        await asyncio.to_thread(server.stop)
    return results


def run(rounds: int = 5, zones: int = 16, ticks: int = 100, tick_hz: int = 20, binary: Path | None = None) -> dict[str, Any]:
    """Return the figures of `rounds` rounds of `ticks` ticks of `zones` zones: our commit, redis-py's pipeline, the view.

    `tick_hz` 0: back to back, which is what a server sustains. The bars are for our commit at the pace of a shard.
    """
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        measured = asyncio.run(_measure(zones, ticks, rounds, tick_hz, Path(folder) / "data", binary))
    settings = {"zones": zones, "ticks": ticks, "rounds": rounds, "tick_hz": tick_hz, "record_bytes": RECORD_BYTES}
    ours = measured["ours"]
    always = measured["appendfsync"] == "always"  # with less a commit is faster, and may be lost
    passed = ours["p50_ms"] <= BAR_P50_MS and ours["p99_ms"] <= BAR_P99_MS and always
    return {**settings, **measured, "bar_p50_ms": BAR_P50_MS, "bar_p99_ms": BAR_P99_MS, "passed": passed}


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
