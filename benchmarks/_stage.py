"""One row of the chaos matrix on its stage: a cluster of its own, bots in it, a fault, and everything counted afterwards.

Owns how a row is set up, what a row may ask for and do (`Stage`), what it found (`Outcome`), and that nothing of it is left. Knows no
particular fault. Called by chaos.py; rows (_chaos_rows_*.py) get a Stage.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis.asyncio

from benchmarks._audit import audit
from benchmarks._crowd import Crowd
from benchmarks._disk import SmallDisk
from benchmarks._log_watch import LogWatch
from benchmarks._network import Network
from benchmarks._playing import APART_S, GAME, ZEROES, Playing, longest_gap, percentiles, socket_ends, stop_shards
from benchmarks._proxy import Proxy
from benchmarks._shim import Shim
from perdure.cli.local_cluster import Launch, LocalCluster
from perdure.client.bots import BotsReport
from perdure.game.loading import load_game
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import LedgerError
from perdure.ledger.values import ClusterView, ZoneRoute
from shard.audit import audit as audit_world
from shard.program import Program, compile_program

SILENT_S = 2.0
"""Whoever got no snapshot in so long a time before the end does not play any more."""
_programs: dict[str, Program] = {}


class Unexpected(Exception):
    """Something is not as the row expects it: what was expected, and what was seen."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")


class Skipped(Exception):
    """This row cannot be done on this machine: one line that says why."""


@dataclass(frozen=True)
class Setup:
    """What a row's cluster looks like; `bots`: 0 is what the run says.

    `proxied`: members whose way to the ledger leads through a proxy each. `shimmed`: processes that run under the shim of clocks and
    fsync. `apart`: members with a network namespace of their own. `measured`: members whose metrics the row reads. `small_disk`: the
    ledger's is one that can be filled. `may_drop`: sockets may break, and with one an answer that held the next resume token, so that
    a resume may be refused. `allowed`: counts that need not be zero, since the row itself says what they must be. `audited`: the auditor
    must find nothing.
    """

    bots: int = 0
    shards: int = 4
    gateways: int = 2
    zones: str = "4x4"
    game: str = GAME
    settings: dict[str, str] = field(default_factory=dict)
    proxied: tuple[str, ...] = ()
    shimmed: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    small_disk: bool = False
    valkey_options: tuple[str, ...] = ()
    may_drop: bool = False
    allowed: frozenset[str] = frozenset()
    audited: bool = True
    bar_p50_ms: float = 0.0
    bar_p99_ms: float = 0.0


STILL = {"rebalance": "off"}
"""Settings of a row in which no shard dies and no zone may move: then none moves for the balance's sake either."""


@dataclass
class Outcome:
    """What one run of a row gave. `fault` is empty where all was as expected."""

    row: str
    runs: int = 0
    passed_runs: int = 0
    fault: str = ""
    skipped: str = ""
    took_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    """Where the time went: start of the cluster, bots entering, the fault and all waiting around it, counting, the end."""
    blackouts_s: list[float] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    audit_faults: list[str] = field(default_factory=list)
    logs: str = ""

    def blackout_ms(self) -> dict[str, float]:
        """Return p50, p99 and max of the blackouts; nothing where nobody was affected."""
        return percentiles(self.blackouts_s, "players affected") if self.blackouts_s else {}

    def as_json(self) -> dict[str, Any]:
        blackout = {f"blackout_ms_{k}": v for k, v in self.blackout_ms().items()}
        said = {"fault": self.fault, "skipped": self.skipped, "logs": self.logs}
        return {
            "row": self.row, "passed": not self.fault and not self.skipped, **{k: v for k, v in said.items() if v},
            "runs": self.runs, "passed_runs": self.passed_runs, "took_s": round(self.took_s, 1), "phases_s": self.phases_s, **blackout,
            "clients_affected": len(self.blackouts_s), **self.figures, "audit_says": self.audit_faults[:10],
        }  # fmt: skip


@dataclass
class Stage(Playing):
    """What a row has and does: the cluster, its bots, chance, and the faults' tools."""

    setup: Setup = field(default_factory=Setup)
    choose: random.Random = field(default_factory=random.Random)
    folder: Path = field(default_factory=Path)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    shims: dict[str, Shim] = field(default_factory=dict)
    network: Network | None = None
    health_ports: dict[str, int] = field(default_factory=dict)
    disk: SmallDisk | None = None
    crowd: Crowd | None = None
    say: Callable[[str], None] = lambda _: None
    figures: dict[str, Any] = field(default_factory=dict)
    unmoved: set[str] = field(default_factory=set)
    """Players whose sockets must stay, where those of others may break."""
    game: str = ""
    """The build of the game that the zones run in the end, where a row has brought another one."""
    replica: EmbeddedServer | None = None
    """A second server of the ledger, once a row has started one; ended with the row."""
    afterwards: list[Callable[[BotsReport], None]] = field(default_factory=list)
    """What is to be checked once the bots have said what they saw; raises Unexpected."""
    _windows: list[tuple[float, float, set[str]]] = field(default_factory=list)
    _pages: dict[Path, int] = field(default_factory=dict)

    # --- looking ----------------------------------------------------------------------------------------------------
    def expect(self, holds: bool, expected: str, seen: object) -> None:
        if not holds:
            raise Unexpected(expected, str(seen))

    async def view(self) -> ClusterView:
        return await self.cluster.ledger.view()

    async def until(self, what: str, condition: Callable[[ClusterView], bool], deadline_s: float = 40.0) -> ClusterView:
        """Wait until the cluster's view meets a condition; a ledger that is away is part of the wait."""
        deadline = time.monotonic() + deadline_s
        self.say(f"waiting until {what}")
        while True:
            try:
                view = await self.view()
                if condition(view):
                    return view
                seen = "; ".join(f"{r.zone}:{r.owner or '-'}@{r.epoch}.{view.ticks.get(r.zone, 0)}" for r in view.zones.values())
            except LedgerError as error:
                seen = str(error)
            if time.monotonic() > deadline:
                raise Unexpected(f"within {deadline_s:g} s: {what}", seen)
            await asyncio.sleep(0.02)

    async def until_so(self, what: str, condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
        """Wait for something that is not in the view."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                raise Unexpected(f"within {deadline_s:g} s: {what}", "it did not come")
            await asyncio.sleep(0.02)

    async def pause(self) -> None:
        """Between two looks at something that another process does."""
        await asyncio.sleep(0.02)

    async def plays_on(self, ticks: int = 10, deadline_s: float = 40.0, but: Container[int] = ()) -> None:
        """Wait until every zone (but these) has committed so many more ticks."""
        now = (await self.until("the ledger answers", lambda _: True, deadline_s)).ticks
        before = {z: t for z, t in now.items() if z not in but}
        await self.until("every zone ticks on", lambda v: all(v.ticks[z] >= t + ticks for z, t in before.items()), deadline_s)

    async def off(self, *gone: str) -> ClusterView:
        """Wait until every zone runs, none of them at these shards."""
        return await self.until(
            f"every zone runs, none at {', '.join(gone)}", lambda v: all(r.owner and r.owner not in gone for r in v.zones.values())
        )

    async def back(self, name: str, old: int) -> ClusterView:
        """Wait until a shard has joined anew (it was incarnation `old`), has zones, and none is moving."""

        def is_back(view: ClusterView) -> bool:
            member = view.members.get(name)
            ready = member is not None and member.number != old and member.info.get("state") == "ready"
            return ready and any(r.owner == name for r in view.zones.values()) and not any(r.successor for r in view.zones.values())

        return await self.until(f"{name} is back and has zones", is_back)

    async def settled(self) -> ClusterView:
        """Wait until every zone is run by somebody who lives, and none is moving."""

        def still(view: ClusterView, route: ZoneRoute) -> bool:
            return route.owner in self.cluster.pids and route.owner in view.members and not route.successor

        return await self.until("no zone is moving", lambda v: all(still(v, r) for r in v.zones.values()))

    async def everybody_in(self, deadline_s: float = 40.0) -> None:
        """Wait until every bot's session is at a gateway that lives."""
        deadline = time.monotonic() + deadline_s
        while True:
            gateways = {m.number for m in (await self.view()).members.values() if m.kind == "gateway" and m.name in self.cluster.pids}
            there = {p.name for p in await self.cluster.ledger.online() if p.gateway in gateways}
            missing = set(self.names) - there
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Unexpected(f"within {deadline_s:g} s every client is back", f"{len(missing)} of {len(self.names)} are not")
            await asyncio.sleep(0.05)

    def turn_page(self) -> None:
        """From now on the logs are what comes from now on: a run of a row on a stage that has seen others."""
        self._pages = {path: path.stat().st_size for path in self.folder.glob("*.log")}

    def log(self, name: str) -> str:
        """Return what a process has said in this run."""
        return self._read(self.cluster.log_of(name))

    def logs(self, prefix: str = "shard") -> str:
        return "".join(map(self._read, sorted(self.folder.glob(f"{prefix}*.log"))))

    def _read(self, path: Path) -> str:
        return path.read_bytes()[self._pages.get(path, 0) :].decode(errors="replace") if path.exists() else ""

    async def victim(self) -> tuple[str, set[str], int]:
        """Choose a shard that runs zones; return its name, the players there, and its incarnation."""
        view, owner_of = await self.owners()
        name = self.choose.choice(sorted({r.owner for r in view.zones.values()} & set(self.cluster.pids)))
        return name, {player for player, owner in owner_of.items() if owner == name}, view.members[name].number

    async def metrics(self, name: str) -> dict[str, float]:
        """Return what a measured member counts, by the names of its samples."""
        where = self.network.prefix(name) if self.network is not None else ()  # its port is of its namespace's loopback
        reading = await asyncio.create_subprocess_exec(
            *where, sys.executable, "-c", _READ_METRICS, str(self.health_ports[name]), stdout=subprocess.PIPE
        )  # fmt: skip
        said, _ = await reading.communicate()
        self.expect(reading.returncode == 0, f"{name} tells its metrics", f"it cannot be read ({reading.returncode})")
        samples = (line.rsplit(" ", 1) for line in said.decode().splitlines() if not line.startswith("#"))
        return {sample: float(value) for sample, value in samples}

    # --- measuring --------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def blackout(
        self, names: Iterable[str] | None = None, deadline_s: float = 40.0, but: Container[int] = ()
    ) -> AsyncIterator[None]:  # fmt: skip
        """The fault happens inside; afterwards every zone (but these) must tick on. Counts the longest gap of each of these (or all).

        What comes next comes a moment after the window, so that a gap under way at its end is of this fault.
        """
        start = time.monotonic()
        yield
        await self.plays_on(deadline_s=deadline_s, but=but)
        await asyncio.sleep(0.3)  # what has been committed is on its way
        self._windows.append((start, time.monotonic(), set(self.names if names is None else names)))
        await asyncio.sleep(APART_S)

    def blackouts(self) -> list[float]:
        assert self.report is not None
        reports = {bot.name: bot for bot in self.report.bots}
        return [longest_gap(reports[n], start, end) for start, end, names in self._windows for n in sorted(names) if n in reports]

    # --- faults -----------------------------------------------------------------------------------------------------
    def raw(self) -> redis.asyncio.Redis:
        """A connection of the operator's own to the ledger's server, past everything."""
        return redis.asyncio.Redis(unix_socket_path=str(self.cluster.server.socket_path))

    async def look_at(self, server: EmbeddedServer) -> None:
        """From now on this server is the ledger, for who looks and counts too."""
        await self.cluster.look_at(server)
        self.watch.follow(self.cluster.ledger)

    async def restart_ledger(self) -> None:
        await asyncio.to_thread(self.cluster.server.kill)
        await asyncio.to_thread(self.cluster.server.start)

    def start_gateway(self, name: str) -> None:
        """Start a gateway again, at the port that it had."""
        self.cluster.start_gateway(name, self.cluster.port + int(name.rpartition("-")[2]) - 1)

    async def heal(self) -> None:
        """Start whoever is missing, and wait until all are at work."""
        cluster = self.cluster
        for k in range(cluster.coordinators):
            if f"coordinator-{k + 1}" not in cluster.pids:
                cluster.start_coordinator(f"coordinator-{k + 1}")
        for k in range(cluster.gateways):
            if f"gateway-{k + 1}" not in cluster.pids:
                self.start_gateway(f"gateway-{k + 1}")
        for k in range(cluster.shards):
            if f"shard-{k + 1}" not in cluster.pids:
                await cluster.start_shard(f"shard-{k + 1}")
        await cluster.wait_ready(cluster.shards, cluster.gateways, 40.0)


_READ_METRICS = """
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5).read())
"""

RowBody = Callable[[Stage], Awaitable[None]]


class Staging:
    """A stage that is to be: `begin` has it set up in the background, `stage` waits for it, `close` leaves nothing of it but logs."""

    def __init__(self, name: str, setup: Setup, *, bots: int, seed: int, say: Callable[[str], None]) -> None:
        self.setup, self.bots, self.say = setup, setup.bots or bots, say
        self._choose = random.Random(f"{seed}:{name}")
        self.folder = Path()
        self._context: AbstractAsyncContextManager[Stage] | None = None
        self._task: asyncio.Task[Stage] | None = None

    def begin(self) -> None:
        if self._task is None:
            self.folder = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
            self._context = _staged(self.setup, self.folder, self.bots, self._choose, lambda what: self.say(what))
            self._task = asyncio.get_running_loop().create_task(self._context.__aenter__())  # type: ignore[arg-type]

    async def stage(self) -> Stage:
        self.begin()
        assert self._task is not None
        return await self._task

    async def close(self, *, keep_logs: bool = False) -> None:
        """End all of it, whether it was ready or not."""
        if self._task is None or self._context is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and self._task.exception() is None:
            await self._context.__aexit__(None, None, None)
        if not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)


async def perform(
    name: str, body: RowBody, staging: Staging, *, deadline_s: float, repeats: int = 1, counting: Callable[[], None] = lambda: None
) -> Outcome:
    """Run one row on a stage, `repeats` times. Never raises for what it finds; leaves nothing but a failed row's logs.

    `counting` is called once the bots and shards have ended, and what is left to do is to count.
    """
    outcome, started = Outcome(name), time.monotonic()
    try:
        async with asyncio.timeout(deadline_s):
            await _perform(outcome, body, staging, repeats, counting)
    except Skipped as why:
        outcome.skipped = str(why)
    except TimeoutError:
        outcome.fault = outcome.fault or f"expected the row to be over within {deadline_s:g} s; it was not"
    except Exception as error:  # noqa: BLE001 - one row that fails does not end the run
        outcome.fault = outcome.fault or f"{type(error).__name__}: {error}"
    finally:
        await staging.close(keep_logs=bool(outcome.fault))
        outcome.took_s = time.monotonic() - started
        outcome.phases_s["end"] = round(outcome.took_s - sum(outcome.phases_s.values()), 2)
        outcome.runs = 0 if outcome.skipped else max(1, outcome.runs)
        outcome.logs = str(staging.folder) if outcome.fault else ""
    return outcome


async def _perform(outcome: Outcome, body: RowBody, staging: Staging, repeats: int, counting: Callable[[], None]) -> None:
    begun, setup, say = time.monotonic(), staging.setup, staging.say

    def over(phase: str) -> None:
        outcome.phases_s[phase] = round(time.monotonic() - begun - sum(outcome.phases_s.values()), 2)

    stage = await staging.stage()
    over("start")
    crowd = stage.crowd
    assert crowd is not None
    stage.watch.start()
    say(f"{staging.bots} bots enter")
    await crowd.start()
    await stage.plays_on()
    over("enter")
    try:
        for number in range(repeats):
            outcome.runs = number + 1
            stage.turn_page()
            await body(stage)
            await stage.plays_on()
    except Skipped:
        raise
    except Exception as error:  # noqa: BLE001 - what was lost is counted all the same
        outcome.fault = str(error) if isinstance(error, Unexpected) else f"{type(error).__name__}: {error}"
    over("fault")
    say("counting: bots, logs, players, gold")
    stage.report = await crowd.stop()
    await stop_shards(stage.cluster)
    counting()
    await stage.watch.stop()
    program = program_of(stage.game or setup.game)
    stage.audit = await audit(stage.cluster.ledger, program, stage.names)
    if setup.audited:
        stage.world = await audit_world(stage.cluster.ledger, program)
        outcome.audit_faults = stage.world.faults
    outcome.blackouts_s = stage.blackouts()
    silent = [bot.name for bot in stage.report.bots if not bot.gaps or bot.gaps[-1][0] < crowd.stopped_s - SILENT_S]
    outcome.figures = {**stage.figures, "bots_silent": len(silent), **stage.verdict()}
    for check in stage.afterwards if not outcome.fault else ():
        try:
            check(stage.report)
        except Unexpected as error:
            outcome.fault = str(error)
    outcome.figures |= stage.figures
    good = outcome.runs - bool(outcome.fault)  # those before the one that failed, if what is counted in the end holds for all
    counted = _verdict(stage, outcome)
    outcome.passed_runs = 0 if counted else good
    outcome.fault = outcome.fault or counted
    over("count")


def _verdict(stage: Stage, outcome: Outcome) -> str:
    """Return what is wrong with the counts, or nothing."""
    assert stage.report is not None and stage.audit is not None
    setup, figures = stage.setup, outcome.figures
    free = setup.allowed | ({"sockets_dropped", "resumes_refused"} if setup.may_drop else set())
    wrong = [f"{name} {figures[name]}" for name in (*ZEROES, "bots_silent") if figures[name] and name not in free]
    if figures["bots_entered"] != figures["bots"] and "bots_entered" not in free:
        wrong.append(f"only {figures['bots_entered']} of {figures['bots']} bots came in")
    broken = [bot.name for bot in stage.report.bots if bot.socket_drops and bot.name in stage.unmoved]
    wrong += [f"sockets broke that should not: {', '.join(broken[:5])}"] if broken else []
    if wrong:
        detail = stage.faults()
        detail += socket_ends(stage.report)[:3] if "sockets_dropped" not in free else []
        return f"expected all counts 0; seen: {', '.join(wrong)} ({'; '.join(detail[:4])})"
    blackout = outcome.blackout_ms()
    for bar, at in ((setup.bar_p50_ms, "p50"), (setup.bar_p99_ms, "p99")):
        if bar and not blackout:
            return f"expected a blackout of {bar:g} ms at most ({at}); seen: nobody was affected"
        if bar and blackout[at] > bar:
            return f"expected a blackout of {bar:g} ms at most ({at}); seen: {blackout[at]:g} ms"
    return ""


def program_of(game: str) -> Program:
    if game not in _programs:
        _programs[game] = compile_program(load_game(game))
    return _programs[game]


@asynccontextmanager
async def _staged(
    setup: Setup, folder: Path, bots: int, choose: random.Random, say: Callable[[str], None]
) -> AsyncIterator[Stage]:  # fmt: skip
    """Start proxies, network, shims and the cluster; on leaving, end them all."""
    proxies = {name: Proxy(folder / f"{name}.proxy", folder / "valkey.sock") for name in setup.proxied}
    shims = {name: Shim(folder / f"{name}.shim") for name in setup.shimmed}
    network = Network() if setup.apart else None
    launches: dict[str, Launch] = {name: Launch(settings={"redis_url": proxy.url}) for name, proxy in proxies.items()}
    disk = SmallDisk(folder / "data") if setup.small_disk else None
    launches |= {"valkey": Launch(prefix=disk.prefix)} if disk is not None else {}
    launches |= {name: Launch(environment=shim.environment) for name, shim in shims.items()}
    health_ports = dict(zip(setup.measured, itertools.count(free_ports(len(setup.measured))), strict=False)) if setup.measured else {}
    settings, options = dict(setup.settings), setup.valkey_options
    if network is not None:
        network.open(setup.apart)
        names = ["valkey", "nursery", *(f"coordinator-{k + 1}" for k in range(2)), *(f"gateway-{k + 1}" for k in range(setup.gateways))]
        launches |= {name: Launch(prefix=network.prefix(name)) for name in {*names, *setup.apart}}
        settings |= {"redis_url": network.redis_url, "host": "0.0.0.0", "advertise": "auto", "listen": "tcp:0.0.0.0:0"}
        options = (*options, *network.valkey_options)
    for name, port in health_ports.items():
        launch = launches.get(name, Launch())
        launches[name] = replace(launch, settings=launch.settings | {"health_port": str(port)})
    cluster = LocalCluster(
        shards=setup.shards, gateways=setup.gateways, zones=setup.zones, game=setup.game, settings={"migration_rest_ms": "1000"} | settings,
        folder=folder, launches=launches, valkey_options=options, port=free_ports(setup.gateways), progress=say,
    )  # fmt: skip
    crowd: Crowd | None = None
    extra_servers: list[EmbeddedServer] = []
    try:
        for proxy in proxies.values():
            await proxy.start()
        await cluster.start()
        columns, _, rows = setup.zones.partition("x")
        urls = [url for _, url in sorted(cluster.gateway_urls.items())]
        launch = network.prefix("bots") if network is not None else ()
        crowd = Crowd(folder, urls, cluster.secret, bots, seed=choose.randrange(1 << 20), launch=launch)
        stage = Stage(
            cluster, LogWatch(cluster.ledger, int(columns) * int(rows)), names=crowd.names, setup=setup, choose=choose, folder=folder,
            proxies=proxies, shims=shims, network=network, health_ports=health_ports, disk=disk, crowd=crowd, say=say,
        )  # fmt: skip
        try:
            yield stage
        finally:
            extra_servers += [stage.replica] if stage.replica is not None else []
    finally:
        if crowd is not None:
            await crowd.kill()
        cluster.server.resume()
        for name, pid in list(cluster.pids.items()):
            if name.startswith("shard"):  # nothing that they would still write is wanted
                cluster.send_signal(name, signal.SIGKILL) if pid else None
        await cluster.stop()
        for replica in extra_servers:
            await asyncio.to_thread(replica.stop)
        for proxy in proxies.values():
            await proxy.stop()
        if network is not None:
            network.close()
        if disk is not None:
            disk.close()


def free_ports(count: int) -> int:
    """Return the first of so many free ports in a row."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except (OSError, OverflowError):
            continue
    raise Skipped("no free ports in a row")
