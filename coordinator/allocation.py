"""What a view means for allocation: who may run zones, which zones have nobody, what each zone costs.

Owns `Survey` (one view, digested), `placed` and `ZoneCosts` (smoothed load). Pure; called by `cluster_state` and `migration`.

A shard publishes its load as `info["load"]`, in players or what weighs as much as one: a mapping zone -> load of the zones that
it runs, or one number for all of them, which is spread evenly. No load at all means that zones count alike.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from perdure.ledger.values import ClusterView, Member, ZoneRoute
from perdure.placement.assignment import ZONE_BASE_COST, AllocationStrategy

LOAD_SMOOTHING_MS = 10_000.0
OBSERVE_EVERY_MS = 500.0
MAX_ZONE_LOAD = 1e6
"""A larger reported load is cut to this, so that one wild figure cannot move a whole world."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One view, for a world of `len(routes)` zones, seen after the lost members are taken out.

    `eligible`: shards that may be given zones. `fallback`: shards that an operator wants empty but that run and are not leaving
    by themselves: better than nobody. `leaving`: shards whose zones are to move away. `orphans`: zones whose owner is nobody,
    lost or gone, or does not run them (`holders`, `tails`).

    `builds`: what each living shard runs, by name. `failures`: zone -> shard -> why that shard cannot run the zone as it is now
    (a zone that is assigned anew is another matter). `tails`: for the orphans, the build that wrote the end of the log: "" where
    it makes no difference, None while it is not known. `awaited`: zones of which a living shard knows more than the
    ledger.
    """

    routes: list[ZoneRoute]
    eligible: frozenset[str]
    fallback: frozenset[str]
    leaving: frozenset[str]
    orphans: list[ZoneRoute]
    ticks: Mapping[int, int] = field(default_factory=dict)
    builds: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    tails: Mapping[int, str | None] = field(default_factory=dict)
    awaited: frozenset[int] = frozenset()

    def crosses(self, route: ZoneRoute) -> bool:
        """Is the zone's successor of another build than its living owner?"""
        owner, successor = self.builds.get(route.owner), self.builds.get(route.successor)
        return owner is not None and successor is not None and owner != successor

    def candidates(self, zone: int) -> frozenset[str]:
        """Return the shards that may be given an orphan: those that can replay its log, as long as one of them lives.

        That may be one that is about to leave: it hands the zone over in order. Empty while it is not known which those are.
        """
        tail, failing = self.tails.get(zone, ""), self.failures.get(zone, {}).keys()
        if tail is None:
            return frozenset()
        same = frozenset(name for name, build in self.builds.items() if tail and build == tail and name not in failing)
        able = frozenset(name for name in self.eligible if name not in failing)
        return same & self.eligible or same & self.leaving or able or self.eligible or self.fallback

    def holdings(self, shards: Collection[str]) -> dict[str, set[int]]:
        """Return what each of `shards` runs or is about to take over; zones that it is about to give away do not count."""
        held: dict[str, set[int]] = {shard: set() for shard in shards}
        orphans = {route.zone for route in self.orphans}
        for route in self.routes:
            if route.successor in held:
                held[route.successor].add(route.zone)
            elif route.owner in held and route.zone not in orphans:
                held[route.owner].add(route.zone)
        return held


def survey(view: ClusterView, zones: int, lost: Collection[str], stale: Collection[int]) -> Survey:
    """Digest a view. `lost`: names of members to leave out; `stale`: zones that their living owner does not run."""
    shards = {m.name: m for m in view.members.values() if m.kind == "shard" and m.name not in lost}
    ready = {name for name, member in shards.items() if member.info.get("state") == "ready"}
    eligible = frozenset(ready - view.draining)
    leaving = frozenset(name for name, m in shards.items() if name in view.draining or m.info.get("state") == "draining")
    routes = [view.zones.get(zone) or ZoneRoute(zone, "", view.generation, 0) for zone in range(zones)]
    orphans = [route for route in routes if route.owner not in shards or route.zone in stale]
    builds = {name: str(member.info.get("build", "")) for name, member in shards.items()}
    fallback = frozenset(ready & view.draining)
    return Survey(routes, eligible, fallback, leaving, orphans, view.ticks, builds, _failures(view, shards))


def _failures(view: ClusterView, shards: Mapping[str, Member]) -> dict[int, dict[str, str]]:
    """Return what shards say of zones that they cannot run: info["failed"], zone -> "<epoch>: <why>", of the zone's present epoch."""
    found: dict[int, dict[str, str]] = {}
    for name, member in shards.items():
        failed = member.info.get("failed")
        for zone, why in failed.items() if isinstance(failed, Mapping) else ():
            route = view.zones.get(int(zone)) if isinstance(zone, str) and zone.isdigit() else None
            epoch, _, reason = str(why).partition(": ")
            if route is not None and epoch == str(route.epoch):
                found.setdefault(route.zone, {})[name] = reason
    return found


def placed(strategy: AllocationStrategy, wishes: Mapping[int, frozenset[str]], seen: Survey, costs: Mapping[int, float]) -> dict[int, str]:
    """Return a shard for each zone of `wishes`, out of those that the zone may go to; none for a zone that may go nowhere."""
    groups: dict[frozenset[str], list[int]] = {}
    for zone, shards in wishes.items():
        groups.setdefault(shards, []).append(zone)
    held = seen.holdings(frozenset().union(*groups))
    found: dict[int, str] = {}
    for shards, zones in groups.items():
        given = strategy.place(zones, {shard: held[shard] for shard in shards}, costs) if shards else {}
        for zone, shard in given.items():
            held[shard].add(zone)
        found |= given
    return found


class Owned:
    """The zones of a view by owner, sorted anew only where the routes are others than those of the view before."""

    def __init__(self) -> None:
        self._routes: Mapping[int, ZoneRoute] | None = None
        self._by_owner: dict[str, tuple[int, ...]] = {}

    def of(self, view: ClusterView) -> Mapping[str, tuple[int, ...]]:
        """Return owner -> zones; the very mapping of the call before where the view's routes are that one's."""
        if view.zones is not self._routes:
            self._routes = view.zones
            found: dict[str, list[int]] = {}
            for route in view.zones.values():
                found.setdefault(route.owner, []).append(route.zone)
            self._by_owner = {owner: tuple(zones) for owner, zones in found.items()}
        return self._by_owner


class ZoneCosts:
    """Cost of each zone in players, smoothed over `LOAD_SMOOTHING_MS`."""

    def __init__(self) -> None:
        self._loads: dict[int, float] = {}
        self._observed_ms: float | None = None
        self._owned = Owned()
        self._owned_then: Mapping[str, tuple[int, ...]] | None = None

    def observe(self, now_ms: float, view: ClusterView) -> None:
        """Take the loads that the owners published: of the same routes as before, now and then."""
        elapsed_ms = 0.0 if self._observed_ms is None else max(0.0, now_ms - self._observed_ms)
        owned = self._owned.of(view)
        if owned is self._owned_then and elapsed_ms < OBSERVE_EVERY_MS:
            return
        self._owned_then = owned
        weight = 1.0 - math.exp(-elapsed_ms / LOAD_SMOOTHING_MS)
        self._observed_ms = now_ms
        for member in view.members.values():
            for zone, load in _zone_loads(member, owned.get(member.name, ())).items():
                before = self._loads.get(zone)
                self._loads[zone] = load if before is None else before + weight * (load - before)

    def loads(self) -> Mapping[int, float]:
        """Return zone -> smoothed load, for the zones that have one."""
        return self._loads

    def costs(self) -> Mapping[int, float]:
        """Return zone -> cost; a zone that is not in it costs `ZONE_BASE_COST`."""
        return {zone: ZONE_BASE_COST + load for zone, load in self._loads.items()}


def _zone_loads(member: Member, zones: Sequence[int]) -> dict[int, float]:
    load = member.info.get("load")
    if member.kind != "shard" or not zones or load is None:
        return {}
    if isinstance(load, Mapping):
        each = {zone: _sane(load.get(zone, load.get(str(zone)))) for zone in zones}
        return {zone: value for zone, value in each.items() if value is not None}
    value = _sane(load)
    return {} if value is None else {zone: value / len(zones) for zone in zones}


def _sane(value: object) -> float | None:
    """Return a published load if it is a sane number; anything else counts as not measured."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return min(float(value), MAX_ZONE_LOAD)
