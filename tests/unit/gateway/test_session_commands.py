"""Commands of a client, from its message to the row that a zone gets: checks, numbers, window, rates, and what is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.send_table import SendTable
from gateway.session import Session
from gateway.session_instructions import CloseSocket, Detach
from gateway.session_states import SessionState
from gateway.world_rules import MAX_LEARNED, ROW_HEAD, SessionLimits, WorldRules
from perdure.wire.client_messages import encode_ping
from perdure.wire.link import COMMAND_HEADER, command_dtype
from perdure.wire.opcodes import Close
from tests.unit.gateway.session_bench import KEYFRAME, Bench
from tests.unit.wire.naive_snapshot import TOY, packed

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


@pytest.mark.parametrize("in_the_table", [False, True])
def test_a_command_before_the_first_snapshot_is_refused(in_the_table: bool) -> None:
    bench = Bench()
    bench.enter()
    if in_the_table:
        sends = SendTable(1)
        sends.add(bench.session)
        sends.disarm(bench.session)
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
