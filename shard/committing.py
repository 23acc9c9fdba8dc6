"""Commits on their way to the ledger: sent again until there is an answer, held back where another owner has to go first.

A tick sends its commits by `begin`, makes its frames, and goes on with `answers`. Where nothing else has to go to the ledger, they are
written, and their answers read, without the event loop.

Owns which commits have no answer yet and since when, and what clients are told of that. Never says what an answer means for a zone
(shard.tick_loop does). Called by shard.tick_loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from perdure.ledger.ledger import Ledger, LedgerRefused, LedgerUnavailable, Sent
from perdure.ledger.values import Commit, CommitAnswer
from perdure.wire.opcodes import Notice
from shard.metrics import ShardMetrics
from shard.reading import Reading

log = structlog.get_logger("shard.tick")

RESEND_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.25
HOLD_PART, HOLD_OF_S = 0.4, 4.0
"""A shard whose commits had no answer for a lease holds them back for this part of that time (of so much at most), while the world is
closed."""
AT_ONCE_S = 0.002
"""A shard waits so long for its commit with its event loop standing still: most answers are there by then, and to go back to the event
loop, be woken up and find the tick again costs a good part of a tick."""
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
        self._waiting: set[OnTheirWay] = set()
        """Those without an answer."""
        self._watch: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Does a commit wait for its answer for so long that clients were told?"""
        return self._told > 0

    def waiting_long(self) -> set[int]:
        """Return the zones whose commit has waited for UNCONFIRMED_S or longer."""
        long_ago_s = time.monotonic() - UNCONFIRMED_S
        return {commit.zone for going in self._waiting if going.began_s <= long_ago_s for commit in going.commits}

    def begin(self, commits: list[Commit], *, at_once: bool) -> OnTheirWay:
        """Commit. `at_once`: written when this returns (`left`), where the ledger can; else as soon as the event loop comes round."""
        going = OnTheirWay(commits)
        if not commits:
            return going
        self._waiting.add(going)
        if self._watch is None:  # one for all: nearly every commit has its answer long before
            self._watch = asyncio.get_running_loop().call_later(self._paused_after_s, self._see_who_waits)
        if at_once and going.began_s - self.answered_s <= self._lease_s:
            going.sent = self._ledger.send_commits(commits)
        if going.sent is None:
            going.task = asyncio.get_running_loop().create_task(self._until_answered(going))
        return going

    async def answers(self, going: OnTheirWay) -> list[CommitAnswer]:
        """Return the answers. For those that `left` they are waited for with the event loop standing still, for AT_ONCE_S."""
        if going.sent is not None:
            answers = going.sent.answered_within(AT_ONCE_S)
            if answers is not None:
                self._arrived(going)
                return answers
            return await self._until_answered(going)
        return await going.task if going.task is not None else []

    async def _until_answered(self, going: OnTheirWay) -> list[CommitAnswer]:
        """Send identical commits, again if need be, until there is an answer."""
        tries, sent = 0, going.sent
        try:
            while True:
                try:
                    if sent is not None:
                        answers = await sent.answers()
                    else:
                        await self._let_others_go_first()
                        answers = await self._ledger.commit(going.commits)
                    self._arrived(going, tries)
                    return answers
                except (LedgerUnavailable, LedgerRefused) as error:
                    tries, sent = tries + 1, None
                    self._metrics.resends.inc()
                    self._unanswered()
                    if tries == 1 or tries % 100 == 0:
                        log.warning("commit_unanswered", zones=len(going.commits), tries=tries, why=str(error))
                    await asyncio.sleep(min(RESEND_PAUSE_S * tries, LONGEST_PAUSE_S))
        finally:
            self._end(going, tries)

    def forget(self, going: OnTheirWay) -> None:
        """Nobody waits for these answers any more."""
        self._end(going, 0)

    def _arrived(self, going: OnTheirWay, tries: int = 0) -> None:
        self.answered_s = time.monotonic()
        self._end(going, tries)

    def _end(self, going: OnTheirWay, tries: int) -> None:
        """They wait no more; they may be so already."""
        if going not in self._waiting:
            return
        self._waiting.remove(going)
        self._told -= going.told
        if going.told and not self._told:
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
        for going in list(self._waiting):
            left_s = going.began_s + self._paused_after_s - now_s
            if going.told:
                continue
            if left_s <= CLOCK_S:
                self._pause(going)
            else:
                next_s = min(next_s, left_s)
        if next_s < float("inf"):
            self._watch = asyncio.get_running_loop().call_later(next_s, self._see_who_waits)

    def _pause(self, going: OnTheirWay) -> None:
        going.told = True
        self._told += 1
        self._reading.always("paused")
        if self._told == 1:
            log.warning("paused", why="the ledger does not answer; nothing is lost, clients are told")
            self._notify(Notice.PAUSED)


class OnTheirWay:
    """Commits that were begun."""

    __slots__ = ("began_s", "commits", "sent", "task", "told")

    def __init__(self, commits: list[Commit]) -> None:
        self.commits, self.began_s = commits, time.monotonic()
        self.told = False
        """Were clients told that these are not answered?"""
        self.sent: Sent | None = None
        self.task: asyncio.Task[list[CommitAnswer]] | None = None

    @property
    def left(self) -> bool:
        """Are they on the wire? Else they go as the event loop comes round."""
        return self.sent is not None or not self.commits
