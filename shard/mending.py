"""A zone whose rules failed: rebuild it, find out on whose command they fail, and go on without that one.

A tick that fails never happened: nothing of it was committed. The zone is restored from its log while it keeps its place in the tick
loop, so that commands go on being queued for it; then the failed tick is tried again and again in memory, each time with some of its
commands, until those are proven on which it fails. Nobody else loses anything, not even a link. What cannot be proven ends as before:
the zone is given up here and begins anew. Called by shard.tick_loop. Decisions about players are suspects.py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from perdure.ledger.ledger import Ledger, LedgerError
from perdure.wire.identifiers import key_hex
from shard.recovery import Follower, take_over
from shard.suspects import Suspects, culprits
from shard.zone import Phase, Zone

log = structlog.get_logger("shard.mending")

RETRY_S = 0.05
SEARCH_S = 0.6
"""How long a zone stands still for the search, once somebody is proven; the others' commands then wait for the next tick's search."""
QUIET_S = 2.0
"""How long a zone that was mended proposes nothing over its borders: else rules that fail on an effect would fail in every tick."""
Rows = npt.NDArray[np.uint8]


class Mending:
    """All zones that are being mended.

    `replace(old, new)` swaps a zone in the tick loop, `give_up(zone)` takes it out, `queue(zone, rows)` keeps commands for its next tick.
    """

    def __init__(
        self,
        ledger: Ledger,
        executor: Executor,
        replace: Callable[[Zone, Zone], bool],
        give_up: Callable[[Zone], None],
        queue: Callable[[Zone, Rows], None],
    ) -> None:
        self._ledger, self._executor, self._replace, self._give_up, self._queue = ledger, executor, replace, give_up, queue
        self._suspects = Suspects()
        self._barred: dict[int, set[tuple[int, int]]] = {}
        self._later: dict[int, tuple[int, Rows]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, zone: Zone) -> None:
        """The rules failed in this zone's last step. It stays as it is until it is replaced or given up."""
        self._start(self._mend(zone, zone.arrays.commands[: len(zone.commanding())].copy()))

    def forget(self, number: int) -> None:
        """The zone does not run here any more."""
        self._barred.pop(number, None)
        self._later.pop(number, None)
        self._suspects.forget(number)

    def let_in(self, number: int, rows: Rows) -> Rows:
        """Return which of a zone's new rows may be queued: none of a session that is on its way out."""
        barred = self._barred.get(number)
        if not barred or not len(rows):
            return rows
        return rows[[session not in barred for session in sessions_of(rows)]]

    def held_back(self, zones: dict[int, Zone]) -> list[tuple[int, Rows]]:
        """Return, once, the rows of each zone that had to wait for a tick, where that tick is over."""
        over = [number for number, (tick, _) in self._later.items() if number in zones and zones[number].tick > tick]
        return [(number, self._later.pop(number)[1]) for number in over]

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("mending_failed", exc_info=task.exception())

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one zone ---------------------------------------------------------------------------------------------------
    async def _mend(self, zone: Zone, rows: Rows) -> None:
        began = time.monotonic()
        try:
            fresh = await self._rebuilt(zone)
            if fresh is None:
                return
            # Not in the zones' own threads: the shard's other zones go on meanwhile.
            finding = await asyncio.get_running_loop().run_in_executor(None, self._search, fresh, rows)
        except Exception as error:  # noqa: BLE001 - a zone that stays as it is here is given to nobody else, and never ticks again
            log.error("zone_not_mended", zone=zone.zone, why=str(error) or type(error).__name__)
            self._give_up(zone)
            return
        if finding is None:
            self._give_up(zone)
            return
        guilty, waiting = finding
        keys = rows[:, :8].copy().view("<i8").ravel()
        barred = self._barred.setdefault(zone.zone, set())
        barred |= {session for session in sessions_of(rows) if session[0] in guilty}
        now = ~np.isin(keys, list(guilty | waiting))
        fresh.proposes_from = fresh.tick + round(QUIET_S * fresh.program.game.tick_hz)
        if not self._replace(zone, fresh):
            return
        self._queue(fresh, rows[now])
        self._queue(fresh, self.let_in(zone.zone, zone.queued()))
        later = rows[np.isin(keys, list(waiting))]
        if len(later):
            self._later[zone.zone] = fresh.tick, later
        log.warning("zone_mended", zone=zone.zone, tick=fresh.tick, put_out=len(guilty), delayed=len(waiting),
                    took_ms=round(1000 * (time.monotonic() - began), 1))  # fmt: skip
        for player in sorted(guilty):
            self._start(self._put_out(zone.zone, player))

    async def _rebuilt(self, zone: Zone) -> Zone | None:
        """Return the zone as its log has it; None where it was taken away meanwhile. Raises ZoneError."""
        while zone.phase is not Phase.DROPPED:
            follower = Follower(self._ledger, zone.program, zone.zone, zone.grid, zone.seed, self._executor)
            try:
                return await take_over(follower, zone.generation, zone.epoch)
            except LedgerError as error:
                log.warning("takeover_waits", zone=zone.zone, why=str(error))
                await asyncio.sleep(RETRY_S)
        return None

    def _search(self, fresh: Zone, rows: Rows) -> tuple[frozenset[int], frozenset[int]] | None:
        """Try the failed tick again. Return who is to be put out, and whose commands wait a tick; None: it fails without any command."""
        players = [key for key, _ in sessions_of(rows)]
        trials = Trials(fresh, rows)
        until = time.monotonic() + SEARCH_S
        if trials.fails(()):
            return None
        guilty: set[int] = set()
        waiting: set[int] = set()
        while trials.fails(left := [p for p in players if p not in guilty | waiting]):
            found = culprits(left, trials.fails)
            if (guilty or waiting) and time.monotonic() > until:
                waiting |= set(left)
                break
            if found is None:
                return None
            put_out = self._suspects.proven(fresh.zone, found)
            guilty |= put_out
            if not put_out:  # each of them alone does no harm: all but one wait for a tick of their own
                waiting |= set(found[1:])
        return frozenset(guilty), frozenset(waiting)

    async def _put_out(self, zone: int, player: int) -> None:
        """End the stay of a player whose commands make the rules fail, however long the ledger takes to hear of it."""
        log.error("player_put_out", zone=zone, player=key_hex(player), why="the rules fail on its command")
        while True:
            try:
                await self._ledger.leave(player, -1, kick=True)
                return
            except LedgerError as error:
                log.warning("player_not_put_out", player=key_hex(player), why=str(error))
                await asyncio.sleep(RETRY_S)


class Trials:
    """Ticks of a zone that are tried and undone: afterwards it is what it was."""

    def __init__(self, zone: Zone, rows: Rows) -> None:
        self._zone, self._rows = zone, rows
        self._keys = np.array([key for key, _ in sessions_of(rows)], np.int64)
        self._saved = [np.array(part, copy=True) for part in zone.arrays]

    def fails(self, players: Iterable[int]) -> bool:
        """Return whether the tick fails with the commands of these players alone."""
        zone = self._zone
        try:
            zone.try_tick(self._rows[np.isin(self._keys, list(players))])
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - whatever the rules raise
            return True
        finally:
            for part, saved in zip(zone.arrays, self._saved, strict=True):
                np.copyto(part, saved)
        return False


def sessions_of(rows: Rows) -> list[tuple[int, int]]:
    """Return (player's key, low half of its session) of each row."""
    keys = np.ascontiguousarray(rows[:, :8]).view("<i8").ravel().tolist()
    sessions = np.ascontiguousarray(rows[:, 12:14]).view("<u2").ravel().tolist()
    return list(zip(keys, sessions, strict=True))
