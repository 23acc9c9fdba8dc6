"""A cluster without processes: shards and gateways that beat into a memory ledger, and coordinators' states fed by hand.

Everything is synchronous and runs on one made-up clock. The memory ledger's methods are coroutines that never wait, so they are
driven without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from coordinator.cluster_state import ClusterSettings, ClusterState
from coordinator.events import (
    Assign,
    Deposed,
    Elected,
    Evict,
    GatewayLost,
    GatewaysInUse,
    Instruction,
    Intend,
    OpenWorld,
    ReadTail,
    StepDown,
    TailRead,
    ViewFailed,
    ViewRead,
    WorldRead,
)
from coordinator.steering import read_tail
from perdure.ledger.ledger import LedgerRefused
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.record import Record, RecordKind, blob_digest, chain_digest
from perdure.ledger.values import ClusterView, Commit, CommitStatus, EnterRequest, Member
from perdure.wire.identifiers import player_key

Answer = TypeVar("Answer")
LEASE_MS = 60_000
SHARDS = ("s0", "s1", "s2", "s3")


def drive(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the memory ledger waited")


@dataclass
class Coordinator:
    """A cluster state with a name, and what it wanted done."""

    name: str
    state: ClusterState
    done: list[Instruction] = field(default_factory=list)


class FakeCluster:
    """See the module docstring. Times are milliseconds."""

    def __init__(self, columns: int = 4, rows: int = 4, settings: ClusterSettings | None = None) -> None:
        self.now_ms = 1_000_000.0
        self.columns, self.rows, self.zones = columns, rows, columns * rows
        self.settings = settings or ClusterSettings(settle_ms=0.0)
        self.store = MemoryStore()
        self.ledger = MemoryLedger(self.store)
        self.members: dict[str, Member] = {}
        self.silent: set[str] = set()
        self.committing: set[str] = set()
        self._numbers = 100
        self._digests: dict[int, tuple[int, str]] = {}
        self.refuse: Callable[[Instruction], bool] = lambda instruction: False
        self.leader = self.coordinator("c0")

    # --- who is there ---------------------------------------------------------------------------------------------

    def coordinator(self, name: str) -> Coordinator:
        found = Coordinator(name, ClusterState(self.settings))
        found.state.handle(WorldRead(self.columns, self.rows))
        return found

    def join(self, *names: str, kind: str = "shard", state: str = "ready", load: object = None, build: int = 0) -> None:
        for name in names:
            self._numbers += 1
            info: dict[str, object] = {"state": state} | ({} if load is None else {"load": load})
            info |= {"build": f"{build:016x}"} if build else {}
            self.members[name] = Member(name, kind, self._numbers, f"unix:/{name}", info=info)
            self.silent.discard(name)
            self._beat(name)

    def say(self, name: str, **info: object) -> None:
        """Change what a member publishes, and beat."""
        member = self.members[name]
        self.members[name] = replace(member, info={**member.info, **info})
        self._beat(name)

    def kill(self, *names: str) -> None:
        self.silent |= set(names)

    def suspect(self, *names: str) -> None:
        for name in names:
            drive(self.ledger.suspect(name, self.members[name].number, "g"))

    def depart(self, name: str) -> None:
        drive(self.ledger.depart(name, self.members[name].number))
        self.silent.add(name)

    def enter(self, player: str, gateway: str, zone: int = 0) -> None:
        number = self.members[gateway].number
        drive(self.ledger.enter(EnterRequest(player_key(player), player, number, 0, zone, 0, f"{player:0>64}")))

    def _beat(self, name: str) -> None:
        member = replace(self.members[name], beat=self.members[name].beat + 1)
        self.members[name] = member
        drive(self.ledger.heartbeat(member))

    # --- time passes ----------------------------------------------------------------------------------------------

    def pass_ms(self, duration_ms: float, step_ms: float = 100.0, leader: bool = True) -> None:
        """Let time pass: members beat, owners that are said to commit do, the leader reads the view."""
        until = self.now_ms + duration_ms
        while self.now_ms < until:
            self.now_ms = min(until, self.now_ms + step_ms)
            self.beat()
            if leader:
                self.step()

    def beat(self) -> None:
        for name in self.members:
            if name not in self.silent:
                self._beat(name)
        for zone, route in self.view().zones.items():
            if route.owner in self.committing:
                self._commit(zone)

    def _commit(self, zone: int) -> None:
        head = drive(self.ledger.zone_head(zone))
        build = int(str(self.members[head.owner].info.get("build", "0")), 16) if head.owner in self.members else 0
        record = Record(RecordKind.TICK, zone, head.generation, head.epoch, head.tick + 1, 0, build, 0, 0, b"").pack()
        digest = chain_digest(head.digest, record)
        commit = Commit(zone, head.generation, head.epoch, head.tick + 1, head.digest, digest, record)
        (answer,) = drive(self.ledger.commit([commit]))
        assert answer.status is CommitStatus.OK

    def checkpoint(self, *zones: int) -> None:
        """Let the owners of these zones write checkpoints of their last ticks."""
        for zone in zones:
            head = drive(self.ledger.zone_head(zone))
            drive(self.ledger.put_checkpoint(zone, head.tick, head.epoch, b"image"))
            status = drive(self.ledger.flip_checkpoint(zone, head.generation, head.epoch, head.tick, blob_digest(b"image")))
            assert status is CommitStatus.OK

    def follow(self, *zones: int) -> None:
        """Let the successors of these zones (none: of all) report that they follow."""
        for zone, route in self.view().zones.items():
            if route.successor and (not zones or zone in zones):
                drive(self.ledger.successor_ready(zone, route.successor))

    def view(self) -> ClusterView:
        return drive(self.ledger.view())

    # --- the coordinator ------------------------------------------------------------------------------------------

    def elect(self, coordinator: Coordinator) -> None:
        """Make one lead, whoever led before."""
        self.store.data.leader = ""
        answer = drive(self.ledger.elect(coordinator.name))
        self.leader = coordinator
        coordinator.state.handle(Elected(self.now_ms, answer.term))

    def step(self, coordinator: Coordinator | None = None, carry_out: Callable[[Instruction], bool] | None = None) -> list[Instruction]:
        """Let one read the view, and carry out what it wants (what `carry_out` is true for). Return what it wanted."""
        chosen = coordinator or self.leader
        if chosen is self.leader and not chosen.state.leading:
            self.elect(chosen)
        in_use = frozenset(p.gateway for p in drive(self.ledger.online()) if p.gateway >= 0)
        chosen.state.handle(GatewaysInUse(in_use))
        instructions = chosen.state.handle(ViewRead(self.now_ms, self.view()))
        for instruction in instructions:
            if not self.refuse(instruction) and (carry_out is None or carry_out(instruction)):
                self.carry_out(chosen, instruction)
        return instructions

    def settle(self, rounds: int = 200) -> None:
        """Let the leader act, and successors follow, until it wants nothing more."""
        for _ in range(rounds):
            if not self.step() and not any(route.successor for route in self.view().zones.values()):
                return
            self.follow()
        raise AssertionError("the cluster does not come to rest")

    def fail_view(self, coordinator: Coordinator | None = None) -> None:
        (coordinator or self.leader).state.handle(ViewFailed(self.now_ms))

    def carry_out(self, coordinator: Coordinator, instruction: Instruction) -> None:
        term = coordinator.state.term or 0
        coordinator.done.append(instruction)
        match instruction:
            case Assign(zone, shard, expected_epoch):
                drive(self.ledger.assign(term, zone, shard, expected_epoch, instruction.at_checkpoint))
            case ReadTail(zone, tick):
                coordinator.state.handle(TailRead(zone, tick, drive(read_tail(self.ledger, zone, tick))))
            case Intend(zone, successor):
                drive(self.ledger.intend(term, zone, successor))
            case Evict(member, number):
                drive(self.ledger.evict(term, member, number))
            case GatewayLost(number):
                drive(self.ledger.gateway_lost(term, number))
            case OpenWorld(generation):
                drive(self.ledger.open_world(term, generation))
            case StepDown():
                coordinator.state.handle(Deposed())

    # --- what is seen ---------------------------------------------------------------------------------------------

    def owner(self, zone: int) -> str:
        return self.view().zones[zone].owner

    def owners(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for zone, route in self.view().zones.items():
            found.setdefault(route.owner, set()).add(zone)
        return found

    def counts(self) -> dict[str, int]:
        return {owner: len(zones) for owner, zones in self.owners().items()}

    def done(self, kind: type[Instruction]) -> list[Any]:
        return [instruction for instruction in self.leader.done if isinstance(instruction, kind)]


def running(*names: str, columns: int = 4, rows: int = 4, settings: ClusterSettings | None = None) -> FakeCluster:
    """Return a cluster of these shards, or of SHARDS, whose zones are shared out."""
    cluster = FakeCluster(columns, rows, settings)
    cluster.join(*(names or SHARDS))
    cluster.settle()
    return cluster


__all__ = ["SHARDS", "Coordinator", "FakeCluster", "LedgerRefused", "drive", "running"]
