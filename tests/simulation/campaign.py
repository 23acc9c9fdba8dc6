"""Many seeds, on all cores: what `perdure sim` and `make sim` run.

A seed that fails is told with its violations and the command that runs it again; the run's trace is written beside.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import Progress

from tests.simulation.cluster import ROOMY, TIGHT, next_program
from tests.simulation.faults import is_tight
from tests.simulation.run import Outcome, simulate

SHOWN_TRACE = 80


class OtherBuild(Exception):
    """A file of results holds seeds of another build; the message is one line that says so."""


def run_seeds(
    seeds: Iterable[int],
    simulated_s: float = 60.0,
    jobs: int = 0,
    kinds: tuple[str, ...] = (),
    keep: Callable[[Outcome], None] = lambda outcome: None,
    within_s: float = 0.0,
) -> list[Outcome]:
    """Run every seed in a process of a pool; return the outcomes, traces only of those that failed. `keep` gets each when it is there.
    `within_s`, above 0: what has not been run after so long is left out."""
    wanted = list(seeds)
    for capacity in {TIGHT if is_tight(seed, kinds) else ROOMY for seed in wanted}:
        next_program(capacity)  # and with it `program`: compiled once, before the pool is forked
    found: list[Outcome] = []
    context = multiprocessing.get_context("fork")
    until_s = time.monotonic() + within_s if within_s > 0 else float("inf")
    with Progress(console=Console(stderr=True), transient=True) as progress, context.Pool(jobs or os.cpu_count() or 1) as pool:
        task = progress.add_task("seeds", total=len(wanted))
        for outcome in pool.imap_unordered(_one, ((seed, simulated_s, kinds) for seed in wanted)):
            found.append(outcome)
            keep(outcome)
            progress.update(task, advance=1)
            if outcome.violations:
                progress.console.print(f"seed {outcome.seed}: {outcome.violations[0]}", markup=False)
            if time.monotonic() >= until_s:
                break  # the pool ends, and the seeds that it is at
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


def main_many(
    first: int,
    count: int,
    simulated_s: float,
    jobs: int,
    kinds: tuple[str, ...],
    folder: Path,
    results: Path | None = None,
    within_s: float = 0.0,
    at_least: int = 0,
) -> int:
    """Run seeds and print what they came to; fewer than `at_least` are a failure.

    With `results`, a file of JSON lines, seeds that are in it are not run again, each seed that ends is added, and what is printed is of
    all that it holds: a long campaign may be run in parts. Raises OtherBuild where the file is of another build.
    """
    started = time.perf_counter()
    seeds, earlier, took_s = range(first, first + count), [], 0.0
    if results is None:
        outcomes = run_seeds(seeds, simulated_s, jobs, kinds, within_s=within_s)
    else:
        earlier, took_s = read_results(results)
        done = {outcome.seed for outcome in earlier}
        with results.open("a") as file:
            left = [seed for seed in seeds if seed not in done]
            outcomes = run_seeds(left, simulated_s, jobs, kinds, lambda o: _keep(file, o), within_s)
    took_s = took_s + sum(outcome.took_s for outcome in outcomes) if earlier else time.perf_counter() - started
    print(report([*earlier, *outcomes], took_s, folder))
    if len(earlier) + len(outcomes) < at_least:
        print(f"{len(outcomes)} seeds were run in {within_s:g} s; at least {at_least} were wanted")
        return 1
    return 1 if any(outcome.violations for outcome in (*earlier, *outcomes)) else 0


@functools.cache
def build() -> str:
    """Return a digest of all source that a run hangs on: outcomes of one campaign are of one build."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in ("coordinator", "gateway", "perdure", "shard", "tests/simulation"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".lua") and "__pycache__" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _keep(file: IO[str], outcome: Outcome) -> None:
    row = {"seed": outcome.seed, "build": build(), "simulated_s": outcome.simulated_s, "took_s": round(outcome.took_s, 2),
           "faults": outcome.faults, "violations": outcome.violations}  # fmt: skip
    file.write(json.dumps(row) + "\n")
    file.flush()


def read_results(path: Path) -> tuple[list[Outcome], float]:
    """Return the outcomes that a file of results holds, and the seconds of one core that they took. Half a line at its end is dropped.

    Raises OtherBuild where they are not of this one.
    """
    found: list[Outcome] = []
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    for number, line in enumerate(whole.splitlines(), 1):
        row = json.loads(line)
        if row.get("build") != build():
            raise OtherBuild(f"{path}, line {number}: a seed of build {row.get('build')}, and this is {build()}: begin another file")
        found.append(Outcome(row["seed"], row["simulated_s"], row["violations"], Counter(row["faults"]), {}, [], row["took_s"]))
    return found, sum(outcome.took_s for outcome in found)
