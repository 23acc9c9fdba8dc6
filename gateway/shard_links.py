"""Links to the shards: one for each shard of the cluster view, dialled by the gateway and kept up.

Owns sockets, redialling, the bounded outgoing buffer and the batching of commands (one write per link and part of a tick).
Never looks into a snapshot and never decides who owns a zone. Called by service (`follow`), fanout and websocket_server
(`forward`, `ask_keyframe`); calls fanout with what arrives and the ledger with suspicions.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import structlog

from gateway.metrics import GatewayCounters
from gateway.routing import CommandLink, Route
from perdure.ledger.ledger import LedgerError
from perdure.ledger.values import Member
from perdure.wire.link import (
    ACCEPTED,
    AT_ONCE_US,
    GOT_STRUCT,
    NONCE_BYTES,
    READS_STRUCT,
    ZONE_PACE_STRUCT,
    FrameReader,
    LinkType,
    link_proof,
    pack_commands,
    pack_frame,
    pack_keyframes,
    unpack_stale,
)

log = structlog.get_logger("gateway.links")

MAX_ROWS_A_FRAME = 4096
MAX_KEYFRAMES_A_FRAME = 4096
CONNECT_TIMEOUT_S = 2.0
FLUSH_PART = 0.2
"""Commands wait this part of a tick's interval for others to travel with. A write, and what it wakes up in the shard, costs as much as
several commands do; the tick that takes them comes half an interval later on average."""
LEAD_PART, LEAD_S = 0.1, 0.003
"""Where a shard tells when it reads, they are to be there so long before that (so much of an interval, if that is less): once a tick."""
TCP_INFO_MIN_RTT = 148
"""Where the shortest round trip stands in Linux's struct tcp_info: u32, in us."""
LATER_S = 0.0005
"""A shard's word on when it reads can come late, and never early: by so much is a later time believed at once, if it is told again."""
FLUSH_FIRST_S = 0.002
"""As long as it is not known how often a zone ticks."""
MUCH_BYTES = 1 << 17
"""Where so much came at once there may be more, and it is everybody else's turn first. An event loop may read a socket until it is empty:
a gateway that has much to take in would hear nobody else for as long, and tell no shard how far it is."""
REDIAL_FIRST_S = 0.02
REDIAL_MOST_S = 1.0
ZONE_NOTICE = struct.Struct("<HB")


class LinkSink(Protocol):
    """Who takes what links deliver (Fanout)."""

    def release(self, link: CommandLink, body: memoryview) -> None: ...

    def zone_notice(self, zone: int, notice: int) -> None: ...

    def zone_stale(self, zone: int, stale: tuple[int, ...]) -> None: ...

    def zone_pace(self, link: CommandLink, zone: int, pace: tuple[int, int, int]) -> None: ...

    def link_lost(self, link: CommandLink) -> None: ...

    def shard_died(self, link: CommandLink) -> None: ...


class FlushTimer:
    """One timer for all links, so that a gateway wakes up once for what it has for many shards."""

    def __init__(self) -> None:
        self.after_s = FLUSH_FIRST_S
        self.interval_s = 0.0
        """Between two ticks of a shard; 0.0: not known yet."""
        self._waiting: list[Callable[[], None]] = []

    def add(self, flush: Callable[[], None]) -> None:
        """Call it at most `after_s` seconds from now, with whatever else was added."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(self.after_s, self._ring)
        self._waiting.append(flush)

    def _ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            flush()


class LinkConnection(asyncio.Protocol):
    """One incarnation of a link: a socket from its handshake to its end. Routes point at it, so a redial is a new route."""

    def __init__(
        self, name: str, number: int, secret: bytes, own_name: str, sink: LinkSink, max_buffer_bytes: int, timer: FlushTimer,
        hurry: Callable[[], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.up = False
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.detail = ""
        self._number = number
        self._secret = secret
        self._own_name = own_name
        self._sink = sink
        self._max_buffer_bytes = max_buffer_bytes
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._dirty: list[Route] = []
        self._expected: dict[int, list[int]] = {}
        self._timer, self._hurry = timer, hurry
        self._waits = False
        """Whether the timer will flush."""
        self._waits_for_read = False
        """Whether it will be flushed as the shard is about to read."""
        self._reads_s: float | None = None
        """Some time at which the shard reads (time.monotonic; an event loop's own time stands still while it is busy); None: it does so as
        things come, or does not tell."""
        self._round_trip_s = 0.0
        self._says_got = False
        self._taken = self._said = 0

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for type_, body in self._reader.feed(data):
                if self.up and type_ is LinkType.RELEASE:
                    self._sink.release(self, body)
                    self._taken += 1
                else:
                    self._other_frame(type_, body)
            if self._says_got and self._taken != self._said:
                self._flush_soon()
            if self._reader.waits:
                self._hurry()
            if len(data) >= MUCH_BYTES and self._transport is not None and not self._transport.is_closing():
                self._transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._read_on)
        except (ValueError, struct.error) as error:
            self.drop(f"malformed frame: {error}")

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.up = False
        self._dirty.clear()
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionResetError(self.detail or "the shard closed the link before it accepted it"))
            self.accepted.exception()  # whoever dialled may be gone
        self._sink.link_lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    # --- frames in --------------------------------------------------------------------------------------------------

    def _other_frame(self, type_: LinkType, body: memoryview) -> None:
        if not self.up:
            self._handshake(type_, body)
        elif type_ is LinkType.ZONE_NOTICE:
            zone, notice = ZONE_NOTICE.unpack(body)
            self._sink.zone_notice(zone, notice)
        elif type_ is LinkType.STALE:
            self._sink.zone_stale(*unpack_stale(body))
        elif type_ is LinkType.READS:
            self._hear_when(*READS_STRUCT.unpack(body))
        elif type_ is LinkType.ZONE_PACE:
            zone, *pace = ZONE_PACE_STRUCT.unpack(bytes(body) + b"\1" if len(body) == ZONE_PACE_STRUCT.size - 1 else body)
            self._sink.zone_pace(self, zone, (pace[0], pace[1], pace[2]))
        else:
            raise ValueError(f"a shard does not send {type_.name} on an accepted link")

    def _handshake(self, type_: LinkType, body: memoryview) -> None:
        assert self._transport is not None
        if type_ is LinkType.CHALLENGE:
            nonce, name = bytes(body[:NONCE_BYTES]), bytes(body[NONCE_BYTES:]).decode()
            if len(nonce) < NONCE_BYTES or name != self.name:
                raise ValueError(f"expected a challenge of {self.name}, got one of {name!r}")
            proof = link_proof(self._secret, nonce, self._number)
            number = struct.pack("<I", self._number)
            self._transport.write(pack_frame(LinkType.HELLO, number, proof, self._own_name.encode()))
        elif type_ is LinkType.ACCEPT:
            self.up, self._says_got = True, body[:1] == ACCEPTED[:1]
            if body[1:2] == ACCEPTED[1:2]:
                self._transport.write(pack_frame(LinkType.WHEN))
            if not self.accepted.done():
                self.accepted.set_result(None)
        else:
            raise ValueError(f"{type_.name} before the link was accepted")

    def _hear_when(self, us: int, changed: int) -> None:
        """The shard tells when it reads next."""
        now_s, interval_s, known_s = time.monotonic(), self._timer.interval_s, self._reads_s
        if us == AT_ONCE_US or not interval_s:
            self._reads_s = None
            return
        told_s = now_s + us / 1e6
        if known_s is not None and not changed:
            later_s = (told_s - known_s + interval_s / 2) % interval_s - interval_s / 2
            told_s -= max(later_s - LATER_S, 0.0)
        self._reads_s, self._round_trip_s = told_s, round_trip_s(self._transport)

    # --- frames out -------------------------------------------------------------------------------------------------

    def forward(self, route: Route, row: bytes) -> None:
        """Queue one command row; all that come until the timer rings travel in one write."""
        rows = route.rows
        if not rows and not route.keyframes:
            self._mark(route)
        rows.append(row)

    def ask_keyframe(self, route: Route, player: int) -> None:
        if not route.rows and not route.keyframes:
            self._mark(route)
        route.keyframes.append(player)

    def expect(self, zone: int, player: int) -> None:
        """Tell the shard soon that a player is on the way to a zone of its, which may sleep: then it does not wait for a tick to read."""
        self._flush_within()
        self._expected.setdefault(zone, []).append(player)

    def _mark(self, route: Route) -> None:
        self._flush_soon()
        self._dirty.append(route)

    def _flush_soon(self) -> None:
        """Write in time for the next tick."""
        if self._reads_s is None:
            self._flush_within()
        elif not self._waits_for_read:
            self._waits_for_read = True
            interval_s = self._timer.interval_s
            # The word took half a round trip to come here, and what is written takes the other half.
            flush_s = self._reads_s - self._round_trip_s - min(LEAD_S, LEAD_PART * interval_s)
            asyncio.get_running_loop().call_later((flush_s - time.monotonic()) % interval_s, self._flush_for_read)

    def _flush_for_read(self) -> None:
        self._waits_for_read = False
        self._flush()

    def _flush_within(self) -> None:
        """Write within the timer's time, with what there is for other shards."""
        if not self._waits:
            self._waits = True
            self._timer.add(self._flush_with_others)

    def _flush_with_others(self) -> None:
        self._waits = False
        self._flush()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        keyframes, self._expected = self._expected, {}
        zones: list[int] = []
        rows: list[bytes] = []
        for route in dirty:
            zones += [route.zone] * len(route.rows)
            rows += route.rows
            if route.keyframes:
                keyframes[route.zone] = keyframes.get(route.zone, []) + route.keyframes
            route.rows = []
            route.keyframes = []
        frames = [
            pack_keyframes(zone, players[at : at + MAX_KEYFRAMES_A_FRAME])
            for zone, players in keyframes.items()
            for at in range(0, len(players), MAX_KEYFRAMES_A_FRAME)
        ]
        frames.extend(
            pack_commands(zones[at : at + MAX_ROWS_A_FRAME], rows[at : at + MAX_ROWS_A_FRAME])
            for at in range(0, len(rows), MAX_ROWS_A_FRAME)
        )
        if self._says_got and self._taken != self._said:
            self._said = self._taken
            frames.append(pack_frame(LinkType.GOT, GOT_STRUCT.pack(self._taken)))
        transport = self._transport
        if transport is None or transport.is_closing() or not frames:
            return  # the commands are still kept by their sessions, and go to the next owner
        transport.write(b"".join(frames))
        if transport.get_write_buffer_size() > self._max_buffer_bytes:
            self.drop(f"the shard does not read: over {self._max_buffer_bytes} bytes wait")

    def drop(self, detail: str) -> None:
        """End this incarnation at once; sessions behave as after any loss of a link."""
        self.detail = detail
        self.up = False
        if self._transport is not None:
            self._transport.abort()


def round_trip_s(transport: asyncio.Transport | None) -> float:
    """Return the shortest time, in seconds, in which the other end of a TCP connection has answered; 0.0 where that is not known."""
    link = None if transport is None else transport.get_extra_info("socket")
    if link is None or link.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return 0.0
    try:
        told = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_MIN_RTT + 4)
    except OSError:
        return 0.0
    us = int.from_bytes(told[TCP_INFO_MIN_RTT:], sys.byteorder)
    return 0.0 if us == AT_ONCE_US else us / 1e6


def _gone(error: Exception, *, had_link: bool) -> bool:
    """Whether a failed dial says that the process is gone. The first redial follows the loss at once, so this is the fastest
    sign of a death that there is: nobody listens; or, where there was a link, the name is not known any more (a container's
    name goes with it). A host that cannot be reached may be our own network: that is left to the heartbeats.
    """
    if isinstance(error, socket.gaierror):
        return had_link and error.errno == socket.EAI_NONAME
    return isinstance(error, ConnectionRefusedError | FileNotFoundError)


async def _resolve(host: str, port: int) -> str:
    """Return an address of `host`. In a thread of its own: event loops look names up in a few threads that all share, so a name
    service that takes its time over the names of the dead would keep the living waiting.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def tell(address: str, error: Exception | None) -> None:
        if not found.done():
            found.set_result(address) if error is None else found.set_exception(error)

    def look_up() -> None:
        address, fault = "", None
        try:
            address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except (OSError, ValueError) as error:  # ValueError: no name at all, such as one with an empty part
            fault = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, address, fault)

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    return await found


class ShardLink:
    """The link to one member: dials, redials, and reports a port that refuses."""

    def __init__(self, member: Member, links: ShardLinks) -> None:
        self.member = member
        self.connection: LinkConnection | None = None
        self.wanted = True
        """Whether to redial. A link whose member left the view serves until it breaks: the ledger may have forgotten it."""
        self._links = links
        self._looking_up: asyncio.Task[str] | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"link {member.name}")

    async def _address(self, host: str, port: int) -> str:
        """Resolve, with one look-up under way at a time, however often it is dialled meanwhile."""
        if self._looking_up is None:
            self._looking_up = asyncio.get_running_loop().create_task(_resolve(host, port))
        await asyncio.wait([self._looking_up])
        found, self._looking_up = self._looking_up, None
        return found.result()

    async def _dial(self) -> LinkConnection:
        loop = asyncio.get_running_loop()
        links = self._links

        def factory() -> LinkConnection:
            return LinkConnection(
                self.member.name, links.number, links.secret, links.own_name, links.sink, links.max_buffer_bytes, links.timer,
                links.hurry,
            )  # fmt: skip

        address = self.member.address
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if address.startswith("unix:"):
                _, connection = await loop.create_unix_connection(factory, address.removeprefix("unix:"))
            else:
                host, _, port = address.removeprefix("tcp:").rpartition(":")
                _, connection = await loop.create_connection(factory, await self._address(host.strip("[]"), int(port)), int(port))
            try:
                await connection.accepted
            except BaseException:
                connection.drop("the handshake did not end in time")
                raise
        return connection

    async def _run(self) -> None:
        delay_s = 0.0
        lost: LinkConnection | None = None
        failures = 0
        while self.wanted:
            if delay_s:
                await asyncio.sleep(delay_s)
            try:
                connection = await self._dial()
            except (OSError, TimeoutError, ValueError) as error:
                failures += 1
                gone = _gone(error, had_link=lost is not None)
                if lost is not None and gone:
                    self._links.sink.shard_died(lost)
                    lost = None
                if failures == 1:
                    event = "shard_refuses" if gone else "link_failed"
                    log.warning(event, shard=self.member.name, address=self.member.address, error=repr(error))
                if gone:
                    await self._links.report(self.member)
            else:
                failures, delay_s, lost = 0, 0.0, None
                self.connection = connection
                log.info("link_up", shard=self.member.name)
                self._links.changed()
                await asyncio.shield(connection.closed)
                self.connection = None
                lost = connection
                self._links.counters.link_losses += 1
                log.warning("link_lost", shard=self.member.name, detail=connection.detail)
                self._links.changed()
                if connection.detail:  # it was we who dropped it: no reason to hurry
                    delay_s = REDIAL_FIRST_S
                continue
            delay_s = min(max(delay_s * 2, REDIAL_FIRST_S), REDIAL_MOST_S)

    async def close(self) -> None:
        self._task.cancel()
        if self._looking_up is not None:
            self._looking_up.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.connection is not None:
            self.connection.drop("the link is not wanted any more")
            self.connection = None


class ShardLinks:
    """All links of a gateway. `suspect` reports a member to the ledger; `hurry` is called where the rest of a frame is still to come."""

    def __init__(
        self,
        *,
        number: int,
        own_name: str,
        secret: bytes,
        sink: LinkSink,
        counters: GatewayCounters,
        suspect: Callable[[str, int, str], Awaitable[None]],
        max_buffer_bytes: int = 4 << 20,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self.number = number
        self.own_name = own_name
        self.secret = secret
        self.sink = sink
        self.counters = counters
        self.max_buffer_bytes = max_buffer_bytes
        self.hurry = hurry
        self.timer = FlushTimer()
        self._suspect = suspect
        self._links: dict[str, ShardLink] = {}
        self._change = asyncio.Event()
        self._changing = asyncio.Lock()
        """Held while links come and go: closing one waits, and two changes at a time lose links, or leave some under an old number."""

    def __len__(self) -> int:
        return len(self._links)

    def ticks_at(self, tick_hz: float) -> None:
        """Say how often zones tick, and so how long commands may wait for each other."""
        self.timer.after_s, self.timer.interval_s = FLUSH_PART / tick_hz, 1.0 / tick_hz

    @property
    def up(self) -> int:
        """How many links are accepted and alive."""
        return sum(1 for link in self._links.values() if link.connection is not None and link.connection.up)

    def expect(self, shard: str, zone: int, player: int) -> None:
        """Tell a shard that a player is on the way to a zone of its, which may sleep. Without a link it will see that by itself."""
        link = self._links.get(shard)
        if link is not None and link.connection is not None and link.connection.up:
            link.connection.expect(zone, player)

    def changed(self) -> None:
        """Wake whoever waits in `wait_up`."""
        self._change.set()
        self._change = asyncio.Event()

    async def wait_up(self, count: int) -> None:
        """Return once at least `count` links are up."""
        while self.up < count:
            await self._change.wait()

    async def report(self, member: Member) -> None:
        """Tell the ledger that a member's port refuses. Without the ledger there is nobody who could act on it."""
        self.counters.suspicions += 1
        try:
            await self._suspect(member.name, member.number, self.own_name)
        except LedgerError as error:
            log.warning("suspicion_not_reported", shard=member.name, error=str(error))

    async def follow(self, shards: dict[str, Member]) -> None:
        """Dial whom we do not know yet; replace links to another incarnation; never redial who is not in `shards`."""
        async with self._changing:
            await self._follow(shards)

    async def _follow(self, shards: dict[str, Member]) -> None:
        for name, link in list(self._links.items()):
            member = shards.get(name)
            if member is not None and (member.number, member.address) == (link.member.number, link.member.address):
                link.wanted = True
                continue
            link.wanted = False
            if member is not None or link.connection is None:
                del self._links[name]
                await link.close()
        for name, member in shards.items():
            if name not in self._links:
                self._links[name] = ShardLink(member, self)

    async def renumber(self, number: int) -> None:
        """This gateway registered anew under another number: every link must be introduced again."""
        async with self._changing:
            members = {name: link.member for name, link in self._links.items()}
            self.number = number
            await self._close()
            await self._follow(members)

    async def close(self) -> None:
        async with self._changing:
            await self._close()

    async def _close(self) -> None:
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()
