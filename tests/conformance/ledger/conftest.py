"""The ledgers that the suite runs against: in memory, the embedded Valkey, and Debian's Redis 7.0."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from ledger_lab import Lab, free_port, opened, raw_client

from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.redis_ledger import RedisLedger

REDIS_BINARY = Path("/usr/bin/redis-server")
SERVERS = ("valkey", "redis70")
_worlds = itertools.count(1)


def server_binary(kind: str) -> Path | None:
    """Return the binary of a kind of server, None for the embedded one; skips the test where it is not installed."""
    if kind == "valkey":
        return None
    if not REDIS_BINARY.exists():
        pytest.skip(f"{REDIS_BINARY} is not installed (apt-get install redis-server)")
    return REDIS_BINARY


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EmbeddedServer]]:
    started: dict[str, EmbeddedServer] = {}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture
def server_of(_servers: dict[str, EmbeddedServer], tmp_path_factory: pytest.TempPathFactory):
    """Return a function that starts a kind of server once a session."""

    def start(kind: str) -> EmbeddedServer:
        if kind not in _servers:
            server = EmbeddedServer(tmp_path_factory.mktemp(kind), port=free_port(), binary=server_binary(kind))
            server.start()
            _servers[kind] = server
        return _servers[kind]

    return start


async def _redis_lab(kind: str, server: EmbeddedServer) -> Lab:
    raw = raw_client(server.url)
    # What earlier tests left would only make every scan of the keys slower.
    await raw.flushdb()
    world = f"world-{next(_worlds)}"
    ledger = await RedisLedger.connect(server.url, world)
    await opened(raw, world)
    return Lab(kind, world, ledger, server=server, raw=raw)


@pytest_asyncio.fixture(params=("memory", *SERVERS))
async def lab(request: pytest.FixtureRequest, server_of) -> AsyncIterator[Lab]:
    """A fresh world on each kind of ledger."""
    if request.param == "memory":
        store = MemoryStore()
        made = Lab("memory", "world", MemoryLedger(store), store=store)
    else:
        made = await _redis_lab(request.param, server_of(request.param))
    yield made
    await made.close()


@pytest_asyncio.fixture(params=SERVERS)
async def redis_lab(request: pytest.FixtureRequest, server_of) -> AsyncIterator[Lab]:
    """A fresh world on each kind of server."""
    made = await _redis_lab(request.param, server_of(request.param))
    yield made
    await made.close()


@pytest.fixture(params=SERVERS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that the test may kill."""
    server = EmbeddedServer(tmp_path / "data", port=free_port(), binary=server_binary(request.param))
    server.start()
    yield server
    server.resume()
    server.stop()
