"""Commits that are sent, and answered, without the event loop (Ledger.send_commits): they count as others do, whatever goes wrong.

The twin in memory has no wire: it sends none so.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from ledger_lab import Lab, Proxy, eventually, ledger_at, raw_client

from perdure.ledger.ledger import Ledger, LedgerUnavailable, Sent
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.redis_commit import _Pipe
from perdure.ledger.values import Commit, CommitStatus


def send(ledger: Ledger, *commits: Commit) -> Sent:
    sent = ledger.send_commits(commits)
    assert sent is not None
    return sent


async def connected(lab: Lab) -> None:
    """Zones 0 and 1, and a connection for commits."""
    await lab.zones(0, 1)
    await lab.commit(1)


@pytest.mark.asyncio
async def test_they_are_answered_while_the_event_loop_stands_still(redis_lab: Lab) -> None:
    lab = redis_lab
    await connected(lab)
    await lab.push(0, b"entry")
    sent = send(lab.ledger, lab.next(0), lab.next(1), lab.next(1, epoch=0))
    answers = sent.answered_within(10.0)
    assert answers is not None
    assert [answer.status for answer in answers] == [CommitStatus.OK, CommitStatus.OK, CommitStatus.FENCED]
    assert answers[0].page == (b"entry",)
    assert await sent.answers() == answers, "they may be awaited as well"
    assert (await lab.ledger.zone_head(0)).tick == 1


@pytest.mark.asyncio
async def test_nothing_is_sent_where_there_is_no_connection_yet(redis_lab: Lab) -> None:
    lab = redis_lab
    await lab.zones(0)
    assert lab.ledger.send_commits([lab.next(0)]) is None
    assert MemoryLedger().send_commits([lab.next(0)]) is None
    assert (await lab.commit(0)).status is CommitStatus.OK
    assert lab.ledger.send_commits([lab.next(0)]) is not None


@pytest.mark.asyncio
async def test_one_that_is_too_big_for_the_socket_goes_in_parts(redis_lab: Lab) -> None:
    lab = redis_lab
    await connected(lab)
    record = bytes(range(256)) * (8 << 12)
    sent = send(lab.ledger, lab.next(0, record))
    assert sent.answered_within(0.05) is None, "the rest goes as the event loop comes round"
    (answer,) = await sent.answers()
    assert answer.status is CommitStatus.OK
    (logged,) = await lab.ledger.read_log(0, 1)
    assert logged.record == record


@pytest.mark.asyncio
async def test_several_at_a_time_are_answered_in_order(redis_lab: Lab) -> None:
    lab = redis_lab
    await lab.zones(*range(8))
    await lab.commit(7)
    for zone in range(7):
        await lab.push(zone, b"%d" % zone)
    sent = [send(lab.ledger, lab.next(zone)) for zone in range(7)]
    pages = [(await one.answers())[0].page for one in reversed(sent)]
    assert pages == [(b"%d" % zone,) for zone in reversed(range(7))]


@pytest.mark.asyncio
async def test_what_another_call_left_to_the_event_loop_goes_first(redis_lab: Lab) -> None:
    lab = redis_lab
    await connected(lab)
    before = asyncio.get_running_loop().create_task(lab.ledger.commit([lab.next(0, b"\x00" * (8 << 20))]))
    await asyncio.sleep(0)
    sent = send(lab.ledger, lab.next(1))
    assert [answer.status for answer in (*await before, *await sent.answers())] == [CommitStatus.OK] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", [False, True], ids=["silent", "cut"])
async def test_one_whose_answer_is_lost_counts_once(redis_lab: Lab, cut: bool) -> None:
    lab = redis_lab
    assert lab.server is not None
    await lab.zones(0, 1)
    async with Proxy(str(lab.server.socket_path)).run() as proxy, ledger_at(proxy.url, lab.world, commit_deadline_s=0.3) as ledger:
        assert (await ledger.commit([lab.next(1)]))[0].status is CommitStatus.OK
        proxy.swallow, proxy.cut = True, cut
        sent, began_s = send(ledger, lab.next(0)), time.monotonic()
        assert sent.answered_within(0.05) is None
        assert time.monotonic() - began_s >= 0.05
        with pytest.raises(LedgerUnavailable, match="no answer from 127"):
            await sent.answers()
        assert sent.answered_within(10.0) is None, "none will come"
        assert ledger.send_commits([lab.next(0)]) is None, "the connection is given up"
        proxy.swallow = False
        (answer,) = await ledger.commit([lab.next(0)])
        assert answer.status is CommitStatus.OK
        assert len(await lab.ledger.read_log(0, 0)) == 1


@pytest.mark.asyncio
async def test_a_server_without_functions_gets_them(redis_lab: Lab) -> None:
    lab = redis_lab
    assert lab.server is not None
    await connected(lab)
    async with raw_client(lab.server.url) as client:
        await client.function_flush()
    sent = send(lab.ledger, lab.next(0))
    assert sent.answered_within(10.0) is None
    (answer,) = await sent.answers()
    assert answer.status is CommitStatus.OK
    assert (await lab.ledger.zone_head(0)).tick == 1


@pytest.mark.asyncio
async def test_a_connection_whose_end_has_come_is_not_written_to(redis_lab: Lab) -> None:
    """Its number may be another file's by then."""
    lab = redis_lab
    assert lab.server is not None
    await lab.zones(0, 1)
    async with Proxy(str(lab.server.socket_path)).run() as proxy, ledger_at(proxy.url, lab.world, commit_deadline_s=5.0) as ledger:
        await ledger.commit([lab.next(1)])
        proxy.drop_all()

        async def known() -> bool:
            return ledger.send_commits([lab.next(0)]) is None

        await eventually(known)
        assert (await ledger.commit([lab.next(0)]))[0].status is CommitStatus.OK
        assert len(await lab.ledger.read_log(0, 0)) == 1


# --- the socket -------------------------------------------------------------------------------------------------------


class Wire:
    """A commit connection whose other end is this test."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.settimeout(10.0)

    async def pipe(self) -> _Pipe:
        loop = asyncio.get_running_loop()
        _, pipe = await loop.create_connection(lambda: _Pipe(loop, "here"), sock=self.near)
        return pipe

    def waits(self) -> bool:
        """Is there something that the near end has not read?"""
        return bool(select.select([self.near], [], [], 0)[0])


def send_one(pipe: _Pipe, packed: bytes = b"ask") -> asyncio.Future[list[Any]]:
    return pipe.send(packed, 1, asyncio.get_running_loop().time() + 10.0, "late")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("case", ["answered", "in parts", "its end", "its end is known", "not all is written"])
def test_what_a_socket_brings_is_taken_in_under_both_event_loops(case: str, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def test() -> None:
        wire = Wire()
        pipe = await wire.pipe()
        began_s, wanted = time.monotonic(), send_one(pipe, b"ask" if case != "not all is written" else bytes(8 << 20))
        assert wire.far.recv(3) in (b"ask", bytes(3)), "it is on the wire at once"
        if case == "answered":
            wire.far.send(b"+OK\r\n")
            pipe.take_in(wanted, 10.0)
            assert wanted.result() == [b"OK"]
        elif case == "in parts":
            wire.far.send(b"+O")
            pipe.take_in(wanted, 0.01)
            assert not wanted.done()
            wire.far.send(b"K\r\n")
            pipe.take_in(wanted, 10.0)
            assert wanted.result() == [b"OK"]
        elif case == "its end":
            wire.far.close()
            pipe.take_in(wanted, 10.0)
            assert time.monotonic() - began_s < 5.0 and not wanted.done()
            with pytest.raises(LedgerUnavailable):
                await wanted
        elif case == "its end is known":
            wire.far.send(b"+OK\r\n")
            assert pipe._transport is not None
            pipe._transport.abort()
            if wire.near.fileno() >= 0:
                assert wire.waits()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("perdure.ledger.redis_commit.os.read", unread)  # the number may be another file's by now
                pipe.take_in(wanted, 10.0)
            with pytest.raises(LedgerUnavailable):
                await wanted
        else:
            pipe.take_in(wanted, 10.0)
            assert time.monotonic() - began_s < 5.0, "there can be no answer yet"
            pipe.drop("the test is over")
        pipe.drop("the test is over")
        await asyncio.sleep(0)
        wire.far.close()

    run(test())


def unread(file: int, count: int) -> bytes:
    raise AssertionError("it is read")
