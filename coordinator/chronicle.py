"""What happened in the cluster, told from one view to the next: for people who look on. Nothing is decided by it.

Owns a bounded ring of numbered events, and what is remembered of the last view to tell the next one by. Every coordinator keeps one,
leading or not, so it goes on after a change of leader; numbers of two coordinators are not comparable. Pure: no I/O, no clock but
the one injected for people's times. Must never raise on what members publish. Called by `steering` and `perdure top`; read by `live_api`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from perdure.ledger.values import ClusterView, Member, ZoneRoute

EVENTS_KEPT = 500
SILENCE_MS = 600.0
"""A member that went while its beat stood still for so long, with nobody saying why, is told as lost."""


class EventKind(StrEnum):
    """What an event is about; `web/dashboard` and `perdure top` colour by it."""

    JOINED = "joined"  # a member is new on the list
    LEFT = "left"  # it said goodbye
    LOST = "lost"  # it was taken for dead and put out
    DRAINING = "draining"
    STARTED = "started"  # zones run for the first time
    FAILOVER = "failover"  # zones of a lost owner were given to others
    RECOVERED = "recovered"  # all of them commit again: `blackout_ms`
    MIGRATING = "migrating"  # a successor prefetches
    MIGRATED = "migrated"
    STAYED = "stayed"  # a migration was given up
    LEADER = "leader"  # another coordinator leads, or another term began
    PAUSED = "paused"  # a shard waits for the ledger
    RESUMED = "resumed"
    LEDGER_AWAY = "ledger_away"  # this coordinator gets no view
    LEDGER_BACK = "ledger_back"
    RESTORED = "restored"  # a zone's owner put it back into a ledger that had forgotten it


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """`moves`: (zone, from, to). `blackout_ms`: the longest time between two commits of one of the zones, as seen in views."""

    number: int
    at_ms: int
    kind: EventKind
    text: str
    member: str = ""
    moves: tuple[tuple[int, str, str], ...] = ()
    blackout_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"id": self.number, "at_ms": self.at_ms, "kind": self.kind.value, "text": self.text}
        if self.member:
            found["member"] = self.member
        if self.moves:
            found["moves"] = [list(move) for move in self.moves]
        if self.blackout_ms is not None:
            found["blackout_ms"] = round(self.blackout_ms)
        return found


@dataclass(slots=True)
class _Loss:
    """Zones of one owner that were given away in one view and have not all committed since."""

    owner: str
    waiting: set[int]
    moves: list[tuple[int, str, str]]
    longest_ms: float = 0.0


@dataclass(slots=True)
class _Stand:
    """When a zone's tick was last seen to rise, and the loss that it waits to recover from."""

    tick: int
    risen_ms: float
    loss: _Loss | None = None


@dataclass(slots=True)
class _Seen:
    """A member as it was seen last: when its beat rose, whether it was paused."""

    member: Member
    risen_ms: float
    paused: bool = False


@dataclass(slots=True)
class _Moves:
    """What became of zones between two views, by kind and owners."""

    started: dict[str, list[int]] = field(default_factory=dict)
    failed_over: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    migrated: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    migrating: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    stayed: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    restored: dict[str, list[int]] = field(default_factory=dict)


class Chronicle:
    """See the module docstring. `wall_s` gives the times that people read; all else is by the caller's monotonic milliseconds."""

    def __init__(self, wall_s: Callable[[], float] = time.time, length: int = EVENTS_KEPT) -> None:
        self._wall_s = wall_s
        self._events: deque[ClusterEvent] = deque(maxlen=length)
        self._number = 0
        self._view: ClusterView | None = None
        self._members: dict[tuple[str, int], _Seen] = {}
        self._stands: dict[int, _Stand] = {}
        self._reasons: dict[tuple[str, int], str] = {}
        self._away = False

    @property
    def number(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._number

    def since(self, number: int, most: int = EVENTS_KEPT) -> list[ClusterEvent]:
        """Return the newest `most` of the kept events above `number`, oldest first."""
        found = [event for event in self._events if event.number > number]
        return found[-most:] if most else []

    def blackouts(self, most: int = 20) -> list[ClusterEvent]:
        """Return the last recoveries, oldest first."""
        return [event for event in self._events if event.kind is EventKind.RECOVERED][-most:]

    # --- what it is told --------------------------------------------------------------------------------------------

    def put_out(self, name: str, number: int, reason: str) -> None:
        """Remember why a member is about to be gone from the list."""
        self._reasons[name, number] = reason

    def no_view(self) -> None:
        """The ledger gave no view."""
        if not self._away:
            self._away = True
            self._note(EventKind.LEDGER_AWAY, "the ledger does not answer this coordinator")

    def observe(self, now_ms: float, view: ClusterView) -> None:
        """Take the next view in. The first one is the base, and yields no events."""
        if self._away:
            self._away = False
            self._note(EventKind.LEDGER_BACK, "the ledger answers again")
        before, self._view = self._view, view
        if before is None:
            self._members = {(m.name, m.number): _Seen(m, now_ms, _is_paused(m)) for m in view.members.values()}
            self._stands = {zone: _Stand(view.ticks.get(zone, 0), now_ms) for zone in view.zones}
            return
        if view.leader and (view.term, view.leader) != (before.term, before.leader):
            self._note(EventKind.LEADER, f"{view.leader} leads in term {view.term}", view.leader)
        self._observe_members(now_ms, view, before)
        self._observe_zones(now_ms, view, before)
        self._observe_ticks(now_ms, view, before)

    # --- members ----------------------------------------------------------------------------------------------------

    def _observe_members(self, now_ms: float, view: ClusterView, before: ClusterView) -> None:
        there = {(m.name, m.number): m for m in view.members.values()}
        for key in [key for key in self._members if key not in there]:
            self._gone(now_ms, key, before)
        for key, member in there.items():
            seen = self._members.get(key)
            if seen is None:
                self._members[key] = _Seen(member, now_ms, _is_paused(member))
                self._note(EventKind.JOINED, f"{member.kind} {member.name} joined", member.name)
                continue
            paused = _is_paused(member)
            if paused != seen.paused:
                text = "waits for the ledger" if paused else "goes on"
                self._note(EventKind.PAUSED if paused else EventKind.RESUMED, f"{member.name} {text}", member.name)
            self._members[key] = _Seen(member, now_ms if member.beat > seen.member.beat else seen.risen_ms, paused)
        self._reasons.clear()
        for name in sorted(view.draining - before.draining):
            self._note(EventKind.DRAINING, f"{name} is to give its zones away and leave", name)

    def _gone(self, now_ms: float, key: tuple[str, int], before: ClusterView) -> None:
        seen, reason = self._members.pop(key), self._reasons.pop(key, "")
        name, kind = seen.member.name, seen.member.kind
        silent_ms = now_ms - seen.risen_ms
        if not reason and (silent_ms >= SILENCE_MS or before.suspects.get(name, 0)):
            reason = f"no heartbeat for {silent_ms:.0f} ms"
        if reason:
            self._note(EventKind.LOST, f"{kind} {name} is lost ({reason})", name)
        else:
            self._note(EventKind.LEFT, f"{kind} {name} left", name)

    # --- zones ------------------------------------------------------------------------------------------------------

    def _observe_zones(self, now_ms: float, view: ClusterView, before: ClusterView) -> None:
        if view.zones is before.zones:
            return
        moves = _Moves()
        for zone, route in view.zones.items():
            was = before.zones.get(zone)
            if was is None:
                _sort_new(moves, route)
            elif (route.owner, route.epoch, route.generation, route.successor) != (was.owner, was.epoch, was.generation, was.successor):
                self._sort(moves, was, route)
        for zone in [zone for zone in self._stands if zone not in view.zones]:
            del self._stands[zone]
        for owner, zones in moves.started.items():
            self._note(EventKind.STARTED, f"{owner} starts {_named(zones)}", owner, tuple((zone, "", owner) for zone in zones))
        for owner, lost in moves.failed_over.items():
            self._failed_over(now_ms, owner, lost, view)
        told = ((EventKind.MIGRATED, moves.migrated, "moved"), (EventKind.MIGRATING, moves.migrating, "prepares to move"))
        for kind, grouped, verb in told:
            for (owner, to), zones in grouped.items():
                words = verb if len(zones) == 1 else verb.replace("prepares", "prepare")
                text = f"{_named(zones)} {words} from {owner} to {to}"
                self._note(kind, text, to, tuple((zone, owner, to) for zone in zones))
        for (owner, to), zones in moves.stayed.items():
            self._note(EventKind.STAYED, f"{_named(zones)}: the move to {to} was given up; {owner or 'nobody'} has it", owner)
        for owner, zones in moves.restored.items():
            self._note(EventKind.RESTORED, f"{owner} put {_named(zones)} back into the ledger", owner)

    def _sort(self, moves: _Moves, was: ZoneRoute, route: ZoneRoute) -> None:
        zone = route.zone
        if (route.owner, route.epoch) == (was.owner, was.epoch):
            if route.successor and route.successor != was.successor:
                moves.migrating.setdefault((route.owner, route.successor), []).append(zone)
            elif was.successor and not route.successor:
                moves.stayed.setdefault((route.owner, was.successor), []).append(zone)
        elif not was.owner and was.epoch == 0:
            _sort_new(moves, route)
        elif route.owner and was.successor == route.owner:
            moves.migrated.setdefault((was.owner, route.owner), []).append(zone)
        elif route.owner == was.owner and route.generation > was.generation:
            moves.restored.setdefault(route.owner, []).append(zone)
        else:
            stand = self._stands.get(zone)
            lost = was.owner or (stand.loss.owner if stand and stand.loss else "")
            moves.failed_over.setdefault(lost, []).append((zone, lost, route.owner))

    def _failed_over(self, now_ms: float, owner: str, lost: list[tuple[int, str, str]], view: ClusterView) -> None:
        targets = sorted({to for _, _, to in lost})
        names = ", ".join(to or "nobody yet" for to in targets)
        named = _named([zone for zone, _, _ in lost])
        self._note(EventKind.FAILOVER, f"{named} of {owner or 'nobody'} given to {names}", owner, tuple(lost))
        loss = _Loss(owner, set(), [])
        for zone, _, to in lost:
            tick = view.ticks.get(zone, 0)
            stand = self._stands.setdefault(zone, _Stand(tick, now_ms))
            earlier, stand.loss = stand.loss, loss
            loss.waiting.add(zone)
            loss.moves.append((zone, owner, to))
            if stand.tick < tick:
                stand.risen_ms = now_ms  # its last commits came in the same view
            stand.tick = tick
            if earlier is not None:
                earlier.waiting.discard(zone)  # it is lost again: told with this loss, counted from where it stood still
                if not earlier.waiting and earlier.longest_ms:
                    self._recovered(earlier)

    # --- ticks ------------------------------------------------------------------------------------------------------

    def _observe_ticks(self, now_ms: float, view: ClusterView, before: ClusterView) -> None:
        ticked = [(zone, tick) for zone, tick in view.ticks.items() if before.ticks.get(zone) != tick]
        for zone, tick in ticked:
            if zone not in view.zones:
                continue
            stand = self._stands.get(zone)
            if stand is None:
                self._stands[zone] = _Stand(tick, now_ms)
                continue
            if tick == stand.tick:
                continue
            loss, still_ms = stand.loss, now_ms - stand.risen_ms
            risen = tick > stand.tick
            stand.tick, stand.risen_ms = tick, now_ms
            if loss is None or not risen:
                continue
            stand.loss = None
            loss.longest_ms = max(loss.longest_ms, still_ms)
            loss.waiting.discard(zone)
            if not loss.waiting:
                self._recovered(loss)

    def _recovered(self, loss: _Loss) -> None:
        text = f"{_named([zone for zone, _, _ in loss.moves])} of {loss.owner or 'nobody'} went on after {loss.longest_ms:.0f} ms"
        self._note(EventKind.RECOVERED, text, loss.owner, tuple(loss.moves), loss.longest_ms)

    def _note(
        self,
        kind: EventKind,
        text: str,
        member: str = "",
        moves: tuple[tuple[int, str, str], ...] = (),
        blackout_ms: float | None = None,
    ) -> None:
        self._number += 1
        self._events.append(ClusterEvent(self._number, round(self._wall_s() * 1000), kind, text, member, moves, blackout_ms))


def _sort_new(moves: _Moves, route: ZoneRoute) -> None:
    if route.owner:
        moves.started.setdefault(route.owner, []).append(route.zone)


def _is_paused(member: Member) -> bool:
    return member.info.get("paused") is True


def _named(zones: Iterable[int]) -> str:
    """Return "zone 3", "zones 1, 2 and 5" or "12 zones"."""
    found = sorted(zones)
    if len(found) == 1:
        return f"zone {found[0]}"
    if len(found) > 6:
        return f"{len(found)} zones"
    return f"zones {', '.join(map(str, found[:-1]))} and {found[-1]}"
