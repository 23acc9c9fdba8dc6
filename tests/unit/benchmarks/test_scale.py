"""How worlds of several sizes are compared."""

from __future__ import annotations

import pytest

from benchmarks.scale import PLAYERS_A_ZONE, SPREAD, World, flatness, others_in_sight, spread_of
from perdure.cli.bench import BadOption

ONE, TWO, FOUR = World(1, 16, 4, 4), World(2, 16, 4, 4), World(4, 16, 4, 4)


def test_worlds_are_held_against_each_other_within_a_round() -> None:
    """The machine is twice as slow in the second round and three times in the third: that is no cost of a shard."""
    slow = (1.0, 2.0, 3.0)
    found = {ONE: [0.5 * s for s in slow], TWO: [0.55 * s for s in slow], FOUR: [0.6 * s for s in slow]}
    assert flatness(found, [ONE, TWO, FOUR]) == pytest.approx(1.2)


def test_a_world_that_is_cheaper_than_the_first_counts_too() -> None:
    assert flatness({ONE: [1.0] * 3, TWO: [0.8] * 3, FOUR: [1.1] * 3}, [ONE, TWO, FOUR]) == pytest.approx(1.375)


def test_one_odd_round_does_not_decide() -> None:
    assert flatness({ONE: [1.0] * 5, TWO: [1.1, 1.1, 9.0, 1.1, 0.1]}, [ONE, TWO]) == pytest.approx(1.1)


@pytest.mark.parametrize("players", [30, 60, 120, 480])
def test_each_sees_as_many_however_many_a_zone_has(players: int) -> None:
    assert others_in_sight(players, spread_of(players)) == pytest.approx(others_in_sight(PLAYERS_A_ZONE, SPREAD))


def test_so_few_that_they_could_not_see_as_many_are_refused() -> None:
    with pytest.raises(BadOption, match="say more --players"):
        spread_of(12)
