"""A whole cluster in one event loop: an in-memory ledger, shard doubles, one real gateway, real clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

from gateway.send_table import compile_sends
from gateway.service import GatewayService
from gateway.settings import GatewaySettings
from perdure.client import Client
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.wire.client_messages import encode_hello
from perdure.wire.identifiers import player_key
from perdure.wire.tokens import make_token
from tests.unit.gateway.shard_double import SECRET, PlayerTruth, ShardDouble, ZoneTruth, world_of

BOUND_S = 10.0


def settings_of(**given: Any) -> GatewaySettings:
    return GatewaySettings(**given)


async def eventually(condition: Callable[[], Any], what: str = "", bound_s: float = BOUND_S) -> None:
    """Wait until `condition()` holds; fail after `bound_s`."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + bound_s
    while not condition():
        if loop.time() > end_s:
            raise AssertionError(f"did not come to hold within {bound_s} s: {what or condition}")
        await asyncio.sleep(0.005)


class Cluster:
    """Start with `async with cluster() as c`."""

    def __init__(self, folder: str, **settings: Any) -> None:
        self.folder = folder
        self.ledger = MemoryLedger()
        self.truths: dict[int, ZoneTruth] = {}
        self.shards: dict[str, ShardDouble] = {}
        self.gateways: list[GatewayService] = []
        self.term = 0
        self._settings = settings
        self._names = itertools.count()

    async def start(self, columns: int = 2, hz: float = 50.0) -> None:
        await self.ledger.init_world(world_of(columns=columns))
        self.term = (await self.ledger.elect("test")).term
        self.truths = {zone: ZoneTruth(zone) for zone in range(columns)}
        for name in ("shard-a", "shard-b"):
            await self.add_shard(name, hz)
        for zone in range(columns):
            await self.shards["shard-a"].own(self.term, zone)
        await self.add_gateway()

    async def add_shard(self, name: str, hz: float) -> ShardDouble:
        shard = self.shards[name] = ShardDouble(self.ledger, name, f"{self.folder}/{name}-{next(self._names)}", self.truths)
        await shard.start()
        if hz:
            shard.run(hz)
        return shard

    async def add_gateway(self, **settings: Any) -> GatewayService:
        given = {"host": "127.0.0.1", "port": 0, "secret": SECRET, "development": True, "heartbeat_ms": 20, **self._settings, **settings}
        gateway = GatewayService(settings_of(**given), self.ledger)
        await gateway.start()
        self.gateways.append(gateway)
        async with asyncio.timeout(BOUND_S):
            await gateway.wait_ready()
            await gateway.links.wait_up(len(self.shards))
        return gateway

    @property
    def gateway(self) -> GatewayService:
        return self.gateways[0]

    @property
    def url(self) -> str:
        return self.gateway.url

    def token(self, name: str, ttl_s: float = 60.0) -> str:
        return make_token(SECRET, name, ttl_s)

    def client(self, name: str, **options: Any) -> Client:
        return Client([gateway.url for gateway in self.gateways], self.token(name), **options)

    def player(self, name: str) -> PlayerTruth:
        key = player_key(name)
        return next(truth.players[key] for truth in self.truths.values() if key in truth.players)

    async def fail_over(self, dead: str, heir: str) -> None:
        """Kill one shard and let the other take its zones, once the gateway has reported its suspicion."""
        zones = list(self.shards[dead].owned)
        await self.shards[dead].die()
        suspicions = self.gateway.counters.suspicions
        await eventually(lambda: self.gateway.counters.suspicions > suspicions, "a suspicion")
        await self.ledger.evict(self.term, dead, self.shards[dead].number)
        for zone in zones:
            await self.shards[heir].own(self.term, zone)

    async def stop(self) -> None:
        for gateway in self.gateways:
            await gateway.stop()
        for shard in self.shards.values():
            await shard.die()


@contextlib.asynccontextmanager
async def cluster(columns: int = 2, hz: float = 50.0, **settings: Any) -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory() as folder:
        made = Cluster(folder, **settings)
        if settings.get("compiled_sockets", True):  # not within the time that a gateway has to get ready: it may have to be compiled yet
            compile_sends()
        try:
            await made.start(columns, hz)
            yield made
        finally:
            await made.stop()


async def slow_socket(c: Cluster, name: str) -> tuple[socket.socket, bytes]:
    """A raw socket with a tiny receive buffer that has said hello and then reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", c.gateway.endpoint.port))
    await loop.sock_sendall(
        raw,
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    got = b""
    while b"\r\n\r\n" not in got:
        got += await loop.sock_recv(raw, 4096)
    hello = encode_hello(token=c.token(name))
    assert 126 <= len(hello) < 65536
    await loop.sock_sendall(raw, b"\x82\xfe" + len(hello).to_bytes(2, "big") + b"\0\0\0\0" + hello)
    return raw, got
