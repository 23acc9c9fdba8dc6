"""Who finds no room in a full zone goes back as the entries behind its arrival, of the same page, leave it: nothing of them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.game.contract import row_dtype
from perdure.game.portable import pack_rows, unpack_rows
from perdure.ledger.values import Transfer
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY, WorldGrid
from shard.kernels import layout
from shard.zone import Zone
from tests.unit.shard.test_zone import SMALL, everyone_once, serial, settle, small
from tests.unit.shard.zone_lab import Player, World, now, program

ONE = 77
"""The key of the player who finds no room."""
GATEWAYS = 3
STAY_TICKS = 5
"""Half a second of the small game: how long one plays where it was, before it tries a full zone again."""


def man(**values: float) -> bytes:
    """Return the row of a player who crosses a border, as an entry carries it."""
    row = np.zeros(1, row_dtype(program(SMALL).game.entities[0]))
    row["x"], row["y"], row["dead"], row["id"] = 80.0, 20.0, layout.DEAD_DEPARTED, 500
    for name, value in values.items():
        row[name] = value
    return pack_rows(row)


def zone_with(players: int) -> Zone:
    """Return a zone of a world of two, with so many players in it; three are all that fit."""
    zone = Zone(program(SMALL), 1, WorldGrid(100, 100, 2, 1), 7)
    zone.recovered(1, 1)
    step(zone, [Entry(EntryKind.JOIN, 1000 + k, 1, 1, k, hop=1) for k in range(players)])
    return zone


def step(zone: Zone, page: list[Entry]) -> list[Transfer]:
    """Run one tick on a page, as its owner would; return what it sends away."""
    zone.page = tuple(entry.pack() for entry in page)
    commit = zone.step()
    zone.phase = zone.phase.READY
    return list(commit.transfers)


def row_of(payload: bytes) -> Any:
    return unpack_rows(payload, row_dtype(program(SMALL).game.entities[0]))[0]


def arrive(session: int = 1, gateway: int = 1, slot: int = 5, hop: int = 4, gold: int = 30, last_seq: int = 9) -> Entry:
    return Entry(EntryKind.ARRIVE, ONE, session, gateway, slot, hop, last_seq, 0, 0, man(gold=gold))


ATTACH, DETACH, LEAVE, KICK = EntryKind.ATTACH, EntryKind.DETACH, EntryKind.LEAVE, EntryKind.KICK
BEHIND: dict[str, tuple[list[Entry], tuple[int, int, int]]] = {
    "nothing": ([], (1, 1, 5)),
    "attach": ([Entry(ATTACH, ONE, 2, 3, 8)], (2, 3, 8)),
    "attach of an older session": ([Entry(ATTACH, ONE, 1, 3, 8)], (1, 1, 5)),
    "detach": ([Entry(DETACH, ONE, 1)], (1, 0, 5)),
    "detach of an older session": ([Entry(ATTACH, ONE, 2, 3, 8), Entry(DETACH, ONE, 1)], (2, 3, 8)),
    "gateway lost": ([Entry(EntryKind.GATEWAY_LOST, gateway=1)], (1, 0, 5)),
    "another gateway lost": ([Entry(EntryKind.GATEWAY_LOST, gateway=2)], (1, 1, 5)),
    "gateway lost, and attached elsewhere": ([Entry(EntryKind.GATEWAY_LOST, gateway=1), Entry(ATTACH, ONE, 2, 3, 8)], (2, 3, 8)),
    "attached, and that gateway lost": ([Entry(ATTACH, ONE, 2, 3, 8), Entry(EntryKind.GATEWAY_LOST, gateway=3)], (2, 0, 8)),
    "leave, and back again": ([Entry(LEAVE, ONE, 1), Entry(ATTACH, ONE, 2, 3, 8)], (2, 3, 8)),
    "leave of an older session": ([Entry(ATTACH, ONE, 2, 3, 8), Entry(LEAVE, ONE, 1)], (2, 3, 8)),
    "somebody else's": ([Entry(ATTACH, ONE + 1, 2, 3, 8), Entry(KICK, ONE + 1), Entry(DETACH, ONE + 1, 1)], (1, 1, 5)),
}


@pytest.mark.parametrize("name", BEHIND)
def test_who_arrives_in_a_full_zone_goes_back_with_its_newest_session(name: str) -> None:
    behind, expected = BEHIND[name]
    (back,) = step(zone_with(3), [arrive(), *behind])
    entry = unpack_entry(back.entry)
    assert (back.target, back.player, entry.kind, entry.hop, entry.last_seq, entry.origin) == (0, ONE, EntryKind.ARRIVE, 5, 9, 1)
    assert (entry.session, entry.gateway, entry.slot) == expected
    row = row_of(entry.payload)
    assert (row["gold"], row["id"], row["x"], row["dead"]) == (30, 500, 80.0, layout.DEAD_DEPARTED)
    assert row["resumed"] == (expected[0] == 2), "the rules hear of who is back, as they would where there is room"


@pytest.mark.parametrize("entry", [Entry(LEAVE, ONE, 1), Entry(KICK, ONE, 1), Entry(KICK, ONE, 0)])
def test_who_is_to_leave_and_arrives_in_a_full_zone_goes_to_the_lobby(entry: Entry) -> None:
    zone = zone_with(3)
    (out,) = step(zone, [arrive(), entry, Entry(DETACH, ONE, 1)])
    left = unpack_entry(out.entry)
    assert (out.target, out.player) == (LOBBY, ONE)
    assert (left.kind, left.session, left.gateway, left.hop, left.last_seq) == (LEAVE, 1, 0, 5, 9)
    assert row_of(left.payload)["gold"] == 130, "the rules hear that it leaves"
    assert zone.totals["left"][0] == 1
    assert zone.player_count() == 3


@pytest.mark.parametrize(
    "entry", [Entry(LEAVE, ONE, 2), Entry(KICK, ONE, 2), Entry(DETACH, ONE, 2), Entry(EntryKind.GATEWAY_LOST, gateway=3), None]
)
def test_a_login_into_a_full_zone_goes_to_the_lobby_in_its_newest_session(entry: Entry | None) -> None:
    zone = zone_with(3)
    join = Entry(EntryKind.JOIN, ONE, 1, 1, 5, 4, payload=man(gold=30))
    (out,) = step(zone, [join, Entry(ATTACH, ONE, 2, 3, 8), *([entry] if entry else [])])
    left = unpack_entry(out.entry)
    assert (out.target, left.kind, left.session, left.hop, left.payload) == (LOBBY, LEAVE, 2, 5, join.payload)
    assert zone.totals["left"][0] == 0, "it had not come in"


@pytest.mark.parametrize("entry", [Entry(ATTACH, ONE, 2, 3, 8), Entry(LEAVE, ONE, 1), Entry(KICK, ONE)])
def test_what_stands_before_an_arrival_is_not_for_it(entry: Entry) -> None:
    (back,) = step(zone_with(3), [entry, arrive()])
    assert unpack_entry(back.entry) == Entry(EntryKind.ARRIVE, ONE, 1, 1, 5, 5, 9, 0, 1, arrive().payload)


@pytest.mark.parametrize("later", [arrive(2, 3, 8, 7, 31), Entry(EntryKind.JOIN, ONE, 2, 3, 8, 7, payload=man(gold=31))])
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_arrivals_in_one_page_the_later_move_goes_back_alone(later: Entry, turned: bool) -> None:
    page = [later, arrive()] if turned else [arrive(), Entry(LEAVE, ONE, 1), later]
    (out,) = step(zone_with(3), page)
    back = unpack_entry(out.entry)
    assert out.target == (0 if later.kind is EntryKind.ARRIVE else LOBBY)
    assert (back.session, back.hop, row_of(back.payload)["gold"]) == (2, 8, 31)


def entries(kind: EntryKind) -> st.SearchStrategy[Entry]:
    sessions, gateways = st.integers(1, 4), st.integers(1, GATEWAYS)
    if kind is EntryKind.ARRIVE:
        return st.builds(arrive, sessions, st.integers(0, GATEWAYS), st.integers(0, 9), st.integers(3, 6), st.integers(0, 50))
    if kind is EntryKind.GATEWAY_LOST:
        return st.builds(lambda gateway: Entry(EntryKind.GATEWAY_LOST, gateway=gateway), gateways)
    if kind is ATTACH:
        return st.builds(lambda session, gateway, slot: Entry(ATTACH, ONE, session, gateway, slot), sessions, gateways, st.integers(0, 9))
    return st.builds(lambda session: Entry(kind, ONE, session), sessions)


KINDS = (ATTACH, DETACH, LEAVE, KICK, EntryKind.GATEWAY_LOST, EntryKind.ARRIVE)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(*map(entries, KINDS)), max_size=3), entries(EntryKind.ARRIVE), st.lists(st.one_of(*map(entries, KINDS)), max_size=6)
)
def test_what_goes_back_is_what_a_zone_with_room_would_have(before: list[Entry], first: Entry, behind: list[Entry]) -> None:
    """The twin of a full zone is one with room: the same page makes the same player of it."""
    page = [*before, first, *behind]
    full, roomy = zone_with(3), zone_with(2)
    (out,), there = step(full, page), step(roomy, page)
    back = unpack_entry(out.entry)
    row = row_of(back.payload)
    left_before = 1 if there else 0
    assert int(full.totals["left"][0]) == int(roomy.totals["left"][0]) == left_before
    if there:
        expected = unpack_entry(there[0].entry)
        other = row_of(expected.payload)
        assert (out.target, back.kind, back.session, back.hop, back.last_seq) == (
            LOBBY, expected.kind, expected.session, expected.hop, expected.last_seq,
        )  # fmt: skip
    else:
        (player,) = roomy.players[roomy.players["key"] == ONE]
        other = roomy.rows("man")[player["row"]]
        assert (out.target, back.kind, back.origin) == (0, EntryKind.ARRIVE, 1)
        assert [back.session, back.gateway, back.slot, back.hop - 1, back.last_seq] == [
            int(player[name]) for name in ("session", "gateway", "slot", "hop", "last_seq")
        ]
    assert all(row[name] == other[name] for name in ("id", "x", "y", "gold", "resumed", "joined"))


# --- with the ledger ----------------------------------------------------------------------------------------------


def on_its_way() -> tuple[World, Player]:
    """Zone 1 is full; "one" has left zone 0 for it, and stands in its inbox."""
    world = small(2, 1)
    for name in "abc":
        world.join(name, zone=1)
    one = world.join("one")
    for name in ("a", "b", "c", "one"):
        world.command(name, "types", f=serial(name))
    settle(world, 4)
    world.command("one", "go", x=80.0, y=20.0)
    world.tick(order=(1, 0))
    assert world.place("one") == 1 and world.holder("one") == []
    assert [unpack_entry(data).kind for data in now(world.ledger.read_inbox(1))] == [EntryKind.ARRIVE]
    return world, one


def bounce(world: World, *kinds: EntryKind) -> Entry:
    """Zone 1 takes what is in its inbox as one page, refuses, and the record says where "one" goes; return the entry that goes back."""
    world.tick(order=(1, 0))
    page = [unpack_entry(data).kind for data in world.zones[1].page]
    assert page == [EntryKind.ARRIVE, *kinds], "all of it in one page"
    world.tick(order=(1, 0))
    (back,) = [unpack_entry(t.entry) for commit in world.commits for t in commit.transfers if t.player and commit.zone == 1]
    everyone_once(world)
    return back


def make_room(world: World) -> None:
    world.command("b", "go", x=10.0, y=10.0)
    for _ in range(6 + STAY_TICKS):
        world.tick(encode=True)
        everyone_once(world)


def test_a_player_who_resumes_while_it_is_sent_back_plays_in_its_new_session() -> None:
    world, _ = on_its_way()
    one = world.join("one", gateway=2, slot=9)
    assert one.session == 2
    back = bounce(world, ATTACH)
    assert (back.session, back.gateway, back.slot) == (2, 2, 9)
    make_room(world)
    (player,) = world.zones[1].players[world.zones[1].players["key"] == one.key]
    record = now(world.ledger.player(one.key))
    assert record is not None
    assert [int(player[n]) for n in ("session", "gateway", "slot")] == [2, 2, 9]
    assert (record.presence.place, record.presence.session, record.presence.gateway, record.presence.slot) == (1, 2, 2, 9)
    assert one.snapshots, "it is shown the world by its new socket"
    world.command("one", "add", n=3)
    settle(world)
    assert world.row("one")["applied"] == 1, "and what it sends is done"


@pytest.mark.parametrize("how", [DETACH, EntryKind.GATEWAY_LOST])
def test_a_player_whose_socket_goes_while_it_is_sent_back_has_its_grace_time(how: EntryKind) -> None:
    world, one = on_its_way()
    if how is DETACH:
        assert now(world.ledger.detach(one.key, one.session))
    else:
        now(world.ledger.gateway_lost(world.term, 1))
    back = bounce(world, how)
    assert (back.session, back.gateway) == (1, 0)
    settle(world)
    assert world.holder("one") == [0]
    settle(world, 8)
    assert world.holder("one") == [0], "it does not go to and fro: its grace time would begin anew each time"
    settle(world, 2)
    assert world.holder("one") == [] and world.place("one") == LOBBY, "its grace time is over"


@pytest.mark.parametrize("kick", [False, True])
def test_a_player_who_leaves_while_it_is_sent_back_is_out(kick: bool) -> None:
    world, one = on_its_way()
    assert now(world.ledger.leave(one.key, -1 if kick else one.session, kick=kick))
    back = bounce(world, KICK if kick else LEAVE)
    assert back.kind is LEAVE
    assert world.place("one") == LOBBY and world.holder("one") == []
    assert (world.saved("one")["gold"], world.saved("one")["x"]) == (100, 80.0)
    settle(world, 3)
    assert world.in_transit() == []
    assert [len(zone.rows("man")) for zone in world.zones.values()] == [0, 3]


def test_one_who_resumes_after_a_login_for_which_there_is_no_room_is_in_the_lobby() -> None:
    world = small()
    for name in "abc":
        world.join(name)
    settle(world)
    world.join("one")
    one = world.join("one", gateway=2, slot=9)
    settle(world)
    record = now(world.ledger.player(one.key))
    assert record is not None
    assert (record.presence.place, record.presence.session, record.presence.gateway) == (LOBBY, 2, -1)
    assert world.zones[0].passages.since(0)[-1].transfer.entry[4:8] == (2).to_bytes(4, "little"), "a reseed says the same session"
    now(world.ledger.leave(world.players["a"].key, 1))
    settle(world, 3)
    world.join("one")
    settle(world)
    assert world.holder("one") == [0]


def test_one_who_walks_against_a_full_zone_plays_and_can_turn_round() -> None:
    """On its way there and back nothing of it is applied; so it does not go there again at once."""
    world, one = on_its_way()
    world.tick()
    here = list[bool]()
    for _ in range(40):
        world.command("one", "add", n=1)
        world.tick()
        everyone_once(world)
        here.append(world.holder("one") == [0])
    assert here.count(True) >= 20 and here.count(False) >= 8, "it is back for some time, and asks again and again"
    assert len(one.unacked) <= here.count(False) + here[1:].count(True) // STAY_TICKS, "each tick here but the first applies one"
    world.command("one", "go", x=10.0, y=20.0)
    while one.unacked:
        world.tick()
    settle(world, 3 * STAY_TICKS)
    assert (world.holder("one"), world.row("one")["x"]) == ([0], 10.0)
    world.command("one", "go", x=80.0, y=20.0)
    make_room(world)
    assert world.holder("one") == [1], "where there is room, it crosses"
    assert [int(zone.players["stay"].max()) for zone in world.zones.values()] == [0, 0]


def test_one_who_has_turned_round_crosses_the_next_time_at_once() -> None:
    world, _ = on_its_way()
    while world.holder("one") != [0]:
        settle(world, 1)
    assert int(world.zones[0].players["stay"].max()) > 0
    world.command("one", "go", x=10.0, y=20.0)
    settle(world, 2)
    assert int(world.zones[0].players["stay"].max()) == 0
    world.command("b", "go", x=10.0, y=10.0)
    settle(world, 3)
    world.command("one", "go", x=80.0, y=20.0)
    settle(world, 2)
    assert world.holder("one") == [1]


def test_however_slow_ticks_are_who_is_back_from_a_full_zone_plays(tmp_path: Path) -> None:
    slow = tmp_path / "slow_game.py"
    slow.write_text(Path(SMALL).read_text().replace("tick_hz=10", "tick_hz=1"))
    zone = Zone(program(str(slow)), 1, WorldGrid(100, 100, 2, 1), 7)
    zone.recovered(1, 1)
    step(zone, [Entry(EntryKind.ARRIVE, ONE, 1, 1, 5, 4, 9, 0, 0, man(x=20.0))])
    assert [int(stay) for stay in zone.players["stay"]] == [2]
    assert step(zone, []) == [] and step(zone, []) == []
    (gone,) = step(zone, [])
    assert gone.target == 0


def test_a_replay_sends_back_the_same() -> None:
    world, _ = on_its_way()
    world.put_checkpoint(1)
    world.join("one", gateway=2, slot=9)
    bounce(world, ATTACH)
    settle(world, 3)
    again = Zone(world.program, 1, world.grid, world.seed)
    checkpoint = now(world.ledger.zone_head(1)).checkpoints[0]
    again.restore(now(world.ledger.read_checkpoint(1, checkpoint[0])) or b"")
    for logged in now(world.ledger.read_log(1, again.tick + 1, 100)):
        again.replay(logged.record, logged.page)
    assert (again.state_hash, again.digest) == (world.zones[1].state_hash, world.zones[1].digest)
    assert again.passages.image() == world.zones[1].passages.image()
