"""What processes count anyway (/metrics), and from it where the time of a shard's ticks goes.

The commit is on its way while the snapshots are encoded, so that its part is what is waited for after the encoding. Release is the rest
of a tick: batches for gateways and neighbours, and the loop around it. Called by _crowded and
fanout.
"""

from __future__ import annotations

import asyncio
import socket
import urllib.request

DEADLINE_S = 5.0
PARTS = ("tick", "step", "encode", "commit")


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def read_metrics(port: int) -> dict[str, float]:
    """Return what a process counts, by the name that /metrics has for it."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
            return answer.read().decode()

    lines = (line.rsplit(" ", 1) for line in (await asyncio.to_thread(read)).splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def read_parts(port: int) -> dict[str, float]:
    """Return the seconds that each part has taken so far, and the number of ticks."""
    found = await read_metrics(port)
    return {part: found[f"perdure_{part}_seconds_sum"] for part in PARTS} | {"ticks": found["perdure_tick_seconds_count"]}


def parts_ms(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return the milliseconds of a mean tick between two readings, by part; {} where there was none."""
    ticks = after["ticks"] - before["ticks"]
    if ticks <= 0:
        return {}
    tick, step, encode, commit = ((after[part] - before[part]) / ticks * 1e3 for part in PARTS)
    waited = max(commit - encode, 0.0)
    parts = {"step": step, "encode": encode, "commit": waited, "release": max(tick - step - encode - waited, 0.0)}
    return {name: round(value, 3) for name, value in parts.items()}
