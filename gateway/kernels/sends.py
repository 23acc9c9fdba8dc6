"""The sends of one release: from the link frame's own bytes to the sockets, one libc call a player, no copy and no Python.

Owns the layout of a row of the table of sends (gateway.send_table owns the table). Touches only sockets of rows that are armed; whatever
is not plain is left over for gateway.fanout, whose loop is the reference. Called by gateway.send_table with the loop's thread alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel  # before numba: it sets what numba reads when it is imported

# isort: split
from numba import types

_send: Any = types.ExternalFunction("send", types.intp(types.int32, types.uintp, types.uintp, types.int32))
_DONTWAIT_NOSIGNAL = 0x40 | 0x4000
"""MSG_DONTWAIT | MSG_NOSIGNAL of Linux, on every architecture that it runs on."""
ENTRY_BYTES = 24


@kernel
def send_release(rows: Any, route: Any, body: Any, entries_at: Any, count: Any, left: Any) -> Any:
    """Send the frames of those entries whose rows are armed for `route`; return how many entries are left over.

    rows: SEND_ROW[2^n], the row of a slot is slot mod 2^n. body: uint8 of a RELEASE frame, whose `count` entries (RELEASE_ENTRY) begin at
    `entries_at` and whose blob follows them. left: int64[>= count, 2], filled with (entry, bytes of its frame that were sent), in order.
    A row of an entry that is left over is disarmed, so that no later frame overtakes it.
    """
    mask = np.uint32(len(rows) - 1)
    entries = body[entries_at : entries_at + count * ENTRY_BYTES].view(np.uint32)
    blob_at = entries_at + count * ENTRY_BYTES
    blob_bytes = len(body) - blob_at
    address = body.ctypes.data + blob_at
    over = 0
    for entry in range(count):
        at = entry * 6
        slot, length = entries[at], np.int64(entries[at + 5])
        row = rows[slot & mask]
        sent = np.int64(0)
        if row.slot == slot and row.armed != 0:
            offset = np.int64(entries[at + 4])
            plain = row.route == route and row.hop == entries[at + 1] and entries[at + 3] == 0
            if plain and length > 0 and offset + length <= blob_bytes:
                sent = _send(row.descriptor, np.uint64(address + offset), np.uint64(length), _DONTWAIT_NOSIGNAL)
                if sent == length:
                    row.fresh = 1
                    row.acked = max(row.acked, entries[at + 2])
                    continue
            row.armed = 0
        left[over, 0] = entry
        left[over, 1] = max(sent, 0)
        over += 1
    return over
