"""Planned moves of zones: which are under way, what becomes of each, which start next.

Owns the migration table below and the limits. Pure; called by `cluster_state`. The whole state of a migration stands in the
ledger's view (successor, ready, owner), so a new leader goes on wherever the old one stopped; only time-outs and rests
start anew.

A zone goes to a shard of another build only with its owner's last checkpoint, when its log has no tail
(docs/decisions/0011-builds-change-at-a-checkpoint.md), and never for balance alone. A zone that a living shard has still to put back
in a ledger that forgot it stays where it is (coordinator.openings).

A zone is settled until a successor is intended. Then, by what the view shows:
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordinator.allocation import Survey, placed
from coordinator.events import Assign, Cause, Instruction, Intend
from perdure.ledger.values import ZoneRoute
from perdure.placement.assignment import AllocationStrategy, Move


class Phase(StrEnum):
    SETTLED = "settled"  # no successor
    PREFETCHING = "prefetching"  # the successor loads the checkpoint and follows the log
    HANDING = "handing over"  # the successor is of another build: the owner's last checkpoint is awaited
    READY = "ready"  # it follows, or that checkpoint is there: the epoch may move
    ASSIGNED = "assigned"  # the epoch moves; settled in the next view


class Sight(StrEnum):
    """What the view shows of a zone with a successor."""

    IN_TIME = "the owner and the successor live, and there is time"
    OWNER_LOST = "the owner is gone, the successor lives"
    SUCCESSOR_UNFIT = "the successor is gone, draining or not ready, or already the owner"
    UNABLE = "the successor says that it cannot run the zone"
    LATE = "the time is over, the owner stays"
    LATE_LEAVING = "the time is over, and the owner wants to leave"


class Step(StrEnum):
    WAIT = "wait"
    ASSIGN = "assign"
    WITHDRAW = "withdraw"


TABLE: Mapping[tuple[Phase, Sight], tuple[Step, Phase]] = {
    (Phase.PREFETCHING, Sight.IN_TIME): (Step.WAIT, Phase.PREFETCHING),
    (Phase.PREFETCHING, Sight.OWNER_LOST): (Step.ASSIGN, Phase.ASSIGNED),  # a failover to who is warmest
    (Phase.PREFETCHING, Sight.SUCCESSOR_UNFIT): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.PREFETCHING, Sight.LATE): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.PREFETCHING, Sight.LATE_LEAVING): (Step.ASSIGN, Phase.ASSIGNED),  # cold, but the owner gets away
    (Phase.PREFETCHING, Sight.UNABLE): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.HANDING, Sight.IN_TIME): (Step.WAIT, Phase.HANDING),
    (Phase.HANDING, Sight.SUCCESSOR_UNFIT): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.HANDING, Sight.UNABLE): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.HANDING, Sight.LATE): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.HANDING, Sight.LATE_LEAVING): (Step.WITHDRAW, Phase.SETTLED),  # and once more: the owner cannot be left behind its tail
    (Phase.READY, Sight.IN_TIME): (Step.ASSIGN, Phase.ASSIGNED),
    (Phase.READY, Sight.OWNER_LOST): (Step.ASSIGN, Phase.ASSIGNED),
    (Phase.READY, Sight.SUCCESSOR_UNFIT): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.READY, Sight.UNABLE): (Step.WITHDRAW, Phase.SETTLED),
    (Phase.READY, Sight.LATE): (Step.ASSIGN, Phase.ASSIGNED),
    (Phase.READY, Sight.LATE_LEAVING): (Step.ASSIGN, Phase.ASSIGNED),
}


def phase(route: ZoneRoute, seen: Survey | None = None) -> Phase:
    """Return the phase of a zone as the view shows it."""
    if not route.successor:
        return Phase.SETTLED
    if seen is not None and seen.crosses(route) and not (route.ready and route.image == seen.ticks.get(route.zone, 0)):
        return Phase.HANDING
    return Phase.READY if route.ready else Phase.PREFETCHING


@dataclass(frozen=True, slots=True)
class MigrationSettings:
    """`most` migrations at a time, `most_per_pair` between two shards; a zone that moved rests for `rest_ms`."""

    most: int = 8
    most_per_pair: int = 2
    timeout_ms: float = 10_000.0
    rest_ms: float = 30_000.0
    review_ms: float = 1000.0
    rebalance: bool = True


class MigrationBook:
    """Time-outs of the moves under way, and rests of the zones that moved lately."""

    def __init__(self, settings: MigrationSettings) -> None:
        self._settings = settings
        self._began: dict[int, tuple[str, float]] = {}
        self._rests_until_ms: dict[int, float] = {}
        self._unable_until_ms: dict[tuple[int, str], float] = {}
        self._reviewed: tuple[int, float] | None = None

    def forget(self) -> None:
        """Start anew (a new term): what the view shows as under way gets its full time again."""
        self._began.clear()
        self._unable_until_ms.clear()
        self._reviewed = None

    def advance(self, now_ms: float, seen: Survey) -> list[Instruction]:
        """Take every move that is under way one step on."""
        orphans = {route.zone for route in seen.orphans}
        found: list[Instruction] = []
        for route in seen.routes:
            if not route.successor and route.zone not in self._began:
                continue
            self._note(now_ms, route)
            lost = route.zone in orphans
            if not route.successor or (lost and route.successor in seen.eligible - seen.candidates(route.zone)):
                continue  # an orphan goes to somebody fitter, which ends the intent
            sight = self._sight(now_ms, route, seen, lost)
            step, _ = TABLE[phase(route, None if lost else seen), sight]
            if step is Step.ASSIGN:
                if route.zone in seen.awaited:
                    continue  # what has still to be put back would be lost
                cause = Cause.FAILOVER if sight is Sight.OWNER_LOST else Cause.MIGRATION
                at_checkpoint = not lost and seen.crosses(route)
                found.append(Assign(route.zone, route.successor, route.epoch, cause, route.owner, at_checkpoint))
            elif step is Step.WITHDRAW:
                self._rests_until_ms[route.zone] = now_ms + self._settings.rest_ms
                found.append(Intend(route.zone, "", str(sight) + self._why(now_ms, route, sight, seen)))
        return found

    def _why(self, now_ms: float, route: ZoneRoute, sight: Sight, seen: Survey) -> str:
        if sight is not Sight.UNABLE:
            return ""
        self._unable_until_ms = {pair: until_ms for pair, until_ms in self._unable_until_ms.items() if until_ms > now_ms}
        self._unable_until_ms[route.zone, route.successor] = now_ms + self._settings.rest_ms
        return f" ({seen.failures[route.zone][route.successor]}): {route.owner} keeps it"

    def start(self, now_ms: float, version: int, seen: Survey, strategy: AllocationStrategy, costs: Mapping[int, float]) -> list[Intend]:
        """Return the moves that begin now: zones of leaving shards first; else what levels the load."""
        if not seen.eligible or any(route.zone not in seen.awaited for route in seen.orphans):
            return []
        running = [route for route in seen.routes if route.successor]
        free = self._settings.most - len(running)
        if free <= 0:
            return []
        held = seen.holdings(seen.eligible)
        settled = [r for r in seen.routes if not r.successor and r.zone not in seen.awaited]
        leaving = [r for r in settled if r.owner in seen.leaving]
        if leaving:
            targets = placed(strategy, {r.zone: self._able(now_ms, r.zone, seen) for r in leaving}, seen, costs)
            moves = [Move(r.zone, r.owner, targets[r.zone]) for r in leaving if r.zone in targets]
            reason = "drain"
        else:
            if not self._settings.rebalance or not self._review_is_due(now_ms, version):
                return []
            movable = {r.zone for r in settled if self._rests_until_ms.get(r.zone, now_ms) <= now_ms}
            moves = []
            for build in sorted({seen.builds[shard] for shard in held}):
                alike = {shard: zones for shard, zones in held.items() if seen.builds[shard] == build}
                moves += strategy.rebalance(alike, costs, movable, self._settings.most * 2)
            reason = "rebalance"
        return self._within_limits(moves, running, free, reason)

    def _able(self, now_ms: float, zone: int, seen: Survey) -> frozenset[str]:
        """Return the shards that a zone may move to: not those that have failed with it lately."""
        failing, until_ms = seen.failures.get(zone, {}), self._unable_until_ms
        return frozenset(s for s in seen.eligible if s not in failing and until_ms.get((zone, s), now_ms) <= now_ms)

    def _within_limits(self, moves: list[Move], running: list[ZoneRoute], free: int, reason: str) -> list[Intend]:
        pairs = Counter((route.owner, route.successor) for route in running)
        found: list[Intend] = []
        for move in moves:
            pair = (move.source, move.target)
            if len(found) < free and pairs[pair] < self._settings.most_per_pair:
                pairs[pair] += 1
                found.append(Intend(move.zone, move.target, f"{reason}: from {move.source}"))
        return found

    def _note(self, now_ms: float, route: ZoneRoute) -> None:
        """Follow begin and end of the zone's move, as the view shows them."""
        began = self._began.get(route.zone)
        if route.successor:
            if began is None or began[0] != route.successor:
                self._began[route.zone] = (route.successor, now_ms)
        elif began is not None:
            del self._began[route.zone]
            if route.owner == began[0]:
                self._rests_until_ms[route.zone] = now_ms + self._settings.rest_ms

    def _sight(self, now_ms: float, route: ZoneRoute, seen: Survey, orphan: bool) -> Sight:
        if route.successor not in seen.eligible or (route.successor == route.owner and not orphan):
            return Sight.SUCCESSOR_UNFIT
        if orphan:
            return Sight.OWNER_LOST
        if route.successor in seen.failures.get(route.zone, {}):
            return Sight.UNABLE
        if now_ms - self._began[route.zone][1] < self._settings.timeout_ms:
            return Sight.IN_TIME
        return Sight.LATE_LEAVING if route.owner in seen.leaving else Sight.LATE

    def _review_is_due(self, now_ms: float, version: int) -> bool:
        """Look for a better balance at each change of the routes, and now and then for the load's sake."""
        last = self._reviewed
        if last is not None and last[0] == version and now_ms - last[1] < self._settings.review_ms:
            return False
        self._reviewed = (version, now_ms)
        return True


def _table_text() -> str:
    return "\n".join(f"    {at:<12} {sight.value:<72} -> {step}, {then}" for (at, sight), (step, then) in TABLE.items())


__doc__ = (__doc__ or "") + "\n" + _table_text() + "\n"
