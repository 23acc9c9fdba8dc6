"""Which zones sleep, and what wakes them: a zone with nobody in it, and nobody near it, need not tick at the full rate.

A zone sleeps while no player has a body in it, nothing waits in its page, and no player of another zone is so near that it could see
into it. A sleeping zone ticks at the game's `idle_hz`, or not at all. It is woken by a gateway that lets a player in, by an entry in its
inbox (the shard asks the ledger ten times a second for all its sleepers: Ledger.waiting), by a player who comes near, and whenever the
ledger may be another than it was.
Waking too often costs a tick and nothing else.

Owns who sleeps and who is near. Never ticks a zone and does no I/O. Called by shard.tick_loop and, for what other shards
say, by shard.service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from shard.zone import Zone

NEVER_S = 1e9
"""The interval that the feeds of a zone state which does not tick while it sleeps: it never falls silent."""


class Sleepers:
    """`idle_hz` 0: a sleeping zone does not tick. At `tick_hz` or above no zone sleeps."""

    def __init__(self, idle_hz: float, tick_hz: float) -> None:
        self._never = idle_hz >= tick_hz
        self._idle_s = 1.0 / idle_hz if idle_hz > 0 else float("inf")
        self.feeds_every_s = min(self._idle_s, NEVER_S)
        """What a zone that may fall asleep tells its neighbours of when to expect its next feed."""
        self._due_s: dict[int, float] = {}
        self._seen_from: dict[int, frozenset[int]] = {}
        self._seen_here: frozenset[int] = frozenset()
        self._seen_by_others: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._due_s)

    def __contains__(self, number: int) -> bool:
        return number in self._due_s

    def numbers(self) -> list[int]:
        return list(self._due_s)

    def ticked(self, zone: Zone, now_s: float) -> None:
        """A tick of this zone is committed: let it sleep, or not."""
        number = zone.zone
        if self._never:
            return
        if zone.page or not self.may_sleep(zone):
            self._due_s.pop(number, None)
            return
        self._seen_from.pop(number, None)  # nobody is in it who could see anything, nor is it looked at while it sleeps
        if number not in self._due_s:
            # the first of its idle ticks comes at a time of its own, so that not all zones of a shard tick in one moment
            self._due_s[number] = now_s + self._idle_s * (0.5 + (number * 7 % 16) / 32)
        else:
            self._due_s[number] = now_s + self._idle_s

    def may_sleep(self, zone: Zone) -> bool:
        """Is nobody in this zone or near it? Then it sleeps after its next commit, if that returns no page."""
        seen = zone.zone in self._seen_here or zone.zone in self._seen_by_others
        return not (self._never or seen or zone.player_count())

    def due(self, zones: Mapping[int, Zone], now_s: float) -> list[Zone]:
        """Return those of these zones, by number, for which it is time to tick: for one that is awake it always is."""
        due_s = self._due_s
        return [zone for number, zone in zones.items() if due_s.get(number, now_s) <= now_s]

    def wake(self, numbers: Iterable[int]) -> list[int]:
        """Return those of `numbers` that slept."""
        return [number for number in numbers if self._due_s.pop(number, None) is not None]

    def forget(self, number: int) -> None:
        self._due_s.pop(number, None)
        self._seen_from.pop(number, None)

    # --- who is near ------------------------------------------------------------------------------------------------
    def look_around(self, zones: Iterable[Zone]) -> list[int]:
        """See anew which zones the players of these zones (those that are not in a tick) can see into. Return those that slept."""
        if self._never:
            return []
        for zone in zones:
            self._seen_from[zone.zone] = zones_seen(zone)
        self._seen_here = frozenset().union(*self._seen_from.values())
        return self.wake(self._seen_here)

    def others_see(self, numbers: Iterable[int]) -> list[int]:
        """Take what other shards say that their players see into. Return which of it slept."""
        self._seen_by_others = frozenset(numbers)
        return self.wake(self._seen_by_others)

    def seen_here(self) -> list[int]:
        """Return the zones that players of this shard's zones see into, for the other shards."""
        return sorted(self._seen_here)


def zones_seen(zone: Zone) -> frozenset[int]:
    """Return the other zones that lie within the game's radius of interest of a player of this zone, and a bit."""
    players, grid = zone.players, zone.grid
    rows = players["row"][(players["key"] != 0) & (players["row"] >= 0)]
    if not len(rows):
        return frozenset()
    avatars = zone.avatars()[rows]
    reach = zone.program.game.interest + zone.program.game.hysteresis
    x0, y0, x1, y1 = grid.bounds(zone.zone)
    xs, ys = avatars["x"], avatars["y"]
    if xs.min() - reach >= x0 and xs.max() + reach < x1 and ys.min() - reach >= y0 and ys.max() + reach < y1:
        return frozenset()  # as in most zones; a place that is no number is within nothing
    width, height = grid.width / grid.columns, grid.height / grid.rows
    corners = np.empty((len(rows), 4), np.int64)
    for at, (axis, size, count) in enumerate((("x", width, grid.columns), ("y", height, grid.rows))):
        place = np.nan_to_num(avatars[axis])
        for end, side in ((at, -reach), (at + 2, reach)):
            corners[:, end] = np.clip(np.floor((place + side) / size), 0, count - 1)
    found = set()
    for left, top, right, bottom in np.unique(corners, axis=0).tolist():
        found.update(row * grid.columns + column for row in range(top, bottom + 1) for column in range(left, right + 1))
    found.discard(zone.zone)
    return frozenset(found)
