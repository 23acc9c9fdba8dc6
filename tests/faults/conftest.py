"""Clusters of real processes, and players who notice whatever is wrong.

`lab` is a cluster that the tests of a module share; before each test it is made whole again: who was killed is started anew,
and every shard runs zones. The folder of a cluster is kept where a test failed, so that its logs can be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import pytest_asyncio

from perdure.cli.local_cluster import LocalCluster
from perdure.client.connection import Client
from perdure.client.protocol import NoticeReceived, NotReady, Received
from perdure.client.world_view import Snapshot
from perdure.game.loading import load_game
from perdure.ledger.ledger import LedgerError
from perdure.ledger.values import ClusterView, ZoneRoute
from perdure.wire.identifiers import WorldGrid, player_key
from perdure.wire.opcodes import Notice
from perdure.wire.tokens import make_token
from shard.program import Program, compile_program
from shard.replay import replay_zone

PACES = Path(__file__).resolve().parents[1] / "data" / "paces.py"
GRID = WorldGrid(300, 200, 3, 2)
SHARDS, GATEWAYS = 3, 2
COMMAND_EVERY_S = 0.1
_compiled: list[Program] = []


def paces() -> Program:
    """Return the compiled game, made once a test process."""
    if not _compiled:
        _compiled.append(compile_program(load_game(PACES)))
    return _compiled[0]


class Player:
    """A client that checks every snapshot: each acknowledged command was applied exactly once, and no frame is stale.

    The check is by the game itself: `steps` counts what was applied, and stands in the same snapshot as the acknowledgement.
    """

    def __init__(self, lab: Lab, name: str, *urls: str, token_ttl_s: float = 60.0) -> None:
        self.lab, self.name = lab, name
        self.faults: list[str] = []
        self.notices: list[Notice | int] = []
        self.client = Client(
            list(urls) or lab.urls, lambda: make_token(lab.cluster.secret, name, token_ttl_s), connect_timeout_s=30.0, on_message=self._saw
        )
        self.zones: list[int] = []
        self._tick = 0
        self._extra: int | None = None

    def _saw(self, received: Received) -> None:
        if isinstance(received, NoticeReceived):
            self.notices.append(received.notice)
        if not isinstance(received, Snapshot):
            return
        me = self.client.world.me
        if me is None:
            self.faults.append(f"tick {received.tick} of zone {received.zone}: no body")
            return
        if self._extra is None:
            self._extra = int(me.steps) - received.ack  # of earlier lives
        if int(me.steps) - self._extra != received.ack:
            self.faults.append(f"tick {received.tick} of zone {received.zone}: {me.steps} steps where {received.ack} are acknowledged")
        if self.zones and received.zone == self.zones[-1]:
            if received.tick <= self._tick:
                self.faults.append(f"tick {received.tick} of zone {received.zone} after tick {self._tick}")
        else:
            self.zones.append(received.zone)
        self._tick = received.tick

    @property
    def zone(self) -> int:
        return self.client.world.zone

    @property
    def steps(self) -> int:
        me = self.client.world.me
        return int(me.steps) if me is not None else -1

    @property
    def place(self) -> tuple[float, float]:
        me = self.client.world.me
        assert me is not None
        return float(me.x), float(me.y)

    def go(self, x: float, y: float) -> int:
        """Ask for another place; return the command's number."""
        return self.client.send_command("go", x=x, y=y)

    async def until(self, what: str, condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
        """Wait for something that this player sees."""
        try:
            async with asyncio.timeout(deadline_s):
                await self.client.wait_until(condition)
        except TimeoutError:
            pytest.fail(f"{self.name} has not seen after {deadline_s:g} s: {what}")

    async def goes(self, x: float, y: float) -> None:
        """Go there, and return once it is done and seen."""
        seq = self.go(x, y)
        zone = GRID.zone_at(x, y)
        await self.until(f"({x}, {y}) in zone {zone}", lambda: self.client.protocol.acked >= seq and self.zone == zone)

    async def wander(self, stop: asyncio.Event, choose: random.Random) -> None:
        """Go somewhere all the time: most commands end in another zone."""
        while not stop.is_set():
            with contextlib.suppress(NotReady):  # a pause: what is unacknowledged fills the window
                self.go(choose.uniform(0, 299), choose.uniform(0, 199))
            await asyncio.sleep(COMMAND_EVERY_S)

    def check(self, *, drops: int = 0) -> None:
        assert self.faults == []
        assert len(self.client.stats.closes) == drops, self.client.stats.closes
        assert self.client.protocol.acknowledged_lost == 0

    async def __aenter__(self) -> Self:
        await self.client.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.client.close()


class Crowd:
    """Players who wander all over the world while a test breaks something; leaving the block checks what they saw."""

    def __init__(self, lab: Lab, count: int, prefix: str, longest_gap_s: float) -> None:
        self.lab, self.longest_gap_s = lab, longest_gap_s
        self.players = [Player(lab, f"{prefix}{k}") for k in range(count)]
        self.stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(player.client.connect() for player in self.players))
            self._tasks = [asyncio.ensure_future(player.wander(self.stop, random.Random(k))) for k, player in enumerate(self.players)]
            await self.plays_on()
        except BaseException:
            await self._close()
            raise
        return self

    async def plays_on(self, commands: int = 5, deadline_s: float = 30.0) -> None:
        """Return once everybody had so many more commands applied, and saw it."""
        wanted = [player.client.protocol.acked + commands for player in self.players]
        for player, seq in zip(self.players, wanted, strict=True):
            await player.until(f"command {seq} applied", lambda p=player, s=seq: p.client.protocol.acked >= s, deadline_s)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                await self.plays_on()
                self.stop.set()
                await asyncio.gather(*self._tasks)
                for player in self.players:  # what was sent last is applied too
                    await player.until("its last command applied", lambda p=player: not p.client.protocol.pending)
                    player.check()
                    gaps = [gap for _, gap in player.client.stats.gaps]
                    assert max(gaps) < self.longest_gap_s, f"{player.name} saw nothing for {max(gaps):.2f} s"
                await self.lab.one_body_each([player.name for player in self.players])
        finally:
            await self._close()

    async def _close(self) -> None:
        self.stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(player.client.close() for player in self.players), return_exceptions=True)


class Lab:
    """A cluster and what tests do with it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.program = paces()
        """What the newest records of the world can be replayed with."""

    @property
    def urls(self) -> list[str]:
        return [url for _, url in sorted(self.cluster.gateway_urls.items())]

    def player(self, name: str, *urls: str) -> Player:
        return Player(self, name, *urls)

    def crowd(self, count: int, prefix: str, longest_gap_s: float = 8.0) -> Crowd:
        return Crowd(self, count, prefix, longest_gap_s)

    async def view(self) -> ClusterView:
        return await self.cluster.ledger.view()

    async def owner(self, zone: int) -> str:
        return (await self.view()).zones[zone].owner

    async def until(self, what: str, condition: Callable[[ClusterView], bool], deadline_s: float = 30.0) -> ClusterView:
        """Wait until the cluster's view meets a condition; a ledger that is away for a while is part of the wait."""
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                view = await self.view()
                if condition(view):
                    return view
                seen = "; ".join(f"{r.zone}:{r.owner}>{r.successor}@{r.epoch}" for r in view.zones.values())
            except LedgerError as error:
                seen = str(error)
            assert time.monotonic() < deadline, f"after {deadline_s:g} s still not: {what} ({seen}); logs are in {self.cluster.folder}"
            await asyncio.sleep(0.02)

    async def zones_run_by(self, names: set[str], deadline_s: float = 30.0) -> ClusterView:
        """Wait until exactly these shards run all zones between them, each of them some, and none is on its way."""

        def runs(view: ClusterView, route: ZoneRoute) -> bool:
            owner = view.members.get(route.owner)
            at_work = owner.info.get("load") if owner is not None else None
            return isinstance(at_work, dict) and str(route.zone) in at_work and not route.successor

        def spread(view: ClusterView) -> bool:
            return {r.owner for r in view.zones.values()} == names and all(runs(view, r) for r in view.zones.values())

        return await self.until(f"all zones run by {sorted(names)}, none on its way", spread, deadline_s)

    async def no_zone_on(self, *names: str) -> ClusterView:
        def moved(route: ZoneRoute) -> bool:
            return bool(route.owner) and route.owner not in names

        return await self.until(f"every zone runs, none on {names}", lambda v: all(moved(r) for r in v.zones.values()))

    async def ticks_go_on(self, ticks: int = 5) -> None:
        """Wait until every zone has committed so many more ticks."""
        before = (await self.until("an answer", lambda _: True)).ticks
        await self.until("every zone ticks on", lambda v: all(v.ticks[z] >= tick + ticks for z, tick in before.items()))

    async def one_body_each(self, names: list[str]) -> None:
        """Replay every zone's log (each state hash is compared) and find each player, who stands still, in exactly one of them."""
        deadline = time.monotonic() + 15.0
        while True:
            online = {p.name: p.place for p in await self.cluster.ledger.online()}
            bodies = await self._bodies(names)
            wrong = {name: (zones, online.get(name)) for name, zones in bodies.items() if zones != [online.get(name)]}
            if not wrong:
                return
            # Who crossed a border a moment ago is in an inbox.
            assert time.monotonic() < deadline, f"(zones that have a body of it, zone that the ledger says): {wrong}"

    async def _bodies(self, names: list[str]) -> dict[str, list[int]]:
        keys = {player_key(name): name for name in names}
        bodies: dict[str, list[int]] = {name: [] for name in names}
        for zone in range(GRID.zones):
            report, replayed = await replay_zone(self.cluster.ledger, self.program, zone)
            assert report.fault == ""
            assert replayed is not None
            for key, departed in zip(replayed.players["key"].tolist(), replayed.players["departed"].tolist(), strict=True):
                if key in keys and not departed:
                    bodies[keys[key]].append(zone)
        return bodies

    async def heal(self) -> None:
        """Start who is missing, end who is too many, and wait until all are at work."""
        cluster = self.cluster
        wanted = [f"shard-{k + 1}" for k in range(SHARDS)]
        for name in list(cluster.pids):
            cluster.send_signal(name, signal.SIGCONT)
        await self.until("an answer", lambda _: True)
        for name in wanted:
            if name not in cluster.pids:
                await cluster.start_shard(name)
        for name in set(cluster.shard_names()) - set(wanted):
            await cluster.kill(name, signal.SIGTERM)
        for k in range(GATEWAYS):
            if f"gateway-{k + 1}" not in cluster.pids:
                cluster.start_gateway(f"gateway-{k + 1}")
        for k in range(2):
            if f"coordinator-{k + 1}" not in cluster.pids:
                cluster.start_coordinator(f"coordinator-{k + 1}")

        def whole(view: ClusterView) -> bool:
            there = {m.name: m.info.get("pid") for m in view.members.values() if m.info.get("state") == "ready"}
            return there == dict(cluster.pids)

        await self.until("all members are there again", whole)
        await self.zones_run_by(set(wanted))
        await cluster.wait_ready(SHARDS, GATEWAYS)

    def losses(self) -> int:
        """Return how many members the coordinators have taken for lost so far."""
        return sum(self.log(f"coordinator-{k}").count("member lost") for k in (1, 2))

    def log(self, name: str) -> str:
        return self.cluster.log_of(name).read_text(errors="replace")


def _failed(request: pytest.FixtureRequest) -> bool:
    return request.session.testsfailed > 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """Three shards, two gateways, two coordinators; zones that moved may move again at once."""
    settings = {"migration_rest_ms": "300"}
    cluster = LocalCluster(shards=SHARDS, gateways=GATEWAYS, zones=f"{GRID.columns}x{GRID.rows}", game=str(PACES), settings=settings)
    await cluster.start()
    try:
        yield Lab(cluster)
    finally:
        if _failed(request):
            cluster.keep_folder()
        cluster.server.resume()
        await cluster.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def lab(shared_lab: Lab) -> Lab:
    """The module's cluster, whole."""
    await shared_lab.heal()
    return shared_lab
