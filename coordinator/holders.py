"""Who really runs a zone: an owner that lives may still not run what the ledger gives it.

Owns the memory of which incarnation was given a zone, and the timers of zones that nobody runs. Three signs that a zone is idle:

- its owner left and came back under its old name (another number) since it was given the zone;
- its owner says so: `info["stale"]` maps zones to the epoch up to which this process does not run them;
- its owner publishes the zones that it runs (`info["load"]`), and for a long time the zone is not among them, nor among those that
  it stopped for a reason (`info["failed"]`), nor does the zone commit. Each such zone is given anew, less often each time.

Pure; called by `cluster_state`.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.allocation import Owned
from perdure.ledger.values import ClusterView, Member, ZoneRoute

LONGEST_WAIT_MS = 60_000.0


class Holders:
    """See the module docstring."""

    def __init__(self, idle_ms: float) -> None:
        self._idle_ms = idle_ms
        self._given: dict[int, tuple[int, str, int]] = {}
        self._idle: dict[int, tuple[int, int, float]] = {}
        self._waits_ms: dict[int, float] = {}
        self._owned = Owned()
        self._at_work: dict[str, tuple[tuple[int, ...], frozenset[str], int]] = {}
        """Owner -> its zones, all of which ran when each was looked at last; their names; the owner's number then."""

    def forget(self) -> None:
        """A new term: time-outs start anew."""
        self._idle.clear()
        self._waits_ms.clear()

    def interrupted(self) -> None:
        """The ledger was away: nobody could take a zone over."""
        self._idle.clear()

    def idle(self, now_ms: float, view: ClusterView) -> set[int]:
        """Return the zones whose owner is a member but does not run them."""
        found: set[int] = set()
        owned = self._owned.of(view)
        for owner in self._at_work.keys() - owned.keys():
            del self._at_work[owner]
        for owner, zones in owned.items():
            member = view.members.get(owner)
            if member is None:
                self._at_work.pop(owner, None)
                for zone in zones:
                    self._idle.pop(zone, None)
            elif not self._are_at_work(zones, member):
                idle = {zone for zone in zones if self._is_idle(now_ms, view.zones[zone], member, view.ticks.get(zone, 0))}
                names = frozenset(map(str, zones))
                if not idle and _runs_all(member, names):
                    self._at_work[owner] = zones, names, member.number
                else:
                    self._at_work.pop(owner, None)
                found |= idle
        return found

    def _are_at_work(self, zones: tuple[int, ...], member: Member) -> bool:
        """Does this owner run all its zones, as it did when they were last looked at one by one?"""
        then, names, number = self._at_work.get(member.name, ((), frozenset[str](), -1))
        return then is zones and number == member.number and _runs_all(member, names)

    def _is_idle(self, now_ms: float, route: ZoneRoute, member: Member, tick: int) -> bool:
        return self._is_stale(route, member) or self._is_overdue(now_ms, route, member, tick)

    def _is_stale(self, route: ZoneRoute, member: Member) -> bool:
        given = self._given.get(route.zone)
        if given is not None and given[:2] == (route.epoch, route.owner) and given[2] != member.number:
            return True
        self._given[route.zone] = (route.epoch, route.owner, member.number)
        stale = _zones(member, "stale").get(str(route.zone))
        return isinstance(stale, int) and route.epoch <= stale

    def _is_overdue(self, now_ms: float, route: ZoneRoute, member: Member, tick: int) -> bool:
        zone = str(route.zone)
        runs = member.info.get("load")
        at_work = not isinstance(runs, Mapping) or zone in runs or zone in _zones(member, "failed")
        if at_work or member.info.get("state") == "starting":
            self._idle.pop(route.zone, None)
            if isinstance(runs, Mapping) and zone in runs:
                self._waits_ms.pop(route.zone, None)
            return False
        before = self._idle.get(route.zone)
        if before is None or before[:2] != (route.epoch, tick):
            self._idle[route.zone] = (route.epoch, tick, now_ms)
            return False
        wait_ms = self._waits_ms.get(route.zone, self._idle_ms)
        if now_ms - before[2] < wait_ms:
            return False
        self._waits_ms[route.zone] = min(wait_ms * 2, LONGEST_WAIT_MS)
        self._idle[route.zone] = (route.epoch, tick, now_ms)  # an assignment that fails is not asked for in every view
        return True


def _runs_all(member: Member, names: frozenset[str]) -> bool:
    """Does a member say that it runs all these zones, and nothing against it?"""
    runs = member.info.get("load")
    return isinstance(runs, dict) and runs.keys() >= names and not _zones(member, "stale")


def _zones(member: Member, key: str) -> Mapping[str, object]:
    found = member.info.get(key)
    return found if isinstance(found, Mapping) else {}
