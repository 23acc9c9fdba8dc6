"""The check of evictions itself: it tells who was put out too soon, and who is dead and still a member."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.failover import LivenessSettings
from perdure.ledger.values import Member
from tests.simulation.leases import Leases

LEASE_S = LivenessSettings().lease_ms / 1000
SHARD, COORDINATOR = SimpleNamespace(name="shard-1", alive=True), SimpleNamespace(name="coordinator-1", alive=True)
MEMBER = Member("shard-1", "shard", 7, "", 1, {})


class Run:
    """A shard that beat at 10.0 s, and a coordinator that has read so."""

    def __init__(self, suspects: dict[str, int]) -> None:
        self.found: list[str] = []
        self.now_s = 10.0
        self.leases = Leases(self.found.append, lambda: self.now_s)
        self.call(SHARD, "heartbeat", (MEMBER,), SimpleNamespace(accepted=True))
        self.call(COORDINATOR, "view", (), SimpleNamespace(members={MEMBER.name: MEMBER}, suspects=suspects))

    def call(self, process: Any, name: str, arguments: tuple[Any, ...], answer: Any = None) -> None:
        self.leases.called(process, name, arguments, answer)

    def evict(self, after_s: float) -> list[str]:
        self.now_s = 10.0 + after_s
        self.call(COORDINATOR, "evict", (1, MEMBER.name, MEMBER.number))
        return self.found


def test_who_was_heard_within_the_lease_is_not_put_out() -> None:
    assert "heard 0.500 s before" in Run({}).evict(LEASE_S / 2)[0]
    assert Run({}).evict(LEASE_S) == []


def test_a_suspicion_needs_no_lease() -> None:
    assert Run({MEMBER.name: 1}).evict(0.1) == []


def test_a_heartbeat_that_came_after_the_reading_counts_for_nothing() -> None:
    run = Run({})
    run.now_s = 10.0 + LEASE_S
    run.call(SHARD, "heartbeat", (MEMBER,), SimpleNamespace(accepted=True))
    assert run.evict(LEASE_S + 0.01) == []


@pytest.mark.parametrize("alive", [True, False])
def test_the_dead_are_no_members_at_rest(alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run({})
    monkeypatch.setattr(SHARD, "alive", alive)
    run.leases.at_rest([MEMBER])
    assert bool(run.found) is not alive
