"""The crowd's socket and protocol: it resumes as the SDK's client does, and reads a snapshot's header as that one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve

from benchmarks._light_socket import LightClient
from perdure.client.header_protocol import HeaderProtocol
from perdure.client.protocol import ClientProtocol
from perdure.client.world_view import Snapshot, SnapshotError
from perdure.wire.opcodes import Close, ServerOp, SnapshotFlag

SCHEMA = {"name": "t", "tick_hz": 20, "width": 9, "height": 9, "interest": 9, "entities": [], "commands": [], "events": []}
WELCOME = {"player": "ann", "key": 1, "session": 1, "resume": "r", "tick_hz": 20, "zone": 3, "gateway": "g", "schema_hash": "h",
           "schema": SCHEMA}  # fmt: skip
SNAPSHOT = [int(ServerOp.SNAPSHOT), 3, 2, 700, int(SnapshotFlag.KEYFRAME), 0, 9, b"", b"", b"", b"", b""]


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
