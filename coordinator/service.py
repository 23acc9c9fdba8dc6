"""The coordinator process: heartbeats, hints, the steering loop and the admin API on one event loop.

Owns the tasks, their order of start and stop, and nothing else: decisions are in `cluster_state`, ledger calls in `steering`.
Called by the CLI (`run`) and by tests (`CoordinatorService` over a memory ledger).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from coordinator.admin_api import AdminApi
from coordinator.admin_server import AdminServer
from coordinator.metrics import CoordinatorMetrics
from coordinator.presence_feed import PresenceFeed
from coordinator.settings import CoordinatorSettings
from coordinator.steering import Steering, Turn
from perdure.ledger.ledger import ROUTES_CHANNEL, SUSPECT_CHANNEL, Ledger, LedgerError, LedgerRefused, LedgerUnavailable, Member
from perdure.ledger.redis_ledger import RedisLedger

MIN_TURN_GAP_S = 0.01
"""Hints come in bursts (one for each zone of a failover): the view is read at most so often because of them."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
CALL_DEADLINE_S = 2.0
LEAVE_DEADLINE_S = 2.0

log = structlog.get_logger("coordinator")


class CoordinatorService:
    """One coordinator over one ledger (which the caller opens and closes). `take_order` carries out the orders of operators."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        ledger: Ledger,
        take_order: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._take_order = take_order
        self.metrics = CoordinatorMetrics()
        self.feed = PresenceFeed(ledger)
        self.steering = Steering(settings, ledger, self.metrics, clock, self.feed.book.gateways)
        self.app = AdminApi(settings, ledger, self.steering, self.feed, self.metrics).app()
        self._hinted = asyncio.Event()
        self._stopping = asyncio.Event()
        info: dict[str, object] = {"state": "ready", "pid": os.getpid(), "host": socket.gethostname()}
        self._member = Member(self.steering.name, "coordinator", _new_number(), "", info=info)

    @property
    def member(self) -> Member:
        return self._member

    def stop(self) -> None:
        """Ask for the end; `run` then resigns, departs and returns."""
        self._stopping.set()
        self._hinted.set()

    async def run(self) -> None:
        """Serve until `stop`. An error that is not the ledger's ends the process: a standby takes over."""
        with AdminServer(self.app, self._settings.admin_host, self._settings.admin_port) as server:
            host = self._settings.advertise or _reachable(server.host)
            url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
            self._member = replace(self._member, address=url, info={**self._member.info, "admin": url})
            log.info("coordinator started", coordinator=self.steering.name, admin=url)
            loops: list[Coroutine[Any, Any, None]] = [
                self._beat_for_ever(),
                self._listen_for_ever(),
                self.feed.run(),
                self._steer_for_ever(),
                server.run(),
            ]
            tasks = [asyncio.create_task(loop) for loop in loops]
            stopped = asyncio.create_task(self._until_stopped())
            try:
                await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await self.feed.close()
                server.stop()
                await self._end([*tasks[:-1], stopped], tasks[-1])

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    async def _end(self, loops: list[asyncio.Task[None]], server: asyncio.Task[None]) -> None:
        """End the loops, leave the cluster, let the server answer what it began; raise what broke one of them."""
        for task in loops:
            task.cancel()
        outcomes = await asyncio.gather(*loops, return_exceptions=True)
        try:
            async with asyncio.timeout(LEAVE_DEADLINE_S):
                await self.steering.resign()
                await self._ledger.depart(self._member.name, self._member.number)
        except (LedgerError, TimeoutError) as error:
            log.warning("left without saying so; the lease ends by itself", error=str(error))
        outcomes += await asyncio.gather(server, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    # --- loops ----------------------------------------------------------------------------------------------------

    async def _steer_for_ever(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = time.monotonic()
            self._hinted.clear()
            turn = await self.steering.turn()
            if turn is Turn.UNAVAILABLE:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            if turn is Turn.IDLE:
                await self._wait_for_hint(self._settings.poll_ms / 1000)
                await asyncio.sleep(max(0.0, began_s + MIN_TURN_GAP_S - time.monotonic()))

    async def _wait_for_hint(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._hinted.wait()
        except TimeoutError:
            return  # the poll's time has come

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                async for _ in self._ledger.subscribe(ROUTES_CHANNEL, SUSPECT_CHANNEL):
                    self._hinted.set()
            except LedgerError as error:
                log.debug("no hints for the moment", error=str(error))
            await asyncio.sleep(LONGEST_PAUSE_S)

    async def _beat_for_ever(self) -> None:
        refused_before = False
        while True:
            refused_before = await self._beat(refused_before)
            await asyncio.sleep(self._settings.heartbeat_ms / 1000)

    async def _beat(self, refused_before: bool) -> bool:
        """Send one heartbeat. Return whether it was refused."""
        self._member = replace(self._member, beat=self._member.beat + 1, info={**self._member.info, "leading": self.steering.leading})
        try:
            answer = await self._ledger.heartbeat(self._member)
        except LedgerUnavailable:
            return refused_before  # the steering loop says so, once
        except LedgerRefused as error:
            log.error("the heartbeat was refused", error=str(error))
            return True
        if not answer.accepted:
            if not refused_before:
                log.warning("not accepted as a member; registering anew", why=answer.detail)
            self._member = replace(self._member, number=_new_number(), beat=0)
        for order in answer.orders:
            self._take_order(order)
        return not answer.accepted


def run(settings: CoordinatorSettings) -> int:
    """Run a coordinator until SIGTERM or SIGINT. Return the exit status: 0 after a clean stop, 1 where it could not run."""
    try:
        asyncio.run(_main(settings))
    except (LedgerRefused, OSError) as error:
        print(f"coordinator: {error}", file=sys.stderr)
        return 1
    return 0


async def _main(settings: CoordinatorSettings) -> None:
    name = settings.member_name("coordinator")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    ledger = await _connect(settings, name, stopping)
    if ledger is None:
        return
    try:
        service = CoordinatorService(settings, ledger, _refuse_order)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        if stopping.is_set():
            service.stop()
        await service.run()
    finally:
        await ledger.close()


async def _connect(settings: CoordinatorSettings, name: str, stopping: asyncio.Event) -> Ledger | None:
    """Connect, however long the server takes to come up. None where the end was asked for before."""
    pause_s, told = FIRST_PAUSE_S, False
    while not stopping.is_set():
        try:
            return await RedisLedger.connect(settings.redis_url, settings.world, name=name, call_deadline_s=CALL_DEADLINE_S)
        except LedgerUnavailable as error:
            if not told:
                log.warning("waiting for the ledger", error=str(error))
                told = True
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    return None


def _refuse_order(order: str) -> None:
    log.warning("an order that a coordinator does not take", order=order)


def _new_number() -> int:
    return secrets.randbelow((1 << 31) - 1) + 1


def _reachable(host: str) -> str:
    """Return the host that others should use where the server is bound to `host`."""
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host
