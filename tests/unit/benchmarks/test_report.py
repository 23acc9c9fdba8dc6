"""Results are kept by bench, and one page is made of them, whatever is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks._playing import histogram
from benchmarks._report import PICTURES, page, pictures, read
from benchmarks._tick_parts import parts_ms
from perdure.cli.bench import keep
from perdure.cli.report import main

FAILOVER = {
    "kills": 2, "clients_affected": 5, "blackout_ms_p50": 80.0, "blackout_ms_p99": 120.0, "bar_p99_ms": 700,
    "blackout_ms_histogram": histogram([0.081, 0.0805, 0.12]), "passed": True,
}  # fmt: skip
GAP = {"gap_ms_p50": 60.0, "gap_ms_p99": 104.0, "bar_p99_ms": 100, "gap_ms_histogram": [[50, 3], [100, 1]]}
EVERY = {
    "failover": FAILOVER, "migration": GAP, "crossing": GAP,
    "tick": {"share": 0.2, "ns_per_visible_entity": 90.0, "live_players": 100, "parts_ms": {"step": 1.0, "encode": 2.0}},
    "capacity": {
        "players": 1000, "bar_interval_ms_p99": 75.0,
        "curve": [{"players": n, "interval_ms_p50": 50.0, "interval_ms_p99": 60.0, "gateway_cores": 0.1, "shard_cores": 0.1,
                   "valkey_cores": 0.1, "coordinator_cores": 0.1} for n in (500, 1000)],
    },
    "jitter": {"players": 1000, "minutes": 1.0, "tick_ratio": 3.0, "bar_p99_ms": 60.0, "interval_ms_p99": 55.0,
               "windows": [{"p50": 50.0, "p99": 55.0, "p999": 70.0}] * 3},
}  # fmt: skip


def test_every_picture_is_drawn_where_all_was_kept(tmp_path: Path) -> None:
    keep(tmp_path, "all", {"benches": {**EVERY, "redis": {"fault": "it did not run"}}})
    results = read(tmp_path)
    assert sorted(results) == sorted(EVERY)
    assert set(pictures(results)) == set(PICTURES)
    assert "falls short" in page(results) and "Not drawn" not in page(results)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    keep(tmp_path, "failover", FAILOVER)
    keep(tmp_path, "jitter", {"interval_ms_p99": 55.0})  # of a bench that kept no windows
    assert set(pictures(read(tmp_path))) == {"blackout"}
    assert "Not drawn, since no result was kept: capacity, capacity-intervals, tick, migration, crossing, jitter." in page(read(tmp_path))
    assert main(["report", str(tmp_path), "--images", str(tmp_path / "images")]) == 0
    assert (tmp_path / "report.html").exists() and [p.name for p in (tmp_path / "images").iterdir()] == ["blackout.svg"]


def test_a_kept_result_that_has_not_passed_falls_short_on_the_page(tmp_path: Path) -> None:
    keep(tmp_path, "failover", {**FAILOVER, "players_lost": 1, "passed": False})
    said = page(read(tmp_path))
    assert "<td class=n>-</td><td>its own verdict</td><td class=n></td><td class=short>falls short</td>" in said


def test_a_folder_without_results_and_a_file_that_is_none_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    (tmp_path / "notes.json").write_text(json.dumps([1]))
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "has no results" in said[0] and "notes.json is no result of a bench" in said[1]


def test_times_are_counted_in_steps() -> None:
    assert histogram([0.0501, 0.0599, 0.061, 0.2]) == [[50, 2], [60, 1], [200, 1]]
    assert histogram([]) == []


def test_of_a_commit_only_what_is_waited_for_counts() -> None:
    before = {"tick": 1.0, "step": 0.5, "encode": 0.2, "commit": 0.3, "ticks": 100.0}
    after = {"tick": 1.6, "step": 0.6, "encode": 0.4, "commit": 0.6, "ticks": 200.0}
    assert parts_ms(before, after) == {"step": 1.0, "encode": 2.0, "commit": 1.0, "release": 2.0}
    assert parts_ms(before, before) == {}
