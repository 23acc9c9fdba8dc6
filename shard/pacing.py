"""The paces of all zones of a shard: weighed now and then, by what zones cost and by how well gateways keep up, and told to gateways.

Owns which rung each zone is on (shard.pace says how a zone climbs, shard.relief for which gateways it must) and since when. Never ticks
a zone, measures none, and decides nothing about lanes: what ticks cost comes in from shard.tick_loop, which calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import structlog

from perdure.wire.link import pack_zone_pace
from shard.link_server import LinkServer
from shard.metrics import ShardMetrics
from shard.pace import EVALUATE_S, RUNGS, Pace, share_of
from shard.relief import LEVELS, Relief
from shard.sleepers import Sleepers
from shard.zone import Zone

log = structlog.get_logger("shard.pacing")

BEHIND_TICKS, BEHIND_S = 2.5, 0.1
"""A gateway is behind that has not taken what it was sent so many ticks ago, and so long. (A healthy one takes a third of a tick.)"""
SILENT_S = 0.5
"""Of a gateway that has taken nothing for so long it is not known how far it is behind: it may hang."""


class Pacing:
    """`zones` are those that run here, by number; `interval_s` is between two ticks at full rate."""

    def __init__(
        self, zones: dict[int, Zone], sleepers: Sleepers, links: LinkServer, metrics: ShardMetrics, *, interval_s: float, threads: int
    ) -> None:
        self._zones, self._sleepers, self._links, self._metrics = zones, sleepers, links, metrics
        self._interval_s, self._threads = interval_s, threads
        self.paces: dict[int, Pace] = {}
        """By number of the zone: of those that run here, and no others."""
        self.relief = Relief()
        self._weighed_s = 0.0

    def added(self, zone: Zone) -> None:
        """A zone runs here from now on; one that takes another's place goes on at its pace."""
        pace = self.paces.get(zone.zone)
        if pace is None:
            pace = self.paces[zone.zone] = Pace(self._interval_s)
            self._metrics.pace_of(zone.zone, pace)
        zone.pace = pace.rung

    def removed(self, number: int) -> None:
        if self.paces.pop(number, None) is not None:
            self._metrics.forget_zone(number)

    def gateway_linked(self, gateway: int) -> None:
        """Tell a gateway which zones are slowed."""
        for number, pace in self.paces.items():
            if pace.level:
                self._links.send(gateway, _pace_frame(number, pace))

    def expected_s(self, zones: Iterable[Zone], cost_s: Callable[[Pace], float]) -> float:
        """Return what a part of these zones' ticks (`cost_s`) will cost, in seconds; an interval for each of which it is not known."""
        paces = [self.paces.get(zone.zone) for zone in zones]
        return sum(cost_s(pace) if pace is not None and pace.known else self._interval_s for pace in paces)

    def feeds_every_s(self, zone: Zone) -> float:
        """Return how long until this zone's next feed, so that neighbours do not take one that sleeps or is slowed for silent."""
        if self._sleepers.may_sleep(zone):
            return self._sleepers.feeds_every_s
        pace = self.paces.get(zone.zone)
        return self._interval_s if pace is None else max(pace.interval_s, pace.cost_s)

    def told(self) -> dict[str, object]:
        """Return what the shard says of it: what ticks of zones cost that are awake (`zone_ms`); which zones are slowed (rung, clock in
        percent, ticks to a snapshot), which of them for a gateway's sake; which gateways do not keep up, and how many ticks a snapshot
        takes there."""
        return {
            "zone_ms": {str(n): round(1000 * pace.cost_s, 2) for n, pace in self.paces.items() if n not in self._sleepers},
            "pace": {str(n): [p.rung.name, p.rung.clock_percent, p.rung.snapshot_every] for n, p in self.paces.items() if p.level},
            "relieving": [n for n, pace in self.paces.items() if pace.relieves],
            "relieved": {str(gateway): RUNGS[rung].snapshot_every for gateway, rung in self.relief.rungs.items()},
        }

    # --- now and then ---------------------------------------------------------------------------------------------
    def look(self, now_s: float) -> bool:
        """Once in EVALUATE_S, let zones that cost more than their share climb, and others come down; return whether it was time."""
        if now_s - self._weighed_s < EVALUATE_S:
            return False
        self._weighed_s = now_s
        self._relieve(now_s)
        awake = {number: pace for number, pace in self.paces.items() if number not in self._sleepers}
        share_s = share_of([pace.cost_s for pace in awake.values()], self._interval_s, self._threads)
        for number in self._sleepers.numbers():  # who finds it slowed when it wakes would wait for what is long over
            pace = self.paces.get(number)
            if pace is not None and pace.level:
                pace.calm()
                log.info("pace", zone=number, level=0, rung=pace.rung.name, why="nobody is there")
                self._changed(number, pace)
        for number, pace in awake.items():
            if pace.weigh(now_s, share_s, self._lowest_rung(number)):
                log.info("pace", zone=number, level=pace.level, rung=pace.rung.name, clock_percent=pace.rung.clock_percent,
                         snapshot_every=pace.rung.snapshot_every, tick_ms=round(1000 * pace.cost_s, 1))  # fmt: skip
                self._changed(number, pace)
        return True

    def _changed(self, number: int, pace: Pace) -> None:
        """A zone's pace is another one: tell gateways, who tell clients."""
        if number in self._zones:
            self._zones[number].pace = pace.rung  # read when the next tick is encoded
        self._metrics.pace_of(number, pace)
        self._links.send_all(_pace_frame(number, pace))

    # --- for gateways' sakes --------------------------------------------------------------------------------------
    def _relieve(self, now_s: float) -> None:
        """Spare gateways that do not keep up, as long as they do not."""
        between_s = RUNGS[LEVELS[-1]].snapshot_every * self._interval_s
        behind, silent = self._links.behind(now_s, max(BEHIND_TICKS * self._interval_s, BEHIND_S), max(SILENT_S, 2 * between_s))
        for gateway in self.relief.look(now_s, behind, silent, self._links.links):
            name, rung = self._links.links[gateway].name, self.relief.rung(gateway)
            if rung and gateway in behind:
                log.warning("gateway_behind", gateway=name, rung=rung, behind_ms=round(1000 * behind[gateway]),
                            mend="its players get fewer snapshots: give it a core of its own, or add a gateway")  # fmt: skip
            else:
                log.info("gateway_keeps_up", gateway=name, rung=rung)
        for gateway, behind_s in behind.items():
            if self.relief.is_hopeless(gateway, now_s, behind_s):
                self._links.links[gateway].end(f"it is {behind_s:.1f} s behind; on the next link its players get full snapshots")
        self._metrics.gateways_behind.set(len(self.relief.rungs))

    def _lowest_rung(self, number: int) -> int:
        """Return below which rung a zone may not be, for the gateways that show it."""
        rungs = self.relief.rungs
        if not rungs:
            return 0
        shown = np.unique(self._zones[number].players["gateway"]).tolist() if number in self._zones else []
        return max((rung for gateway, rung in rungs.items() if gateway in shown), default=0)


def _pace_frame(number: int, pace: Pace) -> bytes:
    return pack_zone_pace(number, pace.rung.clock_percent, pace.rung.snapshot_every, pace.rung.far_every)
