"""Commands on their way in: out of the link frames that brought them, and to the zones that they are for. One pass each.

They know nothing of players, and nothing of a row but its length. Buffers are shard.arrivals'; so are these kernels' calls, on the
loop's thread. Naive twin: tests/unit/shard/test_arrivals.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel
from perdure.wire.link import MAX_LINK_FRAME, LinkType

SOUND, BAD_LENGTH, BAD_COMMANDS = 0, 1, 2
_COMMANDS = int(LinkType.COMMANDS)


@kernel
def cut_frames(data: Any, at: Any, commands: Any, runs: Any, zones: Any, rows: Any, count: Any, others: Any) -> Any:
    """Cut the link frames in `data` from `at` on, and keep the rows of COMMANDS frames for zones that run.

    data: uint8[n]. commands: 1 where such frames are taken, 0 where they are as others. runs: bool[65536], by zone. zones: uint16[capacity]
    and rows: uint8[capacity, row bytes] are filled from `count` on; n // (row bytes + 2) more must find room. others: int64[k, 2], filled
    with begin and end of frames that are none of commands.
    Return (place of the first frame that was not cut: it is incomplete, bad, or one more than `others` holds; how many rows there are now;
    how many were for zones that do not run; how many others there are; what is bad about the frame at that place, SOUND for nothing).
    """
    row_bytes, total = rows.shape[1], len(data)
    elsewhere, found = np.int64(0), np.int64(0)
    while total - at >= 4:
        length = np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
        if length < 1 or length > MAX_LINK_FRAME:
            return at, count, elsewhere, found, BAD_LENGTH
        body, end = at + 5, at + 4 + length
        if end > total:
            break
        if commands == 0 or data[at + 4] != _COMMANDS:
            if found == len(others):
                break
            others[found, 0], others[found, 1] = at, end
            found += 1
            at = end
            continue
        told = np.int64(data[body]) | np.int64(data[body + 1]) << 8 if end - body >= 2 else np.int64(0)
        if told == 0 or end - body != 2 + told * (2 + row_bytes):
            return at, count, elsewhere, found, BAD_COMMANDS
        for k in range(told):
            zone = np.int64(data[body + 2 + 2 * k]) | np.int64(data[body + 3 + 2 * k]) << 8
            if not runs[zone]:
                elsewhere += 1
                continue
            start = body + 2 + 2 * told + k * row_bytes
            zones[count] = zone
            for byte in range(row_bytes):
                rows[count, byte] = data[start + byte]
            count += 1
        at = end
    return at, count, elsewhere, found, SOUND


@kernel
def sort_rows(zones: Any, rows: Any, count: Any, numbers: Any, place: Any, taken: Any, ends: Any) -> Any:
    """Move the rows of some zones into `taken`, zone by zone, each zone's in their order; return how many others are left, in theirs.

    zones: uint16[capacity], rows: uint8[capacity, row bytes]: the first `count` count. numbers: int64[k], the zones, each once.
    place: int32[65536] of -1, which it is again afterwards. taken: uint8[>= count, row bytes]. ends: int64[k], filled with where each
    zone's rows end.
    """
    row_bytes = rows.shape[1]
    for k in range(len(numbers)):
        place[numbers[k]] = k
        ends[k] = 0
    for at in range(count):
        k = place[zones[at]]
        if k >= 0:
            ends[k] += 1
    begin = np.int64(0)
    for k in range(len(numbers)):
        theirs = ends[k]
        ends[k] = begin
        begin += theirs
    left = np.int64(0)
    for at in range(count):
        k = place[zones[at]]
        if k >= 0:
            for byte in range(row_bytes):
                taken[ends[k], byte] = rows[at, byte]
            ends[k] += 1
            continue
        if left < at:
            zones[left] = zones[at]
            for byte in range(row_bytes):
                rows[left, byte] = rows[at, byte]
        left += 1
    for k in range(len(numbers)):
        place[numbers[k]] = -1
    return left
