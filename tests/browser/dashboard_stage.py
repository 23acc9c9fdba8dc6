"""A coordinator with its dashboard over a memory ledger, at a real port: as many zones and players as a test wants, without processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from coordinator.admin_server import AdminServer
from coordinator.settings import DEVELOPMENT_ADMIN_TOKEN
from perdure.ledger.values import EnterRequest, Member
from perdure.wire.identifiers import player_key
from tests.unit.coordinator.admin_bench import WORLD, AdminBench

TOKEN = DEVELOPMENT_ADMIN_TOKEN
GATEWAYS = {"gateway-1": 7, "gateway-2": 8}


class DashboardStage(AdminBench):
    """`url` is the dashboard's."""

    url = ""

    async def fill(self, side: int, shards: int, players: int) -> None:
        """Make a world of side x side zones on so many shards, with players in it."""
        await self.ledger.init_world(replace(WORLD, columns=side, rows=side))
        self.beats = 1
        self.shards = [f"shard-{index + 1}" for index in range(shards)]
        await self.beat()
        await self.turns()
        for index in range(players):
            name = f"bot-{index + 1:04}"
            zone = (index * index + index // 7) % (side * side)
            gateway = list(GATEWAYS.values())[index % 2]
            await self.ledger.enter(EnterRequest(player_key(name), name, gateway, index, zone, 1_700_000_000_000, f"{index:064x}"))
        await self.feed.take(b"resync")

    async def beat(self) -> None:
        """Let every member beat, with numbers as real ones tell them."""
        self.beats += 1
        for index, name in enumerate(self.shards):
            wave = ((self.beats * 7 + index * 13) % 20) / 10
            info = {
                "state": "ready", "host": "box", "pid": 4000 + index, "build": "6a09e667f3bcc908", "bytes_s": 310_000 + 9000 * index,
                "tick_ms": {"p50": 3.1 + wave / 3, "p99": 7.5 + wave}, "commit_ms": {"p50": 0.6, "p99": 1.8 + wave / 4},
            }  # fmt: skip
            info["zone_ms"] = {str(zone): round(0.4 + zone % 5 / 4, 2) for zone in (await self.ledger.view()).zones}
            await self.ledger.heartbeat(Member(name, "shard", 100 + index, f"unix:/{name}", self.beats, info))
        for name, number in GATEWAYS.items():
            info = {"state": "ready", "load": len(self.feed.book.online()) // 2, "links": len(self.shards), "bytes_s": 620_000}
            await self.ledger.heartbeat(Member(name, "gateway", number, f"ws://{name}", self.beats, {**info, "url": f"ws://{name}/ws"}))
        await self.ledger.heartbeat(Member("c0", "coordinator", 9, self.url, self.beats, {"state": "ready", "admin": self.url}))


@asynccontextmanager
async def dashboard(side: int = 4, shards: int = 4, players: int = 40, **settings: object) -> AsyncIterator[DashboardStage]:
    """Serve a dashboard, its coordinator taking turns, its members beating."""
    stage = DashboardStage(**settings)  # type: ignore[arg-type]
    with AdminServer(stage.app, "127.0.0.1", 0) as server:
        stage.url = f"http://127.0.0.1:{server.port}"
        await stage.fill(side, shards, players)
        tasks = [asyncio.create_task(server.run()), asyncio.create_task(_live(stage))]
        try:
            yield stage
        finally:
            await stage.feed.close()
            server.stop()
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _live(stage: DashboardStage) -> None:
    while True:
        await stage.beat()
        stage.now_s += 0.1
        await stage.turns()
        await asyncio.sleep(0.1)
