"""Whose command makes the rules fail: proven in a few tries, and nobody else is put out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from shard.suspects import TOGETHER_TIMES, Suspects, culprits


class Counted:
    """A tick that fails where `bad` says so of the players that have a command in it."""

    def __init__(self, bad: Callable[[set[int]], bool]) -> None:
        self._bad, self.tries = bad, 0

    def __call__(self, players: Sequence[int]) -> bool:
        self.tries += 1
        return self._bad(set(players))


@given(st.integers(1, 500), st.data())
def test_one_is_found_in_a_few_tries(count: int, data: st.DataObject) -> None:
    poisoner = data.draw(st.integers(0, count - 1))
    fails = Counted(lambda present: poisoner in present)
    assert culprits(range(count), fails) == [poisoner]
    assert fails.tries <= count.bit_length() + 2


@given(st.integers(2, 60), st.data())
def test_those_who_do_it_only_together_are_found_together(count: int, data: st.DataObject) -> None:
    together = data.draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=4))
    fails = Counted(lambda present: together <= present)
    assert culprits(range(count), fails) == sorted(together)
    assert fails.tries <= (len(together) + 1) * (count.bit_length() + 2)


@given(st.integers(1, 60), st.data())
def test_of_several_who_do_it_alone_one_is_found_at_a_time(count: int, data: st.DataObject) -> None:
    each = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    found = culprits(range(count), Counted(lambda present: bool(each & present)))
    assert found is not None and len(found) == 1 and set(found) <= each


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_search_ends_whatever_the_rules_do(count: int, chance) -> None:
    fails = Counted(lambda _: chance.random() < 0.5)
    found = culprits(range(count), fails)
    assert found is None or set(found) <= set(range(count))
    assert fails.tries <= count * (count.bit_length() + 2) + 1


def test_one_alone_is_put_out_at_once() -> None:
    assert Suspects().proven(3, [7]) == {7}


def test_who_does_it_again_and_again_with_others_is_put_out_and_not_the_others() -> None:
    suspects = Suspects()
    for other in range(1, TOGETHER_TIMES):
        assert suspects.proven(0, [7, other]) == frozenset()
    assert suspects.proven(0, [7, 9]) == {7}
    assert suspects.proven(0, [7, 9]) == frozenset(), "counted anew"


def test_zones_are_apart_and_forgotten() -> None:
    suspects = Suspects()
    for zone in (0, 1):
        for _ in range(TOGETHER_TIMES - 1):
            assert suspects.proven(zone, [1, 2]) == frozenset()
    suspects.forget(0)
    assert suspects.proven(0, [1, 2]) == frozenset()
    assert suspects.proven(1, [1, 2]) == {1, 2}
