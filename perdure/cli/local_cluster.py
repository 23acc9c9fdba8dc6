"""A whole cluster on this machine: embedded Valkey, coordinators, gateways and shards as processes of their own.

Owns the processes that it starts and their folder (sockets, logs, data); ends all of them, by pid, in `stop`. Used by
`perdure up`, by benchmarks and by tests. Shards are forked from one warm process (perdure.cli.shard_nursery).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.cli.children import die_with_parent
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import ClusterView, Member

READY_DEADLINE_S = 180.0
STOP_DEADLINE_S = 8.0
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Launch:
    """How one process is started otherwise than its siblings: words before its command, environment, settings (lower case)."""

    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


class ClusterFault(Exception):
    """The cluster did not come up, or a member is not what it should be. One line, with the log to read."""


@dataclass
class LocalCluster:
    """What to run, and once started, what runs. `settings`: extra settings of every role, by PERDURE_ name without the prefix.

    `launches`: what is started in another way, by its name; `nursery` (all shards but those that are named) and `valkey` too. A shard
    that is named with a prefix or an environment is a process of its own, not a fork. `standby_later`: coordinators beyond the first are
    started once players can come, and not waited for.
    """

    shards: int = 4
    gateways: int = 1
    coordinators: int = 2
    zones: str = "4x4"
    game: str = "games/arena"
    port: int = 0
    world: str = "main"
    seed: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    launches: dict[str, Launch] = field(default_factory=dict)
    valkey_options: tuple[str, ...] = ()
    folder: Path | None = None
    progress: Progress = lambda _: None
    standby_later: bool = False
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    admin_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def __post_init__(self) -> None:
        self._own_folder = self.folder is None
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="perdure-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        # SIGTERM: its data is in order whatever ends us. (Tied to the thread that starts it, which lives as the loop does.)
        valkey = self._launch("valkey")
        self.server = EmbeddedServer(
            self.folder / "data", self.folder / "valkey.sock", preexec=lambda: die_with_parent(signal.SIGTERM), prefix=valkey.prefix,
            environment=valkey.environment, extra=self.valkey_options,
        )  # fmt: skip
        self.pids: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.gateway_urls: dict[str, str] = {}
        self.admin_urls: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._nursery: asyncio.subprocess.Process | None = None
        self._nursery_ready = asyncio.Event()
        self._nursery_fault = ""
        self._changed = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None
        self._ledger: RedisLedger | None = None
        self._made = 0

    # --- what there is --------------------------------------------------------------------------------------------
    @property
    def redis_url(self) -> str:
        return self.server.url

    @property
    def ledger(self) -> RedisLedger:
        """A connection of the cluster's own, once it has started."""
        if self._ledger is None:
            raise ClusterFault("the cluster has not started")
        return self._ledger

    async def look_at(self, server: EmbeddedServer) -> None:
        """Take another server for the ledger: where a replica was promoted. Who points where is the caller's business."""
        if self._ledger is not None:
            await self._ledger.close()
        self._ledger = await RedisLedger.connect(server.url, self.world)

    def log_of(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.log"

    def keep_folder(self) -> None:
        """Leave the folder with its logs where it is when the cluster stops."""
        self._own_folder = False

    def shard_names(self) -> list[str]:
        return sorted(name for name in self.pids if name.startswith("shard-"))

    def environment(self) -> dict[str, str]:
        """The environment of every process: the settings that all roles share."""
        common = {"REDIS_URL": self.redis_url, "WORLD": self.world, "DEVELOPMENT": "1", "SECRET": self.secret}
        common |= {"ADMIN_TOKEN": self.admin_token}
        return {**os.environ, **{f"PERDURE_{name.upper()}": value for name, value in {**common, **self.settings}.items()}}

    # --- starting -------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Start everything and return when every zone runs and every gateway takes players. Raises ClusterFault."""
        started = time.monotonic()
        try:
            self.progress("starting Valkey")
            nursing = asyncio.ensure_future(self._start_nursery())
            is_new = not self.server.has_data()
            await asyncio.get_running_loop().run_in_executor(None, self.server.start)
            coordinators = [f"coordinator-{index + 1}" for index in range(self.coordinators)]
            later = coordinators[1:] if self.standby_later else []
            for name in coordinators[: self.coordinators - len(later)]:
                self.start_coordinator(name, ledger_is_new=is_new)
            for index in range(self.gateways):
                self.start_gateway(f"gateway-{index + 1}", self.port + index if self.port else 0)
            self._ledger = await RedisLedger.connect(self.redis_url, self.world)
            self.progress("loading the game's kernels (the first time they are compiled: a minute or so)")
            await nursing
            for index in range(self.shards):
                await self.start_shard(f"shard-{index + 1}")
            self._made = self.shards
            self.progress("waiting for zones")
            await self.wait_ready(self.shards, self.gateways, READY_DEADLINE_S)
            for name in later:
                self.start_coordinator(name)
            self.progress(f"up after {time.monotonic() - started:.1f} s")
        except BaseException:
            await self.stop()
            raise

    async def _start_nursery(self) -> None:
        launch = self._launch("nursery")
        with open(self.log_of("nursery"), "ab") as log:
            self._nursery = await asyncio.create_subprocess_exec(
                *launch.prefix, sys.executable, "-m", "perdure.cli.shard_nursery", self.game, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, env={**os.environ, **launch.environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )  # fmt: skip
        self._reader = asyncio.get_running_loop().create_task(self._read_nursery(self._nursery))
        await self._nursery_ready.wait()
        if self._nursery_fault:
            raise ClusterFault(self._nursery_fault)

    async def _read_nursery(self, nursery: asyncio.subprocess.Process) -> None:
        assert nursery.stdout is not None
        async for line in nursery.stdout:
            event = json.loads(line)
            async with self._changed:
                if "started" in event:
                    self.pids[event["started"]] = event["pid"]
                    self.ended.pop(event["started"], None)
                elif "ended" in event:
                    self.pids.pop(event["ended"], None)
                    self.ended[event["ended"]] = event["code"]
                elif "fault" in event:
                    self._nursery_fault = event["fault"]
                self._changed.notify_all()
            if "ready" in event or "fault" in event:
                self._nursery_ready.set()
        if not self._nursery_ready.is_set():
            self._nursery_fault = f"the game could not be loaded; see {self.log_of('nursery')}"
            self._nursery_ready.set()

    async def start_shard(self, name: str, **settings: Any) -> int:
        """Start a shard of this name; return its pid."""
        assert self._nursery is not None and self._nursery.stdin is not None and self.folder is not None
        common = {name.lower(): value for name, value in self.settings.items()}
        known = _shard_fields()
        values = {
            "redis_url": self.redis_url, "world": self.world, "development": True, "secret": self.secret, "game": self.game,
            "zones": self.zones, "seed": self.seed, "listen": f"unix:{self.folder / name}.sock",
            **{key: value for key, value in common.items() if key in known}, **self._launch(name).settings, **settings,
        }  # fmt: skip
        self.pids.pop(name, None)
        self.ended.pop(name, None)
        if self._launch(name).prefix or self._launch(name).environment:
            self._spawn("shard", name, {key: str(values[key]) for key in ("game", "zones", "seed", "listen")})
            return self.pids[name]
        order = {"name": name, "settings": values, "log": str(self.log_of(name))}
        self._nursery.stdin.write(json.dumps(order).encode() + b"\n")
        await self._nursery.stdin.drain()
        async with self._changed:
            await self._changed.wait_for(lambda: name in self.pids or name in self.ended)
        return self.pids.get(name, 0)

    def start_shard_of(self, name: str, game: str) -> None:
        """Start a shard with another build of the game, in a process that loads it itself; see the view for when it is ready."""
        settings = {"game": game, "zones": self.zones, "seed": str(self.seed), "listen": f"unix:{self.folder}/{name}.sock"}
        self._spawn("shard", name, settings)

    async def add_shard(self) -> str:
        """Start one more shard; return its name."""
        self._made += 1
        name = f"shard-{self._made}"
        await self.start_shard(name)
        return name

    def start_gateway(self, name: str, port: int = 0) -> None:
        """Start a gateway; its URL is known when it is ready (`wait_ready`)."""
        self._spawn("gateway", name, {"port": str(port), "token_endpoint": "1"})

    def start_coordinator(self, name: str, ledger_is_new: bool = False) -> None:
        """Start a coordinator; it leads, or stands by."""
        self._spawn("coordinator", name, {"expected_shards": str(self.shards), "ledger_is_new": str(int(ledger_is_new))})

    def _spawn(self, role: str, name: str, settings: dict[str, str]) -> None:
        launch = self._launch(name)
        own = {f"PERDURE_{key.upper()}": value for key, value in {**settings, **launch.settings}.items()}
        environment = self.environment() | own | {"PERDURE_NAME": name} | launch.environment
        with open(self.log_of(name), "ab") as log:
            process = subprocess.Popen(
                [*launch.prefix, sys.executable, "-m", "perdure", role], env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self._processes[name], self.pids[name] = process, process.pid

    def _launch(self, name: str) -> Launch:
        return self.launches.get(name, Launch())

    async def wait_ready(self, shards: int, gateways: int, deadline_s: float = 30.0) -> ClusterView:
        """Wait until so many shards and gateways are ready, coordinators too, and every zone is run by one of them, at work."""
        world = None
        deadline = time.monotonic() + deadline_s
        ticks: dict[int, int] = {}
        while True:
            self._raise_if_ended()
            world = world or await self.ledger.world()
            view = await self.ledger.view()
            # By pid: after a crash the ledger still lists the processes of the run before, for a while.
            ready = {
                m.name: m for m in view.members.values() if m.info.get("state") == "ready" and m.info.get("pid") == self.pids.get(m.name)
            }
            of_kind = [sum(m.kind == kind for m in ready.values()) for kind in ("shard", "gateway")]
            self.gateway_urls = {m.name: str(m.info.get("url", "")) for m in ready.values() if m.kind == "gateway"}
            self.admin_urls = {m.name: str(m.info.get("admin", "")) for m in view.members.values() if m.kind == "coordinator"}
            zones = world.columns * world.rows if world else -1
            if not ticks and len(view.ticks) == zones:
                ticks = dict(view.ticks)  # of an earlier run, perhaps: only what comes on top is a sign of life
            # A zone with nobody in it may not tick for long: then its owner says that it has it.
            running = [
                z for z, route in view.zones.items()
                if route.owner in ready and (view.ticks[z] > ticks.get(z, view.ticks[z]) or _has(ready[route.owner], z))
            ]  # fmt: skip
            steered = all(name in ready for name in self.pids if name.startswith("coordinator-"))
            if of_kind[0] >= shards and of_kind[1] >= gateways and steered and len(running) == zones:
                return view
            if time.monotonic() > deadline:
                found = f"{of_kind[0]} of {shards} shards and {of_kind[1]} of {gateways} gateways are ready"
                raise ClusterFault(f"after {deadline_s:.0f} s: {found}, {len(running)} of {zones} zones run; logs are in {self.folder}")
            await asyncio.sleep(0.02)

    def _raise_if_ended(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ClusterFault(f"{name} ended at once ({_last_line(self.log_of(name))}); log: {self.log_of(name)}")
        for name, code in self.ended.items():
            if code > 0:
                raise ClusterFault(f"{name} ended at once ({_last_line(self.log_of(name))}); log: {self.log_of(name)}")

    # --- faults and endings -----------------------------------------------------------------------------------------
    def send_signal(self, name: str, number: int) -> None:
        """Send a signal to a member's process."""
        if name not in self.pids:
            raise ClusterFault(f"no process is called {name}; there are {', '.join(sorted(self.pids))}")
        os.kill(self.pids[name], number)

    async def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal a member and wait until its process has ended."""
        self.send_signal(name, number)
        await self.ended_of(name)

    async def ended_of(self, name: str, deadline_s: float = 30.0) -> int:
        """Wait until a member's process has ended; return its exit code."""
        process = self._processes.get(name)
        if process is not None:
            code = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, process.wait), deadline_s)
            self.pids.pop(name, None)
            del self._processes[name]
            return code
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: name in self.ended), deadline_s)
        return self.ended[name]

    async def stop(self) -> None:
        """End every process, shards last but for the ledger, and remove the folder if it is ours."""
        if self._ledger is not None:
            await self._ledger.close()
            self._ledger = None
        # Shards and gateways are told at once; coordinators after them, so that nobody reads their leaving as a loss.
        for name, pid in list(self.pids.items()):
            if not name.startswith("coordinator"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGTERM)
        told = [name for name in self._processes if not name.startswith("coordinator")]
        await self._gone([self._processes[name] for name in told])
        for name in told:
            self.pids.pop(name, None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_DEADLINE_S), self._changed:
                await self._changed.wait_for(lambda: not self.shard_names())
        rest = [process for name, process in self._processes.items() if name not in told]
        for process in rest:
            process.terminate()
        await self._gone(rest)
        self._processes.clear()
        if self._nursery is not None:
            if self._nursery.returncode is None:
                self._nursery.terminate()  # what is left of its shards dies with it
            await self._nursery.wait()
        if self._reader is not None:
            await self._reader
        await asyncio.get_running_loop().run_in_executor(None, self.server.stop)
        if self._own_folder and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _gone(self, processes: list[subprocess.Popen[bytes]]) -> None:
        loop = asyncio.get_running_loop()
        for process in processes:
            try:
                await asyncio.wait_for(loop.run_in_executor(None, process.wait), STOP_DEADLINE_S)
            except TimeoutError:
                process.kill()
                await loop.run_in_executor(None, process.wait)

    async def __aenter__(self) -> LocalCluster:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _shard_fields() -> set[str]:
    from shard.settings import ShardSettings

    return set(ShardSettings.model_fields)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1][-300:] if lines else "it said nothing"


def _has(shard: Member, zone: int) -> bool:
    """Does a shard say that it runs this zone?"""
    runs = shard.info.get("load")
    return isinstance(runs, dict) and str(zone) in runs
