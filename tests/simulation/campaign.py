"""Many seeds, on all cores: what `perdure sim` and `make sim` run.

A seed that fails is told with its violations and the command that runs it again; the run's trace is written beside.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.simulation.cluster import next_program, program
from tests.simulation.run import Outcome, simulate

SHOWN_TRACE = 80


def run_seeds(seeds: Iterable[int], simulated_s: float = 60.0, jobs: int = 0, kinds: tuple[str, ...] = ()) -> list[Outcome]:
    """Run every seed in a process of a pool; return the outcomes, traces only of those that failed."""
    wanted = list(seeds)
    program()
    next_program()  # compiled once, before the pool is forked
    found: list[Outcome] = []
    context = multiprocessing.get_context("fork")
    with Progress(console=Console(stderr=True), transient=True) as progress, context.Pool(jobs or os.cpu_count() or 1) as pool:
        task = progress.add_task("seeds", total=len(wanted))
        for outcome in pool.imap_unordered(_one, ((seed, simulated_s, kinds) for seed in wanted)):
            found.append(outcome)
            progress.update(task, advance=1)
            if outcome.violations:
                progress.console.print(f"seed {outcome.seed}: {outcome.violations[0]}", markup=False)
    return sorted(found, key=lambda outcome: outcome.seed)


def _one(work: tuple[int, float, tuple[str, ...]]) -> Outcome:
    outcome = simulate(work[0], work[1], kinds=work[2])
    if not outcome.violations:
        outcome.trace = []
    return outcome


def report(outcomes: list[Outcome], took_s: float, folder: Path | None = None) -> str:
    """Return what a campaign came to, as text; write the traces of failed seeds into `folder`."""
    failed = [outcome for outcome in outcomes if outcome.violations]
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    hours = sum(outcome.simulated_s for outcome in outcomes) / 3600
    lines = [
        f"{len(outcomes)} seeds, {hours:.2f} simulated hours in {took_s:.0f} s, {faults.total()} faults, {len(failed)} seeds failed",
        "faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())),
    ]
    for outcome in failed:
        lines.append(f"\nseed {outcome.seed}: run it again with: perdure sim --seed {outcome.seed}")
        lines.extend(f"  {violation}" for violation in outcome.violations[:5])
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"seed-{outcome.seed}.txt"
            path.write_text("\n".join([*outcome.violations, "", *outcome.trace]))
            lines.append(f"  trace: {path}")
    return "\n".join(lines)


def fixed_hashes() -> None:
    """Run this Python anew where its hashes are not fixed: a run must be the same in every process."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "perdure", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})


def main_one(seed: int, simulated_s: float, kinds: tuple[str, ...], lines: int = SHOWN_TRACE) -> int:
    """Run one seed and print its trace's end."""
    outcome = simulate(seed, simulated_s, kinds=kinds)
    shown = outcome.trace[-lines:] if lines else outcome.trace
    print("\n".join(shown))
    print(f"\nseed {seed}: {outcome.figures['commits']} commits, {outcome.figures['acknowledged']} commands acknowledged, "
          f"{outcome.faults.total()} faults, fingerprint {outcome.fingerprint}, {outcome.took_s:.1f} s")  # fmt: skip
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    return 1 if outcome.violations else 0


def main_many(first: int, count: int, simulated_s: float, jobs: int, kinds: tuple[str, ...], folder: Path) -> int:
    started = time.perf_counter()
    outcomes = run_seeds(range(first, first + count), simulated_s, jobs, kinds)
    print(report(outcomes, time.perf_counter() - started, folder))
    return 1 if any(outcome.violations for outcome in outcomes) else 0
