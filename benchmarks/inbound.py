"""Inbound: what a gateway's process spends on a command (read, unmask, parse, validate, batch, write to the link), against a
websocket listener in C that only receives frames of as many bytes.

The gateway's figure is a difference: its processor time with the commands, less that without them while everything else goes on, a
command. The floor is picows (benchmarks/_inbound_floor.py): its listener counts a frame and forgets it. It runs between two halves of the
rounds, each with a world of its own, so that a machine that grows slower or faster meanwhile counts for both. In each round
as many commands must be acknowledged, and as many snapshots shown beside them, as there should be.

Both have what they take in sent in a hundred lumps a second, or, with `evenly`, one message after the other, as real players would: then
the floor is woken up for most of them, and a gateway of 400 players or more once a millisecond (gateway/gathering.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

from benchmarks._crowded import COMMANDS_HZ, amiss, cores, crowded, reach_of
from benchmarks._playing import console
from benchmarks._swarm import SLICES
from benchmarks.endtoend import COMMAND_BYTES
from perdure.cli.children import die_with_parent

BAR = 1.6
VISIBLE = 20.0


def run(players: int = 500, rounds: int = 5, seconds: float = 4.0, evenly: bool = False) -> dict[str, Any]:
    """Measure `rounds` times `seconds` with commands and without (one more where that is odd); medians. The floor: `rounds` times."""
    import uvloop

    return uvloop.run(_run(players, rounds, seconds, evenly))


async def _run(players: int, rounds: int, seconds: float, evenly: bool) -> dict[str, Any]:
    half = (rounds + 1) // 2
    costs, wrong, findings = await _world(players, half, seconds, evenly)
    with console.status("the floor"):
        floor_us = median(_floor(players, rounds, seconds, evenly)) / 1e3
    later, wrong_later, found_later = await _world(players, half, seconds, evenly)
    costs, wrong, findings = costs + later, wrong + wrong_later, findings + found_later
    for what in wrong:
        console.print(what, highlight=False)
    gateway_us = median(costs) * 1e6
    return {
        "ratio": round(gateway_us / floor_us, 2), "bar": BAR, "gateway_us": round(gateway_us, 2), "floor_us": round(floor_us, 2),
        "command_bytes": COMMAND_BYTES, "commands_a_second_each": COMMANDS_HZ, "evenly": evenly, "players": players, "rounds": len(costs),
        "amiss": wrong, "audit_findings": findings, "passed": gateway_us <= BAR * floor_us and not wrong and findings == 0,
    }  # fmt: skip


async def _world(players: int, rounds: int, seconds: float, evenly: bool) -> tuple[list[float], list[str], int]:
    """Return of one world the seconds for a command, round by round; what was amiss; and how much the audit found."""
    costs, wrong = [], []
    async with crowded(players, reach_of(players, VISIBLE)) as world:
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                await world.swarm.steer(COMMANDS_HZ, evenly=evenly)
                await world.measure(1.0)
                busy, with_them = await world.measure(seconds)
                await world.swarm.steer(0)
                _, without = await world.measure(seconds)
            costs.append((with_them["gateway"] - without["gateway"]) / (busy.commands / busy.seconds))
            wrong += amiss(busy, players)
    return costs, wrong, world.audit_findings


def _floor(sockets: int, rounds: int, seconds: float, evenly: bool) -> list[float]:
    server_core, peer_core = cores()
    order = {"sockets": sockets, "command_bytes": COMMAND_BYTES, "command_hz": COMMANDS_HZ, "slices": 0 if evenly else SLICES,
             "seconds": seconds, "rounds": rounds, "server_core": server_core, "peer_core": peer_core}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._inbound_floor"], input=json.dumps(order) + "\n", capture_output=True, text=True, check=False,
        timeout=60.0 + seconds * (rounds + 1), preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the floor could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return list(json.loads(done.stdout))
