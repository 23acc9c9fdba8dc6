"""How a zone comes to a new owner: checkpoint, log, replay, every state hash compared. The one mechanism of failover,
migration, drain and upgrade.

`Follower` is a zone on its way: `catch_up` replays what the log holds by now; a successor calls it again and again until
the zone is assigned to it, then once more, and goes on. A successor of another build than the owner's loads the checkpoint
alone (`load`), to know that it can, and again when the zone is its own. Called by shard.service and by `perdure replay`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import structlog

from perdure.ledger.ledger import Ledger, LedgerUnavailable
from perdure.ledger.record import blob_digest, chain_digest
from perdure.ledger.values import LoggedRecord, ZoneHead
from perdure.wire.identifiers import WorldGrid
from shard.program import Program
from shard.zone import Zone, ZoneError

log = structlog.get_logger("shard.recovery")

RECORDS_PER_READ = 500


class Follower:
    """A zone being rebuilt from the ledger. `replayed` counts records since the checkpoint; `follows`: it is to keep up with the log."""

    def __init__(self, ledger: Ledger, program: Program, zone: int, grid: WorldGrid, seed: int, executor: Executor | None = None) -> None:
        self._ledger, self._program, self._grid, self._seed, self._executor = ledger, program, grid, seed, executor
        self.number = zone
        self.zone: Zone | None = None
        self.follows = True
        self.said_ready_s: float | None = None
        """When the ledger was told that this shard is ready to take the zone over (the service's to keep)."""
        self.replayed = 0

    async def load(self) -> Zone:
        """Restore the newest checkpoint that is whole (or start from nothing), without the log's tail."""
        head = await self._ledger.zone_head(self.number)
        zone = Zone(self._program, self.number, self._grid, self._seed)
        for tick, digest in head.checkpoints:
            blob = await self._ledger.read_checkpoint(self.number, tick)
            fault = "it is not there" if blob is None else "its digest is wrong" if blob_digest(blob) != digest else ""
            if blob is not None and not fault:
                try:
                    await self._in_thread(zone.restore, blob)
                    break
                except ZoneError as error:
                    fault = str(error)
                    zone = Zone(self._program, self.number, self._grid, self._seed)
            log.error("checkpoint_unusable", zone=self.number, tick=tick, why=fault)
        else:
            if head.checkpoints:
                raise ZoneError(f"zone {self.number}: neither of its checkpoints can be used; restore the ledger from a backup")
        self.zone = zone
        return zone

    async def head(self) -> ZoneHead:
        """Return where the ledger says that the zone stands."""
        return await self._ledger.zone_head(self.number)

    async def catch_up(self) -> Zone:
        """Replay every record that the log holds beyond the zone's tick."""
        zone = self.zone if self.zone is not None else await self.load()
        while True:
            records = await self._ledger.read_log(self.number, zone.tick + 1, RECORDS_PER_READ)
            if not records:
                return zone
            try:
                await self._in_thread(self._replay, zone, records)
            except ZoneError:
                self.zone = None  # it may have come half way through a record: whoever tries again begins at the checkpoint
                raise
            self.replayed += len(records)

    def _replay(self, zone: Zone, records: list[LoggedRecord]) -> None:
        for record in records:
            if record.tick != zone.tick + 1:
                raise ZoneError(
                    f"zone {zone.zone}: the log goes from tick {zone.tick} to {record.tick}; records are missing: "
                    "restore the ledger from a backup"
                )
            if chain_digest(zone.digest, record.record) != record.digest:  # before any rule runs on damaged bytes
                raise ZoneError(f"zone {zone.zone} tick {record.tick}: the log's chain is broken here; restore the ledger from a backup")
            zone.replay(record.record, record.page)

    async def _in_thread(self, function: object, *arguments: object) -> None:
        """Run `function` in a thread. If cancelled, wait for it to end: whoever goes on with the zone must have it to himself."""
        work = asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)  # type: ignore[arg-type]
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


async def take_over(follower: Follower, generation: int, epoch: int) -> Zone:
    """Finish a follower whose zone is now assigned to this shard: the log can no longer grow under another owner."""
    zone = await follower.catch_up()
    head = await follower.head()
    if (head.generation, head.epoch) != (generation, epoch):
        raise LedgerUnavailable(
            f"zone {zone.zone} is at generation {head.generation}, epoch {head.epoch} now, and was given away at {generation}, {epoch}: "
            "it has another owner since, or the ledger has gone back in time"
        )
    if (head.tick, head.digest) != (zone.tick, zone.digest):
        raise ZoneError(
            f"zone {zone.zone}: its log ends at tick {zone.tick}, but tick {head.tick} was committed; records are missing: "
            "restore the ledger from a backup"
        )
    zone.recovered(generation, epoch)
    return zone
