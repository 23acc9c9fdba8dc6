"""The fault matrix on real processes and sockets: each row breaks something under playing bots, asserts its outcome, counts everything.

Rows come in random order (seeded), each on a cluster of its own, `rounds` times. A row that fails says what was expected and what was
seen, and the run goes on. Needs a machine to itself; partitions need root (network namespaces), and rows that cannot be done here are
skipped with a line. `perdure bench chaos --list` lists the rows.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import secrets
import shlex
import sys
import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks._chaos_row import ROWS, Row
from benchmarks._playing import console, percentiles
from benchmarks._stage import Outcome, perform
from perdure.cli.bench import BadOption

KINDS = ("shards", "commits", "edge", "ledger", "network", "data", "machine", "players", "forgetting")
LOST = ("players_lost", "commands_lost")
DUPLICATED = ("players_duplicated", "commands_duplicated")


def known_rows() -> dict[str, Row]:
    """Return every row, in the order of the matrix."""
    for kind in KINDS:
        importlib.import_module(f"benchmarks._chaos_rows_{kind}")
    return ROWS


def run(rows: str = "", rounds: int = 1, bots: int = 200, seed: int = 0, list: bool = False) -> dict[str, Any]:  # noqa: A002
    """Run the rows (all, or those named) `rounds` times; return the figures and whether every row passed."""
    known = known_rows()
    if list:
        for entry in known.values():
            print(f"{entry.name:28} {entry.expected}" + (f" [skipped here: {why}]" if (why := entry.missing()) else ""))
        return {"rows": [*known]}
    names = [name.strip() for name in rows.split(",") if name.strip()] or [*known]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadOption(f"there is no row {unknown[0]!r}; there are {', '.join(known)}")
    if rounds < 1 or bots < 1:
        raise BadOption("--rounds and --bots are 1 or more")
    seed = seed or secrets.randbelow(1 << 31) + 1
    console.print(f"seed {seed} (again by --seed {seed})")
    outcomes = asyncio.run(_run([known[name] for name in names], rounds, bots, seed))
    return summary(outcomes, seed=seed, rounds=rounds, bots=bots)


async def _run(rows: list[Row], rounds: int, bots: int, seed: int) -> list[Outcome]:
    order = random.Random(seed)
    outcomes: list[Outcome] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("chaos", total=rounds * len(rows))
        for number in range(rounds):
            for row in order.sample(rows, len(rows)):
                label = f"round {number + 1}, {row.name}"

                def say(what: str, label: str = label) -> None:
                    progress.update(task, description=f"{label}: {what}"[:100])

                why = row.missing()
                if why:
                    outcome = Outcome(row.name, skipped=why)
                else:
                    outcome = await perform(
                        row.name, row.body, row.setup, bots=bots, seed=seed + number, say=say, deadline_s=row.deadline_s
                    )  # fmt: skip
                outcomes.append(outcome)
                console.print(line(outcome), markup=False, highlight=False, soft_wrap=True)
                progress.advance(task)
    return outcomes


def line(outcome: Outcome) -> str:
    """Return what is said when a row is over."""
    if outcome.skipped:
        return f"SKIP {outcome.row}: {outcome.skipped}"
    if outcome.fault:
        return f"FAIL {outcome.row} ({outcome.took_s:.0f} s): {outcome.fault} [logs: {outcome.logs}]"
    blackout = percentiles(outcome.blackouts_s)
    return f"ok   {outcome.row} ({outcome.took_s:.0f} s): blackout p50 {blackout['p50']:g}, p99 {blackout['p99']:g} ms"


def summary(outcomes: list[Outcome], *, seed: int, rounds: int, bots: int) -> dict[str, Any]:
    """Return the figures of a run: one object a row and round, the counts in all, the auditor's verdict."""
    done = [outcome for outcome in outcomes if not outcome.skipped]
    totals = {name: sum(int(o.figures.get(name, 0)) for o in done)
              for name in (*LOST, *DUPLICATED, "gold_delta", "replay_mismatches", "commands_acknowledged")}  # fmt: skip
    audit_faults = sum(len(o.audit_faults) for o in done)
    failed = sorted({outcome.row for outcome in done if outcome.fault})
    return {
        "seed": seed, "rounds": rounds, "bots": bots, "rows_run": len(done), "rows_failed": failed,
        "rows_skipped": sorted({outcome.row for outcome in outcomes if outcome.skipped}), **totals,
        "audit": "all is there, once" if not audit_faults else f"{audit_faults} faults", "rows": [o.as_json() for o in outcomes],
        "passed": bool(done) and not failed,
    }  # fmt: skip


def report(result: dict[str, Any]) -> str:
    """Return the run as a Markdown table, to be put into docs/RELIABILITY.md."""
    if "seed" not in result:
        return ""
    command = "perdure " + shlex.join(sys.argv[1:])
    lines = ["| row | times | blackout p50 / p99 / max, ms | lost | duplicated | outcome |", "|---|---|---|---|---|---|"]
    for name in sorted({entry["row"] for entry in result["rows"]}, key=[*ROWS].index):
        entries = [entry for entry in result["rows"] if entry["row"] == name]
        ran = [entry for entry in entries if "skipped" not in entry]
        if not ran:
            lines.append(f"| {name} | 0 | | | | skipped: {entries[0]['skipped']} |")
            continue
        worst = " / ".join(f"{max(e[f'blackout_ms_{k}'] for e in ran):.0f}" for k in ("p50", "p99", "max"))
        blackout = worst if any(e["clients_affected"] for e in ran) else "-"
        lost, duplicated = (sum(e.get(part, 0) for e in ran for part in parts) for parts in (LOST, DUPLICATED))
        failed = sum(not e["passed"] for e in ran)
        lines.append(f"| {name} | {len(ran)} | {blackout} | {lost} | {duplicated} | {f'failed {failed}' if failed else 'as expected'} |")
    audited = f"gold delta {result['gold_delta']}, replay mismatches {result['replay_mismatches']}; the auditor: {result['audit']}"
    checked = f"{result['commands_acknowledged']} acknowledged commands checked"
    made = f"{time.strftime('%Y-%m-%d')}, `{command}`, seed {result['seed']}, {result['bots']} bots"
    return "\n".join([*lines, "", f"{made}; {checked}; {audited}."])
