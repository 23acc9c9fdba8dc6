"""What a coordinator tells Prometheus. Owns the metrics' names; one registry an instance, so that tests do not share them."""

from __future__ import annotations

from collections import Counter as Count

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from coordinator.events import Assign, Cause
from perdure.ledger.values import ClusterView

MEMBER_KINDS = ("shard", "gateway", "coordinator")
FAILOVER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class CoordinatorMetrics:
    """Counters since the start of this process, and gauges of the last view."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.leader = Gauge("perdure_coordinator_leader", "1 while this coordinator leads", registry=registry)
        self.term = Gauge("perdure_coordinator_term", "term of the last view", registry=registry)
        self.polls = Counter("perdure_coordinator_polls", "readings of the cluster view", registry=registry)
        self.ledger_failures = Counter("perdure_coordinator_ledger_failures", "readings and writes without an answer", registry=registry)
        self.refusals = Counter("perdure_coordinator_refusals", "instructions that the ledger refused", registry=registry)
        self.zone_losses = Counter("perdure_zone_losses", "zones whose last ticks the ledger forgot and nobody put back", registry=registry)
        self.assigned = Counter("perdure_zones_assigned", "zones given to a shard", ["cause"], registry=registry)
        self.failovers = Counter("perdure_failovers", "members that were lost and put out", ["kind"], registry=registry)
        self.failover_seconds = Histogram(
            "perdure_failover_assign_seconds",
            "from the view that showed a loss to the last of its zones assigned",
            buckets=FAILOVER_BUCKETS,
            registry=registry,
        )
        self.members = Gauge("perdure_members", "members in the view", ["kind"], registry=registry)
        self.zones = Gauge("perdure_zones", "zones of the world", registry=registry)
        self.unassigned = Gauge("perdure_zones_unassigned", "zones that no living shard owns", registry=registry)
        self.migrating = Gauge("perdure_zones_migrating", "zones with a successor", registry=registry)
        for cause in Cause:
            self.assigned.labels(cause.value)
        for kind in MEMBER_KINDS:
            self.failovers.labels(kind)

    def observe_view(self, view: ClusterView, zones: int) -> None:
        """Set the gauges by a view of a world of `zones` zones."""
        kinds = Count(member.kind for member in view.members.values())
        for kind in MEMBER_KINDS:
            self.members.labels(kind).set(kinds[kind])
        routes = [route for zone, route in view.zones.items() if zone < zones]
        self.term.set(view.term)
        self.zones.set(zones)
        self.unassigned.set(zones - sum(1 for route in routes if route.owner in view.members))
        self.migrating.set(sum(1 for route in routes if route.successor))
        self.polls.inc()

    def observe_assigned(self, assigned: list[Assign], elapsed_s: float) -> None:
        """Count assignments that took effect; `elapsed_s` since the view that asked for them."""
        for assign in assigned:
            self.assigned.labels(assign.cause.value).inc()
        if any(assign.cause is Cause.FAILOVER for assign in assigned):
            self.failover_seconds.observe(elapsed_s)

    def text(self) -> bytes:
        """Return the exposition format (version 0.0.4)."""
        return generate_latest(self.registry)
