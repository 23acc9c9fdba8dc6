"""The ladder of overload: in order up, down again when it is calm, never up and down in turn; and what is a fair share."""

from __future__ import annotations

import pytest

from shard.pace import BUDGET, EVALUATE_S, RUNGS, Pace, share_of

INTERVAL_S = 0.05
SHARE_S = share_of([0.0], INTERVAL_S, 1)


def run(pace: Pace, step_s: float, encode_s: float, seconds: float, now_s: float = 0.0) -> tuple[list[int], float]:
    """Run a zone whose ticks cost so much; return the levels that it was on, in order, and the time."""
    levels = [pace.level]
    until_s = now_s + seconds
    while now_s < until_s:
        ticks = max(int(EVALUATE_S / pace.interval_s), 1)
        for tick in range(ticks):
            pace.took(step_s, encode_s if tick % pace.rung.snapshot_every == 0 else None)
        pace.weigh(now_s, SHARE_S)
        if pace.level != levels[-1]:
            levels.append(pace.level)
        now_s += EVALUATE_S
    return levels, now_s


def test_a_zone_within_its_share_stays_where_it_is() -> None:
    assert run(Pace(INTERVAL_S), 0.4 * SHARE_S, 0.5 * SHARE_S, 10)[0] == [0]


@pytest.mark.parametrize(("step", "encode"), [(3.0, 0.0), (0.1, 2.9), (1.0, 2.0), (0.0, 1.2)])
def test_rungs_are_climbed_in_order_as_far_as_needed_and_come_down_when_it_is_calm(step: float, encode: float) -> None:
    pace = Pace(INTERVAL_S)
    levels, now_s = run(pace, step * SHARE_S, encode * SHARE_S, 20)
    assert levels == list(range(len(levels))), "one after the other, and it stays there"
    rung = RUNGS[levels[-1]]
    assert (step + encode / rung.snapshot_every) * rung.clock_percent / 100 <= 1.0
    down, _ = run(pace, 0.05 * SHARE_S, 0.05 * SHARE_S, 30, now_s)
    assert down == list(range(levels[-1], -1, -1))


def test_the_clock_is_never_slower_than_a_tenth() -> None:
    pace = Pace(INTERVAL_S)
    levels, _ = run(pace, 100 * SHARE_S, 100 * SHARE_S, 20)
    assert levels[-1] == len(RUNGS) - 1
    assert pace.rung.clock_percent == 10 and pace.interval_s == pytest.approx(10 * INTERVAL_S)


def test_what_is_given_up_rises_with_the_rung_in_the_order_of_the_ladder() -> None:
    names = [rung.name for rung in RUNGS]
    assert sorted(set(names), key=names.index) == ["calm", "far", "snapshots", "dilation"]
    assert [rung.clock_percent for rung in RUNGS] == sorted((rung.clock_percent for rung in RUNGS), reverse=True)
    for rung in RUNGS:
        assert 20 * rung.clock_percent / 100 / rung.snapshot_every >= 2, "at 20 Hz, two snapshots a second at least"


def test_a_slowed_zone_that_ticks_with_the_others_ticks_as_often_as_its_clock_says() -> None:
    for level in range(len(RUNGS)):
        pace = Pace(INTERVAL_S)
        pace._own = level
        assert sum(pace.ticks_now() for _ in range(2000)) == pytest.approx(2000 * pace.rung.clock_percent / 100, abs=2)


def test_shares_are_even_among_those_who_want_more_and_never_more_than_one_thread() -> None:
    whole = BUDGET * INTERVAL_S
    assert share_of([], INTERVAL_S, 2) == whole
    assert share_of([0.001] * 8, INTERVAL_S, 1) == whole
    assert share_of([0.2, 0.005, 0.005], INTERVAL_S, 1) == pytest.approx(whole - 0.01)
    assert share_of([0.2, 0.2, 0.005], INTERVAL_S, 2) == pytest.approx((2 * whole - 0.005) / 2)
    assert share_of([0.01] * 16, INTERVAL_S, 1) == pytest.approx(whole / 16)
