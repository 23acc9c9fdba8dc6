"""A client for crowds: the SDK's, over a socket that does the least a websocket asks for, reading no more of a snapshot than its header.

The protocol (numbers, resuming, what to do at each close) is the SDK's own; what is left out is the websocket library and all that stands
behind a snapshot's header. Two hundred full clients would take the cores that the cluster under test needs. Called by _crowd.py and
_light_clients.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from perdure.client.connection import Client, SocketEnd
from perdure.client.frames import BINARY, CLOSE, PING, PONG, Frames, close_code, frame, upgrade_request
from perdure.client.header_protocol import HeaderProtocol
from perdure.client.protocol import ProtocolError
from perdure.client.world_view import SnapshotError

OPEN_DEADLINE_S = 10.0


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
                    self._over(SocketEnd(time.monotonic(), *close_code(message)), message[:2])
                    return
                elif opcode == PING and self.transport is not None:
                    self.transport.write(frame(message, PONG))
        except (ProtocolError, SnapshotError, ValueError) as error:
            self._over(SocketEnd(time.monotonic(), None, str(error)), (1002).to_bytes(2, "big"))

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
            self._wire.transport.write(frame((1000).to_bytes(2, "big"), CLOSE))
        await super().close()
