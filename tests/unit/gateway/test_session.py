"""The session state machine, without sockets and without an event loop."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics import GatewayCounters
from gateway.routing import Route
from gateway.session import (
    MAX_LEARNED,
    ROW_HEAD,
    TRANSITIONS,
    Admit,
    AskKeyframe,
    CloseSocket,
    Detach,
    Forward,
    Leave,
    Session,
    SessionEvent,
    SessionLimits,
    SessionState,
    WorldRules,
    close_text,
)
from perdure.wire.client_messages import encode_command, encode_hello, encode_leave, encode_ping
from perdure.wire.link import COMMAND_HEADER, command_dtype
from perdure.wire.opcodes import Close, Notice, ServerOp, SnapshotFlag
from tests.unit.wire.naive_snapshot import TOY, packed

KEYFRAME, GONE, MOVED = int(SnapshotFlag.KEYFRAME), int(SnapshotFlag.GONE), int(SnapshotFlag.MOVED)


class LinkDouble:
    def __init__(self, name: str) -> None:
        self.name = name

    def forward(self, route: Route, row: bytes) -> None:
        route.rows.append(row)

    def ask_keyframe(self, route: Route, player: int) -> None:
        route.keyframes.append(player)


class Bench:
    """One session on the bench, with its clock and its client."""

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


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_state_stands_in_the_table_and_closed_is_final() -> None:
    assert set(TRANSITIONS) == set(SessionState)
    assert TRANSITIONS[SessionState.CLOSED] == {}
    for state in set(SessionState) - {SessionState.CLOSED}:
        assert TRANSITIONS[state][SessionEvent.CLOSE] is SessionState.CLOSED


def test_every_state_can_be_reached() -> None:
    reached, frontier = {SessionState.AWAITING_HELLO}, [SessionState.AWAITING_HELLO]
    while frontier:
        for following in TRANSITIONS[frontier.pop()].values():
            if following not in reached:
                reached.add(following)
                frontier.append(following)
    assert reached == set(SessionState)


def test_an_event_that_has_no_entry_is_a_fault_of_the_driver() -> None:
    bench = Bench()
    with pytest.raises(RuntimeError, match="AWAITING_HELLO cannot take ENTERED"):
        bench.session.entered(name="a", key=1, session=1, slot=1, zone=0, resume="", gateway="")


# --- hello --------------------------------------------------------------------------------------------------------


def test_hello_asks_for_admission_and_the_answer_is_a_welcome() -> None:
    bench = Bench()
    bench.say(encode_hello(token="t", schema=TOY.hash))
    (admit,) = bench.take()
    assert admit.hello.token == "t"
    bench.session.entered(name="anna", key=77, session=3, slot=9, zone=1, resume="r", gateway="g")
    (welcome,) = bench.messages()
    assert welcome[1]["schema"] == TOY.to_wire()
    assert (welcome[1]["player"], welcome[1]["zone"], welcome[1]["resume"], welcome[1]["session"]) == ("anna", 1, "r", 3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_ping(1), Close.BAD_HELLO),
        (encode_command(1, 1, [0, 0, 0]), Close.BAD_HELLO),
        (encode_leave(), Close.BAD_HELLO),
        (b"\xff\xff\xff", Close.BAD_HELLO),
        (b"", Close.BAD_HELLO),
        (packed([1, {"protocol": 1}]), Close.BAD_HELLO),
        (packed([1, {"protocol": 2, "token": "t"}]), Close.WRONG_PROTOCOL),
        (encode_hello(token="t", schema="0" * 16), Close.WRONG_SCHEMA),
    ],
)
def test_a_wrong_first_message_has_its_own_close_code(data: bytes, code: Close) -> None:
    bench = Bench()
    bench.say(data)
    assert bench.closed() is code


def test_hello_before_the_world_exists_is_told_so() -> None:
    bench = Bench()
    bench.session = Session(None, bench.written.append, bench.counters)
    bench.say(encode_hello(token="t"))
    assert bench.closed() is Close.UNAVAILABLE


def test_a_second_hello_is_a_bad_message() -> None:
    bench = Bench()
    bench.enter()
    bench.say(encode_hello(token="t"))
    assert bench.closed() is Close.BAD_MESSAGE


def test_a_socket_that_goes_while_entering_leaves_nothing_to_detach() -> None:
    bench = Bench()
    bench.say(encode_hello(token="t"))
    bench.take()
    bench.session.socket_lost()
    assert bench.take() == []
    assert bench.session.state is SessionState.CLOSED


# --- commands -----------------------------------------------------------------------------------------------------


def test_a_command_becomes_a_row_of_the_links_dtype() -> None:
    bench = Bench()
    bench.play()
    row = bench.command(values=[-1, 1, True])
    assert row is not None
    dtype = command_dtype(TOY.command_payload_bytes)
    (decoded,) = np.frombuffer(row, dtype)
    assert (decoded["player"], decoded["seq"], decoded["session"], decoded["kind"]) == (77, 1, 3, 1)
    steer = np.frombuffer(decoded["payload"].tobytes()[: TOY.commands[0].payload.itemsize], TOY.commands[0].payload)[0]
    assert (steer["mx"], steer["my"], steer["fire"]) == (-1, 1, 1)
    assert ROW_HEAD.size == np.dtype(COMMAND_HEADER).itemsize


def test_a_command_before_the_first_snapshot_is_refused() -> None:
    bench = Bench()
    bench.enter()
    assert bench.command() is None
    assert bench.messages() == [[5, 1, "wait for the first snapshot before sending commands"]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (9, [0]),
        (1, [0, 0]),
        (1, [0, 0, 0, 0]),
        (1, [2, 0, 0]),
        (1, [0.0, 0, 0]),
        (1, [0, 0, -1]),
        (2, [float("nan")]),
        (2, [float("inf")]),
        (2, [7.0]),
        (2, [True]),
    ],
)
def test_a_command_that_breaks_the_schema_closes(kind: int, values: list[Any]) -> None:
    bench = Bench()
    bench.play()
    assert bench.command(kind=kind, values=values) is None
    assert bench.closed() is Close.BAD_COMMAND


@pytest.mark.parametrize(
    "message", [[2, 0, 1, 0, 0, 0], [2, -1, 1, 0, 0, 0], [2, 1 << 32, 1, 0, 0, 0], [2, 1.0, 1, 0, 0, 0], [2, 1, True, 0, 0, 0]]
)
def test_a_command_whose_head_is_no_number_closes(message: list[Any]) -> None:
    bench = Bench()
    bench.play()
    bench.say(packed(message))
    assert bench.closed() is Close.BAD_MESSAGE


def test_numbers_go_without_a_gap_and_repeats_are_ignored() -> None:
    bench = Bench()
    bench.enter()
    assert bench.frame(bench.route(), ack=40, flags=KEYFRAME)
    assert bench.command(40) is None  # applied already
    assert bench.messages() == []
    assert bench.command(41) is not None
    assert bench.command(41) is None  # waiting already
    assert bench.messages() == []
    assert bench.command(43) is None
    assert bench.messages() == [[5, 43, "the next command's number is 42"]]
    assert bench.command(42) is not None
    assert bench.session.state is SessionState.PLAYING


def test_acknowledgements_of_another_gateways_commands_move_the_expected_number() -> None:
    bench = Bench()
    bench.enter()
    route = bench.route()
    bench.frame(route, ack=8, flags=KEYFRAME)
    assert bench.command(9) is not None
    bench.frame(route, ack=11)  # 9, 10 and 11 were on their way through the older gateway
    assert bench.command(10) is None and bench.command(11) is None
    assert bench.messages() == []
    assert bench.command(12) is not None


def test_the_window_is_bounded_by_a_refusal_and_opens_with_acknowledgements() -> None:
    bench = Bench(max_pending=4)
    route = bench.play()
    assert all(bench.command() for _ in range(4))
    assert bench.command() is None
    assert bench.messages() == [[5, 5, "4 commands are not yet acknowledged; wait"]]
    bench.frame(route, ack=2)
    bench.seq = 4
    assert bench.command() is not None
    assert [seq for seq, _ in bench.session.pending] == [3, 4, 5]


def test_too_many_commands_a_second_are_refused_and_then_close() -> None:
    bench = Bench(commands_per_second=10, max_pending=1000)
    route = bench.play()
    accepted = 0
    for _ in range(2000):
        if bench.session.state is SessionState.CLOSED:
            break
        row = bench.command(after_s=0)
        accepted += row is not None
        bench.seq = bench.session.last_seq
        bench.frame(route, ack=max(bench.session.last_seq, 0))
    assert bench.closed() is Close.TOO_FAST
    assert 1000 <= accepted <= 1012  # one second's worth, and room for a full resend


def test_the_allowed_rate_is_never_refused() -> None:
    bench = Bench(commands_per_second=10)
    route = bench.play()
    for _ in range(500):
        assert bench.command(after_s=0.1) is not None
        bench.frame(route, ack=bench.seq)
    assert bench.messages() == []


def test_sustained_speeding_is_closed_even_if_slight() -> None:
    bench = Bench(commands_per_second=10, max_pending=4)
    route = bench.play()
    for _ in range(2000):
        bench.command(after_s=0.05)
        if bench.session.state is SessionState.CLOSED:
            break
        bench.seq = bench.session.last_seq
        bench.frame(route, ack=bench.seq)
    assert bench.closed() is Close.TOO_FAST


def test_pings_are_answered_and_a_flood_closes() -> None:
    bench = Bench()
    bench.play()
    bench.say(encode_ping(5))
    assert bench.messages() == [[4, 5]]
    for _ in range(200):
        bench.say(encode_ping(5))
    assert bench.closed() is Close.TOO_FAST
    assert len(bench.messages()) < 60


def test_garbage_while_playing_closes_and_detaches() -> None:
    bench = Bench()
    bench.play()
    bench.say(b"\x00\x01garbage")
    instructions = bench.take()
    assert instructions[0] == Detach(77, 3)
    assert isinstance(instructions[1], CloseSocket) and instructions[1].code is Close.BAD_MESSAGE
    assert bench.say(encode_ping(1)) is None  # closed: nothing is answered any more
    assert bench.messages() == []


# --- routes and the resend rule -------------------------------------------------------------------------------------


def test_a_new_route_gets_all_unacknowledged_commands_in_order_before_newer_ones() -> None:
    bench = Bench()
    route = bench.play()
    for _ in range(3):
        assert bench.command() is not None
    bench.frame(route, ack=1)
    bench.session.link_lost(bench.link)
    assert bench.session.state is SessionState.WAITING
    assert bench.command() is None  # queued only
    heir = bench.route(epoch=2, tick=11, link=LinkDouble("b"))
    assert bench.frame(heir, ack=2, flags=KEYFRAME)
    (forward,) = bench.take()
    assert isinstance(forward, Forward) and forward.route is heir
    assert seqs(forward.rows) == [3, 4]
    assert bench.command() is not None
    assert bench.messages() == [[3, int(Notice.FAILED_OVER), 0, "zone 0 runs on another server now"]]


def test_nothing_is_resent_while_the_route_stays() -> None:
    bench = Bench()
    route = bench.play()
    bench.command()
    for _ in range(5):
        assert bench.frame(route)
    assert bench.take() == []


def test_a_redialled_link_to_the_same_shard_is_a_new_route_without_a_notice() -> None:
    bench = Bench()
    bench.play()
    bench.command()
    bench.session.link_lost(bench.link)
    assert bench.frame(bench.route(tick=12, link=LinkDouble("a")), flags=KEYFRAME)
    assert [type(i) for i in bench.take()] == [Forward]
    assert bench.messages() == []


def test_a_move_queues_commands_until_the_new_zone_speaks() -> None:
    bench = Bench()
    route = bench.play()
    assert bench.command() is not None
    assert bench.frame(route, flags=MOVED)
    assert bench.session.state is SessionState.WAITING
    assert bench.command() is None
    assert not bench.frame(route)  # nothing more from the zone it left
    there = bench.route(zone=1, tick=3)
    assert bench.frame(there, hop=1, flags=KEYFRAME)
    (forward,) = bench.take()
    assert seqs(forward.rows) == [1, 2]
    assert bench.session.zone == 1


def test_the_new_zone_may_speak_before_the_old_one_says_goodbye() -> None:
    bench = Bench()
    route = bench.play()
    there = bench.route(zone=1, tick=3)
    assert bench.frame(there, hop=1, flags=KEYFRAME)
    assert not bench.frame(route, hop=0, flags=0)
    assert not bench.session.reroute(route, 0, 0, MOVED)
    assert bench.session.route is there


def test_an_older_owner_of_the_same_place_is_stale() -> None:
    bench = Bench()
    bench.play()
    heir = bench.route(epoch=2, tick=9, link=LinkDouble("b"))
    assert bench.frame(heir, flags=KEYFRAME)
    zombie = bench.route(epoch=1, tick=50)
    assert not bench.frame(zombie, flags=KEYFRAME)
    assert bench.session.route is heir


def test_a_new_route_without_a_keyframe_is_muted_until_one_comes() -> None:
    bench = Bench()
    bench.enter()
    route = bench.route()
    assert not bench.frame(route)
    assert bench.take() == [AskKeyframe(route, 77)]
    assert not bench.frame(route)
    assert bench.frame(route, flags=KEYFRAME)
    assert bench.frame(route)


def test_another_links_loss_is_no_concern() -> None:
    bench = Bench()
    bench.play()
    bench.session.link_lost(LinkDouble("b"))
    assert bench.session.state is SessionState.PLAYING


# --- slow readers -------------------------------------------------------------------------------------------------


def test_a_slow_reader_gets_no_frames_until_it_drained_and_a_keyframe_came() -> None:
    bench = Bench()
    route = bench.play()
    bench.session.buffer_full()
    assert not bench.frame(route)
    assert not bench.frame(route, flags=KEYFRAME)
    bench.session.buffer_drained()
    assert bench.take() == [AskKeyframe(route, 77)]
    assert not bench.frame(route)
    assert bench.frame(route, ack=0, flags=KEYFRAME)
    assert bench.frame(route)


def test_a_slow_reader_is_still_acknowledged_and_moved() -> None:
    bench = Bench()
    route = bench.play()
    bench.command()
    bench.session.buffer_full()
    bench.frame(route, ack=1)
    assert not bench.session.pending
    bench.frame(route, ack=1, flags=MOVED)
    assert bench.session.state is SessionState.WAITING


# --- ends ---------------------------------------------------------------------------------------------------------


def test_leaving_ends_with_logged_out_and_without_detach() -> None:
    bench = Bench()
    route = bench.play()
    bench.say(encode_leave())
    assert bench.take() == [Leave(77, 3)]
    bench.say(encode_leave())
    assert bench.take() == []
    assert bench.command() is None
    assert bench.messages()[0][0] == ServerOp.REFUSED
    assert not bench.frame(route, flags=GONE)
    instructions = bench.take()
    assert [type(i) for i in instructions] == [CloseSocket]
    assert instructions[0].code is Close.LOGGED_OUT


def test_gone_without_having_asked_is_a_kick() -> None:
    bench = Bench()
    route = bench.play()
    bench.frame(route, flags=GONE)
    assert bench.closed() is Close.KICKED


def test_a_takeover_closes_without_detach() -> None:
    bench = Bench()
    bench.play()
    bench.session.taken_over()
    (instruction,) = bench.take()
    assert instruction.code is Close.TAKEN_OVER
    bench.session.socket_lost()
    assert bench.take() == []


def test_a_lost_socket_detaches_once() -> None:
    bench = Bench()
    bench.play()
    bench.session.socket_lost()
    bench.session.socket_lost()
    assert bench.take() == [Detach(77, 3)]


def test_frames_for_a_closed_session_are_dropped() -> None:
    bench = Bench()
    bench.play()
    bench.session.socket_lost()
    assert not bench.frame(bench.route(epoch=3), hop=4, flags=KEYFRAME)


# --- poison -------------------------------------------------------------------------------------------------------


def die(bench: Bench, link: LinkDouble) -> None:
    bench.session.link_lost(link)
    bench.session.shard_died(link)


def test_a_command_in_flight_at_three_deaths_puts_the_session_out() -> None:
    bench = Bench()
    bench.play()
    bench.command()
    link = bench.link
    for epoch in (2, 3):
        die(bench, link)
        assert bench.take() == [], "two deaths may be a coincidence"
        link = LinkDouble(f"link{epoch}")
        bench.frame(bench.route(epoch=epoch, link=link), flags=KEYFRAME)
        bench.take()
    die(bench, link)
    instructions = bench.take()
    assert instructions[0] == Leave(77, 3, kick=True)
    assert instructions[1].code is Close.KICKED


def test_deaths_with_progress_between_them_are_innocent() -> None:
    bench = Bench()
    bench.play()
    link = bench.link
    for epoch in range(2, 8):
        bench.command()
        die(bench, link)
        link = LinkDouble(f"link{epoch}")
        bench.frame(bench.route(epoch=epoch, link=link), ack=bench.seq, flags=KEYFRAME)
    assert bench.session.state is SessionState.PLAYING


def test_who_makes_progress_between_deaths_is_innocent_though_newer_commands_wait() -> None:
    bench = Bench()
    bench.play()
    link = bench.link
    for _ in range(8):
        bench.command()
    for epoch in range(2, 8):
        die(bench, link)
        link = LinkDouble(f"link{epoch}")
        bench.frame(bench.route(epoch=epoch, link=link), ack=epoch - 1, flags=KEYFRAME)
    assert bench.session.state is SessionState.PLAYING


def test_a_broken_link_is_no_death() -> None:
    bench = Bench()
    bench.play()
    bench.command()
    link = bench.link
    for epoch in range(1, 6):
        bench.session.link_lost(link)
        link = LinkDouble("a")
        bench.frame(bench.route(epoch=epoch, tick=10 + epoch, link=link), flags=KEYFRAME)
    assert bench.session.state is SessionState.PLAYING


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(Close))
def test_every_close_text_fits_a_close_frame(code: Close) -> None:
    assert len(close_text(code, "ä" * 200).encode()) <= 123
    assert close_text(code)


# --- learned commands -------------------------------------------------------------------------------------------------


def encodings(value: Any) -> list[bytes]:
    """A few msgpack encodings of one number, the usual one first."""
    out = [packed(value)]
    if type(value) is int and 0 <= value < 256:
        out += [
            b"\xcc" + bytes((value,)),
            b"\xcd" + value.to_bytes(2, "big"),
            b"\xce" + value.to_bytes(4, "big"),
            b"\xd3" + value.to_bytes(8, "big"),
        ]
    return out


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),  # how the number is encoded
            st.sampled_from([1, 1, 1, 2, 3, True]),
            st.lists(st.one_of(st.sampled_from([-1, 0, 1, 1, True]), st.sampled_from([0.5, 1.0, 2, 9.5])), min_size=0, max_size=4),
            st.booleans(),  # array 16
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_learned_command_has_the_row_of_a_decoded_one(course: list[tuple[int, int, list[Any], bool]]) -> None:
    """Whatever was learned before, each command gives the same row or the same close as on a fresh gateway."""
    rules = WorldRules(TOY, SessionLimits(commands_per_second=1000))
    for how, kind, values, wide in course:
        outcomes = []
        for own_rules in (rules, WorldRules(TOY, SessionLimits(commands_per_second=1000))):
            bench = Bench()
            bench.rules = own_rules
            bench.session = Session(own_rules, bench.written.append, bench.counters)
            bench.play()
            seq = encodings(1)[how]
            count = 3 + len(values)
            head = b"\xdc" + count.to_bytes(2, "big") if wide else bytes((0x90 + count,))
            row = bench.say(head + b"\x02" + seq + b"".join(packed(value) for value in [kind, *values]))
            outcomes.append((row, bench.session.closed_code))
        assert outcomes[0] == outcomes[1]
        fault = None if kind in (1, 2) and type(kind) is int else "kind"
        if fault is None:
            fault = TOY.commands[kind - 1].fault(values)
        assert (outcomes[0][0] is None) == (fault is not None)


def test_what_is_learned_is_bounded() -> None:
    bench = Bench(commands_per_second=1e6)
    route = bench.play()
    for k in range(MAX_LEARNED + 100):
        assert bench.command(kind=2, values=[k / (MAX_LEARNED + 100)]) is not None
        bench.frame(route, ack=bench.seq)
        assert len(bench.rules.learned) <= MAX_LEARNED
