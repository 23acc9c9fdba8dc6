"""Planted bugs of borders: what players would see of others if a protection were missing. See mutants.py, which loads these."""

from __future__ import annotations

from typing import Any

import shard.border
from shard.border import Border, Feed
from shard.borders import Borders
from tests.simulation.clock import Patch
from tests.simulation.mutants import mutant


@mutant()
def who_crosses_is_shown_by_nobody() -> list[Patch]:
    """An entity is forgotten by the zone that it left before its new zone tells of it."""
    real = Border.publish

    def publish(self: Border, zone_arrays: Any, *given: Any) -> list[Feed]:
        feeds = real(self, zone_arrays, *given)
        self.arrays(zone_arrays).state[shard.border.layout.BORDER_FROZEN :] = 0
        return feeds

    return [(Border, "publish", publish)]


@mutant()
def feeds_of_every_fourth_tick() -> list[Patch]:
    """Neighbours are told now and then only, so ghosts are old."""
    real = Borders.release

    def release(self: Borders, feeds: list[Feed]) -> None:
        real(self, [feed for feed in feeds if feed.stamp[2] % 4 == 0])

    return [(Borders, "release", release)]


@mutant("kill_shard")
def feeds_of_a_new_owner_are_ignored() -> list[Patch]:
    """Who runs a neighbour after a failover is not heard: its entities stand still for ever."""
    real = Border.receive

    def receive(self: Border, feed: Feed) -> bool:
        held = self._held.get(feed.source)
        return (held is None or held.feed.stamp[1] == feed.stamp[1]) and real(self, feed)

    return [(Border, "receive", receive)]
