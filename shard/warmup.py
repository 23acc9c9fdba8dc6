"""Compile (or load from the cache) everything that a tick calls, before the shard says that it is ready.

`python -m shard.warmup GAME` fills the cache, so that processes which start together do not all compile; with --source it
prints the generated program instead.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from perdure.game.contract import GameError
from perdure.game.loading import load_game
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import WorldGrid
from shard.program import Program, compile_program
from shard.zone import Zone


def warm(program: Program) -> float:
    """Run one zone of a throw-away world for a few ticks, every kernel included; return the seconds that it took."""
    started = time.monotonic()
    zone = Zone(program, 0, WorldGrid(*program.game.world_size, 1, 1), 0)
    zone.recovered(1, 1)
    zone.page = (Entry(EntryKind.JOIN, player=1, session=1, gateway=1, slot=1).pack(),)
    for seq in range(1, 3):
        row = np.zeros((1, zone.arrays.commands.shape[1]), np.uint8)
        row[0, 0], row[0, 8] = 1, seq
        zone.add_commands(row)
        commit = zone.step()
        zone.encode()
        zone.phase = zone.phase.READY
        assert commit.tick == seq
    program.more_frames(zone.arrays, zone.encoder)
    other = Zone(program, 0, WorldGrid(*program.game.world_size, 1, 1), 0)
    other.restore(zone.checkpoint())
    return time.monotonic() - started


def main(arguments: list[str]) -> int:
    """Warm the cache for a game, or print its program."""
    paths = [a for a in arguments if not a.startswith("-")]
    try:
        program = compile_program(load_game(paths[0] if paths else "games/arena"))
    except GameError as error:
        print(error, file=sys.stderr)
        return 2
    if "--source" in arguments:
        print(program.source)
        return 0
    print(f"{program.game.name}: kernels ready after {warm(program):.1f} s (build {program.build:016x})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
