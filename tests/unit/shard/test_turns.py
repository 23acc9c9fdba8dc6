"""Shards take turns within an interval, come to them slowly, and a wall clock that jumps does no more than move the turn."""

from __future__ import annotations

import time

import pytest

from shard.turns import SLEW, Turns

INTERVAL_S = 0.05


class Clocks:
    """Both clocks of one host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.skew_s = 1000.0, 1.8e9
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "time", lambda: self.now_s + self.skew_s)


def ticked(clocks: Clocks, turns: Turns, due_s: float, ticks: int) -> float:
    """Run a schedule for so many ticks; return when the next one is due."""
    for _ in range(ticks):
        clocks.now_s = due_s
        step_s = INTERVAL_S + turns.slew_s(due_s)
        assert abs(step_s - INTERVAL_S) <= SLEW * INTERVAL_S + 1e-12
        due_s += step_s
    return due_s


@pytest.mark.parametrize("shards", [2, 3, 4, 7])
def test_shards_that_began_together_end_up_evenly_spread(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    clocks = Clocks(monkeypatch)
    names = [f"shard-{k}" for k in range(shards)]
    at: list[float] = []
    for name in names:
        turns = Turns(INTERVAL_S)
        turns.among(name, names)
        at.append(ticked(clocks, turns, 1000.013, 60) / INTERVAL_S % 1.0)
    for earlier, later in zip(at, [*at[1:], at[0]], strict=True):
        assert (later - earlier) % 1.0 == pytest.approx(1 / shards, abs=1e-3)


def test_alone_or_unknown_it_keeps_the_games_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, turns = Clocks(monkeypatch), Turns(INTERVAL_S)
    assert ticked(clocks, turns, 1000.013, 10) == pytest.approx(1000.513)
    turns.among("shard-1", [])
    assert ticked(clocks, turns, 1000.013, 10) == pytest.approx(1000.513)


def test_a_wall_clock_that_jumps_moves_the_turn_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, turns = Clocks(monkeypatch), Turns(INTERVAL_S)
    turns.among("b", ["a"])
    due_s = ticked(clocks, turns, 1000.0, 60)
    clocks.skew_s += 3600.0 + 0.4 * INTERVAL_S
    before_s, due_s = due_s, ticked(clocks, turns, due_s, 60)
    assert (due_s - before_s) / 60 == pytest.approx(INTERVAL_S, rel=SLEW)
    assert ((due_s + clocks.skew_s) / INTERVAL_S) % 1.0 == pytest.approx(0.5, abs=1e-3)
