"""The crowd's socket and protocol: the frames of a server however its bytes are cut, and a snapshot's header as the SDK reads it."""

from __future__ import annotations

import asyncio
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from benchmarks._light_socket import BINARY, Frames, LightClient, frame
from perdure.client.header_protocol import HeaderProtocol
from perdure.client.protocol import ClientProtocol
from perdure.client.world_view import Snapshot, SnapshotError
from perdure.wire.opcodes import Close, ServerOp, SnapshotFlag

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
SCHEMA = {"name": "t", "tick_hz": 20, "width": 9, "height": 9, "interest": 9, "entities": [], "commands": [], "events": []}
WELCOME = {"player": "ann", "key": 1, "session": 1, "resume": "r", "tick_hz": 20, "zone": 3, "gateway": "g", "schema_hash": "h",
           "schema": SCHEMA}  # fmt: skip
SNAPSHOT = [int(ServerOp.SNAPSHOT), 3, 2, 700, int(SnapshotFlag.KEYFRAME), 0, 9, b"", b"", b"", b"", b""]


def _served(message: bytes, opcode: int = BINARY) -> bytes:
    size = len(message)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + message


@given(st.lists(st.sampled_from([0, 1, 125, 126, 300, 65_535, 65_536]), max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_messages_come_out_whole_however_the_bytes_are_cut(sizes: list[int], data: st.DataObject) -> None:
    messages = [bytes([k]) * size for k, size in enumerate(sizes)]
    stream = SWITCHING + b"".join(map(_served, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    frames, found = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[start:end])
    assert found == [(BINARY, message) for message in messages]


def test_a_refused_upgrade_is_an_error() -> None:
    with pytest.raises(ValueError, match="503"):
        Frames().feed(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


def test_what_is_sent_is_a_frame_that_is_masked() -> None:
    assert frame(b"abc") == b"\x82\x83\0\0\0\0abc"
    assert frame(b"x" * 200)[:4] == b"\x82\xfe\x00\xc8"


def _shown(protocol: ClientProtocol) -> Snapshot:
    protocol.hello(token="t")
    protocol.receive(msgspec.msgpack.encode([int(ServerOp.WELCOME), WELCOME]))
    shown = protocol.receive(msgspec.msgpack.encode(SNAPSHOT))
    assert isinstance(shown, Snapshot)
    return shown


def test_a_header_is_what_the_sdk_reads() -> None:
    light, full = _shown(HeaderProtocol()), _shown(ClientProtocol())
    fields = ("zone", "epoch", "tick", "flags", "ack", "me")
    assert [getattr(light, name) for name in fields] == [getattr(full, name) for name in fields]


def test_a_header_that_is_none_is_an_error() -> None:
    protocol = HeaderProtocol()
    _shown(protocol)
    with pytest.raises(SnapshotError, match="header"):
        protocol.receive(msgspec.msgpack.encode([int(ServerOp.SNAPSHOT), "x", 2]))


async def test_it_resumes_after_a_break_and_stops_at_a_close_that_is_for_good() -> None:
    hellos: list[tuple[int, dict[str, object]]] = []

    async def serving(socket: ServerConnection) -> None:
        hello = msgspec.msgpack.decode(await socket.recv(decode=False))
        hellos.append(hello)
        await socket.send(msgspec.msgpack.encode([int(ServerOp.WELCOME), WELCOME]))
        await socket.send(msgspec.msgpack.encode(SNAPSHOT))
        if len(hellos) == 1:
            socket.transport.abort()
        else:
            await socket.close(int(Close.KICKED), "put out")

    async with serve(serving, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        client = LightClient(f"ws://127.0.0.1:{port}/ws", lambda: "token")
        async with asyncio.timeout(20):
            await client.connect()
            while client.ended is None:
                await asyncio.sleep(0.01)
        await client.close()
    assert [sorted(body) for _, body in hellos] == [["protocol", "schema", "token"], ["protocol", "resume", "schema"]]
    assert client.ended.code == Close.KICKED
    assert client.ended.reason == "put out"
    assert [end.code for end in client.stats.closes] == [None, int(Close.KICKED)]
    assert client.stats.reconnects == 1
