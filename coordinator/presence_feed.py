"""Keeps the presence book current: a full reading at each (re)connect, then the ledger's presence hints.

Owns the book and wakes those who wait for a change. Waiters hold no queue: each reads on from the number that it has seen, and
the book is bounded, so a slow one misses changes (and is told) but holds nobody up. Called by `service`; read by `admin_api`.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from perdure.ledger.ledger import PRESENCE_CHANNEL, Ledger, LedgerError
from perdure.ledger.values import Presence
from perdure.placement.presence import PresenceBook

RETRY_S = 1.0

log = structlog.get_logger("coordinator")


class _Hint(msgspec.Struct):
    """A message of the presence channel."""

    player: str
    name: str
    place: int
    gateway: int
    slot: int
    session: int
    since_ms: int


class PresenceFeed:
    """See the module docstring."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._decoder = msgspec.json.Decoder(_Hint)
        self._changed = asyncio.Condition()
        self._closed = False
        self.book = PresenceBook()

    async def run(self) -> None:
        """Follow the channel until cancelled. An outage of the ledger is waited out."""
        while True:
            try:
                async for _, message in self._ledger.subscribe(PRESENCE_CHANNEL):
                    await self.take(message)
            except LedgerError as error:
                log.debug("presence waits for the ledger", error=str(error))
            await asyncio.sleep(RETRY_S)

    async def take(self, message: bytes) -> None:
        """Take one message of the channel in."""
        if message == b"resync":
            changes = self.book.read(await self._ledger.online())
        else:
            try:
                hint = self._decoder.decode(message)
                player = int(hint.player, 16)
            except (msgspec.MsgspecError, ValueError) as error:
                log.warning("a presence hint could not be read", error=str(error))
                return
            changes = self.book.hint(Presence(player, hint.name, hint.place, hint.gateway, hint.slot, hint.session, hint.since_ms))
        if changes:
            async with self._changed:
                self._changed.notify_all()

    async def wait_above(self, number: int, timeout_s: float) -> bool:
        """Wait until the book has a change above `number`. False when the time is over, or the feed is closed."""
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(lambda: self._closed or self.book.number > number)
            except TimeoutError:
                return False
        return self.book.number > number

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        """End all waits: the process stops."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()
