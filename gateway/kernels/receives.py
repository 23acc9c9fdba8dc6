"""What came on many sockets, by one pass of epoll: read, cut into plain frames, unmasked, in two buffers.

Owns what counts as plain: final, binary, masked, 1 to 125 bytes of payload, and nothing else in what was read. Never judges a message,
never ends a socket. Called by gateway.receive_table with the loop's thread alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel  # before numba: it sets what numba reads when it is imported

# isort: split
from numba import types

_epoll_wait: Any = types.ExternalFunction("epoll_wait", types.int32(types.int32, types.uintp, types.int32, types.int32))
_recv: Any = types.ExternalFunction("recv", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_DONTWAIT = 0x40
CHUNK_BYTES = 1024
"""Read of one socket in one pass; the rest is there in the next."""
LEAST_FRAME_BYTES = 7
PLAIN, OTHER, NOTHING = 0, 1, 2
"""Kinds of pieces; see `receive`."""


@kernel
def receive(poll: Any, events: Any, event_bytes: Any, number_at: Any, raw: Any, plain: Any, found: Any) -> Any:
    """Read from every socket that has something; return (sockets, pieces, bytes).

    poll: the epoll's number, whose events' data are the sockets' numbers. events: uint8, room for as many as are taken in a pass, each of
    `event_bytes`, the number at `number_at`. raw, plain: uint8, CHUNK_BYTES for each event: as it came, and unmasked.
    found: int64[..., 4] of (socket, place in the buffers, bytes, kind), in order: PLAIN is one whole frame (if the socket is between two),
    OTHER is what follows the last of them, NOTHING is an end or an error.
    """
    count = _epoll_wait(poll, events.ctypes.data, len(events) // event_bytes, 0)
    pieces = 0
    used = 0
    for event in range(count):
        at = event * event_bytes + number_at
        descriptor = np.int64(events[at]) | np.int64(events[at + 1]) << 8 | np.int64(events[at + 2]) << 16 | np.int64(events[at + 3]) << 24
        got = _recv(descriptor, np.uint64(raw.ctypes.data + used), np.uint64(CHUNK_BYTES), _DONTWAIT)
        at, end = used, used + max(got, 0)
        while end - at >= LEAST_FRAME_BYTES and raw[at] == 0x82 and 0x81 <= raw[at + 1] <= 0xFD:
            size = np.int64(raw[at + 1]) - 0x80 + 6
            if at + size > end:
                break
            for k in range(6, size):
                plain[at + k] = raw[at + k] ^ raw[at + 2 + ((k - 6) & 3)]
            found[pieces, 0], found[pieces, 1], found[pieces, 2], found[pieces, 3] = descriptor, at, size, PLAIN
            pieces += 1
            at += size
        if got <= 0 or at < end:
            found[pieces, 0], found[pieces, 1], found[pieces, 2] = descriptor, at, end - at
            found[pieces, 3] = OTHER if got > 0 else NOTHING
            pieces += 1
        used = end
    return count, pieces, used
