"""The health server answers short GETs, refuses the rest, and is not held up by those who never finish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from perdure.runtime import health
from perdure.runtime.health import HealthServer


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Asked:
    def __init__(self, server: HealthServer) -> None:
        self.server = server
        self.readiness: tuple[bool, str] = (True, "state ready")

    async def send(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(request)
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            await end(writer)

    async def get(self, path: str) -> tuple[int, str]:
        head, _, body = (await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    registry = CollectorRegistry()
    Counter("perdure_things", "things", registry=registry).inc(3)
    server = HealthServer("127.0.0.1", 0, lambda: found.readiness, registry)
    found = Asked(server)
    await server.start()
    yield found
    await server.stop()


async def test_it_says_whether_the_process_lives_is_ready_and_counts(asked: Asked) -> None:
    assert await asked.get("/healthz") == (200, "alive\n")
    assert await asked.get("/readyz") == (200, "state ready\n")
    asked.readiness = (False, "state starting")
    assert await asked.get("/readyz?x=1") == (503, "state starting\n")
    status, text = await asked.get("/metrics")
    assert status == 200 and "perdure_things_total 3.0" in text
    assert (await asked.get("/elsewhere"))[0] == 404


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(b"POST /healthz HTTP/1.1\r\n\r\n", b"405"), (b"\r\n\r\n", b"405"), (b"GET /" + b"x" * 8000, b"400"), (b"\xff\xfe\r\n\r\n", b"405")],
)
async def test_anything_else_is_refused(asked: Asked, request_bytes: bytes, status: bytes) -> None:
    assert (await asked.send(request_bytes)).split()[1] == status


async def test_who_never_finishes_is_put_out_and_holds_nobody_up(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DEADLINE_S", 0.2)
    monkeypatch.setattr(health, "MAX_ASKERS", 2)
    idle = [await asyncio.open_connection("127.0.0.1", asked.server.port) for _ in range(3)]
    try:
        async with asyncio.timeout(5):
            assert await idle[2][0].read() == b"", "past the bound a connection is closed unanswered"
            for reader, _ in idle[:2]:
                assert await reader.read() == b""
    finally:
        for _, writer in idle:
            await end(writer)
    assert (await asked.get("/healthz"))[0] == 200


async def test_a_taken_port_is_an_error_at_start(asked: Asked) -> None:
    with pytest.raises(OSError, match=str(asked.server.port)):
        await HealthServer("127.0.0.1", asked.server.port, lambda: (True, ""), CollectorRegistry()).start()
