"""Who is lost: the two tiers of failure detection, as a pure reading of views.

Owns the liveness timers. Tier one, suspicion: a gateway found a ready shard's port refusing, and the port did not answer us either
(`acquit` says where it did). Tier two, lease: no heartbeat rose for the lease time AND none of the shard's zones committed in it (slow is
not dead). A shard that alone knows the last ticks of a zone (`coordinator.openings`) is given up for silence much later: they would be
lost with it. Never does I/O; called by `cluster_state`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from perdure.ledger.values import ClusterView, Member, ZoneRoute
from perdure.placement.lease import LeaseWatch

Incarnation = tuple[str, int]
"""A member's name and number."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One member that is taken for dead."""

    member: Member
    reason: str


@dataclass(frozen=True, slots=True)
class LivenessSettings:
    """`lease_ms` is for shards; gateways and coordinators get `slow_lease_ms`, since putting one out is dear and waits well; shards that
    alone know the last ticks of a zone `awaited_lease_ms`."""

    lease_ms: float = 1000.0
    slow_lease_ms: float = 3000.0
    outage_grace_ms: float = 1000.0
    awaited_lease_ms: float = 5000.0


class Liveness:
    """Watches every member, this coordinator too: its name may still be held by a process of that name that died, and nobody else may
    be there to put that one out. (If it is this very process that is put out, its next heartbeat registers it anew.)"""

    def __init__(self, settings: LivenessSettings) -> None:
        self._awaited_lease_ms = settings.awaited_lease_ms
        blind_ms = settings.lease_ms / 2
        self._shards: LeaseWatch[Incarnation] = LeaseWatch(settings.lease_ms, blind_ms, settings.outage_grace_ms)
        self._others: LeaseWatch[Incarnation] = LeaseWatch(settings.slow_lease_ms, blind_ms, settings.outage_grace_ms)
        self._before: tuple[Mapping[int, ZoneRoute], Mapping[int, int]] = {}, {}
        """Routes and ticks of the view before."""
        self._not_believed: dict[Incarnation, int] = {}
        """How many reports of a member do not count, then or later: those made before its port was open, or though it answers."""

    def interrupted(self) -> None:
        """The ledger could not be read: every timer restarts."""
        self._shards.interrupted()
        self._others.interrupted()

    def observe(self, now_ms: float, view: ClusterView) -> None:
        """Take a view in: heartbeats, then the progress of commits."""
        shards = {(m.name, m.number): m.beat for m in view.members.values() if m.kind == "shard"}
        others = {(m.name, m.number): m.beat for m in view.members.values() if m.kind != "shard"}
        self._shards.observe(now_ms, shards)
        self._others.observe(now_ms, others)
        self._observe_progress(now_ms, view)
        self.observe_starting(view)

    def lost(self, now_ms: float, view: ClusterView, awaited: Collection[str] = ()) -> list[Loss]:
        """Return the members that are lost as of this view (which was observed before), lease losses first.

        `awaited`: shards with which a zone's last ticks would be lost.
        """
        losses: dict[str, Loss] = {}
        for watch in (self._shards, self._others):
            for name, number in watch.expired(now_ms):
                member = view.members.get(name)
                silence_ms = watch.silence_ms(now_ms, (name, number))
                if name in awaited and silence_ms < self._awaited_lease_ms:
                    continue
                if member is not None and member.number == number:
                    losses[name] = Loss(member, f"lease: no heartbeat and no commit for {silence_ms:.0f} ms")
        suspected = [member for member in self.suspects(view) if member.name not in losses]
        survivors = [
            m
            for m in view.members.values()
            if m.kind == "shard" and m.name not in losses and m not in suspected and m.info.get("state") == "ready"
        ]
        # With nobody to take over, a report alone puts nobody out: if the shard lives after all, it is the only one that can serve.
        # If it is dead, its lease ends soon.
        for member in suspected if survivors else ():
            losses[member.name] = Loss(member, f"suspicion: its port refused, {self._suspects(view, member)} reports")
        return list(losses.values())

    def suspects(self, view: ClusterView) -> list[Member]:
        """Return the shards of which there are reports that count."""
        return [member for member in view.members.values() if member.kind == "shard" and self._suspects(view, member) > 0]

    def acquit(self, name: str, number: int, reports: int) -> None:
        """This shard lives, whatever so many reports say."""
        self._not_believed[name, number] = reports

    def _suspects(self, view: ClusterView, member: Member) -> int:
        return view.suspects.get(member.name, 0) - self._not_believed.get((member.name, member.number), 0)

    def _observe_progress(self, now_ms: float, view: ClusterView) -> None:
        (routes, ticks), self._before = self._before, (view.zones, view.ticks)
        further = [zone for zone, tick in view.ticks.items() if ticks.get(zone, tick) < tick]  # most of a world's zones may sleep
        committing: set[str] = set()
        for zone in further:
            route, before = view.zones.get(zone), routes.get(zone)
            if route is not None and before is not None and route.epoch == before.epoch:
                committing.add(route.owner)
        for owner in committing & view.members.keys():
            self._shards.touch(now_ms, (owner, view.members[owner].number))

    def observe_starting(self, view: ClusterView) -> None:
        """Remember the reports made while a shard's port may not be open yet. A ledger that forgot reports has fewer that do not count."""
        kept: dict[Incarnation, int] = {}
        for member in view.members.values():
            key = (member.name, member.number)
            reports = view.suspects.get(member.name, 0)
            if member.info.get("state") == "starting":
                kept[key] = reports
            elif key in self._not_believed:
                kept[key] = min(self._not_believed[key], reports)
        self._not_believed = kept
