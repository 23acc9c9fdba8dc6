"""A shard's links and its tick loop, over real sockets and a ledger in memory that answers as it is told to."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shard.link_server
import shard.tick_loop
from perdure.ledger.ledger import Commit, CommitAnswer, CommitStatus, EnterRequest, LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.wire.identifiers import LOBBY, WorldGrid, player_key
from perdure.wire.link import (
    ZONE_PACE_STRUCT,
    FrameReader,
    LinkType,
    Release,
    link_proof,
    pack_commands,
    pack_frame,
    pack_keyframes,
    unpack_release,
)
from perdure.wire.opcodes import Notice, SnapshotFlag
from shard.border import SILENT_INTERVALS
from shard.link_server import LinkServer
from shard.metrics import ShardMetrics
from shard.pace import RUNGS
from shard.tick_loop import TickLoop
from shard.zone import Phase, Zone
from tests.unit.shard.zone_lab import command_row, warm_program

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "small_game.py")
SECRET = b"a secret of the test"
DEADLINE_S = 30.0


async def until(true: Callable[[], Any], what: str = "") -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(0.002)


class TestedLedger(MemoryLedger):
    """Answers a commit by what stands first in `script`; with nothing there, as usual.

    "away": no answer, nothing written. "lost": written, but the answer is lost. A CommitStatus: that answer, nothing written.
    """

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.script: list[str | CommitStatus] = []
        self.calls: list[list[Commit]] = []
        self.away = False

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

    def paces(self) -> list[tuple[int, int, int]]:
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
            self.ledger, self.links, self.metrics, tick_hz=tick_hz, threads=1, checkpoint_s=0.2, paused_after_s=0.05, idle_hz=idle_hz
        )
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


# --- links --------------------------------------------------------------------------------------------------------


async def test_a_gateway_proves_itself_and_is_accepted(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway = await shard_1.gateway()
        await until(lambda: gateway.frames)
        assert gateway.frames == [(LinkType.ACCEPT, b"")]


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
    "rows that are not there": pack_frame(LinkType.COMMANDS, struct.pack("<HH", 0, 9), bytes(30)),
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


# --- the tick loop ------------------------------------------------------------------------------------------------


async def playing(shard_1: Shard, *zones: int) -> tuple[Gateway, int]:
    """Run zones, with one player of one gateway in zone 0."""
    await shard_1.run(*(zones or (0,)))
    gateway = await shard_1.gateway()
    key = await shard_1.join("one")
    await until(gateway.releases)
    return gateway, key


async def test_commands_go_in_and_frames_come_out(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        assert gateway.releases()[0].entries["flags"].tolist() == [SnapshotFlag.KEYFRAME]
        row = command_row(shard_1.program, key, 1, "add", n=4)
        gateway.send(pack_commands(0, row.view(np.void)))
        await until(lambda: gateway.releases()[-1].entries["ack"].tolist() == [1])
        assert shard_1.ticks.zones[0].rows("man")["log"].tolist() == [4]
        gateway.send(pack_commands(5, row.view(np.void)))  # a zone that does not run here
        await until(lambda: shard_1.metrics.dropped_commands._value.get() == 1)
        ticks = [release.tick for release in gateway.releases()]
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))


async def test_a_zone_that_is_added_ticks_at_once_and_alone(tmp_path: Path) -> None:
    async with shard_in(tmp_path, tick_hz=2) as shard_1:
        await shard_1.run(0)
        await until(lambda: shard_1.ticks.zones[0].tick == 1)
        await until(lambda: shard_1.ticks._sleeper is not None)
        await shard_1.add(1)
        await until(lambda: len(shard_1.ledger.calls) == 3)
        assert [[c.zone for c in commits] for commits in shard_1.ledger.calls] == [[0], [1], [0, 1]]


async def test_full_snapshots_come_when_wanted_and_with_a_new_link(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        await until(lambda: gateway.releases()[-1].entries["flags"].tolist() == [0])
        seen = len(gateway.releases())
        gateway.send(pack_keyframes(0, [key]))
        await until(lambda: any(r.entries["flags"].tolist() == [SnapshotFlag.KEYFRAME] for r in gateway.releases()[seen:]))
        again = await shard_1.gateway()
        await until(again.releases)
        await until(lambda: any(r.entries["flags"].tolist() == [SnapshotFlag.KEYFRAME] for r in again.releases()))


async def test_too_many_commands_renew_the_link(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        rows = np.concatenate([command_row(shard_1.program, key, seq, "add", n=1) for seq in range(1, 400)])
        gateway.send(pack_commands(0, rows.view(np.void)))
        await until(lambda: gateway.ended)
        again = await shard_1.gateway()
        again.send(pack_commands(0, rows[:3].view(np.void)))
        await until(lambda: again.releases() and again.releases()[-1].entries["ack"].tolist() == [3])


async def test_nothing_leaves_before_its_commit_is_answered(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1, 0, 1)
        shard_1.ledger.away = True
        await until(lambda: gateway.notices() == [(0, Notice.PAUSED), (1, Notice.PAUSED)])
        released = len(gateway.releases())
        tick = shard_1.ticks.zones[0].tick
        calls = shard_1.ledger.calls
        started = len(calls)
        await until(lambda: len(calls) > started + 4)
        assert calls[-1] == calls[-2] == calls[started], "identical bytes, again and again"
        assert shard_1.ticks.zones[0].tick == tick, "one tick in flight, never more"
        assert len(gateway.releases()) == released
        assert max(release.tick for release in gateway.releases()) == tick - 1
        shard_1.ledger.away = False
        await until(lambda: len(gateway.notices()) == 4)
        assert gateway.notices()[2:] == [(0, Notice.RESUMED), (1, Notice.RESUMED)]
        await until(lambda: len(gateway.releases()) > released + 2)
        ticks = [release.tick for release in gateway.releases()]
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks))), "no tick is left out, none comes twice"


async def test_a_lost_answer_is_asked_for_again(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        shard_1.ledger.script = ["lost", "away", "lost"]
        tick = shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 5)
        log = await shard_1.ledger.read_log(0, 1)
        assert [record.tick for record in log] == list(range(log[0].tick, log[0].tick + len(log)))
        assert not shard_1.ledger.script


@pytest.mark.parametrize("status", [CommitStatus.FENCED, CommitStatus.BROKEN])
async def test_a_zone_of_another_owner_or_a_broken_one_stops_at_once(tmp_path: Path, status: CommitStatus) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1)
        zone = shard_1.ticks.zones[0]
        shard_1.ledger.script = [status]
        await until(lambda: not shard_1.ticks.zones)
        assert zone.phase is Phase.DROPPED
        stopped = zone.tick
        ticked = shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked > ticked + 3)
        assert zone.tick == stopped
        assert max(release.tick for release in gateway.releases()) < stopped


async def test_a_ledger_that_went_back_is_given_the_zone_anew(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        gateway.send(pack_commands(0, command_row(shard_1.program, key, 1, "add", n=4).view(np.void)))
        await until(lambda: gateway.releases()[-1].entries["ack"].tolist() == [1])
        kept = shard_1.ledger.store.snapshot()
        tick = shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 3)
        shard_1.ledger.store.restore(kept)
        await until(lambda: gateway.releases()[-1].generation == 2)
        first = next(release for release in gateway.releases() if release.generation == 2)
        before = max(release.tick for release in gateway.releases() if release.generation == 1)
        assert first.tick > before, "what was shown is never taken back"
        assert first.entries["flags"].tolist() == [SnapshotFlag.KEYFRAME]
        assert first.epoch > 1 << 20
        assert shard_1.ticks.zones[0].rows("man")["log"].tolist() == [4]


async def test_checkpoints_are_made_while_it_runs(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        await until(lambda: shard_1.metrics.checkpoints._value.get() >= 2)
        head = await shard_1.ledger.zone_head(0)
        assert len(head.checkpoints) == 2


async def test_a_player_on_whose_command_the_rules_fail_is_put_out_and_nobody_else_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        others = [await shard_1.join(f"player-{n}") for n in range(2)]
        zone = shard_1.ticks.zones[0]
        await until(lambda: zone.player_count() == 3)
        fail_on(monkeypatch, lambda sent: 66 in sent)
        monkeypatch.setattr(shard_1.ledger, "leave", refused_once(shard_1.ledger.leave))
        rows = [command_row(shard_1.program, other, 1, "add", n=n + 1, session=1) for n, other in enumerate(others)]
        poison = command_row(shard_1.program, key, 1, "add", n=66, session=1)
        gateway.send(pack_commands(0, np.concatenate([rows[0], poison, rows[1]]).view(np.void)))
        await until(lambda: shard_1.ticks.zones[0] is not zone)
        gateway.send(pack_commands(0, poison.view(np.void)))  # as gateways do, until they hear that it is gone
        await until(lambda: shard_1.ledger.store.data.players[key].place == LOBBY)
        mended = shard_1.ticks.zones[0]
        await until(lambda: mended.player_count() == 2)
        await until(lambda: len(mended.rows("man")) == 2)
        assert {row["log"] for row in mended.rows("man")} == {1, 2}, "each of the others' commands was applied, once"
        assert shard_1.ticks.zones[0] is mended and not gateway.ended
        assert all(shard_1.ledger.store.data.players[other].place == 0 for other in others)


async def test_two_whose_commands_fail_only_together_are_both_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        other = await shard_1.join("other")
        zone = shard_1.ticks.zones[0]
        await until(lambda: zone.player_count() == 2)
        fail_on(monkeypatch, lambda sent: {7, 8} <= sent)
        pair = [command_row(shard_1.program, who, 1, "add", n=n, session=1) for who, n in ((key, 7), (other, 8))]
        gateway.send(pack_commands(0, np.concatenate(pair).view(np.void)))
        await until(lambda: shard_1.ticks.zones[0] is not zone)
        await until(lambda: {row["log"] for row in shard_1.ticks.zones[0].rows("man")} == {7, 8})
        assert {shard_1.ledger.store.data.players[who].place for who in (key, other)} == {0}
        assert not gateway.ended


def fail_on(monkeypatch: pytest.MonkeyPatch, bad: Callable[[set[int]], bool]) -> None:
    """Let the rules fail on what is added in one tick."""
    run = Zone._run

    def failing(zone: Zone) -> None:
        rows = zone.arrays.commands[: len(zone.commanding()), 16:]
        run(zone)
        if bad(set(rows.ravel().tolist())):
            raise ValueError("the rules fail")

    monkeypatch.setattr(Zone, "_run", failing)


def refused_once(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ledger's method that finds no answer at first."""
    tries: list[int] = []

    async def call(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise LedgerUnavailable("away")
        return await real(*arguments, **named)

    return call


async def test_a_zone_whose_rules_fail_stops_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1, 0, 1)

        run = Zone._run

        def fail(zone: Zone) -> None:
            if zone.zone == 1 and zone.phase is not Phase.RECOVERING:
                raise ZeroDivisionError("the rules divide by zero")
            run(zone)

        monkeypatch.setattr(Zone, "_run", fail)
        await until(lambda: list(shard_1.ticks.zones) == [0])
        tick = shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 3)


# --- zones with nobody in or near them ------------------------------------------------------------------------------


async def asleep(shard_1: Shard, *zones: int) -> None:
    await until(lambda: all(zone in shard_1.ticks.sleepers for zone in zones), "the zones sleep")


async def test_a_zone_with_nobody_in_it_stands_still_and_its_first_player_is_served_as_soon_as_ever(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        await shard_1.run(0, 1)
        gateway = await shard_1.gateway()
        await asleep(shard_1, 0, 1)
        assert [shard_1.ticks.zones[zone].tick for zone in (0, 1)] == [1, 1]
        ticked = shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked > ticked + 10)
        assert [shard_1.ticks.zones[zone].tick for zone in (0, 1)] == [1, 1]
        ticked = shard_1.ticks.ticked
        await shard_1.join("one")
        await until(gateway.releases)
        assert shard_1.ticks.ticked - ticked <= 4, "asked for, ticked to take the entry, ticked to apply it"
        await until(lambda: shard_1.ticks.zones[0].tick > 20)


async def test_an_idle_zone_ticks_at_the_rate_of_the_game(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=10) as shard_1:
        await shard_1.run(0)
        await asleep(shard_1, 0)
        tick, ticked = shard_1.ticks.zones[0].tick, shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked >= ticked + 100)
        assert 10 <= shard_1.ticks.zones[0].tick - tick <= 40


async def test_a_player_who_comes_near_wakes_the_neighbour_and_who_is_far_lets_it_sleep(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        _, key = await playing(shard_1, 0, 1)
        zone = shard_1.ticks.zones[0]
        (place,) = np.flatnonzero(zone.players["key"] == key)
        man = zone.players["row"][place]
        interest = zone.program.game.interest
        zone.rows("man")["x"][man] = 50 - interest - 5  # the border is at 50
        await asleep(shard_1, 1)
        zone.rows("man")["x"][man] = 50 - interest + 1
        await until(lambda: 1 not in shard_1.ticks.sleepers)
        tick = shard_1.ticks.zones[1].tick
        await until(lambda: shard_1.ticks.zones[1].tick > tick + 5)
        zone.rows("man")["x"][man] = 50 - interest - 5
        await asleep(shard_1, 1)
        shard_1.ticks.seen_from_elsewhere([1])
        await until(lambda: 1 not in shard_1.ticks.sleepers)
        assert 0 not in shard_1.ticks.sleepers


@pytest.mark.parametrize("idle_hz", [0, 2])
async def test_a_neighbour_that_sleeps_is_not_taken_for_silent(tmp_path: Path, idle_hz: float) -> None:
    async with shard_in(tmp_path, idle_hz=idle_hz) as shard_1:
        _, key = await playing(shard_1, 0, 1)
        zone, told = shard_1.ticks.zones[0], set[tuple[int, ...]]()
        (place,) = np.flatnonzero(zone.players["key"] == key)
        zone.rows("man")["x"][zone.players["row"][place]] = 50 - zone.program.game.interest - 5  # the border is at 50
        await asleep(shard_1, 1)
        tick = zone.tick

        def later() -> bool:
            told.add(zone.border.stale())
            return zone.tick > tick + 5 * SILENT_INTERVALS

        await until(later)
        assert told == {()}
        shard_1.ticks.seen_from_elsewhere([1])
        await until(lambda: zone.border._held[1].feed.interval_s < 0.1)


async def test_sleeping_zones_are_put_back_into_a_ledger_that_forgot_their_last_ticks(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        kept = None
        await shard_1.add(0, 1)
        kept = shard_1.ledger.store.snapshot()
        shard_1.task = asyncio.get_running_loop().create_task(shard_1.ticks.run())
        await asleep(shard_1, 0, 1)
        await until(lambda: shard_1.ticks._server)
        shard_1.ledger.store.restore(kept)
        await until(lambda: all(zone.generation == 2 for zone in shard_1.ticks.zones.values()))
        assert (await shard_1.ledger.zone_head(0)).tick == shard_1.ticks.zones[0].tick


async def test_sleeping_zones_look_where_the_ledger_stands_once_it_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        await shard_1.run(0)
        await asleep(shard_1, 0)
        tick = shard_1.ticks.zones[0].tick
        monkeypatch.setattr(shard_1.ledger, "waiting", refused_once(shard_1.ledger.waiting))
        await until(lambda: shard_1.ticks.zones[0].tick > tick)
        await asleep(shard_1, 0)


# --- zones that take too long ---------------------------------------------------------------------------------------


async def test_a_zone_that_takes_too_long_slows_its_own_clock_alone_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = shard.tick_loop._step
    heavy_s = [0.06]  # of 20 ms

    def slow(zone: Zone) -> Any:
        commit, fault, cost_s = step(zone)
        if zone.zone == 1:
            time.sleep(heavy_s[0])
            cost_s += heavy_s[0]
        return commit, fault, cost_s

    monkeypatch.setattr(shard.tick_loop, "_step", slow)
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1, 0, 1)
        pace = shard_1.ticks.paces[1]
        await until(lambda: pace.rung.clock_percent < 40)
        at, ticked = [shard_1.ticks.zones[zone].tick for zone in (0, 1)], shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked > ticked + 40)
        assert shard_1.ticks.zones[0].border.stale() == (), "who is slow is not silent"
        normal, slowed = (shard_1.ticks.zones[zone].tick - before for zone, before in zip((0, 1), at, strict=True))
        assert normal >= 36, "the other zone ticks with every interval"
        assert 5 <= slowed <= 24
        told = [(percent, every) for zone, percent, every in gateway.paces() if zone == 1]
        levels = [[(rung.clock_percent, rung.snapshot_every) for rung in RUNGS].index(pair) for pair in told]
        assert levels == sorted(levels) and levels[-1] >= 7, "one rung after the other, each told"
        assert not [zone for zone, *_ in gateway.paces() if zone == 0]
        heavy_s[0] = 0.0
        await until(lambda: pace.level == 0 and not shard_1.ticks._lanes)
        assert gateway.paces()[-1] == (1, 100, 1)
