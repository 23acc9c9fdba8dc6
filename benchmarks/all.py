"""Every bench in one table: what was measured, its bar, and whether it is met or falls short; and each bench that says of itself that it
has not passed, whatever its figures are.

Each runs in a process of its own, one after the other, since they pin cores and compile games. `--only a,b` runs some of them;
`--quick` takes less time for each, for a look, not for a figure that one states. The fault matrix has a command of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks._playing import console
from perdure.cli.bench import BadOption

DEADLINE_S = 2 * 3600.0
MEMORY_ROLES = ("gateway", "shard", "coordinator", "ledger")


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of a bench: `path` leads to it in its JSON, parts by dots. It may be `bar` at most, or must be `at_least` so much."""

    path: str
    unit: str
    bar: float | None = None
    at_least: float | None = None
    judged: str = ""
    """Where the bench itself says under this name that it ran too short a time, the bar does not count."""

    def met(self, value: float) -> bool:
        return (self.bar is None or value <= self.bar) and (self.at_least is None or value >= self.at_least)


AUDIT = Row("audit_findings", "faults of the audit", 0.0)
"""Of every bench that ends with one."""

BENCHES: dict[str, tuple[tuple[str, ...], tuple[Row, ...]]] = {
    # name: options of --quick, figures
    "startup": (("--rounds", "2", "--cold", "0"), (Row("warm_s_median", "s", 4.0),)),
    "encode": ((), (Row("ratio", "of a copy", 6.0),)),
    "tick": (("--rounds", "3", "--seconds", "4"), (Row("ns_per_visible_entity", "ns an entity"), Row("share", "shard / gateway", 0.25))),
    "wire": ((), (Row("bytes_per_visible_entity", "bytes an entity", 8.0),)),
    "fanout": (("--rounds", "3", "--seconds", "2"), (Row("ratio", "of a bare write", 1.3),)),
    "inbound": (("--rounds", "3", "--seconds", "2"), (Row("ratio", "of picows receiving", 1.6),)),
    "dashboard": (("--rounds", "2", "--seconds", "4"), (Row("ratio", "of nobody looking", 2.0),)),
    "commit": (("--rounds", "3"), (Row("ours.p50_ms", "ms, p50", 1.5), Row("ours.p99_ms", "ms, p99", 5.0))),
    "redis": (("--rounds", "3", "--seconds", "2"), (Row("commits_a_second", "a second"),)),
    "endtoend": (("--rounds", "3", "--seconds", "4"), (Row("ratio", "of bare messages", 1.8),)),
    "capacity": ((), (Row("players", "players", at_least=2000),)),
    "locust": (
        ("--rounds", "3", "--seconds", "2"),
        (Row("players_a_core", "players of the load test", at_least=2000), Row("us_a_player_second", "us a player and second"),
         Row("ratio", "of bare messages")),
    ),
    "jitter": (
        ("--minutes", "1"),
        (Row("interval_ms_p99", "ms, p99", 60.0), Row("interval_ms_p999", "ms, p99.9"), Row("tick_ratio", "worst / mean tick", 5.0)),
    ),
    "memory": (
        ("--minutes", "2"),
        (Row("gateway_kib_a_player", "KiB a player", 20.0), Row("shard_kib_a_thousand_players", "KiB of a shard, 1,000 players"),
         Row("ledger_kib_a_zone", "KiB of the ledger, a zone"),
         *(Row(f"{role}_growth_an_hour", f"{role}'s growth an hour", 0.05, judged="growth_judged") for role in MEMORY_ROLES)),
    ),
    "failover": (("--kills", "5"), (Row("blackout_ms_p50", "ms, p50", 300), Row("blackout_ms_p99", "ms, p99", 700))),
    "migration": (("--migrations", "10"), (Row("gap_ms_p99", "ms, p99", 100),)),
    "crossing": (("--crossings", "500"), (Row("gap_ms_p99", "ms, p99", 100),)),
    "seam": (
        ("--seconds", "5", "--shots", "1000"),
        (
            Row("older_across_ms_p99", "ms older, p99", 100.0), Row("views_without_the_other", "views lacking one", 0.0),
            Row("damage_delta", "damage, delta", 0.0), Row("coins_delta", "coins, delta", 0.0),
        ),
    ),
    "scale": (
        ("--rounds", "1", "--seconds", "4", "--shards", "1,4", "--zones", "16,64"),
        (Row("shards_ratio", "dearest / cheapest", 1.25), Row("zones_ratio", "dearest / cheapest", 1.25),
         Row("idle_zone_part", "of a busy zone", 0.01)),
    ),
    "overload": (("--seconds", "2"), (Row("others_p99_ratio", "of calm", 1.5), Row("longest_gap_ms", "ms", 2000),
                                      Row("gateway_interval_ms_p99", "ms, p99", 500))),
    "zombie": (("--rounds", "2"), (Row("blackout_ms_p99", "ms, p99", 2000),)),
}  # fmt: skip


def run(only: str = "", quick: bool = False) -> dict[str, Any]:
    """Run them; `passed` is whether every figure that has a bar meets it, and every bench says so of itself."""
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        raise BadOption(f"--only: there is no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    done: dict[str, Any] = {}
    for at, name in enumerate(wanted):
        began_s = time.monotonic()
        with console.status(f"{name} ({at + 1} of {len(wanted)})"):
            found = _bench(name, BENCHES[name][0] if quick else ())
        done[name] = {"took_s": round(time.monotonic() - began_s, 1), **found}
        console.print(f"{name}: {'did not run' if 'fault' in found else 'measured'}, {done[name]['took_s']:.0f} s", highlight=False)
    rows = [row for name in wanted for row in rows_of(name, done[name])]
    return {"rows": rows, "quick": quick, "benches": done, "passed": all(row["verdict"] in ("met", "measured") for row in rows)}


def _bench(name: str, options: tuple[str, ...]) -> dict[str, Any]:
    words = [sys.executable, "-m", "perdure", "bench", name, "--json", *options]
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        return {"fault": f"it did not end within {DEADLINE_S / 3600:g} hours"}
    try:
        return dict(json.loads(ran.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        said = (ran.stderr.strip().splitlines() or ["nothing"])[-1]
        return {"fault": f"exit code {ran.returncode}: {said}"}


def rows_of(name: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a bench's rows of the table: figure, value, unit, bar, verdict. The last one, where it has not passed, is its own verdict."""
    rows = []
    for row in (*BENCHES[name][1], *((AUDIT,) if AUDIT.path in found else ())):
        value = figure(found, row.path)
        bar = row.bar if row.bar is not None else row.at_least
        if row.judged and found.get(row.judged) is False:
            bar = None
        if value is None:
            verdict = found.get("fault") or f"it has no figure {row.path}"
        else:
            verdict = "measured" if bar is None else "met" if row.met(value) else "falls short"
        rows.append({"bench": name, "figure": row.path, "value": value, "unit": row.unit, "bar": bar, "verdict": verdict})
    if found.get("passed") is False and "fault" not in found:  # one with a fault says it in each of its rows
        amiss = found.get("amiss") or [""]
        said = "its own verdict" + (f": {amiss[0]}" if amiss[0] else "") + (f" and {len(amiss) - 1} more" if len(amiss) > 1 else "")
        rows.append({"bench": name, "figure": "passed", "value": None, "unit": said, "bar": None, "verdict": "falls short"})
    return rows


def figure(found: dict[str, Any], path: str) -> float | None:
    """Return a number out of a bench's JSON, or None where it is not there."""
    value: Any = found
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def report(result: dict[str, Any]) -> str:
    """Return the table as text."""
    table = Table("bench", "figure", "value", "bar", "verdict", title="benches" + (" (a quick look)" if result["quick"] else ""))
    for row in result["rows"]:
        bar = "" if row["bar"] is None else f"{row['bar']:g}"
        value = "-" if row["value"] is None else f"{row['value']:,.2f}".rstrip("0").rstrip(".")
        table.add_row(row["bench"], row["unit"], value, bar, row["verdict"])
    with console.capture() as text:
        console.print(table)
    return text.get()
