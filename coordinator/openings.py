"""When a world is opened for a server of the ledger, and which zones that server has forgotten for good.

A server that restarts, or is another, or has older data than before, begins closed (Ledger.open_world). Owners that live put back
what they run; a leader opens the world once they had the time, and says what nobody put back. (docs/decisions/0012)

Who lives and runs a zone may come through even after that. Until it does, or is gone, the zone is given to nobody, whoever owns it by what
the ledger has: it may have been another, before the zone was moved.

What there was is known from earlier views, and from the shards themselves: while a commit is not answered, or is refused, its shard's
heartbeats say how far the zone was committed (`info["committed"]`). So a coordinator knows that has just started, or whose views failed.

Owns what earlier views said of zones. No I/O, no clock. Called by cluster_state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.events import LostZone, OpenWorld
from perdure.ledger.values import ClusterView, Member, ZoneRoute

Stand = tuple[int, int, int]
"""(generation, epoch, tick): of two stands of a zone the higher one is the newer."""
NEVER: Stand = (0, 0, 0)


class Openings:
    """`wait_ms`: how long owners have, from the first view of a server on; `most_ms`, where one of them lives and is not through.

    `new`: the first server that is seen is known to be new, with nothing in it that anybody could have run: it need not wait.
    """

    def __init__(self, wait_ms: float, most_ms: float, new: bool = False) -> None:
        self._wait_ms, self._most_ms, self._new = wait_ms, most_ms, new
        self._run_id: str | None = None
        self._since_ms = 0.0
        self._seen: dict[int, Stand] = {}
        """As it was before the world was closed, and with what was told since."""
        self._open_view: ClusterView | None = None
        """The newest view of an open world, where `_seen` has not been made of it."""
        self._routes: Mapping[int, ZoneRoute] | None = None
        self._highest = 0
        """The highest generation in `_routes`."""
        self._was_open = False
        self._ahead: dict[int, tuple[Stand, Stand]] = {}
        """Of zones that a living shard may still put back: as they were, and as the ledger had them when it was opened."""
        self._told: frozenset[int] = frozenset()
        """Zones of an open world that a living shard says to be further on than the ledger has them."""
        self._generation = 0

    def observe(self, now_ms: float, view: ClusterView) -> bool:
        """Take a view in; return whether it is of another server than the one before."""
        first, another = self._run_id is None, self._run_id != view.run_id
        if another:
            self._run_id, self._since_ms = view.run_id, now_ms
        told = _told_by(view.members.values())
        if view.opened:
            self._told = frozenset(zone for zone, stand in told.items() if stand > _stand(view, zone))
            if another or not self._was_open:
                for zone, stand in self._all_seen().items():
                    self._ahead[zone] = max(stand, self._ahead.get(zone, (NEVER, NEVER))[0]), _stand(view, zone)
            # Where the ledger's stand rises, the zone was put back, or goes on from what was left: either way there is nothing to wait for.
            run = _run_by(view.members.values()) if self._ahead else set[int]()
            self._ahead = {zone: told for zone, told in self._ahead.items() if _stand(view, zone) == told[1] < told[0] and zone in run}
            self._open_view = view
            if view.zones is not self._routes:
                self._routes, self._highest = view.zones, max((route.generation for route in view.zones.values()), default=0)
            self._generation = max(view.generation, self._highest, *(was[0] for was, _ in self._ahead.values()))
        else:
            self._seen = _newest(self._all_seen(), told)
            self._generation = max(self._generation, *(stand[0] for stand in told.values()), 0)
        self._was_open = view.opened
        return another and not (first and (view.opened or (self._new and not view.zones)))

    def _all_seen(self) -> dict[int, Stand]:
        """Return how far zones were when they were seen last. Of an open world that is worked out when somebody asks."""
        if self._open_view is not None:
            view, self._open_view = self._open_view, None
            self._seen = {zone: _stand(view, zone) for zone in view.zones} | {zone: was for zone, (was, _) in self._ahead.items()}
        return self._seen

    def is_hands_off(self, now_ms: float, view: ClusterView) -> bool:
        """Is it too early to open the world, or to decide anything by this view?"""
        waited_ms = now_ms - self._since_ms
        return waited_ms < self._wait_ms or (waited_ms < self._most_ms and self._is_awaited(view))

    def opening(self, view: ClusterView) -> OpenWorld:
        """Return how to open the world: what no living owner has put back is lost."""
        run = _run_by(view.members.values())
        lost = [
            LostZone(zone, stand[2], max(now[2], 0), zone in run)
            for zone, stand in sorted(self._all_seen().items())
            if (now := _stand(view, zone)) < stand and stand[2] > 0
        ]
        return OpenWorld(self._generation + 1 if self._generation else 0, tuple(lost))

    def awaited(self) -> frozenset[int]:
        """Return zones of an open world of which a living shard knows more than the ledger: given to others now, that would be lost."""
        return self._told.union(self._ahead)

    def awaited_shards(self, view: ClusterView) -> frozenset[str]:
        """Return the shards that run such zones: what the ledger lacks is lost with them."""
        awaited = self.awaited()
        return frozenset(m.name for m in view.members.values() if awaited and awaited & _run_by([m]))

    def _is_awaited(self, view: ClusterView) -> bool:
        """Does somebody live who runs a zone that this server knows less of than there was?"""
        seen = self._all_seen()
        return any(_stand(view, zone) < max(seen.get(zone, NEVER), (0, 0, 1)) for zone in _run_by(view.members.values()))


def _newest(some: dict[int, Stand], others: dict[int, Stand]) -> dict[int, Stand]:
    return some | {zone: max(stand, some.get(zone, NEVER)) for zone, stand in others.items()}


def _told_by(members: Iterable[Member]) -> dict[int, Stand]:
    """Return how far living shards say that zones are committed of which they do not know whether the ledger has it."""
    told: dict[int, Stand] = {}
    for member in members:
        said = member.info.get("committed") if member.kind == "shard" else None
        runs = _run_by([member]) if said else set[int]()
        for name, stand in said.items() if isinstance(said, dict) else ():
            if not (isinstance(name, str) and name.isdigit() and int(name) in runs):
                continue
            if isinstance(stand, list | tuple) and [type(part) for part in stand] == [int] * 3:
                told[int(name)] = max((stand[0], stand[1], stand[2]), told.get(int(name), NEVER))
    return told


def _run_by(members: Iterable[Member]) -> set[int]:
    """Return the zones that shards among these say they run."""
    loads = (member.info.get("load") for member in members if member.kind == "shard")
    return {int(name) for load in loads if isinstance(load, dict) for name in load if isinstance(name, str) and name.isdigit()}


def _stand(view: ClusterView, zone: int) -> Stand:
    route = view.zones.get(zone)
    return NEVER if route is None else (route.generation, route.epoch, view.ticks.get(zone, 0))
