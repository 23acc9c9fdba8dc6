"""Border feeds between shards: who asks for what, over real sockets, and what happens where a link breaks or does not keep up."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shard.link_server
from perdure.ledger.values import ClusterView, Member, ZoneRoute
from perdure.wire.link import FrameReader, LinkType, link_proof, pack_frame, pack_subscribe, peer_proof
from shard.arrivals import Arrivals, Cut
from shard.border import FeedError, Words
from shard.border_links import BorderLinks
from shard.link_server import Link, LinkServer

SECRET = b"a secret of the test"
DEADLINE_S = 20.0


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.002)


class Host:
    """Who has a link server: here, nobody but the test."""

    def __init__(self) -> None:
        self.wanted: dict[Link, list[tuple[int, int]]] = {}
        self.gateways: list[int] = []

    def frames_arrived(self, data: bytes, at: int, *, commands: bool) -> Cut:
        return Arrivals(24).cut(data, at, np.ones(1 << 16, np.bool_), commands=commands)

    def keyframes_wanted(self, zone: int, players: list[int]) -> None:
        raise AssertionError("nobody asks for keyframes here")

    def gateway_linked(self, gateway: int) -> None:
        self.gateways.append(gateway)

    def look(self, zone: int, player: int, tell: Callable[[bytes], None]) -> None:
        raise AssertionError("nobody looks for players here")

    def subscribed(self, link: Link, pairs: list[tuple[int, int]]) -> None:
        self.wanted[link] = pairs

    def unsubscribed(self, link: Link) -> None:
        self.wanted.pop(link, None)


class Owner:
    """A shard that owns zones: its link server, under a path."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.host = name, Host()
        self.server = LinkServer(SECRET, name, 24)
        self.address = f"unix:{path}/{name}.sock"

    async def listen(self) -> None:
        await self.server.listen(self.host, self.address)

    def pairs(self) -> list[list[tuple[int, int]]]:
        return list(self.host.wanted.values())

    def tell(self, *words: int) -> None:
        for link in self.host.wanted:
            link.send_feed(pack_frame(LinkType.BORDER, np.array(words, np.uint64).tobytes()))


def view(owners: dict[int, str], *members: Owner, numbers: int = 5) -> ClusterView:
    zones = {zone: ZoneRoute(zone, owner, 1, 1, "", False) for zone, owner in owners.items()}
    known = {m.name: Member(m.name, "shard", numbers, m.address) for m in members}
    return ClusterView(1, 1, "", 1, zones, known, {}, {}, frozenset(), "run")


class Viewer:
    """A shard that wants feeds."""

    def __init__(self, secret: bytes = SECRET) -> None:
        self.received: list[list[int]] = []
        self.cut: list[int] = []
        self.refuse = False
        self.links = BorderLinks("viewer", secret, self._take, self.cut.append)

    def _take(self, words: Words) -> None:
        if self.refuse:
            raise FeedError("another layout")
        self.received.append(words.tolist())


@asynccontextmanager
async def owner_and_viewer(path: Path, secret: bytes = SECRET) -> AsyncIterator[tuple[Owner, Viewer]]:
    owner, viewer = Owner("owner", path), Viewer(secret)
    await owner.listen()
    try:
        yield owner, viewer
    finally:
        await viewer.links.close()
        await owner.server.close()


async def test_feeds_are_asked_for_at_who_owns_the_zones_near_by(tmp_path: Path) -> None:
    async with owner_and_viewer(tmp_path) as (owner, viewer):
        other = Owner("other", tmp_path)
        await other.listen()
        viewer.links.follow(view({0: "viewer", 1: "owner", 2: "owner", 3: "other"}, owner, other), {0: [1, 3]})
        await until(lambda: owner.pairs() == [[(1, 0)]] and other.pairs() == [[(3, 0)]])
        owner.tell(1, 2, (1 << 63) + 5)
        await until(lambda: viewer.received == [[1, 2, (1 << 63) + 5]])
        assert owner.host.gateways == [], "another shard is no gateway"
        viewer.links.follow(view({0: "viewer", 1: "owner", 2: "owner", 3: "viewer"}, owner, other), {0: [1, 2, 3], 3: [1]})
        await until(lambda: owner.pairs() == [[(1, 0), (1, 3), (2, 0)]] and other.pairs() == [])
        assert viewer.cut == []
        await other.server.close()


async def test_a_zone_that_nobody_tells_of_is_cut(tmp_path: Path) -> None:
    async with owner_and_viewer(tmp_path) as (owner, viewer):
        viewer.links.follow(view({0: "viewer", 1: "owner", 2: "", 3: "stranger"}, owner), {0: [1, 2, 3]})
        assert sorted(viewer.cut) == [2, 3]
        await until(owner.pairs)
        viewer.cut.clear()
        await owner.server.close()  # as a process that dies
        await until(lambda: viewer.cut)
        assert viewer.cut == [1]
        await owner.listen()
        await until(owner.pairs)
        owner.tell(7)
        await until(lambda: viewer.received == [[7]])


async def test_a_feed_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    async with owner_and_viewer(tmp_path) as (owner, viewer):
        viewer.links.follow(view({1: "owner"}, owner), {0: [1]})
        await until(owner.pairs)
        viewer.refuse = True
        owner.tell(1)
        owner.tell(2)
        await until(lambda: viewer.links.refused == 2)
        viewer.refuse = False
        owner.tell(3)
        await until(lambda: viewer.received == [[3]])


async def test_another_secret_is_refused(tmp_path: Path) -> None:
    async with owner_and_viewer(tmp_path, b"another secret") as (owner, viewer):
        viewer.links.follow(view({1: "owner"}, owner), {0: [1]})
        await until(lambda: viewer.cut == [1])
        assert owner.pairs() == []


async def connect(owner: Owner, kind: LinkType, proof: Callable[[bytes, bytes, int], bytes]) -> tuple[asyncio.StreamReader, Any]:
    reader, writer = await asyncio.open_unix_connection(owner.address[5:])
    challenge = await reader.readexactly(4 + 1 + 16 + len(owner.name))
    writer.write(pack_frame(kind, struct.pack("<I", 9), proof(SECRET, challenge[5:21], 9), b"raw"))
    return reader, writer


async def test_a_gateways_proof_makes_nobody_a_shard(tmp_path: Path) -> None:
    async with owner_and_viewer(tmp_path) as (owner, _):
        for kind, proof in ((LinkType.PEER, link_proof), (LinkType.HELLO, peer_proof)):
            reader, writer = await connect(owner, kind, proof)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
            writer.close()
        assert owner.host.gateways == []


@pytest.mark.parametrize(
    "frame",
    [pack_frame(LinkType.COMMANDS, bytes(28)), pack_frame(LinkType.SUBSCRIBE, b"\1"), pack_frame(LinkType.SUBSCRIBE, bytes(4 * 4097))],
    ids=["commands", "half a pair", "too many"],
)
async def test_what_a_shard_may_not_send_ends_its_link(tmp_path: Path, frame: bytes) -> None:
    async with owner_and_viewer(tmp_path) as (owner, _):
        reader, writer = await connect(owner, LinkType.PEER, peer_proof)
        writer.write(pack_subscribe([(1, 0)]))
        await until(owner.pairs)
        writer.write(frame)
        await until(lambda: not owner.pairs())
        writer.close()
        assert reader is not None


async def test_a_shard_that_does_not_read_misses_feeds_and_nothing_piles_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.link_server, "MAX_UNSENT_TO_PEER_BYTES", 1 << 20)
    async with owner_and_viewer(tmp_path) as (owner, _):
        reader, writer = await connect(owner, LinkType.PEER, peer_proof)
        writer.write(pack_subscribe([(1, 0)]))
        await until(owner.pairs)
        (link,) = owner.host.wanted
        dropped = 0
        for number in range(64):
            dropped += not link.send_feed(pack_frame(LinkType.BORDER, bytes(1 << 17) + bytes([number])))
        assert dropped > 20
        assert link._transport is not None
        assert link._transport.get_write_buffer_size() <= 1 << 20
        cut, whole = FrameReader(), []
        async with asyncio.timeout(DEADLINE_S):
            while len(whole) < 1 + 64 - dropped:
                whole += [bytes(body) for kind, body in cut.feed(await reader.read(1 << 20)) if kind in (LinkType.BORDER, LinkType.ACCEPT)]
        assert all(len(body) in (0, (1 << 17) + 1) for body in whole), "what is told is whole"
        link.send_feed(pack_frame(LinkType.BORDER, b"news"))
        assert (await reader.read(64))[5:] == b"news", "and the link goes on"
        writer.close()
