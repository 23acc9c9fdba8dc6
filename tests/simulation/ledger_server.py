"""The ledger as processes reach it in the simulation: the model in memory, behind a network that loses, delays and lies.

`LedgerServer` is the machine that holds the store, and what may go wrong with it. `RemoteLedger` is one process's client; it
is told of an outage as the real client is: LedgerUnavailable, which says nothing about whether the call took effect.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from perdure.ledger.ledger import Ledger, LedgerError, LedgerRefused, LedgerUnavailable, Sent
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.values import Commit, CommitAnswer, Reseed
from tests.simulation.clock import Process
from tests.simulation.network import Network
from tests.unit.shard.zone_lab import now

HOST = "ledger"
CALL_DEADLINE_S = 2.0
READS = frozenset(["world", "zone_head", "read_log", "read_inbox", "waiting", "read_checkpoint", "player", "online", "names", "chat",
                   "view", "routes_version"])  # fmt: skip


class LedgerServer:
    """The one server. `hangs`: it answers nothing until it goes on; `refuses`: writes get an error (out of memory, disk full)."""

    def __init__(self, network: Network) -> None:
        self.network, self.machines = network, network.machines
        self.store = MemoryStore()
        self.store.data.opened_for = ""
        self.ledger = MemoryLedger(self.store)
        self.up = True
        self.life = 0
        """Rises with each crash: a call over a connection to the server of before never takes effect."""
        self.hangs = False
        self.refuses = ""
        self.slow_s = 0.0
        self.deaf_to: dict[str, frozenset[str]] = {}
        """process -> calls of it that get lost on the way here, as on a connection of its own that hangs"""
        self.lost_replies = 0.0
        """Probability with which the answer to a call that took effect gets lost."""
        self.on_commit: list[Callable[[Process, Commit, CommitAnswer], None]] = []
        self.on_reseed: list[Callable[[Process, Reseed], None]] = []
        self.on_call: list[Callable[[Process, str, tuple[Any, ...], Any], None]] = []
        """Told of each call that took effect: who, what, with which arguments, and the answer, before it is sent."""
        self.clients: list[RemoteLedger] = []
        self.has_forgotten = False
        """It has come back with less than it held, at some time."""
        self.began_at: dict[int, int] = {}
        """zone -> tick of what the server held as it started"""
        self._waiting: list[Callable[[], None]] = []

    def handle(self, client: RemoteLedger, name: str, arguments: tuple[Any, ...], reply: Callable[[Any, Exception | None], None]) -> None:
        """A request has come; `reply` sends the answer on its way."""
        if not self.up or name in self.deaf_to.get(client.process.name, ()):
            return
        if self.hangs:
            self._waiting.append(lambda: self.handle(client, name, arguments, reply))
            return
        if self.slow_s:
            self.machines.later(self.slow_s, self._execute, self.life, client, name, arguments, reply)
        else:
            self._execute(self.life, client, name, arguments, reply)

    def _execute(
        self, life: int, client: RemoteLedger, name: str, arguments: tuple[Any, ...], reply: Callable[[Any, Exception | None], None]
    ) -> None:
        if not self.up or life != self.life:
            return
        if self.refuses and name not in READS:
            reply(None, LedgerUnavailable(self.refuses) if name == "commit" else LedgerRefused(self.refuses))
            return
        try:
            answer = now(getattr(self.ledger, name)(*arguments))
        except LedgerError as error:
            reply(None, error)
            return
        if name == "commit":
            for commit, one in zip(arguments[0], answer, strict=True):
                for told in self.on_commit:
                    told(client.process, commit, one)
        if name == "reseed":
            for told in self.on_reseed:
                told(client.process, arguments[0])
        for heard in list(self.on_call):
            heard(client.process, name, arguments, answer)
        if self.lost_replies and self.machines.random.random() < self.lost_replies:
            return
        reply(answer, None)

    # --- faults ---------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """The server is gone; its data stays on the disk."""
        self.up = False
        self.life += 1
        self._waiting.clear()
        for client in self.clients:
            client.disconnected()

    def start(self, data: object | None = None) -> None:
        """Start again, with what was on the disk, or with `data` (an older copy, or another server's)."""
        self.up = True
        self.has_forgotten = self.has_forgotten or data is not None
        self.store.restore(self.store.snapshot() if data is None else data)
        self.began_at = {number: zone.head.tick for number, zone in self.store.data.zones.items() if zone.head is not None}

    def hang(self) -> None:
        self.hangs = True

    def go_on(self) -> None:
        self.hangs = False
        waiting, self._waiting = self._waiting, []
        for handle in waiting:
            handle()


class _Hints:
    """A subscription of one process; the store offers it messages, which travel to the process, or get lost."""

    def __init__(self, client: RemoteLedger, channels: tuple[str, ...]) -> None:
        self.client, self.channels = client, frozenset(channels)
        self.waiting: deque[tuple[str, bytes]] = deque()
        self.wake = asyncio.Event()
        self.closed = self.missed = False

    def offer(self, channel: str, message: bytes) -> None:
        if channel not in self.channels:
            return
        client = self.client
        network, host = client.server.network, client.process.host
        if network.is_cut(HOST, host) or not client.server.up:
            self.miss()
            return
        network.machines.later(network.delay_s(HOST, host), self.arrive, channel, message, process=client.process)

    def miss(self) -> None:
        """Something was lost: once the server can be reached again, the reader is told to read the state anew."""
        if not self.missed:
            self.missed = True
            self.client.server.machines.later(0.1, self._try_again, process=self.client.process)

    def _try_again(self) -> None:
        network, host = self.client.server.network, self.client.process.host
        if network.is_cut(HOST, host) or network.is_cut(host, HOST) or not self.client.server.up:
            self.client.server.machines.later(0.1, self._try_again, process=self.client.process)
            return
        self.missed = False
        self.resync()

    def arrive(self, channel: str, message: bytes) -> None:
        self.waiting.append((channel, message))
        self.wake.set()

    def resync(self) -> None:
        for channel in sorted(self.channels):
            self.client.server.machines.later(0.0005, self.arrive, channel, b"resync", process=self.client.process)


class _Sent(Sent):
    """No answer comes while an event loop of simulated time stands still."""

    def __init__(self, task: asyncio.Task[list[CommitAnswer]]) -> None:
        self._task = task

    def answered_within(self, seconds: float) -> list[CommitAnswer] | None:
        return None

    async def answers(self) -> list[CommitAnswer]:
        return await self._task


class RemoteLedger(Ledger):
    """One process's connection. Methods are those of Ledger; each is a request and an answer over the network."""

    def __init__(self, server: LedgerServer, process: Process, commit_deadline_s: float = 1.0) -> None:
        self.server, self.process, self.commit_deadline_s = server, process, commit_deadline_s
        self._calls: dict[asyncio.Future[Any], None] = {}
        self._hints: list[_Hints] = []
        server.clients.append(self)
        process.at_end.append(self._end)

    def _end(self) -> None:
        if self in self.server.clients:
            self.server.clients.remove(self)
        for hints in self._hints:
            if hints in self.server.store.subscriptions:
                self.server.store.subscriptions.remove(hints)  # type: ignore[arg-type]

    def disconnected(self) -> None:
        """The server's end of the connection is gone."""
        self.server.machines.later(0.0005, self._fail_all, process=self.process)
        for hints in self._hints:
            hints.miss()

    def _fail_all(self) -> None:
        for call in list(self._calls):
            if not call.done():
                call.set_exception(LedgerUnavailable("the connection to the ledger broke"))

    async def _call(self, name: str, *arguments: Any) -> Any:
        server, process = self.server, self.process
        network, machines = server.network, server.machines
        answered: asyncio.Future[Any] = process.loop.create_future()

        def reply(value: Any, error: Exception | None) -> None:
            network.send(HOST, process.host, deliver, value, error, process=process)

        def deliver(value: Any, error: Exception | None) -> None:
            if answered.done():
                return
            answered.set_result(value) if error is None else answered.set_exception(error)

        def refuse() -> None:
            deliver(None, LedgerUnavailable("the ledger's port refuses"))

        life = server.life

        def arrive() -> None:
            if not server.up or server.life != life:
                machines.later(0.0005, refuse, process=process)
                return
            server.handle(self, name, arguments, reply)

        def expire() -> None:
            deliver(None, LedgerUnavailable(f"no answer to {name} within {deadline_s:g} s"))

        network.send(process.host, HOST, arrive)
        deadline_s = self.commit_deadline_s if name == "commit" else CALL_DEADLINE_S
        self._calls[answered] = None
        timer = machines.later(deadline_s, expire, process=process)
        try:
            return await answered
        finally:
            timer.cancel()
            self._calls.pop(answered, None)

    async def commit(self, commits: Sequence[Commit]) -> list[CommitAnswer]:
        return await self._call("commit", list(commits))

    def send_commits(self, commits: Sequence[Commit]) -> Sent | None:
        """Every other tick goes so: shards must be right both ways."""
        return _Sent(asyncio.get_running_loop().create_task(self.commit(commits))) if commits[0].tick % 2 else None

    def subscribe(self, *channels: str) -> AsyncIterator[tuple[str, bytes]]:
        hints = _Hints(self, channels)
        self._hints.append(hints)
        self.server.store.subscriptions.append(hints)  # type: ignore[arg-type]
        hints.resync()
        return self._read(hints)

    async def _read(self, hints: _Hints) -> AsyncIterator[tuple[str, bytes]]:
        try:
            while not hints.closed:
                while hints.waiting:
                    yield hints.waiting.popleft()
                hints.wake.clear()
                await hints.wake.wait()
        finally:
            if hints in self.server.store.subscriptions:
                self.server.store.subscriptions.remove(hints)  # type: ignore[arg-type]

    async def close(self) -> None:
        for hints in self._hints:
            hints.closed = True
            hints.wake.set()


def _remote(name: str) -> Any:
    async def call(self: RemoteLedger, *arguments: Any, **named: Any) -> Any:
        if named:
            arguments = (*arguments, *named.values())  # in the order of the signature, as all callers write them
        return await self._call(name, *arguments)

    call.__name__ = name
    return call


for _name in Ledger.__abstractmethods__ - {"commit", "subscribe", "close"}:
    setattr(RemoteLedger, _name, _remote(_name))
RemoteLedger.__abstractmethods__ = frozenset()


def remote_ledger(server: LedgerServer, process: Process) -> Ledger:
    """Return a new connection of a process to the server."""
    made: Ledger = cast(Any, RemoteLedger)(server, process)
    return made
