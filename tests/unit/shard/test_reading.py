"""When a shard reads its links: in one piece as a tick begins, under both event loops; and as it comes where ticks do not come in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import uvloop

import shard.reading
from perdure.wire.link import pack_keyframes
from shard.arrivals import Arrivals, Cut
from shard.link_server import Link, LinkHost, LinkServer
from shard.reading import BUSY_TICKS, REST_TICKS, Reading
from tests.unit.shard.shard_lab import SECRET, Gateway, commands_of, until

ROW_BYTES = 24
LOOPS: list[Callable[[Coroutine[Any, Any, None]], Any]] = [asyncio.run, uvloop.run]


class Host:
    """Keeps what arrives: the numbers of commands in one call, or of players who want a full snapshot."""

    def __init__(self) -> None:
        self.came: list[list[int]] = []
        self._arrivals = Arrivals(ROW_BYTES)
        self.lost: list[Link] = []

    def frames_arrived(self, data: bytes, at: int, *, commands: bool) -> Cut:
        cut = self._arrivals.cut(data, at, np.ones(1 << 16, np.bool_), commands=commands)
        self.came += [rows[:, 8].tolist() for _, rows in self._arrivals.rows_of([0])]
        return cut

    def keyframes_wanted(self, zone: int, players: list[int]) -> None:
        self.came.append(players)

    def gateway_linked(self, gateway: int) -> None: ...


class Stage:
    """A shard's end and a gateway's end of a link that has brought commands in two ticks, as they came: the next tick takes it."""

    def __init__(self, path: Path) -> None:
        self.host, self.reading = Host(), Reading()
        self.links = LinkServer(SECRET, "shard-1", ROW_BYTES)
        self.reading.add(self.links.read)
        self._path = path
        self.gateway: Gateway

    async def __aenter__(self) -> Stage:
        await self.links.listen(cast(LinkHost, self.host), f"unix:{self._path}/s")
        self.gateway = Gateway(*await asyncio.open_unix_connection(f"{self._path}/s"))
        await self.gateway.challenged()
        self.gateway.hello()
        await until(lambda: self.links.links)
        self.send(0)
        await until(lambda: self.host.came == [[0]])
        self.reading.take_in()
        self.host.came.clear()
        self.send(1)
        await until(lambda: self.host.came == [[1]])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.close()
        await self.links.close()

    def send(self, *numbers: int) -> None:
        """Send each command as a frame, and a write, of its own."""
        for number in numbers:
            row = np.zeros((1, ROW_BYTES), np.uint8)
            row[0, 8] = number
            self.gateway.send(commands_of(0, row))

    async def idle(self) -> None:
        """Let the event loop do all that there is to do: what was written is where the shard can read it, or has been read."""
        for _ in range(20):
            await asyncio.sleep(0)


def on_both_loops(test: Callable[[Stage, pytest.MonkeyPatch], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a stage, under asyncio's own event loop and under uvloop's."""

    @pytest.mark.parametrize("run", LOOPS, ids=["asyncio", "uvloop"])
    def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Coroutine[Any, Any, None]], Any]) -> None:
        async def staged() -> None:
            async with Stage(tmp_path) as stage:
                await test(stage, monkeypatch)

        run(staged())

    both.__doc__ = test.__doc__
    return both


@on_both_loops
async def test_what_comes_between_two_ticks_is_read_in_one_piece_when_a_tick_begins(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.reading.take_in()
    for first in (2, 5, 8):
        stage.send(first, first + 1, first + 2)
        await stage.idle()
        assert len(stage.host.came) == first // 3 + 1, "nobody reads"
        stage.reading.take_in()
        assert stage.host.came[-1] == [first, first + 1, first + 2]
    stage.gateway.send(pack_keyframes(0, [77]))
    stage.reading.take_in()
    assert stage.host.came[-1] == [77]


@on_both_loops
async def test_a_quiet_link_is_read_as_it_comes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(BUSY_TICKS + 1):  # the first one takes the link
        stage.reading.take_in()
    stage.send(2)
    await until(lambda: len(stage.host.came) == 2)


@on_both_loops
async def test_a_link_that_brings_something_now_and_then_is_not_taken(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(BUSY_TICKS + 1):
        stage.reading.take_in()
    for number in range(2, 6):
        stage.send(number)
        await until(lambda number=number: stage.host.came[-1] == [number])
        for _ in range(BUSY_TICKS):
            stage.reading.take_in()
    stage.send(6)
    await until(lambda: stage.host.came[-1] == [6])
    stage.reading.take_in()
    stage.send(7)
    await until(lambda: stage.host.came[-1] == [7])
    stage.reading.take_in()
    stage.send(8)
    await stage.idle()
    assert stage.host.came[-1] == [7], "but one that does so tick by tick is"


@on_both_loops
async def test_everything_is_read_as_it_comes_while_ticks_do_not_come_in_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.reading.take_in()
    stage.send(2)
    await stage.idle()
    assert len(stage.host.came) == 1
    for why in ("paused", "lanes"):
        stage.reading.always(why)
    await until(lambda: stage.host.came[-1] == [2])
    stage.reading.in_time("paused")
    stage.reading.take_in()
    stage.send(3)
    await until(lambda: stage.host.came[-1] == [3])
    stage.reading.in_time("lanes")
    stage.reading.take_in()
    stage.send(4)
    await stage.idle()
    assert stage.host.came[-1] == [3]


@on_both_loops
async def test_the_end_of_a_link_that_nobody_reads_is_seen_with_the_next_tick(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.reading.take_in()
    stage.send(2)
    await stage.gateway.close()
    await stage.idle()
    stage.reading.take_in()
    assert stage.host.came == [[1], [2]], "what it had sent counts"
    stage.reading.take_in()  # of the end it is told then
    await until(lambda: not stage.links.open)
    stage.reading.take_in()


@on_both_loops
async def test_more_than_one_piece_is_read_whole_and_garbage_ends_the_link(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.reading, "CHUNK_BYTES", 16)
    stage.reading.take_in()
    stage.send(2, 3, 4)
    await stage.idle()
    stage.reading.take_in()
    assert stage.host.came == [[1], [2], [3], [4]]
    stage.gateway.send(b"\xff" * 64)
    stage.send(5)
    await stage.idle()
    stage.reading.take_in()
    await until(lambda: not stage.links.open)
    stage.reading.take_in()
    assert stage.host.came[-1] == [4]


@on_both_loops
async def test_who_sends_more_than_a_socket_holds_does_not_wait_for_the_next_tick(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.reading.take_in()
    for _ in range(20):  # five times what a Unix socket holds
        stage.gateway.send(commands_of(0, np.zeros((2000, ROW_BYTES), np.uint8)))
    await stage.idle()
    stage.reading.take_in()
    await until(lambda: sum(map(len, stage.host.came)) == 1 + 20 * 2000)
    assert REST_TICKS > 3
    for number in range(2, 5):
        stage.reading.take_in()
        stage.send(number)
        await until(lambda number=number: stage.host.came[-1] == [number])  # as it comes


@on_both_loops
async def test_what_handling_raises_ends_the_link_and_not_the_tick(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.reading.take_in()

    def fails(data: bytes, at: int, *, commands: bool) -> Cut:
        raise RuntimeError("a bug")

    monkeypatch.setattr(stage.host, "frames_arrived", fails)
    stage.send(2)
    await stage.idle()
    stage.reading.take_in()
    await until(lambda: not stage.links.open)
