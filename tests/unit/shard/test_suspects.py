"""Whose command makes the rules fail: found soon, and nobody else is put out."""

from __future__ import annotations

from shard.suspects import Suspects


def test_one_alone_is_put_out_at_the_second_failure() -> None:
    suspects = Suspects()
    assert suspects.failed(3, [7]) == frozenset()
    assert 3 in suspects
    assert suspects.failed(3, [7]) == {7}
    assert 3 not in suspects


def test_only_who_was_at_every_failure_is_suspect() -> None:
    suspects = Suspects()
    assert suspects.failed(0, [1, 2, 3]) == frozenset()
    assert suspects.failed(0, [2, 4]) == {2}


def test_several_who_cannot_be_told_apart_go_at_the_third() -> None:
    suspects = Suspects()
    assert suspects.failed(0, [1, 2]) == frozenset()
    assert suspects.failed(0, [1, 2]) == frozenset()
    assert suspects.failed(0, [1, 2]) == {1, 2}


def test_who_was_in_a_tick_that_was_committed_is_innocent() -> None:
    suspects = Suspects()
    suspects.failed(0, [1, 2])
    suspects.passed(0, [1, 9])
    assert suspects.failed(0, [1, 2]) == {2}
    suspects.failed(0, [5])
    suspects.passed(0, [5])
    assert 0 not in suspects


def test_failures_with_nobody_in_common_have_another_cause() -> None:
    suspects = Suspects()
    for player in range(10):
        assert suspects.failed(0, [player]) == frozenset()


def test_rules_that_fail_without_a_command_put_nobody_out() -> None:
    suspects = Suspects()
    for _ in range(10):
        assert suspects.failed(0, []) == frozenset()


def test_zones_are_apart() -> None:
    suspects = Suspects()
    suspects.failed(0, [1])
    assert suspects.failed(1, [1]) == frozenset()
