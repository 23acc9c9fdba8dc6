"""The client without I/O: snapshots become the world, commands keep their numbers over refusals and resumes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.client import ClientProtocol, NotReady, ProtocolError, Refused, Snapshot, SnapshotError, Welcome
from perdure.client.protocol import ChatReceived, Ignored, NamesReceived
from perdure.client.world_view import WorldView
from perdure.game.schema import EntitySchema
from tests.unit.wire.naive_snapshot import TOY, Parts, packed

KEYFRAME = 1
SHIP = {"x": 10.0, "y": 20.0, "hp": 100, "score": 70_000, "serial": 4_000_000_000, "turn": -1, "a": 1, "b": 2, "c": 3}


def welcome(resume: str = "anna.r1", session: int = 1) -> bytes:
    body = {"session": session, "player": "anna", "key": 1 << 62, "resume": resume, "schema": TOY.to_wire(), "schema_hash": TOY.hash,
            "tick_hz": 20, "zone": 0, "gateway": "g"}  # fmt: skip
    return packed([1, body])


def apply(world: WorldView, parts: Parts, **head: int) -> Snapshot:
    return world.apply(msgpack.unpackb(parts.message(**head)))


def playing(ack: int = 0) -> ClientProtocol:
    client = ClientProtocol()
    client.hello(token="t")
    assert isinstance(client.receive(welcome()), Welcome)
    client.receive(Parts().enter(1, 0, 5, SHIP).message(flags=KEYFRAME, me=5, ack=ack))
    assert client.outgoing == []
    return client


# --- the world ----------------------------------------------------------------------------------------------------


def test_an_entity_enters_moves_and_leaves() -> None:
    world = WorldView(TOY)
    snapshot = apply(
        world, Parts().enter(7, 0, 1 << 40 | 9, SHIP).own(0, {"ammo": 5, "fuel": 99_999}), flags=KEYFRAME, me=1 << 40 | 9, tick=4
    )
    assert snapshot.entered == [1 << 40 | 9]
    assert world.me is not None
    assert world.me.fields == {**SHIP, "ammo": 5, "fuel": 99_999}
    assert (world.me.x, world.me.score, world.me.serial, world.me.fuel) == (10.0, 70_000, 4_000_000_000, 99_999)  # type: ignore[comparison-overlap]
    apply(world, Parts().update(7, 0, {"x": 11.5, "c": 9}), me=1 << 40 | 9, tick=5)
    assert world.me.fields == {**SHIP, "x": 11.5, "c": 9, "ammo": 5, "fuel": 99_999}
    snapshot = apply(world, Parts().leave(7), tick=6)
    assert snapshot.left == [1 << 40 | 9]
    assert world.entities == {}


def test_leaves_come_before_enters_and_enters_before_updates() -> None:
    world = WorldView(TOY)
    apply(world, Parts().enter(1, 0, 5, SHIP), flags=KEYFRAME)
    parts = Parts().enter(1, 1, 6, {"x": 1.0, "worth": 10}).update(1, 1, {"worth": 3}).leave(1)
    apply(world, parts, tick=2)
    assert list(world.entities) == [6]
    assert world.entities[6].fields == {"x": 1.0, "worth": 3}


def test_an_entity_may_leave_and_come_back_under_another_handle_in_one_snapshot() -> None:
    world = WorldView(TOY)
    apply(world, Parts().enter(1, 0, 5, SHIP), flags=KEYFRAME)
    apply(world, Parts().leave(1).enter(2, 0, 5, {**SHIP, "x": 33.0}), tick=2)
    assert world.entities[5].x == 33.0


def test_a_keyframe_forgets_handles_and_keeps_objects() -> None:
    world = WorldView(TOY)
    apply(world, Parts().enter(1, 0, 5, SHIP).enter(2, 0, 6, SHIP), flags=KEYFRAME)
    held = world.entities[5]
    snapshot = apply(world, Parts().enter(2, 0, 5, {**SHIP, "hp": 3}).enter(1, 0, 7, SHIP), flags=KEYFRAME, tick=2)
    assert world.entities[5] is held
    assert held.hp == 3
    assert (snapshot.entered, snapshot.left) == ([7], [6])
    apply(world, Parts().update(2, 0, {"hp": 4}), tick=3)
    assert held.hp == 4


def test_events_are_decoded() -> None:
    world = WorldView(TOY)
    snapshot = apply(world, Parts().event(0, {"who": 70_000, "damage": 9}).event(0, {"who": 1, "damage": 100}), flags=KEYFRAME, tick=9)
    assert [(event.name, event.tick, dict(event.fields)) for event in snapshot.events] == [
        ("hit", 9, {"who": 70_000, "damage": 9}),
        ("hit", 9, {"who": 1, "damage": 100}),
    ]


@pytest.mark.parametrize(
    "parts",
    [
        Parts().update(3, 0, {"x": 1.0}),
        Parts().leave(3),
        Parts(enters=b"\x01"),
        Parts(enters=b"\x01\x00\x09" + bytes(50)),
        Parts(events=b"\x07"),
        Parts(leaves=b"\x01"),
        Parts(owner=b"\x01\x02"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_an_error_and_nothing_else(parts: Parts) -> None:
    with pytest.raises(SnapshotError):
        apply(WorldView(TOY), parts, tick=2)


def test_a_mask_bit_past_the_last_field_is_an_error() -> None:
    world = WorldView(TOY)
    apply(world, Parts().enter(1, 0, 5, SHIP), flags=KEYFRAME)
    with pytest.raises(SnapshotError):
        apply(world, Parts(updates=b"\x01\x00\x00\x80"), tick=2)


def values_of(entity: EntitySchema) -> st.SearchStrategy[dict[str, float | int]]:
    return st.fixed_dictionaries({f.name: st.integers(0, f.levels - 1).map(f.value) for f in entity.public})


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_course_of_a_world_decodes_to_what_was_encoded(data: st.DataObject) -> None:
    """The model is a dict of dicts; the encoder is the naive one."""
    world = WorldView(TOY)
    model: dict[int, tuple[int, int, dict[str, float | int]]] = {}  # id -> type, handle, fields
    for tick in range(1, data.draw(st.integers(1, 8)) + 1):
        parts = Parts()
        keyframe = tick == 1 or data.draw(st.booleans())
        if keyframe:
            free = list(range(20))
            kept = [id_ for id_ in model if data.draw(st.booleans())]
            model = {id_: (model[id_][0], free.pop(data.draw(st.integers(0, len(free) - 1))), model[id_][2]) for id_ in kept}
            for id_, (type_, handle, fields) in model.items():
                parts.enter(handle, type_, id_, fields)
        else:
            for id_ in [id_ for id_ in model if data.draw(st.integers(0, 3)) == 0]:
                parts.leave(model.pop(id_)[1])
        used = {handle for _, handle, _ in model.values()}
        for _ in range(data.draw(st.integers(0, 4))):
            id_ = data.draw(st.integers(1, 40)) << 20
            handle = data.draw(st.integers(0, 19))
            if id_ not in model and handle not in used:
                type_ = id_ // (1 << 20) % 2
                model[id_] = type_, handle, data.draw(values_of(TOY.entities[type_]))
                used.add(handle)
                parts.enter(handle, type_, id_, model[id_][2])
        for id_, (type_, handle, fields) in model.items():
            changed = {name: value for name, value in data.draw(values_of(TOY.entities[type_])).items() if data.draw(st.booleans())}
            if changed:
                parts.update(handle, type_, changed)
                model[id_] = type_, handle, {**fields, **changed}
        apply(world, parts, flags=KEYFRAME if keyframe else 0, tick=tick)
        assert {id_: entity.fields for id_, entity in world.entities.items()} == {id_: fields for id_, (_, _, fields) in model.items()}


# --- commands -----------------------------------------------------------------------------------------------------


def sent(messages: list[bytes]) -> list[Any]:
    return [msgpack.unpackb(message) for message in messages]


def test_no_command_before_the_first_snapshot() -> None:
    client = ClientProtocol()
    client.hello(token="t")
    client.receive(welcome())
    with pytest.raises(NotReady):
        client.command("steer", mx=1)


def test_numbers_follow_the_acknowledgement() -> None:
    client = playing(ack=17)
    seq, message = client.command("steer", mx=1, fire=1)
    assert (seq, msgpack.unpackb(message)) == (18, [2, 18, 1, 1, 0, 1])
    assert client.command("aim", angle=1.5)[0] == 19
    client.receive(Parts().message(tick=2, ack=18))
    assert client.pending == [19]


@pytest.mark.parametrize(("name", "fields"), [("fly", {}), ("steer", {"z": 1}), ("steer", {"mx": 2}), ("aim", {"angle": float("nan")})])
def test_a_wrong_command_is_an_error_before_it_is_sent(name: str, fields: dict[str, Any]) -> None:
    client = playing()
    with pytest.raises(ProtocolError):
        client.command(name, **fields)
    assert client.command("steer")[0] == 1


def test_a_resume_sends_again_what_the_zone_has_not_applied() -> None:
    client = playing()
    for _ in range(4):
        client.command("steer", mx=1)
    assert msgpack.unpackb(client.hello())[1]["resume"] == "anna.r1"
    client.receive(welcome("anna.r2", 2))
    with pytest.raises(NotReady):
        client.command("steer")
    client.receive(Parts().enter(1, 0, 5, SHIP).message(flags=KEYFRAME, me=5, ack=2))
    assert [message[1] for message in sent(client.outgoing)] == [3, 4]
    assert client.command("steer")[0] == 5
    assert client.resume == "anna.r2"
    assert client.acknowledged_lost == 0


def back_with_commands_in_flight(session: int, resumed: bool) -> ClientProtocol:
    """56 is acknowledged, 57 and 58 are not, as the socket breaks; then there is a welcome to this session."""
    client = playing(ack=55)
    for mx in (0, 1, -1):
        client.command("steer", mx=mx)
    client.receive(Parts().message(tick=2, ack=56))
    client.hello(token=None if resumed else "t")
    client.receive(welcome("anna.r2", session))
    return client


@pytest.mark.parametrize(("session", "resumed"), [(2, True), (2, False), (9, False)])
def test_numbers_go_on_after_the_lobby(session: int, resumed: bool) -> None:
    """What the zone applied before the player was logged out is acknowledged by the next stay, and not sent again."""
    client = back_with_commands_in_flight(session, resumed)
    client.receive(Parts().message(flags=KEYFRAME, tick=900, ack=57))
    assert (client.unknown, client.pending, client.acknowledged_lost) == ([57] if session == 9 else [], [58], 0)
    assert [message[:2] for message in sent(client.outgoing)] == [[2, 58]]
    assert client.command("steer")[0] == 59


@pytest.mark.parametrize(("session", "resumed"), [(2, True), (2, False), (9, False)])
def test_where_the_world_forgot_what_it_acknowledged_no_outcome_is_known_and_nothing_is_sent_again(session: int, resumed: bool) -> None:
    """It may have applied what it forgot: sent again under other numbers, that would be applied twice."""
    client = back_with_commands_in_flight(session, resumed)
    client.receive(Parts().message(flags=KEYFRAME, tick=1, ack=0))
    assert (client.unknown, client.pending, client.renumbered, client.acknowledged_lost) == ([57, 58], [], {}, 1)
    assert client.outgoing == []
    assert client.command("steer")[0] == 1
    client.receive(Parts().message(tick=2, ack=1))
    client.hello()
    client.receive(welcome("anna.r3", session + 1))
    client.receive(Parts().message(flags=KEYFRAME, tick=3, ack=1))
    assert (client.unknown, client.acknowledged_lost) == ([], 1), "that is over"


def test_another_clients_numbers_in_between_renumber_what_is_left() -> None:
    client = playing()
    client.command("steer")
    client.receive(Parts().message(tick=2, ack=1))
    client.command("steer", mx=1)
    client.command("steer", mx=-1)
    client.receive(Parts().message(tick=3, ack=1))
    client.hello()
    client.receive(welcome("anna.r2", 2))
    client._pending.popleft()  # a command that was refused meanwhile leaves a gap
    client.receive(Parts().message(flags=KEYFRAME, tick=9, ack=1))
    assert client.renumbered == {3: 2}
    assert [message[1] for message in sent(client.outgoing)] == [2]


def overtaken(*, sessions: tuple[int, ...], resumed: bool) -> ClientProtocol:
    """Commands 1 to 3 are on their way, 1 is acknowledged; then come welcomes of these sessions, and a snapshot after the last."""
    client = playing()
    for mx in (0, 1, -1):
        client.command("steer", mx=mx)
    client.receive(Parts().message(tick=2, ack=1))
    for session in sessions:
        client.hello(token=None if resumed else "t")
        client.receive(welcome(f"anna.r{session}", session))
    client.receive(Parts().message(flags=KEYFRAME, tick=9, ack=2))
    return client


@pytest.mark.parametrize(("sessions", "resumed"), [((2,), False), ((2,), True), ((5,), True), ((2, 3), False)])
def test_who_was_alone_in_between_knows_what_is_acknowledged(sessions: tuple[int, ...], resumed: bool) -> None:
    client = overtaken(sessions=sessions, resumed=resumed)
    assert (client.unknown, client.pending, client.renumbered) == ([], [3], {})


@pytest.mark.parametrize("sessions", [(3,), (3, 4), (4, 5, 6)])
def test_numbers_that_another_session_has_used_are_unknown_not_acknowledged(sessions: tuple[int, ...]) -> None:
    client = overtaken(sessions=sessions, resumed=False)
    assert (client.unknown, client.pending, client.acknowledged_lost) == ([2], [3], 0)
    client.receive(Parts().message(tick=10, ack=3))
    assert client.pending == []


def test_after_a_refusal_all_that_was_on_its_way_is_awaited_before_numbers_are_used_again() -> None:
    client = playing()
    for _ in range(4):
        client.command("steer")
    assert client.receive(packed([5, 2, "too fast"])) == Refused(2, "too fast")
    assert client.pending == [1]
    with pytest.raises(NotReady):
        client.command("steer")
    client.receive(packed([5, 3, "the next is 2"]))
    with pytest.raises(NotReady):
        client.command("steer")
    client.receive(packed([5, 4, "the next is 2"]))
    assert client.command("steer")[0] == 2


def test_the_window_is_bounded() -> None:
    client = playing()
    for _ in range(64):
        client.command("steer")
    assert not client.ready
    with pytest.raises(NotReady):
        client.command("steer")


@given(st.binary(max_size=64))
@example(b"\x91\xa1\x80")  # text that is not UTF-8
def test_garbage_of_a_server_is_a_typed_error(data: bytes) -> None:
    client = playing()
    try:
        client.receive(data)
    except (ProtocolError, SnapshotError):
        return


def test_messages_of_other_shapes_are_typed_errors() -> None:
    client = playing()
    for message in ([1], [1, {}], [2], [2, 1], [3], [4], [5, 1], [6, 1], [7, 1], [11, 2], [11, "a", 1, []], [None], []):
        with pytest.raises((ProtocolError, SnapshotError)):
            client.receive(packed(message))


def test_a_message_of_a_later_version_is_ignored() -> None:
    assert playing().receive(packed([99, "whatever", {"is": "in it"}])) == Ignored(99)


def test_chat_and_names_are_received() -> None:
    client = playing()
    assert client.receive(packed([6, "ann", "", "hello"])) == ChatReceived("ann", "", "hello")
    assert client.receive(packed([7, [[5, "ann"], [6, ""]]])) == NamesReceived({5: "ann", 6: ""})


def test_an_avatar_comes_with_its_players_key_and_others_with_none() -> None:
    world = WorldView(TOY)
    parts = Parts().enter(1, 0, 5, SHIP, key=(1 << 63) - 1).enter(2, 1, 6, {"x": 1.0, "worth": 10})
    apply(world, parts, flags=KEYFRAME)
    assert (world.entities[5].key, world.entities[6].key) == ((1 << 63) - 1, 0)
