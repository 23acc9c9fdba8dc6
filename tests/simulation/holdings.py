"""Who holds what of the things that a game conserves, where a player's history forks: a ledger came back as it was before a login, the
player logged in again, and the owner of the zone that it had been in came late (docs/decisions/0012).

One of the two histories is given up. What the player held in it is gone, and what was saved before is there once more; both are what is
promised, so `Holdings` counts them exactly, and the balance must still come out. It does so only while `forking` is set: at any other
time whatever vanishes or appears is a violation. Called by checks, which replays the logs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from perdure.game.contract import row_dtype
from perdure.game.portable import unpack_rows
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.values import Transfer
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY
from shard.kernels.layout import LEAVING_COPY
from shard.program import Program
from shard.zone import Zone

Held = tuple[int, int]
"""Gold, and a relic's serial or 0."""
NOTHING: Held = (0, 0)


class Holdings:
    """See the module docstring. `gold` and `relics`: what there is beyond what the zones' own totals say (or less, below 0)."""

    def __init__(self, program: Program, store: MemoryStore) -> None:
        self._avatar = row_dtype(program.game.entities[0])
        self._store = store
        self.forking = False
        self.gold = 0
        self.relics: Counter[int] = Counter()
        self.given_up = 0
        self._lobby: dict[int, Held] = {}
        self._on_the_way: dict[int, tuple[int, Held]] = {}
        self._settled: dict[int, int] = {}
        """player -> the highest number of a move that is accounted for"""

    # --- before a tick --------------------------------------------------------------------------------------------

    def coming(self, zone: Zone) -> None:
        """A replica is about to run its next tick: who comes in by its page, and what was there of them."""
        elsewhere = zone._elsewhere()
        for entry in map(unpack_entry, zone.page):
            if not entry.player or entry.kind not in (EntryKind.JOIN, EntryKind.ARRIVE):
                continue
            if zone.passages.is_known(entry) or entry.hop <= elsewhere.get(entry.player, -1):
                continue
            here = hop_in(zone, entry.player)
            if here is not None and entry.hop <= here:
                continue
            had = self._taken(entry)
            if here is None:
                self._add(self._held(entry.payload), had)
            elif entry.kind is EntryKind.JOIN:  # the body that is there stays
                self._add(NOTHING, had)
            else:
                self._add(self._held(entry.payload), had)
                self._add(NOTHING, self.body(zone, entry.player))

    def _taken(self, entry: Entry) -> Held:
        """Return what the player had where it comes from, which is there no more."""
        number, held = self._on_the_way.pop(entry.player, (0, NOTHING))
        if entry.kind is EntryKind.ARRIVE and number == entry.hop:
            return held
        self._add(NOTHING, held)  # it was on the way in the history that is given up
        return self._lobby.pop(entry.player, NOTHING) if entry.kind is EntryKind.JOIN else self._held(entry.payload)

    # --- after a commit -------------------------------------------------------------------------------------------

    def sent(self, zone: Zone, transfers: list[Transfer] | tuple[Transfer, ...]) -> None:
        """The ledger has taken, or passed over, what a zone has sent away."""
        for transfer in transfers:
            if not transfer.player:
                continue
            entry = unpack_entry(transfer.entry)
            held, record = self._held(entry.payload), self._store.data.players.get(transfer.player)
            if is_copy(zone, transfer.player):
                self._add(NOTHING, held)
                continue
            if entry.hop <= self._settled.get(transfer.player, -1):
                continue
            self._settled[transfer.player] = entry.hop
            moves = record.moves if record is not None else 0
            if moves > entry.hop + 1 or (moves == entry.hop + 1 and transfer.target != LOBBY):  # the ledger has passed it over
                self._add(NOTHING, held)
            elif transfer.target == LOBBY:
                self._lobby[transfer.player] = held
            else:
                self._on_the_way[transfer.player] = entry.hop, held

    # --- within ---------------------------------------------------------------------------------------------------

    def _held(self, payload: bytes) -> Held:
        if not payload:
            return NOTHING
        row: Any = unpack_rows(payload, self._avatar)[0]
        return int(row["gold"]), int(row["relic"])

    @staticmethod
    def body(zone: Zone, player: int) -> Held:
        """Return what a player holds who is in a zone."""
        for place in zone.players:
            if place["key"] == player and place["departed"] == 0:
                row = zone.rows("trader")[place["row"]]
                return int(row["gold"]), int(row["relic"])
        return NOTHING

    def _add(self, there: Held, before: Held) -> None:
        if there == before or not self.forking:
            return
        self.given_up += 1
        self.gold += there[0] - before[0]
        self.relics.update({there[1]: 1} if there[1] else {})
        self.relics.subtract({before[1]: 1} if before[1] else {})


def is_copy(zone: Zone, player: int) -> bool:
    """Has a player just gone because the zone has heard that it is elsewhere?"""
    players = zone.players
    return bool(np.any((players["key"] == player) & (players["departed"] == 1) & (players["leaving"] == LEAVING_COPY)))


def hop_in(zone: Zone, player: int) -> int | None:
    """Return the number of the move by which a player came who is in a zone, or None."""
    found = zone.players["hop"][(zone.players["key"] == player) & (zone.players["departed"] == 0)]
    return int(found[0]) if len(found) else None
