"""Liveness by the observer's own time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.placement.lease import LeaseWatch


def watch(**settings: float) -> LeaseWatch[str]:
    return LeaseWatch(1000.0, **settings)


def observe(lease: LeaseWatch[str], start_ms: int, end_ms: int, **beats: int) -> list[str]:
    for now_ms in range(start_ms, end_ms + 1, 100):
        lease.observe(now_ms, beats)
    return lease.expired(end_ms)


def test_a_new_subject_lives_for_a_lease() -> None:
    lease = watch()
    assert observe(lease, 0, 900, a=1) == []
    assert observe(lease, 1000, 1000, a=1) == ["a"]


def test_a_beat_that_rises_keeps_it_alive() -> None:
    lease = watch()
    observe(lease, 0, 900, a=1)
    assert observe(lease, 1000, 1900, a=2) == []
    assert observe(lease, 2000, 2000, a=2) == ["a"]


def test_a_beat_that_fell_is_a_sign_of_life_too() -> None:
    lease = watch()
    observe(lease, 0, 900, a=7)
    assert observe(lease, 1000, 1500, a=3) == []


def test_another_sign_of_life_counts() -> None:
    lease = watch()
    observe(lease, 0, 900, a=1)
    lease.touch(900, "a")
    lease.touch(900, "nobody")
    assert observe(lease, 1000, 1800, a=1) == []
    assert lease.silence_ms(1800, "a") == 900
    assert lease.silence_ms(1800, "nobody") == 0


def test_timers_restart_after_an_outage() -> None:
    lease = watch(grace_ms=500)
    observe(lease, 0, 900, a=1)
    lease.interrupted()
    assert lease.expired(60_000) == []
    assert observe(lease, 60_000, 61_400, a=1) == []
    assert observe(lease, 61_500, 61_500, a=1) == ["a"]


def test_timers_restart_when_the_observer_itself_was_away() -> None:
    lease = watch()
    observe(lease, 0, 100, a=1)
    assert lease.expired(5000) == []
    assert observe(lease, 5000, 5900, a=1) == []
    assert observe(lease, 6000, 6000, a=1) == ["a"]


def test_who_is_gone_is_forgotten() -> None:
    lease = watch()
    observe(lease, 0, 900, a=1, b=1)
    assert observe(lease, 1000, 1000, b=1) == ["b"]
    assert observe(lease, 1100, 1100, a=1) == []


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=60))
def test_nobody_expires_who_was_heard_of_within_the_lease(steps: list[tuple[int, bool]]) -> None:
    lease = watch()
    now_ms, beat, heard_ms = 0, 0, 0
    lease.observe(0, {"a": beat})
    for elapsed_ms, beats in steps:
        now_ms += elapsed_ms
        if beats:
            beat, heard_ms = beat + 1, now_ms
        lease.observe(now_ms, {"a": beat})
        assert (lease.expired(now_ms) == ["a"]) == (now_ms - heard_ms >= 1000)
