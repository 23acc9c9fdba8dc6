"""Arena's gold is conserved: over deaths, crossings, logouts and logins its sum is what was minted."""

from __future__ import annotations

import random

import pytest

from perdure.wire.entries import EntryKind
from perdure.wire.identifiers import LOBBY
from tests.unit.shard.effects_lab import flying, mirror
from tests.unit.shard.zone_lab import World, now, program

GAIN = 2
"""Which of arena's effects brings a coin's gold to a ship."""


def gold(world: World) -> int:
    total = sum(int(world.saved(name)["gold"]) for name in world.players if world.place(name) == LOBBY and world.saved(name) is not None)
    for zone in world.zones.values():
        total += sum(int(row["gold"]) for row in zone.rows("ship") if row["dead"] != 2)
        total += sum(int(row["value"]) for row in zone.rows("coin") if row["dead"] == 0)
    total += sum(int(row["value"]) for kind, row in flying(world) if kind == "gain")
    return total + sum(int(row["gold" if kind == "ship" else "value"]) for kind, row in world.in_transit() if kind != "bullet")


def minted(world: World) -> int:
    return sum(int(zone.totals["minted"][0]) for zone in world.zones.values())


@pytest.mark.timeout(300)
def test_gold_is_conserved() -> None:
    world, rng = World(program("arena"), 3, 3, seed=11), random.Random(1)
    crossings = logouts = deaths = picked = 0
    for tick in range(2500):
        for k in range(14):
            name = f"p{k}"
            chance = rng.random()
            if name not in world.players or world.place(name) == LOBBY:
                if chance < 0.1:
                    world.join(name, zone=rng.randrange(9))
            elif chance < 0.002:
                logouts += now(world.ledger.leave(world.players[name].key, world.players[name].session))
            elif chance < 0.1 and len(world.players[name].unacked) < 5:
                world.command(name, "steer", mx=rng.randint(-1, 1), my=rng.randint(-1, 1), fire=1)
            elif chance < 0.105 and world.holder(name):  # into the fight around a corner of four zones, and out again
                row = world.row(name)
                row["x"], row["y"] = 1365 + rng.uniform(-90, 90), 1365 + rng.uniform(-90, 90)
                row["hp"], row["protected"] = min(int(row["hp"]), 20), 0
        if tick % 10 == 0:
            mirror(world)
        world.tick()
        picked += sum(1 for commit in world.commits for t in commit.transfers if t.entry[0] == EntryKind.EFFECT and t.entry[1] == GAIN)
        crossings += sum(1 for commit in world.commits for t in commit.transfers if t.target != LOBBY and t.player)
        deaths += sum(int((zone.rows("ship")["wait"] == 40).sum()) for zone in world.zones.values())
        if tick % 5 == 0:
            assert gold(world) == minted(world), tick
    assert minted(world) > 500
    assert picked > 5, "coins that were picked up over a border"
    assert min(crossings, logouts, deaths) > 30, (crossings, logouts, deaths)
