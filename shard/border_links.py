"""Links to the shards whose zones border on those here: dialled by who wants their feeds, as gateways dial shards.

Owns the sockets, the subscriptions and redialling. Never looks into a feed. Called by shard.service with every new view of the
cluster; hands feeds to shard.borders, and tells it which zones nobody tells of any more.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import numpy as np
import structlog

from perdure.ledger.values import ClusterView, Member
from perdure.wire.link import FrameReader, LinkType, pack_frame, pack_subscribe, peer_proof
from shard.border import FeedError, Words
from shard.reading import Tap

log = structlog.get_logger("shard.border_links")

NONCE_BYTES = 16
DIAL_TIMEOUT_S = 2.0
REDIAL_FIRST_S, REDIAL_MOST_S = 0.02, 1.0

Pairs = frozenset[tuple[int, int]]
"""(source, viewer) zones: what the source's owner is to tell the viewer's."""


class _Connection(asyncio.Protocol):
    """One socket to one shard, from its handshake to its end."""

    def __init__(self, link: BorderLink) -> None:
        self._link = link
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.up = self.accepted = False
        self._tap = Tap()
        self.detail = ""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.up = False
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._tap.brought()
        try:
            for kind, body in self._reader.feed(data):
                self._frame(kind, body)
        except (ValueError, struct.error) as error:
            self.detail = f"a frame that is none: {error}"
            self.end()

    def _frame(self, kind: LinkType, body: memoryview) -> None:
        if kind is LinkType.BORDER and self.up:
            # A copy, since what is held of it outlives the buffer; and 8 bytes a word, wherever the frame began.
            self._link.links.take(np.frombuffer(bytes(body), np.uint64))
        elif kind is LinkType.CHALLENGE and not self.up:
            nonce, name = bytes(body[:NONCE_BYTES]), bytes(body[NONCE_BYTES:]).decode("utf-8", "replace")
            if len(nonce) < NONCE_BYTES or name != self._link.member.name:
                raise ValueError(f"expected a challenge of {self._link.member.name}, got one of {name!r}")
            links = self._link.links
            proof = peer_proof(links.secret, nonce, links.number)
            self.send(pack_frame(LinkType.PEER, struct.pack("<I", links.number), proof, links.name.encode()))
        elif kind is LinkType.ACCEPT and not self.up:
            self.up = self.accepted = True
            self.send(pack_subscribe(sorted(self._link.pairs)))
        else:
            raise ValueError(f"{kind.name} is not what a shard sends another now")

    def read(self, in_time: bool) -> None:
        """A tick begins (see shard.reading)."""
        self._tap.turn(self._transport, self.data_received, in_time)

    def send(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def end(self) -> None:
        self.up = False
        if self._transport is not None:
            self._transport.abort()


class BorderLink:
    """The link to one shard: dials, subscribes, redials."""

    def __init__(self, member: Member, links: BorderLinks, pairs: Pairs) -> None:
        self.member, self.links, self.pairs = member, links, pairs
        self.connection: _Connection | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"border link {member.name}")

    def want(self, pairs: Pairs) -> None:
        """Subscribe to these feeds from now on, and to no others."""
        if pairs != self.pairs:
            self.pairs = pairs
            if self.connection is not None and self.connection.up:
                self.connection.send(pack_subscribe(sorted(pairs)))

    @property
    def up(self) -> bool:
        return self.connection is not None and self.connection.up

    async def _dial(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self.member.address
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            if address.startswith("unix:"):
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), address.removeprefix("unix:"))
            else:
                host, _, port = address.removeprefix("tcp:").rpartition(":")
                _, connection = await loop.create_connection(lambda: _Connection(self), host.strip("[]"), int(port))
        return connection

    async def _run(self) -> None:
        delay_s, failures = 0.0, 0
        while True:
            try:
                self.connection = await self._dial()
            except (OSError, TimeoutError, ValueError) as error:
                failures += 1
                if failures == 1:
                    log.info("border_link_failed", shard=self.member.name, address=self.member.address, why=repr(error))
            else:
                connection = self.connection
                await connection.closed
                self.connection = None
                self.links.lost(self)
                failures += 1
                if connection.accepted and not connection.detail:
                    delay_s, failures = 0.0, 0
                if failures <= 1:
                    log.info("border_link_lost", shard=self.member.name, detail=connection.detail or "ended by the other side")
            delay_s = min(max(delay_s * 2, REDIAL_FIRST_S), REDIAL_MOST_S)
            await asyncio.sleep(delay_s)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.connection is not None:
            self.connection.end()


class BorderLinks:
    """All of them. `receive(words)` takes a feed, `cut(zone)` hears that nobody tells of a zone."""

    def __init__(self, name: str, secret: bytes, receive: Callable[[Words], None], cut: Callable[[int], None]) -> None:
        self.name, self.secret, self.number = name, secret, 1
        self._receive, self._cut = receive, cut
        self._links: dict[str, BorderLink] = {}
        self.refused = 0
        """Feeds that could not be read."""

    @property
    def wanted(self) -> int:
        """How many shards are dialled."""
        return len(self._links)

    @property
    def up(self) -> int:
        """How many of them have taken the subscription."""
        return sum(link.up for link in self._links.values())

    @property
    def feeds(self) -> int:
        """How many feeds are subscribed for at those that have."""
        return sum(len(link.pairs) for link in self._links.values() if link.up)

    def follow(self, view: ClusterView, near: dict[int, list[int]]) -> None:
        """Subscribe at the owners of what is near. near: for each zone that is here, or on its way here, the zones near it."""
        wanted: dict[str, set[tuple[int, int]]] = {}
        for viewer, sources in near.items():
            for source in sources:
                route = view.zones.get(source)
                if route is None or not route.owner:
                    self._cut(source)
                elif route.owner != self.name:
                    wanted.setdefault(route.owner, set()).add((source, viewer))
        for name, link in list(self._links.items()):
            member = view.members.get(name)
            if name not in wanted or member is None or (member.number, member.address) != (link.member.number, link.member.address):
                del self._links[name]
                asyncio.get_running_loop().create_task(link.close(), name=f"end of border link {name}")
        for name, pairs in wanted.items():
            member = view.members.get(name)
            if member is None:
                for source, _ in pairs:
                    self._cut(source)
            elif name in self._links:
                self._links[name].want(frozenset(pairs))
            else:
                self._links[name] = BorderLink(member, self, frozenset(pairs))

    def read(self, in_time: bool) -> None:
        """A tick begins; links that are not up yet are the event loop's."""
        for link in list(self._links.values()):
            if link.up and link.connection is not None:
                link.connection.read(in_time)

    def take(self, words: Words) -> None:
        """A feed came. One that cannot be read is told of once in a while, and does no harm otherwise: a newer build may send it."""
        try:
            self._receive(words)
        except FeedError as error:
            if self.refused % 1000 == 0:
                log.warning("feed_refused", why=str(error))
            self.refused += 1

    def lost(self, link: BorderLink) -> None:
        """A link ended: nobody tells of its zones, until it is up again or they run elsewhere."""
        if self._links.get(link.member.name) is link:
            for source in {source for source, _ in link.pairs}:
                self._cut(source)

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()
