"""What one core of the ledger's server sustains: ticks of zones committed in a second, and how large a world that makes.

Some processes commit back to back, as shards that are always late would; the server, with `appendfsync always`, has a core to itself.
Counted is what was committed, and what the server's main thread ran for it: where that is far from the whole core, the server
waited for its disk, and `processor_alone_a_second` is what a faster disk would allow. docs/SCALING.md says what comes after one server.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._crowded import cores
from benchmarks._playing import console
from benchmarks.commit import PLAYERS_A_ZONE, RECORD_BYTES, server_cpu_s
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.redis_ledger import RedisLedger

TICK_HZ = 20
HEADROOM = 0.7
"""The part of the core that a world may plan with: what is left takes checkpoints, logins, views, and a failover's replay."""
DEADLINE_S = 60.0
TICKS = 2000
"""Packed beforehand by each writer: more than it can commit in a round."""


def run(rounds: int = 5, seconds: float = 4.0, writers: int = 4, zones: int = 16) -> dict[str, Any]:
    """Commit from `writers` processes with `zones` zones each; medians of `rounds` rounds of so many seconds."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        return asyncio.run(_run(Path(folder) / "data", rounds, seconds, writers, zones))


async def _run(folder: Path, rounds: int, seconds: float, writers: int, zones: int) -> dict[str, Any]:
    import redis.asyncio

    server_core, writer_core = cores()
    server = EmbeddedServer(folder, preexec=lambda: os.sched_setaffinity(0, {server_core}))
    await asyncio.to_thread(server.start)
    client = redis.asyncio.Redis.from_url(server.url, socket_timeout=None, protocol=2)
    found: list[tuple[float, float]] = []
    try:
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                found.append(await _round(server.url, f"round-{number}", client, seconds, writers, zones, writer_core))
    finally:
        await client.aclose()
        await asyncio.to_thread(server.stop)
    seen, used = median(one[0] for one in found), median(one[1] for one in found)
    world = int(seen * HEADROOM / TICK_HZ)
    return {
        "commits_a_second": round(seen), "server_core_used": round(used, 2), "us_a_commit": round(used / seen * 1e6, 1),
        "processor_alone_a_second": round(seen / used), "zones_at_20_hz": world, "players": world * PLAYERS_A_ZONE,
        "players_a_zone": PLAYERS_A_ZONE, "record_bytes": RECORD_BYTES, "headroom": HEADROOM, "writers": writers,
        "zones_a_writer": zones, "rounds": rounds,
    }  # fmt: skip


async def _round(url: str, world: str, client: Any, seconds: float, writers: int, zones: int, core: int) -> tuple[float, float]:
    """Return commits a second, and the part of its core that the server used meanwhile."""
    ledger = await RedisLedger.connect(url, world)
    term = (await ledger.elect("bench")).term
    await ledger.open_world(term)
    await ledger.close()
    started: list[asyncio.subprocess.Process] = []
    try:
        for number in range(writers):
            order = {"url": url, "world": world, "term": term, "zones": list(range(number * zones, (number + 1) * zones)),
                     "ticks": TICKS, "seconds": seconds, "core": core}  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks._committer", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            started.append(process)
            _tell(process, json.dumps(order))
        async with asyncio.timeout(DEADLINE_S + seconds):
            for process in started:
                await _line(process)
            before = await server_cpu_s(client)
            for process in started:
                _tell(process, "go")
            told = [json.loads(await _line(process)) for process in started]
            used_s = await server_cpu_s(client) - before
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
    took_s = max(one["seconds"] for one in told)
    return sum(one["commits"] for one in told) / took_s, used_s / took_s


def _tell(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a writer ended before it was done; what it said stands above")
    return line.decode().strip()
