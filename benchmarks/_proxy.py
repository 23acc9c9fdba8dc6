"""A proxy of our own between a member and the ledger: it holds bytes, breaks connections, loses replies, cuts requests.

Owns a unix socket that it listens on, and every connection that comes through it. Forwards bytes as they are unless it was told
otherwise; never makes any up, and interprets no more of them than whether a commit is among them. It stands where a network namespace is
not needed or not to be had. Called by the chaos rows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from perdure.ledger.redis_functions import LIBRARY_NAME

COMMIT, RESEED = f"{LIBRARY_NAME}_commit".encode(), f"{LIBRARY_NAME}_reseed".encode()
_CALL = re.compile(rb"\*(\d+)\r\n\$5\r\nFCALL\r\n\$\d+\r\n" + re.escape(COMMIT))
_PLAIN_COMMIT_WORDS = 10
"""Words of a commit that transfers nobody (perdure/ledger/functions/commit.lua)."""

Cut = Callable[[bytes], bytes]


def has_commit(request: bytes) -> bool:
    return COMMIT in request


def puts_zones(request: bytes) -> bool:
    """Whether an owner says in these bytes what a zone of its is like: a commit, or a zone put back."""
    return COMMIT in request or RESEED in request


def has_transfer(request: bytes) -> bool:
    """Whether a commit that moves a player or an entity to another place begins in these bytes."""
    return any(int(words) > _PLAIN_COMMIT_WORDS for words in _CALL.findall(request))


class Proxy:
    """Listens on `listen` and connects each comer to `target` (both paths of unix sockets). One event loop, no threads.

    `target` may be changed at any time; it holds for connections that come later (`break_all` makes all come anew).
    """

    def __init__(self, listen: Path, target: Path) -> None:
        self.listen, self.target = listen, target
        self.cut: Cut | None = None
        """Is given every request and returns what of it goes on to the server."""
        self.deaf_to: Callable[[bytes], bool] | None = None
        """Breaks the connection of a request of which this is true."""
        self.lost_replies = 0
        self._requests_held = self._replies_held = self._refusing = False
        self._replies_to_lose = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[_Near] = set()

    @property
    def url(self) -> str:
        return f"unix://{self.listen}"

    @property
    def connections(self) -> int:
        return len(self._pairs)

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Near(self), str(self.listen))

    async def stop(self) -> None:
        """Stop listening and break every connection."""
        if self._server is not None:
            self._server.close()
        self.break_all()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        self.listen.unlink(missing_ok=True)

    def hold(self, *, requests: bool = True, replies: bool = True) -> None:
        """Let nothing pass in these directions, without a word to anybody: a network that drops every packet."""
        self._requests_held, self._replies_held = requests, replies
        self._hold_or_not()

    def release(self) -> None:
        """Let everything pass again, what was held first."""
        self.hold(requests=False, replies=False)

    def refuse(self) -> None:
        """Break all connections, and every new one at once, until `accept`."""
        self._refusing = True
        self.break_all()

    def accept(self) -> None:
        self._refusing = False

    def break_all(self) -> None:
        for pair in list(self._pairs):
            pair.abort()

    def lose_replies(self, count: int) -> None:
        """Swallow the answers to the next `count` batches of commits, and break their connections: what was done stays done."""
        self._replies_to_lose += count

    def _hold_or_not(self) -> None:
        for pair in self._pairs:
            pair.reading(requests=not self._requests_held, replies=not self._replies_held)

    # --- called by the connections ----------------------------------------------------------------------------------

    def _joined(self, pair: _Near) -> bool:
        if self._refusing:
            return False
        self._pairs.add(pair)
        return True

    def _left(self, pair: _Near) -> None:
        self._pairs.discard(pair)

    def _request(self, data: bytes) -> bytes:
        return data if self.cut is None else self.cut(data)

    def _loses(self) -> bool:
        if self._replies_to_lose <= 0:
            return False
        self._replies_to_lose -= 1
        self.lost_replies += 1
        return True


class _Near(asyncio.Protocol):
    """The side of the member. What it asks before the far side is connected waits here."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._asked_commit = False
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._proxy._joined(self):
            self._transport.abort()
            return
        self._dialling = asyncio.get_running_loop().create_task(self._dial())
        self._proxy._hold_or_not()

    async def _dial(self) -> None:
        try:
            far, _ = await asyncio.get_running_loop().create_unix_connection(lambda: _Far(self), str(self._proxy.target))
        except OSError:
            self.abort()
            return
        if self._transport is None or self._transport.is_closing():
            far.abort()
            return
        self._far = cast(asyncio.Transport, far)
        self._far.writelines(self._waiting)
        self._waiting.clear()
        self._proxy._hold_or_not()

    def data_received(self, data: bytes) -> None:
        if has_commit(data):
            self._asked_commit = True
        if self._proxy.deaf_to is not None and self._proxy.deaf_to(data):
            self.abort()
            return
        data = self._proxy._request(data)
        if not data:
            return
        if self._far is None:
            self._waiting.append(data)
        else:
            self._far.write(data)

    def answered(self, data: bytes) -> None:
        if self._asked_commit:
            if self._proxy._loses():
                self.abort()
                return
            self._asked_commit = False
        if self._transport is not None:
            self._transport.write(data)

    def reading(self, *, requests: bool, replies: bool) -> None:
        for transport, on in ((self._transport, requests), (self._far, replies)):
            if transport is not None and not transport.is_closing():
                if on:
                    transport.resume_reading()
                else:
                    transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.abort()

    def abort(self) -> None:
        self._proxy._left(self)
        for transport in (self._transport, self._far):
            if transport is not None and not transport.is_closing():
                transport.abort()


class _Far(asyncio.Protocol):
    """The side of the ledger."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def data_received(self, data: bytes) -> None:
        self._near.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._near.abort()
