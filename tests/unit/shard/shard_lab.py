"""A shard's tick loop and links in one loop with a ledger in memory, and a gateway's end of a link: for tests."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perdure.ledger.ledger import LedgerUnavailable, Sent
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, EnterRequest
from perdure.wire.identifiers import WorldGrid, player_key
from perdure.wire.link import (
    ZONE_PACE_STRUCT,
    FrameReader,
    LinkType,
    Release,
    link_proof,
    pack_commands,
    pack_frame,
    unpack_release,
)
from shard.link_server import LinkServer
from shard.metrics import ShardMetrics
from shard.tick_loop import TickLoop
from shard.zone import Zone
from tests.unit.shard.zone_lab import warm_program

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "small_game.py")
SECRET = b"a secret of the test"
DEADLINE_S = 30.0


async def until(true: Callable[[], Any], what: str = "") -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.002)


class TestedLedger(MemoryLedger):
    """Answers a commit by what stands first in `script`; with nothing there, as usual.

    "away": no answer, nothing written. "lost": written, but the answer is lost. "late": answered only where it is awaited. A CommitStatus:
    that answer, nothing written.
    """

    __test__ = False
    at_once = False
    """Can commits be sent, and answered, without the event loop?"""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[str | CommitStatus] = []
        self.calls: list[list[Commit]] = []
        self.away = False

    def send_commits(self, commits: Sequence[Commit]) -> Sent | None:
        late = self.script[:1] == ["late"]
        return SentAtOnce(self.commit(commits), late) if self.at_once else None

    async def commit(self, commits: Sequence[Commit]) -> list[CommitAnswer]:
        self.calls.append(list(commits))
        told = "away" if self.away else self.script.pop(0) if self.script else ""
        if told == "away":
            raise LedgerUnavailable("nobody answers")
        if isinstance(told, CommitStatus):
            return [CommitAnswer(told, detail="as told") for _ in commits]
        answers = await super().commit(commits)
        if told == "lost":
            raise LedgerUnavailable("the answer was lost")
        return answers


class SentAtOnce(Sent):
    """What a call that waits for nothing gives."""

    def __init__(self, call: Coroutine[Any, Any, list[CommitAnswer]], late: bool) -> None:
        self.came: list[CommitAnswer] = []
        self.error: LedgerUnavailable | None = None
        self.late = late
        try:
            call.send(None)
        except StopIteration as done:
            self.came = done.value
        except LedgerUnavailable as error:
            self.error = error

    def answered_within(self, seconds: float) -> list[CommitAnswer] | None:
        return None if self.late or self.error else self.came

    async def answers(self) -> list[CommitAnswer]:
        await asyncio.sleep(0.001)
        if self.error:
            raise self.error
        return self.came


class Gateway:
    """The other end of a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.frames: list[tuple[LinkType, bytes]] = []
        self.nonce, self.ended = b"", False
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        cut = FrameReader()
        try:
            while data := await self.reader.read(1 << 16):
                self.frames.extend((kind, bytes(body)) for kind, body in cut.feed(data))
        except ConnectionError:
            self.frames.append((LinkType.BORDER, b"reset"))
        self.ended = True

    async def challenged(self) -> None:
        await until(lambda: self.frames)
        kind, body = self.frames.pop(0)
        assert kind is LinkType.CHALLENGE
        assert body[16:] == b"shard-1"
        self.nonce = body[:16]

    def hello(self, number: int = 7, secret: bytes = SECRET) -> None:
        self.send(pack_frame(LinkType.HELLO, struct.pack("<I", number), link_proof(secret, self.nonce, number), b"gateway-7"))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def releases(self) -> list[Release]:
        return [unpack_release(memoryview(body)) for kind, body in self.frames if kind is LinkType.RELEASE]

    def notices(self) -> list[tuple[int, int]]:
        return [struct.unpack("<HB", body) for kind, body in self.frames if kind is LinkType.ZONE_NOTICE]

    def paces(self) -> list[tuple[int, int, int, int]]:
        return [ZONE_PACE_STRUCT.unpack(body) for kind, body in self.frames if kind is LinkType.ZONE_PACE]

    async def close(self) -> None:
        self.writer.close()
        self._task.cancel()


class Shard:
    """A tick loop and its link server, with zone 0 (and more) of the small game."""

    def __init__(self, path: Path, tick_hz: int = 50, idle_hz: float = 50) -> None:
        self.ledger = TestedLedger()
        self.metrics = ShardMetrics()
        self.program = warm_program(SMALL)
        self.grid = WorldGrid(100, 100, 2, 1)
        row_bytes = 16 + self.program.schema.command_payload_bytes
        self.links = LinkServer(SECRET, "shard-1", row_bytes)
        self.ticks = TickLoop(
            self.ledger, self.links, self.metrics, tick_hz=tick_hz, threads=1, checkpoint_s=0.2, paused_after_s=0.05, lease_s=1.0,
            idle_hz=idle_hz,
        )  # fmt: skip
        self.address = f"unix:{path}/shard.sock"
        self.gateways: list[Gateway] = []
        self.task: asyncio.Task[None] | None = None

    async def add(self, *zones: int) -> None:
        term = (await self.ledger.elect("test")).term
        for number in zones:
            epoch = await self.ledger.assign(term, number, "shard-1", 0)
            zone = Zone(self.program, number, self.grid, 3)
            zone.recovered(1, epoch)
            self.ticks.add(zone)

    async def run(self, *zones: int) -> None:
        await self.add(*zones)
        self.task = asyncio.get_running_loop().create_task(self.ticks.run())

    async def gateway(self, number: int = 7) -> Gateway:
        gateway = await self.dial()
        await gateway.challenged()
        gateway.hello(number)
        await until(lambda: number in self.links.links)
        return gateway

    async def dial(self) -> Gateway:
        gateway = Gateway(*await asyncio.open_unix_connection(self.address[5:]))
        self.gateways.append(gateway)
        return gateway

    async def join(self, name: str, gateway: int = 7, zone: int = 0) -> int:
        key = player_key(name)
        await self.ledger.enter(EnterRequest(key, name, gateway, 31, zone, 0, ""))
        return key


@asynccontextmanager
async def shard_in(path: Path, tick_hz: int = 50, idle_hz: float = 50) -> AsyncIterator[Shard]:
    under_test = Shard(path, tick_hz, idle_hz)
    assert await under_test.links.listen(under_test.ticks, under_test.address) == under_test.address
    try:
        yield under_test
    finally:
        for gateway in under_test.gateways:
            await gateway.close()
        under_test.ticks.stopping = True
        under_test.ledger.away = False
        if under_test.task is not None:
            await asyncio.wait_for(under_test.task, DEADLINE_S)
        await under_test.ticks.close()
        await under_test.links.close()


def commands_of(zone: int, rows: npt.NDArray[np.uint8]) -> bytes:
    """Return the frame in which a gateway sends these rows for one zone."""
    return pack_commands([zone] * len(rows), [row.tobytes() for row in rows])


async def playing(shard_1: Shard, *zones: int) -> tuple[Gateway, int]:
    """Run zones, with one player of one gateway in zone 0."""
    await shard_1.run(*(zones or (0,)))
    gateway = await shard_1.gateway()
    key = await shard_1.join("one")
    await until(gateway.releases)
    return gateway, key
