"""Handing a zone over to a shard of another build: the zone stands still at its last checkpoint until it is taken, or for a moment.

Another build may go on from a checkpoint, but not from records that this one wrote. So the owner holds the zone between two
ticks, writes the checkpoint of that very tick, and waits. It takes nothing for granted: the coordinator's assignment is what
moves the zone, at a checkpoint with no tail or not at all, and until then the owner may go on whenever it likes.

Owns which zones are held and for how long. Never decides that a zone is to move (shard.service reads that from the view), never
steps one. Called by tick_loop, after each tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from shard.zone import Phase, Zone

log = structlog.get_logger("shard.handover")

FIRST_HOLD_S, LONGEST_HOLD_S = 0.4, 0.8
"""How long a zone is held at most; the longer time after one that was too short. Below a lease, so that a ledger that comes back
older than it was finds owners that commit."""
BETWEEN_HOLDS_S = 2.0


@dataclass(slots=True)
class _Asked:
    """One zone that is to be handed over, as far as it has come."""

    hold_s: float = FIRST_HOLD_S
    not_before_s: float = 0.0
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Handovers:
    """See the module docstring. `checkpoint` writes a zone's checkpoint; True where it is the ledger's newest now."""

    def __init__(self, checkpoint: Callable[[Zone], Awaitable[bool]]) -> None:
        self._checkpoint = checkpoint
        self._asked: dict[int, _Asked] = {}

    @property
    def asked(self) -> bool:
        return bool(self._asked)

    def ask(self, number: int) -> None:
        """Hand this zone over as soon as a tick has ended. Asked again, it changes nothing."""
        if number not in self._asked:
            self._asked[number] = _Asked()

    def withdraw(self, number: int) -> None:
        """It is not wanted any more (or the zone is another's now): who is held goes on."""
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.ended.set()

    def begin(self, zones: dict[int, Zone]) -> None:
        """Hold those zones whose time has come; called when no zone is in a tick."""
        now = time.monotonic()
        for number, asked in self._asked.items():
            zone = zones.get(number)
            if zone is not None and zone.phase is Phase.READY and asked.task is None and now >= asked.not_before_s:
                zone.hold()
                asked.task = asyncio.get_running_loop().create_task(self._hold(zone, asked))

    async def _hold(self, zone: Zone, asked: _Asked) -> None:
        try:
            async with asyncio.timeout(asked.hold_s):
                if await self._checkpoint(zone):
                    log.info("handing_over", zone=zone.zone, tick=zone.tick)
                    await asked.ended.wait()
        except TimeoutError:
            log.warning("not_handed_over", zone=zone.zone, tick=zone.tick, why=f"nobody took it within {asked.hold_s:g} s; it goes on here")
        finally:
            asked.hold_s, asked.not_before_s, asked.task = LONGEST_HOLD_S, time.monotonic() + BETWEEN_HOLDS_S, None
            if zone.phase is Phase.HELD:
                zone.go_on()

    async def close(self) -> None:
        """Let every zone go on."""
        tasks = [asked.task for asked in self._asked.values() if asked.task is not None]
        for number in list(self._asked):
            self.withdraw(number)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
