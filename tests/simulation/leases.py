"""Nobody is put out who was heard, and the dead are: every eviction of a simulated run, held against the heartbeats that the ledger took.

`Leases` listens at the ledger's server. An eviction without a suspicion is by the lease: then the last heartbeat that its
coordinator could have read is older than the lease, whatever clocks, networks and the ledger did meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from coordinator.failover import LivenessSettings
from perdure.ledger.values import ClusterView, Member
from tests.simulation.clock import Process

ROUNDING_S = 0.001


class Leases:
    """See the module docstring. `fail` takes what does not hold; `now_s` is the virtual time."""

    def __init__(self, fail: Callable[[str], None], now_s: Callable[[], float]) -> None:
        self._fail, self._now_s = fail, now_s
        self._heard_s: dict[tuple[str, int], float] = {}
        """(member, number) -> when the ledger took its last heartbeat"""
        self._read: dict[str, tuple[dict[tuple[str, int], float], ClusterView]] = {}
        """process -> what its last view told of heartbeats, and that view"""
        self._processes: dict[tuple[str, int], Process] = {}
        settings = LivenessSettings()
        self._lease_s = {"shard": settings.lease_ms / 1000, "gateway": settings.slow_lease_ms / 1000}

    def called(self, process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
        """A call took effect at the server."""
        if name == "heartbeat" and answer.accepted:
            member = arguments[0].name, arguments[0].number
            self._heard_s[member], self._processes[member] = self._now_s(), process
        elif name == "view":
            self._read[process.name] = dict(self._heard_s), answer
        elif name == "evict":
            self._evicted(process.name, arguments[1], arguments[2])

    def at_rest(self, members: Iterable[Member]) -> None:
        """Nothing has gone wrong for longer than any lease: who is still a member lives."""
        for member in members:
            process = self._processes.get((member.name, member.number))
            if process is None or not process.alive:
                heard_s = self._heard_s.get((member.name, member.number), 0.0)
                self._fail(f"leases: {member.name} ({member.number}) is dead, was last heard at {heard_s:.3f} s, and is a member still")

    def _evicted(self, coordinator: str, name: str, number: int) -> None:
        heard_s, view = self._read[coordinator]
        member = view.members.get(name)
        if member is None or member.number != number or view.suspects.get(name) or (name, number) not in heard_s:
            return
        silent_s, lease_s = self._now_s() - heard_s[name, number], self._lease_s.get(member.kind, self._lease_s["gateway"])
        if silent_s < lease_s - ROUNDING_S:
            self._fail(f"leases: {coordinator} has put out {name}, which was heard {silent_s:.3f} s before; the lease is {lease_s:.1f} s")
