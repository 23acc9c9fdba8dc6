"""The asyncio client: one player, who stays the same over any number of sockets.

Owns the socket, reconnecting and the bounded queues for whoever iterates. All protocol is in protocol.py. Never resends by
itself what the protocol does not say, and never reconnects after a close that says not to. Public API of perdure.client.

    async with Client("ws://127.0.0.1:7700/ws", token=token) as client:
        client.send_command("steer", mx=1, my=0, fire=True)
        async for snapshot in client.snapshots():
            print(snapshot.tick, client.world.me)
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.protocol import State

from perdure.client.protocol import (
    ChatReceived,
    ClientProtocol,
    NamesReceived,
    NoticeReceived,
    NotReady,
    Pong,
    ProtocolError,
    Received,
    Refused,
    Welcome,
)
from perdure.client.reconnect import Reconnecting
from perdure.client.world_view import Event, Snapshot, SnapshotError, WorldView
from perdure.wire.chat import MAX_WHO_KEYS
from perdure.wire.opcodes import Close

MAX_SERVER_MESSAGE = 1 << 20
QUEUE_LENGTH = 256
KEEP_ALIVE_S = 20.0
"""The websocket library pings so often, and takes a server that has not answered for as long again for dead."""

TokenSource = str | Callable[[], str | Awaitable[str]]


class ClientClosed(Exception):
    """The connection is over for good. `code` and `reason` are the server's, or None where the client itself ended it."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"closed with {code}: {reason}" if code is not None else reason)
        self.code = code
        self.reason = reason


class CommandRefused(Exception):
    """The gateway did not accept a command; it was not applied and is not sent again."""


class OutcomeUnknown(Exception):
    """A command was applied, or it was not: before the zone acknowledged it, another session of this player was there, or the world
    forgot some of what it had acknowledged."""


@dataclass(frozen=True, slots=True)
class SocketEnd:
    """One socket that ended. `at_s` is monotonic; `code` None: it broke without a close frame, or was never opened."""

    at_s: float
    code: int | None
    reason: str


@dataclass(slots=True)
class ClientStats:
    """What was measured since the client was made. `gaps`: (monotonic time of the later one, seconds between two snapshots)."""

    messages: int = 0
    bytes: int = 0
    snapshots: int = 0
    keyframes: int = 0
    commands: int = 0
    refused: int = 0
    connects: int = 0
    reconnects: int = 0
    queue_drops: int = 0
    closes: list[SocketEnd] = field(default_factory=list)
    gaps: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=100_000))


class Client:
    """One player's connection. `token` is a login token or a function that fetches one; `resume` continues a session.

    `url` may be several gateways: each reconnect tries the next. `token` may be left out only where `resume` is given.
    `on_message` is called with everything that arrives, before anyone else sees it. A function for the token that raises OSError or
    TimeoutError is asked again with the next try; any other error of either function ends the client, and is the cause of its ClientClosed.
    A server that is pinged every `keep_alive_s` and does not answer within as long again is dead: the socket is made anew.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: TokenSource | None = None,
        *,
        resume: str = "",
        reconnect: bool = True,
        connect_timeout_s: float = 10.0,
        keep_alive_s: float = KEEP_ALIVE_S,
        queue_length: int = QUEUE_LENGTH,
        on_message: Callable[[Received], None] | None = None,
    ) -> None:
        if token is None and not resume:
            raise ValueError("a client needs a token or a resume token")
        self.protocol = ClientProtocol()
        self.protocol.resume = resume
        self.stats = ClientStats()
        self.notices: deque[NoticeReceived] = deque(maxlen=100)
        self.chat: deque[ChatReceived] = deque(maxlen=100)
        """The last lines that were said to this player, its own included: a line of one's own is heard once it is kept for good."""
        self.names: dict[int, str] = {}
        """Names of players by their keys, as far as they were asked for (`ask_names`)."""
        self.welcome: Welcome | None = None
        self._urls = [url] if isinstance(url, str) else list(url)
        self._token = token
        self._reconnect = reconnect
        self._connect_timeout_s = connect_timeout_s
        self._keep_alive_s = keep_alive_s
        self._on_message = on_message
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: ClientClosed | None = None
        self._changed = asyncio.Event()
        self._queue_length = queue_length
        self._snapshot_queues: list[asyncio.Queue[Snapshot | None]] = []
        self._acknowledgements: dict[int, asyncio.Future[int]] = {}
        self._last_snapshot_s = 0.0
        self._ping_count = 0
        self._pings: dict[int, tuple[float, asyncio.Future[float]]] = {}
        self._reconnecting = Reconnecting(self.protocol, may_log_in=token is not None and reconnect)
        self._leaving = False
        self._new_socket = False

    # --- life -------------------------------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Return once the first snapshot is there; raises ClientClosed, or TimeoutError after `connect_timeout_s`.

        In a queue (`protocol.queued`) that time begins anew with each word of it.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure client")
        loop, queued = asyncio.get_running_loop(), None
        async with asyncio.timeout(self._connect_timeout_s) as deadline:
            while self.stats.snapshots == 0:
                waits = self.protocol.queued
                if waits is not None and waits is not queued:
                    queued = waits
                    deadline.reschedule(loop.time() + self._connect_timeout_s)
                await self.wait_until(lambda seen=waits: self.stats.snapshots > 0 or self.protocol.queued is not seen)
        return self

    async def __aenter__(self) -> Self:
        try:
            return await self.connect()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. The player stays in the world for its grace time; `protocol.resume` continues it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()
            self._socket = None
        self._end(ClientClosed(None, "closed by this client"))

    async def leave(self, timeout_s: float = 10.0) -> None:
        """Log out, and return once the server says that the player has left the world."""
        self._leaving = True
        if self.connected:
            self._write(self.protocol.leave())  # else with the next socket's first snapshot
        async with asyncio.timeout(timeout_s):
            while self._ended is None:
                await self._changed.wait()
        if self._ended.code != Close.LOGGED_OUT:
            raise self._ended

    @property
    def ended(self) -> ClientClosed | None:
        """Why the connection is over, or None while it lives (a reconnect is under way, or it is connected)."""
        return self._ended

    @property
    def connected(self) -> bool:
        """Whether there is a socket now, and a snapshot has arrived on it."""
        return self._socket is not None and not self._new_socket

    @property
    def world(self) -> WorldView:
        """The world as of the newest snapshot. Raises ProtocolError before the first welcome."""
        if self.protocol.world is None:
            raise ProtocolError("not connected yet")
        return self.protocol.world

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` holds; it is asked after every message. Raises ClientClosed if the connection ends first."""
        while not condition():
            if self._ended is not None:
                raise self._ended
            await self._changed.wait()

    def drop_socket(self) -> None:
        """Break the socket without a word, as a network would: for tests and chaos."""
        if self._socket is not None:
            self._socket.transport.abort()

    # --- out --------------------------------------------------------------------------------------------------------

    def send_command(self, name: str, **fields: Any) -> int:
        """Send a command at once and return its number. Raises NotReady (wait), ProtocolError (wrong) or ClientClosed."""
        if self._ended is not None:
            raise self._ended
        seq, message = self.protocol.command(name, **fields)
        self.stats.commands += 1
        self._write(message)
        return seq

    async def command(self, name: str, **fields: Any) -> int:
        """Send a command, waiting for room if need be, and return its number once the zone has applied it for good.

        Raises CommandRefused, OutcomeUnknown, ProtocolError or ClientClosed.
        """
        while True:
            try:
                seq = self.send_command(name, **fields)
                break
            except NotReady:
                await self._changed.wait()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._acknowledgements[seq] = future
        return await future

    def say(self, text: str, to: str = "") -> None:
        """Say something to everybody in the zone, or to the player called `to`. What is said while there is no socket is lost."""
        self._write(self.protocol.chat(text, to))

    def ask_names(self, keys: Iterable[int]) -> None:
        """Ask for the names of players; `names` has them when the answer is there."""
        wanted = [key for key in keys if key not in self.names]
        for at in range(0, len(wanted), MAX_WHO_KEYS):
            self._write(self.protocol.who(wanted[at : at + MAX_WHO_KEYS]))

    async def ping(self) -> float:
        """Return the seconds that a ping takes to the gateway and back.

        Raises NotReady where there is no socket or it breaks meanwhile, or ClientClosed.
        """
        if self._ended is not None:
            raise self._ended
        if self._socket is None:
            raise NotReady("there is no connection now")
        self._ping_count += 1
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._pings[self._ping_count] = time.monotonic(), future
        self._write(self.protocol.ping(self._ping_count))
        return await future

    def _write(self, message: bytes) -> None:
        """Hand a message to the socket's buffer. Without a socket nothing is lost: commands are kept by the protocol."""
        socket = self._socket
        if socket is not None and socket.state is State.OPEN:
            socket.protocol.send_binary(message)
            socket.send_data()

    # --- in ---------------------------------------------------------------------------------------------------------

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Yield snapshots as they arrive. Who falls behind by `queue_length` loses the oldest (stats.queue_drops); the
        world view is always up to date. Ends with the connection."""
        queue: asyncio.Queue[Snapshot | None] = asyncio.Queue()
        self._snapshot_queues.append(queue)
        try:
            while self._ended is None or not queue.empty():
                snapshot = await queue.get()
                if snapshot is None:
                    return
                yield snapshot
        finally:
            self._snapshot_queues.remove(queue)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield game events as they arrive; bounded like `snapshots`."""
        async for snapshot in self.snapshots():
            for event in snapshot.events:
                yield event

    def _received(self, data: bytes) -> None:
        stats = self.stats
        stats.messages += 1
        stats.bytes += len(data)
        received = self.protocol.receive(data)
        for message in self.protocol.outgoing:
            self._write(message)
        self.protocol.outgoing.clear()
        if isinstance(received, Snapshot):
            self._snapshot(received)
        elif isinstance(received, Welcome):
            self.welcome = received
            self._reconnecting.welcomed()
        elif isinstance(received, NoticeReceived):
            self.notices.append(received)
        elif isinstance(received, ChatReceived):
            self.chat.append(received)
        elif isinstance(received, NamesReceived):
            self.names.update((key, name) for key, name in received.names.items() if name)
        elif isinstance(received, Refused):
            stats.refused += 1
            future = self._acknowledgements.pop(received.seq, None)
            if future is not None and not future.done():
                future.set_exception(CommandRefused(received.text))
        elif isinstance(received, Pong):
            sent_s, future = self._pings.pop(received.number, (0.0, None))
            if future is not None and not future.done():
                future.set_result(time.monotonic() - sent_s)
        if self._on_message is not None:
            self._on_message(received)
        self._wake()

    def _snapshot(self, snapshot: Snapshot) -> None:
        stats = self.stats
        now_s = time.monotonic()
        if self._last_snapshot_s:
            stats.gaps.append((now_s, now_s - self._last_snapshot_s))
        self._last_snapshot_s = now_s
        stats.snapshots += 1
        stats.keyframes += snapshot.keyframe
        if self._new_socket:
            self._new_socket = False
            for seq in self.protocol.unknown:
                future = self._acknowledgements.pop(seq, None)
                if future is not None and not future.done():
                    future.set_exception(OutcomeUnknown(f"nobody can tell whether command {seq}, which was on its way, was applied"))
                    future.exception()  # nobody may be waiting any more
            if self.protocol.renumbered:
                new = self.protocol.renumbered
                self._acknowledgements = {new.get(seq, seq): future for seq, future in self._acknowledgements.items()}
            if self._leaving:
                self._write(self.protocol.leave())
        if self._acknowledgements:
            for seq in [seq for seq in self._acknowledgements if seq <= snapshot.ack]:
                future = self._acknowledgements.pop(seq)
                if not future.done():
                    future.set_result(seq)
        for queue in self._snapshot_queues:
            if queue.qsize() >= self._queue_length:
                queue.get_nowait()
                stats.queue_drops += 1
            queue.put_nowait(snapshot)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # --- sockets ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, read to the end, and connect again, until a close says that it is for good."""
        try:
            while self._ended is None:
                end = await self._one_socket()
                self._socket = None
                self._forget_pings()
                self.stats.closes.append(end)
                self._wake()
                final = self._final(end)
                if final is not None:
                    self._end(final)
                    return
                await asyncio.sleep(self._reconnecting.backoff_s())
        except ClientClosed as final:
            self._end(final)
        except Exception as error:  # noqa: BLE001 (whatever `on_message` raises: whoever waits would wait for ever)
            self.drop_socket()
            self._socket = None
            final = ClientClosed(None, f"{type(error).__name__}: {error}")
            final.__cause__ = error
            self._end(final)

    def _final(self, end: SocketEnd) -> ClientClosed | None:
        """Return why there is nothing left to try, or None to connect again."""
        code = end.code
        if self._reconnecting.is_final(code):
            return ClientClosed(code, end.reason)
        if self._leaving or not self._reconnect:
            return ClientClosed(code, end.reason or "the socket broke")
        return None

    async def _one_socket(self) -> SocketEnd:
        url = self._urls[self.stats.connects % len(self._urls)]
        self.stats.connects += 1
        try:
            token = None if self.protocol.resume else await self._fetch_token()
            socket = await connect(
                url, compression=None, max_size=MAX_SERVER_MESSAGE, proxy=None, open_timeout=self._connect_timeout_s, close_timeout=2.0,
                ping_interval=self._keep_alive_s, ping_timeout=self._keep_alive_s,
            )  # fmt: skip
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            return SocketEnd(time.monotonic(), None, f"cannot connect to {url}: {error}")
        except InvalidURI as error:
            self._end(ClientClosed(None, str(error)))
            return SocketEnd(time.monotonic(), None, str(error))
        if self.welcome is not None:
            self.stats.reconnects += 1
        self._socket, self._new_socket = socket, True
        try:
            await socket.send(self.protocol.hello(token=token))
            async for data in socket:
                if isinstance(data, bytes):
                    self._received(data)
        except ConnectionClosed as error:
            return _socket_end(error.rcvd.code if error.rcvd else None, error.rcvd.reason if error.rcvd else str(error))
        except (ProtocolError, SnapshotError) as error:
            await socket.close(1002, str(error)[:100])
            return _socket_end(None, str(error))
        return _socket_end(socket.close_code, socket.close_reason or "")

    async def _fetch_token(self) -> str:
        source = self._token
        if source is None:
            raise ProtocolError("no token to log in with")
        if isinstance(source, str):
            return source
        try:
            token = source()
            return await token if inspect.isawaitable(token) else token
        except (OSError, TimeoutError):
            raise  # of the network: it is tried again, as a gateway that is away
        except Exception as error:
            raise ClientClosed(None, f"no token to log in with: {type(error).__name__}: {error}") from error

    def _forget_pings(self) -> None:
        """The socket is gone, and what was asked on it is not answered on another one."""
        for _, future in self._pings.values():
            if not future.done():
                future.set_exception(NotReady("the socket broke"))
                future.exception()  # nobody may be waiting any more
        self._pings.clear()

    def _end(self, reason: ClientClosed) -> None:
        if self._ended is not None:
            return
        self._ended = reason
        for queue in self._snapshot_queues:
            queue.put_nowait(None)
        for future in [*self._acknowledgements.values(), *(future for _, future in self._pings.values())]:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # nobody may be waiting any more
        self._wake()


def _socket_end(code: int | None, reason: str) -> SocketEnd:
    return SocketEnd(time.monotonic(), code, reason)
