"""Membership: a process's heartbeats in the ledger, and the orders that their answers bring.

Owns the member record and its number. Never decides what to do about an eviction or a drain: it calls back. Called by
the services of shard, gateway and coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable

import structlog

from perdure.ledger.ledger import Ledger, LedgerError, LedgerUnavailable
from perdure.ledger.values import Member

log = structlog.get_logger("membership")

ANSWER_DEADLINE_S = 1.5
"""How long a heartbeat is waited for, half a gateway's lease. Over a connection that was cut, what is sent again comes after 0.2, 0.6,
1.4 and only then 3 s: after a cut of 1.5 s a new connection is heard at once, the old one when the lease is over."""
ACCOMPANIED = 2
"""Whose commits go on is known to live: its heartbeats, which tell of itself, may be so many times as far apart."""
LEEWAY = 0.15
"""A heartbeat may come so much of an interval earlier or later, to go along with something else."""


def new_number() -> int:
    """Return a random member number, 1 to 2^31 - 1."""
    return secrets.randbelow((1 << 31) - 1) + 1


class Membership:
    """Beats every `heartbeat_s`. `info` makes the member's info anew for each beat."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        kind: str,
        name: str,
        address: str,
        heartbeat_s: float,
        development: bool,
        info: Callable[[], dict[str, object]],
        routes_changed: Callable[[int], None],
        evicted: Callable[[], Awaitable[None]],
        drain: Callable[[], None],
    ) -> None:
        self.kind = kind
        self.name = name
        self.number = new_number()
        self._ledger = ledger
        self._address = address
        self._heartbeat_s = heartbeat_s
        self._development = development
        self._info = info
        self._routes_changed = routes_changed
        self._evicted = evicted
        self._drain = drain
        self._beat = 0
        self._heard_s = -1.0
        self._waits = False
        self._taken: set[int] = set()
        """Orders that were obeyed, and that the ledger may not know to be here: the answer that brought them may be one of many."""
        self._known = False
        """Whether the ledger ever took a heartbeat under this number."""
        self.accepted = False
        """Whether the ledger took the last heartbeat: the cluster counts on this process, under `number`."""
        self._due_s = self._accompanied_s = float("-inf")
        self._sooner = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def silence_s(self) -> float:
        """Return how long ago the ledger answered a heartbeat; infinite if it never did."""
        return float("inf") if self._heard_s < 0 else time.monotonic() - self._heard_s

    async def beat(self) -> None:
        """Send one heartbeat and act on its answer; raises LedgerError (which says nothing about this member)."""
        self._beat += 1
        member = Member(self.name, self.kind, self.number, self._address, self._beat, self._info())
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                answer = await self._ledger.heartbeat(member, self._known, sorted(self._taken))
        except TimeoutError:
            raise LedgerUnavailable(f"no answer to a heartbeat within {ANSWER_DEADLINE_S:g} s") from None
        self._heard_s = time.monotonic()
        was_accepted, self.accepted = self.accepted, answer.accepted
        if not answer.accepted:
            if was_accepted:
                log.warning("evicted", detail=answer.detail)
            elif not self._waits:
                self._waits = True
                log.info("waiting_for_name", name=self.name, why=answer.detail)
            self.number, self._known = new_number(), False
            self._taken.clear()
            await self._evicted()
            return
        self._waits, self._known = False, True
        self._routes_changed(answer.routes_version)
        there = {order.number for order in answer.orders}
        self._taken &= there  # what does not come again, the ledger has dropped
        for order in answer.orders:
            if order.number not in self._taken:
                self._taken.add(order.number)
                self._obey(order.text)

    def along(self) -> bool:
        """Something goes to the ledger at this moment: a heartbeat that is nearly due goes with it. Is there one?

        To wake up for it alone, and for its answer, costs a shard a good part of a tick, and the ledger's server a flush.
        """
        self._accompanied_s = time.monotonic()
        if self._accompanied_s < self._due_s - LEEWAY * self._heartbeat_s:
            return False
        self._sooner.set()
        return True

    async def _until_due(self) -> None:
        """Wait until it is time for the next heartbeat: longer where something else goes to the ledger often."""
        now_s, wait_s, late_s = time.monotonic(), self._heartbeat_s, 0.0
        if now_s - self._accompanied_s <= self._heartbeat_s:
            wait_s, late_s = ACCOMPANIED * wait_s, LEEWAY * wait_s
        self._due_s = now_s + wait_s
        self._sooner.clear()
        with contextlib.suppress(TimeoutError):  # nothing else went, or nobody says so
            async with asyncio.timeout(wait_s + late_s):
                await self._sooner.wait()

    def _obey(self, order: str) -> None:
        verb, _, argument = order.partition(" ")
        log.warning("order", order=order)
        if verb == "drain":
            self._drain()
        elif not self._development:
            log.error("order_refused", order=order, mend="kill and pause are obeyed in development only")
        elif verb == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif verb == "pause" and argument.isdigit():
            pause(int(argument))
        else:
            log.error("order_unknown", order=order)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")
        self._task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """A fault in what an answer brought about must not end the heartbeat: the process would be taken for lost, and never know."""
        if not task.cancelled() and task.exception() is not None:
            log.error("heartbeat_failed", name=self.name, exc_info=task.exception())
            self.start()

    async def _run(self) -> None:
        silent = False
        while True:
            await self._until_due()
            try:
                await self.beat()
            except LedgerError as error:
                if not silent:
                    log.warning("ledger_silent", error=str(error))
                silent = True
            else:
                if silent:
                    log.info("ledger_answers")
                silent = False

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def pause(pause_ms: int) -> None:
    """Stop this process (SIGSTOP) and have a detached helper continue it after `pause_ms`."""
    script = f"sleep {pause_ms / 1000:.3f}; kill -CONT {os.getpid()}"
    subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, stdin=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGSTOP)
