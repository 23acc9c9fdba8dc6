"""The file of the chaos bench's runs: nothing in it is lost, runs add up, and a later run goes on where it ends."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _chaos_results, chaos
from benchmarks._chaos_results import BadResults, RowTotal, append, entry, read, table, totals
from benchmarks._stage import Outcome

COUNTS = {"players_lost": 1, "commands_lost": 2, "players_duplicated": 0, "commands_duplicated": 4, "gold_delta": 0,
          "replay_mismatches": 0, "commands_acknowledged": 100}  # fmt: skip


def _outcome(row: str = "shard-kill", runs: int = 5, passed: int = 5, **more: object) -> Outcome:
    values: dict[str, object] = {"blackouts_s": [0.1, 0.1, 0.2], "figures": dict(COUNTS), **more}
    return Outcome(row, runs=runs, passed_runs=passed, **values)  # type: ignore[arg-type]


def _add(file: Path, outcome: Outcome) -> None:
    append(file, entry(outcome, seed=7, bots=200, build_id="abc"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.jsonl"
    assert read(file) == []
    _add(file, _outcome())
    _add(file, _outcome("calm", 1, 0, fault="expected x; seen: y"))
    first, second = read(file)
    assert (first["row"], first["runs"], first["passed"], first["seed"], first["bots"], first["build"]) == (
        "shard-kill",
        5,
        5,
        7,
        200,
        "abc",
    )
    assert (first["lost"], first["duplicated"], first["commands_acknowledged"]) == (3, 4, 100)
    assert first["blackout_ms"] == [[100, 2], [200, 1]]
    assert second["fault"] == "expected x; seen: y"


@pytest.mark.parametrize("torn", [b"{", b'{"row": "calm", "runs": 1, "passed": 1}'])
def test_half_a_line_at_the_end_is_dropped_and_written_over(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "runs.jsonl"
    _add(file, _outcome())
    with open(file, "ab") as out:
        out.write(torn)
    assert [line["row"] for line in read(file)] == ["shard-kill"]
    _add(file, _outcome("calm"))
    assert [line["row"] for line in read(file)] == ["shard-kill", "calm"]


def test_a_line_that_no_run_has_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    _add(file, _outcome())
    with open(file, "ab") as out:
        out.write(b'{"row": "calm"}\n')
    with pytest.raises(BadResults, match=r"runs\.jsonl, line 2, is no run of a row"):
        read(file)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_is_the_nearest_rank_of_all_samples(values: list[int], percent: int) -> None:
    found = RowTotal(blackout_ms=Counter(values)).percentile(percent)
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    assert sum(value < found for value in values) < len(values) * percent / 100
    assert RowTotal(blackout_ms=Counter(values)).percentile(100) == max(values)
    assert RowTotal(blackout_ms=Counter(values)).percentile(50) == statistics.median_low(values)


def test_runs_add_up_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    for outcome in (_outcome(), _outcome(runs=3, passed=2, fault="it did not"), _outcome("clocks", 0, 0, skipped="no compiler")):
        _add(file, outcome)
    total = totals(read(file))["shard-kill"]
    assert (total.runs, total.passed, total.lost, total.duplicated) == (8, 7, 6, 8)
    assert total.blackout_ms == Counter({100: 4, 200: 2})
    text = table(read(file), ["clocks", "shard-kill"], "perdure bench chaos").splitlines()
    assert text[2].startswith("| clocks | 0 |")
    assert text[3].startswith("| shard-kill | 8 | 7 of 8 | 100 / 200 / 200 | 6 | 8 | 20")
    assert "build abc, 200 bots. 7 of 8 runs passed; 200 acknowledged commands checked" in text[5]
    assert text[-1] == "- `shard-kill`, 1 times: it did not"


def test_a_later_run_does_what_is_missing_in_random_order(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    _add(file, _outcome(runs=3))
    _add(file, _outcome("calm", 10))
    rows = chaos.known_rows()
    chosen = [rows[name] for name in ("shard-kill", "calm", "gateway-kill")]
    stages = chaos.stages_until(10, chosen, read(file), random.Random(1))
    runs: Counter[str] = Counter()
    for stage in stages:
        assert 1 <= stage.repeats <= stage.row.repeats
        runs[stage.row.name] += stage.repeats
    assert runs == {"shard-kill": 7, "gateway-kill": 10}
    assert [stage.row.name for stage in stages] != sorted((stage.row.name for stage in stages), reverse=True)
    assert chaos.stages_until(3, chosen[:2], read(file), random.Random(1)) == []


def test_the_build_is_named() -> None:
    assert _chaos_results.build().rstrip("+").isalnum() or "." in _chaos_results.build()
