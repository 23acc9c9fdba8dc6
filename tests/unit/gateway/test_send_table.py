"""Compiled sends against their twin, the fan-out's own loop: the same bytes at every client, the same sessions, the same counts.

And what only the compiled ones could get wrong: a socket's number that belongs to somebody else by now, a frame that went out in part.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.fanout import Fanout
from gateway.kernels import sends as kernels
from gateway.metrics import GatewayCounters
from gateway.send_table import SEND_ROW, SendTable, compile_sends
from gateway.session import Session
from gateway.world_rules import SessionLimits, WorldRules
from perdure.wire.client_messages import encode_command, encode_hello
from perdure.wire.link import RELEASE_ENTRY, RELEASE_STRUCT
from perdure.wire.opcodes import SnapshotFlag
from tests.unit.gateway.cluster_double import cluster
from tests.unit.gateway.session_bench import LinkDouble
from tests.unit.wire.naive_snapshot import TOY

PLAYERS = 4
KEYFRAME, MOVED, GONE = int(SnapshotFlag.KEYFRAME), int(SnapshotFlag.MOVED), int(SnapshotFlag.GONE)


class SocketDouble:
    """One client's socket with a transport as an event loop's: writes at once what goes, keeps the rest. A SessionDriver."""

    def __init__(self, side: Side, buffer_bytes: int) -> None:
        self.side = side
        self.own, self.peer = socket.socketpair()
        for one in (self.own, self.peer):
            one.setblocking(False)
        self.own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self.waiting = bytearray()
        self.got = bytearray()
        self.ends: list[int] = []
        self.session = Session(side.rules, self.write, side.counters)
        self.session.driver = self

    def write(self, data: bytes) -> None:
        sent = 0
        if not self.waiting:
            try:
                sent = self.own.send(data)
            except BlockingIOError:
                sent = 0
        self.waiting += data[sent:]
        if self.waiting:
            self.side.fanout.sends.disarm(self.session)

    def read(self, most: int) -> None:
        """The client reads some, and the event loop writes what waits."""
        try:
            self.got += self.peer.recv(most)
        except BlockingIOError:
            return
        if self.waiting:
            try:
                del self.waiting[: self.own.send(self.waiting)]
            except BlockingIOError:
                return

    def entered(self) -> None: ...

    def end(self, code: int, text: str) -> None:
        self.ends.append(int(code))

    def plain_descriptor(self) -> int:
        return -1 if self.waiting or self.ends else self.own.fileno()

    def close(self) -> None:
        self.own.close()
        self.peer.close()


class Side:
    """A fan-out with some players: the compiled one, or its twin."""

    def __init__(self, compiled: bool, buffer_bytes: int = 8192) -> None:
        self.counters = GatewayCounters()
        self.rules = WorldRules(TOY, SessionLimits(max_pending=8))
        self.performed: list[Any] = []
        self.fanout = Fanout(self.counters, self.perform, SendTable(PLAYERS))
        if compiled:
            self.fanout.sends.use(compile_sends())
        self.links = [LinkDouble("a"), LinkDouble("b")]
        self.sockets = [SocketDouble(self, buffer_bytes) for _ in range(PLAYERS)]
        for number, one in enumerate(self.sockets):
            one.session.message(1000.0, encode_hello(token="t"))
            one.session.instructions.clear()
            slot = self.fanout.reserve_slot()
            one.session.entered(name=f"p{number}", key=number + 1, session=number + 1, slot=slot, zone=0, resume="r", gateway="g")
            self.fanout.add(one.session)

    def perform(self, session: Session) -> None:
        for instruction in session.instructions:
            self.performed.append((session.slot, type(instruction).__name__, getattr(instruction, "rows", None)))
            if type(instruction).__name__ in ("Detach", "CloseSocket"):
                self.fanout.remove(session)
            if type(instruction).__name__ == "CloseSocket":
                assert session.driver is not None
                session.driver.end(instruction.code, "")  # type: ignore[union-attr]
        session.instructions.clear()

    def release(self, link: int, zone: int, epoch: int, tick: int, entries: list[tuple[int, int, int, int, bytes]]) -> None:
        self.fanout.release(self.links[link], memoryview(body_of(zone, epoch, tick, entries)))

    def close(self) -> None:
        for one in self.sockets:
            one.close()

    def told(self) -> dict[str, Any]:
        """What a twin must equal, once every client has read all."""
        for one in self.sockets:
            while True:
                before = len(one.got), len(one.waiting)
                one.read(1 << 20)
                if before == (len(one.got), len(one.waiting)):
                    break
            assert not one.waiting
        sessions = []
        for one in self.sockets:
            one.session.catch_up()
            session = one.session
            route = session.route
            fresh = session.fresh or self.fanout.sends.take_fresh(session)
            at = None if route is None else (route.link.name, route.zone, route.epoch, route.tick)
            sessions.append((session.state, session.hop, session.acked, session.muted, fresh, at, list(session.pending), one.ends))
        counts = {name: getattr(self.counters, name) for name in GatewayCounters.__slots__ if name != "frames_left_over"}
        return {
            "got": [bytes(one.got) for one in self.sockets],
            "sessions": sessions,
            "counts": counts,
            "performed": sorted(self.performed, key=str),
        }


def body_of(zone: int, epoch: int, tick: int, entries: list[tuple[int, int, int, int, bytes]]) -> bytes:
    rows, at = np.zeros(len(entries), RELEASE_ENTRY), 0
    for k, (slot, hop, ack, flags, frame) in enumerate(entries):
        rows[k] = (slot, hop, ack, flags, at, len(frame))
        at += len(frame)
    return RELEASE_STRUCT.pack(zone, 0, epoch, tick, 1, len(entries), at) + rows.tobytes() + b"".join(frame for *_, frame in entries)


entry = st.tuples(
    st.sampled_from([1, 1, 2, 2, 3, 3, 4, 4, 5, 4099]),
    st.sampled_from([0, 0, 0, 0, 0, 1]),
    st.integers(0, 6),
    st.sampled_from([0, 0, 0, 0, 0, 0, KEYFRAME, KEYFRAME, MOVED, GONE]),
    st.sampled_from([0, 1, 40, 400, 400, 9000]),
)
step = st.one_of(
    st.tuples(st.just("release"), st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 0, 1]), st.lists(entry, max_size=6)),
    st.tuples(st.just("release"), st.just(0), st.just(0), st.just([(slot, 0, 0, 0, 300) for slot in (1, 2, 3, 4)])),
    st.tuples(st.just("read"), st.integers(0, PLAYERS - 1), st.sampled_from([100, 5000, 1 << 20])),
    st.tuples(st.just("command"), st.integers(0, PLAYERS - 1)),
    st.tuples(st.just("full"), st.integers(0, PLAYERS - 1)),
    st.tuples(st.just("drained"), st.integers(0, PLAYERS - 1)),
    st.tuples(st.just("link lost"), st.sampled_from([0, 1])),
    st.tuples(st.just("shard died"), st.sampled_from([0, 1])),
    st.tuples(st.just("new owner"),),
)  # fmt: skip


def play(side: Side, steps: list[Any]) -> None:
    epochs, tick, seqs, now_s = [1, 1], 0, [0] * PLAYERS, 1000.0
    for number, (what, *about) in enumerate(steps):
        now_s += 1.0
        if what == "release":
            link, zone, entries = about
            tick += 1
            noise = random.Random(number)
            side.release(
                link, zone, epochs[zone], tick, [(s, hop, ack, flags, noise.randbytes(size)) for s, hop, ack, flags, size in entries]
            )
        elif what == "read":
            side.sockets[about[0]].read(about[1])
        elif what == "command":
            session = side.sockets[about[0]].session
            session.catch_up()
            seqs[about[0]] = max(session.last_seq, session.acked) + 1
            session.message(now_s, encode_command(seqs[about[0]], 1, [1, 0]))
            side.perform(session)
        elif what == "full":
            session = side.sockets[about[0]].session
            side.fanout.sends.disarm(session)
            session.buffer_full()
        elif what == "drained":
            side.sockets[about[0]].session.buffer_drained()
            side.perform(side.sockets[about[0]].session)
        elif what == "link lost":
            side.fanout.link_lost(side.links[about[0]])
        elif what == "shard died":
            side.fanout.shard_died(side.links[about[0]])
        else:
            epochs = [epoch + 1 for epoch in epochs]


@settings(deadline=None, max_examples=150)
@given(st.lists(step, min_size=4, max_size=24))
@example([("release", 0, 0, [(1, 1, 0, 0, 1)]), ("release", 0, 0, [(1, 0, 0, 0, 1)])])  # a late frame of a route that was left
def test_compiled_sends_do_as_the_loop_does(steps: list[Any]) -> None:
    sides = [Side(compiled=True), Side(compiled=False)]
    try:
        first = [(slot, 0, 0, KEYFRAME, 100) for slot in range(1, PLAYERS + 1)]
        for side in sides:
            play(side, [("release", 0, 0, first), *steps])
        compiled, naive = (side.told() for side in sides)
        assert compiled == naive
        assert sides[1].counters.frames_left_over == 0
    finally:
        for side in sides:
            side.close()


def plain(side: Side, tick: int, frame: bytes = b"x" * 100, flags: int = 0) -> None:
    side.release(0, 0, 1, tick, [(one.session.slot, 0, 0, flags, frame) for one in side.sockets])


def test_plain_frames_take_the_compiled_loop_and_no_python() -> None:
    side = Side(compiled=True)
    plain(side, 1, flags=KEYFRAME)
    assert side.counters.frames_left_over == PLAYERS
    for one in side.sockets:
        one.session.write = None  # type: ignore[assignment]  # whoever calls it fails
    for tick in range(2, 12):
        plain(side, tick)
    assert side.counters.frames_left_over == PLAYERS
    assert side.counters.frames_out == 11 * PLAYERS
    side.close()


def test_a_frame_that_went_out_in_part_is_completed_in_order() -> None:
    side = Side(compiled=True, buffer_bytes=4096)
    plain(side, 1, flags=KEYFRAME)
    slow = side.sockets[0]
    welcome = slow.peer.recv(1 << 20)
    assert welcome.endswith(b"x" * 100)
    sent = b""
    for tick in range(2, 40):
        frame = bytes([tick]) * 3001
        plain(side, tick, frame)
        sent += frame
        for other in side.sockets[1:]:
            other.read(1 << 20)
    assert slow.waiting and side.counters.frames_left_over > PLAYERS
    assert not side.fanout.sends.is_armed(slow.session)
    assert side.fanout.sends.is_armed(side.sockets[1].session)
    while slow.waiting:
        slow.read(1 << 20)
    slow.read(1 << 20)
    assert bytes(slow.got) == sent
    plain(side, 40)  # by the loop, which arms it again
    left = side.counters.frames_left_over
    plain(side, 41)
    assert side.counters.frames_left_over == left
    side.close()


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_socket_that_broke_is_left_to_its_transport(how: str) -> None:
    side = Side(compiled=True)
    plain(side, 1, flags=KEYFRAME)
    broken = side.sockets[2]
    broken.peer.close()
    written: list[bytes] = []
    broken.session.write = written.append
    plain(side, 2, b"first")
    assert written == [b"first"], "the transport is told, and finds the error itself"
    assert side.counters.frames_out == 2 * PLAYERS
    side.close()


def test_the_number_of_a_socket_that_was_closed_is_never_sent_to() -> None:
    side = Side(compiled=True)
    plain(side, 1, flags=KEYFRAME)
    gone = side.sockets[1]
    number = gone.own.fileno()
    gone.session.socket_lost()
    side.perform(gone.session)
    assert gone.session.acknowledged is None
    gone.own.close()
    stranger, peer = socket.socketpair()
    again = stranger if stranger.fileno() == number else socket.socket(fileno=os.dup2(stranger.fileno(), number))
    peer.setblocking(False)
    for tick in range(2, 6):
        plain(side, tick)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    assert side.counters.frames_unknown == 4
    for one in {again, stranger, peer}:
        one.close()
    side.close()


def test_slots_pass_over_rows_that_are_taken_and_serve_who_has_none() -> None:
    sends = SendTable(2)  # four rows
    fanout = Fanout(GatewayCounters(), lambda session: None, sends)
    rules = WorldRules(TOY, SessionLimits())
    made = []
    for key in range(1, 6):
        session = Session(rules, lambda data: None, GatewayCounters())
        session.slot, session.key = fanout.reserve_slot(), key
        fanout.add(session)
        made.append(session)
    assert len({session.slot for session in made}) == 5
    assert [session.acknowledged is not None for session in made] == [True] * 4 + [False]
    fanout.remove(made[1])
    assert fanout.reserve_slot() & 3 == made[1].slot & 3
    fanout.remove(made[4])  # takes no row from anybody
    assert not sends.is_free(made[0].slot)


async def test_without_a_compiler_a_gateway_works_all_the_same_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise RuntimeError("no writable folder for compiled kernels; set PERDURE_CACHE_DIR to one")

    monkeypatch.setattr("gateway.service.compile_sends", broken)
    async with cluster() as c, c.client("anna") as anna:
        for _ in range(3):
            await anna.command("steer", mx=1)
        assert not c.gateway.fanout.sends.compiled
        assert c.gateway.counters.frames_out > 0 and c.gateway.counters.frames_left_over == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "sockets_not_compiled" in line]
    assert len(printed) == 1 and "set PERDURE_CACHE_DIR" in printed[0]


def test_the_row_is_what_the_kernel_takes() -> None:
    assert SEND_ROW.itemsize == 32
    assert RELEASE_ENTRY.itemsize == kernels.ENTRY_BYTES
    assert list(RELEASE_ENTRY.names or ()) == ["slot", "hop", "ack", "flags", "offset", "length"]
