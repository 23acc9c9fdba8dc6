"""Compiled reading against its twin, the SDK's decoder: the same entities, the same refusals, however the bytes are cut."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from loadtest.reader import FIRST_ENTITIES, FIRST_PLAYERS, CompiledView, Reader
from perdure.client.frames import BINARY, Frames
from perdure.client.protocol import ProtocolError
from perdure.client.world_view import SnapshotError, WorldView
from perdure.game.jit import JIT_DISABLED
from perdure.wire.client_messages import PING_FRAME, notice_frame
from perdure.wire.opcodes import Notice
from tests.unit.wire.naive_snapshot import TOY, Parts

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="what is compiled is compared")
KEYFRAME = 1
ME = 1 << 40 | 9


class Nobody:
    """A player that notes what it is told."""

    def __init__(self, reader: Reader, descriptor: int = -1) -> None:
        self.reader, self.descriptor = reader, descriptor
        self.number = -1
        self.reasons: list[tuple[int, int]] = []
        self.messages: list[tuple[int, bytes]] = []
        self.faults: list[str] = []
        self.frames = Frames()
        self.frames.upgraded = True

    def told(self, reasons: int, tick_before: int, now_s: float, gap_s: float, worst_s: float) -> None:
        assert abs(now_s - time.monotonic()) < 1.0 and worst_s >= 0.0 <= gap_s
        self.reasons.append((reasons, tick_before))

    def left(self, data: bytes) -> None:
        for opcode, message in self.frames.feed(data):
            self.messages.append((opcode, message))
            if opcode == BINARY and message[1] == 2:
                self.reader.apply(self.number, message)
        if self.frames.empty:
            self.reader.arm(self.number, self.descriptor)

    def unfit(self, why: str) -> None:
        self.faults.append(why)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    compiled = [kernel.signatures for kernel in kernels_of(made)]
    made.play(TOY)
    yield made
    made.close()
    assert [kernel.signatures for kernel in kernels_of(made)] == compiled, "nothing is compiled while players wait for it"


def kernels_of(reader: Reader) -> list[Any]:
    kernels = reader.kernels
    return [kernels.receive, kernels.apply, kernels.regrow, kernels.has_avatar, kernels.find]


def player(reader: Reader, *, full: bool = True, descriptor: int = -1) -> Nobody:
    made = Nobody(reader, descriptor)
    made.number = reader.add(made, full=full)
    return made


class World:
    """A random world that one player looks at: its snapshots, one after the other."""

    def __init__(self, seed: int, crowd: int) -> None:
        self.chance, self.crowd = random.Random(seed), crowd
        self.seen: dict[int, tuple[int, int]] = {}
        self.tick = 0

    def ship(self) -> dict[str, float]:
        chance = self.chance
        whole = {"hp": 100, "score": 1_000_000, "serial": (1 << 32) - 1, "a": 9, "b": 9, "c": 9}
        place: dict[str, float] = {"x": chance.uniform(0, 4096), "y": chance.uniform(0, 4096), "turn": chance.randint(-1, 1)}
        return place | {name: chance.randint(0, most) for name, most in whole.items()}

    def values(self, type_: int) -> dict[str, float]:
        return self.ship() if type_ == 0 else {"x": self.chance.uniform(0, 4096), "worth": self.chance.randint(1, 10)}

    def enter(self, parts: Parts, type_: int, id_: int) -> None:
        handle = self.chance.choice([h for h in (self.chance.randrange(1 << 16) for _ in range(9)) if h not in self.seen])
        parts.enter(handle, type_, id_, self.values(type_), key=7)
        self.seen[handle] = (type_, id_)

    def next(self) -> bytes:
        chance, parts = self.chance, Parts()
        self.tick += 1
        keyframe = self.tick == 1 or chance.random() < 0.05
        if keyframe:
            self.seen.clear()
            self.enter(parts, 0, ME)
        for handle in chance.sample(sorted(self.seen), min(len(self.seen), chance.randrange(4))):
            if self.seen[handle][1] != ME:
                parts.leave(handle)
                del self.seen[handle]
        for _ in range(min(chance.randrange(12), self.crowd - len(self.seen))):
            self.enter(parts, chance.randrange(2), chance.randrange(1, 1 << 39))
        for handle in chance.sample(sorted(self.seen), chance.randrange(len(self.seen))):
            type_ = self.seen[handle][0]
            values = self.values(type_)
            parts.update(handle, type_, {name: values[name] for name in chance.sample(sorted(values), chance.randint(1, len(values)))})
        if chance.random() < 0.3:
            parts.event(0, {"who": 5, "damage": 9})
        if keyframe or chance.random() < 0.3:
            parts.own(0, {"ammo": chance.randint(0, 50), "fuel": chance.randint(0, 100_000)})
        return parts.message(zone=chance.randrange(3), epoch=2, tick=self.tick, flags=KEYFRAME if keyframe else 0, ack=self.tick * 3, me=ME)


def same(reader: Reader, number: int, twin: WorldView) -> bool:
    shown = {entity.id: (entity.type, entity.handle, entity.fields) for entity in reader.entities(number, twin)}
    return shown == {entity.id: (entity.type, entity.handle, entity.fields) for entity in twin.entities.values()}


@pytest.mark.parametrize(("seed", "crowd"), [(1, 12), (2, 60), (3, FIRST_ENTITIES * 2)])
def test_it_shows_what_the_sdk_shows(reader: Reader, seed: int, crowd: int) -> None:
    world, twin, number = World(seed, crowd), WorldView(TOY), player(reader).number
    view = CompiledView(TOY, reader, number)
    for _ in range(300):
        message = world.next()
        expected = twin.apply(msgpack.unpackb(message))
        snapshot = reader.apply(number, message)
        assert (snapshot.zone, snapshot.epoch, snapshot.tick, snapshot.flags, snapshot.ack, snapshot.me) == (
            expected.zone, expected.epoch, expected.tick, expected.flags, expected.ack, expected.me
        )  # fmt: skip
        assert same(reader, number, twin)
        assert view.me is not None and twin.me is not None and view.me.fields == twin.me.fields


def test_players_keep_their_entities_when_more_come(reader: Reader) -> None:
    first, twin = player(reader).number, WorldView(TOY)
    message = World(4, 20).next()
    twin.apply(msgpack.unpackb(message))
    reader.apply(first, message)
    others = [player(reader).number for _ in range(2 * FIRST_PLAYERS)]
    assert len({first, *others}) == 2 * FIRST_PLAYERS + 1
    assert same(reader, first, twin) and not reader.entities(others[-1], twin)
    reader.remove(first)
    again = player(reader)
    assert again.number == first and not reader.entities(first, twin), "who comes next sees nothing of who was there"


@pytest.mark.parametrize(
    "parts",
    [
        Parts().update(3, 0, {"x": 1.0}), Parts().leave(3), Parts(enters=b"\x01"), Parts(enters=b"\x01\x00\x09" + bytes(50)),
        Parts(events=b"\x07"), Parts(leaves=b"\x01"), Parts(owner=b"\x01\x02"), Parts(updates=b"\x01\x00\x00\x80"), Parts(updates=b"\x01"),
    ],
)  # fmt: skip
def test_a_snapshot_that_does_not_fit_is_an_error(reader: Reader, parts: Parts) -> None:
    number = player(reader).number
    with pytest.raises(SnapshotError):
        reader.apply(number, parts.message(tick=2))


def test_no_part_of_a_snapshot_is_taken_for_one(reader: Reader) -> None:
    message = Parts().enter(1, 0, 5, World(1, 1).ship()).event(0, {"who": 1, "damage": 1}).message(flags=KEYFRAME, me=5)
    number = player(reader).number
    for end in range(2, len(message)):
        with pytest.raises(SnapshotError):
            reader.apply(number, message[:end])
    with pytest.raises(SnapshotError):
        reader.apply(number, message + b"\x00")
    assert reader.apply(number, message).me == 5


def test_who_reads_headers_alone_passes_over_what_does_not_fit(reader: Reader) -> None:
    number = player(reader, full=False).number
    assert reader.apply(number, Parts().leave(3).message(tick=8, ack=4)).ack == 4


def test_a_process_plays_in_one_world(reader: Reader) -> None:
    other = replace(TOY, tick_hz=30, _hash=[])
    with pytest.raises(ProtocolError, match="another schema"):
        reader.play(other)


# --- sockets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def frame(message: bytes) -> bytes:
    size = len(message)
    head = bytes((0x82, size)) if size < 126 else bytes((0x82, 126)) + size.to_bytes(2, "big")
    return head + message


def test_what_comes_is_taken_however_it_is_cut(reader: Reader, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    one, twin, world, chance = player(reader, descriptor=ours.fileno()), WorldView(TOY), World(5, 40), random.Random(5)
    reader.arm(one.number, ours.fileno())
    stream = b""
    for k in range(200):
        message = world.next()
        twin.apply(msgpack.unpackb(message))
        stream += frame(message)
        if k % 17 == 0:
            stream += notice_frame(Notice.PAUSED, 1, "paused") + PING_FRAME
    while stream:
        cut = chance.choice([1, 3, 40, 400, 4000])
        theirs.send(stream[:cut])
        stream = stream[cut:]
        if reader.ints[one.number * reader.kernels.INTS + reader.kernels.ARMED]:
            reader.turn()
        else:
            one.left(ours.recv(1 << 16))
    assert one.faults == [] and same(reader, one.number, twin)
    assert reader.ints[one.number * reader.kernels.INTS + reader.kernels.SNAPSHOTS] == 200
    assert [message for _, message in one.messages if message[:2] != b"\x9c\x02"].count(b"") == 12, "every ping"
    reader.release(one.number, ours.fileno())


def test_python_is_told_of_what_the_report_wants(reader: Reader, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    one, kernels = player(reader, descriptor=ours.fileno()), reader.kernels
    ints, floats = one.number * kernels.INTS, one.number * kernels.FLOATS
    reader.arm(one.number, ours.fileno())
    reader.floats[floats + kernels.SECOND] = reader.floats[floats + kernels.HEARD] = time.monotonic()

    def send(**head: int) -> list[tuple[int, int]]:
        one.reasons.clear()
        theirs.send(frame(Parts().message(**head)))
        reader.turn()
        return one.reasons

    assert send(tick=1) == []
    assert send(tick=2, ack=1) == []
    assert send(tick=2) == [(kernels.BACKWARD, 2)]
    assert send(zone=1, tick=1) == [(kernels.CROSSED, 2)]
    reader.ints[ints + kernels.WATCHED] = 1
    assert send(zone=1, tick=2) == [(kernels.WATCH, 1)]
    reader.ints[ints + kernels.WATCHED], reader.ints[ints + kernels.SAMPLE] = 0, 9
    assert send(zone=1, tick=3, ack=8) == []
    assert send(zone=1, tick=4, ack=9) == [(kernels.SAMPLED, 3)]
    assert send(zone=1, tick=5, ack=10) == []
    reader.floats[floats + kernels.SECOND] -= 2.0
    assert send(zone=1, tick=6) == [(kernels.OVER, 5)]
    assert send(zone=1, tick=7) == []
    assert reader.ints[ints + kernels.BYTES] == 10 * len(Parts().message())
    reader.release(one.number, ours.fileno())


def test_a_socket_that_ends_or_brings_nonsense_is_told(reader: Reader, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    one = player(reader, descriptor=ours.fileno())
    reader.arm(one.number, ours.fileno())
    theirs.send(frame(Parts().leave(3).message(tick=8)))
    reader.turn()
    assert one.faults == ["a handle is named that is not in use"]
    heard: list[bytes] = []
    one.left = heard.append  # type: ignore[method-assign]
    reader.arm(one.number, ours.fileno())
    theirs.close()
    reader.turn()
    assert heard == [b""]
    reader.turn()
    assert heard == [b""], "who is told of the end is told once"
    reader.release(one.number, ours.fileno())
