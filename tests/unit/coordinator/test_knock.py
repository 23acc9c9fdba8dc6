"""Whether a shard lives that gateways were refused at: it is asked at its port, and only what answers by its name does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import coordinator.knock
from coordinator.knock import answers
from perdure.ledger.values import Member
from perdure.wire.link import NONCE_BYTES, LinkType, pack_frame
from tests.unit.coordinator.admin_bench import AdminBench

CHALLENGE = pack_frame(LinkType.CHALLENGE, bytes(NONCE_BYTES), b"s1")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def port(said: bytes, ends: bool = False) -> AsyncIterator[str]:
    """Listen, say so much to whoever comes, and wait for its end."""
    open_, none = set[asyncio.StreamWriter](), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(writer)
        writer.write(said)
        if not ends:
            await reader.read()
        writer.close()
        open_.discard(writer)
        none.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        while open_:
            none.clear()
            await none.wait()


def shard(address: str) -> Member:
    return Member("s1", "shard", 7, address)


@pytest.mark.parametrize(
    ("said", "ends", "lives"),
    [
        (CHALLENGE, False, True),
        (CHALLENGE[:9], False, False),
        (b"", False, False),
        (b"", True, False),
        (pack_frame(LinkType.CHALLENGE, bytes(NONCE_BYTES), b"s2"), False, False),
        (pack_frame(LinkType.ACCEPT), False, False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, False),
    ],
)
async def test_only_a_shard_of_that_name_answers(said: bytes, ends: bool, lives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator.knock, "DEADLINE_S", 10.0 if lives else 0.1)
    async with port(said, ends) as address:
        assert await answers(shard(address)) is lives


async def test_where_nobody_listens_nobody_answers(tmp_path: Path) -> None:
    async with port(CHALLENGE) as address:
        pass
    for nowhere in (address, f"unix:{tmp_path}/gone.sock", "tcp:s1..example:1", "tcp:127.0.0.1:no"):
        assert not await answers(shard(nowhere)), nowhere


async def test_a_shard_that_answers_is_not_put_out_on_reports_and_one_that_does_not_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, lives = AdminBench(), True

    async def told(member: Member) -> bool:
        assert member.name == "s1"
        return lives

    monkeypatch.setattr("coordinator.steering.answers", told)
    await bench.start("s0", "s1")
    number = (await bench.ledger.view()).members["s1"].number
    with capture_logs() as logs:
        for _ in range(5):  # the gateway dials again and again
            await bench.ledger.suspect("s1", number, "g")
            await bench.turns()
    assert "s1" in (await bench.ledger.view()).members
    assert [line["event"] for line in logs if line["event"] == "suspect_answers"] == ["suspect_answers"], "said once"
    for _ in range(3):  # a shard that answers may be slow for once, again and again
        lives = False
        await bench.ledger.suspect("s1", number, "g")
        await bench.turns()
        assert "s1" in (await bench.ledger.view()).members
        lives = True
        await bench.ledger.suspect("s1", number, "g")
        await bench.turns()
    lives = False
    await bench.turns()
    assert "s1" in (await bench.ledger.view()).members, "nothing new was reported"
    for _ in range(2):
        await bench.ledger.suspect("s1", number, "g")
        await bench.turns()
    assert "s1" not in (await bench.ledger.view()).members


async def test_a_shard_that_never_answered_is_put_out_on_the_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = AdminBench()

    async def told(member: Member) -> bool:
        return False

    monkeypatch.setattr("coordinator.steering.answers", told)
    await bench.start("s0", "s1")
    await bench.ledger.suspect("s1", (await bench.ledger.view()).members["s1"].number, "g")
    await bench.turns()
    assert "s1" not in (await bench.ledger.view()).members
