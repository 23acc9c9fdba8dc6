"""Changes of presence, told from readings and hints: who came, went, moved, lost or found a socket.

Owns `PresenceBook`, a bounded log of numbered changes. Pure: no I/O, no clock. Called by the coordinator's admin API. It
is for people and tools that watch the world; nothing that must not be lost hangs on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

CHANGES_KEPT = 1000


class Sighting(Protocol):
    """One player of a reading, as `perdure.ledger.values.Presence` has it: `gateway` is below 0 without a socket."""

    @property
    def player(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def place(self) -> int: ...
    @property
    def gateway(self) -> int: ...
    @property
    def session(self) -> int: ...


class PresenceKind(StrEnum):
    """What happened, in the words of the ledger's presence channel."""

    ENTER = "enter"  # from the lobby
    LEAVE = "leave"  # to the lobby
    MOVE = "move"  # to another zone
    ATTACH = "attach"  # a socket took the session over, or came back
    DETACH = "detach"  # the socket is gone; the player is still in its zone


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """`number` rises by one with each change that one book saw; it is not comparable between books."""

    number: int
    kind: PresenceKind
    name: str
    zone: int
    gateway: int
    session: int


class PresenceBook:
    """The last reading, and the newest `length` changes. The first reading is the base and yields no changes."""

    def __init__(self, length: int = CHANGES_KEPT) -> None:
        self._now: dict[int, Sighting] | None = None
        self._changes: deque[PresenceChange] = deque(maxlen=length)
        self._number = 0

    @property
    def number(self) -> int:
        """Number of the newest change; 0 before the first."""
        return self._number

    @property
    def started(self) -> bool:
        return self._now is not None

    def since(self, number: int) -> list[PresenceChange]:
        """Return the kept changes above `number`, oldest first. A gap in the numbers means that older ones were let go."""
        return [change for change in self._changes if change.number > number]

    def online(self) -> list[Sighting]:
        """Return everyone online as of the last reading and hint, by name."""
        return sorted((self._now or {}).values(), key=lambda sighting: sighting.name)

    def sightings(self) -> Iterable[Sighting]:
        """Return everyone online in no order, to be counted at once."""
        return () if self._now is None else self._now.values()

    def gateways(self) -> frozenset[int]:
        """Return the numbers of the gateways that players are attached to."""
        return frozenset(sighting.gateway for sighting in (self._now or {}).values() if sighting.gateway >= 0)

    def read(self, online: Iterable[Sighting]) -> list[PresenceChange]:
        """Take a reading of everyone online; return what changed against the last one, by name."""
        after = {sighting.player: sighting for sighting in online}
        before, self._now = self._now, after
        if before is None:
            return []
        found: list[PresenceChange] = []
        for player in sorted(before.keys() | after.keys(), key=lambda key: (after.get(key) or before[key]).name):
            was, is_now = before.get(player), after.get(player)
            found += [self._note(kind, is_now or before[player]) for kind in _differences(was, is_now)]
        return found

    def hint(self, sighting: Sighting) -> list[PresenceChange]:
        """Take what is heard of one player (a place below 0: it is in the lobby). Without a reading before it, ignored."""
        if self._now is None:
            return []
        was = self._now.get(sighting.player)
        is_now = sighting if sighting.place >= 0 else None
        if is_now is not None:
            self._now[sighting.player] = is_now
        else:
            self._now.pop(sighting.player, None)
        if was is None and is_now is None:
            return []
        return [self._note(kind, sighting) for kind in _differences(was, is_now)]

    def _note(self, kind: PresenceKind, seen: Sighting) -> PresenceChange:
        self._number += 1
        change = PresenceChange(self._number, kind, seen.name, seen.place, seen.gateway, seen.session)
        self._changes.append(change)
        return change


def _differences(was: Sighting | None, is_now: Sighting | None) -> list[PresenceKind]:
    if was is None:
        return [PresenceKind.ENTER]
    if is_now is None:
        return [PresenceKind.LEAVE]
    kinds: list[PresenceKind] = []
    if was.place != is_now.place:
        kinds.append(PresenceKind.MOVE)
    if is_now.gateway < 0 <= was.gateway:
        kinds.append(PresenceKind.DETACH)
    elif is_now.gateway >= 0 and (was.gateway, was.session) != (is_now.gateway, is_now.session):
        kinds.append(PresenceKind.ATTACH)
    return kinds
