"""Which build wrote the end of a zone's log: only that one is sure to replay it.

Owns what was asked and answered about the last records of zones that nobody runs. It is asked only while shards of several builds
are there (a rolling upgrade), of the ledger itself: the name of a lost owner may have come back with another build. Pure; called by
`cluster_state`.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.allocation import Survey
from coordinator.events import ReadTail, TailRead
from perdure.ledger.values import ZoneRoute


class Tails:
    """See the module docstring."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, str]] = {}
        self._asked: dict[int, str] = {}
        """What the zone's owner said when it was asked: once it says something else, the log is another (an operator has mended it)."""

    def read(self, answer: TailRead) -> None:
        """Take an answer."""
        self._known[answer.zone] = (answer.tick, answer.build)

    def sort(self, seen: Survey) -> tuple[Survey, list[ReadTail]]:
        """Add what is known of the orphans' tails, and to the orphans what its owner cannot run and another shard can.

        Also returns what is to be asked.
        """
        able = seen.eligible | seen.leaving
        if len({seen.builds[name] for name in able}) < 2:
            self._known.clear()
            self._asked.clear()
            extra = [route for route in self._stuck(seen) if route.owner in seen.leaving and self._others(route, seen)]
            return replace(seen, orphans=seen.orphans + extra), []
        stuck = self._stuck(seen)
        tails: dict[int, str | None] = {}
        for route in [*seen.orphans, *stuck]:
            tick = seen.ticks.get(route.zone, 0)
            why = seen.failures.get(route.zone, {}).get(route.owner, "")
            at, build = self._known.get(route.zone, (tick if tick == 0 else -1, ""))
            tails[route.zone] = build if at == tick and self._asked.get(route.zone, why) == why else None
            self._asked[route.zone] = why
        asked = [ReadTail(zone, seen.ticks[zone]) for zone, tail in tails.items() if tail is None]
        self._known = {zone: known for zone, known in self._known.items() if zone in tails}
        self._asked = {zone: why for zone, why in self._asked.items() if zone in tails}
        return replace(seen, orphans=seen.orphans + [r for r in stuck if self._goes(r, tails, seen)], tails=tails), asked

    @staticmethod
    def _stuck(seen: Survey) -> list[ZoneRoute]:
        """Return zones whose living owner says that it cannot run them."""
        orphans = {route.zone for route in seen.orphans}
        return [r for r in seen.routes if r.owner in seen.failures.get(r.zone, {}) and r.zone not in orphans]

    @staticmethod
    def _others(route: ZoneRoute, seen: Survey) -> frozenset[str]:
        return frozenset(name for name in seen.eligible if name not in seen.failures.get(route.zone, {}))

    def _goes(self, route: ZoneRoute, tails: dict[int, str | None], seen: Survey) -> bool:
        """Is there a shard for a zone that its owner cannot run? One that could as little is none: it would be given round for ever."""
        tail = tails[route.zone]
        if tail is None:
            return False
        if tail and tail != seen.builds.get(route.owner):
            same = {name for name in seen.eligible | seen.leaving if seen.builds[name] == tail}
            if same - seen.failures[route.zone].keys():
                return True
        return route.owner in seen.leaving and bool(self._others(route, seen))
