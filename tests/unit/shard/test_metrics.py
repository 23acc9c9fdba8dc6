"""What a shard counts at every tick, without the library's own counting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from shard.metrics import _BUCKETS, Durations


@given(st.lists(st.floats(0, 10) | st.sampled_from(_BUCKETS)))
def test_a_histogram_says_what_the_librarys_own_would(times_s: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    quick = Durations("perdure_step_seconds", "time to step all zones", ours)
    slow = Histogram("perdure_step_seconds", "time to step all zones", buckets=_BUCKETS, registry=theirs)
    for seconds in times_s:
        quick.observe(seconds)
        slow.observe(seconds)
    expected = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == expected
