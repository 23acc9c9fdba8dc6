"""The gateway process: puts the parts together, starts and stops them in order.

Owns the life of one gateway: bind, register, wait for the world, follow routes, and at SIGTERM send everyone away with a
code that says "resume". Holds no world state. `run` is called by the CLI; tests use `GatewayService` in their own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from gateway.admission import Admission
from gateway.chat import Chat
from gateway.dispatch import Dispatch
from gateway.fanout import Fanout
from gateway.metrics import GatewayCollector, GatewayCounters
from gateway.pages import Pages
from gateway.routing import RoutingTable
from gateway.send_table import SendTable, compile_sends
from gateway.session import Session
from gateway.settings import GatewaySettings
from gateway.shard_links import ShardLinks
from gateway.websocket_server import BindError, WebsocketEndpoint
from gateway.world_rules import SessionLimits, WorldRules
from perdure.game.schema import Schema
from perdure.ledger.chat import CHAT_CHANNEL
from perdure.ledger.ledger import ROUTES_CHANNEL, Ledger, LedgerError, LedgerUnavailable, gateway_channel
from perdure.ledger.membership import Membership
from perdure.ledger.values import WorldSettings
from perdure.runtime.health import HealthServer
from perdure.runtime.rate import Rate
from perdure.runtime.telemetry import configure_logging
from perdure.wire.client_messages import map_frame
from perdure.wire.identifiers import player_key
from perdure.wire.opcodes import Close

log = structlog.get_logger("gateway")

LEDGER_SILENCE_S = 3.0
WORLD_POLL_S = 0.1
MAP_INTERVAL_S = 1.0
MAPS_AT_ONCE = 500
RETRY_S = 0.2
LEDGER_START_WAIT_S = 5.0
"""All parts of a cluster may be started at once, so the ledger gets so long to come up; past it, whoever started us is told."""
EXIT_OK, EXIT_FAULT = 0, 2


class GatewayService:
    """One gateway. `start` returns once it listens; `wait_ready` once it knows the world and every route."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        self.name = settings.member_name("gateway")
        self.counters = GatewayCounters()
        self.routing = RoutingTable()
        self.dispatch = Dispatch()
        self.fanout = Fanout(self.counters, self.dispatch.perform, SendTable(settings.max_sessions))
        self._bytes_rate, self._frames_rate, self._commands_rate = Rate(), Rate(), Rate()
        self.rules: WorldRules | None = None
        self.drain_requested = asyncio.Event()
        self.url = ""
        self._stopping = False
        self._seen_version = -1
        self._restated_for = ""
        self._view_wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._joined = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._map_changed = asyncio.Event()
        self.failed = False
        self._compiling: asyncio.Task[None] | None = None
        self._hints: asyncio.Task[None] | None = None
        self._doubts: asyncio.Task[None] | None = None
        self.endpoint = WebsocketEndpoint(
            settings, self.fanout, self.dispatch, self.counters,
            rules=lambda: self.rules, pages=Pages(settings, self._readiness, self._is_playing), doubt=self._doubt,
            begin=self._begin,
        )  # fmt: skip
        self.health: HealthServer | None = None
        if settings.health_port >= 0:
            self.health = HealthServer(settings.health_host, settings.health_port, self._health, self._registry())
        self.membership: Membership
        self.admission: Admission
        self.chat: Chat
        self.links: ShardLinks

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, register and begin to follow the ledger; raises BindError."""
        settings = self.settings
        host = settings.advertise or ("127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host)
        self.admission = Admission(
            ledger=self.ledger, fanout=self.fanout, routing=self.routing, perform=self.dispatch.perform, secret=settings.secret,
            expected=lambda zone, player: self.links.expect(self.routing.owners.get(zone, ""), zone, player),
            number=0, own_name=self.name, joined=self._joined, zones=1, max_sessions=settings.max_sessions,
            timeout_s=settings.admission_timeout_ms / 1000, max_concurrent=settings.max_admissions,
            max_queued=settings.max_queued, max_players=settings.max_players,
        )  # fmt: skip
        self.chat = Chat(
            self.ledger,
            self.fanout,
            self.counters,
            timeout_s=settings.admission_timeout_ms / 1000,
            zone_per_second=settings.zone_chat_per_second,
        )
        self.dispatch.bind(self.fanout, self.admission, self.chat)
        await self._listen()
        if settings.compiled_sockets:
            self._compiling = self._begin(self._compile(), "compile")
        self.url = settings.public_url or f"ws://{host}:{self.endpoint.port}/ws"
        self.membership = Membership(
            self.ledger, kind="gateway", name=self.name, address=self.url, heartbeat_s=settings.heartbeat_ms / 1000,
            development=settings.development, info=self._info, routes_changed=self._routes_changed, evicted=self._evicted,
            drain=self.drain_requested.set,
        )  # fmt: skip
        self.admission.number = self.membership.number
        self.links = ShardLinks(
            number=self.membership.number, own_name=self.name, secret=settings.secret.encode(), sink=self.fanout,
            counters=self.counters, suspect=self.ledger.suspect, max_buffer_bytes=settings.link_buffer_bytes,
            hurry=self.endpoint.gathering.hurry,
        )  # fmt: skip
        self.admission.start()
        self._tasks.append(self._begin(self._join(), "join"))

    async def _compile(self) -> None:
        """Have compiled code send; where there can be none, say so once, and do without."""
        began_s = time.monotonic()
        try:
            sends = await asyncio.to_thread(compile_sends)
        except Exception as error:  # noqa: BLE001 - whatever keeps a compiler from its work, the gateway works without
            mend = (
                "players are served, at more cost; set PERDURE_CACHE_DIR to a folder that can be written, or PERDURE_COMPILED_SOCKETS to 0"
            )
            log.warning("sockets_not_compiled", why=" ".join(str(error).split())[:200], mend=mend)
            return
        self.fanout.sends.use(sends)
        log.info("sockets_compiled", took_ms=round(1000 * (time.monotonic() - began_s)))

    async def _listen(self) -> None:
        if self.health is not None:
            try:
                await self.health.start()
            except (OSError, OverflowError) as error:
                where = f"{self.settings.health_host}:{self.settings.health_port}"
                raise BindError(f"cannot listen on {where} (health_host, health_port): {error}") from error
        try:
            await self.endpoint.start()
        except BindError:
            if self.health is not None:
                await self.health.stop()
            raise

    async def _join(self) -> None:
        """Register, wait for the world, then follow. A name that an earlier process still holds is free when that one's lease is over."""
        told = False
        while True:
            try:
                await self.membership.beat()
                world = await self.ledger.world()
            except LedgerError as error:
                if not told:
                    log.warning("ledger_silent", error=str(error))
                told, world = True, None
            if world is not None and self.rules is None:
                self._take_world(world)
            if world is not None and self._joined.is_set():
                break
            await asyncio.sleep(WORLD_POLL_S)
        self.membership.start()
        self._view_wanted.set()
        self._tasks.append(self._begin(self._follow_view(), "view"))
        self._hints = self._begin(self._follow_hints(), "hints")
        self._tasks.append(self._begin(self.chat.follow(), "chat"))

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """A gateway that follows the cluster no more must not go on: its clients would see nothing, and it would not know."""
        if not task.cancelled() and task.exception() is not None:
            log.error("gateway_task_failed", task=task.get_name(), exc_info=task.exception())
            self.failed = True
            self.drain_requested.set()

    def _take_world(self, world: WorldSettings) -> None:
        settings = self.settings
        limits = SessionLimits(
            commands_per_second=settings.commands_per_second,
            others_per_second=settings.others_per_second,
            max_pending=settings.max_pending_commands,
            poison_deaths=settings.poison_deaths,
            chat_per_second=settings.chat_per_second,
        )
        self.admission.zones = world.columns * world.rows
        self._tasks.append(self._begin(self._tell_map(world.columns, world.rows), "map"))
        schema = Schema.from_wire(json.loads(world.schema))
        self.links.ticks_at(schema.tick_hz)
        self.endpoint.gathering.ticks_at(schema.tick_hz)
        self.rules = WorldRules(schema, limits, world.columns * world.rows)

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def stop(self) -> None:
        """Send everyone away, tell the ledger, and end. Sessions stay in the world for their grace time."""
        self._stopping = True
        settings = self.settings
        timeout_s = settings.shutdown_timeout_ms / 1000
        await self.endpoint.stop(timeout_s)
        left = await self.admission.settle(timeout_s)
        if left:
            log.warning("departures_not_told", count=left, consequence="the coordinator detaches them when this gateway is gone")
        tasks = [*self._tasks, *(task for task in (self._hints, self._doubts, self._compiling) if task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.membership.stop()
        await self.dispatch.close()
        await self.admission.close()
        await self.links.close()
        if self.health is not None:
            await self.health.stop()
        try:
            await self.ledger.depart(self.name, self.membership.number)
        except LedgerError as error:
            log.warning("departure_not_told", error=str(error))

    # --- the ledger's word ------------------------------------------------------------------------------------------

    def _routes_changed(self, version: int) -> None:
        """The ledger has accepted a heartbeat."""
        self._joined.set()
        if version != self._seen_version:
            self._view_wanted.set()

    async def _follow_view(self) -> None:
        """Read the view whenever a heartbeat or a hint says that it changed, and now and then anyway."""
        while True:
            with contextlib.suppress(TimeoutError):  # nothing was said: read it anyway, since hints may be lost
                async with asyncio.timeout(self.settings.view_poll_ms / 1000):
                    await self._view_wanted.wait()
            self._view_wanted.clear()
            try:
                view = await self.ledger.view()
                if view.opened and view.run_id != self._restated_for:
                    await self.admission.restate()
                    self._restated_for = view.run_id
            except LedgerError:
                await asyncio.sleep(RETRY_S)
                self._view_wanted.set()
                continue
            self._seen_version = view.version
            self.routing.update(view)
            self._map_changed.set()
            await self.links.follow(self.routing.shards)
            if not self._ready.is_set():
                if self._compiling is not None:
                    await self._compiling
                self._ready.set()
                # What exists now lives as long as the process: keep the collector away from it.
                gc.collect()
                gc.freeze()
                log.info("ready", url=self.url, name=self.name, number=self.membership.number, shards=len(self.routing.shards))

    async def _follow_hints(self) -> None:
        """Takeover notices and changed routes. A hint that gets lost is made good by polling and by `verify`."""
        own_channel = gateway_channel(self.membership.number)
        while True:
            try:
                async for channel, message in self.ledger.subscribe(own_channel, ROUTES_CHANNEL, CHAT_CHANNEL):
                    if channel == CHAT_CHANNEL:
                        self.chat.heard()
                    elif channel == own_channel and message.isdigit():
                        self.admission.taken_over(int(message))
                    else:
                        self._view_wanted.set()
                        if message == b"resync" and channel == own_channel:
                            await self.admission.verify(list(self.fanout.sessions()))
            except LedgerError as error:
                log.warning("hints_lost", error=str(error))
            await asyncio.sleep(RETRY_S)

    async def _tell_map(self, columns: int, rows: int) -> None:
        """Tell all clients who runs which zone, whenever that is not what they were told last, once a second at most."""
        while True:
            await self._map_changed.wait()
            self._map_changed.clear()
            rules = self.rules
            assert rules is not None
            frame = map_frame(columns, rows, self.routing.map_owners(columns * rows))
            if frame == rules.map_frame:
                continue
            rules.map_frame = frame
            for count, session in enumerate(self.fanout.sessions(), 1):
                session.map_changed()
                if count % MAPS_AT_ONCE == 0:
                    await asyncio.sleep(0)  # so that snapshots are not held up
            await asyncio.sleep(MAP_INTERVAL_S)

    def _doubt(self, sessions: list[Session]) -> None:
        """Sessions that hear nothing: ask the ledger, one round at a time."""
        if self._doubts is None or self._doubts.done():
            self._doubts = asyncio.get_running_loop().create_task(self.admission.verify(sessions), name="verify")

    async def _evicted(self) -> None:
        """The cluster gave this gateway up and detached its players, or an earlier process holds its name: begin anew under another number.

        Nobody is let in under it before the ledger has accepted it: who is no member gets no frames.
        """
        self._joined.clear()
        number = self.membership.number
        self.admission.number = number
        for session in list(self.fanout.sessions()):  # who is entering is told when the ledger has answered (admission)
            session.close(Close.GOING_AWAY, "this gateway was taken for lost")
            self.dispatch.perform(session)
        await self.links.renumber(number)
        if self._hints is not None:
            self._hints.cancel()
            self._hints = self._begin(self._follow_hints(), "hints")

    # --- what others see --------------------------------------------------------------------------------------------

    def _readiness(self) -> str:
        """Return why this gateway should not be given clients, or "" where it should."""
        if self._stopping:
            return "shutting down"
        if not self._ready.is_set():
            return "waiting for the ledger and the world"
        if not self._joined.is_set():
            return "this gateway is not a member of the cluster (yet, or any more)"
        if self.membership.silence_s() > LEDGER_SILENCE_S:
            return "the ledger does not answer"
        if not self.links.up:
            return "no shard is linked"
        return ""

    async def _is_playing(self, name: str) -> bool:
        """Whether a socket is connected under this name, at any gateway; raises LedgerError."""
        record = await self.ledger.player(player_key(name))
        return record is not None and record.presence.gateway >= 0

    def _health(self) -> tuple[bool, str]:
        fault = self._readiness()
        return not fault, fault or "ready"

    def _info(self) -> dict[str, object]:
        state = "draining" if self._stopping else "ready" if self._ready.is_set() else "starting"
        return {
            "state": state,
            "load": len(self.fanout),
            "build": os.environ.get("PERDURE_BUILD", "dev"),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "url": self.url,
            "links": self.links.up,
            "bytes_s": self._bytes_rate.of(self.counters.frames_out_bytes),
            "frames_s": self._frames_rate.of(self.counters.frames_out),
            "commands_s": self._commands_rate.of(self.counters.commands),
        }

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        gauges = {
            "sessions": ("sessions in the world", lambda: float(len(self.fanout))),
            "sockets_waiting": ("sockets without a session", lambda: float(self.endpoint.waiting)),
            "logins_queued": ("logins that wait for room", lambda: float(len(self.admission.queue))),
            "links_up": ("links to shards that are up", lambda: float(self.links.up)),
            "links": ("links to shards, up or not", lambda: float(len(self.links))),
            "departures_waiting": ("detaches and kicks that the ledger has not heard of", lambda: float(self.admission.departures_waiting)),
        }
        registry.register(GatewayCollector(self.counters, gauges))
        return registry


async def serve_gateway(settings: GatewaySettings, ledger: Ledger) -> int:
    """Run a gateway until SIGTERM, SIGINT or a drain order; return the exit code."""
    service = GatewayService(settings, ledger)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.drain_requested.set)
    try:
        await service.start()
    except BindError as error:
        log.error("cannot_listen", error=str(error), mend="choose another port, or 0 for any free one")
        return EXIT_FAULT
    await service.drain_requested.wait()
    log.info("stopping", sessions=len(service.fanout))
    await service.stop()
    log.info("stopped")
    return EXIT_FAULT if service.failed else EXIT_OK


async def _main(settings: GatewaySettings) -> int:
    from perdure.ledger.redis_ledger import RedisLedger  # here, so that tests of this module need no Redis

    deadline_s = time.monotonic() + LEDGER_START_WAIT_S
    while True:
        try:
            ledger = await RedisLedger.connect(settings.redis_url, settings.world)
            break
        except LedgerError as error:
            if isinstance(error, LedgerUnavailable) and time.monotonic() < deadline_s:
                await asyncio.sleep(RETRY_S)
                continue
            log.error("gateway_failed", why=" ".join(str(error).split()), mend="start the ledger, or mend PERDURE_REDIS_URL")
            return EXIT_FAULT
    try:
        return await serve_gateway(settings, ledger)
    finally:
        await ledger.close()


def run(settings: GatewaySettings) -> int:
    """Run a gateway to its end; return the exit code (0 stopped, 2 could not run)."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        return uvloop.run(_main(settings))
    except KeyboardInterrupt:
        return EXIT_OK
