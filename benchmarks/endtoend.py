"""End to end: the processor time of all server processes for one second of one player, against the kernel's floor for the same messages.

1,000 players, 20 snapshots and 10 commands a second each, 31 others in sight (radius 100 in a square of 1,000), all servers on one
core: gateway, shard, a coordinator and the one that stands by, the ledger's server. The floor is a loop of bare sends and receives with
as many bytes (benchmarks/_message_floor.py), at the rate that was seen. It runs between two halves of the rounds, each with a world of its
own, so that a machine that grows slower or faster meanwhile counts for both. A round counts only if so many snapshots were shown (to
everybody), commands sent and commands acknowledged, and so many others in sight.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks._crowded import COMMANDS_HZ, HZ, INTEREST, amiss, cores, crowded, rates, reach_of
from benchmarks._playing import console
from benchmarks._swarm import Measured
from perdure.cli.children import die_with_parent

BAR = 1.8
SIDE = 1000
COMMAND_BYTES = 18
"""A command's frame: 6 bytes of websocket, 12 of message."""


def run(players: int = 1000, rounds: int = 5, seconds: float = 6.0) -> dict[str, Any]:
    """Measure `rounds` times `seconds` each (one more where that is odd); medians. The floor is measured in the middle, `rounds` times."""
    import uvloop

    return uvloop.run(_run(players, rounds, seconds))


@dataclass(frozen=True, slots=True)
class _Round:
    seen: Measured
    cores: dict[str, float]
    """That each role took."""


async def _run(players: int, rounds: int, seconds: float) -> dict[str, Any]:
    half = (rounds + 1) // 2
    found, findings = await _world(players, half, seconds)
    size = median(one.seen.bytes / max(one.seen.snapshots, 1) for one in found)
    with console.status("the floor"):
        floor_us = median(_floor(players, round(size), rounds, seconds)) / 1e3
    later, found_later = await _world(players, half, seconds)
    found, findings = found + later, findings + found_later
    wrong = [what for one in found for what in amiss(one.seen, players, sees=in_square(players))]
    for what in wrong:
        console.print(what, highlight=False)
    cost_us = median(sum(one.cores.values()) for one in found) / players * 1e6
    each = [rates(one.seen, players) for one in found]
    return {
        "ratio": round(cost_us / floor_us, 2), "bar": BAR, "us_a_player_second": round(cost_us, 1), "floor_us": round(floor_us, 1),
        **{f"{role}_cores": round(median(one.cores[role] for one in found), 3) for role in found[0].cores}, "players": players,
        **{name: round(median(one[name] for one in each), 2) for name in each[0]}, "amiss": wrong,
        "snapshot_bytes": round(median(one.seen.bytes / max(one.seen.snapshots, 1) for one in found), 1),
        "seen_by_each": round(median(one.seen.entities_seen for one in found), 1),
        "interval_ms_p99": round(median(one.seen.interval_ms_p99 for one in found), 1), "faults": max(one.seen.faults for one in found),
        "rounds": len(found), "audit_findings": findings, "passed": cost_us <= BAR * floor_us and not wrong and findings == 0,
    }  # fmt: skip


def in_square(players: int) -> float:
    """Return how many of so many players in a square of SIDE are within the radius of interest."""
    return players * math.pi * INTEREST**2 / SIDE**2


async def _world(players: int, rounds: int, seconds: float) -> tuple[list[_Round], int]:
    """Return the rounds of one world, and how much was wrong in it in the end, by `perdure audit`."""
    found = []
    async with crowded(players, reach_of(players, in_square(players))) as world:
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                found.append(_Round(*await world.measure(seconds)))
    return found, world.audit_findings


def _floor(sockets: int, size: int, rounds: int, seconds: float) -> list[float]:
    server_core, peer_core = cores()
    order = {"sockets": sockets, "bytes": size, "hz": HZ, "command_bytes": COMMAND_BYTES, "command_hz": COMMANDS_HZ, "seconds": seconds,
             "rounds": rounds, "server_core": server_core, "peer_core": peer_core}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._message_floor"], input=json.dumps(order) + "\n", capture_output=True, text=True, check=False,
        timeout=60.0 + seconds * (rounds + 1), preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the floor could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return list(json.loads(done.stdout))
