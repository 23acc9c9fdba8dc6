"""A ledger went back to before a player's login, the world was opened, the player logged in again, and only then does the owner of the
zone that the player had been in put its zone back: the newer login holds, and nobody is in two zones or in none."""

from __future__ import annotations

import pytest

from tests.unit.shard.test_durability import SMALL, refused, reseed
from tests.unit.shard.zone_lab import World, now, program

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


def in_one_place(world: World, zone: int) -> None:
    """Check where "one" is, and that it goes over the border and back."""
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


@pytest.mark.parametrize("zone", [0, 1])
def test_who_logged_in_again_before_an_owner_came_late(zone: int) -> None:
    world = opened_too_early()
    world.join("one", zone=zone)
    refused(world, 1)
    reseed(world, 1)
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
    refused(world, 1)
    reseed(world, 1)
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
    refused(world, 1)
    reseed(world, 1)
    for _ in range(3):
        world.tick(encode=True)
    assert world.holder("one") == [] and world.place("one") == -1
    assert world.saved("one")["gold"] == 107, "the body that is left over is not saved over what left zone 0 with 100 more"
    assert len(world.zones[1].rows("man")) == 0
    world.join("one", zone=1)
    in_one_place(world, 1)
