"""The benches' watcher of the log: what it calls a fault, and what it merely did not see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import numpy as np

from benchmarks._log_watch import LogWatch
from perdure.ledger.ledger import Ledger
from perdure.ledger.record import Record, RecordKind, chain_digest
from perdure.ledger.values import LoggedRecord, ZoneHead
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.link import command_dtype


class OneZone:
    """A ledger that holds one zone's log and checkpoints, and nothing else."""

    def __init__(self, ticks: int) -> None:
        self.log: list[LoggedRecord] = []
        self.checkpoints: tuple[tuple[int, str], ...] = ()
        self._digest = ""
        for tick in range(1, ticks + 1):
            self.append(tick, epoch=1)

    def append(self, tick: int, epoch: int, commands: Sequence[tuple[int, int, int]] = (), page: tuple[bytes, ...] = ()) -> None:
        """Put a tick on the log; of each command: player, session, number."""
        rows = np.zeros(len(commands), command_dtype(8))
        for row, (player, session, seq) in zip(rows, commands, strict=True):
            row["player"], row["session"], row["seq"] = player, session & 0xFFFF, seq
        data = Record(RecordKind.TICK, 0, 1, epoch, tick, 0, 0, rows.itemsize, len(rows), rows.tobytes()).pack()
        self._digest = chain_digest(self._digest, data)
        self.log.append(LoggedRecord(tick, self._digest, data, page))

    def trim(self, older: int, newer: int) -> None:
        self.checkpoints = ((newer, ""), (older, ""))
        self.log = [logged for logged in self.log if logged.tick >= older]

    async def read_log(self, zone: int, first_tick: int, limit: int = 1000) -> list[LoggedRecord]:
        return [logged for logged in self.log if logged.tick >= first_tick][:limit]

    async def zone_head(self, zone: int) -> ZoneHead:
        return ZoneHead(zone, 1, 1, "shard-1", self.log[-1].tick, self._digest, self.checkpoints)


def entry(kind: EntryKind, player: int, session: int) -> bytes:
    return Entry(kind, player, session, 1, 1).pack()


def watched(ledger: OneZone) -> LogWatch:
    """Return a watcher that has read all of the log."""
    watch = _watch(ledger)
    asyncio.run(watch.read())
    return watch


def _watch(ledger: OneZone) -> LogWatch:
    return LogWatch(cast("Ledger", ledger), 1)


async def test_a_whole_log_has_no_faults() -> None:
    watch = _watch(OneZone(20))
    await watch.read()
    assert (watch.records, watch.unwatched, watch.faults) == (20, 0, [])


async def test_trimmed_before_it_was_read_is_unwatched_and_no_fault() -> None:
    ledger = OneZone(20)
    ledger.trim(older=8, newer=15)
    watch = _watch(ledger)
    await watch.read()
    assert (watch.records, watch.unwatched, watch.faults) == (13, 7, [])


async def test_a_hole_that_no_trimming_explains_is_a_fault() -> None:
    ledger = OneZone(20)
    ledger.trim(older=3, newer=15)
    del ledger.log[5]
    watch = _watch(ledger)
    await watch.read()
    assert watch.unwatched == 2
    assert "goes from tick 7 to 9" in watch.faults[0]


async def test_a_broken_chain_and_an_epoch_that_goes_back_are_faults() -> None:
    ledger = OneZone(3)
    ledger.log[1] = LoggedRecord(2, "00" * 16, ledger.log[1].record, ())
    watch = _watch(ledger)
    await watch.read()
    assert any("chain is broken at tick 2" in fault for fault in watch.faults)
    ledger = OneZone(3)
    ledger.append(4, epoch=0)
    watch = _watch(ledger)
    await watch.read()
    assert any("epoch 0 after (1, 1)" in fault for fault in watch.faults)


async def test_it_says_how_far_it_has_read() -> None:
    watch = _watch(OneZone(12))
    assert watch.seen(0) == 0
    await watch.read()
    assert watch.seen(0) == 12


def test_a_players_commands_are_counted_by_stay_and_number() -> None:
    """The whole number of a session is known by the entry with which it came, of a command only its low half."""
    ann, late = 7, (1 << 20) + 5
    ledger = OneZone(0)
    ledger.append(1, 1, page=(entry(EntryKind.JOIN, ann, 9),))
    ledger.append(2, 1, [(ann, 9, 1), (ann, 9, 2)], page=(entry(EntryKind.ATTACH, ann, 10), entry(EntryKind.JOIN, ann, late)))
    ledger.append(3, 1, [(ann, 10, 3), (ann, late, 1)])
    watch = watched(ledger)
    assert watch.applied_in_stays(ann) == [{1: 2, 2: 1, 3: 1}]
    assert watch.applied_in_stays(ann, [late]) == [{1: 1, 2: 1, 3: 1}, {1: 1}]
    assert watch.applied_in_stays(8) == [{}]
    assert watch.came_in(ann, 9, late)
    assert not watch.came_in(ann, 9, 10)
