"""Kernels of the border: which rows a zone tells a neighbour of (a feed), and which of a neighbour's rows become ghosts here.

Rows are seen as uint64 words: word 0 is the id; word 1 holds the player's index (32 bits), `dead` (8 bits from 32 on) and how often the
entity has crossed (16 bits from 48 on). Of several copies of an entity the one that has crossed most often is the newest, and a
live one counts for more than a frozen one, so no order of arrival has to be remembered. A copy that lost is struck out of its feed.
Generated code (shard.program_border_source) calls these once a table. Naive twins: tests/conformance/kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel
from shard.kernels.encode import entity_home
from shard.kernels.layout import BORDER_MAPPED, BORDER_SETTLED, BORDER_STAMP, OUT_REFUSED

_ZERO = np.uint64(0)
_DEAD_MASK = np.uint64(0xFF) << np.uint64(32)
_KEPT = ~(_DEAD_MASK | np.uint64(0xFFFFFFFF))
_S48 = np.uint64(48)


@kernel
def reaches(x: Any, y: Any, near: Any, extra: Any) -> Any:
    """Whether (x, y) lies within near[4] + extra of the rectangle near[0:4]; a place that is no number does not."""
    dx = 0.0
    if not x >= near[0]:
        dx = near[0] - x
    elif x > near[2]:
        dx = x - near[2]
    dy = 0.0
    if not y >= near[1]:
        dy = near[1] - y
    elif y > near[3]:
        dy = y - near[3]
    reach = near[4] + extra
    return dx * dx + dy * dy <= reach * reach


@kernel
def crossings_of(word: Any) -> Any:
    """Return how often the entity of this second word has crossed."""
    return np.int64(word >> _S48)


@kernel
def is_later(one: Any, other: Any) -> Any:
    """Whether `one` crossing comes after `other`, both modulo 2^16 (as RFC 1982 compares serial numbers)."""
    ahead = (one - other) & 0xFFFF
    return ahead != 0 and ahead < 0x8000


# --- what a zone tells --------------------------------------------------------------------------------------------


@kernel
def put_row(out: Any, at: Any, key: Any, owner: Any, words: Any, row: Any) -> Any:
    """Write a row as feeds hold it: its player's key, then its words, alive, and with -2 - `owner` (a zone) for the index of its player.

    Return the place behind.
    """
    out[at] = np.uint64(key)
    out[at + 1] = words[row, 0]
    out[at + 2] = (words[row, 1] & _KEPT) | np.uint64((-2 - owner) & 0xFFFFFFFF)
    for k in range(2, words.shape[1]):
        out[at + 1 + k] = words[row, k]
    return at + 1 + words.shape[1]


@kernel
def put_live(out: Any, at: Any, owner: Any, rows: Any, words: Any, count: Any, players: Any, near: Any, room: Any) -> Any:
    """Write the living rows within reach of a rectangle, at most `room`; return the place behind, or -1 where `out` is full."""
    if at < 0:
        return at
    put = 0
    for i in range(count):
        if words[i, 1] & _DEAD_MASK != _ZERO or put >= room or not reaches(rows[i].x, rows[i].y, near, 0.0):
            continue
        if at + 1 + words.shape[1] > len(out):
            return -1
        player = rows[i].player
        at = put_row(out, at, players[player].key if player >= 0 else 0, owner, words, i)
        put += 1
    return at


@kernel
def put_words(out: Any, at: Any, source: Any, count: Any) -> Any:
    """Write the first `count` words; return the place behind, or -1 where `out` is full."""
    if at < 0 or at + count > len(out):
        return -1
    for k in range(count):
        out[at + k] = source[k]
    return at + count


@kernel
def put_frozen(out: Any, at: Any, rows: Any, store: Any, count: Any, near: Any) -> Any:
    """Write the frozen rows within reach of a rectangle; return the place behind, or -1 where `out` is full. rows: `store` by fields."""
    if at < 0:
        return at
    width = len(store) // len(rows)
    for i in range(count):
        if not reaches(rows[i].x, rows[i].y, near, 0.0):
            continue
        if at + width > len(out):
            return -1
        for k in range(width):
            out[at + k] = store[i * width + k]
        at += width
    return at


@kernel
def put_told(out: Any, at: Any, rows: Any, words: Any, count: Any, near: Any, radius: Any) -> Any:
    """Write the events that are told within reach of a rectangle; return the place behind, or -1 where `out` is full."""
    if at < 0:
        return at
    for i in range(count):
        if not reaches(rows[i].at_x, rows[i].at_y, near, radius):
            continue
        if at + words.shape[1] > len(out):
            return -1
        for k in range(words.shape[1]):
            out[at + k] = words[i, k]
        at += words.shape[1]
    return at


# --- who went and who came ----------------------------------------------------------------------------------------


@kernel
def is_refused(out: Any, count: Any, entry: Any) -> Any:
    """Whether inbox entry `entry` found no room in the last tick."""
    for k in range(count):  # noqa: SIM110 (generators do not compile)
        if out[k].kind == OUT_REFUSED and out[k].entry == entry:
            return True
    return False


@kernel
def keep_frozen(words: Any, row: Any, key: Any, owner: Any, store: Any, times: Any, count: Any, tick: Any) -> Any:
    """Keep the last look of a row that leaves for zone `owner`; return the new count, or the old one where there is no room."""
    width = 1 + words.shape[1]
    if count >= len(times):
        return count
    put_row(store, count * width, key, owner, words, row)
    times[count, 0] = tick
    times[count, 1] = 0
    return count + 1


@kernel
def drop_frozen(store: Any, times: Any, count: Any, width: Any, tick: Any, keep_ticks: Any, linger_ticks: Any) -> Any:
    """Forget frozen rows that are `keep_ticks` old, or that were seen elsewhere `linger_ticks` ago; return how many are left."""
    kept = 0
    for k in range(count):
        left, seen = times[k, 0], times[k, 1]
        if tick - left > keep_ticks or (seen != 0 and tick - seen > linger_ticks):
            continue
        if kept != k:
            times[kept, 0] = left
            times[kept, 1] = seen
            for w in range(width):
                store[kept * width + w] = store[k * width + w]
        kept += 1
    return kept


@kernel
def keep_settled(state: Any, settled: Any, times: Any, entity: Any, word: Any, tick: Any) -> None:
    """Remember who came over a border, to tell it; where there is no room it is not told, and seen in time all the same."""
    count = state[BORDER_SETTLED]
    if count < len(times):
        settled[2 * count] = entity
        settled[2 * count + 1] = word >> _S48
        times[count] = tick
        state[BORDER_SETTLED] = count + 1


@kernel
def drop_settled(state: Any, settled: Any, times: Any, tick: Any, keep_ticks: Any) -> None:
    """Forget who came more than `keep_ticks` ago."""
    kept = 0
    for k in range(state[BORDER_SETTLED]):
        if tick - times[k] > keep_ticks:
            continue
        settled[2 * kept] = settled[2 * k]
        settled[2 * kept + 1] = settled[2 * k + 1]
        times[kept] = times[k]
        kept += 1
    state[BORDER_SETTLED] = kept


# --- what becomes a ghost -----------------------------------------------------------------------------------------


@kernel
def ghost_place(state: Any, mapped: Any, entity: Any) -> Any:
    """Return where an entity stands in the map of this fill, or the free place where it would; -1 where the map is full."""
    mask = len(mapped) - 1
    stamp = state[BORDER_STAMP]
    at = entity_home(entity, mask)
    while mapped[at].stamp == stamp:
        if mapped[at].entity == entity:
            return at
        at = (at + 1) & mask
    return at if state[BORDER_MAPPED] * 4 < len(mapped) * 3 else np.int64(-1)


@kernel
def note_settled(state: Any, mapped: Any, store: Any, at: Any, end: Any) -> None:
    """Note by which crossing entities have come to the zone of a feed: copies of before that crossing are old, frozen ones too."""
    while at < end:
        entity, crossings = np.int64(store[at]), np.int64(store[at + 1])
        at += 2
        place = ghost_place(state, mapped, entity)
        if place < 0:
            continue
        one = mapped[place]
        if one.stamp != state[BORDER_STAMP]:
            state[BORDER_MAPPED] += 1
            one.entity, one.stamp, one.source, one.slot, one.crossings, one.live = entity, state[BORDER_STAMP], -1, -1, crossings, 0
        elif is_later(crossings, one.crossings):
            one.crossings = crossings


@kernel
def show_ghost(state: Any, mapped: Any, place: Any, shown: Any, count: Any, keys: Any, store: Any, at: Any, live: Any) -> Any:
    """Take the row at `at` of `store` for a ghost, if it is the best copy of its entity so far. shown: uint64[room, width].

    `place` is the entity's in the map. Return (new count, whether it is shown, whether it lost to another copy).
    """
    one = mapped[place]
    crossings = crossings_of(store[at + 2])
    slot = np.int64(-1)
    if one.stamp == state[BORDER_STAMP]:
        known = np.int64(one.crossings)
        if not (is_later(crossings, known) or (crossings == known and live and one.live == 0)):
            return count, False, True
        slot = np.int64(one.slot)
    else:
        one.source = -1
    if slot < 0:
        if count >= len(shown):
            return count, False, False
        slot = count
        count += 1
    if one.stamp != state[BORDER_STAMP]:
        state[BORDER_MAPPED] += 1
    for k in range(shown.shape[1]):
        shown[slot, k] = store[at + 1 + k]
    if slot < len(keys):
        keys[slot] = np.int64(store[at])
    one.entity, one.stamp, one.slot, one.crossings, one.live = np.int64(store[at + 1]), state[BORDER_STAMP], slot, crossings, live
    return count, True, False


@kernel
def show_rows(state: Any, mapped: Any, shown: Any, count: Any, keys: Any, store: Any, at: Any, end: Any, live: Any) -> Any:
    """Take rows [at, end) of the feeds for ghosts; those that lost to another copy are struck out (id 0). Return the new count."""
    width = 1 + shown.shape[1]
    while at < end:
        if store[at + 1] != _ZERO:
            place = ghost_place(state, mapped, np.int64(store[at + 1]))
            if place >= 0:
                count, is_shown, lost = show_ghost(state, mapped, place, shown, count, keys, store, at, live)
                if is_shown:
                    before = np.int64(mapped[place].source)
                    if before >= 0:
                        store[before + 1] = _ZERO
                    mapped[place].source = at
                elif lost:
                    store[at + 1] = _ZERO
        at += width
    return count


@kernel
def show_frozen(state: Any, mapped: Any, shown: Any, count: Any, keys: Any, store: Any, times: Any, frozen: Any, tick: Any) -> Any:
    """As `show_rows` for this zone's own frozen rows: of those that lost it is noted since when. Return the new count."""
    width = 1 + shown.shape[1]
    for k in range(frozen):
        at = k * width
        if times[k, 1] == 0:
            place = ghost_place(state, mapped, np.int64(store[at + 1]))
            if place >= 0:
                count, _, lost = show_ghost(state, mapped, place, shown, count, keys, store, at, 0)
                if lost:
                    times[k, 1] = tick
    return count


@kernel
def hear(words: Any, count: Any, store: Any, at: Any, end: Any) -> Any:
    """Copy the events [at, end) of a feed behind those heard so far; past the room, dropped. Return the new count."""
    width = words.shape[1]
    while at < end and count < len(words):
        for k in range(width):
            words[count, k] = store[at + k]
        count += 1
        at += width
    return count
