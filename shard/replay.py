"""Running a zone's log again, to prove that it gives what was committed. Reads the ledger, writes nothing.

Called by `perdure replay`, by benchmarks after their faults, and by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from perdure.ledger.ledger import Ledger
from perdure.wire.identifiers import WorldGrid
from shard.program import Program
from shard.recovery import Follower
from shard.zone import Zone, ZoneError


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found. `fault` is empty where every state hash and every digest was as logged."""

    zone: int
    first_tick: int
    last_tick: int
    records: int
    state_hash: int
    fault: str = ""


async def replay_zone(
    ledger: Ledger, program: Program, zone: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[ReplayReport, Zone | None]:
    """Restore a zone's newest whole checkpoint, replay the log behind it, and compare every hash; never raises for a mismatch."""
    world = await ledger.world()
    if world is None:
        raise ZoneError("the ledger holds no world of this name; check PERDURE_WORLD and PERDURE_REDIS_URL")
    if program.schema.hash != world.schema_hash and orjson.loads(world.schema)["name"] != program.game.name:
        raise ZoneError(f"the world runs game {world.game!r}, not {program.game.name!r}")
    grid = WorldGrid(*program.game.world_size, world.columns, world.rows)
    if not 0 <= zone < grid.zones:
        raise ZoneError(f"there is no zone {zone}; the world has zones 0 to {grid.zones - 1}")
    follower = Follower(ledger, program, zone, grid, world.seed)
    first = 0
    try:
        first = (await follower.load()).tick
        replayed = await follower.catch_up()
        progress(replayed.tick)
    except (ZoneError, ValueError) as error:
        at = follower.zone.tick if follower.zone is not None else 0
        return ReplayReport(zone, first, at, follower.replayed, 0, str(error)), None
    return ReplayReport(zone, first, replayed.tick, follower.replayed, replayed.state_hash), replayed
