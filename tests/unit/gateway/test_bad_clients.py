"""Every wrong thing that a client may do ends it with one clear code, and another client notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
import struct
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from gateway import websocket_server
from gateway.websocket_server import BindError
from perdure.client import Client
from perdure.wire.client_messages import encode_command, encode_hello, encode_ping
from perdure.wire.opcodes import CLOSE_REASONS, Close
from perdure.wire.tokens import make_token
from tests.unit.gateway.cluster_double import Cluster, cluster, eventually, slow_socket
from tests.unit.gateway.shard_double import SECRET
from tests.unit.wire.naive_snapshot import packed

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def with_witness(**settings: Any) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster, and a client in it who must notice nothing: no close, no reconnect, snapshots and commands go on."""
    async with cluster(**settings) as c, c.client("witness") as witness:
        yield c, witness
        before = witness.stats.snapshots
        await witness.command("steer", mx=1)
        await eventually(lambda: witness.stats.snapshots > before + 3, "snapshots for the witness")
        assert witness.stats.closes == []
        assert witness.stats.refused == 0


async def open_socket(c: Cluster, **options: Any) -> ClientConnection:
    return await connect(c.url, compression=None, proxy=None, max_size=None, **options)


async def enter(c: Cluster, name: str = "mallory") -> ClientConnection:
    """A raw socket that has entered the world and seen its first snapshot."""
    socket = await open_socket(c)
    await socket.send(encode_hello(token=c.token(name)))
    while True:
        message = msgpack.unpackb(await socket.recv(), strict_map_key=False)
        if message[0] == 2:
            return socket


async def ending(socket: ClientConnection, bound_s: float = 8.0) -> tuple[int | None, str]:
    """Read to the end; return (code, reason)."""
    async with asyncio.timeout(bound_s):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as error:
            assert error.rcvd is not None, "the socket broke without a close frame"
            return error.rcvd.code, error.rcvd.reason


async def expect(socket: ClientConnection, code: Close) -> str:
    got, reason = await ending(socket)
    assert got == code, f"{got}: {reason}"
    assert "\n" not in reason
    return reason


HELLOS: dict[str, tuple[Callable[[Cluster], bytes], Close]] = {
    "a token of another secret": (lambda c: encode_hello(token=make_token("x" * 40, "eve")), Close.BAD_TOKEN),
    "a token that is none": (lambda c: encode_hello(token="nonsense"), Close.BAD_TOKEN),
    "an expired token": (lambda c: encode_hello(token=make_token(SECRET, "eve", -10)), Close.TOKEN_EXPIRED),
    "a resume token never given": (lambda c: encode_hello(resume="eve." + "a" * 43), Close.BAD_RESUME),
    "a resume token of no form": (lambda c: encode_hello(resume="eve"), Close.BAD_RESUME),
    "another schema": (lambda c: encode_hello(token=c.token("eve"), schema="0" * 16), Close.WRONG_SCHEMA),
    "another protocol": (lambda c: packed([1, {"protocol": 99, "token": c.token("eve")}]), Close.WRONG_PROTOCOL),
    "garbage": (lambda c: b"\xde\xad\xbe\xef" * 20, Close.BAD_HELLO),
    "a command first": (lambda c: encode_command(1, 1, [0, 0, 0]), Close.BAD_HELLO),
    "an unknown field": (lambda c: packed([1, {"protocol": 1, "token": "t", "admin": True}]), Close.BAD_HELLO),
    "deep nesting": (lambda c: b"\x91" * 10_000, Close.BAD_HELLO),
}


@pytest.mark.parametrize("case", HELLOS)
async def test_a_wrong_hello_has_its_own_code(case: str) -> None:
    make, code = HELLOS[case]
    async with with_witness() as (c, _):
        socket = await open_socket(c)
        await socket.send(make(c))
        reason = await expect(socket, code)
        assert reason.startswith(CLOSE_REASONS[code].name)


MESSAGES: dict[str, tuple[bytes | str, Close]] = {
    "garbage bytes": (b"\x01\x02\x03garbage", Close.BAD_MESSAGE),
    "an empty message": (b"", Close.BAD_MESSAGE),
    "text": ("hello", Close.BAD_MESSAGE),
    "an unknown number": (b"\x91\x63", Close.BAD_MESSAGE),
    "a command out of range": (encode_command(1, 1, [2, 0, 0]), Close.BAD_COMMAND),
    "a command with NaN": (encode_command(1, 2, [float("nan")]), Close.BAD_COMMAND),
    "a command of unknown kind": (encode_command(1, 77, []), Close.BAD_COMMAND),
    "a command with a string": (packed([2, 1, 1, "x", 0, 0]), Close.BAD_MESSAGE),
    "a 10 MB message": (b"x" * 10_000_000, Close.MESSAGE_TOO_BIG),
    "a message of 16 KiB and a byte": (b"x" * (16 * 1024 + 1), Close.MESSAGE_TOO_BIG),
}


@pytest.mark.parametrize("case", MESSAGES)
async def test_a_wrong_message_has_its_own_code(case: str) -> None:
    message, code = MESSAGES[case]
    async with with_witness() as (c, _):
        socket = await enter(c)
        with contextlib.suppress(ConnectionClosed):  # the server may end a large message while it is being sent
            await socket.send(message)
        await expect(socket, code)
        await eventually(lambda: len(c.gateway.fanout) == 1, "the session's end")
        assert c.gateway.counters.closes[code] == 1
        await eventually(lambda: c.player("mallory").gateway == -1, "the detach of the player")


async def test_too_many_commands_a_second_are_refused_and_then_closed() -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        seq = 1
        with contextlib.suppress(ConnectionClosed):
            for _ in range(3000):
                await socket.send(encode_command(seq, 1, [0, 0, 0]))
                seq += 1
        reason = await expect(socket, Close.TOO_FAST)
        assert "40 commands a second" in reason
        assert c.gateway.counters.refused["rate"] >= 1


async def test_no_hello_in_time_is_closed() -> None:
    async with with_witness(hello_timeout_ms=300) as (c, _):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        socket = await open_socket(c)
        await expect(socket, Close.HELLO_TIMEOUT)
        assert 0.25 < loop.time() - began_s < 1.5
    assert CLOSE_REASONS[Close.HELLO_TIMEOUT].cause == "no hello came within 3 s"


async def test_a_tcp_connection_without_handshake_is_dropped_in_time() -> None:
    async with with_witness(hello_timeout_ms=300) as (c, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", c.gateway.endpoint.port)
        writer.write(b"GET /ws HTTP/1.1\r\nHost:")  # slowloris
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        writer.close()


async def fragments(socket: ClientConnection, parts: list[bytes]) -> None:
    for k, part in enumerate(parts):
        opcode = Opcode.BINARY if k == 0 else Opcode.CONT
        socket.transport.write(Frame(opcode, part, fin=k == len(parts) - 1).serialize(mask=True))


async def test_a_message_in_a_few_fragments_is_a_message() -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        command = encode_command(1, 1, [1, 1, 1])
        await fragments(socket, [command[:1], b"", command[1:4], command[4:]])
        await eventually(lambda: c.player("mallory").last_seq == 1, "the command")
        await socket.close()


async def test_a_message_in_many_tiny_fragments_is_closed() -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        await fragments(socket, [b"\x91"] * 500)
        code, _ = await ending(socket)
        assert code in (Close.BAD_MESSAGE, Close.TOO_FAST)


async def test_fragments_together_over_the_limit_are_too_big() -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        await fragments(socket, [b"x" * 8000] * 4)
        await expect(socket, Close.MESSAGE_TOO_BIG)


async def test_a_message_that_is_never_completed_is_closed() -> None:
    async with with_witness(message_timeout_ms=600) as (c, _):
        socket = await enter(c)
        socket.transport.write(b"\x82\xfe\x10\x00abcd" + b"x" * 100)
        await expect(socket, Close.BAD_MESSAGE)


async def test_pings_between_fragments_do_not_give_a_message_more_time() -> None:
    async with with_witness(message_timeout_ms=600) as (c, _):
        socket = await enter(c)
        socket.transport.write(Frame(Opcode.BINARY, b"\x91", fin=False).serialize(mask=True))
        ended = asyncio.ensure_future(expect(socket, Close.BAD_MESSAGE))
        while not ended.done():
            socket.transport.write(Frame(Opcode.PING, b"").serialize(mask=True))
            await asyncio.sleep(0.2)
        assert "not completed in time" in await ended


async def test_a_flood_of_pings_is_closed() -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        ping = Frame(Opcode.PING, b"").serialize(mask=True)
        socket.transport.write(ping * 20_000)
        await expect(socket, Close.TOO_FAST)


async def test_a_flood_of_game_pings_is_closed() -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        with contextlib.suppress(ConnectionClosed):
            for k in range(500):
                await socket.send(encode_ping(k))
        await expect(socket, Close.TOO_FAST)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x05hello", 1002),  # not masked
        (b"\xc2\x85abcdhello", 1002),  # reserved bit: compression was not agreed
        (b"\x8b\x80abcd", 1002),  # an opcode that is none
        (b"\x80\x80abcd", 1002),  # a continuation of nothing
        (b"\x89\xfe\x00\x80abcd" + b"x" * 128, 1002),  # a long control frame
        (b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"abcd", 1009),
    ],
)
async def test_what_breaks_the_websocket_protocol_is_closed_by_the_library(data: bytes, code: int) -> None:
    async with with_witness() as (c, _):
        socket = await enter(c)
        socket.transport.write(data)
        got, reason = await ending(socket)
        assert got == code
        assert "\n" not in reason
        await eventually(lambda: len(c.gateway.fanout) == 1, "the session's end")


async def test_silence_is_pinged_and_then_closed() -> None:
    async with with_witness(ping_interval_ms=500, idle_timeout_ms=1000) as (c, witness):
        reader, writer = await asyncio.open_connection("127.0.0.1", c.gateway.endpoint.port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write(Frame(Opcode.BINARY, encode_hello(token=c.token("mute"))).serialize(mask=True))
        seen = b""
        async with asyncio.timeout(8):
            while struct.pack(">H", Close.IDLE) + b"idle" not in seen:
                data = await reader.read(65536)
                assert data, "ended without the code"
                seen = seen[-200:] + data
        writer.close()
        # the witness, who only answers pings, stays
        await asyncio.sleep(0)
        assert witness.connected


async def test_a_socket_that_is_half_closed_with_snapshots_waiting_harms_nobody() -> None:
    """It reads nothing and says that it sends nothing more: its snapshots can never be written, and uvloop says so at each try."""
    settings = {"slow_reader_bytes": 1 << 20, "slow_reader_resume_bytes": 1024, "send_buffer_bytes": 4096}
    async with with_witness(hz=100, **settings) as (c, witness):
        c.shards["shard-a"].filler = 2000
        raw, _ = await slow_socket(c, "slow")
        await eventually(lambda: any(one.session.name == "slow" for one in c.gateway.endpoint._connections), "its login")
        (endpoint,) = [one for one in c.gateway.endpoint._connections if one.session.name == "slow"]
        await eventually(lambda: endpoint.transport.get_write_buffer_size() > 4096, "snapshots that wait")
        raw.shutdown(sockets.SHUT_WR)
        await eventually(lambda: c.player("slow").gateway == -1, "the detach")
        await eventually(lambda: endpoint not in c.gateway.endpoint._connections, "the socket's end")
        before = witness.stats.snapshots
        await eventually(lambda: witness.stats.snapshots > before + 50, "snapshots for the witness")
        assert c.gateway.counters.link_losses == 0 and not c.gateway.failed
        raw.close()


async def test_a_write_that_fails_ends_that_socket_alone() -> None:
    async with with_witness(compiled_sockets=False) as (c, _):
        await enter(c)
        (endpoint,) = [one for one in c.gateway.endpoint._connections if one.session.name == "mallory"]
        endpoint.transport.write_eof()
        with pytest.raises(RuntimeError):
            endpoint.transport.write(b"x")
        await eventually(lambda: endpoint not in c.gateway.endpoint._connections, "the socket's end")
        assert c.gateway.counters.link_losses == 0 and not c.gateway.failed


# --- before the session -------------------------------------------------------------------------------------------


async def get(url: str) -> tuple[int, str, bytes]:
    def fetch() -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read()

    return await asyncio.to_thread(fetch)


async def test_http_answers() -> None:
    async with with_witness() as (c, _):
        base = c.url.replace("ws://", "http://").removesuffix("/ws")
        assert (await get(base + "/healthz"))[0] == 200
        assert (await get(base + "/readyz"))[2] == b"ready\n"
        status, kind, body = await get(base + "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert b"Perdure" in body
        assert b"metrics" not in body
        assert (await get(base + "/metrics"))[0] == 404, "what is counted is not for the public"
        assert (await get(base + "/etc/passwd"))[0] == 404


async def test_health_and_metrics_have_a_port_of_their_own() -> None:
    async with with_witness(health_port=0) as (c, _):
        health = c.gateway.health
        assert health is not None and health.port != c.gateway.endpoint.port
        base = f"http://127.0.0.1:{health.port}"
        assert (await get(base + "/healthz"))[0] == 200
        assert await get(base + "/readyz") == (200, "text/plain", b"ready\n")
        status, _, body = await get(base + "/metrics")
        assert status == 200
        assert b"perdure_gateway_sessions 1.0" in body
        assert b"perdure_gateway_links_up 2.0" in body
        assert b"perdure_gateway_frames_out_total" in body
        with pytest.raises(BindError, match=f"127.0.0.1:{health.port} .health_host, health_port."):
            await c.add_gateway(health_port=health.port)
        c.gateway._stopping = True
        assert await get(base + "/readyz") == (503, "text/plain", b"shutting down\n")
        c.gateway._stopping = False
    with pytest.raises(urllib.error.URLError):
        await get(base + "/healthz")


async def test_without_a_health_port_nothing_more_listens() -> None:
    async with with_witness() as (c, _):
        assert c.gateway.health is None


async def test_sockets_that_ask_for_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_server, "SILENT_S", -1.0)
    async with with_witness(max_unauthenticated=20, max_unauthenticated_per_address=1000) as (c, _):
        loop = asyncio.get_running_loop()
        silent = []
        for _ in range(60):
            raw = sockets.socket()
            raw.setblocking(False)
            await loop.sock_connect(raw, ("127.0.0.1", c.gateway.endpoint.port))
            silent.append(raw)
        await (await enter(c)).close()
        assert c.gateway.counters.put_away >= 39 and c.gateway.endpoint.waiting <= 21
        for raw in silent:
            raw.close()


async def test_who_came_just_now_is_not_silent() -> None:
    """Many come at once, as when another gateway died; what they ask for has not been read yet. They are told, not cut off."""
    async with with_witness(max_unauthenticated=20, max_unauthenticated_per_address=1000) as (c, _):
        request = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        request += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", c.gateway.endpoint.port) for _ in range(60)))
        for _, writer in opened:
            writer.write(request)
        answers = Counter([(await reader.readline())[9:12] for reader, _ in opened])
        assert answers == {b"101": 20, b"503": 40}
        assert c.gateway.counters.put_away == 0
        for _, writer in opened:
            writer.close()


async def test_a_socket_that_is_gone_when_its_request_is_looked_at_counts_nowhere() -> None:
    async with with_witness(max_unauthenticated=1) as (c, _):
        endpoint = c.gateway.endpoint
        opened = [await asyncio.open_connection("127.0.0.1", endpoint.port) for _ in range(4)]
        await eventually(lambda: len(endpoint._waiting) == 4, "the sockets")
        gone = next(iter(endpoint._waiting))
        endpoint.closed(gone)
        answer = endpoint._refusal(gone, Request("/ws", Headers()), "/ws")
        assert answer is not None and answer.status_code == 503
        assert endpoint._refused == 0 and endpoint._waiting_by_address.total() == 3
        for _, writer in opened:
            writer.close()


async def test_an_address_has_no_more_sockets_than_twice_its_cap() -> None:
    async with with_witness(max_unauthenticated_per_address=5, trusted_proxies=[]) as (c, _):
        silent = [await asyncio.open_connection("127.0.0.1", c.gateway.endpoint.port) for _ in range(30)]
        await eventually(lambda: c.gateway.counters.put_away == 20, "the end of those that are over it")
        assert c.gateway.endpoint.waiting == 10
        with pytest.raises(InvalidMessage):
            await open_socket(c)
        for _, writer in silent:
            writer.close()


async def test_a_request_with_a_head_of_many_kilobytes_is_ended() -> None:
    async with with_witness() as (c, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", c.gateway.endpoint.port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (k, b"x" * 4000) for k in range(8)))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(2):
                assert await reader.read() == b""
        writer.close()


async def refused(awaitable: Awaitable[Any]) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await awaitable
    return caught.value.response.status_code


async def test_origins_are_checked() -> None:
    async with with_witness(origins=["https://game.example"]) as (c, _):
        assert await refused(open_socket(c, origin="https://evil.example")) == 403
        socket = await open_socket(c, origin="https://game.example")
        await socket.close()
        socket = await open_socket(c)  # not a browser
        await socket.close()


async def test_without_a_list_only_the_same_host_is_allowed_outside_development() -> None:
    async with with_witness(development=False) as (c, _):
        assert await refused(open_socket(c, origin="https://evil.example")) == 403
        own = c.url.removeprefix("ws://").removesuffix("/ws")
        socket = await open_socket(c, origin=f"http://{own}")
        await socket.close()


async def test_sockets_without_a_session_are_capped_by_address() -> None:
    async with with_witness(max_unauthenticated_per_address=3) as (c, _):
        sockets = [await open_socket(c) for _ in range(3)]
        assert await refused(open_socket(c)) == 503
        await sockets.pop().close()
        await eventually(lambda: c.gateway.endpoint.waiting == 2, "the socket's end")
        sockets.append(await open_socket(c))
        for socket in sockets:
            await socket.close()


async def test_a_trusted_proxy_is_believed_and_nobody_else() -> None:
    async with with_witness(max_unauthenticated_per_address=2, trusted_proxies=["127.0.0.1"]) as (c, _):
        sockets = [await open_socket(c, additional_headers={"X-Forwarded-For": f"6.6.6.6, 10.0.0.{k}"}) for k in range(5)]
        for _ in range(2):
            sockets.append(await open_socket(c, additional_headers={"X-Forwarded-For": "1.2.3.4, 10.9.9.9"}))
        assert await refused(open_socket(c, additional_headers={"X-Forwarded-For": "5.5.5.5, 10.9.9.9"})) == 503
        for socket in sockets:
            await socket.close()


async def test_a_full_gateway_says_so() -> None:
    async with with_witness(max_sessions=1, max_queued=0) as (c, _):
        socket = await open_socket(c)
        await socket.send(encode_hello(token=c.token("second")))
        await expect(socket, Close.FULL)
