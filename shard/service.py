"""The shard process: joins the cluster, runs the zones that it is assigned, leaves in order.

Owns membership, which zones run here, and recovery; the tick is tick_loop's, decisions are the coordinator's. `run` is
called by `perdure shard`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time

import orjson
import structlog

from perdure.game.contract import GameError
from perdure.game.loading import load_game
from perdure.ledger.ledger import ROUTES_CHANNEL, Ledger, LedgerError, LedgerUnavailable
from perdure.ledger.membership import Membership
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import ClusterView, WorldSettings, ZoneRoute
from perdure.runtime.health import HealthServer
from perdure.runtime.rate import Rate
from perdure.runtime.telemetry import configure_logging
from perdure.wire.identifiers import WorldGrid
from shard.border import Words
from shard.border_links import BorderLinks
from shard.border_metrics import BorderCollector
from shard.link_server import LinkServer
from shard.metrics import ShardMetrics
from shard.program import Program, compile_program
from shard.recovery import Follower, take_over
from shard.settings import ShardSettings
from shard.tick_loop import TickLoop
from shard.warmup import warm
from shard.zone import Phase, Zone, ZoneError

log = structlog.get_logger("shard")

FOLLOW_EVERY_S = 0.05
VIEW_POLL_S = 0.5
"""So often a view is read though nothing is said to have changed: what members tell of themselves has no version."""
VIEW_LEEWAY_S = 0.1
"""A view may come so much later, to go along with a commit."""
RETRY_S = 4.0
"""How long after a zone could not be started it is tried again: a damaged log may have been mended meanwhile."""
LONGEST_REST_S, STEADY_S = 32.0, 60.0
"""A zone that is given up again within STEADY_S rests before it begins anew, for RETRY_S first and twice as long each time: its beginning
breaks the links of all."""
LAST_TICK_S = 3.0
"""How long a shard that leaves waits for the commit of its last tick, where the ledger does not answer."""
LAST_RESEED_S = 5.0
"""How long a shard that leaves waits for a ledger that has forgotten: as long as a world waits to be opened."""
EXIT_OK, EXIT_FAULT = 0, 2


def run(settings: ShardSettings, program: Program | None = None) -> int:
    """Run a shard until it is told to stop; return the process's exit code. `program`: the game, where it is loaded already."""
    import uvloop

    configure_logging(settings.log_level, settings.log_format)
    try:
        return uvloop.run(_main(settings, program))
    except (GameError, LedgerError, OSError, ValueError) as error:
        log.error("shard_failed", why=_one_line(error, settings))
        return EXIT_FAULT


def _one_line(error: Exception, settings: ShardSettings) -> str:
    if isinstance(error, OSError) and error.errno in (98, 48):
        return f"{settings.listen} (or the health port) is taken by another process; give each shard its own PERDURE_LISTEN"
    return " ".join(str(error).split())


async def _main(settings: ShardSettings, program: Program | None) -> int:
    loaded = None if program is not None else load_game(settings.game)
    ledger = await RedisLedger.connect(settings.redis_url, settings.world, commit_deadline_s=settings.commit_deadline_ms / 1000)
    try:
        if loaded is not None:
            program = compile_program(loaded)  # the long part, once it is known that the rest is in order
        assert program is not None
        shard = ShardService(settings, program, ledger)
        return await shard.serve()
    finally:
        await ledger.close()


class ShardService:
    """One shard. `serve` returns when it has left the cluster."""

    def __init__(self, settings: ShardSettings, program: Program, ledger: Ledger) -> None:
        self.settings, self.program, self.ledger = settings, program, ledger
        self.name = settings.member_name("shard")
        self._host = socket.gethostname()
        self.metrics = ShardMetrics()
        row_bytes = 16 + program.schema.command_payload_bytes
        self.links = LinkServer(settings.secret.encode(), self.name, row_bytes)
        self.ticks = TickLoop(
            ledger, self.links, self.metrics, tick_hz=program.game.tick_hz, threads=settings.threads or min(os.cpu_count() or 1, 4),
            checkpoint_s=settings.checkpoint_s, paused_after_s=settings.paused_after_ms / 1000,
            lease_s=settings.lease_ms / 1000, idle_hz=program.game.idle_hz, owner=self.name, development=settings.development,
        )  # fmt: skip
        self.border_links = BorderLinks(self.name, settings.secret.encode(), self._feed_came, self.ticks.borders.cut)
        self.ticks.reading.add(self.border_links.read)
        self.metrics.registry.register(BorderCollector(self.ticks.borders, self.border_links))
        self.state = "starting"
        self._released_rate = Rate()
        self.failed: dict[int, str] = {}
        self._retry_at: dict[int, float] = {}
        self._given_up: dict[int, tuple[float, float]] = {}
        """Zone -> when its last rest ended or is to end, and how long that is."""
        self._membership: Membership | None = None
        self._grid: WorldGrid | None = None
        self._world: WorldSettings | None = None
        self._run_id, self._version = "", -1
        self._seed = settings.seed
        self._stale: dict[int, int] = {}
        self._takeovers: dict[int, tuple[int, asyncio.Task[None]]] = {}
        self._followers: dict[int, tuple[Follower, asyncio.Task[None]]] = {}
        self._borders_seen: tuple[object, ...] = ()
        self._wake = asyncio.Event()
        self._view_due_s = float("inf")
        self._draining = False
        self._closed_since_s = 0.0
        self._stop = asyncio.Event()
        self._fatal: Exception | None = None

    # --- life -----------------------------------------------------------------------------------------------------
    async def serve(self) -> int:
        """Join, run, leave."""
        loop = asyncio.get_running_loop()
        address = await self.links.listen(self.ticks, self.settings.listen, self.settings.advertise)
        health = None
        if self.settings.health_port >= 0:
            health = HealthServer(self.settings.health_host, self.settings.health_port, self._ready, self.metrics.registry)
            await health.start()
        await self._join_world()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._drain)
        membership = self._membership = Membership(
            self.ledger, kind="shard", name=self.name, address=address, heartbeat_s=self.settings.heartbeat_ms / 1000,
            development=self.settings.development, info=self._info, routes_changed=self._routes_changed,
            evicted=self._on_evicted, drain=self._drain,
        )  # fmt: skip
        await self._register(membership)
        membership.start()
        self.ticks.committing = self._along
        self.ticks.gave_up = self._gave_up
        try:
            await loop.run_in_executor(self.ticks.executor, warm, self.program)
        except BaseException:
            await self._part(membership, health)
            raise
        # Before anyone counts on us: this takes a second where the heap is large and the machine busy.
        gc.collect()
        gc.freeze()
        gc.disable()
        self.state = "ready"
        try:
            await membership.beat()
        except LedgerError as error:
            log.warning("ledger_silent", why=str(error))  # the next heartbeat says it
        log.info("ready", name=self.name, address=address, game=self.program.game.name, build=f"{self.program.build:016x}")
        tasks = [
            loop.create_task(self.ticks.run(), name="ticks"), loop.create_task(self._routes(), name="routes"),
            loop.create_task(self._hints(), name="hints"),
        ]  # fmt: skip
        for task in tasks:
            task.add_done_callback(self._on_task_done)
        await self._stop.wait()
        return await self._leave(tasks, membership, health)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("shard_task_failed", task=task.get_name(), exc_info=task.exception())
            self._fatal = task.exception()  # type: ignore[assignment]
            self._stop.set()

    async def _leave(self, tasks: list[asyncio.Task[None]], membership: Membership, health: HealthServer | None) -> int:
        self.ticks.stopping = True
        ticks, *others = tasks
        await asyncio.wait([ticks], timeout=LAST_TICK_S)  # let the tick under way end, so that the last checkpoints hold it
        if self._fatal is None:
            await self.ticks.checkpoints.restored(LAST_RESEED_S)
        for task in (ticks, *others):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._part(membership, health)
        log.info("left", name=self.name)
        return EXIT_OK if self._fatal is None else EXIT_FAULT

    async def _part(self, membership: Membership, health: HealthServer | None) -> None:
        """End what runs beside the tick, and take this process off the list of members."""
        await self.ticks.close()
        await membership.stop()
        if self._fatal is None:
            await self.ticks.checkpoints.all()
        try:
            await self.ledger.depart(self.name, membership.number)
        except LedgerError as error:
            log.warning("depart_failed", why=str(error))
        await self.border_links.close()
        await self.links.close()
        if health is not None:
            await health.stop()

    async def _join_world(self) -> None:
        columns, rows = self.settings.grid
        schema = self.program.schema
        mine = WorldSettings(
            self.settings.world, self.program.game.name, schema.hash, orjson.dumps(schema.to_wire()).decode(), columns, rows,
            self.settings.seed, self.program.game.tick_hz,
        )  # fmt: skip
        world = await self.ledger.init_world(mine)
        if (world.game, world.columns, world.rows) != (mine.game, columns, rows):
            raise ValueError(
                f"the world {world.name!r} runs game {world.game!r} on {world.columns}x{world.rows} zones, this shard was told "
                f"{mine.game!r} on {self.settings.zones}: give it the same settings, or another PERDURE_WORLD"
            )
        if world.schema_hash != mine.schema_hash:
            raise ValueError(
                f"the world {world.name!r} was made with another schema of {world.game!r} ({world.schema_hash}, this game's is "
                f"{mine.schema_hash}): what clients see cannot change on a world that exists; give this shard the game that the world "
                "was made with, or another PERDURE_WORLD"
            )
        self._world = world
        self._grid = WorldGrid(*self.program.game.world_size, world.columns, world.rows)
        self._seed = world.seed

    async def _register(self, membership: Membership) -> None:
        """Beat until accepted: after a crash the name is free again once the coordinator has taken the old process off the list."""
        while True:
            try:
                await membership.beat()
            except LedgerUnavailable as error:
                log.warning("ledger_silent", why=str(error))
                break
            if membership.accepted:
                break
            await asyncio.sleep(self.settings.heartbeat_ms / 1000)
        view = await self.ledger.view()
        self._stale = {route.zone: route.epoch for route in view.zones.values() if route.owner == self.name}

    def _ready(self) -> tuple[bool, str]:
        silent = self._membership is None or self._membership.silence_s() > self.settings.lease_ms / 1000
        return self.state == "ready" and not silent, f"state {self.state}" + (", no answer from the ledger" if silent else "")

    def _info(self) -> dict[str, object]:
        counts = {str(n): zone.player_count() for n, zone in self.ticks.zones.items()}
        return {
            "state": "draining" if self._draining else self.state, "build": f"{self.program.build:016x}", "pid": os.getpid(),
            "host": self._host, "load": {n: count + 1 for n, count in counts.items()},
            "players": {n: count for n, count in counts.items() if count},
            "failed": {str(n): why for n, why in self.failed.items()}, "committed": self.ticks.unconfirmed(),
            "stale": {str(n): epoch for n, epoch in self._stale.items()}, "paused": self.ticks.paused,
            "tick_ms": self.ticks.times.told(), "commit_ms": self.ticks.commit_times.told(),
            "own_ms": self.ticks.own_times.told(),
            "bytes_s": self._released_rate.of(self.ticks.released_bytes), **self.ticks.pacing.told(),
            "asleep": len(self.ticks.sleepers), "near": self.ticks.sleepers.seen_here(),
            "full": [n for n, zone in self.ticks.zones.items() if zone.is_full()],
        }  # fmt: skip

    async def _on_evicted(self) -> None:
        """The coordinator gave this process up (it was stopped, or cut off): its zones run elsewhere; join anew, empty."""
        # What was ours is ours no more, even where the assignment still says so: it will, at a higher epoch, if it is meant.
        for number, zone in list(self.ticks.zones.items()):
            self._stale[number] = max(self._stale.get(number, -1), zone.epoch)
            self.ticks.remove(number)
        for number, (epoch, task) in list(self._takeovers.items()):
            self._stale[number] = max(self._stale.get(number, -1), epoch)
            task.cancel()
        self._wake.set()

    def _drain(self) -> None:
        """Leave once the zones are gone. Asked again, by whatever way, it changes nothing."""
        if not self._draining:
            log.info("draining", zones=len(self.ticks.zones))
            self._draining = True
            self._wake.set()

    # --- routes ---------------------------------------------------------------------------------------------------
    async def _hints(self) -> None:
        async for _ in self.ledger.subscribe(ROUTES_CHANNEL):
            self._wake.set()

    def _routes_changed(self, version: int) -> None:
        """The ledger has accepted a heartbeat."""
        if version != self._version:
            self._wake.set()

    def _along(self) -> bool:
        """A commit goes to the ledger: what is nearly due goes along, which spares this process and the ledger's a waking. Is there any?"""
        assert self._membership is not None
        along = self._membership.along()
        if time.monotonic() >= self._view_due_s:
            self._wake.set()
            along = True
        return along

    async def _routes(self) -> None:
        """Follow the assignment: at every hint, every change that a heartbeat shows, and now and then besides (VIEW_POLL_S)."""
        while not self._stop.is_set():
            self._view_due_s = time.monotonic() + VIEW_POLL_S
            try:
                async with asyncio.timeout(VIEW_POLL_S + VIEW_LEEWAY_S):
                    await self._wake.wait()
            except TimeoutError:
                log.debug("routes_polled")
            self._view_due_s = float("inf")
            self._wake.clear()
            try:
                view = await self.ledger.view()
                if view.run_id != self._run_id and self._world is not None:
                    await self.ledger.init_world(self._world)  # a server that came back empty lacks it
                    self._run_id = view.run_id
            except LedgerError as error:
                log.warning("view_failed", why=str(error))
                await asyncio.sleep(self.settings.heartbeat_ms / 1000)
                self._wake.set()
                continue
            self._version = view.version
            self._follow(view)
            self._check_drained(view)

    def _follow(self, view: ClusterView) -> None:
        self._rouse(view)
        self.ticks.turns.among(self.name, (member.name for member in view.members.values() if member.kind == "shard"))
        if not view.opened:
            return  # what this server says of owners may be old: zones that run go on, and commits tell what it forgot
        # What is given to this shard's name is given to another process, as long as the name is held by that.
        named = self._membership is not None and (me := view.members.get(self.name)) is not None and me.number == self._membership.number
        for route in view.zones.values():
            running = self.ticks.zones.get(route.zone)
            mine = route.owner == self.name and route.epoch > self._stale.get(route.zone, -1)
            newer = running is not None and (route.generation, route.epoch) > (running.generation, running.epoch)
            older = running is not None and (route.generation, route.epoch) < (running.generation, running.epoch)
            if older:
                continue  # the ledger went back: the next commit restores the zone
            if running is not None and (not mine or newer) and running.phase is not Phase.FROZEN:
                self.ticks.remove(route.zone)
                running = None
            if mine and running is None and named:
                self._take(route)
            if mine and route.ready and self._is_of_another_build(view, route.successor):
                self.ticks.handovers.ask(route.zone)
            else:
                self.ticks.handovers.withdraw(route.zone)
            if route.successor == self.name and not mine and named:
                self._prefetch(route, follow=not self._is_of_another_build(view, route.owner))
        for number, (_, task) in list(self._followers.items()):
            route = view.zones.get(number)
            if route is None or (route.successor != self.name and route.owner != self.name):
                task.cancel()
                del self._followers[number]
                self.failed.pop(number, None)

        self._follow_borders(view)

    def _follow_borders(self, view: ClusterView) -> None:
        """Have the owners of what is near the zones here, and near those on their way here, tell of it."""
        if self._grid is None or self._membership is None:
            return
        coming = {*self._takeovers, *self._followers} - set(self.ticks.zones)
        shards = [(member.name, member.number, member.address) for member in view.members.values() if member.kind == "shard"]
        seen = (view.version, view.run_id, self._membership.number, shards, coming, list(self.ticks.zones))
        if seen == self._borders_seen:
            return
        self._borders_seen = seen
        self.border_links.number = self._membership.number
        self.border_links.follow(view, self.ticks.borders.expect(self.program, self._grid, coming))

    def _feed_came(self, words: Words) -> None:
        self.ticks.borders.receive(self.program, words)

    def _rouse(self, view: ClusterView) -> None:
        """Wake zones that players of other shards see into, and those that this server of the ledger knows less of than they committed."""
        near = [m.info.get("near") for m in view.members.values() if m.kind == "shard" and m.name != self.name]
        self.ticks.seen_from_elsewhere(zone for told in near if isinstance(told, list) for zone in told if isinstance(zone, int))
        behind = [n for n in self.ticks.sleepers.numbers() if n in self.ticks.zones and self.ticks.zones[n].tick > view.ticks.get(n, 0)]
        self.ticks.wake(behind)

    def _is_of_another_build(self, view: ClusterView, shard: str) -> bool:
        member = view.members.get(shard)
        return member is not None and member.info.get("build") != f"{self.program.build:016x}"

    def _take(self, route: ZoneRoute) -> None:
        going = self._takeovers.get(route.zone)
        if going is not None and going[0] == route.epoch:
            return
        if going is not None:
            going[1].cancel()
        if self.failed.get(route.zone, "").startswith(f"{route.epoch}:") and time.monotonic() < self._retry_at.get(route.zone, 0.0):
            return
        task = asyncio.get_running_loop().create_task(self._take_over(route, time.monotonic()))
        self._takeovers[route.zone] = (route.epoch, task)

    def _gave_up(self, zone: Zone, why: str) -> None:
        """Let a zone that stopped here begin anew: at once, and more and more slowly where that does not help."""
        now_s = time.monotonic()
        over_s, rest_s = self._given_up.get(zone.zone, (0.0, 0.0))
        rest_s = min(max(2 * rest_s, RETRY_S), LONGEST_REST_S) if over_s and now_s - over_s < STEADY_S else 0.0
        self._given_up[zone.zone] = now_s + rest_s, rest_s
        if rest_s:
            self.failed[zone.zone] = f"{zone.epoch}: {why}"
            self._retry_at[zone.zone] = now_s + rest_s
            log.error("zone_rests", zone=zone.zone, epoch=zone.epoch, rest_s=rest_s, why=why)

    async def _take_over(self, route: ZoneRoute, started: float) -> None:
        follower = None
        entry = self._followers.pop(route.zone, None)
        if entry is not None:
            follower, task = entry
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not follower.follows:
                follower = None  # it was a trial: the owner has written a newer checkpoint since
        try:
            zone = None
            if follower is not None:
                try:
                    zone = await take_over(follower, route.generation, route.epoch)
                except (ZoneError, ValueError) as error:  # the log may have begun anew since it was read (a reseed)
                    log.warning("prefetch_useless", zone=route.zone, why=str(error))
            if zone is None:
                follower = self._follower(route.zone)
                zone = await take_over(follower, route.generation, route.epoch)
            assert follower is not None
            self.ticks.add(zone)
            self.failed.pop(route.zone, None)
            self.metrics.recoveries.inc()
            self.metrics.replayed.inc(follower.replayed)
            self.metrics.recovery.observe(time.monotonic() - started)
            log.info("zone_runs", zone=route.zone, epoch=route.epoch, tick=zone.tick, replayed=follower.replayed,
                     took_ms=round(1000 * (time.monotonic() - started), 1))  # fmt: skip
        except LedgerError as error:
            log.warning("takeover_waits", zone=route.zone, why=str(error))
            await asyncio.sleep(0.1)
            self._wake.set()
        except (ZoneError, ValueError) as error:
            self.failed[route.zone] = f"{route.epoch}: {error}"
            self._retry_at[route.zone] = time.monotonic() + RETRY_S
            log.error("zone_cannot_run", zone=route.zone, epoch=route.epoch, why=str(error))
        finally:
            if self._takeovers.get(route.zone, (0, None))[0] == route.epoch:
                del self._takeovers[route.zone]

    def _follower(self, zone: int) -> Follower:
        assert self._grid is not None
        return Follower(self.ledger, self.program, zone, self._grid, self._seed, self.ticks.recovery_executor)

    def _prefetch(self, route: ZoneRoute, *, follow: bool) -> None:
        known = self._followers.get(route.zone)
        if known is not None:
            follower, task = known
            said_s = follower.said_ready_s
            if route.ready or said_s is None or time.monotonic() - said_s < VIEW_POLL_S:
                return
            # It was withdrawn and asked for again between two views: it is said again.
            follower.said_ready_s = None
            if task.done():
                self._followers[route.zone] = follower, self._keeping_up(follower, route.epoch)
            return
        follower = self._follower(route.zone)
        follower.follows = follow
        self._followers[route.zone] = follower, self._keeping_up(follower, route.epoch)

    def _keeping_up(self, follower: Follower, epoch: int) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._keep_up(follower, epoch))

    async def _keep_up(self, follower: Follower, epoch: int) -> None:
        """Follow a zone's log until it is ours or the intent is withdrawn; of another build's zone, see that its checkpoint can be read."""
        while follower.follows or follower.said_ready_s is None:
            try:
                await (follower.catch_up() if follower.follows else follower.load())
                if follower.said_ready_s is None:
                    await self.ledger.successor_ready(follower.number, self.name)
                    follower.said_ready_s = time.monotonic()
            except LedgerError as error:
                log.warning("prefetch_waits", zone=follower.number, why=str(error))
            except (ZoneError, ValueError) as error:
                self.failed[follower.number] = f"{epoch}: {error}"
                log.error("prefetch_failed", zone=follower.number, why=str(error))
                return
            await asyncio.sleep(FOLLOW_EVERY_S)

    def _check_drained(self, view: ClusterView) -> None:
        if self.name in view.draining and not self._draining:
            self._drain()
        if not self._draining:
            return
        others = [m for m in view.members.values() if m.kind == "shard" and m.name != self.name and m.info.get("state") == "ready"
                  and m.name not in view.draining]  # fmt: skip
        owned = any(route.owner == self.name for route in view.zones.values())
        # What still runs here though the ledger gives it to somebody else is ahead of a ledger that went back: it is put back first.
        alone = not others
        if alone and not view.opened:
            # A server that has forgotten may have forgotten the other shards too, until they beat again; zones are put back meanwhile.
            self._closed_since_s = self._closed_since_s or time.monotonic()
            alone = time.monotonic() - self._closed_since_s > LAST_RESEED_S
        else:
            self._closed_since_s = 0.0
        if alone or (view.opened and not owned and not self.ticks.zones):
            self._stop.set()
