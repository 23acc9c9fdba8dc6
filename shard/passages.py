"""Who came and who left: what a zone remembers of its borders, so that nothing passes them twice when a ledger went back in time.

An older copy of the ledger may hold entries in an inbox that the zone has taken already, and an owner that restores its zone
delivers again what the ledger forgot. Each passage has a number that says whether it is known: of a player, how often it has
moved (the entry's hop); of an entity without a player and of an effect, a stamp of the zone that it left. (docs/decisions/0012)

Owns that memory, which is part of the zone's image and a function of its log. Never reads an inbox, never sends. Called by shard.zone.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

from perdure.ledger.values import Sent, Transfer
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY

REMEMBERED = 512
"""Transfers that a zone remembers, beside effects."""
EFFECTS_REMEMBERED = 1024
"""Effects that a zone remembers: apart from the others, which they would push out."""


_EFFECT = bytes((EntryKind.EFFECT,))


class Passages:
    """See the module docstring."""

    def __init__(self) -> None:
        self._count = 0
        self._sent: deque[tuple[int, Sent]] = deque(maxlen=REMEMBERED)
        self._effects: deque[tuple[int, Sent]] = deque(maxlen=EFFECTS_REMEMBERED)
        self._left: dict[int, int] = {}
        self._taken: dict[int, tuple[int, int, int]] = {}

    def leave(self, tick: int, transfers: Sequence[Transfer]) -> None:
        """Remember what a tick sends away."""
        for transfer in transfers:
            self._count += 1
            if transfer.entry[:1] == _EFFECT:
                self._effects.append((self._count, Sent(tick, transfer)))
                continue
            if len(self._sent) == REMEMBERED:
                oldest = self._sent[0][1].transfer
                if oldest.player and self._left.get(oldest.player) == unpack_entry(oldest.entry).hop:
                    del self._left[oldest.player]
            self._sent.append((self._count, Sent(tick, transfer)))
            if transfer.player:
                self._left[transfer.player] = unpack_entry(transfer.entry).hop

    def is_known(self, entry: Entry) -> bool:
        """Has this JOIN, ARRIVE or EFFECT been here before? One that has not is remembered from now on, where it has a stamp."""
        if entry.player:
            return entry.hop <= self._left.get(entry.player, -1)
        if self.has(entry):
            return True
        self._taken[entry.origin] = stamp_of(entry)
        return False

    def has(self, entry: Entry) -> bool:
        """Has what this entry's stamp says been here before? Nothing is remembered."""
        return stamp_of(entry) <= self._taken.get(entry.origin, (0, 0, -1))

    def since(self, tick: int) -> tuple[Sent, ...]:
        """Return what was sent away by ticks from `tick` on, and who logged out whenever it was, oldest first."""
        return tuple(sent for sent in self._all() if sent.tick >= tick or sent.transfer.target == LOBBY)

    def _all(self) -> list[Sent]:
        """Return what was sent in its order, which is that of the stamps."""
        return [sent for _, sent in heapq.merge(self._sent, self._effects, key=lambda one: one[0])]

    def taken(self) -> dict[int, tuple[int, int, int]]:
        """Return the last stamp that came from each zone, for `take_back`."""
        return dict(self._taken)

    def take_back(self, taken: dict[int, tuple[int, int, int]]) -> None:
        """Forget what came since `taken` was asked for: the tick that took it was only tried."""
        self._taken = taken

    def highest_move(self) -> int:
        """Return the highest number of moves of those who left."""
        return max(self._left.values(), default=0)

    def image(self) -> dict[str, Any]:
        """Return all of it, for a checkpoint."""
        sent = [(s.tick, s.transfer.target, s.transfer.player, s.transfer.entry) for s in self._all()]
        return {"sent": sent, "taken": [(origin, *stamp) for origin, stamp in sorted(self._taken.items())]}

    def restore(self, image: dict[str, Any]) -> None:
        """Become what `image` returned. Raises ValueError, KeyError or TypeError where it is not that."""
        self._sent.clear()
        self._effects.clear()
        self._left.clear()
        for tick, target, player, entry in image["sent"]:
            self.leave(tick, (Transfer(target, player, entry),))
        self._taken = {origin: (generation, tick, index) for origin, generation, tick, index in image["taken"]}


def stamp_of(entry: Entry) -> tuple[int, int, int]:
    """Return (generation, tick, place in the tick) of an entity's crossing without a player, or of an effect."""
    return entry.gateway, entry.session, entry.slot
