"""What the runs of the fault matrix gave, kept in a file: one JSON object a line, one line a stage; and the table over all of them.

Owns the file and its format. A line is written and synced as soon as its row is over, so a run that is interrupted loses nothing but the
row that it was at; half a line at the end of the file, left by a power cut, is dropped. Called by chaos.py.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from benchmarks._stage import Outcome

ROOT = Path(__file__).resolve().parents[1]
LOST = ("players_lost", "commands_lost", "relics_lost")
DUPLICATED = ("players_duplicated", "commands_duplicated", "relics_duplicated")
COUNTS = ("commands_acknowledged", "gold_delta", "replay_mismatches")


class BadResults(ValueError):
    """The file holds what no run has written: where, and what."""


def build() -> str:
    """Return the commit that runs (with a + where files differ from it), or the installed version where there is no repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, timeout=20
        )
    except OSError:
        described = None
    if described is not None and described.returncode == 0:
        return described.stdout.strip()
    return metadata.version("perdure")


def entry(outcome: Outcome, *, seed: int, bots: int, build_id: str) -> dict[str, Any]:
    """Return a stage as it stands in the file. Blackouts are [milliseconds, how many clients] pairs, so that runs can be added up."""
    figures = outcome.figures
    return {
        "row": outcome.row, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "build": build_id, "seed": seed, "bots": bots,
        "runs": outcome.runs, "passed": outcome.passed_runs, "took_s": round(outcome.took_s, 1),
        "phases_s": outcome.phases_s, "load": round(os.getloadavg()[0], 1),
        **({"skipped": outcome.skipped} if outcome.skipped else {}), **({"fault": outcome.fault} if outcome.fault else {}),
        "blackout_ms": sorted(Counter(math.ceil(1000 * gap) for gap in outcome.blackouts_s).items()),
        "lost": sum(int(figures.get(name, 0)) for name in LOST), "duplicated": sum(int(figures.get(name, 0)) for name in DUPLICATED),
        **{name: int(figures.get(name, 0)) for name in COUNTS}, "audit_faults": len(outcome.audit_faults),
        "figures": {name: value for name, value in figures.items() if name not in COUNTS},
    }  # fmt: skip


def append(file: Path, line: dict[str, Any]) -> None:
    """Add a line and return once it is on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+b") as out:
        whole = file.read_bytes().rfind(b"\n") + 1
        out.truncate(whole)
        out.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        out.flush()
        os.fsync(out.fileno())


def read(file: Path) -> list[dict[str, Any]]:
    """Return all whole lines; none where there is no file. Raises BadResults."""
    if not file.exists():
        return []
    data = file.read_bytes()
    lines = []
    for number, text in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            line = orjson.loads(text)
            lines.append({**line, "row": str(line["row"]), "runs": int(line["runs"]), "passed": int(line["passed"])})
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise BadResults(f"{file}, line {number}, is no run of a row ({error!r}); name a file that --results has written") from None
    return lines


def times(lines: list[dict[str, Any]]) -> Counter[str]:
    """Return how often each row has been run."""
    found: Counter[str] = Counter()
    for line in lines:
        found[line["row"]] += line["runs"]
    return found


@dataclass
class RowTotal:
    """All runs of one row."""

    runs: int = 0
    passed: int = 0
    lost: int = 0
    duplicated: int = 0
    blackout_ms: Counter[int] = field(default_factory=Counter)
    skipped: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    last: str = ""

    def percentile(self, percent: float) -> int:
        """Return the smallest of the blackouts that so many percent of all do not exceed (nearest rank)."""
        rank = max(1, math.ceil(self.blackout_ms.total() * percent / 100))
        for ms, count in sorted(self.blackout_ms.items()):
            rank -= count
            if rank <= 0:
                return ms
        return 0


def totals(lines: list[dict[str, Any]]) -> dict[str, RowTotal]:
    """Add the runs up, row by row."""
    found: dict[str, RowTotal] = {}
    for line in lines:
        total = found.setdefault(line["row"], RowTotal())
        if line.get("skipped"):
            total.skipped = line["skipped"]
            continue
        total.runs += line["runs"]
        total.passed += line["passed"]
        total.lost += line["lost"]
        total.duplicated += line["duplicated"]
        total.blackout_ms.update(dict(line["blackout_ms"]))
        total.last = max(total.last, line["date"][:10])
        if line.get("fault"):
            total.faults[line["fault"]] += 1
    return found


def table(lines: list[dict[str, Any]], order: Sequence[str], command: str) -> str:
    """Return all runs as a Markdown table, to be put into docs/RELIABILITY.md; what failed, and how, comes below it."""
    if not lines:
        return "no row has been run yet"
    text = ["| row | times | passed | blackout p50 / p99 / max, ms | lost | duplicated | last run |", "|---|---|---|---|---|---|---|"]
    found = totals(lines)
    for name in sorted(found, key=lambda name: order.index(name) if name in order else len(order)):
        total = found[name]
        if not total.runs:
            text.append(f"| {name} | 0 | | | | | skipped: {total.skipped} |")
            continue
        blackout = " / ".join(str(total.percentile(p)) for p in (50, 99, 100)) if total.blackout_ms else "-"
        passed = "all" if total.passed == total.runs else f"{total.passed} of {total.runs}"
        text.append(f"| {name} | {total.runs} | {passed} | {blackout} | {total.lost} | {total.duplicated} | {total.last} |")
    ran = [line for line in lines if not line.get("skipped")]
    runs, passed = sum(line["runs"] for line in ran), sum(line["passed"] for line in ran)
    days = sorted({line["date"][:10] for line in ran}) or ["never"]
    bots, builds = sorted({line["bots"] for line in ran}), dict.fromkeys(line["build"] for line in ran)
    sums = {name: sum(int(line.get(name, 0)) for line in ran) for name in (*COUNTS, "audit_faults")}
    made = f"{' to '.join(dict.fromkeys([days[0], days[-1]]))}, `{command}`, build {', '.join(builds)}, {' or '.join(map(str, bots))} bots"
    checked = f"{passed} of {runs} runs passed; {sums['commands_acknowledged']} acknowledged commands checked"
    audited = f"gold delta {sums['gold_delta']}, replay mismatches {sums['replay_mismatches']}, the auditor's faults {sums['audit_faults']}"
    text += ["", f"{made}. {checked}; {audited}."]
    faults = [f"- `{name}`, {count} times: {fault}" for name, total in found.items() for fault, count in total.faults.most_common()]
    return "\n".join([*text, *(["", *faults] if faults else [])])
