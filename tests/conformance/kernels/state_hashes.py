"""Prints the state hash of every few ticks of a scripted game, for test_determinism. Run as a process of its own:

python -m tests.conformance.kernels.state_hashes GAME TICKS
"""

from __future__ import annotations

import random
import sys

import numpy as np

from perdure.wire.identifiers import LOBBY
from tests.unit.shard.zone_lab import World, now, program

EVERY = 5


def play(game: str, ticks: int) -> None:
    """Two zones, a handful of players who do what a seeded script says; crossings, logouts and logins included."""
    world, rng = World(program(game), 2, 1, seed=5), random.Random(8)
    x1 = world.grid.bounds(0)[2]
    command = world.program.schema.commands[0]
    for tick in range(1, ticks + 1):
        for k in range(5):
            name, chance = f"p{k}", rng.random()
            values = {f.name: rng.randint(int(f.lo), int(f.hi)) for f in command.fields}
            offset = rng.uniform(-30.0, 30.0)
            if name not in world.players or world.place(name) == LOBBY:
                world.join(name, zone=k % 2)
            elif chance < 0.01:
                now(world.ledger.leave(world.players[name].key, world.players[name].session))
            elif chance < 0.05 and world.holder(name):  # near the border, and near each other
                row = world.row(name)
                row["x"], row["y"] = x1 + offset, 500.0 + offset
            elif chance < 0.7 and not world.players[name].unacked:
                world.command(name, command.name, **values)
        world.tick()
        if tick % EVERY == 0:
            print(tick, *(f"{zone.state_hash:016x}" for zone in world.zones.values()))


if __name__ == "__main__":
    with np.errstate(over="ignore"):  # plain numpy warns where uint64 arithmetic wraps around, which the hashes mean to do
        play(sys.argv[1], int(sys.argv[2]))
