"""Capacity: the most players that all server processes together carry on one core, and the curve up to there.

Each player sees about 40 others, gets 20 snapshots and sends 10 commands a second; the swarm on the other core counts and times every
snapshot, and decodes one in twenty. A level holds if the snapshot intervals' p99 is within the bar, nothing was decoded wrongly, and as
many snapshots were shown, commands sent and commands acknowledged as there should be.
"""

from __future__ import annotations

from typing import Any

from benchmarks._crowded import amiss, crowded, rates, reach_of
from benchmarks._playing import console

BAR_PLAYERS, BAR_P99_MS, VISIBLE = 2000, 75.0, 40.0


def run(most: int = 5000, step: int = 500, seconds: float = 10.0) -> dict[str, Any]:
    """Raise the number of players by `step` up to `most`, or until a level does not hold twice; `seconds` of measuring each."""
    import uvloop

    return uvloop.run(_run(most, step, seconds))


async def _run(most: int, step: int, seconds: float) -> dict[str, Any]:
    curve: list[dict[str, Any]] = []
    best = 0
    for players in range(step, most + 1, step):
        row = await _level(players, seconds)
        if not row["holds"]:
            first, row = row, await _level(players, seconds)  # once more: another program may have had the core
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


async def _level(players: int, seconds: float) -> dict[str, Any]:
    async with crowded(players, reach_of(players, VISIBLE)) as world:
        with console.status(f"{players} players"):
            seen, spent = await world.measure(seconds)
    wrong = amiss(seen, players)
    for what in wrong:
        console.print(f"{players} players: {what}", highlight=False)
    return {
        "players": players, "cores": round(sum(spent.values()), 3), **{f"{role}_cores": round(cores, 3) for role, cores in spent.items()},
        **{name: round(each, 2) for name, each in rates(seen, players).items()}, "commands_left_out": seen.commands_left_out,
        "interval_ms_p50": round(seen.interval_ms_p50, 1),
        "interval_ms_p99": round(seen.interval_ms_p99, 1), "snapshot_bytes": round(seen.bytes / max(seen.snapshots, 1), 1),
        "seen_by_each": round(seen.entities_seen, 1), "faults": seen.faults, "swarm_cores": round(seen.cpu_s / seen.seconds, 3),
        "amiss": wrong, "audit_findings": world.audit_findings, "holds": seen.interval_ms_p99 <= BAR_P99_MS and not wrong,
    }  # fmt: skip
