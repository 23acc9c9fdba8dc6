"""What goes into the cluster state and what comes out of it: frozen values, no behaviour.

Owned here: the vocabulary. The service turns I/O into events and instructions into ledger calls; the simulator does the same
with its own clock. All times are monotonic milliseconds of the process that feeds the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from perdure.ledger.values import ClusterView

# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorldRead:
    """The world record: how many zones there are. Nothing is assigned before it is known."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Elected:
    """This coordinator leads, in `term`."""

    now_ms: float
    term: int


@dataclass(frozen=True, slots=True)
class Deposed:
    """Another leads, or the lease could not be renewed."""


@dataclass(frozen=True, slots=True)
class ViewRead:
    """The ledger's view. All instructions of earlier events were carried out, or given up, before it was read."""

    now_ms: float
    view: ClusterView


@dataclass(frozen=True, slots=True)
class ViewFailed:
    """The ledger gave no view: an outage of the ledger, which says nothing about the members."""

    now_ms: float


@dataclass(frozen=True, slots=True)
class SuspectAnswers:
    """A shard, in this incarnation, answers at its port, though there are so many reports that it refuses."""

    name: str
    number: int
    reports: int


@dataclass(frozen=True, slots=True)
class GatewaysInUse:
    """Numbers of the gateways that players are attached to, read before the view that follows."""

    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class TailRead:
    """The build that wrote the record of `tick`, the zone's last, as members show theirs; "" where there is no such record."""

    zone: int
    tick: int
    build: str


# --- instructions -------------------------------------------------------------------------------------------------


class Cause(StrEnum):
    """Why a zone is given to a shard."""

    START = "start"  # it never ran
    FAILOVER = "failover"  # its owner is gone
    MIGRATION = "migration"  # a warm successor takes over
    RELEASE = "release"  # nobody can take it: it is taken from a lost owner


@dataclass(frozen=True, slots=True)
class Assign:
    """Give `zone` to `shard` ("" for nobody), provided that its epoch is `expected_epoch`. `owner` held it before.

    `at_checkpoint`: provided, too, that its log has no records behind its newest checkpoint.
    """

    zone: int
    shard: str
    expected_epoch: int
    cause: Cause
    owner: str = ""
    at_checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class Intend:
    """Ask `successor` to prefetch `zone`; "" withdraws."""

    zone: int
    successor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Remove an incarnation of a member, after its zones are assigned and its players detached."""

    member: str
    number: int
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class GatewayLost:
    """Tell every zone that the gateway of this number is gone. Carried out before the gateway is evicted: it may be repeated."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class StepDown:
    """The view shows a later term: this coordinator leads no more."""

    term: int


@dataclass(frozen=True, slots=True)
class LostZone:
    """A zone whose last ticks the ledger forgot and nobody put back: `known` was committed, `left` is what there is. `awaited`: its
    owner lives, runs it, and may still put them back."""

    zone: int
    known: int
    left: int
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class OpenWorld:
    """Let players come and go at a server of the ledger that began a while ago; zones assigned from now on are of `generation` or later."""

    generation: int
    lost: tuple[LostZone, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadTail:
    """Find out which build wrote the record of `tick`, the zone's last; `TailRead` answers."""

    zone: int
    tick: int


Instruction = Assign | Intend | Evict | GatewayLost | StepDown | ReadTail | OpenWorld
Event = WorldRead | Elected | Deposed | ViewRead | ViewFailed | GatewaysInUse | SuspectAnswers | TailRead
