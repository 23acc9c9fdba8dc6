"""The chaos bench's proxy: it forwards what it is told to, holds, loses and cuts the rest, and makes nothing up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from benchmarks._proxy import COMMIT, RESEED, Proxy, has_commit, has_transfer, puts_zones

SHORT_S = 0.05


class Lines:
    """A server that remembers what it was sent, and answers each line."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while line := await reader.readline():
                self.got.append(line)
                writer.write(b"+" + line)
        except ConnectionError:
            pass  # the proxy cut it, as the test wanted
        finally:
            writer.close()
            self.open -= 1


class Stand:
    def __init__(self, folder: Path) -> None:
        self.lines, self.folder = Lines(), folder
        self.proxy = Proxy(folder / "near", folder / "far")

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.folder / "near"))


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    with tempfile.TemporaryDirectory(prefix="perdure-proxy-") as folder:
        found = Stand(Path(folder))
        server = await asyncio.start_unix_server(found.lines.serve, str(Path(folder) / "far"))
        await found.proxy.start()
        try:
            yield found
        finally:
            await found.proxy.stop()
            while found.lines.open:
                await asyncio.sleep(0)
            server.close()
            await server.wait_closed()


async def _ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    connection[1].write(line)
    return await asyncio.wait_for(connection[0].readline(), 5)


async def _silent(reader: asyncio.StreamReader) -> bool:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), SHORT_S)
    return True


async def test_it_forwards_both_ways(stand: Stand) -> None:
    connection = await stand.dial()
    assert [await _ask(connection, b"one\n"), await _ask(connection, b"two\n")] == [b"+one\n", b"+two\n"]
    assert stand.proxy.connections == 1
    connection[1].close()


async def test_what_is_held_comes_later_and_in_order(stand: Stand) -> None:
    reader, writer = await stand.dial()
    await _ask((reader, writer), b"one\n")
    stand.proxy.hold()
    writer.write(b"two\nthree\n")
    assert await _silent(reader)
    assert stand.lines.got == [b"one\n"]
    stand.proxy.release()
    assert await asyncio.wait_for(reader.readline(), 5) == b"+two\n"
    assert await asyncio.wait_for(reader.readline(), 5) == b"+three\n"
    writer.close()


async def test_one_way_requests_arrive_and_answers_do_not(stand: Stand) -> None:
    reader, writer = await stand.dial()
    await _ask((reader, writer), b"one\n")
    stand.proxy.hold(requests=False, replies=True)
    writer.write(b"two\n")
    assert await _silent(reader)
    assert stand.lines.got == [b"one\n", b"two\n"]
    writer.close()


async def test_a_connection_that_is_made_while_all_is_held_waits(stand: Stand) -> None:
    stand.proxy.hold()
    reader, writer = await stand.dial()
    writer.write(b"one\n")
    assert await _silent(reader)
    assert stand.lines.got == []
    stand.proxy.release()
    assert await asyncio.wait_for(reader.readline(), 5) == b"+one\n"
    writer.close()


async def test_refusing_breaks_old_and_new_connections(stand: Stand) -> None:
    old = await stand.dial()
    await _ask(old, b"one\n")
    stand.proxy.refuse()
    with pytest.raises(ConnectionError):
        await _raises_at_end(old)
    with pytest.raises(ConnectionError):
        await _raises_at_end(await stand.dial())
    stand.proxy.accept()
    new = await stand.dial()
    assert await _ask(new, b"two\n") == b"+two\n"
    new[1].close()


async def _raises_at_end(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    try:
        if not await asyncio.wait_for(connection[0].read(1), 5):
            raise ConnectionResetError
    finally:
        connection[1].close()


async def test_a_lost_reply_is_of_a_commit_that_took_effect_and_ends_the_connection(stand: Stand) -> None:
    first = await stand.dial()
    stand.proxy.lose_replies(1)
    assert await _ask(first, b"harmless\n") == b"+harmless\n"
    first[1].write(COMMIT + b" 1\n")
    with pytest.raises(ConnectionError):
        await _raises_at_end(first)
    assert stand.lines.got[-1] == COMMIT + b" 1\n"
    assert stand.proxy.lost_replies == 1
    second = await stand.dial()
    assert await _ask(second, COMMIT + b" 1\n") == b"+" + COMMIT + b" 1\n"
    second[1].close()


async def test_a_cut_says_how_much_of_a_request_goes_on(stand: Stand) -> None:
    reader, writer = await stand.dial()
    stand.proxy.cut = lambda request: request[:2]
    writer.write(b"a\nb\n")
    assert await asyncio.wait_for(reader.readline(), 5) == b"+a\n"
    assert await _silent(reader)
    writer.close()


async def test_a_new_target_holds_for_connections_that_come_after(stand: Stand) -> None:
    other = Lines()
    server = await asyncio.start_unix_server(other.serve, str(stand.folder / "other"))
    old = await stand.dial()
    await _ask(old, b"one\n")
    stand.proxy.target = stand.folder / "other"
    assert await _ask(old, b"two\n") == b"+two\n"
    assert other.got == []
    new = await stand.dial()
    await _ask(new, b"three\n")
    assert other.got == [b"three\n"]
    for connection in (old, new):
        connection[1].close()
    await stand.proxy.stop()
    while other.open:
        await asyncio.sleep(0)
    server.close()
    await server.wait_closed()


def packed(*words: str | bytes) -> bytes:
    pack: Any = hiredis.pack_command
    return pack(words)


def test_commits_and_their_transfers_are_told_apart() -> None:
    plain = packed("FCALL", COMMIT.decode(), "1", "base", "0", "1 1 4 a", "1 1 5 b", "5", "b", b"record")
    moving = packed("FCALL", COMMIT.decode(), "1", "base", "0", "1 1 4 a", "1 1 5 b", "5", "b", b"record", "1", b"p", b"e")
    other = packed("FCALL", "perdure_v1_heartbeat", "1", "base")
    assert [has_commit(request) for request in (plain, moving, other)] == [True, True, False]
    assert [has_transfer(request) for request in (plain, moving, other, plain + moving)] == [False, True, False, True]


async def test_a_connection_that_asks_what_it_is_deaf_to_is_broken(stand: Stand) -> None:
    stand.proxy.deaf_to = puts_zones
    reader, writer = await stand.dial()
    writer.write(b"beat\n")
    assert await reader.readline() == b"+beat\n"
    writer.write(RESEED + b"\n")
    assert await reader.read() == b""
    assert stand.lines.got == [b"beat\n"]
    stand.proxy.deaf_to = None
    again, other = await stand.dial()
    other.write(RESEED + b"\n")
    assert await again.readline() == b"+" + RESEED + b"\n"
    writer.close()
    other.close()
