"""Planted bugs in what happens when the ledger forgot (docs/decisions/0012)."""

from __future__ import annotations

import dataclasses
from typing import Any

import perdure.ledger.memory_ledger
import perdure.ledger.memory_reseed
from coordinator.openings import Openings
from gateway.admission import Admission
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.values import ClusterView, PlayerInZone, Reseed
from perdure.wire.entries import Entry, EntryKind
from shard.committing import Committing
from shard.kernels.layout import META_INPUTS
from shard.service import ShardService
from shard.tick_loop import TickLoop
from shard.zone import Zone
from tests.simulation.clock import Patch
from tests.simulation.mutants import mutant

FORGETS = ("ledger_older", "ledger_empty")


def _reseed_without(**changes: Any) -> list[Patch]:
    real = MemoryLedger.reseed

    async def reseed(self: MemoryLedger, seed: Reseed) -> Any:
        return await real(self, dataclasses.replace(seed, **changes))

    return [(MemoryLedger, "reseed", reseed)]


@mutant(*FORGETS)
def reseed_without_players() -> list[Patch]:
    """An owner puts its zone back, and does not say who is in it."""
    return _reseed_without(players=())


@mutant(*FORGETS, seed=5)
def reseed_without_what_was_sent() -> list[Patch]:
    """An owner puts its zone back, and does not say whom it has sent away lately."""
    return _reseed_without(sent=())


@mutant(*FORGETS)
def the_latest_statement_holds() -> list[Patch]:
    """Of two statements about where a player is, the one that comes last holds, not the one with more moves."""
    real = perdure.ledger.memory_reseed.restore_player

    def restore(store: MemoryStore, zone: int, stated: PlayerInZone) -> None:
        record = store.data.players.get(stated.player)
        if record is not None:
            record.moves = min(record.moves, stated.hop)
        real(store, zone, stated)

    def deliver(store: MemoryStore, zone: int, transfer: Any) -> None:
        record = store.data.players.get(transfer.player)
        if record is not None and transfer.player:
            record.moves = min(record.moves, _hop(transfer.entry) - 1)
        again(store, zone, transfer)

    again = perdure.ledger.memory_reseed.deliver_again
    return [(perdure.ledger.memory_ledger, "restore_player", restore), (perdure.ledger.memory_ledger, "deliver_again", deliver)]


def _hop(data: bytes) -> int:
    from perdure.wire.entries import unpack_entry

    entry: Entry = unpack_entry(data)
    return entry.hop


@mutant("ledger_older")
def an_older_view_takes_zones_away() -> list[Patch]:
    """A shard follows what a ledger that went back says of owners, before they had the time to say what they run."""
    real = ShardService._follow

    def follow(self: ShardService, view: ClusterView) -> None:
        for route in view.zones.values():
            running = self.ticks.zones.get(route.zone)
            if running is not None and route.owner != self.name:
                self.ticks.remove(route.zone)
        real(self, view)

    return [(ShardService, "_follow", follow)]


@mutant("unaware_owner")
def who_was_cut_off_goes_first() -> list[Patch]:
    """An owner that may have been replaced commits as soon as it reaches the ledger, which may have forgotten who replaced it."""

    async def at_once(self: Committing) -> None:
        return None

    return [(Committing, "_let_others_go_first", at_once)]


@mutant("namesake")
def a_name_is_enough() -> list[Patch]:
    """A shard takes what is given to its name, whoever goes by that now."""
    real = ShardService._follow

    def follow(self: ShardService, view: ClusterView) -> None:
        me = view.members.get(self.name)
        if me is not None and self._membership is not None:
            view.members[self.name] = dataclasses.replace(me, number=self._membership.number)
        real(self, view)

    return [(ShardService, "_follow", follow)]


MOVES = ("late_owner", "ledger_older", "drain_shard", "scale", "kill_shard", "lost_replies")


@mutant("late_owner_unseen")
def what_may_still_be_put_back_is_given_away() -> list[Patch]:
    """A zone of which a living shard knows more than the ledger goes to another, once the world is open."""
    return [(Openings, "awaited", lambda self: frozenset())]


@mutant("late_owner_silent")
def who_alone_knows_is_given_up_after_a_lease() -> list[Patch]:
    """A shard that knows more of a zone than the ledger is put out for silence as soon as any other."""
    return [(Openings, "awaited_shards", lambda self, view: frozenset())]


@mutant("older_in_migration")
def a_closed_world_is_given_away() -> list[Patch]:
    """The ledger takes an assignment that was decided before it went back."""
    real = MemoryLedger.assign

    async def assign(self: MemoryLedger, *args: Any) -> int:
        opened, self.store.data.opened_for = self.store.data.opened_for, self.store.run_id
        try:
            return await real(self, *args)
        finally:
            self.store.data.opened_for = opened

    return [(MemoryLedger, "assign", assign)]


@mutant("late_owner_unseen")
def shards_do_not_say_how_far_they_are() -> list[Patch]:
    """A coordinator knows only from views of its own what there was before the ledger went back."""
    return [(TickLoop, "unconfirmed", lambda self: {})]


@mutant("ledger_empty", seed=11)
def gateways_say_nothing_again() -> list[Patch]:
    """A gateway does not tell a ledger that forgot which sessions it has."""

    async def restate(self: Admission) -> None:
        return None

    return [(Admission, "restate", restate)]


@mutant("late_owner")
def who_comes_to_an_older_body_keeps_its_number() -> list[Patch]:
    """A zone that has a body of the player already takes the session of who comes in, and nothing else."""
    real = Zone._read_page

    def read_page(self: Zone) -> None:
        real(self)
        hops = {int(place["key"]): int(place["hop"]) for place in self.players if place["departed"] == 0}
        for row in self.arrays.inputs[: self.arrays.meta[META_INPUTS]]:
            if row["kind"] in (EntryKind.JOIN, EntryKind.ARRIVE) and int(row["player"]) in hops:
                row["hop"] = hops[int(row["player"])]

    return [(Zone, "_read_page", read_page)]
