"""What a watched player makes of a server's bytes: when snapshots came, borders, stale ticks, acknowledged and refused commands."""

from __future__ import annotations

import pickle
from array import array
from bisect import bisect_left
from types import SimpleNamespace
from typing import Any

import msgspec

from benchmarks._playing import longest_gap
from benchmarks._swarm import Gaps
from benchmarks._watched_swarm import Crossing, Watched
from perdure.client.bots import BotReport, SessionPlayed
from perdure.client.frames import Frames
from perdure.wire.opcodes import ServerOp
from tests.unit.benchmarks.test_light_socket import WELCOME
from tests.unit.client.test_frames import SWITCHING, served


def snapshot(zone: int, tick: int, ack: int) -> bytes:
    """A snapshot as the server writes it."""
    head = b"\x9c\x02" + b"".join(msgspec.msgpack.encode(number) for number in (zone, 1, tick, 0, ack, 9))
    return served(head + b"\xc5\x00\xc8" + bytes(200) + b"\xc4\x00" * 4)


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        """Nothing is behind it."""


def dials(one: Watched) -> None:
    """The player's next socket is open."""
    one.transport = _Transport()  # type: ignore[assignment]
    one.frames, one.sockets = Frames(), one.sockets + 1
    one.data_received(SWITCHING)


def come_in(one: Watched, session: int) -> None:
    """The player dials again, and the server says welcome."""
    dials(one)
    one.data_received(served(msgspec.msgpack.encode([int(ServerOp.WELCOME), {**WELCOME, "session": session}])))


def player() -> tuple[Watched, Any, _Transport]:
    """A player who has been welcomed and shown tick 10 of zone 3, with command 4 applied."""
    herd: Any = SimpleNamespace(
        intervals=array("d"), snapshots=0, acknowledged=0, commands=0, left_out=0, decoded=0, faults=0, crossings=[], secret="s" * 32,
        closes=[], plays=lambda: None, tasks=set(), parts=(b"\x94\x02\xce", [b"\x01\x90"]), urls=["ws://x/ws"],
    )  # fmt: skip
    one, transport = Watched(herd, "ann", 1), _Transport()
    one.sockets = 1
    one.transport = transport  # type: ignore[assignment]
    one.data_received(SWITCHING)
    one.data_received(served(msgspec.msgpack.encode([int(ServerOp.WELCOME), WELCOME])))
    one.data_received(snapshot(3, 10, 4))
    transport.written.clear()
    return one, herd, transport


def test_snapshots_borders_and_stale_ticks_are_told_apart() -> None:
    one, herd, _ = player()
    for data in (snapshot(3, 11, 4), snapshot(4, 2, 4) + snapshot(4, 3, 4), snapshot(4, 3, 4)):
        one.data_received(data)
    seen = one.report()
    assert (seen.entered, seen.snapshots, seen.backward_ticks) == (True, 5, 1)
    assert [(c.old, c.new) for c in herd.crossings] == [(3, 4)]
    assert len(seen.gaps) == 4 and all(gap >= 0 for _, gap in seen.gaps)
    assert isinstance(herd.crossings[0], Crossing) and herd.crossings[0].gap_s == seen.gaps[1][1]


def test_commands_are_numbered_on_and_what_is_acknowledged_is_told() -> None:
    one, _, transport = player()
    for _ in range(3):
        one.steer()
    one.data_received(snapshot(3, 11, 6))
    assert len(transport.written) == 3
    seen = one.report()
    assert (seen.acknowledged, seen.unacknowledged, seen.acknowledged_lost) == ([5, 6], [7], 0)


def test_numbers_of_refused_commands_are_used_again_once_all_refusals_have_come() -> None:
    one, _, transport = player()
    for _ in range(3):
        one.steer()
    for seq in (6, 7):
        one.steer()
        one.data_received(served(msgspec.msgpack.encode([int(ServerOp.REFUSED), seq, "wait"])))
    assert len(transport.written) == 4, "nothing is sent while a refusal is still due"
    one.data_received(served(msgspec.msgpack.encode([int(ServerOp.REFUSED), 8, "wait"])))
    one.steer()
    assert one.report().unacknowledged == [5, 6]
    assert one.report().refused == 3


async def test_who_resumes_behind_what_was_acknowledged_has_lost_something() -> None:
    one, _, _ = player()
    one.stopped = True
    one.connection_lost(None)
    come_in(one, 2)
    one.data_received(snapshot(3, 12, 3))
    seen = one.report()
    assert (seen.acknowledged_lost, seen.socket_drops[0].code) == (1, None)
    assert [(played.session, played.first_ack) for played in seen.sessions] == [(1, 4), (2, 3)]


async def test_a_refused_resume_is_told_and_the_login_after_it_goes_on_with_the_numbers() -> None:
    one, herd, _ = player()
    one.stopped = True  # it is this test that dials
    one.steer()
    one.data_received(snapshot(3, 11, 5))
    one.connection_lost(None)
    dials(one)
    one.data_received(bytes((0x88, 6)) + (4004).to_bytes(2, "big") + b"used")
    one.connection_lost(None)
    come_in(one, 2)
    one.data_received(snapshot(3, 14, 5))
    one.steer()
    one.data_received(snapshot(3, 15, 6))
    seen = one.report()
    assert herd.closes == [4004]
    assert (seen.resumes_refused, seen.acknowledged_lost, seen.acknowledged, seen.sent) == (1, 0, [5, 6], 2)
    assert [(end.code, end.reason) for end in seen.socket_drops] == [(None, "the socket broke"), (4004, "used")]


async def test_numbers_that_a_ledger_which_forgot_begins_anew_are_told_with_their_session() -> None:
    one, _, _ = player()
    one.stopped = True
    for _ in range(2):
        one.steer()
    one.data_received(snapshot(3, 11, 5))
    one.data_received(bytes((0x88, 9)) + (4015).to_bytes(2, "big") + b"put out")
    one.connection_lost(None)
    come_in(one, 2)
    one.data_received(snapshot(3, 40, 0))
    for _ in range(3):
        one.steer()
    one.data_received(snapshot(3, 41, 2))
    seen = one.report()
    assert (seen.acknowledged, seen.unacknowledged, seen.sent) == ([5, 1, 2], [3], 5)
    assert seen.sessions == [SessionPlayed(1, 4, 0), SessionPlayed(2, 0, 1)]
    assert (seen.resumes_refused, seen.acknowledged_lost, seen.socket_drops[0].code) == (0, 1, 4015)


async def test_numbers_go_on_after_a_logout() -> None:
    one, _, _ = player()
    one.stopped = True
    for _ in range(3):
        one.steer()
    one.data_received(snapshot(3, 11, 5))
    one.data_received(bytes((0x88, 9)) + (4015).to_bytes(2, "big") + b"put out")
    one.connection_lost(None)
    come_in(one, 2)
    one.data_received(snapshot(3, 40, 6))  # the second one was applied, the third was not, and is not sent again
    one.steer()
    one.data_received(snapshot(3, 41, 7))
    seen = one.report()
    assert (seen.acknowledged, seen.unacknowledged, seen.acknowledged_lost) == ([5, 6, 7], [], 0)
    assert seen.sessions == [SessionPlayed(1, 4, 0), SessionPlayed(2, 6, 2)]


def test_gaps_are_looked_up_as_those_of_a_bot_and_go_through_a_file() -> None:
    gaps: Gaps = pickle.loads(pickle.dumps(Gaps(array("d", [1.0, 1.1, 2.0, 2.05]))))
    assert [round(gap, 3) for _, gap in gaps] == [0.1, 0.9, 0.05]
    assert bisect_left(gaps, 2.0, key=lambda g: g[0]) == 1
    assert round(longest_gap(BotReport("ann", gaps=gaps), 1.5, 2.04), 3) == 0.9
    assert round(longest_gap(BotReport("ann", gaps=gaps), 2.02, 2.04), 3) == 0.05
    assert round(longest_gap(BotReport("ann", gaps=gaps), 2.02, 2.5), 3) == 0.45, "nothing came after 2.05"
    assert len(Gaps(array("d"))) == 0
