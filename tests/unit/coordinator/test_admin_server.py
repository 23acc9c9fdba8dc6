"""The admin API's socket: who connects and says nothing, or says it little by little, does not shut the others out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from coordinator import admin_server
from coordinator.admin_answers import AdminError, read_body
from coordinator.admin_server import AdminServer

pytestmark = pytest.mark.asyncio

GET = b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
EARLY = POST.replace(b"/body", b"/quick")
Connect = Callable[[], "contextlib.AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]"]


async def quick(request: Request) -> Response:
    return Response("ok")


async def body(request: Request) -> Response:
    try:
        return Response(await read_body(request))
    except AdminError as error:
        return Response(error.error, error.status)


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b"part."
            await asyncio.sleep(0.05)

    return StreamingResponse(parts())


@contextlib.asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, request_s: float = 0.3, connections: int = 256) -> AsyncIterator[Connect]:
    monkeypatch.setattr(admin_server, "REQUEST_S", request_s)
    monkeypatch.setattr(admin_server, "MAX_CONNECTIONS", connections)
    methods = ["GET", "POST"]
    app = Starlette(routes=[Route(f"/{serve.__name__}", serve, methods=methods) for serve in (quick, body, stream)])

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    with AdminServer(app, "127.0.0.1", 0) as server:
        running = asyncio.create_task(server.run())
        try:
            async with asyncio.timeout(10):
                yield connect
        finally:
            server.stop()
            await running


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head.split()[1] + b" " + await reader.readexactly(length)


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> float:
    """Send `data` a byte at a time, and then nothing; return after how long the server closed."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    async def send() -> None:
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(send())
    try:
        with contextlib.suppress(ConnectionResetError):  # an end is an end: the time until it is what is asked
            while await reader.read(4096):
                pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return loop.time() - began_s


@pytest.mark.parametrize("said", [b"", GET[:-2], b"X-Long: " + b"a" * 400, POST, POST + b"a", EARLY + b"abc"], ids=range(6))
async def test_a_connection_without_a_whole_request_is_closed_in_time(
    said: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(monkeypatch) as connect:
        async with connect() as (reader, writer):
            assert await trickle(reader, writer, b"") < 2
        async with connect() as (reader, writer):
            writer.write(said[:50])
            assert await trickle(reader, writer, said[50:]) < 2
        async with connect() as (reader, writer):  # nor in the place of a second request
            writer.write(GET)
            assert await answer_of(reader) == b"200 ok"
            writer.write(said[:50] or b"G")
            assert await trickle(reader, writer, said[50:]) < 2
    assert [line for line in caplog.records if line.levelno >= logging.ERROR] == []


async def test_whole_requests_are_served_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as connect:
        async with connect() as (reader, writer):
            for _ in range(4):
                writer.write(GET)
                assert await answer_of(reader) == b"200 ok"
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)  # between two requests the time of uvicorn's keep-alive counts
            for part in (POST, b"all ", b"of it"):
                writer.write(part)
                await asyncio.sleep(0.02)
            assert await answer_of(reader) == b"200 all of it"
        async with connect() as (reader, writer):
            writer.write(GET.replace(b"quick", b"stream").replace(b"Host", b"Connection: close\r\nHost"))
            assert (await reader.read()).count(b"part.") == 12


async def test_connections_that_say_nothing_shut_the_api_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch, request_s=0.5, connections=8) as connect, contextlib.AsyncExitStack() as silent:
        for _ in range(8):
            await silent.enter_async_context(connect())
        async with connect() as (reader, writer):
            writer.write(GET)
            assert (await answer_of(reader)).startswith(b"503")
        await asyncio.sleep(0.8)
        async with connect() as (reader, writer):
            writer.write(GET)
            assert await answer_of(reader) == b"200 ok"
