from __future__ import annotations

import inspect
import json
import subprocess
from importlib import import_module
from typing import Any

import pytest

from benchmarks import all as every
from perdure.cli.bench import BadOption, names


def test_every_bench_is_in_the_table_with_options_that_it_has() -> None:
    assert set(every.BENCHES) == set(names()) - {"all", "chaos"}
    for name, (options, rows) in every.BENCHES.items():
        parameters = inspect.signature(import_module(f"benchmarks.{name}").run).parameters
        assert {option.removeprefix("--").replace("-", "_") for option in options[::2]} <= set(parameters), name
        assert rows, name


def answers(monkeypatch: pytest.MonkeyPatch, **told: dict[str, Any]) -> None:
    """Let benches answer these figures; one that is not told ends with an error."""

    def ran(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        found = told.get(words[4])
        if found is None:
            return subprocess.CompletedProcess(words, 2, "", "a line\nperdure bench: there is no Valkey here\n")
        return subprocess.CompletedProcess(words, 0, "progress\n" + json.dumps(found) + "\n", "")

    monkeypatch.setattr(subprocess, "run", ran)


def test_the_table_says_what_is_met_and_what_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, fanout={"ratio": 1.44, "passed": False}, capacity={"players": 3500}, redis={"commits_a_second": 9125})
    result = every.run("fanout,capacity,redis")
    assert [(row["bench"], row["value"], row["bar"], row["verdict"]) for row in result["rows"]] == [
        ("fanout", 1.44, 1.3, "falls short"), ("fanout", None, None, "falls short"), ("capacity", 3500.0, 2000, "met"),
        ("redis", 9125.0, None, "measured"),
    ]  # fmt: skip
    assert result["passed"] is False
    text = every.report(result)
    assert "falls short" in text and "3,500" in text
    assert every.run("capacity,redis")["passed"] is True


def test_a_bench_that_has_not_passed_falls_short_though_all_its_figures_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    amiss = ["998 of 1000 players are in the world", "3 faults in what was decoded"]
    lost = {"gap_ms_p99": 80.0, "players_lost": 1, "passed": False}
    answers(monkeypatch, migration=lost, endtoend={"ratio": 1.5, "amiss": amiss, "passed": False})
    result = every.run("migration,endtoend")
    assert [(row["figure"], row["unit"], row["verdict"]) for row in result["rows"]] == [
        ("gap_ms_p99", "ms, p99", "met"), ("passed", "its own verdict", "falls short"), ("ratio", "of bare messages", "met"),
        ("passed", "its own verdict: 998 of 1000 players are in the world and 1 more", "falls short"),
    ]  # fmt: skip
    assert result["passed"] is False
    line = next(line for line in every.report(result).splitlines() if "migration" in line and "verdict" in line)
    assert [cell.strip() for cell in line.split("│")[3:6]] == ["-", "", "falls short"]


def test_a_bench_that_has_passed_or_says_nothing_of_itself_has_no_row_more(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, migration={"gap_ms_p99": 80.0, "passed": True}, capacity={"players": 3500})
    result = every.run("migration,capacity")
    assert [row["figure"] for row in result["rows"]] == ["gap_ms_p99", "players"]
    assert result["passed"] is True


def test_what_the_audit_found_is_a_row_of_benches_that_end_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, capacity={"players": 3500, "audit_findings": 2}, jitter={"audit_findings": 0})
    rows = every.run("capacity,jitter")["rows"]
    assert [(row["bench"], row["verdict"]) for row in rows if row["figure"] == "audit_findings"] == [
        ("capacity", "falls short"), ("jitter", "met")
    ]  # fmt: skip


def test_a_bench_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, commit={"ours": {"p50_ms": 0.5}}, crossing={"fault": "ClientClosed: the bots ended", "passed": False})
    result = every.run("fanout,commit,crossing")
    assert [row["verdict"] for row in result["rows"]] == [
        "exit code 2: perdure bench: there is no Valkey here", "met", "it has no figure ours.p99_ms", "ClientClosed: the bots ended"
    ]  # fmt: skip
    assert result["passed"] is False


def test_a_bench_that_there_is_not_is_refused() -> None:
    with pytest.raises(BadOption, match="no bench 'nothing'; there are startup, "):
        every.run("nothing")
