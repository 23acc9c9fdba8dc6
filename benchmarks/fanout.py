"""Fan-out: what a gateway's process spends on a snapshot that it delivers, against writing the same number of bytes to as many sockets.

A real cluster of one zone, one shard and one gateway; its players send nothing, and move all the same, so that their frames, some 400
bytes each, are all different. What was delivered is what the players counted; the gateway's own count must agree. The floor is a process
that does nothing but uvloop's `transport.write` (benchmarks/_raw_floor.py), at the same rate, with frames of the size that was measured.
It runs between two halves of the rounds, each with a cluster of its own, so that a machine that grows slower or faster meanwhile counts for
both. Processor time of the whole process, kernel included, from /proc. Everybody must be shown 20
snapshots a second, of about that size.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._crowded import HZ, amiss, cpu_ns
from benchmarks._playing import audit_findings, console
from benchmarks._swarm import Swarm
from benchmarks._tick_parts import free_port, read_metrics
from perdure.cli.children import die_with_parent
from perdure.cli.local_cluster import Launch, LocalCluster

FIELD = Path(__file__).with_name("_field.py")
INTEREST = 210
"""With 500 players in the field each sees some fifty: a snapshot of about 400 bytes."""
BYTES = 350, 450
"""Outside of these it is another bench: what a send costs hangs on its size."""
COUNT_TICKS = 3
"""By so many ticks' frames the two counts may differ: they do not begin and end in the same moment."""
BAR = 1.3
ENTER_DEADLINE_S, FLOOR_DEADLINE_S = 90.0, 60.0


def run(sockets: int = 500, rounds: int = 5, seconds: float = 4.0) -> dict[str, Any]:
    """Measure `rounds` times `seconds` each (one more where that is odd); medians. The floor is measured in the middle, `rounds` times."""
    import uvloop

    return uvloop.run(_run(sockets, rounds, seconds))


async def _run(sockets: int, rounds: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="perdure-field-") as folder:
        field, half = _field(Path(folder)), (rounds + 1) // 2
        found, findings = await _delivered(field, sockets, half, seconds)
        size = round(median(one.bytes for one in found))
        with console.status("the floor"):
            floor_ns = await asyncio.to_thread(_floor, sockets, size, rounds, seconds)
        later, found_later = await _delivered(field, sockets, half, seconds)
    found, findings = found + later, findings + found_later
    gateway_ns, frame = median(one.ns for one in found), median(one.bytes for one in found)
    wrong = [what for one in found for what in one.amiss]
    if not BYTES[0] <= frame <= BYTES[1]:
        wrong.append(f"snapshots have {frame:.0f} bytes, not {BYTES[0]} to {BYTES[1]}")
    for what in wrong:
        console.print(what, highlight=False)
    ratio = gateway_ns / median(floor_ns)
    return {
        "ratio": round(ratio, 2), "bar": BAR, "gateway_us": round(gateway_ns / 1e3, 2), "floor_us": round(median(floor_ns) / 1e3, 2),
        "bytes": round(frame, 1), "snapshots_a_second_each": round(median(one.hz for one in found), 2),
        "snapshots": sum(one.snapshots for one in found), "gateway_counted": sum(one.counted for one in found),
        "sockets": sockets, "rounds": len(found), "amiss": wrong, "audit_findings": findings,
        "passed": ratio <= BAR and not wrong and findings == 0,
    }  # fmt: skip


def _field(folder: Path) -> str:
    """Write the field on which each sees so many as this bench wants; return the file."""
    text = FIELD.read_text()
    wider = text.replace("INTEREST = 160\n", f"INTEREST = {INTEREST}\n")
    assert wider != text, "the field has the constant that is to be another one"
    (folder / "field.py").write_text(wider)
    return str(folder / "field.py")


@dataclass(frozen=True, slots=True)
class _Round:
    """Of one round: the gateway's nanoseconds for each snapshot, its bytes, snapshots a second of each socket, snapshots that came,
    those that the gateway counted (from a moment before to a moment after), and what was not as it should be."""

    ns: float
    bytes: float
    hz: float
    snapshots: int
    counted: int
    amiss: list[str]


async def _delivered(field: str, sockets: int, rounds: int, seconds: float) -> tuple[list[_Round], int]:
    """Return the rounds of one cluster, and how much was wrong in it in the end, by `perdure audit`."""
    port = free_port()
    cluster = LocalCluster(shards=1, gateways=1, coordinators=1, zones="1x1", game=field,
                           launches={"gateway-1": Launch(settings={"health_port": str(port)})})  # fmt: skip
    swarm: Swarm | None = None
    try:
        with console.status("a cluster"):
            await cluster.start()
        assert cluster.folder is not None
        swarm = Swarm(cluster.folder, list(cluster.gateway_urls.values()), cluster.secret, sockets, prefix="idle")
        with console.status(f"{sockets} players come"):
            entered = await swarm.start(ENTER_DEADLINE_S)
        if entered["in"] != sockets:
            raise RuntimeError(f"{entered['in']} of {sockets} players came in")
        found = []
        for number in range(rounds + 1):
            with console.status(f"round {number} of {rounds}"):
                found.append(await _round(cluster.pids["gateway-1"], port, swarm, sockets, seconds))
        await swarm.kill()
        return found[1:], await audit_findings(cluster, field)
    finally:
        if swarm is not None:
            await swarm.kill()
        await cluster.stop()


async def _round(pid: int, port: int, swarm: Swarm, sockets: int, seconds: float) -> _Round:
    before = await _frames_out(port)  # what telling it takes the gateway is no part of what is measured
    ns = cpu_ns(pid)
    seen = await swarm.measure(seconds)
    ns = cpu_ns(pid) - ns
    counted = await _frames_out(port) - before
    if seen.playing != sockets or seen.faults:
        raise RuntimeError(f"{seen.playing} of {sockets} players were there, with {seen.faults} faults in what they decoded")
    if not abs(counted - seen.snapshots) <= COUNT_TICKS * sockets:
        raise RuntimeError(f"{seen.snapshots} snapshots came, and the gateway counted {counted}")
    wrong = amiss(seen, sockets, commands_hz=0)
    return _Round(ns / seen.snapshots, seen.bytes / seen.snapshots, seen.snapshots / seen.seconds / sockets, seen.snapshots, counted, wrong)


async def _frames_out(port: int) -> int:
    return round((await read_metrics(port))["perdure_gateway_frames_out_total"])


def _floor(sockets: int, size: int, rounds: int, seconds: float) -> list[float]:
    order = {"sockets": sockets, "bytes": size, "hz": HZ, "seconds": seconds, "rounds": rounds}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._raw_floor"], input=json.dumps(order) + "\n", capture_output=True, text=True, check=False,
        timeout=FLOOR_DEADLINE_S + seconds * (rounds + 1), preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the floor could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return list(json.loads(done.stdout))
