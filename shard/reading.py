"""When a shard reads what gateways and other shards send it: all of it at once, as a tick begins.

What comes between two ticks is wanted by the next one only. To wake up for each write of each gateway would cost a shard more than what it
does with the commands; so a link that brings something tick by tick is taken from the event loop, what comes lies where the machine keeps
it, and the tick that wants it reads it in one piece. Nothing comes later than it did. Links that bring little are left to the event loop,
and all are where ticks do not come in time (zones in lanes, a commit without an answer).

Owns which links those are, and the reasons why none is. Never looks at what is read. Called by shard.tick_loop; the sources are
shard.link_server and shard.border_links.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import structlog

BUSY_TICKS = 3
"""A link that brings something in two of so many ticks in a row is read as ticks begin; one that has brought nothing for as many is the
event loop's again: to take it and give it back for each of a few words would cost more than to wake up for them."""
CHUNK_BYTES = 1 << 18
MANY_BYTES, REST_TICKS = 1 << 16, 40
"""A link that brings so much in one tick is left to the event loop for so many: a Unix socket holds some 200 KB, and whoever sends more
would wait for the next tick each time."""

log = structlog.get_logger("shard.reading")


class Tap:
    """One link of a source. A transport without a socket (a simulated one) is always the event loop's."""

    __slots__ = ("_busy", "_came", "_file", "_mine", "_rest")

    def __init__(self) -> None:
        self._mine, self._came, self._busy, self._rest, self._file = False, False, 0, 0, -1

    def brought(self) -> None:
        """Something has come."""
        self._came = True

    def turn(self, transport: asyncio.Transport | None, receive: Callable[[bytes], None], in_time: bool) -> None:
        """A tick begins: read what has come, and hand it to `receive`. Not `in_time`: let the event loop read, from now on.

        What `receive` raises ends the link: it must not end the tick of all zones.
        """
        if transport is None or transport.is_closing():
            return
        if self._mine and in_time:
            self._came = False
            try:
                read = self._read(transport, receive)
            except Exception as error:
                log.error("link_failed", why=repr(error), exc_info=error)
                transport.abort()
                return
            if read > MANY_BYTES:
                self._rest = REST_TICKS
            if self._mine:  # its end was not reached
                self._busy = BUSY_TICKS if self._came else self._busy - 1
                if self._busy <= 0 or read > MANY_BYTES:
                    self._leave(transport)
        elif self._mine:
            self._leave(transport)
        elif self._rest:
            self._rest -= 1
        elif self._came and self._busy > 1 and in_time:
            self._take(transport)
        elif self._came:
            self._busy, self._came = BUSY_TICKS, False
        elif self._busy:
            self._busy -= 1

    def _take(self, transport: asyncio.Transport) -> None:
        opened = transport.get_extra_info("socket")
        if opened is not None:
            transport.pause_reading()
            self._mine, self._busy, self._file = True, BUSY_TICKS, opened.fileno()

    def _leave(self, transport: asyncio.Transport) -> None:
        self._mine, self._came, self._busy = False, False, 0
        if not transport.is_closing():
            transport.resume_reading()

    def _read(self, transport: asyncio.Transport, receive: Callable[[bytes], None]) -> int:
        """Return how many bytes there were. At the end of the connection the event loop gets it back: it sees why, and tells."""
        count = 0
        try:
            while not transport.is_closing():
                data = os.read(self._file, CHUNK_BYTES)
                if not data:
                    self._leave(transport)
                    break
                count += len(data)
                receive(data)
                if len(data) < CHUNK_BYTES:
                    break
        except BlockingIOError:
            return count
        except OSError:
            self._leave(transport)
        return count


class Reading:
    """A source's function takes a Boolean and turns all its taps with it."""

    def __init__(self) -> None:
        self._sources: list[Callable[[bool], None]] = []
        self._always: set[str] = set()

    def add(self, source: Callable[[bool], None]) -> None:
        self._sources.append(source)

    def always(self, why: str) -> None:
        """Have everything read as it comes, until `in_time(why)`."""
        self._always.add(why)
        self.take_in()

    def in_time(self, why: str) -> None:
        """This is no reason any more; from the next tick on, if there is no other one."""
        self._always.discard(why)

    def take_in(self) -> None:
        """A tick begins: read what has come."""
        for source in self._sources:
            source(not self._always)
