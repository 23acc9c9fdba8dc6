"""A ledger went back to before a player's login, the world was opened, the player logged in again, and only then does the owner of the
zone that the player had been in put its zone back: the newer login holds, and nobody is in two zones or in none."""

from __future__ import annotations

import pytest

import perdure.ledger.memory_ledger
from perdure.ledger.generations import MOVES_A_GENERATION
from perdure.ledger.values import CommitAnswer, CommitStatus
from perdure.wire.entries import Entry, EntryKind
from tests.unit.shard.test_durability import SMALL, refused, reseed
from tests.unit.shard.zone_lab import KEYFRAME, World, now, program

WEST, EAST = 10.0, 80.0


def opened_too_early() -> World:
    """Zone 1's owner holds a body of "one", of whom the ledger knows nothing; zone 0 is put back, and the world is open."""
    world = World(program(str(SMALL)), 2, 1)
    world.join("two")
    for _ in range(3):
        world.tick(encode=True)
    kept = world.store.snapshot()
    world.join("one", zone=1)
    for _ in range(3):
        world.tick(encode=True)
    world.row("one")["gold"] = 41
    world.store.restore(kept)
    refused(world, 0)
    reseed(world, 0)
    now(world.ledger.open_world(world.term))
    return world


def come_late(world: World, *numbers: int) -> None:
    for number in numbers:
        refused(world, number)
        reseed(world, number)


def in_one_place(world: World, zone: int) -> None:
    """Check where "one" is, and that it goes over the border and back, and out."""
    for _ in range(4):
        world.tick(encode=True)
    for number in (zone, 1 - zone, zone):
        if number != zone or world.holder("one") != [zone]:
            world.command("one", "go", x=EAST if number else WEST, y=20.0)
            for _ in range(6):
                world.tick(encode=True)
        assert world.holder("one") == [world.place("one")] == [number]
        world.check_view("one")
        assert len([row for z in world.zones.values() for row in z.rows("man")]) == 2, "one and two, and no copy of one"
    gold = int(world.row("one")["gold"])
    assert now(world.ledger.leave(world.players["one"].key, world.players["one"].session))
    for _ in range(3):
        world.tick(encode=True)
    assert world.holder("one") == [] and world.place("one") == -1 and world.saved("one")["gold"] == gold + 100


@pytest.mark.parametrize("zone", [0, 1])
def test_who_logged_in_again_before_an_owner_came_late(zone: int) -> None:
    world = opened_too_early()
    world.join("one", zone=zone)
    come_late(world, 1)
    for _ in range(2):
        world.tick(encode=True)
    row = world.row("one")
    assert row["gold"] == (41 if zone else 0), "nothing is known of it elsewhere; in its own zone it is as it was"
    in_one_place(world, zone)


def test_who_walked_to_the_zone_of_an_owner_that_comes_late() -> None:
    """What arrives is newer than the body that is there: the row that arrived holds, under its own id."""
    world = opened_too_early()
    world.join("one", zone=0)
    late = world.zones.pop(1)
    world.command("one", "go", x=EAST, y=20.0)
    for _ in range(6):
        world.tick(encode=True)
        if (row := world.row("one")) is not None:
            row["gold"] = 7
    assert world.place("one") == 1 and world.in_transit() == []
    world.zones[1] = late
    come_late(world, 1)
    for _ in range(2):
        world.tick(encode=True)
    assert world.holder("one") == [1] and world.row("one")["gold"] == 7
    in_one_place(world, 1)


def test_who_logged_out_again_before_an_owner_came_late() -> None:
    world = opened_too_early()
    one = world.join("one", zone=0)
    late = world.zones.pop(1)
    for _ in range(2):
        world.tick(encode=True)
    world.row("one")["gold"] = 7
    assert now(world.ledger.leave(one.key, one.session))
    for _ in range(3):
        world.tick(encode=True)
    assert world.place("one") == -1
    world.zones[1] = late
    come_late(world, 1)
    for _ in range(3):
        world.tick(encode=True)
    assert world.holder("one") == [] and world.place("one") == -1
    assert world.saved("one")["gold"] == 107, "the body that is left over is not saved over what left zone 0 with 100 more"
    assert len(world.zones[1].rows("man")) == 0
    world.join("one", zone=1)
    in_one_place(world, 1)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("zone", [0, 1, 2])
def test_two_owners_that_come_late(zone: int, order: tuple[int, int]) -> None:
    """Zone 2 has sent the player to zone 1; neither is put back before it has logged in again, to any of the three."""
    world = World(program(str(SMALL)), 3, 1)
    world.join("two")
    for _ in range(3):
        world.tick(encode=True)
    kept = world.store.snapshot()
    world.join("one", zone=2)
    for _ in range(2):
        world.tick(encode=True)
    world.command("one", "go", x=50.0, y=20.0)
    for _ in range(4):
        world.tick(encode=True)
    assert world.holder("one") == [1]
    world.store.restore(kept)
    refused(world, 0)
    reseed(world, 0)
    now(world.ledger.open_world(world.term))
    world.join("one", zone=zone)
    come_late(world, *order)
    for _ in range(4):
        world.tick(encode=True)
    assert world.holder("one") == [world.place("one")] == [zone]
    world.players["one"].seq = world.players["one"].snapshots[-1].ack  # a client counts on from what its first snapshot says
    for number, x in ((0, WEST), (1, 50.0), (2, 90.0), (1, 50.0)):
        world.command("one", "go", x=x, y=20.0)
        for _ in range(6):
            world.tick(encode=True)
        assert world.holder("one") == [world.place("one")] == [number]
        world.check_view("one")
    assert len([row for z in world.zones.values() for row in z.rows("man")]) == 2


def test_who_logged_out_and_in_again_before_an_owner_came_late() -> None:
    world = opened_too_early()
    one = world.join("one", zone=0)
    late = world.zones.pop(1)
    for _ in range(2):
        world.tick(encode=True)
    assert now(world.ledger.leave(one.key, one.session))
    for _ in range(3):
        world.tick(encode=True)
    world.join("one", zone=1)
    world.zones[1] = late
    come_late(world, 1)
    for _ in range(3):
        world.tick(encode=True)
    assert world.holder("one") == [0], "its home is where it has left"
    in_one_place(world, 0)


@pytest.mark.parametrize("entries", ["copy first", "word first", "comes back"])
def test_a_copy_and_the_word_that_it_is_one_in_one_page(entries: str) -> None:
    """An older copy's inbox gives the player to the zone in the very page that tells that it is elsewhere."""
    world = World(program(str(SMALL)), 2, 1)
    one = world.join("one", zone=1)
    for _ in range(3):
        world.tick()
    world.command("one", "go", x=WEST, y=20.0)
    world.tick()
    (crossing,) = (t for commit in world.commits for t in commit.transfers if t.player == one.key)
    for _ in range(2):
        world.tick()
    assert world.holder("one") == [0] and world.place("one") == 0
    copy = crossing.entry  # hop 2: as an older copy's inbox has it; the player is elsewhere since its move 5, or here since its move 6
    back = bytearray(copy)
    back[24:28] = (6).to_bytes(4, "little")
    word = Entry(EntryKind.MOVED, one.key, hop=5).pack()
    page = {"copy first": (copy, word), "word first": (word, copy), "comes back": (word, bytes(back))}[entries]
    zone = world.zones[0]
    zone.page = page
    commit = zone.step()
    here = [(int(p["hop"]), int(p["leaving"])) for p in zone.players if p["key"] == one.key and p["departed"] == 0]
    if entries == "comes back":
        assert here == [(6, 0)] and commit.transfers == ()
    else:
        assert here == []
        (gone,) = commit.transfers
        assert (gone.target, gone.player, int.from_bytes(gone.entry[24:28], "little")) == (-1, one.key, 5), "a number that was reached"
    zone.committed(CommitAnswer(CommitStatus.OK))


def test_who_logged_in_again_to_a_zone_that_has_seen_newer_sessions() -> None:
    """The record has the player in the late owner's zone, with an older session than the zone has: the login after it is the newest."""
    world = World(program(str(SMALL)), 2, 1)
    world.join("two")
    world.join("one", zone=1)
    for _ in range(3):
        world.tick(encode=True)
    kept = world.store.snapshot()
    for _ in range(5):
        world.join("one", zone=1)
        world.tick(encode=True)
    world.tick(encode=True)
    world.row("one")["gold"] = 41
    world.store.restore(kept)
    refused(world, 0)
    reseed(world, 0)
    now(world.ledger.open_world(world.term))
    one = world.join("one", zone=1)
    come_late(world, 1)
    for _ in range(4):
        world.tick(encode=True)
    record = now(world.ledger.player(one.key))
    assert record is not None and record.presence.session == one.session
    assert one.snapshots and one.snapshots[0].flags & KEYFRAME, "its client is served"
    assert world.row("one")["gold"] == 41
    in_one_place(world, 1)


def test_who_logged_in_again_to_a_zone_that_it_had_left() -> None:
    """The record has the player in the late owner's zone, which knows that it has logged out since: it comes in with what was saved."""
    world = World(program(str(SMALL)), 2, 1)
    world.join("two")
    one = world.join("one", zone=1)
    for _ in range(3):
        world.tick(encode=True)
    kept = world.store.snapshot()
    world.row("one")["gold"] = 41
    assert now(world.ledger.leave(one.key, one.session))
    for _ in range(3):
        world.tick(encode=True)
    world.store.restore(kept)
    refused(world, 0)
    reseed(world, 0)
    now(world.ledger.open_world(world.term))
    one = world.join("one", zone=1)
    come_late(world, 1)
    for _ in range(4):
        world.tick(encode=True)
    assert world.holder("one") == [world.place("one")] == [1]
    assert world.row("one")["gold"] == 141 and one.snapshots
    in_one_place(world, 1)


@pytest.mark.parametrize("zone", [0, 1])
@pytest.mark.parametrize("hop", [1, MOVES_A_GENERATION + 1, 5 * MOVES_A_GENERATION])
def test_numbers_that_are_as_high_as_the_new_logins(monkeypatch: pytest.MonkeyPatch, zone: int, hop: int) -> None:
    """Nobody is left who knows how high the numbers were: whose word holds is another matter, but the player is in one place."""
    world = opened_too_early()
    if hop == 1:
        monkeypatch.setattr(perdure.ledger.memory_ledger, "moves_floor", lambda generation: 0)
    world.zones[1].players["hop"][world.zones[1].players["key"] == world.players["one"].key] = hop
    world.join("one", zone=zone)
    come_late(world, 1)
    for _ in range(4):
        world.tick(encode=True)
    assert world.holder("one") == [world.place("one")] == [1 if hop > MOVES_A_GENERATION + 1 else zone]
    assert len([row for z in world.zones.values() for row in z.rows("man")]) == 2


@pytest.mark.parametrize("body", ["older", "newer"])
def test_what_is_delivered_again_to_a_zone_that_runs_from_an_older_copy(body: str) -> None:
    """The zone has the player from before: what arrives holds, if its number is the higher one, and is passed over if it is not."""
    world = World(program(str(SMALL)), 2, 1)
    one = world.join("one", zone=1)
    world.join("two")
    for _ in range(3):
        world.tick(encode=True)
    kept, blob = world.store.snapshot(), world.zones[1].checkpoint()
    for x in (WEST, EAST):
        world.command("one", "go", x=x, y=20.0)
        for _ in range(2 if x == EAST else 5):
            world.tick(encode=True)
            if x == WEST and world.row("one") is not None:
                world.row("one")["gold"] = 7
    assert world.place("one") == 1
    world.store.restore(kept)
    refused(world, 0)
    reseed(world, 0)
    now(world.ledger.open_world(world.term))
    heir = type(world.zones[1])(world.program, 1, world.grid, world.seed)
    heir.restore(blob)
    epoch = now(world.ledger.assign(world.term, 1, "heir", world.zones[1].epoch))
    heir.recovered(now(world.ledger.zone_head(1)).generation, epoch)
    if body == "newer":
        heir.players["hop"][heir.players["key"] == one.key] = 9
    world.zones[1] = heir
    before = int(world.row("one")["gold"])
    for _ in range(3):  # gateways drop frames of an earlier move
        world.tick()
    assert world.holder("one") == [world.place("one")] == [1]
    assert world.row("one")["gold"] == (7 if body == "older" else before)
    if body == "older":
        in_one_place(world, 1)
