"""What the benches' audit says of what it has counted."""

from __future__ import annotations

from collections import Counter

from benchmarks._audit import not_there_once


def test_each_relic_is_to_be_there_once() -> None:
    assert not_there_once({1000, 1001}, Counter([1001, 1000])) == ([], [])


def test_what_is_nowhere_is_lost_and_what_is_twice_or_of_nobody_is_one_too_many() -> None:
    assert not_there_once({1000, 1001, 1002}, Counter([1001, 1001, 1000, 7])) == ([1002], [7, 1001])
