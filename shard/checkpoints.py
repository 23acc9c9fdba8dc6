"""What goes to the ledger beside the ticks: checkpoints, in their time and at the end, and zones that the ledger has forgotten.

Owns the tasks that do so, one a zone, and when a checkpoint is due. Never steps a zone: images are made between two ticks. Called by
shard.tick_loop, shard.handover and, at a clean stop, shard.service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from perdure.ledger.ledger import Ledger, LedgerAhead, LedgerError, LedgerRefused, LedgerUnavailable
from perdure.ledger.record import blob_digest
from perdure.ledger.values import CommitStatus, Reseed
from shard.metrics import ShardMetrics
from shard.zone import Phase, Zone

log = structlog.get_logger("shard.checkpoints")

RESEED_PAUSE_S = 0.02
LAST_S = 10.0
"""For so long, in all, a shard that leaves tries to put back zones that the ledger has forgotten."""
RESEED_TRIES, RESEED_AGAIN_S = 50, 0.1
"""Of putting a zone back where that fails for a reason that nobody has foreseen: no other copy of its last ticks is there."""
REFUSALS_TOLD = 100
"""One refusal in so many is logged."""
RESEND_SENT_S = 10.0
"""How far back a zone that is restored in the ledger says what it has sent away: longer than anything is in transit."""


class Checkpoints:
    """`zones` are those that run here, by number; `remove(number)` stops one. `owner`: the shard's name."""

    def __init__(
        self, ledger: Ledger, metrics: ShardMetrics, zones: dict[int, Zone], remove: Callable[[int], None], *,
        owner: str, tick_hz: int, every_s: float,
    ) -> None:  # fmt: skip
        self._ledger, self._metrics, self._zones, self._remove, self._owner = ledger, metrics, zones, remove, owner
        self._every_ticks = max(1, round(every_s * tick_hz))
        self._sent_ticks = round(RESEND_SENT_S * tick_hz)
        self._tasks: dict[int, asyncio.Task[Any]] = {}

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def _start(self, zone: Zone, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[zone.zone] = task
        task.add_done_callback(lambda done: self._done(zone, done))

    def _done(self, zone: Zone, task: asyncio.Task[Any]) -> None:
        newest = self._tasks.get(zone.zone) is task
        if newest:
            del self._tasks[zone.zone]
        if not task.cancelled() and task.exception() is not None:
            log.error("checkpoint_task_failed", zone=zone.zone, exc_info=task.exception())
            if newest and zone.phase is Phase.FROZEN and self._zones.get(zone.zone) is zone:
                self._remove(zone.zone)  # else it would stand still here, and nobody else would be given it

    def in_time(self, zone: Zone) -> None:
        """A tick is committed: make a checkpoint, where one is due."""
        # Behind another build's checkpoint this one is wanted soon: a log with records of both can be replayed by neither.
        wanted = (zone.tick + zone.zone * 7) % self._every_ticks == 0 or zone.image_build not in (0, zone.program.build)
        if wanted and zone.zone not in self._tasks:
            zone.image_build = zone.program.build
            self._start(zone, self._checkpoint(zone, zone.tick, zone.generation, zone.epoch, zone.checkpoint()))

    async def restored(self, within_s: float) -> None:
        """Wait, for so long at most, until no zone here lacks in the ledger what it has committed."""
        restoring = [task for number, task in self._tasks.items() if number in self._zones and self._zones[number].phase is Phase.FROZEN]
        if restoring:
            await asyncio.wait(restoring, timeout=within_s)

    async def _checkpoint(self, zone: Zone, tick: int, generation: int, epoch: int, blob: bytes) -> CommitStatus | None:
        """Return the ledger's word on it; None where there was none."""
        try:
            await self._ledger.put_checkpoint(zone.zone, tick, epoch, blob)
            status = await self._ledger.flip_checkpoint(zone.zone, generation, epoch, tick, blob_digest(blob))
        except LedgerError as error:
            log.warning("checkpoint_failed", zone=zone.zone, tick=tick, why=str(error))
            return None
        if status is CommitStatus.OK:
            self._metrics.checkpoints.inc()
        else:
            log.info("checkpoint_refused", zone=zone.zone, tick=tick, status=str(status))
        return status

    async def last(self, zone: Zone) -> bool:
        """Checkpoint a zone that is held, once an earlier checkpoint of it is through; False where that is not its newest."""
        earlier = self._tasks.get(zone.zone)
        if earlier is not None:
            await asyncio.wait([earlier])
            if zone.phase is not Phase.HELD:  # it was taken meanwhile
                return False
        status = await self._checkpoint(zone, zone.tick, zone.generation, zone.epoch, zone.checkpoint())
        return status is CommitStatus.OK

    async def all(self) -> None:
        """Checkpoint every zone now (a clean stop of the last shard), or put it back where the ledger turns out to have forgotten it."""
        until_s = time.monotonic() + LAST_S
        for zone in list(self._zones.values()):
            if zone.phase in (Phase.READY, Phase.HELD):
                status = await self._checkpoint(zone, zone.tick, zone.generation, zone.epoch, zone.checkpoint())
                if status is CommitStatus.GAP:
                    await self._put_back(zone, until_s)

    async def _put_back(self, zone: Zone, until_s: float) -> None:
        seed = self._seed(zone)
        while time.monotonic() < until_s:
            try:
                async with asyncio.timeout(until_s - time.monotonic()):
                    await self._ledger.reseed(seed)
            except (LedgerUnavailable, TimeoutError):
                await asyncio.sleep(RESEED_PAUSE_S)
            except LedgerAhead as error:
                log.error("reseed_refused", zone=zone.zone, why=str(error))
                return
            except LedgerRefused as error:
                log.error("reseed_waits", zone=zone.zone, why=str(error))
                await asyncio.sleep(RESEED_AGAIN_S)
            else:
                log.warning("reseeded", zone=zone.zone, tick=zone.tick)
                return
        log.error("not_put_back", zone=zone.zone, tick=zone.tick, why="the ledger does not answer")

    def _seed(self, zone: Zone) -> Reseed:
        blob = zone.checkpoint()
        return Reseed(
            zone.zone, self._owner, zone.generation, zone.epoch, zone.tick, zone.digest, blob, blob_digest(blob), zone.in_zone(),
            zone.passages.since(zone.tick - self._sent_ticks), zone.highest_move(),
        )  # fmt: skip

    def restore(self, zone: Zone) -> None:
        """The ledger went back in time: give it this zone anew, out of memory."""
        self._start(zone, self.reseed(zone))

    async def reseed(self, zone: Zone) -> None:
        """The ledger knows less than this owner: give it the zone anew, under a new generation."""
        seed = self._seed(zone)
        failures = refusals = 0
        while self._zones.get(zone.zone) is zone and zone.phase is Phase.FROZEN:
            try:
                head = await self._ledger.reseed(seed)
            except LedgerUnavailable:
                await asyncio.sleep(RESEED_PAUSE_S)
            except LedgerAhead as error:
                log.error("reseed_refused", zone=zone.zone, why=str(error))
                if self._zones.get(zone.zone) is zone:  # else it has been loaded anew meanwhile
                    self._remove(zone.zone)
                return
            except LedgerRefused as error:
                if refusals % REFUSALS_TOLD == 0:  # a right that is lacking, a damaged record: it can be mended, and there is no other copy
                    log.error("reseed_waits", zone=zone.zone, tick=zone.tick, why=str(error))
                refusals += 1
                await asyncio.sleep(RESEED_AGAIN_S)
            except Exception as error:
                failures += 1
                if failures >= RESEED_TRIES:
                    raise
                log.error("reseed_failed", zone=zone.zone, tries=failures, why=str(error) or type(error).__name__)
                await asyncio.sleep(RESEED_AGAIN_S)
            else:
                zone.reseeded(head.generation, head.epoch)
                log.warning("reseeded", zone=zone.zone, tick=zone.tick, generation=head.generation, epoch=head.epoch)
