"""Where zones go: even, contiguous, stable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.placement.assignment import ZONE_BASE_COST, BalancedRegions
from perdure.wire.identifiers import WorldGrid


def cut(columns: int, rows: int, owners: dict[int, str]) -> int:
    """Return how many pairs of touching zones run on different shards."""
    grid = WorldGrid(1.0, 1.0, columns, rows)
    return sum(1 for zone in range(grid.zones) for other in grid.neighbours(zone) if other > zone and owners[zone] != owners[other])


@pytest.mark.parametrize(("columns", "rows", "shards"), [(4, 4, 4), (4, 4, 3), (8, 8, 5), (1, 7, 2), (3, 2, 8), (16, 16, 7)])
def test_zones_of_equal_cost_are_spread_evenly(columns: int, rows: int, shards: int) -> None:
    holdings: dict[str, set[int]] = {f"s{i}": set() for i in range(shards)}
    placed = BalancedRegions(columns, rows).place(range(columns * rows), holdings, {})
    counts = Counter(placed.values())
    assert sorted(placed) == list(range(columns * rows))
    assert max(counts.values()) - min(counts[shard] for shard in holdings) <= 1


def test_regions_are_contiguous_where_it_is_cheap() -> None:
    placed = BalancedRegions(8, 8).place(range(64), {f"s{i}": set() for i in range(4)}, {})
    checkered = {zone: f"s{zone % 4}" for zone in range(64)}
    assert cut(8, 8, placed) < cut(8, 8, checkered) / 2


def test_four_by_four_over_four_shards_is_four_squares() -> None:
    placed = BalancedRegions(4, 4).place(range(16), {f"s{i}": set() for i in range(4)}, {})
    assert {frozenset(z for z in placed if placed[z] == s) for s in ("s0", "s1", "s2", "s3")} == {
        frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7}), frozenset({8, 9, 12, 13}), frozenset({10, 11, 14, 15})
    }  # fmt: skip


def test_no_shard_takes_nothing() -> None:
    assert BalancedRegions(2, 2).place([0, 1], {}, {}) == {}


def test_lost_zones_go_where_there_is_least_load() -> None:
    costs = dict.fromkeys(range(16), ZONE_BASE_COST) | dict.fromkeys(range(4), 500.0)
    holdings = {"busy": {0, 1, 2, 3}, "idle": {4, 5, 6, 7}}
    placed = BalancedRegions(4, 4).place(range(8, 16), holdings, costs)
    assert set(placed.values()) == {"idle"}


def test_heavy_zones_are_spread_first() -> None:
    costs = dict.fromkeys(range(16), ZONE_BASE_COST) | {5: 900.0, 6: 900.0}
    placed = BalancedRegions(4, 4).place(range(16), {"a": set(), "b": set()}, costs)
    assert placed[5] != placed[6]


def test_a_joiner_gets_its_share_and_no_more() -> None:
    holdings = {"a": set(range(8)), "b": set(range(8, 16)), "c": set()}
    moves = BalancedRegions(4, 4).rebalance(holdings, {}, set(range(16)), 100)
    assert {move.target for move in moves} == {"c"}
    assert len(moves) == 5
    assert Counter(move.source for move in moves).most_common(1)[0][1] == 3


def test_one_zone_more_is_no_reason_to_move() -> None:
    assert BalancedRegions(3, 3).rebalance({"a": set(range(5)), "b": set(range(5, 9))}, {}, set(range(9)), 9) == []


def test_zones_that_rest_are_not_moved() -> None:
    moves = BalancedRegions(4, 4).rebalance({"a": set(range(16)), "b": set()}, {}, {3, 4}, 100)
    assert {move.zone for move in moves} == {3, 4}


def test_a_move_that_would_only_turn_the_tables_is_not_made() -> None:
    costs = {0: 1000.0, 1: 20.0, 2: 20.0}
    assert BalancedRegions(3, 1).rebalance({"a": {0}, "b": {1, 2}}, costs, {0, 1, 2}, 9) == []


WORLDS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 6))


@settings(max_examples=80, deadline=None)
@given(WORLDS, st.data())
def test_rebalancing_levels_comes_to_rest_and_does_not_depend_on_order(world: tuple[int, int, int], data: st.DataObject) -> None:
    columns, rows, shards = world
    zones = columns * rows
    costs = {zone: ZONE_BASE_COST + data.draw(st.floats(0, 500)) for zone in range(zones)}
    owner = {zone: f"s{data.draw(st.integers(0, shards - 1))}" for zone in range(zones)}
    holdings = {f"s{i}": {zone for zone in owner if owner[zone] == f"s{i}"} for i in range(shards)}
    strategy = BalancedRegions(columns, rows)

    def spread() -> float:
        return sum(sum(costs[zone] for zone in held) ** 2 for held in holdings.values())

    for _ in range(zones * shards):
        backwards = {shard: set(holdings[shard]) for shard in sorted(holdings, reverse=True)}
        moves = strategy.rebalance(holdings, costs, set(range(zones)), 3)
        assert moves == strategy.rebalance(backwards, costs, set(range(zones)), 3)
        if not moves:
            break
        before = spread()
        for move in moves:
            holdings[move.source].remove(move.zone)
            holdings[move.target].add(move.zone)
        assert spread() < before, "each round of moves levels the load, so rounds cannot go in circles"
    else:
        raise AssertionError("moves never end")


@settings(max_examples=80, deadline=None)
@given(WORLDS, st.data())
def test_every_zone_is_placed_once_whatever_is_held_already(world: tuple[int, int, int], data: st.DataObject) -> None:
    columns, rows, shards = world
    zones = columns * rows
    held = data.draw(st.sets(st.integers(0, zones - 1)))
    holdings: dict[str, set[int]] = {f"s{i}": set() for i in range(shards)}
    for zone in held:
        holdings[f"s{data.draw(st.integers(0, shards - 1))}"].add(zone)
    placed = BalancedRegions(columns, rows).place(set(range(zones)) - held, holdings, {})
    assert placed.keys() == set(range(zones)) - held
    assert set(placed.values()) <= holdings.keys()
