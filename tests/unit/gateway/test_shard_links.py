"""Dialling shards. What a failed dial says about the shard: the fastest sign of a death must not be mistaken for a bad network."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.metrics import GatewayCounters
from gateway.routing import CommandLink, Route
from gateway.shard_links import FLUSH_PART, LATER_S, LEAD_S, MUCH_BYTES, LinkConnection, ShardLinks, _gone, _resolve, round_trip_s
from perdure.ledger.values import Member
from perdure.wire.link import ACCEPTED, AT_ONCE_US, GOT_STRUCT, READS_STRUCT, FrameReader, LinkType, pack_frame, pack_zone_pace
from tests.unit.gateway.cluster_double import eventually

UNKNOWN_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("error", "had_link", "gone"),
    [
        (ConnectionRefusedError(), True, True),
        (ConnectionRefusedError(), False, True),
        (FileNotFoundError(), False, True),  # a unix socket that is not there
        (UNKNOWN_NAME, True, True),  # the container's name went with it
        (UNKNOWN_NAME, False, False),  # never linked: as likely a wrong address
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True, False),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True, False),
        (TimeoutError(), True, False),
        (ValueError("no port"), True, False),
    ],
)
def test_what_a_failed_dial_means(error: Exception, had_link: bool, gone: bool) -> None:
    assert _gone(error, had_link=had_link) is gone


@dataclass
class Listener:
    """A sink for links that see little but their handshake."""

    died: list[str] = field(default_factory=list)
    paces: list[tuple[int, ...]] = field(default_factory=list)
    releases: int = 0

    def release(self, link: CommandLink, body: memoryview) -> None:
        self.releases += 1

    def zone_notice(self, zone: int, notice: int) -> None: ...

    def zone_stale(self, zone: int, stale: tuple[int, ...]) -> None: ...

    def zone_pace(self, link: CommandLink, zone: int, pace: tuple[int, int, int]) -> None:
        self.paces.append((zone, *pace))

    def link_lost(self, link: CommandLink) -> None: ...

    def shard_died(self, link: CommandLink) -> None:
        self.died.append(link.name)


async def test_what_is_no_name_is_an_error_at_once() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(ValueError, match="label"):
            await _resolve("shard..example", 1)
        assert await _resolve("127.0.0.1", 1) == "127.0.0.1"


async def nobody(name: str, number: int, by: str) -> None: ...


@dataclass
class ShardEnd:
    """The shard's end of one link, and what came over it after the handshake."""

    links: ShardLinks
    sink: Listener
    hurried: list[bool]
    came: list[tuple[LinkType, bytes]] = field(default_factory=list)
    writer: asyncio.StreamWriter | None = None

    def say(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    @property
    def connection(self) -> LinkConnection:
        connection = self.links._links["shard-1"].connection
        assert connection is not None
        return connection


@asynccontextmanager
async def linked(accept: bytes = pack_frame(LinkType.ACCEPT)) -> AsyncIterator[ShardEnd]:
    """A gateway's link to a shard that answers its hello so."""
    sink, ended = Listener(), asyncio.Event()
    hurried: list[bool] = []
    links = ShardLinks(
        number=1, own_name="gateway-1", secret=b"x" * 32, sink=sink, counters=GatewayCounters(), suspect=nobody,
        hurry=lambda: hurried.append(True),
    )  # fmt: skip
    end = ShardEnd(links, sink, hurried)

    async def shard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end.writer = writer
        writer.write(pack_frame(LinkType.CHALLENGE, bytes(16), b"shard-1"))
        cut = FrameReader()
        while data := await reader.read(1 << 10):
            for kind, body in cut.feed(data):
                if kind is LinkType.HELLO:
                    writer.write(accept)
                else:
                    end.came.append((kind, bytes(body)))
        writer.close()
        ended.set()

    server = await asyncio.start_server(shard, "127.0.0.1", 0)
    try:
        await links.follow({"shard-1": Member("shard-1", "shard", 1, f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}")})
        async with asyncio.timeout(10):
            await links.wait_up(1)
        yield end
    finally:
        await links.close()
        await ended.wait()
        server.close()


async def test_the_rest_of_a_frame_is_waited_for_in_a_hurry() -> None:
    async with linked() as shard:
        shard.hurried.clear()
        frame = pack_zone_pace(6, 80, 3, 4)
        shard.say(frame + frame[:7])
        await eventually(lambda: len(shard.sink.paces) == 1, "the first one")
        assert shard.hurried == [True]
        shard.say(frame[7:])
        await eventually(lambda: len(shard.sink.paces) == 2, "the rest")
        assert shard.hurried == [True]


async def test_the_pace_that_a_shard_of_an_older_build_tells_breaks_no_link() -> None:
    """It says nothing of far entities; in an upgrade gateways come first."""
    async with linked() as shard:
        shard.say(pack_frame(LinkType.ZONE_PACE, b"\x05\0\x50\x03") + pack_zone_pace(6, 80, 3, 4))
        await eventually(lambda: len(shard.sink.paces) == 2, "both paces")
        assert shard.sink.paces == [(5, 80, 3, 1), (6, 80, 3, 4)]
        assert shard.links.up == 1


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_gateway_says_how_many_releases_it_has_taken_where_that_is_wanted(wanted: bool) -> None:
    release = pack_frame(LinkType.RELEASE, b"x")
    async with linked(pack_frame(LinkType.ACCEPT, ACCEPTED[:1] if wanted else b"") + 3 * release) as shard:

        def told() -> list[int]:
            return [GOT_STRUCT.unpack(body)[0] for kind, body in shard.came if kind is LinkType.GOT]

        if wanted:
            await eventually(lambda: told() == [3], "word of three, in one frame")
        shard.say(pack_zone_pace(6, 80, 3, 4))
        await eventually(lambda: shard.sink.paces == [(6, 80, 3, 4)], "the pace")
        shard.say(2 * release)
        await eventually(lambda: shard.sink.releases == 5, "five releases")
        shard.links.expect("shard-1", 4, 9)
        await eventually(lambda: any(kind is LinkType.KEYFRAMES for kind, _ in shard.came), "what is written anyway")
        assert told() == ([3, 5] if wanted else []), "and nothing is said where there is nothing new"


async def test_where_much_comes_at_once_it_is_everybody_elses_turn_first() -> None:
    """An event loop may read a socket until it is empty: a gateway that is behind would hear nobody else, and say nothing, for as long."""
    async with linked() as shard:
        connection, turns = shard.connection, list[int]()
        assert isinstance(connection._transport, asyncio.Transport)
        release = pack_frame(LinkType.RELEASE, bytes(MUCH_BYTES // 4))
        for frames, reads_on in ((3, True), (4, False)):
            asyncio.get_running_loop().call_soon(lambda: turns.append(shard.sink.releases))
            connection.data_received(frames * release)
            assert connection._transport.is_reading() is reads_on
            await asyncio.sleep(0)
        await eventually(connection._transport.is_reading, "it is read on")
        assert turns == [3, 7]


async def test_names_that_take_long_to_look_up_keep_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up, go_on, asked = socket.getaddrinfo, threading.Event(), []

    def slow(host: str, *arguments: object, **more: object) -> object:
        asked.append(host)
        if host.startswith("gone"):
            go_on.wait(10)
            raise UNKNOWN_NAME
        return look_up("127.0.0.1", *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr("gateway.shard_links.CONNECT_TIMEOUT_S", 0.2)  # so that each name is dialled again and again
    ended = asyncio.Event()

    async def shard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pack_frame(LinkType.CHALLENGE, bytes(16), b"alive"))
        await reader.read(1 << 10)
        writer.write(pack_frame(LinkType.ACCEPT))
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(shard, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    counters = GatewayCounters()
    links = ShardLinks(number=1, own_name="gateway-1", secret=b"x" * 32, sink=Listener(), counters=counters, suspect=nobody)
    members = {f"gone-{k}": Member(f"gone-{k}", "shard", k, f"tcp:gone-{k}.test:1", 0, {}) for k in range(40)}
    try:
        await links.follow(members)
        await eventually(lambda: len(asked) == 40, "every name is asked for")
        await links.follow({**members, "alive": Member("alive", "shard", 99, f"tcp:alive.test:{port}", 0, {})})
        async with asyncio.timeout(10):
            await links.wait_up(1)
        assert all(asked.count(f"gone-{k}.test") == 1 for k in range(40)), "one look-up of a name at a time"
    finally:
        go_on.set()
        ended.set()
        await links.close()
        server.close()


async def test_one_timer_rings_for_all_links_a_part_of_a_tick_after_the_first_has_something(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, set_for, flushed = asyncio.get_running_loop(), [], []
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda after, *what: (set_for.append(after), call_later(after, *what))[1])
    links = ShardLinks(number=1, own_name="gateway-1", secret=b"x" * 32, sink=Listener(), counters=GatewayCounters(), suspect=nobody)
    links.ticks_at(200.0)
    for name in "abc":
        links.timer.add(lambda name=name: flushed.append(name))
    assert set_for == [FLUSH_PART / 200]
    await eventually(lambda: flushed == ["a", "b", "c"], "each link writes once")
    links.timer.add(lambda: flushed.append("a"))
    await eventually(lambda: flushed == ["a", "b", "c", "a"], "it rings again")
    assert len([after for after in set_for if after == FLUSH_PART / 200]) == 2


class Clock:
    """Time that stands still for links, and the times after which they are to write as a shard is about to read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.set_for = 1000.0, list[float]()
        self.rings: list[Callable[[], object]] = []
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, callback: Any, *more: Any, **options: Any) -> asyncio.TimerHandle:
            if getattr(callback, "__name__", "") != "_flush_for_read":
                return call_later(delay, callback, *more, **options)
            self.set_for.append(self.now_s + delay)
            self.rings.append(callback)
            return call_later(3600.0, callback)

        monkeypatch.setattr(loop, "call_later", noted)
        monkeypatch.setattr("gateway.shard_links.time", SimpleNamespace(monotonic=lambda: self.now_s))

    def ring(self) -> None:
        """It is the time that was set last."""
        self.now_s = self.set_for[-1]
        self.rings[-1]()


async def test_what_is_for_a_shard_that_tells_when_it_reads_leaves_just_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.shard_links.round_trip_s", lambda transport: 0.0)
    async with linked(pack_frame(LinkType.ACCEPT, ACCEPTED)) as shard:
        await eventually(lambda: (LinkType.WHEN, b"") in shard.came, "it is asked")
        connection, clock = shard.connection, Clock(monkeypatch)

        def told(us: int, changed: int = 1) -> float | None:
            connection.data_received(pack_frame(LinkType.READS, READS_STRUCT.pack(us, changed)))
            return connection._reads_s

        assert told(20_000) is None, "as long as it is not known how often it ticks"
        shard.links.ticks_at(20.0)
        assert told(20_000) == pytest.approx(1000.020)
        route = Route(connection, 3, 1, 1)
        for row in (b"a" * 16, b"b" * 16):
            connection.forward(route, row)
        assert clock.set_for == [pytest.approx(1000.020 - LEAD_S)]
        clock.ring()
        await eventually(lambda: any(kind is LinkType.COMMANDS for kind, _ in shard.came), "both in one frame")
        assert [body[:2] for kind, body in shard.came if kind is LinkType.COMMANDS] == [b"\x02\0"]
        clock.now_s = 1000.021
        connection.forward(route, b"c" * 16)
        assert clock.set_for[1:] == [pytest.approx(1000.070 - LEAD_S)], "an interval later"
        clock.ring()

        # It can be told late, and never early: a time that is told again is believed where it is earlier.
        clock.now_s = 1000.100
        assert told(10_000, changed=0) == pytest.approx(1000.110), "ten milliseconds earlier than 1000.120"
        assert told(15_000, changed=0) == pytest.approx(1000.110 + LATER_S)
        assert told(15_000, changed=1) == pytest.approx(1000.115), "it is another time than it was"

        assert told(AT_ONCE_US) is None
        connection.ask_keyframe(Route(connection, 4, 1, 1), 9)
        await eventually(lambda: any(kind is LinkType.KEYFRAMES for kind, _ in shard.came), "it goes by the common timer")
        assert len(clock.set_for) == 2


async def test_who_is_about_to_come_in_is_told_of_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone may sleep, and its shard read whenever something comes."""
    async with linked(pack_frame(LinkType.ACCEPT, ACCEPTED)) as shard:
        shard.links.ticks_at(1.0)
        shard.connection.data_received(pack_frame(LinkType.READS, READS_STRUCT.pack(900_000, 1)))
        shard.connection.ask_keyframe(Route(shard.connection, 3, 1, 1), 8)
        began_s = asyncio.get_running_loop().time()
        shard.links.expect("shard-1", 4, 9)
        await eventually(lambda: sum(kind is LinkType.KEYFRAMES for kind, _ in shard.came) == 2, "and what else there is, along with it")
        assert asyncio.get_running_loop().time() - began_s < 0.6
        await eventually(lambda: not shard.connection._waits_for_read, "its time comes, with nothing left to do")
        assert sum(kind is LinkType.KEYFRAMES for kind, _ in shard.came) == 2


async def test_a_shard_of_an_older_build_is_not_asked_when_it_reads() -> None:
    async with linked(pack_frame(LinkType.ACCEPT, ACCEPTED[:1])) as shard:
        shard.links.expect("shard-1", 4, 9)
        await eventually(lambda: bool(shard.came), "what is written")
        assert [kind for kind, _ in shard.came] == [LinkType.KEYFRAMES]


async def test_the_way_there_and_back_is_allowed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked(pack_frame(LinkType.ACCEPT, ACCEPTED)) as shard:
        shard.links.ticks_at(20.0)
        connection, clock = shard.connection, Clock(monkeypatch)
        assert 0.0 < round_trip_s(connection._transport) < 1.0
        monkeypatch.setattr("gateway.shard_links.round_trip_s", lambda transport: 0.012)
        connection.data_received(pack_frame(LinkType.READS, READS_STRUCT.pack(30_000, 1)))
        connection.forward(Route(connection, 3, 1, 1), b"a" * 16)
        assert clock.set_for == [pytest.approx(1000.030 - 0.012 - LEAD_S)]


async def test_only_tcp_knows_how_long_the_way_is() -> None:
    near, far = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
    assert round_trip_s(transport) == 0.0 == round_trip_s(None)
    transport.abort()
    await asyncio.sleep(0)
    far.close()
