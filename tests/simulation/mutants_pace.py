"""Zones that sleep and zones that are dear, as ways in which a run can be set up; and planted bugs that show in such runs.

In a run as it is nearly every zone is near somebody, and ticks cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import shard.sleepers
import shard.tick_loop
from shard.sleepers import Sleepers
from shard.tick_loop import TickLoop
from shard.zone import Zone
from tests.simulation.clock import Patch
from tests.simulation.cluster import next_program, program
from tests.simulation.mutants import mutant
from tests.simulation.sights import Sights

DEAR_FOR_S, DEAR_COST_S = 10.0, 0.3
"""A zone after the other is dear for so long; its ticks then cost so much of an interval of 0.1 s."""


def sleepy() -> list[Patch]:
    """Every zone in which nobody is sleeps, whoever is near, and does not tick until something wakes it."""
    return [
        (Sights, "at_full_rate", False),
        (shard.sleepers, "zones_seen", lambda zone: frozenset()),
        (program().game, "idle_hz", 0.0),
        (next_program().game, "idle_hz", 0.0),
    ]


def dear() -> list[Patch]:
    """One zone after the other costs three intervals a tick, for a while: its clock slows, and recovers."""
    real = shard.tick_loop._each

    def each(function: Callable[[Zone], Any], zones: list[Zone]) -> list[tuple[Any, float]]:
        done = real(function, zones)
        if function is not shard.tick_loop._step:
            return done
        turn = int(time.monotonic() / DEAR_FOR_S) % 5
        return [(result, DEAR_COST_S if turn == zone.zone else cost_s) for zone, (result, cost_s) in zip(zones, done, strict=True)]

    return [(Sights, "at_full_rate", False), (shard.tick_loop, "_each", each)]


@mutant("reconnect_storm", seed=2)
def sleeping_zone_misses_its_wake_up() -> list[Patch]:
    """Nobody asks for what waits in the inboxes of sleeping zones."""

    async def peek(self: TickLoop) -> None:
        return

    return [*sleepy(), (TickLoop, "_peek", peek)]


@mutant("reconnect_storm", seed=8)
def zone_sleeps_on_its_page() -> list[Patch]:
    """A zone falls asleep though its last commit returned entries for the next tick."""
    real = Sleepers.ticked

    def ticked(self: Sleepers, zone: Zone, now_s: float) -> None:
        page, zone.page = zone.page, ()
        real(self, zone, now_s)
        zone.page = page

    return [*sleepy(), (Sleepers, "ticked", ticked)]
