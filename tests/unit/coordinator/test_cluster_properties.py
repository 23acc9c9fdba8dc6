"""What must hold of the cluster state after any sequence of events."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.cluster_state import ClusterSettings
from coordinator.events import Assign, Evict, Instruction, Intend
from coordinator.migration import MigrationSettings
from perdure.ledger.ledger import LedgerRefused
from perdure.ledger.values import ClusterView
from tests.unit.coordinator.fake_cluster import FakeCluster, drive

NAMES = ("s0", "s1", "s2", "s3", "s4")
MOST, MOST_PER_PAIR = 4, 2
names = st.sampled_from(NAMES)


class ClusterMachine(RuleBasedStateMachine):
    """Shards come, stall, die and drain; leaders change; instructions get lost; the ledger goes away and comes back."""

    @initialize(columns=st.integers(1, 4), rows=st.integers(1, 3), settle_ms=st.sampled_from([0.0, 300.0]))
    def begin(self, columns: int, rows: int, settle_ms: float) -> None:
        migration = MigrationSettings(most=MOST, most_per_pair=MOST_PER_PAIR, timeout_ms=2000, rest_ms=1000)
        self.cluster = FakeCluster(columns, rows, ClusterSettings(settle_ms=settle_ms, migration=migration))
        self.leaders = 0

    def alive(self, name: str) -> bool:
        member = self.cluster.view().members.get(name)
        return member is not None and name not in self.cluster.silent

    @rule(name=names, state=st.sampled_from(["ready", "ready", "starting"]))
    def join(self, name: str, state: str) -> None:
        if name not in self.cluster.view().members:
            self.cluster.join(name, state=state)

    @rule(name=names, state=st.sampled_from(["ready", "draining"]), load=st.floats(0, 2000) | st.none())
    def say(self, name: str, state: str, load: float | None) -> None:
        if self.alive(name) and self.cluster.members[name].info["state"] != "draining":
            self.cluster.say(name, state=state, load=load)

    @rule(name=names)
    def kill(self, name: str) -> None:
        self.cluster.kill(name)

    @rule(name=names)
    def suspect(self, name: str) -> None:
        """Report one, be it dead or (wrongly) alive."""
        if name in self.cluster.members:
            self.cluster.suspect(name)

    @rule(name=names)
    def depart(self, name: str) -> None:
        if name in self.cluster.members:
            self.cluster.depart(name)

    @rule(name=names, draining=st.booleans())
    def drain(self, name: str, draining: bool) -> None:
        if name in self.cluster.view().members:
            drive(self.cluster.ledger.set_draining(name, draining))

    @rule(duration_ms=st.sampled_from([50, 200, 1500, 3000]))
    def time_passes(self, duration_ms: int) -> None:
        until = self.cluster.now_ms + duration_ms
        while self.cluster.now_ms < until:
            self.cluster.now_ms += 100
            self.cluster.beat()
            self.turn(lambda instruction: True)

    @rule(lost=st.sets(st.integers(0, 11)))
    def some_instructions_are_lost(self, lost: set[int]) -> None:
        numbers = iter(range(1000))
        self.turn(lambda instruction: next(numbers) not in lost)

    @rule(duration_ms=st.sampled_from([200, 5000]))
    def the_ledger_is_away(self, duration_ms: int) -> None:
        self.cluster.fail_view()
        self.cluster.now_ms += duration_ms
        assert not [i for i in self.turn(lambda instruction: True) if isinstance(i, Evict) and i.reason.startswith("lease")]

    @rule()
    def another_leads(self) -> None:
        self.leaders += 1
        self.cluster.elect(self.cluster.coordinator(f"c{self.leaders}"))

    @rule(zones=st.sets(st.integers(0, 11)))
    def successors_are_ready(self, zones: set[int]) -> None:
        self.cluster.follow(*zones)

    @precondition(lambda self: self.cluster.view().zones)
    @rule(zone=st.integers(0, 11), name=names)
    def an_operator_moves_a_zone(self, zone: int, name: str) -> None:
        view = self.cluster.view()
        if zone in view.zones and sum(1 for r in view.zones.values() if r.successor) < MOST:
            drive(self.cluster.ledger.intend(view.term, zone, name))

    def turn(self, carry_out: Any) -> list[Instruction]:
        """Let the leader act. An assignment that the ledger refuses (a second one for an epoch) fails the test by itself."""
        before = self.cluster.view()
        wanted = self.cluster.step(carry_out=carry_out)
        self.check_targets(before, wanted)
        return wanted

    def check_targets(self, view: ClusterView, wanted: list[Instruction]) -> None:
        evicted = {i.member for i in wanted if isinstance(i, Evict)}
        ready = {m.name for m in view.members.values() if m.info["state"] == "ready"} - evicted
        good = ready - view.draining
        assigns = [i for i in wanted if isinstance(i, Assign)]
        assert len({i.zone for i in assigns}) == len(assigns)
        for assign in assigns:
            assert assign.shard == "" or assign.shard in (good or ready)
        for intend in (i for i in wanted if isinstance(i, Intend) and i.successor):
            assert intend.successor in good
            assert intend.successor != view.zones[intend.zone].owner

    @invariant()
    def migrations_are_bounded(self) -> None:
        if hasattr(self, "cluster"):
            assert sum(1 for route in self.cluster.view().zones.values() if route.successor) <= MOST

    def teardown(self) -> None:
        """Calm: every zone ends with a living shard, evenly, and nothing moves any more."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        for _ in range(120):
            cluster.now_ms += 100
            cluster.beat()
            self.turn(lambda instruction: True)
            cluster.follow()
        view = cluster.view()
        good = {m.name for m in view.members.values() if m.info["state"] == "ready"} - view.draining
        assert not (view.members.keys() & cluster.silent), "the dead were put out"
        if good:
            assert len(view.zones) == cluster.zones
            assert set(cluster.counts()) <= good
            if not any(m.info.get("load") for m in view.members.values()):
                assert self.turn(lambda instruction: True) == []
        try:
            drive(cluster.ledger.assign(view.term + 1, 0, "", 0))
        except LedgerRefused:
            return
        raise AssertionError("the ledger took a term that nobody has")


ClusterMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
TestClusterProperties = ClusterMachine.TestCase
