"""The kernels of the border do what their naive twins do: which rows are told, and which copy of an entity is shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.kernels import border, layout

BRIEF = settings(max_examples=60, deadline=None)
PLACE = st.one_of(st.floats(-300, 300), st.sampled_from([math.nan, math.inf, -1e300, 0.0, 100.0, -20.0, 120.0]))
NEAR = np.array([0.0, 0.0, 100.0, 50.0, 20.0])
ROW = np.dtype([("id", "<i8"), ("player", "<i4"), ("dead", "u1"), ("pad0", "u1"), ("crossings", "<u2"), ("x", "<f8"), ("y", "<f8")])
WORDS = ROW.itemsize // 8


def reached(x: float, y: float, reach: float) -> bool:
    if math.isnan(x) or math.isnan(y):
        return False
    x0, y0, x1, y1, _ = NEAR.tolist()
    dx, dy = max(x0 - x, 0.0, x - x1), max(y0 - y, 0.0, y - y1)
    return dx * dx + dy * dy <= reach * reach


@BRIEF
@given(PLACE, PLACE, st.sampled_from([0.0, 5.0]))
def test_a_place_is_within_reach_of_a_rectangle_or_not(x: float, y: float, extra: float) -> None:
    assert border.reaches(x, y, NEAR, extra) == reached(x, y, 20.0 + extra)


@BRIEF
@given(st.integers(0, 0xFFFF), st.integers(-0x7FFF, 0x7FFF))
def test_crossings_are_compared_as_serial_numbers(one: int, ahead: int) -> None:
    assert border.is_later((one + ahead) & 0xFFFF, one) == (ahead > 0)


def rows_of(places: list[tuple[float, float, int, int]]) -> npt.NDArray[Any]:
    rows = np.zeros(max(len(places), 1), ROW)
    for k, (x, y, dead, player) in enumerate(places):
        rows[k] = (1000 + k, player, dead, 0, k, x, y)
    return rows


@BRIEF
@given(st.lists(st.tuples(PLACE, PLACE, st.integers(0, 2), st.integers(-1, 2)), max_size=12), st.integers(1, 12), st.integers(0, 80))
def test_living_rows_within_reach_are_told(places: list[tuple[float, float, int, int]], room: int, space: int) -> None:
    rows, players = rows_of(places), np.zeros(3, layout.PLAYER)
    players["key"] = [7, 8, 9]
    words = rows.view(np.uint64).reshape(len(rows), WORDS)
    out = np.zeros(space, np.uint64)
    at = border.put_live(out, 0, 5, rows, words, len(places), players, NEAR, room)
    wanted = [k for k, (x, y, dead, _) in enumerate(places) if dead == 0 and reached(x, y, 20.0)][:room]
    if len(wanted) * (1 + WORDS) > space:
        assert at == -1
        return
    assert at == len(wanted) * (1 + WORDS)
    told = out[:at].reshape(-1, 1 + WORDS)
    assert told[:, 0].tolist() == [7 + places[k][3] if places[k][3] >= 0 else 0 for k in wanted]
    for seen, k in zip(told[:, 1:].copy().view(ROW).ravel(), wanted, strict=True):
        assert (seen["id"], seen["player"], seen["dead"], seen["crossings"]) == (1000 + k, -2 - 5, 0, k)
        assert (seen["x"], seen["y"]) == (rows[k]["x"], rows[k]["y"])


COPY = st.tuples(st.integers(1, 5), st.integers(0, 3), st.booleans(), st.integers(0, 99))
"""(entity, crossings, live, what it looks like)"""


def best(copies: list[tuple[int, int, bool, int]], settled: dict[int, int]) -> dict[int, int]:
    """Return what each entity is shown as: the copy that crossed most often, a live one before a frozen one, the first of equals; none
    from before it settled somewhere, and no frozen one from then."""
    shown: dict[int, tuple[int, bool, int]] = {}
    for entity, crossings, live, look in sorted(copies, key=lambda copy: not copy[2]):
        floor = settled.get(entity)
        if floor is not None and (crossings < floor or (crossings == floor and not live)):
            continue
        known = shown.get(entity)
        if known is None or (crossings, live) > known[:2]:
            shown[entity] = crossings, live, look
    return {entity: look for entity, (_, _, look) in shown.items()}


def filled(
    copies: list[tuple[int, int, bool, int]], settled: dict[int, int], state: Any, mapped: Any, store: Any, room: int
) -> dict[int, int]:
    """Fill ghosts as the generated program does; rows here are three words: id, second word, look."""
    state[layout.BORDER_STAMP] += 1
    state[layout.BORDER_MAPPED] = 0
    flat = np.array([word for pair in settled.items() for word in pair], np.uint64)
    border.note_settled(state, mapped, flat, 0, len(flat))
    shown, keys, count = np.zeros((room, 3), np.uint64), np.zeros(room, np.int64), 0
    live = sum(copy[2] for copy in copies) * 4
    count = border.show_rows(state, mapped, shown, count, keys, store, 0, live, 1)
    count = border.show_rows(state, mapped, shown, count, keys, store, live, len(store), 0)
    assert keys[:count].tolist() == [int(row[0]) + 50 for row in shown[:count]]
    assert len({int(row[0]) for row in shown[:count]}) == count, "no entity twice"
    return {int(row[0]): int(row[2]) for row in shown[:count]}


@BRIEF
@given(st.lists(COPY, max_size=14), st.dictionaries(st.integers(1, 5), st.integers(0, 3), max_size=3))
def test_of_several_copies_the_newest_is_shown(copies: list[tuple[int, int, bool, int]], settled: dict[int, int]) -> None:
    copies = sorted(copies, key=lambda copy: not copy[2])
    state, mapped = np.zeros(layout.BORDER_FROZEN, np.int64), np.zeros(32, layout.GHOST)
    store = np.array([word for e, crossings, _, look in copies for word in (e + 50, e, crossings << 48, look)], np.uint64)
    wanted = best(copies, settled)
    assert filled(copies, settled, state, mapped, store, 16) == wanted
    assert filled(copies, settled, state, mapped, store, 16) == wanted, "once more, with what lost struck out"
    kept = store.reshape(-1, 4)
    left = [(int(row[1]), crossings, live, look) for row, (_, crossings, live, look) in zip(kept, copies, strict=True) if row[1]]
    assert best(left, {}) == wanted, "what is struck out never comes back, when those who settled are forgotten"


@BRIEF
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12), st.integers(0, 12)), max_size=8))
def test_frozen_rows_are_forgotten_in_time(given_rows: list[tuple[int, int, int]]) -> None:
    store = np.array([word for entity, _, _ in given_rows for word in (0, entity)], np.uint64)
    times = np.array([(left, seen) for _, left, seen in given_rows], np.int64).reshape(-1, 2)
    wanted = [e for e, left, seen in given_rows if 12 - left <= 10 and (seen == 0 or 12 - seen <= 5)]
    count = border.drop_frozen(store, times, len(given_rows), 2, 12, 10, 5)
    assert store[1 : 2 * count : 2].tolist() == wanted


def test_a_full_table_shows_no_more_and_harms_nothing() -> None:
    state, mapped = np.zeros(layout.BORDER_FROZEN, np.int64), np.zeros(32, layout.GHOST)
    copies = [(e, 0, True, e) for e in range(1, 9)]
    store = np.array([word for e, crossings, _, look in copies for word in (e + 50, e, crossings << 48, look)], np.uint64)
    assert filled(copies, {}, state, mapped, store, 3) == {1: 1, 2: 2, 3: 3}
    assert all(store.reshape(-1, 4)[:, 1]), "nothing is struck out for want of room"
