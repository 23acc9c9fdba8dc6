"""The cluster state: every decision about who runs what, without I/O, clock or event loop.

Events go in (`events.Event`), instructions come out, in the order in which they must be carried out: zones are assigned before
their lost owner is evicted, and a gateway's players are detached before it is. So whoever leads next finds either the work
still to do, or done. Nothing is remembered that the view does not show, but timers. Never raises on what members publish.

Called by `service` (and by the simulator). One instance lives as long as its process; `Elected` starts a term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from coordinator.allocation import Survey, ZoneCosts, placed, survey
from coordinator.events import (
    Assign,
    Cause,
    Deposed,
    Elected,
    Event,
    Evict,
    GatewayLost,
    GatewaysInUse,
    Instruction,
    ReadTail,
    StepDown,
    SuspectAnswers,
    TailRead,
    ViewFailed,
    ViewRead,
    WorldRead,
)
from coordinator.failover import Incarnation, Liveness, LivenessSettings, Loss
from coordinator.holders import Holders
from coordinator.migration import MigrationBook, MigrationSettings
from coordinator.openings import Openings
from coordinator.tails import Tails
from perdure.ledger.values import ClusterView, Member
from perdure.placement.assignment import AllocationStrategy, BalancedRegions


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Times in milliseconds.

    `settle_ms`: at a start, wait so long after the first shard is ready, so that those who start together share evenly.
    `expected_shards`, if above 0, is waited for instead when the world never ran, for at most `expected_wait_ms`.
    `reseed_wait_ms`: after the ledger's server changed, hands off, so that live owners can restore what it forgot; `reseed_most_ms`,
    where an owner lives and has not restored its zone yet. `ledger_is_new`: nobody can have run anything on the first server seen.
    `idle_zone_ms`: a zone that its living owner, by its own word, does not run for so long is given anew.
    """

    settle_ms: float = 300.0
    expected_shards: int = 0
    expected_wait_ms: float = 15_000.0
    reseed_wait_ms: float = 1000.0
    reseed_most_ms: float = 5000.0
    ledger_is_new: bool = False
    idle_zone_ms: float = 5000.0
    liveness: LivenessSettings = field(default_factory=LivenessSettings)
    migration: MigrationSettings = field(default_factory=MigrationSettings)


class ClusterState:
    """See the module docstring."""

    def __init__(self, settings: ClusterSettings, strategy: AllocationStrategy | None = None) -> None:
        self._settings = settings
        self._liveness = Liveness(settings.liveness)
        self._migrations = MigrationBook(settings.migration)
        self._costs = ZoneCosts()
        self._strategy = strategy
        self._zones = 0
        self._term: int | None = None
        self._openings = Openings(settings.reseed_wait_ms, settings.reseed_most_ms, settings.ledger_is_new)
        self._hands_off_run = ""
        self._ready_since_ms: dict[Incarnation, float] = {}
        self._holders = Holders(settings.idle_zone_ms)
        self._tails = Tails()
        self._gateways_in_use: frozenset[int] = frozenset()
        self._absent_since_ms: dict[int, float] = {}

    @property
    def leading(self) -> bool:
        return self._term is not None

    @property
    def term(self) -> int | None:
        return self._term

    def suspects(self, view: ClusterView) -> list[Member]:
        """Return the shards that are suspected in this view, for a look whether they answer (SuspectAnswers)."""
        self._liveness.observe_starting(view)
        return self._liveness.suspects(view)

    def loads(self) -> Mapping[int, float]:
        """Return the smoothed load of each zone that has one: in players."""
        return self._costs.loads()

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event in; return what is to be done, in order."""
        match event:
            case ViewRead(now_ms, view):
                return self._on_view(now_ms, view)
            case ViewFailed():
                self._liveness.interrupted()
                self._absent_since_ms.clear()
                self._holders.interrupted()
            case WorldRead(columns, rows):
                self._zones = columns * rows
                if self._strategy is None:
                    self._strategy = BalancedRegions(columns, rows)
            case Elected(_, term):
                self._term = term
                self._migrations.forget()
                self._holders.forget()
            case Deposed():
                self._term = None
            case GatewaysInUse(numbers):
                self._gateways_in_use = numbers
            case SuspectAnswers(name, number, reports):
                self._liveness.acquit(name, number, reports)
            case TailRead():
                self._tails.read(event)
        return []

    # --- a view ---------------------------------------------------------------------------------------------------

    def _on_view(self, now_ms: float, view: ClusterView) -> list[Instruction]:
        if self._openings.observe(now_ms, view):
            self._ledger_changed(view)
        self._liveness.observe(now_ms, view)
        self._costs.observe(now_ms, view)
        self._observe_ready(now_ms, view)
        if self._term is None:
            return []
        if view.term != self._term:
            return [StepDown(view.term)]
        if self._hands_off_run == view.run_id:
            if self._openings.is_hands_off(now_ms, view):
                return []
            self._hands_off_run = ""
        if not view.opened:
            return [self._openings.opening(view)]
        losses = self._liveness.lost(now_ms, view, self._openings.awaited_shards(view))
        zone_wise = self._zone_instructions(now_ms, view, losses)
        if any(isinstance(instruction, ReadTail) for instruction in zone_wise):
            return zone_wise  # zones of the lost are still to be assigned
        return zone_wise + self._member_instructions(now_ms, view, losses)

    def _zone_instructions(self, now_ms: float, view: ClusterView, losses: list[Loss]) -> list[Instruction]:
        if self._strategy is None:
            return []
        lost = {loss.member.name for loss in losses}
        surveyed = survey(view, self._zones, lost, self._holders.idle(now_ms, view))
        seen, asked = self._tails.sort(replace(surveyed, awaited=self._openings.awaited()))
        advanced = self._migrations.advance(now_ms, seen)
        taken = {i.zone for i in advanced if isinstance(i, Assign)}
        found = [*asked, *self._give_orphans(now_ms, seen, taken), *advanced]
        if not lost:
            found += self._migrations.start(now_ms, view.version, seen, self._strategy, self._costs.costs())
        return found

    def _give_orphans(self, now_ms: float, seen: Survey, taken: set[int]) -> list[Instruction]:
        """Spread the zones that nobody runs over the living shards that can, in one batch."""
        orphans = {route.zone: route for route in seen.orphans if route.zone not in taken and route.zone not in seen.awaited}
        targets: dict[int, str] = {}
        if orphans and self._strategy is not None and not self._is_settling(now_ms, seen):
            targets = placed(self._strategy, {zone: seen.candidates(zone) for zone in orphans}, seen, self._costs.costs())
        found: list[Instruction] = []
        for zone, route in orphans.items():
            if zone in targets:
                cause = Cause.FAILOVER if route.owner or route.epoch else Cause.START
                found.append(Assign(zone, targets[zone], route.epoch, cause, route.owner))
            elif route.owner and seen.tails.get(zone, "") is not None:
                # Nobody can take it yet. The epoch rises all the same: the owner's name may come back in another process.
                found.append(Assign(zone, "", route.epoch, Cause.RELEASE, route.owner))
        return found

    def _is_settling(self, now_ms: float, seen: Survey) -> bool:
        if len(seen.orphans) < len(seen.routes):
            return False
        since_ms = min(self._ready_since_ms.values(), default=now_ms)
        waited_ms = now_ms - since_ms
        expected = self._settings.expected_shards
        if expected > 0 and len(seen.eligible) >= expected:
            return False
        never_ran = all(route.epoch == 0 for route in seen.routes)
        return waited_ms < (self._settings.expected_wait_ms if expected > 0 and never_ran else self._settings.settle_ms)

    def _member_instructions(self, now_ms: float, view: ClusterView, losses: list[Loss]) -> list[Instruction]:
        found: list[Instruction] = [GatewayLost(x.member.number, x.member.name) for x in losses if x.member.kind == "gateway"]
        found += [GatewayLost(number, "") for number in self._absent_gateways(now_ms, view)]
        found += [Evict(x.member.name, x.member.number, x.member.kind, x.reason) for x in losses]
        return found

    def _absent_gateways(self, now_ms: float, view: ClusterView) -> list[int]:
        """Return gateways that players are attached to but that have left without detaching them, after a lease's time."""
        there = {m.number for m in view.members.values() if m.kind == "gateway"}
        absent = sorted(self._gateways_in_use - there)
        self._absent_since_ms = {number: self._absent_since_ms.get(number, now_ms) for number in absent}
        found = [n for n in absent if now_ms - self._absent_since_ms[n] >= self._settings.liveness.slow_lease_ms]
        for number in found:
            self._absent_since_ms[number] = now_ms  # asked again where it is still so after another lease
        return found

    # --- what is remembered -----------------------------------------------------------------------------------------

    def _ledger_changed(self, view: ClusterView) -> None:
        """Another server answers, perhaps with older data: members and owners get time to say what they hold."""
        self._hands_off_run = view.run_id
        self._liveness.interrupted()
        self._holders.interrupted()
        self._absent_since_ms.clear()

    def _observe_ready(self, now_ms: float, view: ClusterView) -> None:
        self._ready_since_ms = {
            (m.name, m.number): self._ready_since_ms.get((m.name, m.number), now_ms)
            for m in view.members.values()
            if m.kind == "shard" and m.info.get("state") == "ready"
        }
