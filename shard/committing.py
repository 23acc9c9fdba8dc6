"""Commits on their way to the ledger: sent again until there is an answer, held back where another owner has to go first.

Owns which commits have no answer yet and since when, and what clients are told of that. Never says what an answer means for a zone
(shard.tick_loop does). Called by shard.tick_loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from perdure.ledger.ledger import Ledger, LedgerRefused, LedgerUnavailable
from perdure.ledger.values import Commit, CommitAnswer
from perdure.wire.opcodes import Notice
from shard.metrics import ShardMetrics
from shard.reading import Reading

log = structlog.get_logger("shard.tick")

RESEND_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
HOLD_PART, HOLD_OF_S = 0.4, 4.0
"""A shard whose commits had no answer for a lease holds them back for this part of that time (of so much at most), while the world is
closed."""
UNCONFIRMED_S = 0.1
"""A commit that waits for longer is told of (TickLoop.unconfirmed): well below the time that a world waits to be opened."""
CLOCK_S = 0.002
"""An event loop's timers may be so much early."""


class Committing:
    """`notify` tells the clients of all zones; `unanswered` is called whenever a commit had no answer."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: ShardMetrics,
        reading: Reading,
        *,
        notify: Callable[[Notice], None],
        unanswered: Callable[[], None],
        paused_after_s: float,
        lease_s: float,
    ) -> None:
        self._ledger, self._metrics, self._reading = ledger, metrics, reading
        self._notify, self._unanswered = notify, unanswered
        self._paused_after_s, self._lease_s = paused_after_s, lease_s
        self.answered_s = time.monotonic()
        """When a commit, or the question after inboxes, had its answer last."""
        self._told = 0
        """How many commits wait for so long that clients were told."""
        self._waiting: dict[_Pause, tuple[float, list[Commit]]] = {}
        """Those without an answer, and since when."""
        self._watch: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Does a commit wait for its answer for so long that clients were told?"""
        return self._told > 0

    def waiting_long(self) -> set[int]:
        """Return the zones whose commit has waited for UNCONFIRMED_S or longer."""
        long_ago_s = time.monotonic() - UNCONFIRMED_S
        return {commit.zone for began_s, commits in self._waiting.values() if began_s <= long_ago_s for commit in commits}

    async def commit(self, commits: list[Commit]) -> list[CommitAnswer]:
        """Commit, and send identical commits again until there is an answer."""
        if not commits:
            return []
        pause = _Pause()
        self._waiting[pause] = time.monotonic(), commits
        if self._watch is None:  # one for all: nearly every commit has its answer long before
            self._watch = asyncio.get_running_loop().call_later(self._paused_after_s, self._see_who_waits)
        tries = 0
        try:
            while True:
                try:
                    await self._let_others_go_first()
                    answers = await self._ledger.commit(commits)
                    self.answered_s = time.monotonic()
                    return answers
                except (LedgerUnavailable, LedgerRefused) as error:
                    tries += 1
                    self._metrics.resends.inc()
                    self._unanswered()
                    if tries == 1 or tries % 100 == 0:
                        log.warning("commit_unanswered", zones=len(commits), tries=tries, why=str(error))
                    await asyncio.sleep(min(RESEND_PAUSE_S * tries, LONGEST_PAUSE_S))
        finally:
            del self._waiting[pause]
            self._told -= pause.told
            if pause.told and not self._told:
                log.info("resumed", tries=tries)
                self._reading.in_time("paused")
                self._notify(Notice.RESUMED)

    async def _let_others_go_first(self) -> None:
        """Hold a commit back where this shard may have been replaced, and the ledger may have forgotten that.

        Who took its zones over was heard by the ledger later than this shard: it waits for less, and puts back what it has. As long as this
        takes, the world is closed. Raises LedgerError where the ledger is not there.
        """
        silent_s = time.monotonic() - self.answered_s
        if silent_s <= self._lease_s or (await self._ledger.view()).opened:
            return
        hold_s = HOLD_PART * min(silent_s, HOLD_OF_S)
        log.warning(
            "commits_held_back", silent_s=round(silent_s, 2), for_s=round(hold_s, 2), why="another owner may have more of these zones"
        )
        await asyncio.sleep(hold_s)

    def _see_who_waits(self) -> None:
        """Tell of the commits that have waited for too long; look again when the next one of those that wait will have."""
        self._watch = None
        now_s, next_s = time.monotonic(), float("inf")
        for pause, (began_s, _) in self._waiting.items():
            left_s = began_s + self._paused_after_s - now_s
            if pause.told:
                continue
            if left_s <= CLOCK_S:
                self._pause(pause)
            else:
                next_s = min(next_s, left_s)
        if next_s < float("inf"):
            self._watch = asyncio.get_running_loop().call_later(next_s, self._see_who_waits)

    def _pause(self, pause: _Pause) -> None:
        pause.told = True
        self._told += 1
        self._reading.always("paused")
        if self._told == 1:
            log.warning("paused", why="the ledger does not answer; nothing is lost, clients are told")
            self._notify(Notice.PAUSED)


class _Pause:
    """Whether clients were told that this commit is not answered."""

    told = False
