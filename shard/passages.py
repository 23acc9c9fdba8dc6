"""Who came and who left: what a zone remembers of its borders, so that nothing passes them twice when a ledger went back in time.

An older copy of the ledger may hold entries in an inbox that the zone has taken already, and an owner that restores its zone
delivers again what the ledger forgot. Each passage has a number that says whether it is known: of a player, how often it has
moved (the entry's hop); of an entity without a player, a stamp of the zone that it left. (docs/decisions/0012)

Owns that memory, which is part of the zone's image and a function of its log. Never reads an inbox, never sends. Called by shard.zone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from perdure.ledger.ledger import Sent, Transfer
from perdure.wire.entries import Entry, unpack_entry
from perdure.wire.identifiers import LOBBY

REMEMBERED = 512
"""Transfers that a zone remembers."""


class Passages:
    """See the module docstring."""

    def __init__(self) -> None:
        self._sent: deque[Sent] = deque(maxlen=REMEMBERED)
        self._left: dict[int, int] = {}
        self._taken: dict[int, tuple[int, int, int]] = {}

    def leave(self, tick: int, transfers: Sequence[Transfer]) -> None:
        """Remember what a tick sends away."""
        for transfer in transfers:
            if len(self._sent) == REMEMBERED:
                oldest = self._sent[0].transfer
                if oldest.player and self._left.get(oldest.player) == unpack_entry(oldest.entry).hop:
                    del self._left[oldest.player]
            self._sent.append(Sent(tick, transfer))
            if transfer.player:
                self._left[transfer.player] = unpack_entry(transfer.entry).hop

    def is_known(self, entry: Entry) -> bool:
        """Has this JOIN or ARRIVE been here before? One that has not is remembered from now on, where it has a stamp."""
        if entry.player:
            return entry.hop <= self._left.get(entry.player, -1)
        stamp = stamp_of(entry)
        if stamp <= self._taken.get(entry.origin, (0, 0, -1)):
            return True
        self._taken[entry.origin] = stamp
        return False

    def since(self, tick: int) -> tuple[Sent, ...]:
        """Return what was sent away by ticks from `tick` on, and who logged out whenever it was, oldest first."""
        return tuple(sent for sent in self._sent if sent.tick >= tick or sent.transfer.target == LOBBY)

    def image(self) -> dict[str, Any]:
        """Return all of it, for a checkpoint."""
        sent = [(s.tick, s.transfer.target, s.transfer.player, s.transfer.entry) for s in self._sent]
        return {"sent": sent, "taken": [(origin, *stamp) for origin, stamp in sorted(self._taken.items())]}

    def restore(self, image: dict[str, Any]) -> None:
        """Become what `image` returned. Raises ValueError, KeyError or TypeError where it is not that."""
        self._sent.clear()
        self._left.clear()
        for tick, target, player, entry in image["sent"]:
            self.leave(tick, (Transfer(target, player, entry),))
        self._taken = {origin: (generation, tick, index) for origin, generation, tick, index in image["taken"]}


def stamp_of(entry: Entry) -> tuple[int, int, int]:
    """Return (generation, tick, place in the tick) of an entity's crossing without a player."""
    return entry.gateway, entry.session, entry.slot
