"""What comes for zones between their ticks: each gets its own rows, in their order, and what is bounded stays bounded."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shard import arrivals as module
from shard.arrivals import Arrivals

FRAMES = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6)
"""The zones that the rows of each frame are for."""


@settings(max_examples=200, deadline=None)
@given(FRAMES, st.sets(st.integers(0, 5)), FRAMES)
def test_zones_get_their_rows_in_order_and_those_of_others_wait(frames: list[list[int]], first: set[int], later: list[list[int]]) -> None:
    came, waiting, sent = Arrivals(), dict[int, list[int]](), 0

    def arrive(frames: list[list[int]]) -> None:
        nonlocal sent
        for zones in frames:
            rows = [[zone, sent + at] for at, zone in enumerate(zones)]
            sent += len(rows)
            for zone, number in rows:
                waiting.setdefault(zone, []).append(number)
            assert came.add_rows(np.array(zones, np.uint16), np.array(rows, np.uint8).reshape(-1, 2))

    def take(numbers: set[int]) -> None:
        taken = came.rows_of(sorted(numbers))
        assert {zone: rows[:, 1].tolist() for zone, rows in taken} == {z: waiting.pop(z) for z in list(waiting) if z in numbers}
        assert all((rows[:, 0] == zone).all() for zone, rows in taken)
        assert came.bytes_waiting == 2 * sum(map(len, waiting.values()))

    arrive(frames)
    take(first)
    arrive(later)
    take(set(range(6)))
    assert came.rows_of(list(range(6))) == []


def test_too_much_is_not_taken_and_a_zone_that_went_leaves_nothing() -> None:
    came = Arrivals()
    half = np.zeros((1, module.MAX_INCOMING_BYTES // 2), np.uint8)
    for zone in (1, 2):
        assert came.add_rows(np.array([zone], np.uint16), half)
    assert not came.add_rows(np.array([1], np.uint16), half[:, :1])
    came.want_keyframes(1, [7])
    came.forget(1)
    assert came.bytes_waiting == half.nbytes
    assert came.wanted_of([1, 2]) == []
    assert [zone for zone, _ in came.rows_of([1, 2])] == [2]
