"""One session on the bench: with its clock, its client and the frames of its zone, and without socket or event loop.

Owns what the tests of gateway.session share. Never asserts a rule of its own beyond what brings a session into play. Used by
test_session and test_session_commands.
"""

from __future__ import annotations

from typing import Any

import msgpack

from gateway.metrics import GatewayCounters
from gateway.routing import Route
from gateway.session import Session
from gateway.session_instructions import Admit, CloseSocket
from gateway.session_states import SessionState
from gateway.world_rules import ROW_HEAD, SessionLimits, WorldRules
from perdure.wire.client_messages import encode_command, encode_hello
from perdure.wire.opcodes import Close, ServerOp, SnapshotFlag
from tests.unit.wire.naive_snapshot import TOY

KEYFRAME, GONE, MOVED = int(SnapshotFlag.KEYFRAME), int(SnapshotFlag.GONE), int(SnapshotFlag.MOVED)


class LinkDouble:
    def __init__(self, name: str) -> None:
        self.name = name

    def forward(self, route: Route, row: bytes) -> None:
        route.rows.append(row)

    def ask_keyframe(self, route: Route, player: int) -> None:
        route.keyframes.append(player)


class Bench:
    """See the module docstring."""

    def __init__(self, **limits: Any) -> None:
        self.counters = GatewayCounters()
        self.rules = WorldRules(TOY, SessionLimits(**limits))
        self.written: list[bytes] = []
        self.session = Session(self.rules, self.written.append, self.counters)
        self.link = LinkDouble("a")
        self.now_s = 1000.0
        self.seq = 0

    def messages(self) -> list[list[Any]]:
        """What was written since the last call, decoded."""
        out = []
        for frame in self.written:
            skip = 2 if frame[1] < 126 else 4
            out.append(msgpack.unpackb(frame[skip:]))
        self.written.clear()
        return out

    def take(self) -> list[Any]:
        out, self.session.instructions = self.session.instructions, []
        return out

    def say(self, data: bytes) -> bytes | None:
        return self.session.message(self.now_s, data)

    def enter(self) -> None:
        self.say(encode_hello(token="t"))
        assert isinstance(self.take()[0], Admit)
        self.session.entered(name="anna", key=77, session=3, slot=9, zone=0, resume="r", gateway="g")
        assert self.messages()[0][0] == ServerOp.WELCOME

    def route(self, zone: int = 0, epoch: int = 1, tick: int = 10, link: LinkDouble | None = None) -> Route:
        return Route(link or self.link, zone, 1, epoch, tick)

    def frame(self, route: Route, hop: int = 0, ack: int = 0, flags: int = 0) -> bool:
        """As the fan-out loop does it; True where the frame is written."""
        session = self.session
        if session.route is not route or session.hop != hop:
            if not session.reroute(route, hop, ack, flags):
                return False
        else:
            session.acknowledge(ack)
        written = session.admit(flags)
        if flags & (GONE | MOVED):
            session.departed(flags)
        return written

    def play(self) -> Route:
        self.enter()
        route = self.route()
        assert self.frame(route, flags=KEYFRAME)
        assert self.take() == []
        return route

    def command(self, seq: int | None = None, *, kind: int = 1, values: list[Any] | None = None, after_s: float = 1.0) -> bytes | None:
        self.now_s += after_s
        if seq is None:
            self.seq += 1
            seq = self.seq
        return self.say(encode_command(seq, kind, [1, 0, 1] if values is None else values))

    def closed(self) -> Close:
        (instruction,) = [i for i in self.take() if isinstance(i, CloseSocket)]
        assert self.session.state is SessionState.CLOSED
        assert "\n" not in instruction.text
        return instruction.code


def seqs(rows: tuple[bytes, ...] | list[bytes]) -> list[int]:
    return [ROW_HEAD.unpack_from(row)[1] for row in rows]
