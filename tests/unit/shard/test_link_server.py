"""Links of a shard: who is let in, what garbage does, who does not read, and the socket's file."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest

import shard.link_server
from perdure.wire.link import (
    ACCEPTED,
    AT_ONCE_US,
    READS_STRUCT,
    LinkType,
    link_proof,
    pack_frame,
)
from shard.link_server import LinkServer
from tests.unit.shard.shard_lab import SECRET, Shard, playing, shard_in, until

# --- links --------------------------------------------------------------------------------------------------------


async def test_a_gateway_proves_itself_and_is_accepted(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway = await shard_1.gateway()
        await until(lambda: gateway.frames)
        assert gateway.frames == [(LinkType.ACCEPT, ACCEPTED)]


async def test_a_wrong_secret_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(shard.link_server.log, "warning", lambda event, **words: said.append((event, words)), raising=False)
    async with shard_in(tmp_path) as shard_1:
        gateway = await shard_1.dial()
        await gateway.challenged()
        gateway.hello(secret=b"another one")
        await until(lambda: gateway.ended)
        assert shard_1.links.links == {}
        assert [event for event, _ in said] == ["link_ended"]
        assert said[0][1]["why"] == "a member with another secret; set the same PERDURE_SECRET for all members"


async def test_an_old_proof_does_not_serve_a_new_link(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        first = await shard_1.gateway()
        second = await shard_1.dial()
        await second.challenged()
        assert second.nonce != first.nonce
        second.nonce = first.nonce
        second.hello()
        await until(lambda: second.ended)
        assert not first.ended


BAD = {
    "huge": struct.pack("<I", 1 << 30) + b"\4",
    "empty": struct.pack("<I", 0),
    "unknown type": pack_frame(LinkType.COMMANDS)[:4] + b"\x63",
    "short commands": pack_frame(LinkType.COMMANDS, b"\0"),
    "rows that are not there": pack_frame(LinkType.COMMANDS, struct.pack("<HH", 9, 0), bytes(30)),
    "short keyframes": pack_frame(LinkType.KEYFRAMES, b"\0"),
    "a shard's frame": pack_frame(LinkType.RELEASE, bytes(40)),
    "a second hello": pack_frame(LinkType.HELLO, bytes(40)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
@pytest.mark.parametrize("proved", [False, True])
async def test_garbage_ends_the_link_and_nothing_else(tmp_path: Path, data: bytes, proved: bool) -> None:
    async with shard_in(tmp_path) as shard_1:
        other = await shard_1.gateway(9)
        gateway = await (shard_1.gateway() if proved else shard_1.dial())
        gateway.send(data)
        await until(lambda: gateway.ended)
        assert list(shard_1.links.links) == [9]
        assert not other.ended


async def test_the_same_gateway_again_replaces_its_link(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        first = await shard_1.gateway()
        second = await shard_1.dial()
        await second.challenged()
        second.hello()
        await until(lambda: first.ended)
        await until(lambda: second.frames)
        assert len(shard_1.links.links) == 1
        assert shard_1.links.send(7, b"")
        assert not second.ended


async def test_a_link_past_the_limit_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.link_server, "MAX_LINKS", 1)
    async with shard_in(tmp_path) as shard_1:
        first = await shard_1.gateway()
        second = await shard_1.dial()
        await until(lambda: second.ended)
        assert not first.ended


async def test_a_gateway_that_does_not_read_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.link_server, "MAX_UNSENT_BYTES", 1 << 20)
    async with shard_in(tmp_path) as shard_1:
        gateway = await shard_1.gateway()
        await gateway.close()
        shard_1.gateways.clear()
        reader, writer = await asyncio.open_unix_connection(shard_1.address[5:], limit=1024)
        challenge = await reader.readexactly(4 + 1 + 16 + 7)
        writer.write(pack_frame(LinkType.HELLO, struct.pack("<I", 8), link_proof(SECRET, challenge[5:21], 8), b"g"))
        await until(lambda: 8 in shard_1.links.links)
        for _ in range(100):
            shard_1.links.send(8, bytes(1 << 18))
        await until(lambda: 8 not in shard_1.links.links)
        writer.close()


async def test_a_socket_of_a_living_process_is_not_taken(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        second = LinkServer(SECRET, "shard-2", 24)
        with pytest.raises(OSError, match="another process listens"):
            await second.listen(shard_1.ticks, shard_1.address)
        third = LinkServer(SECRET, "shard-3", 24)
        address = await third.listen(shard_1.ticks, "tcp:127.0.0.1:0", "shard-3.example")
        assert address.startswith("tcp:shard-3.example:")
        assert not address.endswith(":0")
        await third.close()


async def test_a_socket_that_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    server = LinkServer(SECRET, "shard-1", 24)
    assert await server.listen(Shard(tmp_path).ticks, f"unix:{path}") == f"unix:{path}"
    await server.close()


async def test_a_gateway_that_asks_is_told_when_the_shard_reads(tmp_path: Path) -> None:
    async with shard_in(tmp_path, tick_hz=20) as shard_1:
        gateway, _ = await playing(shard_1)
        other = await shard_1.gateway(8)
        gateway.send(pack_frame(LinkType.WHEN))
        told = lambda: [READS_STRUCT.unpack(body) for kind, body in gateway.frames if kind is LinkType.READS]  # noqa: E731
        await until(lambda: len(told()) > 2)
        assert told()[0][1] == 1
        assert all(0 <= us <= 50_000 for us, _ in told())
        kinds = [kind for kind, _ in gateway.frames]
        assert kinds[kinds.index(LinkType.READS) + 1] is LinkType.RELEASE, "ahead of what keeps a gateway busy"
        lane = shard_1.ticks._lanes[9] = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        await until(lambda: told()[-1][0] == AT_ONCE_US)
        del shard_1.ticks._lanes[9]
        await lane
        await until(lambda: told()[-1][0] != AT_ONCE_US)
        assert LinkType.READS not in [kind for kind, _ in other.frames]
