"""The fault matrix on real processes and sockets: each row breaks something under playing bots, asserts its outcome, counts everything.

Rows come in random order (seeded), each on a cluster of its own, `rounds` times, or as often as a file of results still lacks. A row that
fails says what was expected and what was seen, and the run goes on. Needs a machine to itself; partitions need root (network namespaces),
and rows that cannot be done here are skipped with a line. `perdure bench chaos --list` lists the rows.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import _chaos_results
from benchmarks._chaos_results import DUPLICATED, LOST
from benchmarks._chaos_row import ROWS, Row
from benchmarks._playing import console
from benchmarks._stage import Outcome, Staging, perform
from perdure.cli.bench import BadOption

KINDS = ("shards", "commits", "upgrade", "edge", "ledger", "network", "data", "machine", "players", "forgetting")


def known_rows() -> dict[str, Row]:
    """Return every row, in the order of the matrix."""
    for kind in KINDS:
        importlib.import_module(f"benchmarks._chaos_rows_{kind}")
    return ROWS


def run(
    rows: str = "", rounds: int = 1, bots: int = 200, seed: int = 0, list: bool = False,  # noqa: A002
    results: str = "", until_times: int = 0, table: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Run the rows (all, or those named) `rounds` times, or until `results` holds `until_times` runs of each; return the figures.

    `results`: a file that each row is added to as soon as it is over. `table`: run nothing, show the table over all runs of such a file.
    """
    known = known_rows()
    if list:
        for entry in known.values():
            print(f"{entry.name:28} {entry.expected}" + (f" [skipped here: {why}]" if (why := entry.missing()) else ""))
        return {"rows": [*known]}
    if table:
        return _tabled(Path(table), [*known])
    names = [name.strip() for name in rows.split(",") if name.strip()] or [*known]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadOption(f"there is no row {unknown[0]!r}; there are {', '.join(known)}")
    if rounds < 1 or bots < 1:
        raise BadOption("--rounds and --bots are 1 or more")
    if until_times < 0 or (until_times and not results):
        raise BadOption("--until-times goes on with the runs of a file: name it with --results FILE")
    file = Path(results) if results else None
    before = _lines(file) if file is not None else []
    seed = seed or secrets.randbelow(1 << 31) + 1
    chosen = [known[name] for name in names]
    if until_times:
        stages = stages_until(until_times, chosen, before, random.Random(seed))
    else:
        order = random.Random(seed)
        stages = [Planned(row, 1) for _ in range(rounds) for row in order.sample(chosen, len(chosen))]
    console.print(f"seed {seed} (again by --seed {seed}), {len(stages)} stages, {sum(stage.repeats for stage in stages)} runs")
    build = _chaos_results.build()
    outcomes = asyncio.run(_run(stages, bots, seed, file, build))
    return summary(outcomes, seed=seed, rounds=rounds, bots=bots, build=build)


@dataclass(frozen=True)
class Planned:
    """One cluster to be started: for which row, and how often it runs on it."""

    row: Row
    repeats: int


def stages_until(wanted: int, rows: Sequence[Row], lines: Sequence[dict[str, Any]], order: random.Random) -> list[Planned]:
    """Return the stages that bring every row to so many runs, in random order; rows that cannot be done here come once, and say so."""
    done = _chaos_results.times([*lines])
    stages: list[Planned] = []
    for row in rows:
        missing = wanted - done[row.name]
        if missing > 0 and row.missing():
            missing = 1
        while missing > 0:
            stages.append(Planned(row, min(row.repeats, missing)))
            missing -= row.repeats
    order.shuffle(stages)
    return stages


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        return _chaos_results.read(file)
    except (OSError, _chaos_results.BadResults) as error:
        raise BadOption(str(error)) from None


def _tabled(file: Path, order: Sequence[str]) -> dict[str, Any]:
    """Return the totals of a file."""
    if not file.is_file():
        raise BadOption(f"there is no file {file}; a run with --results {file} writes it")
    lines = _lines(file)
    found = _chaos_results.totals(lines)
    rows = {
        name: {"runs": t.runs, "passed": t.passed, "lost": t.lost, "duplicated": t.duplicated,
               **({f"blackout_ms_{k}": t.percentile(p) for k, p in (("p50", 50), ("p99", 99), ("max", 100))} if t.blackout_ms else {})}
        for name, t in found.items()
    }  # fmt: skip
    return {"table": _chaos_results.table(lines, order, f"perdure bench chaos --results {file}"), "rows": rows}


async def _run(stages: Sequence[Planned], bots: int, seed: int, file: Path | None, build: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("chaos", total=len(stages))

        def staging_of(number: int) -> Staging:
            row = stages[number].row

            def say(what: str) -> None:
                if number == len(outcomes):
                    progress.update(task, description=f"{row.name}: {what}"[:100])

            return Staging(row.name, row.setup, bots=bots, seed=seed + number, say=say)

        staging = staging_of(0) if stages else None
        try:
            for number, planned in enumerate(stages):
                row, now = planned.row, staging
                assert now is not None
                staging = staging_of(number + 1) if number + 1 < len(stages) else None
                if why := row.missing():
                    outcome = Outcome(row.name, skipped=why)
                else:
                    # While this row is counted, the next one's cluster starts; rows with networks of their own begin on a clean machine.
                    ahead = number + 1 < len(stages) and not stages[number + 1].row.missing()
                    counting = staging.begin if staging is not None and ahead and not staging.setup.apart else lambda: None
                    deadline_s = row.deadline_of(planned.repeats)
                    outcome = await perform(row.name, row.body, now, deadline_s=deadline_s, repeats=planned.repeats, counting=counting)
                outcomes.append(outcome)
                if file is not None:
                    _chaos_results.append(file, _chaos_results.entry(outcome, seed=seed + number, bots=now.bots, build_id=build))
                console.print(line(outcome), markup=False, highlight=False, soft_wrap=True)
                progress.advance(task)
        finally:
            if staging is not None:
                await staging.close()
    return outcomes


def line(outcome: Outcome) -> str:
    """Return what is said when a row is over."""
    if outcome.skipped:
        return f"SKIP {outcome.row}: {outcome.skipped}"
    if outcome.fault:
        return f"FAIL {outcome.row} ({outcome.took_s:.0f} s): {outcome.fault} [logs: {outcome.logs}]"
    blackout = outcome.blackout_ms()
    seen = f"blackout p50 {blackout['p50']:g}, p99 {blackout['p99']:g} ms" if blackout else "nobody was affected"
    often = f", {outcome.runs} times" if outcome.runs > 1 else ""
    return f"ok   {outcome.row} ({outcome.took_s:.0f} s{often}): {seen}"


def summary(outcomes: list[Outcome], *, seed: int, rounds: int, bots: int, build: str) -> dict[str, Any]:
    """Return the figures of a run: one object a row and round, the counts in all, the auditor's verdict."""
    done = [outcome for outcome in outcomes if not outcome.skipped]
    totals = {name: sum(int(o.figures.get(name, 0)) for o in done)
              for name in (*LOST, *DUPLICATED, "gold_delta", "replay_mismatches", "commands_acknowledged")}  # fmt: skip
    audit_faults = sum(len(o.audit_faults) for o in done)
    failed = sorted({outcome.row for outcome in done if outcome.fault})
    entries = [_chaos_results.entry(o, seed=seed, bots=bots, build_id=build) for o in outcomes]
    return {
        "seed": seed, "rounds": rounds, "bots": bots, "rows_run": len(done), "runs": sum(o.runs for o in done), "rows_failed": failed,
        "rows_skipped": sorted({outcome.row for outcome in outcomes if outcome.skipped}), **totals,
        "audit": "all is there, once" if not audit_faults else f"{audit_faults} faults", "rows": [o.as_json() for o in outcomes],
        "table": _chaos_results.table(entries, [*ROWS], "perdure " + shlex.join(sys.argv[1:])), "passed": bool(done) and not failed,
    }  # fmt: skip


def report(result: dict[str, Any]) -> str:
    """Return the runs as a Markdown table, to be put into docs/RELIABILITY.md."""
    return str(result.get("table", ""))
