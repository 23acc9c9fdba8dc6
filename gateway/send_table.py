"""The table of sends: for each session the little that a plain frame needs, where compiled code finds it.

Owns the rows and the compiled loop (gateway.kernels.sends), which service hands it once it is loaded. A row is armed while nothing but the
next frame of its route is to be written: the socket is plain, its transport holds nothing back, the session is not muted. Whatever changes
one of these disarms it first, and a socket is disarmed before its transport closes: its number may be another client's right after. What
the loop learned of a session meanwhile (acknowledgements, that frames came) the session reads when it needs it. Never decides what is sent.
Called by fanout and websocket_server; without compiled code no row is ever armed, and fanout's own loop does all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

from gateway.session import Session
from perdure.wire.link import RELEASE_STRUCT

SEND_ROW: np.dtype[np.void] = np.dtype(
    [("slot", "<u4"), ("armed", "<u4"), ("descriptor", "<i4"), ("route", "<u4"),
     ("hop", "<u4"), ("acked", "<u4"), ("fresh", "<u4"), ("pad", "<u4")]
)  # fmt: skip
_ROW = struct.Struct("<IIiIIIII")
assert _ROW.size == SEND_ROW.itemsize
_WORDS = SEND_ROW.itemsize // 4
_SLOT, _ARMED, _ACKED, _FRESH = 0, 1, 5, 6

SendRelease = Callable[[npt.NDArray[np.void], int, npt.NDArray[np.uint8], int, int, npt.NDArray[np.int64]], int]


class SendTable:
    """A row for each of `sessions`, and as many again, so that a free one is found soon."""

    def __init__(self, sessions: int) -> None:
        capacity = 1 << (2 * sessions - 1).bit_length()
        self._rows = np.zeros(capacity, SEND_ROW)
        self._bytes = self._rows.view(np.uint8).data
        self._words = self._rows.view(np.uint32).data
        self._mask = capacity - 1
        self._left = np.zeros((64, 2), np.int64)
        self._send: SendRelease | None = None

    def use(self, send: SendRelease) -> None:
        """Have this compiled loop send from now on."""
        self._send = send

    @property
    def compiled(self) -> bool:
        return self._send is not None

    # --- rows -------------------------------------------------------------------------------------------------------

    def is_free(self, slot: int) -> bool:
        return not self._words[(slot & self._mask) * _WORDS + _SLOT]

    def add(self, session: Session) -> None:
        """Give a session the row of its slot; one whose row is taken is served by the reference alone."""
        if self.is_free(session.slot):
            at = (session.slot & self._mask) * _WORDS
            self._words[at + _SLOT] = session.slot
            session.acknowledged, session.acknowledged_at = self._words, at + _ACKED

    def remove(self, session: Session) -> None:
        """Take the row back. Nothing is sent by it any more, whatever becomes of the socket's number."""
        if session.acknowledged is None:
            return
        session.catch_up()
        session.acknowledged = None
        row = session.slot & self._mask
        _ROW.pack_into(self._bytes, row * _ROW.size, 0, 0, -1, 0, 0, 0, 0, 0)

    def arm(self, session: Session) -> None:
        """Let the compiled loop send what comes next for a session, if nothing stands against it."""
        route, driver = session.route, session.driver
        if self._send is None or route is None or driver is None or session.muted or session.acknowledged is None:
            return
        descriptor = driver.plain_descriptor()
        if descriptor >= 0:
            at = (session.slot & self._mask) * _ROW.size
            _ROW.pack_into(self._bytes, at, session.slot, 1, descriptor, route.number, session.hop, session.acked, 0, 0)

    def disarm(self, session: Session) -> None:
        if session.acknowledged is not None:
            self._words[(session.slot & self._mask) * _WORDS + _ARMED] = 0
            session.catch_up()

    def is_armed(self, session: Session) -> bool:
        return session.acknowledged is not None and self._words[(session.slot & self._mask) * _WORDS + _ARMED] != 0

    def take_fresh(self, session: Session) -> bool:
        """Return whether frames were sent to a session since the last call."""
        if session.acknowledged is None:
            return False
        at = (session.slot & self._mask) * _WORDS + _FRESH
        fresh = self._words[at] != 0
        self._words[at] = 0
        return fresh

    # --- the loop ---------------------------------------------------------------------------------------------------

    def send(self, route: int, body: memoryview, count: int) -> list[list[int]] | None:
        """Send what is plain of a release; return (entry, bytes sent) of the others, or None where there is no compiled code."""
        if self._send is None:
            return None
        if count > len(self._left):
            self._left = np.zeros((1 << (count - 1).bit_length(), 2), np.int64)
        raw = np.frombuffer(body, np.uint8)
        raw.flags.writeable = False  # whatever it came in: another type would be compiled for, and everybody would wait
        over = self._send(self._rows, route, raw, RELEASE_STRUCT.size, count, self._left)
        return self._left[:over].tolist() if over else []


def compile_sends() -> SendRelease:
    """Import the kernel and run it once, over a table of nobody."""
    if os.name != "posix" or os.uname().sysname != "Linux":
        raise RuntimeError("sends are compiled for Linux alone")
    from gateway.kernels.sends import send_release
    from perdure.game.jit import JIT_DISABLED

    if JIT_DISABLED:
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    body = np.frombuffer(bytes(RELEASE_STRUCT.size + 24), np.uint8)
    left = np.zeros((64, 2), np.int64)
    if send_release(np.zeros(2, SEND_ROW), 1, body, RELEASE_STRUCT.size, 1, left) != 1:
        raise RuntimeError("the compiled loop does not do what it must")
    return cast(SendRelease, send_release)
