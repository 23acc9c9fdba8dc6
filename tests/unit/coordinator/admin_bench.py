"""A coordinator over a memory ledger, with its admin API on an ASGI client: what the service and API tests share."""

from __future__ import annotations

import orjson
from httpx import ASGITransport, AsyncClient

from coordinator.admin_api import AdminApi
from coordinator.metrics import CoordinatorMetrics
from coordinator.presence_feed import PresenceFeed
from coordinator.settings import DEVELOPMENT_ADMIN_TOKEN, CoordinatorSettings
from coordinator.steering import Steering, Turn
from perdure.game.schema import CommandSchema, EntitySchema, FieldSchema, Schema
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.record import Record, RecordKind, chain_digest
from perdure.ledger.values import Commit, CommitStatus, EnterRequest, Member, WorldSettings
from perdure.wire.identifiers import player_key

SCHEMA = Schema(
    "arena", 20, 100.0, 100.0, 50.0,
    (EntitySchema("ship", 0, 16, True, (FieldSchema("x", "f4", "all", 0.0, 100.0, 1.0, True),)),),
    (CommandSchema("steer", 1, (FieldSchema("mx", "i1", "all", -1, 1, 1, False), FieldSchema("power", "f4", "all", 0, 9, 1, False))),),
    (),
)  # fmt: skip
WORLD = WorldSettings("main", "arena", SCHEMA.hash, orjson.dumps(SCHEMA.to_wire()).decode(), 2, 2, 1, 20)


def make_settings(**values: object) -> CoordinatorSettings:
    return CoordinatorSettings(**{"development": True, "name": "c0", "settle_ms": 0, **values})  # type: ignore[arg-type]


class AdminBench:
    """See the module docstring. The clock stands still unless `now_s` is moved."""

    def __init__(self, store: MemoryStore | None = None, **settings: object) -> None:
        self.now_s = 1000.0
        self.store = store or MemoryStore()
        self.ledger = MemoryLedger(self.store)
        self.settings = make_settings(**settings)
        self.metrics = CoordinatorMetrics()
        self.feed = PresenceFeed(self.ledger)
        self.steering = Steering(self.settings, self.ledger, self.metrics, lambda: self.now_s, self.feed.book.gateways)
        self.api = AdminApi(self.settings, self.ledger, self.steering, self.feed, self.metrics)
        self.app = self.api.app()

    def client(self, token: str = DEVELOPMENT_ADMIN_TOKEN) -> AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return AsyncClient(transport=ASGITransport(self.app), base_url="http://admin", headers=headers)

    async def start(self, *shards: str) -> None:
        """Make the world, register shards s0.. and a gateway g0, and let the coordinator assign."""
        await self.ledger.init_world(WORLD)
        for number, name in enumerate(shards):
            await self.ledger.heartbeat(Member(name, "shard", 100 + number, f"unix:/{name}", 1, {"state": "ready"}))
        await self.ledger.heartbeat(Member("g0", "gateway", 7, "ws://g0", 1, {"state": "ready"}))
        await self.feed.take(b"resync")
        await self.turns()

    async def turns(self, most: int = 50) -> None:
        """Take turns until there is nothing to do."""
        for _ in range(most):
            if await self.steering.turn() is not Turn.ACTED:
                return
        raise AssertionError("the coordinator does not come to rest")

    async def enter(self, name: str, zone: int = 0) -> int:
        answer = await self.ledger.enter(EnterRequest(player_key(name), name, 7, 3, zone, 1234, f"{player_key(name):064x}"))
        return answer.session

    async def commit(self, zone: int, commands: bytes = b"", row_bytes: int = 24) -> None:
        """Commit the zone's next tick."""
        head = await self.ledger.zone_head(zone)
        tick = head.tick + 1
        rows = len(commands) // row_bytes
        record = Record(RecordKind.TICK, zone, head.generation, head.epoch, tick, 0xABCD, 0x17, row_bytes, rows, commands).pack()
        digest = chain_digest(head.digest, record)
        (answer,) = await self.ledger.commit([Commit(zone, head.generation, head.epoch, tick, head.digest, digest, record)])
        assert answer.status is CommitStatus.OK, answer
