"""When gateways are told at which time a shard reads."""

from __future__ import annotations

from perdure.wire.link import AT_ONCE_US
from shard.read_schedule import AGAIN_S, AGAIN_TICKS, ReadSchedule

INTERVAL_S = 0.05


def told(schedule: ReadSchedule, ticks: int, now_s: float = 0.0, late_s: float = 0.0) -> list[tuple[int, int] | None]:
    """Return what is told in so many ticks; each reads 10 ms after the word."""
    return [schedule.told(now_s + tick * INTERVAL_S, now_s + tick * INTERVAL_S + 0.01 + late_s, INTERVAL_S) for tick in range(ticks)]


def test_nothing_is_told_while_nobody_asks() -> None:
    assert told(ReadSchedule(), 100) == [None] * 100


def test_it_is_told_a_few_times_and_then_now_and_then() -> None:
    schedule = ReadSchedule()
    schedule.asked()
    found = told(schedule, 100)
    assert found[:AGAIN_TICKS] == [(10_000, 1), *[(10_000, 0)] * (AGAIN_TICKS - 1)]
    assert [tick for tick, word in enumerate(found) if word is not None][AGAIN_TICKS:] == [
        AGAIN_TICKS - 1 + round(AGAIN_S / INTERVAL_S) * n for n in (1, 2)
    ]


def test_who_asks_later_is_told_at_once() -> None:
    schedule = ReadSchedule()
    schedule.asked()
    told(schedule, 20)
    schedule.asked()
    assert told(schedule, 1, now_s=20 * INTERVAL_S) == [(10_000, 0)]


def test_another_schedule_is_told_at_once_and_a_little_slip_is_not() -> None:
    schedule = ReadSchedule()
    schedule.asked()
    told(schedule, 20)
    assert told(schedule, 2, now_s=20 * INTERVAL_S, late_s=0.0005) == [None, None]
    assert told(schedule, 2, now_s=22 * INTERVAL_S, late_s=0.02) == [(30_000, 1), (30_000, 0)]


def test_a_time_that_is_over_is_told_as_the_next_one() -> None:
    schedule = ReadSchedule()
    schedule.asked()
    assert schedule.told(1.0, 0.98, INTERVAL_S) == (30_000, 1)


def test_a_shard_that_reads_as_things_come_says_so_once_and_what_it_goes_back_to() -> None:
    schedule = ReadSchedule()
    schedule.asked()
    told(schedule, 20)
    assert schedule.told(1.0, None, INTERVAL_S) == (AT_ONCE_US, 1)
    assert schedule.told(1.05, None, INTERVAL_S) == (AT_ONCE_US, 0)
    assert schedule.told(1.1, 1.11, INTERVAL_S) == (10_000, 1)
