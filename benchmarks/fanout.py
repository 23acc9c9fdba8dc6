"""Fan-out: what a gateway's process spends on a snapshot that it delivers, against writing the same number of bytes to as many sockets.

A real cluster of one zone, one shard and one gateway; its players send nothing, and move all the same. The floor is a process that
does nothing but uvloop's `transport.write` (benchmarks/_raw_floor.py), at the same rate, with frames of the size that was measured.
Processor time of the whole process, kernel included, from /proc.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._light_clients import Herd
from benchmarks._playing import console
from perdure.cli.children import die_with_parent
from perdure.cli.local_cluster import LocalCluster

FIELD = str(Path(__file__).with_name("_field.py"))
HZ = 20
BAR = 1.3
ENTER_DEADLINE_S, FLOOR_DEADLINE_S = 90.0, 60.0


def run(sockets: int = 500, rounds: int = 5, seconds: float = 4.0) -> dict[str, Any]:
    """Measure `rounds` times `seconds` each; medians. The floor is measured after it, in as many rounds."""
    import uvloop

    return uvloop.run(_run(sockets, rounds, seconds))


async def _run(sockets: int, rounds: int, seconds: float) -> dict[str, Any]:
    cluster = LocalCluster(shards=1, gateways=1, coordinators=1, zones="1x1", game=FIELD)
    with console.status("a cluster"):
        await cluster.start()
    assert cluster.folder is not None
    herd = Herd(cluster.folder, list(cluster.gateway_urls.values()), cluster.secret, sockets, prefix="idle")
    try:
        with console.status(f"{sockets} players come"):
            entered = await herd.start(ENTER_DEADLINE_S)
        if entered["in"] != sockets:
            raise RuntimeError(f"{entered['in']} of {sockets} players came in")
        each_ns, sizes, rates = [], [], []
        for number in range(rounds + 1):
            with console.status(f"round {number} of {rounds}"):
                ns, size, hz = await _round(cluster, herd, sockets, seconds)
            if number:
                each_ns.append(ns)
                sizes.append(size)
                rates.append(hz)
    finally:
        await herd.kill()
        await cluster.stop()
    with console.status("the floor"):
        floor_ns = await asyncio.to_thread(_floor, sockets, round(median(sizes)), rounds, seconds)
    ratio = median(each_ns) / median(floor_ns)
    return {
        "ratio": round(ratio, 2), "bar": BAR, "gateway_us": round(median(each_ns) / 1e3, 2), "floor_us": round(median(floor_ns) / 1e3, 2),
        "bytes": round(median(sizes), 1), "snapshots_a_second_each": round(median(rates), 2), "sockets": sockets, "rounds": rounds,
        "passed": ratio <= BAR,
    }  # fmt: skip


async def _round(cluster: LocalCluster, herd: Herd, sockets: int, seconds: float) -> tuple[float, float, float]:
    """Return the gateway's nanoseconds for each snapshot, its bytes, and snapshots a second of each socket."""
    pid = cluster.pids["gateway-1"]
    loop = asyncio.get_running_loop()
    began, ticks, ns, taken = loop.time(), await _tick(cluster), _cpu_ns(pid), (await herd.ask("count", 10.0))["bytes"]
    await asyncio.sleep(seconds)
    took, ticks, ns = loop.time() - began, await _tick(cluster) - ticks, _cpu_ns(pid) - ns
    taken = (await herd.ask("count", 10.0))["bytes"] - taken
    return ns / (ticks * sockets), taken / (ticks * sockets), ticks / took


async def _tick(cluster: LocalCluster) -> int:
    return (await cluster.ledger.view()).ticks[0]


def _cpu_ns(pid: int) -> int:
    """Return the nanoseconds that a process has run, all its threads together."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def _floor(sockets: int, size: int, rounds: int, seconds: float) -> list[float]:
    order = {"sockets": sockets, "bytes": size, "hz": HZ, "seconds": seconds, "rounds": rounds}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._raw_floor"], input=json.dumps(order) + "\n", capture_output=True, text=True, check=False,
        timeout=FLOOR_DEADLINE_S + seconds * (rounds + 1), preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the floor could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return list(json.loads(done.stdout))
