"""Reception in passes: the sockets of those who play are read by compiled code, all that have something in one pass.

Owns an epoll with these sockets, whose transports do not read meanwhile, and when a pass is made: at once when something comes after a
silence, then every PASS_S until nothing does. Plain frames go to their connection's `take_plain`, everything else to its `data_received`,
which is the reference; a socket that ended or failed goes back to its transport, which finds that out itself. Never looks into a message.
Called by websocket_server; without compiled code no socket is ever taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import select
from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

PASS_S = 0.002
"""A command waits so long at most. A tick that takes it comes 25 ms later on average."""
EVENTS = 128
"""Sockets of one call; whatever is over that is read in the next, in the same pass."""
CALLS_A_PASS = 64

# struct epoll_event is packed on x86 alone (linux/eventpoll.h).
_PACKED = platform.machine() in ("x86_64", "AMD64", "i386", "i686")
_EVENT_BYTES, _NUMBER_AT = (12, 4) if _PACKED else (16, 8)

_Bytes = npt.NDArray[np.uint8]
Receive = Callable[[int, _Bytes, int, int, _Bytes, _Bytes, npt.NDArray[np.int64]], tuple[int, int, int]]


class Receiving(Protocol):
    """A connection whose socket may be read here."""

    transport: asyncio.Transport
    descriptor: int
    read_as: int
    """The number by which it is read here; -1: its transport reads."""

    def takes_plain(self) -> bool: ...

    def take_plain(self, now_s: float, payload: bytes) -> None: ...

    def data_received(self, data: bytes) -> None: ...


class ReceiveTable:
    """See the module docstring. Made when the compiled code is there; `close` before the loop ends."""

    def __init__(self, receive: Receive, chunk_bytes: int, least_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._loop = loop
        self._poll = select.epoll()
        self._connections: dict[int, Receiving] = {}
        self._events = np.zeros(EVENTS * _EVENT_BYTES, np.uint8)
        self._raw = np.zeros(EVENTS * chunk_bytes, np.uint8)
        self._plain = np.zeros(EVENTS * chunk_bytes, np.uint8)
        self._found = np.zeros((EVENTS * (chunk_bytes // least_bytes + 1), 4), np.int64)
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False

    # --- who is read here -------------------------------------------------------------------------------------------

    def take_over(self, connection: Receiving) -> None:
        """Read a socket here from now on, if that can be."""
        descriptor, transport = connection.descriptor, connection.transport
        if descriptor < 0 or transport.is_closing() or self._poll.closed:
            return
        try:
            self._poll.register(descriptor, select.EPOLLIN)
        except OSError:
            return  # the system watches as many as it will: the transport goes on reading
        transport.pause_reading()
        connection.read_as = descriptor
        self._connections[descriptor] = connection
        if self._timer is None and not self._watching:
            self._watch()

    def give_back(self, connection: Receiving) -> None:
        """Have the transport read again."""
        if self.drop(connection):
            connection.transport.resume_reading()

    def drop(self, connection: Receiving) -> bool:
        """Read a socket no more; called before it is closed, since its number may be another's then. Return whether it was read here."""
        descriptor, connection.read_as = connection.read_as, -1
        if descriptor < 0:
            return False
        del self._connections[descriptor]
        self._poll.unregister(descriptor)
        return True

    def __len__(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watching:
            self._loop.remove_reader(self._poll.fileno())
        self._watching, self._timer = False, None
        for connection in list(self._connections.values()):
            self.give_back(connection)
        self._poll.close()

    # --- passes -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._watching = True
        self._loop.add_reader(self._poll.fileno(), self._something)

    def _something(self) -> None:
        """The first after a silence."""
        self._watching = False
        self._loop.remove_reader(self._poll.fileno())
        self._pass()

    def _pass(self) -> None:
        self._timer = None
        if self.read():
            self._timer = self._loop.call_later(PASS_S, self._pass)
        else:
            self._watch()

    def read(self) -> int:
        """Read all that is there; return how many sockets had something."""
        sockets = 0
        for _ in range(CALLS_A_PASS):
            count, pieces, used = self._receive(
                self._poll.fileno(), self._events, _EVENT_BYTES, _NUMBER_AT, self._raw, self._plain, self._found
            )
            if pieces:
                self._deliver(self._found[:pieces].tolist(), self._raw[:used].tobytes(), self._plain[:used].tobytes())
            sockets += max(count, 0)
            if count < EVENTS:
                break
        return sockets

    def _deliver(self, found: list[list[int]], raw: bytes, plain: bytes) -> None:
        now_s, find = self._loop.time(), self._connections.get
        for descriptor, at, size, kind in found:
            connection = find(descriptor)
            if connection is None:
                continue  # it was ended by what came before
            try:
                if kind == 0 and connection.takes_plain():
                    connection.take_plain(now_s, plain[at + 6 : at + size])
                elif size:
                    connection.data_received(raw[at : at + size])
                else:
                    self.give_back(connection)
            except Exception as error:  # noqa: BLE001 - as an event loop does: one connection's fault ends that one
                self._loop.call_exception_handler({"message": "a connection failed", "exception": error, "transport": connection.transport})
                connection.transport.abort()


def compile_receives() -> tuple[Receive, int, int]:
    """Import the kernel and run it once, over nobody; return it and the bytes that it reads at a time and at least."""
    from gateway.kernels.receives import CHUNK_BYTES, LEAST_FRAME_BYTES, receive

    with contextlib.closing(select.epoll()) as poll:
        some = np.zeros(EVENTS * _EVENT_BYTES, np.uint8)
        if receive(poll.fileno(), some, _EVENT_BYTES, _NUMBER_AT, some, some, np.zeros((2, 4), np.int64)) != (0, 0, 0):
            raise RuntimeError("the compiled reception does not do what it must")
    return cast(Receive, receive), CHUNK_BYTES, LEAST_FRAME_BYTES
