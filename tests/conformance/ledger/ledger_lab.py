"""What the ledger suite works with: one world on one kind of ledger, ways to look at all of it, and a proxy that loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from perdure.ledger import keys
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import Ledger
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.record import blob_digest, chain_digest
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, EnterAnswer, EnterRequest, Member, Reseed, Transfer
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import player_key


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raw_client(url: str) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=10)


async def dump_keys(client: redis.asyncio.Redis, world: str) -> dict[bytes, bytes]:
    """Return every key of a world with its serialised value."""
    found = sorted([key async for key in client.scan_iter(match=keys.base(world) + "*", count=1000)])
    pipeline = client.pipeline(transaction=False)
    for key in found:
        pipeline.dump(key)
    return dict(zip(found, await pipeline.execute(), strict=True))


@dataclass
class Lab:
    """One fresh world. Keeps the chain of every zone, so that a test says only what it is about."""

    kind: str
    world: str
    ledger: Ledger
    store: MemoryStore | None = None
    server: EmbeddedServer | None = None
    raw: redis.asyncio.Redis | None = None
    term: int = 0
    heads: dict[int, tuple[int, int, int, str]] = field(default_factory=dict)
    _clients: list[Ledger] = field(default_factory=list)

    async def client(self, **options: Any) -> Ledger:
        """Return one more client of the same world."""
        if self.store is not None:
            made: Ledger = MemoryLedger(self.store)
        else:
            assert self.server is not None
            made = await RedisLedger.connect(self.server.url, self.world, **options)
        self._clients.append(made)
        return made

    async def dump(self) -> object:
        """Return all that is kept of the world, to compare."""
        if self.store is not None:
            return self.store.snapshot()
        assert self.raw is not None
        return await dump_keys(self.raw, self.world)

    async def unchanged(self, call: Awaitable[Any]) -> Any:
        """Await a call and check that it wrote nothing; returns its answer, or the LedgerError that it raised."""
        before = await self.dump()
        try:
            answer = await call
        except Exception as error:
            answer = error
        assert await self.dump() == before, "something was written"
        return answer

    # --- steps ----------------------------------------------------------------------------------------------------

    async def lead(self, name: str = "coordinator-a") -> int:
        self.term = (await self.ledger.elect(name)).term
        return self.term

    async def zones(self, *zones: int, owner: str = "shard-a") -> None:
        """Assign zones for the first time."""
        if not self.term:
            await self.lead()
        await self.ledger.open_world(self.term)
        for zone in zones:
            epoch = await self.ledger.assign(self.term, zone, owner, 0)
            self.heads[zone] = (1, epoch, 0, "")

    def next(self, zone: int, record: bytes = b"record", transfers: Sequence[Transfer] = (), **changes: Any) -> Commit:
        """Return the commit that follows; `changes` spoil it."""
        generation, epoch, tick, previous = self.heads[zone]
        record = changes.pop("record", record)
        values: dict[str, Any] = {
            "zone": zone,
            "generation": generation,
            "epoch": epoch,
            "tick": tick + 1,
            "previous": previous,
            "digest": chain_digest(previous, record + str(tick).encode()),
            "record": record,
            "transfers": tuple(transfers),
        }
        return Commit(**{**values, **changes})

    async def commit(self, zone: int, *transfers: Transfer, record: bytes = b"record") -> CommitAnswer:
        """Commit one good tick of a zone."""
        commit = self.next(zone, record, transfers)
        (answer,) = await self.ledger.commit([commit])
        if answer.status is CommitStatus.OK:
            self.heads[zone] = (commit.generation, commit.epoch, commit.tick, commit.digest)
        return answer

    async def enter(self, name: str, gateway: int = 7, slot: int = 3, spawn: int = 0, **changes: Any) -> EnterAnswer:
        return await self.ledger.enter(request(name, gateway, slot, spawn, **changes))

    async def inbox(self, zone: int) -> list[Entry]:
        """Return what waits in a zone's inbox, without taking it."""
        return [unpack_entry(entry) for entry in await self.ledger.read_inbox(zone)]

    async def push(self, zone: int, *entries: bytes) -> None:
        """Put entries into an inbox as another zone's commits would."""
        if self.store is not None:
            self.store.data.zone(zone).inbox.extend(entries)
            return
        assert self.raw is not None
        for first in range(0, len(entries), 5000):
            await self.raw.rpush(keys.key(self.world, "INBOX", zone), *entries[first : first + 5000])  # type: ignore[misc]

    async def close(self) -> None:
        for client in (*self._clients, self.ledger):
            await client.close()
        if self.raw is not None:
            await self.raw.aclose()


async def opened(raw: redis.asyncio.Redis, world: str = "main") -> None:
    """Have a world open for the server as it is, as a coordinator would."""
    told = await raw.info("server") | await raw.info("replication")
    await raw.hset(keys.key(world, "CONTROL"), "opened_for", f"{told['run_id'][:16]}/{told['master_replid'][:16]}")  # type: ignore[misc]


def request(name: str, gateway: int = 7, slot: int = 3, spawn: int = 0, **changes: Any) -> EnterRequest:
    values: dict[str, Any] = {
        "player": player_key(name),
        "name": name,
        "gateway": gateway,
        "slot": slot,
        "spawn_zone": spawn,
        "now_ms": 1_700_000_000_123,
        "resume_issued": "aa" * 32,
        "resume_presented": "",
    }
    return EnterRequest(**{**values, **changes})


def arrive(name: str, target: int, *, session: int = 1, gateway: int = 7, slot: int = 3, hop: int = 2, payload: bytes = b"row") -> Transfer:
    """Return a border crossing of a player, who has moved once before: from the lobby."""
    player = player_key(name)
    entry = Entry(EntryKind.ARRIVE, player, session, gateway, slot, hop=hop, last_seq=9, origin=0, payload=payload)
    return Transfer(target, player, entry.pack())


def logout(name: str, saved: bytes = b"saved", *, session: int = 1, hop: int = 2, seq: int = 0) -> Transfer:
    """Return the way of a player into the lobby, of whom commands up to `seq` were applied."""
    player = player_key(name)
    return Transfer(-1, player, Entry(EntryKind.LEAVE, player, session, hop=hop, last_seq=seq, payload=saved).pack())


def effect(target: int, payload: bytes = b"x") -> Transfer:
    """Return the crossing of an entity without a player."""
    return Transfer(target, 0, Entry(EntryKind.ARRIVE, payload=payload).pack())


def seed(zone: int, generation: int, epoch: int, tick: int, digest: str = "", blob: bytes = b"blob", **more: Any) -> Reseed:
    """Return what shard-a knows of a zone that it runs."""
    return Reseed(zone, "shard-a", generation, epoch, tick, digest, blob, blob_digest(blob), **more)


def member(
    name: str = "shard-a", number: int = 11, *, beat: int = 1, state: str = "ready", address: str = "unix:/s", **info: Any
) -> Member:
    return Member(name, "shard", number, address, beat, {"state": state, **info})


@contextlib.asynccontextmanager
async def ledger_at(url: str, world: str = "main", **options: Any) -> AsyncIterator[RedisLedger]:
    """A client of the server at `url`, closed at the end."""
    ledger = await RedisLedger.connect(url, world, **options)
    try:
        yield ledger
    finally:
        await ledger.close()


@contextlib.asynccontextmanager
async def own_lab(server: EmbeddedServer, world: str = "main", **options: Any) -> AsyncIterator[Lab]:
    """A lab on a server that the test may kill, closed at the end."""
    lab = Lab("own", world, await RedisLedger.connect(server.url, world, **options), server=server, raw=raw_client(server.url))
    assert lab.raw is not None
    await opened(lab.raw, world)
    try:
        yield lab
    finally:
        await lab.close()


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    """Wait until a condition holds; fails past the bound."""
    until = asyncio.get_running_loop().time() + within_s
    while not await condition():
        assert asyncio.get_running_loop().time() < until, "it did not come to hold"
        await asyncio.sleep(0.01)


class Proxy:
    """A TCP proxy in front of a server's Unix socket. While `swallow` is set, what the server answers is dropped.

    With `cut`, the client's connection is closed at the first answer dropped; else it just stays silent.
    """

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.swallow = False
        self.cut = False
        self.swallowed = 0
        self.held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._clients: list[asyncio.StreamWriter] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.append(writer)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.socket_path)
            await asyncio.gather(self._requests(reader, server_writer), self._answers(server_reader, writer))
        except OSError:
            writer.close()
        finally:
            self._tasks.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.swallow:
                    self.swallowed += 1
                    self.held.append((writer, data))
                    if self.cut:
                        break
                else:
                    writer.write(data)
        writer.close()

    def drop_all(self) -> None:
        """Reset all connections of clients."""
        for client in self._clients:
            client.transport.abort()

    def deliver_late(self) -> None:
        """Send the answers that were swallowed, after all."""
        for writer, data in self.held:
            if not writer.is_closing():
                writer.write(data)
        self.held.clear()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Proxy]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
