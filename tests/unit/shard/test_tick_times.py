from __future__ import annotations

import pytest

from shard.tick_times import AGAIN, WINDOW, TickTimes


def test_the_last_ticks_are_told_in_milliseconds() -> None:
    times = TickTimes()
    assert times.told() == {}
    for _ in range(WINDOW - 1):
        times.add(0.002)
    times.add(0.01)
    assert times.told() == {"mean": pytest.approx(2.031, abs=0.001), "p50": 2.0, "p99": 2.0, "longest": 10.0}


def test_what_is_long_ago_does_not_count() -> None:
    times = TickTimes()
    times.add(1.0)
    for _ in range(WINDOW):
        times.add(0.002)
    assert times.told()["longest"] == 2.0


def test_what_is_told_is_worked_out_anew_now_and_then() -> None:
    times = TickTimes()
    times.add(0.002)
    assert times.told()["longest"] == 2.0
    for _ in range(AGAIN - 1):
        times.add(0.01)
        assert times.told()["longest"] == 2.0
    times.add(0.01)
    assert times.told()["longest"] == 10.0
