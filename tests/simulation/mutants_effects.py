"""Planted bugs of effects over borders: see mutants.py."""

from __future__ import annotations

from typing import Any

import shard.zone
from perdure.ledger.values import Transfer
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from shard.passages import Passages
from shard.zone import Zone
from tests.simulation.clock import Patch
from tests.simulation.mutants import mutant


@mutant("ledger_empty", seed=4)
def effect_taken_again_when_it_is_delivered_again() -> list[Patch]:
    """A zone does not look at the stamp of an effect: after a reseed it takes it a second time."""
    real = Passages.is_known

    def is_known(self: Passages, entry: Entry) -> bool:
        return False if entry.kind is EntryKind.EFFECT else real(self, entry)

    return [(Passages, "is_known", is_known)]


@mutant("drain_shard", seed=2)
def effect_does_not_follow_its_target() -> list[Patch]:
    """An effect whose target has left is dropped instead of sent on."""
    real = Zone._transfers

    def transfers(self: Zone) -> tuple[Transfer, ...]:
        return tuple(transfer for transfer in real(self) if not _sent_on(self, transfer))

    return [(Zone, "_transfers", transfers)]


def _sent_on(zone: Zone, transfer: Transfer) -> bool:
    entry = unpack_entry(transfer.entry)
    if entry.kind is not EntryKind.EFFECT:
        return False
    from perdure.game.contract import effect_dtype
    from perdure.game.portable import unpack_rows

    rows = unpack_rows(entry.payload, effect_dtype(zone.program.game.effects[entry.type]))
    return bool(rows["hops"][0])


@mutant()
def proposals_not_logged() -> list[Patch]:
    """What was proposed over a border is applied, but the record does not hold it."""

    def pack_proposals(program: Any, arrays: Any) -> bytes:
        return b""

    return [(shard.zone, "pack_proposals", pack_proposals)]
