"""Follows every zone's log while a benchmark runs, so that each applied command is counted, also those trimmed since."""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgpack
import numpy as np

from perdure.game.portable import unpack_rows
from perdure.ledger.ledger import CHECKPOINTS_KEPT, Ledger, LedgerError, LedgerUnavailable
from perdure.ledger.record import chain_digest, unpack_record
from perdure.wire.entries import ENTRY_HEADER, EntryKind, unpack_entry
from perdure.wire.link import command_dtype
from shard.kernels import layout
from shard.zone import CHECKPOINT_MAGIC

POLL_S = 0.2
_SEQ_BITS = 32
_SEQ_MASK = (1 << _SEQ_BITS) - 1
_SESSION_MASK = 0xFFFF


class LogWatch:
    """`applied_in_stays`: how often the logs hold a player's command. `faults`: breaks of the chain, epochs that went back.

    A command is named by its session and its number. Numbers go on for a player who was logged out and comes in again, but a ledger that
    forgot the player has it count from an earlier number: a new stay. Of a session a record has the low half; its whole number is known
    by the entries with which it came. `joined[player key]`: the sessions that came in from the lobby.
    `unwatched`: records that were trimmed before this process came to read them, on a machine too busy to keep up. They
    are no fault of the log's, yet nothing can be said about the commands in them: a run with any proves less.
    `restored[player key]`: (session, the last command that a zone's image had applied which an owner put back into a ledger that forgot).
    """

    def __init__(self, ledger: Ledger, zones: int) -> None:
        self._ledger = ledger
        self._next = dict.fromkeys(range(zones), 1)
        self._digest: dict[int, str] = dict.fromkeys(range(zones), "")
        self._epoch: dict[int, tuple[int, int]] = dict.fromkeys(range(zones), (0, 0))
        self._applied: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self._sessions: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.joined: defaultdict[int, set[int]] = defaultdict(set)
        self.restored: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self.records = 0
        self.unwatched = 0
        self.faults: list[str] = []
        self.poll_s = POLL_S
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def follow(self, ledger: Ledger) -> None:
        """Read from another ledger from now on."""
        self._ledger = ledger

    def seen(self, zone: int) -> int:
        """Return the last tick of a zone that was read."""
        return self._next[zone] - 1

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
            except LedgerUnavailable:
                pass  # an outage, perhaps a wanted one: what is there now is there later, and `stop` reads to the end
            except LedgerError as error:
                self.faults.append(f"the log could not be read: {error}")
            await asyncio.sleep(self.poll_s)

    async def read(self) -> None:
        """Read every zone's new records."""
        for zone in self._next:
            while True:
                records = await self._ledger.read_log(zone, self._next[zone], 500)
                if records and unpack_record(records[0].record).generation > self._epoch[zone][0] > 0:
                    await self._take_image(zone, records[0].tick)
                if records and records[0].tick > self._next[zone]:
                    await self._skip_trimmed(zone, records[0].tick)
                for logged in records:
                    self._take(zone, logged.tick, logged.digest, logged.record)
                    self._take_page(logged.page)
                if len(records) < 500:
                    break

    async def _take_image(self, zone: int, first: int) -> None:
        """The zone goes on under a new generation: where its log begins anew with an image, what the log held before is in that image."""
        for tick, _ in (await self._ledger.zone_head(zone)).checkpoints:
            blob = await self._ledger.read_checkpoint(zone, tick) if tick == first - 1 else None
            if blob is None:
                continue
            image = msgpack.unpackb(blob[len(CHECKPOINT_MAGIC) + 4 :])
            players = unpack_rows(image["sections"]["players"], layout.PLAYER)
            self._restore(zip(players["key"].tolist(), players["session"].tolist(), players["last_seq"].tolist(), strict=True))
            # Who was on its way from zone to zone is in no table: what it had applied goes with it.
            moved = [unpack_entry(entry) for *_, entry in image["passages"]["sent"]] + [unpack_entry(entry) for entry in image["page"]]
            self._restore((entry.player, entry.session, entry.last_seq) for entry in moved)
            self._take_page(image["page"])
            self._next[zone], self._digest[zone] = first, image["digest"]

    def _restore(self, applied: Iterable[tuple[int, int, int]]) -> None:
        for player, session, last in applied:
            self.restored[player].append((session, last))

    async def _skip_trimmed(self, zone: int, first: int) -> None:
        """Go on at `first` if the log was trimmed up to it, which two kept checkpoints say; otherwise the log has a hole."""
        head = await self._ledger.zone_head(zone)
        if len(head.checkpoints) == CHECKPOINTS_KEPT and head.checkpoints[-1][0] >= first:
            self.unwatched += first - self._next[zone]
            self._next[zone], self._digest[zone] = first, ""

    def _take(self, zone: int, tick: int, digest: str, data: bytes) -> None:
        if tick != self._next[zone]:
            self.faults.append(f"zone {zone}: the log goes from tick {self._next[zone] - 1} to {tick}")
        elif (self._digest[zone] or tick == 1) and chain_digest(self._digest[zone], data) != digest:
            self.faults.append(f"zone {zone}: the chain is broken at tick {tick}")
        record = unpack_record(data)
        if (record.generation, record.epoch) < self._epoch[zone]:
            self.faults.append(f"zone {zone} tick {tick}: epoch {record.epoch} after {self._epoch[zone]}")
        self._next[zone], self._digest[zone], self._epoch[zone] = tick + 1, digest, (record.generation, record.epoch)
        self.records += 1
        if record.rows:
            rows = np.frombuffer(record.commands, command_dtype(record.row_bytes - 16))
            for player, session, seq in zip(rows["player"].tolist(), rows["session"].tolist(), rows["seq"].tolist(), strict=True):
                self._applied[player][session << _SEQ_BITS | seq] += 1

    def _take_page(self, page: Iterable[bytes]) -> None:
        """Note which sessions there are, and which of them came in from the lobby."""
        for data in page:
            if len(data) < ENTRY_HEADER or data[0] not in (EntryKind.JOIN, EntryKind.ATTACH):
                continue
            entry = unpack_entry(data)
            self._sessions[entry.player][entry.session & _SESSION_MASK] = entry.session
            if entry.kind is EntryKind.JOIN:
                self.joined[entry.player].add(entry.session)

    def came_in(self, player: int, after: int, session: int) -> bool:
        """Did the player come in from the lobby, behind one session and up to another?"""
        return any(after < joined <= session for joined in self.joined.get(player, ()))

    def applied_in_stays(self, player: int, begins: Sequence[int] = ()) -> list[Counter[int]]:
        """Return for each stay of a player how often the logs hold each number; `begins`: the first session of every stay but the first."""
        stays: list[Counter[int]] = [Counter() for _ in range(len(begins) + 1)]
        sessions = self._sessions.get(player, {})
        for command, count in self._applied.get(player, {}).items():
            low = command >> _SEQ_BITS
            stays[bisect.bisect_right(begins, sessions.get(low, low))][command & _SEQ_MASK] += count
        return stays
