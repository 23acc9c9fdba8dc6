"""A small HTTP server for /healthz, /readyz and /metrics, apart from what a process serves to others.

Owns one listening socket. Requests are bounded: one line and its headers within 4 KiB and 2 s, GET only, then closed; past
MAX_ASKERS at a time a connection is closed unanswered. Called by shard.service and
gateway.service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest

MAX_REQUEST_BYTES = 4096
DEADLINE_S = 2.0
MAX_ASKERS = 32


class HealthServer:
    """Answers /healthz (the process lives), /readyz (`ready()` says (yes or no, why)) and /metrics."""

    def __init__(self, host: str, port: int, ready: Callable[[], tuple[bool, str]], registry: CollectorRegistry) -> None:
        self._host, self._ready, self._registry = host, ready, registry
        self.port = port
        self._server: asyncio.Server | None = None
        self._askers = 0

    async def start(self) -> None:
        """Listen; `port` is the real one from now on. Raises OSError where it is taken."""
        self._server = await asyncio.start_server(self._serve, self._host, self.port, limit=MAX_REQUEST_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._askers >= MAX_ASKERS:
            writer.close()
            return
        self._askers += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError):
            return  # the asker has gone, or does not read: there is nobody to tell
        finally:
            self._askers -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            status, kind, body = "400 Bad Request", "text/plain", b"one short GET, please\n"
        else:
            status, kind, body = self._answer(head.split(b"\r\n", 1)[0].decode("latin-1"))
        lines = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(lines.encode() + body)
        await writer.drain()

    def _answer(self, line: str) -> tuple[str, str, bytes]:
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return "405 Method Not Allowed", "text/plain", b"GET only\n"
        if path == "/healthz":
            return "200 OK", "text/plain", b"alive\n"
        if path == "/readyz":
            ready, why = self._ready()
            return "200 OK" if ready else "503 Service Unavailable", "text/plain", why.encode() + b"\n"
        if path == "/metrics":
            return "200 OK", "text/plain; version=0.0.4", generate_latest(self._registry)
        return "404 Not Found", "text/plain", b"/healthz /readyz /metrics\n"
