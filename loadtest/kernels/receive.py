"""Reading sockets, cutting frames and applying snapshots: the steady part of what a player of the load test is sent.

`receive` takes what has come on all sockets that are ready, and tells of what Python has to know: a row of the report, or bytes that are
not plain snapshots. `apply` takes one snapshot that Python has read. Entities stand in one open-addressed table a player (linear probing,
no marks for deleted rows), keyed by handle; values stay wire levels. Knows nothing of Locust. Called by loadtest.reader, which owns all
arrays and names their columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel  # before numba: it sets what numba reads when it is imported

# isort: split
from numba import types

_recv: Any = types.ExternalFunction("recv", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_epoll_wait: Any = types.ExternalFunction("epoll_wait", types.int32(types.int32, types.uintp, types.int32, types.int32))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))
_DONTWAIT = 0x40
_MONOTONIC = 1

ARMED, ZONE, EPOCH, TICK, FLAGS, ACK, ME, ME_HANDLE, SAMPLE, WATCHED, BYTES, SNAPSHOTS, COUNT, FULL = range(14)
INTS = 14
"""Columns of `ints`, one row a player."""
HEARD, WORST, SECOND, TICK_S = range(4)
FLOATS = 4
"""Columns of `floats`: seconds (monotonic) when the last snapshot came, the worst deviation in this second, its begin, the interval."""
HANDLE, KIND, LOW, HIGH, LEVELS = range(5)
"""Columns of a row of the table of entities; HANDLE is one more than the handle, 0 where the row is free."""

TOLD, LEFT, FAULT = 1, 2, 3
"""What is told: a snapshot that means something to the report, bytes for Python (the row is disarmed), a snapshot that does not fit."""
CROSSED, WATCH, BACKWARD, SAMPLED, OVER = 1, 2, 4, 8, 16
"""Why a snapshot is told of: the zone changed, Python watches, the tick did not rise, the sample is acknowledged, a second is over."""

FITS, TORN, UNKNOWN_HANDLE, UNKNOWN_KIND, NO_AVATAR, GROW = range(6)
"""What applying a snapshot gives. GROW: nothing was applied, the table is too small."""
_KEYFRAME = 1


@kernel
def _number(data: Any, at: Any, end: Any) -> Any:
    """Return (value, the place behind) of a non-negative msgpack integer; the place is -1 where there is none."""
    if at >= end:
        return np.int64(0), np.int64(-1)
    head = np.int64(data[at])
    if head < 0x80:
        return head, at + 1
    if head < 0xCC or head > 0xCF:
        return np.int64(0), np.int64(-1)
    size = 1 << (head - 0xCC)
    if at + 1 + size > end:
        return np.int64(0), np.int64(-1)
    value = np.int64(0)
    for k in range(size):
        value = value << 8 | np.int64(data[at + 1 + k])
    return value, at + 1 + size


@kernel
def _binary(data: Any, at: Any, end: Any) -> Any:
    """Return (first place, the place behind) of a msgpack bin; the latter is -1 where there is none."""
    if at < 0 or at >= end:
        return np.int64(0), np.int64(-1)
    head = np.int64(data[at])
    if head < 0xC4 or head > 0xC6:
        return np.int64(0), np.int64(-1)
    size = 1 << (head - 0xC4)
    first = at + 1 + size
    if first > end:
        return np.int64(0), np.int64(-1)
    length = np.int64(0)
    for k in range(size):
        length = length << 8 | np.int64(data[at + 1 + k])
    if first + length > end:
        return np.int64(0), np.int64(-1)
    return first, first + length


@kernel
def _level(data: Any, at: Any, size: Any) -> Any:
    value = np.uint32(0)
    for k in range(size):
        value |= np.uint32(data[at + k]) << np.uint32(8 * k)
    return value


@kernel
def find(table: Any, handle: Any) -> Any:
    """Return the row of a handle, or -1 - the row where it would stand. table: uint32[2^n, LEVELS + fields], never full."""
    mask = len(table) - 1
    at = (handle * 40503 >> 4) & mask
    while table[at, HANDLE] != 0:
        if table[at, HANDLE] == handle + 1:
            return at
        at = (at + 1) & mask
    return -1 - at


@kernel
def _remove(table: Any, at: Any) -> None:
    """Free a row, and close the gap that it leaves in its run."""
    mask = len(table) - 1
    hole, look = at, at
    while True:
        look = (look + 1) & mask
        if table[look, HANDLE] == 0:
            break
        home = ((np.int64(table[look, HANDLE]) - 1) * 40503 >> 4) & mask
        if (look - home) & mask >= (look - hole) & mask:
            for k in range(table.shape[1]):
                table[hole, k] = table[look, k]
            hole = look
    table[hole, HANDLE] = 0


@kernel
def regrow(old: Any, new: Any) -> None:
    """Put every entity of every player into larger tables. old, new: uint32[players, 2^n, columns]; new is zero."""
    for player in range(len(old)):
        for row in range(old.shape[1]):
            if old[player, row, HANDLE] != 0:
                to = -1 - find(new[player], np.int64(old[player, row, HANDLE]) - 1)
                for k in range(old.shape[2]):
                    new[player, to, k] = old[player, row, k]


@kernel
def _entering(data: Any, at: Any, end: Any, kinds: Any) -> Any:
    """Return how many entities `enters` holds, or -1 where a record does not fit. kinds: as in `apply`."""
    count = 0
    while at < end:
        if at + 9 > end:
            return -1
        kind = np.int64(data[at + 2])
        if kind >= len(kinds):
            return -1
        at += kinds[kind, 1]
        count += 1
    return count if at == end else -1


@kernel
def apply(
    data: Any, at: Any, end: Any, ints: Any, table: Any, owner: Any, kinds: Any, widths: Any, owner_widths: Any, event_bytes: Any
) -> Any:  # fmt: skip
    """Apply the snapshot in data[at:end] to one player; return FITS, or what is wrong with it. ints: int64[INTS], the player's row.

    kinds: int64[types, (fields, bytes of an enter's record, bytes of its fields)]. widths: uint8[types, fields]: bytes of each public
    field, of as many as there are. owner_widths: uint8[owner fields of the avatar's type]; owner: uint32[at least as many].
    event_bytes: int64[events].
    """
    zone, at = _number(data, at + 2, end)
    epoch, at = _number(data, at, end) if at >= 0 else (zone, at)
    tick, at = _number(data, at, end) if at >= 0 else (zone, at)
    flags, at = _number(data, at, end) if at >= 0 else (zone, at)
    ack, at = _number(data, at, end) if at >= 0 else (zone, at)
    me, at = _number(data, at, end) if at >= 0 else (zone, at)
    if at < 0:
        return TORN
    if ints[FULL] != 0:
        enters, enters_end = _binary(data, at, end)
        updates, updates_end = _binary(data, enters_end, end)
        leaves, leaves_end = _binary(data, updates_end, end)
        events, events_end = _binary(data, leaves_end, end)
        owned, owned_end = _binary(data, events_end, end)
        if owned_end != end or (leaves_end - leaves) & 1:
            return TORN
        entering = _entering(data, enters, enters_end, kinds)
        if entering < 0:
            return TORN
        before = np.int64(0) if flags & _KEYFRAME else ints[COUNT]
        if 2 * (before + entering) > len(table):
            return GROW
        if flags & _KEYFRAME:
            table[:, HANDLE] = 0
            ints[COUNT] = 0
        for place in range(leaves, leaves_end, 2):
            found = find(table, np.int64(data[place]) | np.int64(data[place + 1]) << 8)
            if found < 0:
                return UNKNOWN_HANDLE
            _remove(table, found)
            ints[COUNT] -= 1
        place = enters
        while place < enters_end:
            handle, kind = np.int64(data[place]) | np.int64(data[place + 1]) << 8, np.int64(data[place + 2])
            found = find(table, handle)
            if found < 0:
                found = -1 - found
                ints[COUNT] += 1
            row = table[found]
            row[HANDLE], row[KIND] = handle + 1, kind
            row[LOW], row[HIGH] = _level(data, place + 3, 4), _level(data, place + 7, 2)
            if np.int64(row[HIGH]) << 32 | np.int64(row[LOW]) == me:
                ints[ME_HANDLE] = handle
            behind = place + kinds[kind, 1]
            place = behind - kinds[kind, 2]  # the fields are a record's end, whatever stands before them
            for k in range(kinds[kind, 0]):
                size = np.int64(widths[kind, k])
                row[LEVELS + k] = _level(data, place, size)
                place += size
            place = behind
        place = updates
        while place < updates_end:
            if place + 2 > updates_end:
                return TORN
            found = find(table, np.int64(data[place]) | np.int64(data[place + 1]) << 8)
            if found < 0:
                return UNKNOWN_HANDLE
            row = table[found]
            kind = np.int64(row[KIND])
            fields = kinds[kind, 0]
            mask_at = place + 2
            mask_bytes = (fields + 7) >> 3
            place = mask_at + mask_bytes
            if place > updates_end:
                return TORN
            for k in range(8 * mask_bytes):
                if data[mask_at + (k >> 3)] >> (k & 7) & 1:
                    if k >= fields:
                        return TORN
                    size = np.int64(widths[kind, k])
                    if place + size > updates_end:
                        return TORN
                    row[LEVELS + k] = _level(data, place, size)
                    place += size
        place = events
        while place < events_end:
            if np.int64(data[place]) >= len(event_bytes):
                return UNKNOWN_KIND
            place += 1 + event_bytes[data[place]]
        if place != events_end:
            return TORN
        if owned_end > owned:
            if not has_avatar(ints, table, me):
                return NO_AVATAR
            place = owned
            for k in range(len(owner_widths)):
                size = np.int64(owner_widths[k])
                if place + size > owned_end:
                    return TORN
                owner[k] = _level(data, place, size)
                place += size
            if place != owned_end:
                return TORN
    ints[ZONE], ints[EPOCH], ints[TICK], ints[FLAGS], ints[ACK], ints[ME] = zone, epoch, tick, flags, ack, me
    ints[SNAPSHOTS] += 1
    return FITS


@kernel
def has_avatar(ints: Any, table: Any, me: Any) -> Any:
    """Whether the player's own entity is in sight; its handle is then in `ints`."""
    found = find(table, ints[ME_HANDLE])
    if found >= 0 and np.int64(table[found, HIGH]) << 32 | np.int64(table[found, LOW]) == me:
        return True
    for row in range(len(table)):
        if table[row, HANDLE] != 0 and np.int64(table[row, HIGH]) << 32 | np.int64(table[row, LOW]) == me:
            ints[ME_HANDLE] = np.int64(table[row, HANDLE]) - 1
            return True
    return False


@kernel
def receive(
    poll: Any, ready: Any, ready_row: Any, owners: Any, buffer: Any, clock: Any, ints: Any, floats: Any, tables: Any, owned: Any,
    kinds: Any, widths: Any, owner_widths: Any, event_bytes: Any, rest: Any, told: Any, told_s: Any,
) -> Any:  # fmt: skip
    """Take what has come on the sockets of `poll`, of as many as `ready` has room for; return how much is told.

    ready: uint8, rows of `ready_row` bytes (struct epoll_event), whose data begins in their last eight. owners: int32[descriptors], a
    player or -1. buffer: uint8, one read. clock: int64[2]. tables: uint32[players, 2^n, columns]; owned: uint32[players, owner fields].
    told: int64[n, 4]: (TOLD, player, reasons, the tick before), (LEFT, player, first place in `rest`, the place behind), (FAULT, player,
    why, 0); told_s: float64[n, (now, gap, worst)] of TOLD. rest: uint8.
    """
    count = _epoll_wait(poll, ready.ctypes.data, len(ready) // ready_row, 0)
    says, rest_at = 0, 0
    address, room = buffer.ctypes.data, len(buffer)
    for one in range(count):
        if says >= len(told) or rest_at + room > len(rest):
            break  # what is not read now is ready again at once
        at = one * ready_row + ready_row - 8
        player = owners[np.int64(_level(ready, at, 4))]
        if player < 0 or ints[player, ARMED] == 0:
            continue
        got = _recv(np.int32(_level(ready, at, 4)), address, room, _DONTWAIT)
        _clock_gettime(_MONOTONIC, clock.ctypes.data)
        now = clock[0] + clock[1] * 1e-9
        at, fits, mine = 0, FITS, ints[player]
        while got - at >= 4 and says < len(told) - 1:
            if buffer[at] != 0x82:
                break
            size, first = np.int64(buffer[at + 1]), at + 2
            if size == 126:
                size, first = np.int64(buffer[at + 2]) << 8 | np.int64(buffer[at + 3]), at + 4
            elif size > 126:
                break
            if size < 2 or first + size > got or buffer[first] != 0x9C or buffer[first + 1] != 2:
                break
            zone, tick = mine[ZONE], mine[TICK]
            fits = apply(
                buffer, first, first + size, mine, tables[player], owned[player], kinds, widths, owner_widths, event_bytes
            )  # fmt: skip
            if fits != FITS:
                break
            at = first + size
            mine[BYTES] += size
            gap = now - floats[player, HEARD]
            floats[player, HEARD] = now
            reasons = 0
            if mine[ZONE] != zone:
                reasons |= CROSSED
            elif mine[WATCHED] != 0:
                reasons |= WATCH
            else:
                floats[player, WORST] = max(floats[player, WORST], abs(gap - floats[player, TICK_S]))
                if mine[TICK] <= tick:
                    reasons |= BACKWARD
            if mine[SAMPLE] != 0 and mine[ACK] >= mine[SAMPLE]:
                reasons |= SAMPLED
                mine[SAMPLE] = 0
            if now - floats[player, SECOND] >= 1.0:
                reasons |= OVER
            if reasons != 0:
                told[says, 0], told[says, 1], told[says, 2], told[says, 3] = TOLD, player, reasons, tick
                told_s[says, 0], told_s[says, 1], told_s[says, 2] = now, gap, floats[player, WORST]
                says += 1
                if reasons & OVER:
                    floats[player, SECOND], floats[player, WORST] = now, 0.0
        if fits != FITS and fits != GROW:
            told[says, 0], told[says, 1], told[says, 2] = FAULT, player, fits
            says += 1
            mine[ARMED] = 0
        elif at < got or got <= 0:
            left = max(got - at, 0)
            rest[rest_at : rest_at + left] = buffer[at : at + left]
            told[says, 0], told[says, 1], told[says, 2], told[says, 3] = LEFT, player, rest_at, rest_at + left
            says += 1
            rest_at += left
            mine[ARMED] = 0
    return says
