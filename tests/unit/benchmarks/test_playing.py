"""What the benches on real processes count, and when they have passed."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks._audit import Audit
from benchmarks._playing import ZEROES, Playing, nothing_lost
from perdure.client.bots import BotReport, BotsReport
from perdure.wire.identifiers import player_key
from shard.audit import AuditReport


def _run(**more: Any) -> Playing:
    watch: Any = SimpleNamespace(applied={player_key("ann"): Counter({1: 1, 2: 1})}, restored={}, unwatched=0, faults=[], records=9)
    values: dict[str, Any] = {"audit": Audit(), "world": AuditReport(), **more}
    bots = BotsReport([BotReport("ann", entered=True, acknowledged=[1, 2])])
    return Playing(cluster=None, watch=watch, report=bots, **values)  # type: ignore[arg-type]


def test_a_run_in_which_all_is_there_has_passed() -> None:
    figures = _run().verdict()
    assert nothing_lost(figures)
    assert figures["commands_acknowledged"] == 2


def test_what_the_auditor_finds_is_a_figure_that_must_be_0() -> None:
    run = _run(world=AuditReport(faults=["zone 3 tick 5: the log's chain is broken here", "player ann is in 2 places"]))
    assert run.verdict()["audit_faults"] == 2
    assert not nothing_lost(run.verdict())
    assert "player ann is in 2 places" in run.faults()


@pytest.mark.parametrize("name", ZEROES)
def test_each_count_that_is_not_0_fails_the_run(name: str) -> None:
    assert not nothing_lost({**_run().verdict(), name: 1})
