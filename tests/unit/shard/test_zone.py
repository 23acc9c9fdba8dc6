"""A zone is a deterministic function of its log: its lifecycle, and what happens to players and things in it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.ledger.ledger import INBOX_PAGE_ENTRIES
from perdure.ledger.values import CommitAnswer, CommitStatus
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import LOBBY, WorldGrid, player_key
from shard.program import INPUT_CAPACITY, OUT_CAPACITY
from shard.zone import PENDING_PER_PLAYER, TRANSITIONS, Phase, Zone, ZoneError
from tests.unit.shard.zone_lab import World, command_row, now, program

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "small_game.py")
OK = CommitAnswer(CommitStatus.OK)


def small(columns: int = 1, rows: int = 1) -> World:
    return World(program(SMALL), columns, rows)


def everyone_once(world: World) -> None:
    """Every player is in exactly one place: the lobby, one zone's table, or on its way in one inbox or page."""
    for name in world.players:
        place = world.place(name)
        waiting = sum(1 for kind, row in world.in_transit() if kind == "man" and row["player"] >= 0 and row["f"] == serial(name))
        assert len(world.holder(name)) + waiting + (1 if place == LOBBY else 0) == 1, name


def serial(name: str) -> int:
    return player_key(name) & 0xFFFFFFFF


def settle(world: World, ticks: int = 2) -> None:
    for _ in range(ticks):
        world.tick()


# --- lifecycle ----------------------------------------------------------------------------------------------------

MOVES: dict[str, Callable[[Zone], object]] = {
    "recovered": lambda zone: zone.recovered(1, 2),
    "step": lambda zone: zone.step(),
    **{status: partial(lambda status, zone: zone.committed(CommitAnswer(status)), status) for status in CommitStatus},
    "reseeded": lambda zone: zone.reseeded(2, 3),
    "drop": lambda zone: zone.drop(),
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("move", MOVES)
def test_only_the_moves_of_the_table_are_possible(phase: Phase, move: str) -> None:
    zone = Zone(program(SMALL), 0, WorldGrid(100, 100, 1, 1), 1)
    zone.phase = phase
    if (phase, move) in TRANSITIONS:
        MOVES[move](zone)
        assert zone.phase is TRANSITIONS[phase, move]
    else:
        with pytest.raises(ZoneError, match=f"zone 0 at tick 0: '{move}' is not possible while {phase}"):
            MOVES[move](zone)
        assert (zone.phase, zone.tick) == (phase, 0)


@pytest.mark.parametrize("phase", Phase)
def test_checkpoints_restores_and_replays_have_their_phases(phase: Phase) -> None:
    world = small()
    settle(world)
    zone, blob = world.zones[0], world.zones[0].checkpoint()
    records = now(world.ledger.read_log(0, 1))
    zone.phase = phase
    if phase not in (Phase.READY, Phase.HELD, Phase.FROZEN):
        with pytest.raises(ZoneError, match="no checkpoint while"):
            zone.checkpoint()
    fresh = Zone(world.program, 0, world.grid, world.seed)
    fresh.phase = phase
    for act in (lambda: fresh.restore(blob), lambda: fresh.replay(records[-1].record, ())):
        if phase is not Phase.RECOVERING:
            with pytest.raises(ZoneError, match="is not possible while"):
                act()


def test_a_grid_of_another_size_is_refused() -> None:
    with pytest.raises(ZoneError, match="the game's world is"):
        Zone(program(SMALL), 0, WorldGrid(200, 100, 1, 1), 1)


def test_a_zone_starts_once() -> None:
    world = small()
    settle(world, 3)
    assert world.zones[0].totals["started"].tolist() == [1]


def test_the_inbox_page_fits_the_zone() -> None:
    assert INPUT_CAPACITY >= INBOX_PAGE_ENTRIES
    assert OUT_CAPACITY >= 2 * INPUT_CAPACITY


# --- joining and leaving ------------------------------------------------------------------------------------------


def test_a_player_joins_leaves_and_comes_back_with_what_it_had() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    row = world.row("one")
    assert (row["joined"], row["returned"], row["x"], row["y"]) == (1, 0, 50.0, 50.0)
    first_id = int(row["id"])
    row["gold"] = 7
    assert now(world.ledger.leave(one.key, one.session))
    settle(world)
    assert world.holder("one") == []
    assert world.place("one") == LOBBY
    assert world.saved("one")["gold"] == 107, "what the leave hook wrote is saved"
    settle(world)
    assert len(world.zones[0].rows("man")) == 0, "no body stays behind"
    assert world.zones[0].totals["left"].tolist() == [1]
    world.join("one")
    settle(world)
    row = world.row("one")
    assert (row["joined"], row["returned"], row["gold"]) == (2, 1, 107)
    assert int(row["id"]) != first_id, "a new stay is a new entity"
    assert len(world.zones[0].rows("man")) == 1


def test_the_place_of_one_who_left_serves_the_next() -> None:
    world = small()
    for turn in range(12):
        player = world.join(f"p{turn}")
        settle(world)
        assert world.row(f"p{turn}")["player"] == 0
        assert now(world.ledger.leave(player.key, player.session))
        settle(world, 3)
    assert len(world.zones[0].rows("man")) == 0
    assert world.zones[0].player_count() == 0


def test_a_kick_is_a_leave_whatever_the_session() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    assert now(world.ledger.leave(one.key, -1, kick=True))
    settle(world)
    assert world.place("one") == LOBBY


def test_a_command_that_is_sent_again_after_the_grace_time_is_acknowledged_and_not_applied_again() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    for n in range(1, 8):
        world.command("one", "add", n=n)
    lost = one.unacked.copy()  # what its gateway hears of them is lost with the socket
    settle(world, 8)
    before = world.row("one").copy()
    assert now(world.ledger.detach(one.key, one.session))
    settle(world, world.program.game.grace_ticks + 3)
    assert world.place("one") == LOBBY
    again = world.join("one")
    assert again.seq == 7, "the last one that was applied"
    for seq, row in lost.items():
        again.unacked[seq] = row.copy()
        again.unacked[seq][0, 12:14] = np.frombuffer((again.session & 0xFFFF).to_bytes(2, "little"), np.uint8)
    for _ in range(3):
        world.tick(encode=True)
    row = world.row("one")
    assert (row["log"], row["applied"], row["returned"]) == (before["log"], 7, 1)
    assert again.snapshots[0].ack == again.snapshots[-1].ack == 7
    assert world.command("one", "add", n=9) == 8
    settle(world)
    assert (world.row("one")["applied"], world.zones[0].players[0]["last_seq"]) == (8, 8)


def test_a_join_that_finds_a_body_keeps_the_higher_number() -> None:
    """A ledger went back in time: neither what the body has applied nor what was applied elsewhere is applied again."""
    world = small()
    one = world.join("one")
    settle(world)
    for n in (1, 2, 3):
        world.command("one", "add", n=n)
    settle(world, 4)
    zone = world.zones[0]
    for hop, told, kept in ((5, 1, 3), (6, 70, 70), (6, 90, 70)):
        zone.page = (Entry(EntryKind.JOIN, one.key, one.session + hop, 8, 3, hop=hop, last_seq=told).pack(),)
        settle(world)
        assert zone.players[0]["last_seq"] == kept


def test_one_without_a_socket_stays_for_its_grace_time() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    assert now(world.ledger.detach(one.key, one.session))
    settle(world)  # the entry is in the page, then applied
    detached = world.zones[0].tick
    assert world.zones[0].players[0]["gateway"] == 0
    while world.holder("one"):
        world.tick()
        assert world.zones[0].tick < detached + 50
    assert world.zones[0].tick == detached + world.program.game.grace_ticks
    assert world.place("one") == LOBBY


def test_one_who_resumes_in_time_stays() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    assert now(world.ledger.detach(one.key, one.session))
    settle(world, 5)
    again = world.join("one", gateway=4, slot=9)
    settle(world)
    row, player = world.row("one"), world.zones[0].players[0]
    assert (row["joined"], row["resumed"]) == (1, 1)
    assert (player["gateway"], player["slot"], player["session"]) == (4, 9, again.session)
    settle(world, 30)
    assert world.holder("one") == [0]


@pytest.mark.parametrize("kick", [False, True])
def test_one_who_leaves_and_comes_back_in_one_tick_stays(kick: bool) -> None:
    world = small()
    one = world.join("one")
    settle(world)
    assert now(world.ledger.leave(one.key, -1 if kick else one.session, kick=kick))
    again = world.join("one", gateway=4, slot=9)
    settle(world)
    player = world.zones[0].players[0]
    assert (player["gateway"], player["slot"], player["session"], player["leaving"]) == (4, 9, again.session, 0)
    settle(world, 5)
    assert world.holder("one") == [0]
    assert (world.row("one")["joined"], world.row("one")["resumed"]) == (1, 1)


def test_words_of_an_older_session_are_void() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    again = world.join("one", gateway=4, slot=9)
    settle(world)
    zone = world.zones[0]
    for entry in (
        Entry(EntryKind.DETACH, one.key, one.session), Entry(EntryKind.LEAVE, one.key, one.session),
        Entry(EntryKind.ATTACH, one.key, one.session, 1, 1), Entry(EntryKind.LEAVE, 999, 1), Entry(EntryKind.KICK, 998),
    ):  # fmt: skip
        zone.page = (*zone.page, entry.pack())
    settle(world)
    player = zone.players[0]
    assert (player["gateway"], player["session"], player["leaving"]) == (4, again.session, 0)


def test_a_lost_gateway_detaches_its_players_only() -> None:
    world = small()
    world.join("one", gateway=5)
    world.join("two", gateway=6)
    settle(world)
    now(world.ledger.gateway_lost(world.term, 5))
    settle(world)
    assert sorted(world.zones[0].players["gateway"].tolist()) == [0, 6]
    settle(world, 15)
    assert world.place("one") == LOBBY
    assert world.holder("two") == [0]


def test_a_join_into_a_full_zone_goes_back_to_the_lobby_unharmed() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    world.row("one")["gold"] = 50
    now(world.ledger.leave(one.key, one.session))
    settle(world, 3)
    for name in "abc":
        world.join(name)
    settle(world)
    world.join("one")
    settle(world)
    assert world.place("one") == LOBBY
    assert world.holder("one") == []
    assert world.saved("one")["gold"] == 150
    assert sorted(world.holder(name) for name in "abc") == [[0]] * 3


def test_an_entry_that_comes_twice_makes_no_second_body() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    zone = world.zones[0]
    again = Entry(EntryKind.JOIN, one.key, one.session + 1, 8, 3, payload=b"").pack()
    zone.page = (again, again, Entry(EntryKind.JOIN, one.key, one.session).pack())
    settle(world)
    assert len(zone.rows("man")) == 1
    assert zone.player_count() == 1
    assert (zone.players[0]["gateway"], zone.players[0]["session"]) == (8, one.session + 1)


ENTRY = st.builds(
    lambda kind, type_, player, payload: Entry(kind, player, type=type_, payload=payload).pack(),
    st.sampled_from(EntryKind), st.integers(0, 5), st.integers(0, 3), st.sampled_from([b"", b"\0", b"\xff\xff", b"\2\0[]1234"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=80), ENTRY), max_size=8))
def test_entries_that_cannot_be_read_have_no_effect(page: list[bytes]) -> None:
    zone = Zone(program(SMALL), 0, WorldGrid(100, 100, 1, 1), 1)
    zone.recovered(1, 1)
    zone.page = tuple(page)
    zone.step()
    assert zone.bad_entries <= len(page)
    assert len(zone.rows("pebble")) == 0
    assert all(row["id"] != 0 for row in zone.rows("man"))


# --- crossing -----------------------------------------------------------------------------------------------------


def test_a_crossing_keeps_row_player_numbers_and_session() -> None:
    world = small(2, 1)
    one = world.join("one", gateway=3, slot=5)
    settle(world)
    for n in (1, 2, 3):
        world.command("one", "add", n=n)
    settle(world, 4)
    before = world.row("one").copy()
    world.command("one", "go", x=75.0, y=20.0)
    world.tick()
    assert world.holder("one") == [], "it is between the zones"
    world.tick()
    assert world.holder("one") == [1]
    row, player = world.row("one"), world.zones[1].players[0]
    assert [row[n] for n in ("id", "log", "applied", "joined", "gold")] == [before[n] for n in ("id", "log", "applied", "joined", "gold")]
    assert (row["x"], row["y"], row["dead"]) == (75.0, 20.0, 0)
    assert [int(player[n]) for n in ("session", "gateway", "slot", "hop", "last_seq")] == [one.session, 3, 5, 2, 4]
    assert world.place("one") == 1
    assert len(world.zones[0].rows("man")) == 0
    world.command("one", "go", x=10.0, y=20.0)
    settle(world, 3)  # zone 0 commits before zone 1, so its page holds the entry a tick later
    assert world.holder("one") == [0]
    assert world.zones[0].players[0]["hop"] == 3


def test_a_border_is_crossed_beyond_its_hysteresis_only() -> None:
    world = small(2, 1)
    world.join("one")
    settle(world)
    for x, zone in ((50.9, 0), (51.0, 1), (49.1, 1), (48.9, 0), (-500.0, 0), (500.0, 1)):
        world.command("one", "go", x=x, y=20.0)
        settle(world, 3)
        assert world.holder("one") == [zone], x


def test_two_who_swap_full_zones_in_one_tick() -> None:
    world = small(2, 1)
    for k in range(6):
        world.join(f"p{k}", zone=k // 3)
    settle(world)
    for k in range(6):
        world.command(f"p{k}", "go", x=75.0 if k < 3 else 25.0, y=float(10 * k))
    settle(world, 3)
    assert [world.holder(f"p{k}") for k in range(6)] == [[1]] * 3 + [[0]] * 3
    assert all(world.row(f"p{k}")["y"] == 10 * k for k in range(6))


def test_a_corner_is_crossed_in_one_step() -> None:
    world = small(2, 2)
    world.join("one")
    settle(world)
    world.command("one", "go", x=52.0, y=52.0)
    settle(world)
    assert world.holder("one") == [3]
    assert world.zones[3].players[0]["hop"] == 2


def test_one_who_finds_no_room_beyond_the_border_comes_back_and_tries_again() -> None:
    world = small(2, 1)
    for name in "abc":
        world.join(name, zone=1)
    world.join("one")
    for name in ("a", "b", "c", "one"):
        world.command(name, "types", f=serial(name))
    settle(world)
    world.command("one", "go", x=80.0, y=20.0)
    hops = set()
    for _ in range(19):
        world.tick()
        everyone_once(world)
        hops |= {int(p["hop"]) for p in world.zones[0].players if p["key"] == player_key("one")}
    assert len(hops) >= 3, "it was sent back more than once"
    assert all(world.holder(name) == [1] for name in "abc")
    world.command("b", "go", x=10.0, y=10.0)
    for _ in range(11):
        world.tick()
        everyone_once(world)
    assert world.holder("one") == [1]
    assert world.row("one")["x"] == 80.0
    assert world.holder("b") == [0]


def test_a_thing_crosses_comes_back_where_there_is_no_room_and_is_never_lost() -> None:
    world = small(2, 1)
    world.join("east", zone=1)
    world.join("west", zone=0)
    settle(world)
    for _ in range(2):
        world.command("east", "throw", vx=0.0)
    world.command("west", "go", x=45.0, y=30.0)
    world.command("west", "throw", vx=100.0)
    ids, here, there = set(), [], []
    for _ in range(10):
        world.tick()
        here = [int(p["id"]) for z in world.zones.values() for p in z.rows("pebble") if p["dead"] == 0]
        there = [int(row["id"]) for kind, row in world.in_transit() if kind == "pebble"]
        assert len(here + there) == len(set(here + there))
        ids |= set(here + there)
    assert len(here + there) == len(ids) == 3
    assert len(world.zones[1].rows("pebble")) == 2, "two are all that fit"


def test_a_place_that_is_no_number_stays_where_it_is() -> None:
    world = small(2, 1)
    world.join("one", zone=1)
    settle(world)
    world.row("one")["x"] = math.nan
    settle(world, 4)
    assert world.holder("one") == [1]
    assert world.zones[1].encode()


def test_leaving_and_crossing_in_one_tick_is_leaving() -> None:
    world = small(2, 1)
    one = world.join("one")
    settle(world)
    assert now(world.ledger.leave(one.key, one.session))
    world.tick()
    world.command("one", "go", x=80.0, y=20.0)
    settle(world, 2)
    assert world.place("one") == LOBBY
    assert world.saved("one")["x"] == 80.0
    assert all(len(zone.rows("man")) == 0 for zone in world.zones.values())


# --- commands -----------------------------------------------------------------------------------------------------


def folded(numbers: list[int]) -> int:
    log = 0
    for n in numbers:
        log = log * 31 + n
    return log


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=10), st.integers(0, 1 << 30), st.booleans())
def test_every_command_is_applied_once_in_order_one_a_tick(numbers: list[int], seed: int, crossing: bool) -> None:
    world, rng = small(2, 1), random.Random(seed)
    world.join("one")
    settle(world)
    for n in numbers:
        world.command("one", "add", n=n)
    applied = 0
    for _ in range(6 * len(numbers) + 12):
        if rng.random() < 0.4 and world.holder("one"):  # copies, in any order
            zone = world.zones[rng.choice(world.holder("one"))]
            rows = list(world.players["one"].unacked.values())
            rng.shuffle(rows)
            for row in rows:
                assert zone.add_commands(row)
        if crossing and rng.random() < 0.3 and world.holder("one"):
            world.row("one")["x"] = rng.choice([20.0, 80.0])
        world.tick()
        row = world.row("one")
        if row is not None:
            assert applied <= row["applied"] <= applied + 1
            applied = int(row["applied"])
    settle(world, 2)
    row = world.row("one")
    assert (row["applied"], row["log"]) == (len(numbers), folded(numbers))
    assert all(zone._pending_count == 0 for zone in world.zones.values())


def test_old_commands_and_those_of_strangers_are_dropped() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    zone = world.zones[0]
    for seq, n in ((2, 1), (1, 2), (2, 3), (3, 4), (5, 6)):
        zone.add_commands(command_row(world.program, one.key, seq, "add", n=n))
    zone.add_commands(command_row(world.program, 4711, 1, "add", n=9))
    settle(world, 5)
    row = world.row("one")
    assert row["log"] == folded([2, 1, 4]), "in order of their numbers; of one number the first copy"
    assert zone._pending_count == 1, "number 5 waits until 4 is here"
    zone.add_commands(command_row(world.program, one.key, 4, "add", n=5))
    settle(world, 2)
    assert row["log"] == folded([2, 1, 4, 5, 6])
    for seq in (3, 5):
        zone.add_commands(command_row(world.program, one.key, seq, "add", n=9))
    settle(world)
    assert (world.row("one")["applied"], zone._pending_count) == (5, 0)


def test_commands_of_a_session_that_is_over_leave_their_numbers_to_the_next() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    zone = world.zones[0]
    again = world.join("one", gateway=2)  # another device: it knows nothing of what the first one has sent
    world.tick()
    zone.add_commands(command_row(world.program, one.key, 1, "add", n=1, session=one.session))  # in time: applied, and seen by the next
    world.tick()
    assert world.zones[0].players[0]["session"] == again.session
    for seq in (2, 3):
        zone.add_commands(command_row(world.program, one.key, seq, "add", n=9, session=one.session))
    zone.add_commands(command_row(world.program, one.key, 2, "add", n=2, session=again.session))
    settle(world, 3)
    assert (world.row("one")["log"], zone._pending_count) == (folded([1, 2]), 0)


def test_a_full_queue_takes_the_first_of_what_does_not_fit_and_says_so() -> None:
    world = small()
    one = world.join("one")
    settle(world)
    zone = world.zones[0]
    limit = PENDING_PER_PLAYER * 3
    rows = np.concatenate([command_row(world.program, one.key, seq, "add", n=1) for seq in range(1, limit + 1)])
    assert zone.add_commands(rows[:-1])
    assert not zone.add_commands(rows[-1:].repeat(2, axis=0))
    assert np.array_equal(zone.queued(), rows)
    assert not zone.add_commands(rows[:1])
    settle(world, 3)
    assert (world.row("one")["applied"], zone._pending_count) == (3, limit - 3)


@settings(max_examples=40, deadline=None)
@given(st.tuples(
    st.integers(-128, 127), st.integers(-32768, 32767), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 255), st.integers(0, 65535),
    st.integers(0, (1 << 32) - 1), st.floats(-1e9, 1e9, width=32), st.floats(-1e300, 1e300), st.integers(0, 1),
    st.integers(-(1 << 53), 1 << 53)))  # fmt: skip
def test_every_type_of_field_reaches_the_rules(values: tuple[float, ...]) -> None:
    zone = Zone(program(SMALL), 0, WorldGrid(100, 100, 1, 1), 1)
    zone.recovered(1, 1)
    zone.page = (Entry(EntryKind.JOIN, 5, 1, 1, 1).pack(),)
    zone.step()
    zone.committed(OK)
    zone.add_commands(command_row(program(SMALL), 5, 1, "types", **dict(zip("abcdefghij", values, strict=True))))  # pyright: ignore[reportArgumentType]
    zone.step()
    row = zone.rows("man")[0]
    assert [row[name] for name in (*"abcdefghi", "log")] == [*values]


def test_who_counts_players_in_the_middle_of_a_tick_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(program("tag"), 1, 1)
    zone, step, seen = world.zones[0], world.program.step, list[int]()

    def watched(arrays: Any) -> Any:
        seen.append(zone.player_count())
        return step(arrays)

    monkeypatch.setitem(world.program.__dict__, "step", watched)
    world.join("a")
    for _ in range(2):
        world.tick()
    assert seen == [0, 0]
    assert zone.player_count() == 1


def test_players_are_counted_anew_after_each_tick_and_in_a_restored_zone() -> None:
    world = World(program("tag"), 1, 1)
    zone = world.zones[0]
    assert zone.player_count() == 0
    for count, name in enumerate("ab", 1):
        world.join(name)
        for _ in range(2):
            world.tick()
        assert zone.player_count() == count
    other = Zone(world.program, 0, world.grid, zone.seed)
    assert other.player_count() == 0
    other.restore(zone.checkpoint())
    assert other.player_count() == 2
