"""The coordinator process: heartbeats, hints, the steering loop and the admin API on one event loop.

Owns the tasks, their order of start and stop, and nothing else: decisions are in `cluster_state`, ledger calls in `steering`.
Called by the CLI (`run`) and by tests (`CoordinatorService` over a memory ledger).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from coordinator.admin_api import AdminApi
from coordinator.admin_server import AdminServer
from coordinator.metrics import CoordinatorMetrics
from coordinator.presence_feed import PresenceFeed
from coordinator.settings import CoordinatorSettings
from coordinator.steering import Steering, Turn
from perdure.ledger.ledger import ROUTES_CHANNEL, SUSPECT_CHANNEL, Ledger, LedgerError, LedgerUnavailable
from perdure.ledger.membership import Membership
from perdure.ledger.redis_ledger import RedisLedger
from perdure.runtime.telemetry import configure_logging

MIN_TURN_GAP_S = 0.01
"""Hints come in bursts (one for each zone of a failover): the view is read at most so often because of them."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
CALL_DEADLINE_S = 2.0
LEAVE_DEADLINE_S = 2.0
LEDGER_START_WAIT_S = 5.0
"""All parts of a cluster may be started at once, so the ledger gets so long to come up; past it, whoever started us is told."""
EXIT_OK, EXIT_FAULT = 0, 2

log = structlog.get_logger("coordinator")


class CoordinatorService:
    """One coordinator over one ledger (which the caller opens and closes)."""

    def __init__(self, settings: CoordinatorSettings, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._ledger = ledger
        self.metrics = CoordinatorMetrics()
        self.feed = PresenceFeed(ledger)
        self.steering = Steering(settings, ledger, self.metrics, clock, self.feed.book.gateways)
        self.app = AdminApi(settings, ledger, self.steering, self.feed, self.metrics).app()
        self._hinted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._admin_url = ""
        self.membership: Membership | None = None

    def stop(self) -> None:
        """Ask for the end; `run` then resigns, departs and returns."""
        self._stopping.set()
        self._hinted.set()

    async def run(self) -> None:
        """Serve until `stop`. An error that is not the ledger's ends the process: a standby takes over."""
        with AdminServer(self.app, self._settings.admin_host, self._settings.admin_port) as server:
            host = self._settings.advertise or _reachable(server.host)
            url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
            self._admin_url = url
            self.membership = self._make_membership(url)
            log.info("coordinator started", coordinator=self.steering.name, admin=url)
            loops: list[Coroutine[Any, Any, None]] = [
                self._listen_for_ever(),
                self.feed.run(),
                self._steer_for_ever(),
                server.run(),
            ]
            tasks = [asyncio.create_task(loop) for loop in loops]
            stopped = asyncio.create_task(self._until_stopped())
            try:
                await self._beat_once(self.membership)
                self.membership.start()
                await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await self.feed.close()
                server.stop()
                await self.membership.stop()
                await self._end([*tasks[:-1], stopped], tasks[-1], self.membership)

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    def _make_membership(self, url: str) -> Membership:
        return Membership(
            self._ledger,
            kind="coordinator",
            name=self.steering.name,
            address=url,
            heartbeat_s=self._settings.heartbeat_ms / 1000,
            development=self._settings.development,
            info=self._info,
            routes_changed=lambda version: None,  # the steering loop polls the whole view anyway
            evicted=self._evicted,
            drain=self.stop,
        )

    async def _end(self, loops: list[asyncio.Task[None]], server: asyncio.Task[None], membership: Membership) -> None:
        """End the loops, leave the cluster, let the server answer what it began; raise what broke one of them."""
        for task in loops:
            task.cancel()
        outcomes = await asyncio.gather(*loops, return_exceptions=True)
        try:
            async with asyncio.timeout(LEAVE_DEADLINE_S):
                await self.steering.resign()
                await self._ledger.depart(membership.name, membership.number)
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

    async def _beat_once(self, membership: Membership) -> None:
        try:
            await membership.beat()
        except LedgerError as error:
            log.warning("the ledger does not answer yet", error=str(error))

    def _info(self) -> dict[str, object]:
        info: dict[str, object] = {"state": "ready", "pid": os.getpid(), "host": socket.gethostname(), "admin": self._admin_url}
        return info | {"leading": self.steering.leading, "max_migrations": self._settings.max_migrations}

    async def _evicted(self) -> None:
        # The next heartbeat registers anew. Leading does not hang on membership: the term fences it.
        self._hinted.set()


def run(settings: CoordinatorSettings) -> int:
    """Run a coordinator until SIGTERM or SIGINT. Return the exit status: 0 after a clean stop, 2 where it could not run."""
    import uvloop

    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(_main(settings))
    except (LedgerError, OSError) as error:
        log.error("coordinator failed", why=" ".join(str(error).split()), mend="see the message; start it again")
        return EXIT_FAULT
    return EXIT_OK


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
        service = CoordinatorService(settings, ledger)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        if stopping.is_set():
            service.stop()
        await service.run()
    finally:
        await ledger.close()


async def _connect(settings: CoordinatorSettings, name: str, stopping: asyncio.Event) -> Ledger | None:
    """Connect; the server gets LEDGER_START_WAIT_S to come up. None where the end was asked for before."""
    pause_s, deadline_s = FIRST_PAUSE_S, time.monotonic() + LEDGER_START_WAIT_S
    while not stopping.is_set():
        try:
            return await RedisLedger.connect(settings.redis_url, settings.world, name=name, call_deadline_s=CALL_DEADLINE_S)
        except LedgerUnavailable:
            if time.monotonic() >= deadline_s:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    return None


def _reachable(host: str) -> str:
    """Return the host that others should use where the server is bound to `host`."""
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host
