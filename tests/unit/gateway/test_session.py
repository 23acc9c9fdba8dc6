"""The session state machine, without sockets and without an event loop: its table, its routes, its ends. Commands: next door."""

from __future__ import annotations

import pytest

from gateway.session import HELD_SWEEPS, Session
from gateway.session_instructions import AskKeyframe, CloseSocket, Detach, Forward, Leave, close_text
from gateway.session_states import TRANSITIONS, SessionEvent, SessionState
from perdure.wire.client_messages import encode_command, encode_hello, encode_leave, encode_ping, map_frame
from perdure.wire.opcodes import Close, Notice, ServerOp
from tests.unit.gateway.session_bench import GONE, KEYFRAME, MOVED, Bench, LinkDouble, seqs
from tests.unit.wire.naive_snapshot import TOY, packed

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
    assert bench.messages() == [[3, int(Notice.FAILED_OVER), 0, "lost a: b runs zone 0 now"]]


def test_who_reads_too_slowly_gets_the_newest_map_when_there_is_room() -> None:
    bench = Bench()
    bench.play()
    bench.rules.map_frame = map_frame(1, 1, ["a"])
    bench.session.map_changed()
    assert bench.messages() == [[int(ServerOp.MAP), 1, 1, ["a"]]]
    bench.session.buffer_full()
    for owner in ("", "b"):
        bench.rules.map_frame = map_frame(1, 1, [owner])
        bench.session.map_changed()
    assert bench.messages() == []
    bench.session.buffer_drained()
    assert bench.messages() == [[int(ServerOp.MAP), 1, 1, ["b"]]]


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
    for _ in range(HELD_SWEEPS):
        bench.session.swept()
    assert [type(one) for one in bench.take()] == [Forward]
    die(bench, link)
    instructions = bench.take()
    assert instructions[0] == Leave(77, 3, kick=True)
    assert instructions[1].code is Close.KICKED


def test_a_suspect_is_held_back_from_an_owner_that_has_just_taken_over() -> None:
    """Whoever kills one shard after the other hits owners that were sent everybody's commands a moment ago."""
    bench = Bench()
    bench.play()
    bench.command()
    link = bench.link
    for epoch in range(2, 12):
        die(bench, link)
        link = LinkDouble(f"link{epoch}")
        bench.take()
        bench.frame(bench.route(epoch=epoch, link=link), flags=KEYFRAME)
        forwarded = [one for one in bench.take() if isinstance(one, Forward)]
        assert len(forwarded) == (1 if epoch == 2 else 0), "after two deaths it waits"
    assert bench.session.state is SessionState.PLAYING
    assert bench.command() is None, "what comes later does not overtake it"
    bench.session.swept()
    assert bench.take() == []
    bench.session.swept()
    (forward,) = bench.take()
    assert isinstance(forward, Forward) and len(forward.rows) == 2
    bench.session.swept()
    assert bench.take() == [], "once"
    assert bench.command() is not None


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
