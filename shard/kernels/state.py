"""Kernels over a zone's state that know no game: compaction, the player table and its index, the state hash, command gathering.

Rows are seen as uint64 words. Word 0 of an entity row is its id; byte 4 of word 1 is `dead`. Each kernel has a naive twin in
tests/conformance/kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel

_DEAD_MASK = np.uint64(0xFF) << np.uint64(32)
_ZERO = np.uint64(0)
_HASH_SEED = np.uint64(0x9E3779B97F4A7C15)
_HASH_PRIME = np.uint64(0x9FB21C651E98DF25)
_S28 = np.uint64(28)


@kernel
def purge(words: Any, count: Any) -> Any:
    """Drop every row that is dead, keeping the order; return how many are left. words: uint64[capacity, width]."""
    kept = 0
    width = words.shape[1]
    for i in range(count):
        if words[i, 1] & _DEAD_MASK != _ZERO:
            continue
        if kept != i:
            for k in range(width):
                words[kept, k] = words[i, k]
        kept += 1
    return kept


@kernel
def append_row(words: Any, count: Any, source: Any, at: Any) -> Any:
    """Copy row `at` of `source` behind the last row; return the new count, or the old one where the table is full."""
    if count >= words.shape[0]:
        return count
    for k in range(words.shape[1]):
        words[count, k] = source[at, k]
    return count + 1


@kernel
def clear_row(words: Any, at: Any) -> None:
    """Set a row to zero."""
    for k in range(words.shape[1]):
        words[at, k] = _ZERO


@kernel
def find_row(words: Any, count: Any, entity: Any) -> Any:
    """Return the index of the row of an entity id that is not dead, or -1."""
    wanted = np.uint64(entity)
    for i in range(count):
        if words[i, 0] == wanted and words[i, 1] & _DEAD_MASK == _ZERO:
            return i
    return -1


@kernel
def note_departure(departures: Any, count: Any, entity: Any, zone: Any) -> Any:
    """Remember in the ring that an entity left for a zone, as number `count`; return the new count."""
    place = departures[count % len(departures)]
    place.id = entity
    place.zone = zone
    return count + 1


@kernel
def departed_to(departures: Any, count: Any, entity: Any) -> Any:
    """Return the zone that an entity left for last, or -1 where the ring does not know it."""
    for back in range(1, min(count, len(departures)) + 1):
        place = departures[(count - back) % len(departures)]
        if place.id == entity:
            return place.zone
    return np.int64(-1)


@kernel
def hash_value(state: Any, value: Any) -> Any:
    """Mix one uint64 into a hash state (multiply and shift, order dependent)."""
    state = (state ^ value) * _HASH_PRIME
    return state ^ (state >> _S28)


@kernel
def hash_words(state: Any, words: Any, count: Any) -> Any:
    """Mix the first `count` rows into a hash state, and the count itself."""
    state = hash_value(state, np.uint64(count))
    for i in range(count):
        for k in range(words.shape[1]):
            state = (state ^ words[i, k]) * _HASH_PRIME
            state = state ^ (state >> _S28)
    return state


@kernel
def hash_start(tick: Any) -> Any:
    """Return the hash state that a tick's hash starts from."""
    return hash_value(_HASH_SEED, np.uint64(tick))


@kernel
def cut_at(place: Any, count: Any) -> Any:
    """Return the whole part of a place along an axis of `count` cells, cut to 0 .. count - 1; what is no number is 0.

    A float too large for an integer converts differently on different processors, so it is never converted.
    """
    if not place > 0.0:
        return np.int64(0)
    if place >= count:
        return np.int64(count - 1)
    return np.int64(place)


# --- the player table ---------------------------------------------------------------------------------------------


@kernel
def free_departed(players: Any, words: Any, high: Any) -> Any:
    """Free the places of players who departed in the last tick; return the new high-water mark."""
    for p in range(high):
        if players[p].departed != 0:
            for k in range(words.shape[1]):
                words[p, k] = _ZERO
    while high > 0 and players[high - 1].key == 0:
        high -= 1
    return high


@kernel
def home_of(key: Any, mask: Any) -> Any:
    """Return where a key's search starts in an index of mask + 1 places."""
    return ((key >> 7) ^ key ^ (key >> 23)) & mask


@kernel
def index_players(players: Any, high: Any, index: Any) -> None:
    """Rebuild the open-addressing index (int32, a power of two long, -1 = empty) of player keys."""
    mask = len(index) - 1
    for k in range(len(index)):
        index[k] = -1
    for p in range(high):
        key = players[p].key
        if key != 0:
            at = home_of(key, mask)
            while index[at] >= 0:
                at = (at + 1) & mask
            index[at] = p


@kernel
def find_player(players: Any, index: Any, key: Any) -> Any:
    """Return the place of a player by key, or -1."""
    mask = len(index) - 1
    at = home_of(key, mask)
    while index[at] >= 0:
        if players[index[at]].key == key:
            return index[at]
        at = (at + 1) & mask
    return -1


@kernel
def add_player(players: Any, high: Any, index: Any, key: Any) -> Any:
    """Take the lowest free place for `key` and index it; return it, or -1 where the table is full."""
    place = 0
    while place < high and players[place].key != 0:
        place += 1
    if place >= len(players):
        return -1
    mask = len(index) - 1
    at = home_of(key, mask)
    while index[at] >= 0:
        at = (at + 1) & mask
    index[at] = place
    players[place].key = key
    return place


# --- commands -----------------------------------------------------------------------------------------------------


@kernel
def read_i64(data: Any, row: Any, at: Any) -> Any:
    """Return the little-endian int64 at byte `at` of row `row` (top bit clear)."""
    value = np.int64(0)
    for k in range(8):
        value |= np.int64(data[row, at + k]) << np.int64(8 * k)
    return value


@kernel
def read_bits(data: Any, row: Any, at: Any, size: Any) -> Any:
    """Return `size` bytes (at most 4) from `at` on as a little-endian unsigned number in an int64."""
    value = np.int64(0)
    for k in range(size):
        value |= np.int64(data[row, at + k]) << np.int64(8 * k)
    return value


@kernel
def read_signed(data: Any, row: Any, at: Any, size: Any) -> Any:
    """Return `size` bytes (at most 4) from `at` on as a little-endian two's complement number in an int64."""
    value = read_bits(data, row, at, size)
    if value >= np.int64(1) << np.int64(8 * size - 1):
        value -= np.int64(1) << np.int64(8 * size)
    return value


@kernel
def gather(players: Any, index: Any, pending: Any, count: Any, best: Any, chosen: Any) -> Any:
    """Choose for each player the pending command that is next, last_seq + 1; one a tick, so speed cannot be bought.

    A later number waits until those before it are here: where a command was dropped (its zone had just moved), none behind
    it may be applied and acknowledged in its place; the gateway sends all of them again with the new owner's first frame.

    pending: uint8[capacity, row bytes], `count` rows. best: int32[players], scratch. chosen: uint8, receives the rows, in
    the order of the player table. Rows that are still to come stay in `pending`, compacted; rows of players who are
    not here, or that were applied before, are dropped (their gateway sends again to whoever has the player); so are rows of a
    session that is over: the player's newest one, which knows nothing of them, gives their numbers to commands of its own.
    Returns (rows chosen, rows still pending).
    """
    for p in range(len(best)):
        best[p] = -1
    for i in range(count):
        p = find_player(players, index, read_i64(pending, i, 0))
        if p < 0 or players[p].departed != 0 or read_bits(pending, i, 12, 2) != (np.int64(players[p].session) & 0xFFFF):
            continue
        if best[p] < 0 and read_bits(pending, i, 8, 4) == np.int64(players[p].last_seq) + 1:
            best[p] = i
    taken = 0
    for p in range(len(best)):
        if best[p] >= 0:
            for k in range(pending.shape[1]):
                chosen[taken, k] = pending[best[p], k]
            best[p] = taken  # from here on, the place among the chosen
            taken += 1
    kept = 0
    for i in range(count):
        p = find_player(players, index, read_i64(pending, i, 0))
        if p < 0 or players[p].departed != 0 or read_bits(pending, i, 12, 2) != (np.int64(players[p].session) & 0xFFFF):
            continue
        applied = np.int64(players[p].last_seq) + (1 if best[p] >= 0 else 0)
        if read_bits(pending, i, 8, 4) <= applied:
            continue
        if kept != i:
            for k in range(pending.shape[1]):
                pending[kept, k] = pending[i, k]
        kept += 1
    return taken, kept
