"""Where gateways, and other shards, reach a shard: the listening socket, the handshake of each link, and who is connected.

Owns the links. Never looks into commands or frames: command rows go to the host, for the zone that they name; frames come
ready-made. Called by shard.service and shard.tick_loop. A link whose peer does not read is ended, so that nothing piles up.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from perdure.wire.link import (
    ACCEPTED,
    GOT_STRUCT,
    LOOK_STRUCT,
    READS_STRUCT,
    FrameReader,
    LinkType,
    link_proof,
    link_type,
    look_proof,
    pack_frame,
    peer_proof,
    unpack_keyframes,
    unpack_subscribe,
)
from shard.arrivals import Cut, Overflow
from shard.read_schedule import ReadSchedule
from shard.reading import Tap

log = structlog.get_logger("shard.links")

MAX_UNSENT_BYTES = 32 << 20
HANDSHAKE_DEADLINE_S = 3.0
MAX_LINKS = 192
MAX_UNSENT_TO_PEER_BYTES = 4 << 20
"""A feed is whole in itself: one that would wait behind so much is dropped, and the next one told."""
MAX_SUBSCRIPTIONS = 4096
MAX_UNREAD = 1024
"""Writes of RELEASE frames that a gateway has not taken; of more, the newest count."""
FADES, FARTHER_S = 1.04, 0.3
"""What is usual grows in a second by so much, if no frame was as soon, up to so much above the best: the way to a gateway may have become
longer for good."""
MOST_QUIET_S = 60.0
"""No longer time counts for that: there may be nobody of a gateway's in the zones here for hours."""


class LinkHost(Protocol):
    """What takes in what comes over links; in a shard it is the tick loop."""

    def frames_arrived(self, data: bytes, at: int, *, commands: bool) -> Cut: ...
    def keyframes_wanted(self, zone: int, players: list[int]) -> None: ...
    def gateway_linked(self, gateway: int) -> None: ...
    def look(self, zone: int, player: int, tell: Callable[[bytes], None]) -> None: ...
    def subscribed(self, link: Link, pairs: list[tuple[int, int]]) -> None: ...
    def unsubscribed(self, link: Link) -> None: ...


class LinkServer:
    """All links of a shard, by gateway number."""

    def __init__(self, secret: bytes, name: str, row_bytes: int) -> None:
        self.secret, self.name, self.row_bytes = secret, name, row_bytes
        self.links: dict[int, Link] = {}
        self.open: dict[Link, None] = {}  # in order of their coming
        self.schedule = ReadSchedule()
        self._server: asyncio.Server | None = None

    async def listen(self, host: LinkHost, address: str, advertise: str = "") -> str:
        """Listen at `address` for `host` and return what others dial. Raises OSError where it cannot be bound."""
        loop = asyncio.get_running_loop()

        def factory() -> Link:
            return Link(self, host)

        if address.startswith("unix:"):
            path = address[5:]
            if os.path.exists(path) and await _answers(path):
                raise OSError(98, f"another process listens at {path}")
            if os.path.exists(path):
                os.unlink(path)
            self._server = await loop.create_unix_server(factory, path)
            return address
        interface, _, port = address.removeprefix("tcp:").rpartition(":")
        self._server = await loop.create_server(factory, interface, int(port))
        bound = self._server.sockets[0].getsockname()
        shown = advertise or (interface if interface not in ("", "0.0.0.0", "::") else bound[0])
        return f"tcp:{shown}:{bound[1]}"

    def send(self, gateway: int, frame: bytes) -> bool:
        """Send a frame to a gateway, if it is linked."""
        link = self.links.get(gateway)
        if link is None:
            return False
        link.send(frame)
        return True

    def release(self, gateway: int, frames: list[bytes]) -> int:
        """Send RELEASE frames to a gateway in one write; return how many bytes they were, or 0 where it is not linked."""
        link = self.links.get(gateway)
        if link is None:
            return 0
        sent = b"".join(frames) if len(frames) > 1 else frames[0]
        link.release(sent, len(frames))
        return len(sent)

    def behind(self, now_s: float, longer_than_s: float, silent_s: float) -> tuple[dict[int, float], list[int]]:
        """Return gateways that do not take in time what they are sent, with how much longer than usual the oldest of it waits, in seconds;
        and those of which that is not known, since they have taken nothing for `silent_s`."""
        waits = {gateway: link.behind_s(now_s, silent_s) for gateway, link in self.links.items()}
        behind = {gateway: waits_s for gateway, waits_s in waits.items() if waits_s is not None and waits_s > longer_than_s}
        return behind, [gateway for gateway, waits_s in waits.items() if waits_s is None]

    def send_all(self, frame: bytes) -> None:
        for link in self.links.values():
            link.send(frame)

    def tell_when(self, now_s: float, next_s: float | None, interval_s: float) -> None:
        """Tell gateways that ask when this shard reads next; None: whenever something comes."""
        told = self.schedule.told(now_s, next_s, interval_s)
        if told is not None:
            for link in self.links.values():
                if link.asks_when:
                    link.send(pack_frame(LinkType.READS, READS_STRUCT.pack(*told)))

    def read(self, in_time: bool) -> None:
        """A tick begins (see shard.reading)."""
        for link in list(self.open):
            link.read(in_time)

    def end_all(self, why: str) -> None:
        """End every link; gateways dial again at once and send what is not acknowledged."""
        for link in list(self.open):
            link.end(why)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.end_all("the shard stops")


async def _answers(path: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


class Link(asyncio.Protocol):
    """One gateway's connection, that of another shard that wants border feeds (`is_peer`), or of a coordinator with one question."""

    def __init__(self, server: LinkServer, host: LinkHost) -> None:
        self._server, self._host = server, host
        self._reader = FrameReader()
        self._nonce = secrets.token_bytes(16)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._tap = Tap()
        self.gateway = 0
        self.is_peer = False
        self.asks_when = False
        """Is it to be told when this shard reads?"""
        self.name = ""
        self._released = 0
        self._unread: deque[tuple[int, float]] = deque(maxlen=MAX_UNREAD)
        """What `_released` came to with each write that the gateway has not taken, and when."""
        self._got_s = float("-inf")
        self._usual_s = self._best_s = float("inf")
        """How soon the gateway has taken what it was sent, of late and at best: how far away it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._server.open[self] = None
        if len(self._server.open) > MAX_LINKS:
            self.end(f"{MAX_LINKS} links are open already")
            return
        self.send(pack_frame(LinkType.CHALLENGE, self._nonce, self._server.name.encode()))
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_DEADLINE_S, self.end, "no hello in time")

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
        if self.is_peer:
            self._host.unsubscribed(self)
        if self._server.links.get(self.gateway) is self:
            del self._server.links[self.gateway]
            log.info("link_lost", gateway=self.name)

    def data_received(self, data: bytes) -> None:
        self._tap.brought()
        try:
            whole = self._reader.whole(data)
            if whole:
                self._cut(whole)
        except (ValueError, struct.error, IndexError) as error:
            self.end(f"a frame that is none: {error}")
        except Overflow:
            self.end("the shard holds all the commands it can; the gateway sends them again on a new link")

    def _cut(self, whole: bytes) -> None:
        """Cut all frames, of which the host keeps the commands; before the hello there are none."""
        view, at, more = memoryview(whole), 0, True
        while more:
            cut = self._host.frames_arrived(whole, at, commands=self.gateway != 0)
            for begin, end in cut.others:
                self._frame(link_type(view[begin + 4]), view[begin + 5 : end])
            if cut.fault:
                raise ValueError(f"{cut.fault}, {len(whole) - cut.end} bytes before the end")
            at, more = cut.end, cut.more
        self._reader.keep(view[at:])

    def _frame(self, kind: LinkType, body: memoryview) -> None:
        if self.is_peer:
            if kind is not LinkType.SUBSCRIBE or len(body) > 4 * MAX_SUBSCRIPTIONS:
                raise ValueError(f"{kind.name} of {len(body)} bytes is not what another shard sends")
            self._host.subscribed(self, unpack_subscribe(body))
        elif self.gateway == 0 and kind is LinkType.LOOK:
            self._look(body)
        elif self.gateway == 0:
            self._hello(kind, body)
        elif kind is LinkType.GOT:
            self._got(*GOT_STRUCT.unpack(body))
        elif kind is LinkType.KEYFRAMES:
            self._host.keyframes_wanted(*unpack_keyframes(body))
        elif kind is LinkType.WHEN:
            self.asks_when = True
            self._server.schedule.asked()
        else:
            raise ValueError(f"{kind.name} is not for a shard")

    def _look(self, body: memoryview) -> None:
        if len(body) != 32 + LOOK_STRUCT.size or not hmac.compare_digest(bytes(body[:32]), look_proof(self._server.secret, self._nonce)):
            self.end("a question of somebody with another secret; set the same PERDURE_SECRET for all members")
            return
        zone, player = LOOK_STRUCT.unpack(body[32:])
        self._host.look(zone, player, self._answer)

    def _answer(self, place: bytes) -> None:
        self.send(pack_frame(LinkType.AT, place))
        if self._transport is not None:
            self._transport.close()

    def _hello(self, kind: LinkType, body: memoryview) -> None:
        if kind not in (LinkType.HELLO, LinkType.PEER) or len(body) < 36:
            raise ValueError("the first frame must be HELLO or PEER")
        (number,) = struct.unpack_from("<I", body)
        proof = peer_proof if kind is LinkType.PEER else link_proof
        if number == 0 or not hmac.compare_digest(bytes(body[4:36]), proof(self._server.secret, self._nonce, number)):
            self.end("a member with another secret; set the same PERDURE_SECRET for all members")
            return
        if self._deadline:
            self._deadline.cancel()
        self.name = bytes(body[36:]).decode("utf-8", "replace")
        if kind is LinkType.PEER:
            self.is_peer = True
            self.send(pack_frame(LinkType.ACCEPT))
            return
        self.gateway = number
        older = self._server.links.get(number)
        self._server.links[number] = self
        if older is not None:
            older.end("the same gateway linked again")
        self.send(pack_frame(LinkType.ACCEPT, ACCEPTED))
        log.info("linked", gateway=self.name)
        self._host.gateway_linked(number)

    def send(self, frame: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.end("the gateway does not read")
            return
        transport.write(frame)

    def release(self, frames: bytes, count: int) -> None:
        """Send so many RELEASE frames."""
        self._released += count
        self._unread.append((self._released, time.monotonic()))
        self.send(frames)

    def _got(self, count: int) -> None:
        if count > self._released:
            raise ValueError(f"the gateway has got {count} frames of {self._released}")
        now_s = time.monotonic()
        if self._got_s > float("-inf"):
            quiet_s = min(now_s - self._got_s, MOST_QUIET_S)
            self._usual_s = min(self._usual_s * FADES**quiet_s, self._best_s + FARTHER_S)
        self._got_s = now_s
        while self._unread and self._unread[0][0] <= count:
            took_s = now_s - self._unread.popleft()[1]
            self._usual_s, self._best_s = min(took_s, self._usual_s), min(took_s, self._best_s)

    def behind_s(self, now_s: float, silent_s: float) -> float | None:
        """Return for how much longer than is usual the oldest frame waits that the gateway has not taken.

        0 before it has taken any (it may not tell), None where it has taken none for `silent_s`.
        """
        if not self._unread or self._got_s == float("-inf"):
            return 0.0
        if now_s - self._got_s > silent_s:
            return None
        return max(now_s - self._unread[0][1] - self._usual_s, 0.0)

    def read(self, in_time: bool) -> None:
        """A tick begins; a link that nobody has said hello on is the event loop's."""
        if self.gateway or self.is_peer:
            self._tap.turn(self._transport, self.data_received, in_time)

    def send_feed(self, frame: bytes) -> bool:
        """Send a border feed to another shard, unless the link ends or the shard does not keep up: then this one is dropped (False)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + len(frame) > MAX_UNSENT_TO_PEER_BYTES:
            return False
        transport.write(frame)
        return True

    def end(self, why: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if why != "the shard stops":
                log.warning("link_ended", gateway=self.name or "unknown", why=why)
            self._transport.abort()
