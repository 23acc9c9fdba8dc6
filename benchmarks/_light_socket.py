"""A client for crowds: the SDK's, over a socket that does the least a websocket asks for, reading no more of a snapshot than its header.

The protocol (numbers, resuming, what to do at each close) is the SDK's own; what is left out is the websocket library and all that stands
behind a snapshot's header. Two hundred full clients would take the cores that the cluster under test needs. Called by _crowd.py and
_light_clients.py.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from perdure.client.connection import Client, SocketEnd
from perdure.client.header_protocol import HeaderProtocol
from perdure.client.protocol import ProtocolError
from perdure.client.world_view import SnapshotError

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_LONG, _LONGER = struct.Struct(">H"), struct.Struct(">Q")
OPEN_DEADLINE_S = 10.0


def upgrade_request(url: str) -> bytes:
    """Return the request that opens a websocket. The key's answer is not verified: the server is ours."""
    parts, key = urlsplit(url), base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(message: bytes, opcode: int = BINARY) -> bytes:
    """Return a client's frame, masked with zeros: RFC 6455 wants a mask, not a secret."""
    size = len(message)
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    return head + b"\0\0\0\0" + message


class Frames:
    """Cuts a server's bytes into its answer to the upgrade and its frames (whole messages, not masked)."""

    def __init__(self) -> None:
        self.upgraded = False
        self._rest = b""

    @property
    def empty(self) -> bool:
        """Whether no part of a frame waits for its rest."""
        return not self._rest

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (opcode, message) of each frame that is complete. Raises ValueError where the upgrade is refused."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self.upgraded:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = data
                return []
            line = head.split(b"\r\n", 1)[0]
            if b" 101" not in line:
                raise ValueError(f"the upgrade is refused: {line.decode('latin-1')[:80]}")
            self.upgraded, data = True, rest
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while at + 2 <= end:
            size, start = data[at + 1] & 0x7F, at + 2
            if size == 126:
                if start + 2 > end:
                    break
                size, start = _LONG.unpack_from(data, start)[0], start + 2
            elif size == 127:
                if start + 8 > end:
                    break
                size, start = _LONGER.unpack_from(data, start)[0], start + 8
            if start + size > end:
                break
            frames.append((data[at] & 0x0F, data[start : start + size]))
            at = start + size
        self._rest = data[at:]
        return frames


class _Socket(asyncio.Protocol):
    """One websocket of a LightClient; `ended` becomes how it ended."""

    def __init__(self, client: LightClient, url: str, hello: bytes) -> None:
        self._client, self._url, self._hello = client, url, hello
        self._frames = Frames()
        self._end: SocketEnd | None = None
        self.transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[SocketEnd] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(upgrade_request(self._url))

    def data_received(self, data: bytes) -> None:
        upgraded = self._frames.upgraded
        try:
            frames = self._frames.feed(data)
            if not upgraded and self._frames.upgraded:
                self.send(self._hello)
            for opcode, message in frames:
                if opcode == BINARY:
                    self._client._received(message)
                elif opcode == CLOSE:
                    code = _LONG.unpack_from(message)[0] if len(message) >= 2 else None
                    self._over(SocketEnd(time.monotonic(), code, message[2:].decode(errors="replace")), message[:2])
                    return
                elif opcode == PING and self.transport is not None:
                    self.transport.write(frame(message, PONG))
        except (ProtocolError, SnapshotError, ValueError) as error:
            self._over(SocketEnd(time.monotonic(), None, str(error)), _LONG.pack(1002))

    def _over(self, end: SocketEnd, close: bytes) -> None:
        self._end = self._end or end
        if self.transport is not None:
            self.transport.write(frame(close, CLOSE))
            self.transport.close()

    def send(self, message: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame(message))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.ended.done():
            why = f"the socket broke: {exc}" if exc else "no close frame received or sent"
            self.ended.set_result(self._end or SocketEnd(time.monotonic(), None, why))


class LightClient(Client):
    """The SDK's client over such a socket. It cannot drop its socket by itself, nor leave."""

    def __init__(self, url: str | Sequence[str], token: Callable[[], str], **options: Any) -> None:
        super().__init__(url, token, **options)
        self.protocol = HeaderProtocol()
        self._wire: _Socket | None = None

    async def _one_socket(self) -> SocketEnd:
        url = self._urls[self.stats.connects % len(self._urls)]
        self.stats.connects += 1
        parts, loop = urlsplit(url), asyncio.get_running_loop()
        token = None if self.protocol.resume else await self._fetch_token()
        if self.welcome is not None:
            self.stats.reconnects += 1
        self._new_socket = True
        wire = _Socket(self, url, self.protocol.hello(token=token))
        try:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                await loop.create_connection(lambda: wire, str(parts.hostname), int(parts.port or 80))
        except (OSError, TimeoutError) as error:
            return SocketEnd(time.monotonic(), None, f"cannot connect to {url}: {error}")
        self._wire = wire
        try:
            return await wire.ended
        finally:
            self._wire = None
            if wire.transport is not None:
                wire.transport.abort()

    def _write(self, message: bytes) -> None:
        if self._wire is not None:
            self._wire.send(message)

    async def close(self) -> None:
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.write(frame(_LONG.pack(1000), CLOSE))
        await super().close()
