"""Capacity: the most players that all server processes together carry on one core, and the curve up to there.

Each player sees about 40 others, gets 20 snapshots and sends 10 commands a second; the swarm on the other core counts and times every
snapshot, and decodes one in twenty. A level is measured in five windows. It holds if the p99 of the snapshot intervals (the median of the
windows) is within the bar, nothing was decoded wrongly, and in each window as many snapshots were shown (to everybody), commands sent
and commands acknowledged, and as many others in sight, as there should be.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks._crowded import amiss, crowded, rates, reach_of
from benchmarks._playing import console

BAR_PLAYERS, BAR_P99_MS, VISIBLE = 2000, 75.0, 40.0


def run(most: int = 5000, step: int = 500, rounds: int = 5, seconds: float = 5.0) -> dict[str, Any]:
    """Raise the number of players by `step` up to `most`, or until a level does not hold twice; `rounds` windows of `seconds` each."""
    import uvloop

    return uvloop.run(_run(most, step, rounds, seconds))


async def _run(most: int, step: int, rounds: int, seconds: float) -> dict[str, Any]:
    curve: list[dict[str, Any]] = []
    best = 0
    for players in range(step, most + 1, step):
        row = await _level(players, rounds, seconds)
        if not row["holds"]:
            first, row = row, await _level(players, rounds, seconds)  # once more: another program may have had the core
            row["audit_findings"] += first["audit_findings"]
        curve.append(row)
        console.print(f"{players} players: {row['cores']:.2f} of a core, interval p99 {row['interval_ms_p99']:.1f} ms")
        if not row["holds"]:
            break
        best = players
    findings = sum(row["audit_findings"] for row in curve)
    at_bar = next((row for row in curve if row["players"] == BAR_PLAYERS), None)
    return {
        "players": best, "bar_players": BAR_PLAYERS, "bar_interval_ms_p99": BAR_P99_MS, "reached_its_end": best == most // step * step,
        "interval_ms_p99_at_bar": at_bar and at_bar["interval_ms_p99"], "curve": curve,
        "audit_findings": findings, "passed": best >= BAR_PLAYERS and findings == 0,
    }  # fmt: skip


async def _level(players: int, rounds: int, seconds: float) -> dict[str, Any]:
    async with crowded(players, reach_of(players, VISIBLE)) as world:
        windows = []
        for number in range(rounds):
            with console.status(f"{players} players, {number + 1} of {rounds}"):
                windows.append(await world.measure(seconds))
    seen, spent = [one for one, _ in windows], [cores for _, cores in windows]
    wrong = [what for one in seen for what in amiss(one, players, sees=VISIBLE)]
    for what in wrong:
        console.print(f"{players} players: {what}", highlight=False)
    each = [rates(one, players) for one in seen]
    p99_ms = median(one.interval_ms_p99 for one in seen)
    return {
        "players": players, "cores": round(median(sum(cores.values()) for cores in spent), 3),
        **{f"{role}_cores": round(median(cores[role] for cores in spent), 3) for role in spent[0]},
        **{name: round(median(one[name] for one in each), 2) for name in each[0]},
        "commands_left_out": sum(one.commands_left_out for one in seen),
        "interval_ms_p50": round(median(one.interval_ms_p50 for one in seen), 1), "interval_ms_p99": round(p99_ms, 1),
        "interval_ms_p99_worst_window": round(max(one.interval_ms_p99 for one in seen), 1),
        "snapshot_bytes": round(median(one.bytes / max(one.snapshots, 1) for one in seen), 1),
        "seen_by_each": round(median(one.entities_seen for one in seen), 1), "faults": max(one.faults for one in seen),
        "swarm_cores": round(median(one.cpu_s / one.seconds for one in seen), 3),
        "amiss": wrong, "audit_findings": world.audit_findings, "holds": p99_ms <= BAR_P99_MS and not wrong,
    }  # fmt: skip
