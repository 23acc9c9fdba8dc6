"""The kernels over a zone's state do what their naive twins do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.kernels import layout, state
from tests.conformance.kernels import naive_kernels as naive

BRIEF = settings(max_examples=60, deadline=None)
WORD = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1 << 32, 2 << 32, 0xFF << 32, 1 << 63]))


def table(width: int = 3, longest: int = 12) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(WORD, min_size=width, max_size=width), max_size=longest)


def words(rows: list[list[int]], capacity: int, width: int = 3) -> npt.NDArray[np.uint64]:
    array = np.full((capacity, width), 0xDEAD, np.uint64)
    for at, row in enumerate(rows):
        array[at] = row
    return array


@BRIEF
@given(table())
def test_purge_drops_the_dead_and_keeps_the_order(rows: list[list[int]]) -> None:
    array = words(rows, 12)
    kept = state.purge(array, len(rows))
    assert array[:kept].tolist() == naive.purge(rows)


@BRIEF
@given(table(longest=6), table(longest=6))
def test_append_row_fills_a_table_up_to_its_capacity(rows: list[list[int]], more: list[list[int]]) -> None:
    array, count = words(rows, 8), len(rows)
    source = words(more, 8)
    for at in range(len(more)):
        count = state.append_row(array, count, source, at)
    assert array[:count].tolist() == (rows + more)[:8]


@BRIEF
@given(table(longest=8), st.integers(0, 9))
def test_a_row_is_found_by_its_id_unless_it_is_dead(rows: list[list[int]], at: int) -> None:
    rows = [[row[0] >> 1, *row[1:]] for row in rows]  # ids are less than 2^63
    wanted = rows[at][0] if at < len(rows) else 12345
    assert state.find_row(words(rows, 10), len(rows), wanted) == naive.find_row(rows, wanted)


@BRIEF
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=20), st.integers(1, 7))
def test_the_newest_departure_of_an_entity_is_remembered(departures: list[tuple[int, int]], entity: int) -> None:
    ring, count = np.zeros(8, layout.DEPARTURE), 0
    for left, zone in departures:
        count = state.note_departure(ring, count, left, zone)
    assert state.departed_to(ring, count, entity) == naive.departed_to(departures, len(ring), entity)
    assert count == len(departures)


def test_a_cleared_row_is_zero_and_no_other_is() -> None:
    array = words([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 3)
    state.clear_row(array, 1)
    assert array.tolist() == [[1, 2, 3], [0, 0, 0], [7, 8, 9]]


@BRIEF
@given(table(), st.integers(0, 1 << 62))
def test_hashes_mix_words_in_order(rows: list[list[int]], tick: int) -> None:
    start = np.uint64(state.hash_start(tick))  # from Python a kernel's uint64 is an int of its own
    assert int(start) == naive.hash_start(tick)
    assert int(state.hash_words(start, words(rows, 12), len(rows))) == naive.hash_rows(naive.hash_start(tick), rows)
    for row in rows:
        start = np.uint64(state.hash_value(start, np.uint64(row[0])))
    expected = naive.hash_start(tick)
    for row in rows:
        expected = naive.hash_value(expected, row[0])
    assert int(start) == expected


@BRIEF
@given(st.floats(allow_nan=True), st.integers(1, 9))
def test_a_place_is_cut_to_the_axis(place: float, count: int) -> None:
    assert state.cut_at(place, count) == naive.cut_at(place, count)
    assert state.cut_at(math.nan, count) == 0


# --- the player table ---------------------------------------------------------------------------------------------

# keys that fall on few homes, so that searches collide and wrap around
KEY = st.one_of(st.integers(1, 24), st.sampled_from([1 << 7, 1 << 23, (1 << 63) - 1, 0x100, 0x200, 0x4000000]))
STEP = st.one_of(st.tuples(st.just("add"), KEY), st.tuples(st.just("free"), st.lists(st.integers(0, 5), max_size=3)))


@BRIEF
@given(st.lists(STEP, max_size=40))
def test_the_player_table_is_a_map_from_key_to_the_lowest_free_place(steps: list[tuple[str, Any]]) -> None:
    players = np.zeros(6, layout.PLAYER)
    rows = players.view(np.uint64).reshape(6, -1)
    index = np.full(16, -1, np.int32)
    high, twin = 0, naive.Table(6)
    for what, value in steps:
        if what == "add" and value not in twin.places:
            place = state.add_player(players, high, index, value)
            assert place == twin.add(value)
            high = max(high, place + 1)
        elif what == "free":
            leaving = {key for key, place in twin.places.items() if place in value}
            for place in value:
                players[place]["departed"] = place in twin.places.values()
            high = state.free_departed(players, rows, high)
            twin.free(sorted(leaving))
            assert high == twin.high
            state.index_players(players, high, index)
        for key in [*range(30), 1 << 7, 1 << 23, (1 << 63) - 1, 0x100, 0x200, 0x4000000]:
            assert state.find_player(players, index, key) == twin.places.get(key, -1)
        assert [int(p["key"]) for p in players[:high]] == [
            next((key for key, at in twin.places.items() if at == place), 0) for place in range(twin.high)
        ]


def test_a_freed_place_holds_nothing_of_its_last_player() -> None:
    players = np.zeros(2, layout.PLAYER)
    index = np.full(4, -1, np.int32)
    state.add_player(players, 0, index, 5)
    for name in layout.PLAYER.names or ():
        players[0][name] = 1
    assert state.free_departed(players, players.view(np.uint64).reshape(2, -1), 1) == 0
    assert players.tobytes() == bytes(players.nbytes)


@BRIEF
@given(st.integers(0, 15), st.integers(-20, 20), st.integers(1, 12))
def test_an_index_home_is_within_the_index(key: int, shift: int, bits: int) -> None:
    big = (key + 1) << (20 + shift)
    assert 0 <= state.home_of(big, (1 << bits) - 1) < 1 << bits


# --- commands -----------------------------------------------------------------------------------------------------


@BRIEF
@given(st.binary(min_size=16, max_size=16), st.integers(0, 8))
def test_numbers_are_read_little_endian(data: bytes, at: int) -> None:
    rows = np.frombuffer(data, np.uint8).reshape(1, -1).copy()
    assert state.read_i64(rows, 0, at) == int.from_bytes(data[at : at + 8], "little", signed=True)
    for size in (1, 2, 4):
        assert state.read_bits(rows, 0, at, size) == int.from_bytes(data[at : at + size], "little")
        assert state.read_signed(rows, 0, at, size) == int.from_bytes(data[at : at + size], "little", signed=True)


SEQ = st.one_of(st.integers(0, 8), st.sampled_from([(1 << 31) - 1, 1 << 31, (1 << 32) - 1]))
SESSION = st.sampled_from([1, 2, 65535, 65537, (1 << 32) - 1])


@BRIEF
@given(
    st.lists(st.tuples(st.integers(1, 8), SEQ, st.booleans(), SESSION), max_size=6, unique_by=lambda player: player[0]),
    st.lists(st.tuples(st.integers(1, 9), SEQ, SESSION.map(lambda session: session % 65536)), max_size=40),
)
def test_gather_takes_the_next_command_of_each_player(players: list[tuple[int, int, bool, int]], sent: list[tuple[int, int, int]]) -> None:
    table = np.zeros(6, layout.PLAYER)
    for place, (key, last_seq, departed, session) in enumerate(players):
        table[place]["key"], table[place]["last_seq"], table[place]["departed"] = key, last_seq, departed
        table[place]["session"] = session
    index = np.full(16, -1, np.int32)
    state.index_players(table, len(players), index)
    pending = [(key, seq, session, number) for number, (key, seq, session) in enumerate(sent)]
    rows = np.zeros((64, 24), np.uint8)
    for at, (key, seq, session, number) in enumerate(pending):
        parts = ((key, 8), (seq, 4), (session, 2), (number, 10))
        rows[at] = np.frombuffer(b"".join(value.to_bytes(size, "little") for value, size in parts), np.uint8)
    chosen, best = np.zeros((6, 24), np.uint8), np.zeros(6, np.int32)

    def read(data: npt.NDArray[np.uint8], count: int) -> list[tuple[int, int, int, int]]:
        cuts = ((0, 8), (8, 12), (12, 14), (14, 24))
        rows_read = [tuple(int.from_bytes(row.tobytes()[a:b], "little") for a, b in cuts) for row in data[:count]]
        return rows_read  # type: ignore[return-value]

    taken, kept = state.gather(table, index, rows, len(pending), best, chosen)
    assert (read(chosen, taken), read(rows, kept)) == naive.gather(players, pending)
