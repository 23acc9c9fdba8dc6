"""Follows every zone's log while a benchmark runs, so that each applied command is counted, also those trimmed since."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np

from perdure.ledger.ledger import Ledger, LedgerError
from perdure.ledger.record import chain_digest, unpack_record
from perdure.wire.link import command_dtype

POLL_S = 0.5


class LogWatch:
    """`applied[player key][seq]`: how often the logs hold it. `faults`: breaks of the chain, and epochs that went back."""

    def __init__(self, ledger: Ledger, zones: int) -> None:
        self._ledger = ledger
        self._next = dict.fromkeys(range(zones), 1)
        self._digest: dict[int, str] = dict.fromkeys(range(zones), "")
        self._epoch: dict[int, tuple[int, int]] = dict.fromkeys(range(zones), (0, 0))
        self.applied: dict[int, Counter[int]] = {}
        self.records = 0
        self.faults: list[str] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Stop following, and read what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.read()

    async def _follow(self) -> None:
        while True:
            try:
                await self.read()
            except LedgerError as error:
                self.faults.append(f"the log could not be read: {error}")
            await asyncio.sleep(POLL_S)

    async def read(self) -> None:
        """Read every zone's new records."""
        for zone in self._next:
            while True:
                records = await self._ledger.read_log(zone, self._next[zone], 500)
                for logged in records:
                    self._take(zone, logged.tick, logged.digest, logged.record)
                if len(records) < 500:
                    break

    def _take(self, zone: int, tick: int, digest: str, data: bytes) -> None:
        if tick != self._next[zone]:
            self.faults.append(f"zone {zone}: the log goes from tick {self._next[zone] - 1} to {tick}")
        elif chain_digest(self._digest[zone], data) != digest:
            self.faults.append(f"zone {zone}: the chain is broken at tick {tick}")
        record = unpack_record(data)
        if (record.generation, record.epoch) < self._epoch[zone]:
            self.faults.append(f"zone {zone} tick {tick}: epoch {record.epoch} after {self._epoch[zone]}")
        self._next[zone], self._digest[zone], self._epoch[zone] = tick + 1, digest, (record.generation, record.epoch)
        self.records += 1
        if record.rows:
            rows = np.frombuffer(record.commands, command_dtype(record.row_bytes - 16))
            for player, seq in zip(rows["player"].tolist(), rows["seq"].tolist(), strict=True):
                self.applied.setdefault(player, Counter())[seq] += 1
