"""Tick: what one tick of a full zone costs, by part and by entity that a player sees; and what a shard spends beside its gateway.

The first is one zone of the arena in this process, in which each of 2,000 players sees about 40. The second is a cluster of which all
server processes share one core, under players of the arena who see about 40 others: processor time of the shard and of the gateway for
each snapshot, in the same seconds. Both are the arena as it is but for how far players see, which is so chosen; nobody shoots. With
another number of entities in sight, it has not passed.
"""

from __future__ import annotations

import gc
import math
import re
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._arena_zone import ArenaZone, arena
from benchmarks._crowded import amiss, crowded, sight_amiss
from benchmarks._playing import GAME, console
from shard.kernels import layout

TICK_MS = 50.0
BAR_SHARE = 0.25
VISIBLE = 40.0
SEEN, SEEN_LIVE = VISIBLE + 1, VISIBLE + 3
"""Entities that should be in sight: the others and the player itself; in the cluster, as counted, coins and drones too."""
WITHIN = 0.87
"""The part of what players see in the arena that lies within its borders, in the mean, where they see some 400 far."""
STEERING = [(mx, my, 0) for mx, my in ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))]
ARENA = re.compile(r"world=\((\d+), \d+\), interest=(\d+)")


def run(players: int = 2000, rounds: int = 5, ticks: int = 40, live_players: int = 1000, seconds: float = 6.0) -> dict[str, Any]:
    """Run `rounds` of `ticks` ticks of an arena zone, then as many of `seconds` of a cluster; medians over the rounds.

    Step: commands, inputs, rules, state hash, record and digest. Encode: interest, deltas and frames, as bytes for the links.
    """
    import uvloop

    zone = _of_a_zone(players, rounds, ticks)
    live = uvloop.run(_of_a_cluster(live_players, rounds, seconds))
    wrong = [*sight_amiss(zone["seen_by_each"], SEEN), *live["amiss"]]
    passed = live["share"] <= BAR_SHARE and not wrong and live["audit_findings"] == 0
    return {**zone, **live, "amiss": wrong, "bar_share": BAR_SHARE, "passed": passed}


async def _of_a_cluster(players: int, rounds: int, seconds: float) -> dict[str, Any]:
    shard_us, gateway_us, parts, faults = [], [], [], 0
    seen_by, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="perdure-arena-") as folder:
        async with crowded(players, 0, game=_arena_for(Path(folder), players), choices=STEERING) as world:
            for number in range(rounds):
                with console.status(f"round {number + 1} of {rounds}, {players} players"):
                    seen, spent = await world.measure(seconds)
                each = seen.seconds / max(seen.snapshots, 1) * 1e6
                shard_us.append(spent["shard"] * each)
                gateway_us.append(spent["gateway"] * each)
                parts.append(world.parts_ms)
                seen_by.append(seen.entities_seen)
                wrong += amiss(seen, players, sees=SEEN_LIVE)
                faults = seen.faults
    share = median(shard / gateway for shard, gateway in zip(shard_us, gateway_us, strict=True))
    return {
        "share": round(share, 3), "shard_us_a_snapshot": round(median(shard_us), 2), "gateway_us_a_snapshot": round(median(gateway_us), 2),
        "parts_ms": {name: round(median(one[name] for one in parts), 3) for name in parts[0]}, "live_players": players, "faults": faults,
        "live_seen_by_each": round(median(seen_by), 1), "amiss": wrong, "audit_findings": world.audit_findings,
    }  # fmt: skip


def interest_of(players: int, side: float) -> float:
    """Return how far so many players in a square are to see for each to see VISIBLE others."""
    return round(side * math.sqrt(VISIBLE / (WITHIN * math.pi * players)))


def _arena_for(folder: Path, players: int) -> str:
    """Write the arena in which so many players see VISIBLE others each; return its folder."""
    shutil.copytree(GAME, folder / "arena")
    file = folder / "arena" / "__init__.py"
    found = ARENA.search(text := file.read_text())
    assert found is not None, "the arena says how large it is and how far its players see"
    begin, end = found.span(2)
    file.write_text(f"{text[:begin]}{interest_of(players, float(found[1])):g}{text[end:]}")
    return str(file.parent)


def _of_a_zone(players: int, rounds: int, ticks: int) -> dict[str, Any]:
    with console.status("the arena's kernels"):
        program = arena()
    with console.status(f"{players} players come"):
        zone = ArenaZone(program, players, interest=interest_of(players, program.game.world_size[0]))
    steps, encodes, per_seen, seen_mean, worst = [], [], [], [], 0.0
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                step_s, encode_s, seen, slowest = _round(zone, ticks)
            steps.append(step_s / ticks)
            encodes.append(encode_s / ticks)
            per_seen.append((step_s + encode_s) / seen)
            seen_mean.append(seen / ticks / players)
            worst = max(worst, slowest)
    finally:
        gc.enable()
    step_ms, encode_ms = median(steps) * 1e3, median(encodes) * 1e3
    return {
        "players": players, "seen_by_each": round(median(seen_mean), 1), "step_ms": round(step_ms, 2), "encode_ms": round(encode_ms, 2),
        "worst_tick_ms": round(worst * 1e3, 2), "ns_per_visible_entity": round(median(per_seen) * 1e9, 1),
        "us_per_snapshot": round((step_ms + encode_ms) / players * 1e3, 2),
        "core_share_at_20_hz": round((step_ms + encode_ms) / TICK_MS, 3),
        "viewers": zone.state(layout.ENC_VIEWERS), "rounds": rounds, "ticks": ticks,
    }  # fmt: skip


def _round(zone: ArenaZone, ticks: int) -> tuple[float, float, int, float]:
    """Return seconds of steps, seconds of encodes, entities seen, and the slowest tick."""
    step_s = encode_s = slowest = 0.0
    seen = 0
    clock = time.perf_counter
    for _ in range(ticks):
        zone.before()
        a = clock()
        zone.step()
        b = clock()
        zone.zone.encode()
        c = clock()
        zone.after()
        step_s, encode_s, slowest = step_s + b - a, encode_s + c - b, max(slowest, c - a)
        seen += zone.seen()
    return step_s, encode_s, seen, slowest
