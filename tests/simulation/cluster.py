"""The cluster of a simulated run: the production classes of every role, each in a process of its own, over the simulated network."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

import coordinator.service
import gateway.service
import shard.service
import shard.tick_loop
from coordinator.settings import CoordinatorSettings
from gateway.settings import GatewaySettings
from perdure.game.jit import cache_root
from perdure.game.loading import load_game
from perdure.ledger.ledger import LedgerError
from perdure.wire.identifiers import WorldGrid
from shard.program import Program, compile_program
from shard.settings import ShardSettings
from shard.warmup import warm
from tests.simulation.checks import Checks
from tests.simulation.clock import Machines, Patch, Process, patched
from tests.simulation.ledger_server import LedgerServer, remote_ledger
from tests.simulation.network import Network

GAME = Path(__file__).resolve().parents[1] / "data" / "bazaar.py"
SECRET = "the secret of a simulated cluster, long enough"
S = TypeVar("S", ShardSettings, GatewaySettings, CoordinatorSettings)
COLUMNS, ROWS = 2, 2
SHARD_PORT, GATEWAY_PORT = 7701, 8080
ROOMY, TIGHT = 48, 3
"""How many traders find room in a zone: all of them, or, in some runs, half of the crowd."""


@functools.cache
def program(capacity: int = ROOMY) -> Program:
    """Return the game's program, compiled, for so many traders a zone."""
    return _compiled(GAME) if capacity == ROOMY else _compiled(_written(f"{capacity}", _with_capacity(capacity)))


@functools.cache
def next_program(capacity: int = ROOMY) -> Program:
    """Return the program of the game's next build: traders walk slower, what is stored and shown is the same."""
    text = _with_capacity(capacity)
    assert "SPEED = 25.0" in text
    made = _compiled(_written("" if capacity == ROOMY else f"{capacity}-next", text.replace("SPEED = 25.0", "SPEED = 20.0")))
    assert made.build != program(capacity).build
    return made


def _with_capacity(capacity: int) -> str:
    text = GAME.read_text()
    assert f"capacity={ROOMY}, avatar=True" in text
    return text.replace(f"capacity={ROOMY}, avatar=True", f"capacity={capacity}, ghosts={ROOMY}, avatar=True")


def _written(folder: str, text: str) -> Path:
    file = cache_root() / "simulation" / folder / GAME.name
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(f".{os.getpid()}")
    written.write_text(text)
    os.replace(written, file)
    return file


def _compiled(file: Path) -> Program:
    made = compile_program(load_game(file))
    warm(made)
    return made


class _NoAdminServer:
    """Stands for the admin API's HTTP server, which has sockets of the real kind."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        self.host, self.port = host, 7710
        self._stopped: Any = None

    async def run(self) -> None:
        self._stopped = asyncio.Event()
        await self._stopped.wait()

    def stop(self) -> None:
        if self._stopped is not None:
            self._stopped.set()

    def __enter__(self) -> _NoAdminServer:
        return self

    def __exit__(self, *_: object) -> None:
        return


class _NoCollector:
    """Stands for the module gc in modules that set the collector of their own process."""

    def collect(self, generation: int = 2) -> int:
        return 0

    def freeze(self) -> None:
        return

    def disable(self) -> None:
        return


class _ToldGateway(gateway.service.GatewayService):
    """A gateway's service that its process knows."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        process: Process = asyncio.get_running_loop().process  # type: ignore[attr-defined]
        process.service = self


@contextmanager
def production_in_one_process() -> Iterator[None]:
    """What production code takes for granted and one process cannot give to many."""
    places: list[Patch] = [
        (coordinator.service, "AdminServer", _NoAdminServer),
        (shard.service, "gc", _NoCollector()), (shard.tick_loop, "gc", _NoCollector()), (gateway.service, "gc", _NoCollector()),
        (gateway.service, "GatewayService", _ToldGateway),
        (shard.service, "warm", lambda program: 0.0),
        (shard.tick_loop, "cost_clock", lambda: 0.0),
    ]  # fmt: skip
    with patched(places):
        yield


def _settings(kind: type[S], **given: Any) -> S:
    return kind(**given)


class Cluster:
    """Starts, ends and finds the processes of the cluster; all of them know one ledger server."""

    def __init__(
        self, machines: Machines, seed: int, shards: int = 3, gateways: int = 2, coordinators: int = 2, capacity: int = ROOMY
    ) -> None:
        self.machines, self.seed, self.capacity = machines, seed, capacity
        self.program, self.next_program = program(capacity), next_program(capacity)
        self.network = Network(machines)
        self.server = LedgerServer(self.network)
        self.grid = WorldGrid(*self.program.game.world_size, COLUMNS, ROWS)
        self.checks = Checks(self.server, self.program, self.grid, seed, self.next_program)
        self.hosts: dict[str, str] = {}
        self.shards: dict[str, shard.service.ShardService] = {}
        self.programs: dict[str, Program] = {}
        """What shards of these names are started with, where that is not the first build."""
        self.expected_shards = shards
        for k in range(coordinators):
            self.start_coordinator(f"coordinator-{k + 1}")
        for k in range(gateways):
            self.start_gateway(f"gateway-{k + 1}")
        for k in range(shards):
            self.start_shard(f"shard-{k + 1}")

    def host_of(self, name: str) -> str:
        if name not in self.hosts:
            self.hosts[name] = f"10.0.{len(self.hosts) // 200}.{len(self.hosts) % 200 + 1}"
        return self.hosts[name]

    def alive(self, kind: str) -> list[str]:
        return sorted(name for name in self.machines.processes if name.startswith(kind + "-"))

    def shards_alive(self) -> dict[str, shard.service.ShardService]:
        """Return the services of the shard processes that live."""
        return {name: self.shards[name] for name in self.alive("shard") if name in self.shards}

    def zones_run(self) -> bool:
        """Is every zone run by a living process, the one that the ledger names?"""
        for number, zone in self.server.store.data.zones.items():
            process, service = self.machines.processes.get(zone.owner or ""), self.shards.get(zone.owner or "")
            if process is None or process.stopped or service is None or number not in service.ticks.zones:
                return False
        return True

    def urls(self) -> list[str]:
        return [f"ws://{self.host_of(name)}:{GATEWAY_PORT}/ws" for name in sorted(self.hosts) if name.startswith("gateway-")]

    def _spawn(self, name: str, main: Any) -> Process:
        process = self.machines.spawn(name, self.host_of(name), main)
        process.loop.network = self.network
        return process

    def start_shard(self, name: str) -> None:
        """Start a shard process of this name (a living one of the name must not be there)."""
        host = self.host_of(name)
        settings = _settings(
            ShardSettings,
            name=name, game=str(GAME), zones=f"{COLUMNS}x{ROWS}", seed=self.seed, listen=f"tcp:{host}:{SHARD_PORT}", development=True,
            secret=SECRET, threads=1, checkpoint_s=2.0,
        )  # fmt: skip

        async def main() -> int:
            made = self.programs.get(name, self.program)
            service = self.shards[name] = shard.service.ShardService(settings, made, remote_ledger(self.server, process))
            try:
                return await service.serve()
            except LedgerError:
                if service.state == "ready":
                    raise
                return 2  # it could not join, said so and ended

        process = self._spawn(name, main)
        process.at_end.append(lambda: self._look_after(process))

    def build_of(self, name: str) -> int:
        """Return the build that a shard of this name is started with."""
        return self.programs.get(name, self.program).build

    def _look_after(self, process: Process) -> None:
        """What a supervisor does: start again what ended by itself with an error."""
        task = process.main
        if process.ended_by_itself and task is not None and not task.cancelled() and task.exception() is None and task.result():
            self.machines.later(1.0, self.start_if_gone, process.name)

    def start_if_gone(self, name: str) -> None:
        if name not in self.machines.processes:
            self.start(name)

    def start_gateway(self, name: str) -> None:
        host = self.host_of(name)
        settings = _settings(GatewaySettings, name=name, host=host, port=GATEWAY_PORT, development=True, secret=SECRET,
                             compiled_sockets=False)  # fmt: skip

        async def main() -> int:
            return await gateway.service.serve_gateway(settings, remote_ledger(self.server, process))

        process = self._spawn(name, main)

    def start_coordinator(self, name: str) -> None:
        host = self.host_of(name)
        settings = _settings(
            CoordinatorSettings,
            name=name,
            admin_host=host,
            development=True,
            secret=SECRET,
            expected_shards=self.expected_shards,
            migration_rest_ms=3000,
        )

        async def main() -> None:
            service = coordinator.service.CoordinatorService(settings, remote_ledger(self.server, process), lambda: self.machines.now)
            process.loop.add_signal_handler(signal.SIGTERM, service.stop)
            await service.run()

        process = self._spawn(name, main)

    def start(self, name: str) -> None:
        """Start a process by its name's kind."""
        {"shard": self.start_shard, "gateway": self.start_gateway, "coordinator": self.start_coordinator}[name.split("-")[0]](name)


@contextmanager
def traced(machines: Machines, lines: Any) -> Iterator[None]:
    """While this holds, what the product logs goes to `lines` as (time, process, event)."""

    def keep(_: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        process = machines.running
        lines.append((machines.now, process.name if process is not None else "", method, dict(event)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(20), cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
