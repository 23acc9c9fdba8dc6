"""End to end: the processor time of all server processes for one second of one player, against the kernel's floor for the same messages.

1,000 players, 20 snapshots and 10 commands a second each, 31 others in sight (radius 100 in a square of 1,000), all servers on one
core: gateway, shard, a coordinator and the one that stands by, the ledger's server. The floor is a loop of bare sends and receives with as
many bytes (benchmarks/_message_floor.py). A round counts only if so many snapshots were shown, commands sent and commands acknowledged.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks._crowded import COMMANDS_HZ, HZ, INTEREST, amiss, cores, crowded, rates, reach_of
from benchmarks._playing import console
from perdure.cli.children import die_with_parent

BAR = 1.8
SIDE = 1000
COMMAND_BYTES = 18
"""A command's frame: 6 bytes of websocket, 12 of message."""


def run(players: int = 1000, rounds: int = 5, seconds: float = 6.0) -> dict[str, Any]:
    """Measure `rounds` times `seconds` each; medians. The floor is measured after it, in as many rounds, at the rate that was seen."""
    import uvloop

    return uvloop.run(_run(players, rounds, seconds))


async def _run(players: int, rounds: int, seconds: float) -> dict[str, Any]:
    costs, sizes, p99, roles, seen_by, faults = [], [], [], [], [], 0
    each: list[dict[str, float]] = []
    wrong: list[str] = []
    async with crowded(players, reach_of(players, players * 3.141592653589793 * INTEREST**2 / SIDE**2)) as world:
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                seen, spent = await world.measure(seconds)
            costs.append(sum(spent.values()) / players * 1e6)
            sizes.append(seen.bytes / max(seen.snapshots, 1))
            each.append(rates(seen, players))
            wrong += amiss(seen, players)
            p99.append(seen.interval_ms_p99)
            roles.append(spent)
            seen_by.append(seen.entities_seen)
            faults = seen.faults
    with console.status("the floor"):
        floor = _floor(players, round(median(sizes)), rounds, seconds)
    for what in wrong:
        console.print(what, highlight=False)
    floor_us = median(floor) / 1e3
    ratio = median(costs) / floor_us
    return {
        "ratio": round(ratio, 2), "bar": BAR, "us_a_player_second": round(median(costs), 1), "floor_us": round(floor_us, 1),
        **{f"{role}_cores": round(median(row[role] for row in roles), 3) for role in roles[0]}, "players": players,
        **{name: round(median(one[name] for one in each), 2) for name in each[0]}, "amiss": wrong,
        "snapshot_bytes": round(median(sizes), 1),
        "seen_by_each": round(median(seen_by), 1), "interval_ms_p99": round(median(p99), 1), "faults": faults, "rounds": rounds,
        "audit_findings": world.audit_findings, "passed": ratio <= BAR and not wrong and world.audit_findings == 0,
    }  # fmt: skip


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
