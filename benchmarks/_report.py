"""The benches' results as pictures and as one page: what `perdure report` makes of a folder of kept results.

Owns which figures are drawn, and how the page is laid out. A result that was not kept, or is of an older bench, is left out and said to
be missing. Called by perdure.cli.report.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from benchmarks import all as every
from benchmarks._playing import HISTOGRAM_MS
from perdure.plots import Plot, Point, Series, svg

Result = dict[str, Any]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; background: #f3f4f6; max-width: 800px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100%; background: #fff; border-radius: 8px }
td, th { text-align: left; padding: .35em .8em; border-bottom: 1px solid #e5e7eb }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.met { color: #059669 } .short { color: #dc2626; font-weight: 600 } figure { margin: 1.5em 0 } svg { max-width: 100%; height: auto }
p { color: #6b7280 }
"""


def read(folder: Path) -> dict[str, Result]:
    """Return the kept results by bench. Raises ValueError that names a file which is none."""
    results: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text())
            results[str(found["bench"])] = found
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is no result of a bench: `perdure bench NAME --keep {folder}` writes them") from None
    return results


def _capacity(result: Result) -> Plot:
    curve = result["curve"]
    roles = ("gateway", "shard", "valkey", "coordinator")
    return Plot(
        "Capacity: processor time over players", "all servers on one core; 20 snapshots and 10 commands a second each, 40 in sight",
        "players", "cores", [Series(role, _points(curve, f"{role}_cores")) for role in roles], limit=(1.0, "the one core that they have"),
    )  # fmt: skip


def _capacity_intervals(result: Result) -> Plot:
    curve = result["curve"]
    return Plot(
        "Capacity: interval between snapshots over players", "at the clients, all server processes on one core; 50 ms is the tick",
        "players", "ms", [Series("p50", _points(curve, "interval_ms_p50")), Series("p99", _points(curve, "interval_ms_p99"))],
        limit=(result["bar_interval_ms_p99"], f"bar: p99 {result['bar_interval_ms_p99']:g} ms"),
    )  # fmt: skip


def _points(rows: list[Result], name: str) -> list[Point]:
    return [(row["players"], row[name]) for row in rows]


def _tick(result: Result) -> Plot:
    parts = result["parts_ms"]
    return Plot(
        "Where a tick's time goes", f"mean tick of a shard with {result['live_players']:,} players; 50 ms are between two ticks",
        "", "ms", [Series(name, [(0.0, value)]) for name, value in parts.items()], kind="stack",
        labels=[", ".join(f"{name} {value:.2f}" for name, value in parts.items())],
    )  # fmt: skip


def _blackout(result: Result) -> Plot:
    return Plot(
        "Blackout after a shard is killed",
        f"{result['kills']} kills, {result['clients_affected']:,} times a player was on the killed shard; "
        f"p50 {result['blackout_ms_p50']:g}, p99 {result['blackout_ms_p99']:g} ms", "longest time between two snapshots, ms", "players",
        [Series("players", result["blackout_ms_histogram"])], kind="bars", bar_width=HISTOGRAM_MS,
        limit=(result["bar_p99_ms"], f"bar: p99 {result['bar_p99_ms']:g} ms"), limit_across=True,
    )  # fmt: skip


def _gap(title: str) -> Callable[[Result], Plot]:
    return lambda result: Plot(
        title, f"p50 {result['gap_ms_p50']:g}, p99 {result['gap_ms_p99']:g} ms", "longest time between two snapshots, ms", "players",
        [Series("players", result["gap_ms_histogram"])], kind="bars", bar_width=HISTOGRAM_MS,
        limit=(result["bar_p99_ms"], f"bar: p99 {result['bar_p99_ms']:g} ms"), limit_across=True,
    )  # fmt: skip


def _jitter(result: Result) -> Plot:
    windows = result["windows"]
    minutes = result["minutes"] / len(windows)

    def points(name: str) -> list[Point]:
        return [((k + 1) * minutes, window[name]) for k, window in enumerate(windows)]

    return Plot(
        "Interval between snapshots, over time",
        f"{result['players']:,} players; the longest tick is {result['tick_ratio']:g} times the mean one",
        "minutes", "ms", [Series(name, points(of)) for name, of in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999"))],
        limit=(result["bar_p99_ms"], f"bar: p99 {result['bar_p99_ms']:g} ms"),
    )  # fmt: skip


PICTURES: dict[str, tuple[str, Callable[[Result], Plot]]] = {
    "capacity": ("capacity", _capacity), "capacity-intervals": ("capacity", _capacity_intervals), "tick": ("tick", _tick),
    "blackout": ("failover", _blackout), "migration": ("migration", _gap("Gap while a zone moves between shards")),
    "crossing": ("crossing", _gap("Gap while a player crosses a border between shards")), "jitter": ("jitter", _jitter),
}  # fmt: skip
"""Picture -> the bench that it is of, and what draws it."""


def pictures(results: dict[str, Result]) -> dict[str, str]:
    """Return those that can be drawn, as SVG by name."""
    drawn: dict[str, str] = {}
    for name, (bench, draw) in PICTURES.items():
        if bench in results:
            try:
                drawn[name] = svg(draw(results[bench]))
            except (KeyError, IndexError):
                continue  # a result of a bench that did not tell this yet: the page says that the picture is missing
    return drawn


def page(results: dict[str, Result]) -> str:
    """Return the report: one HTML document that needs nothing else."""
    drawn = pictures(results)
    missing = [name for name in PICTURES if name not in drawn]
    rows = [row for name in every.BENCHES if name in results for row in every.rows_of(name, results[name])]
    lines = "".join(
        f"<tr><td>{escape(row['bench'])}</td><td class=n>{'-' if row['value'] is None else format(row['value'], ',g')}</td>"
        f"<td>{escape(row['unit'])}</td>"
        f"<td class=n>{'' if row['bar'] is None else format(row['bar'], 'g')}</td>"
        f"<td class={'short' if row['verdict'] not in ('met', 'measured') else 'met'}>{escape(row['verdict'])}</td>"
        f"<td>{escape(_when(results[row['bench']]))}</td></tr>\n"
        for row in rows
    )
    figures = "".join(f"<figure>{picture}</figure>\n" for picture in drawn.values())
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>Perdure: benches</title><style>{_STYLE}</style>\n<h1>Benches</h1>\n"
        "<p>Each figure comes from the command <code>perdure bench NAME --json</code>, on the machine and at the time beside it.</p>\n"
        f"<table><tr><th>bench<th>value<th>unit<th>bar<th>verdict<th>measured</tr>\n{lines}</table>\n{figures}"
        + (f"<p>Not drawn, since no result was kept: {escape(', '.join(missing))}.</p>\n" if missing else "")
        + "</html>\n"
    )


def _when(result: Result) -> str:
    where = result.get("measured", {})
    return f"{str(where.get('at', ''))[:16].replace('T', ' ')}, {where.get('cores', '?')} cores"
