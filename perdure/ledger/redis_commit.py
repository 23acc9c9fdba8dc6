"""The commit connection: one socket on which calls go out in order and whose answers come back in order.

Owns one connection to the server that nothing else uses, and the rule that makes a lost answer harmless: nothing is ever
sent twice by this class, and after a time-out, a broken socket or an answer too many the connection is dropped, so a late
answer can never be taken for another call's. redis-py's pipeline costs three to four times the CPU of this (see
benchmarks/commit.py), and its retries would count a commit twice. Never interprets a commit. Called by redis_ledger.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable
from perdure.ledger.redis_errors import code_of, explain

NOT_LET_IN = ("NOAUTH", "NOPERM", "WRONGPASS")
MAX_IN_FLIGHT = 64
"""Batches without an answer on one connection; past it a call is refused at once, as if the ledger were away."""
CHUNK_BYTES = 1 << 18
CLOCK_S = 0.002
"""An event loop's timers may be so much early."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Commands that were sent together, and the answers to them as far as they have come."""

    expected: int
    done: asyncio.Future[list[Any]]
    deadline: float
    why_late: str
    answers: list[Any] = field(default_factory=list)


class _Pipe(asyncio.Protocol):
    """Cuts the byte stream into answers and gives them out to the batches, first come first served."""

    def __init__(self, loop: asyncio.AbstractEventLoop, where: str) -> None:
        self._loop = loop
        self._where = where
        self._reader = hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=hiredis.ReplyError)
        self._batches: deque[_Batch] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._file, self._poll = -1, select.poll()
        """The socket, where its bytes are what is received here: -1 for one with TLS."""
        self.lost: str = "not connected"

    @property
    def in_flight(self) -> int:
        return len(self._batches)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.lost = ""
        opened = transport.get_extra_info("socket")
        if opened is not None and transport.get_extra_info("sslcontext") is None:
            self._file = opened.fileno()
            self._poll.register(self._file, select.POLLIN)

    def send(self, packed: bytes, expected: int, deadline: float, why_late: str) -> asyncio.Future[list[Any]]:
        """Send commands at once; the future yields their answers, errors included as values, or raises LedgerUnavailable.

        The batch keeps its place and its deadline where the caller is cancelled: a silent server is dropped all the same.
        """
        if self._transport is None or self.lost:
            raise LedgerUnavailable(f"no answer from {self._where}: {self.lost}")
        batch = _Batch(expected, self._loop.create_future(), deadline, why_late)
        self._batches.append(batch)
        if self._watch is None or self._watch.when() > deadline:  # one for all: nearly every batch has its answers long before
            self._watch_until(deadline)
        self._transport.write(packed)
        return batch.done

    def _can_answer(self) -> bool:
        """Is `_file` this connection's (once its end is known, the number may be another's), and is all written that was sent?"""
        transport = self._transport
        return self._file >= 0 and transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    def take_in(self, wanted: asyncio.Future[list[Any]], seconds: float) -> None:
        """Wait so long for these answers, with the event loop standing still, and take in whatever comes."""
        ends_s = time.monotonic() + seconds
        while self._can_answer() and not wanted.done() and (left_s := ends_s - time.monotonic()) > 0.0:
            if not self._poll.poll(left_s * 1000):
                return
            try:
                data = os.read(self._file, CHUNK_BYTES)
            except OSError:
                return
            if not data:
                return  # its end: the event loop finds it too, and tells
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        reader, batches = self._reader, self._batches
        try:
            reader.feed(data)
            answer = reader.gets()
            while answer is not False:
                if not batches:
                    self.drop("it answered what was not asked")
                    return
                batch = batches[0]
                batch.answers.append(answer)
                if len(batch.answers) == batch.expected:
                    batches.popleft()
                    if not batch.done.done():
                        batch.done.set_result(batch.answers)
                answer = reader.gets()
        except hiredis.ProtocolError as error:
            self.drop(f"it does not speak the Redis protocol ({error})")

    def _watch_until(self, deadline: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(deadline, self._see_who_is_late)

    def _see_who_is_late(self) -> None:
        self._watch = None
        if not self._batches:
            return
        first = min(self._batches, key=lambda batch: batch.deadline)
        if first.deadline <= self._loop.time() + CLOCK_S:
            self.drop(first.why_late)
        else:
            self._watch_until(first.deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(str(exc) if exc else "it closed the connection")

    def drop(self, why: str) -> None:
        """Forget the connection: every batch in flight learns that no answer came."""
        self._file = -1
        if not self.lost:
            self.lost = why
            if self._transport is not None:
                self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._batches:
            batch = self._batches.popleft()
            if not batch.done.done():
                batch.done.set_exception(LedgerUnavailable(f"no answer from {self._where}: {why}"))
                batch.done.exception()  # who sent it may be gone: that is no fault to be told of


class CommitConnection:
    """Sends batches of packed commands; reconnects when the next batch comes after a loss. One event loop, many callers."""

    def __init__(self, url: str, name: str, deadline_s: float) -> None:
        self._url = url
        self._options: dict[str, Any] = dict(parse_url(url))
        self._name = name
        self._deadline_s = deadline_s
        self._pipe: _Pipe | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        path = self._options.get("path")
        self.where = str(path) if path else f"{self._options.get('host', 'localhost')}:{self._options.get('port', 6379)}"
        self.user = str(self._options.get("username") or "default")
        self._late = f"none came within {deadline_s:g} s"
        self.connects = 0

    async def call(self, packed: bytes, expected: int) -> list[Any]:
        """Send `expected` commands, already packed, and return their answers; error answers are values of type ReplyError.

        Raises LedgerUnavailable where not all answers came within the deadline; then nothing is known of any of them. A
        cancelled caller does no harm: its answers are still read, and dropped.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_s
        pipe = self._pipe
        if pipe is None or pipe.lost:
            try:
                async with asyncio.timeout_at(deadline):
                    pipe = await self._connect()
            except TimeoutError:
                raise LedgerUnavailable(f"no answer from {self.where}: it let nobody in for {self._deadline_s:g} s") from None
        if pipe.in_flight >= MAX_IN_FLIGHT:
            raise LedgerUnavailable(f"no answer from {self.where}: {MAX_IN_FLIGHT} calls wait for one already")
        return await pipe.send(packed, expected, deadline, self._late)

    def send(self, packed: bytes, expected: int) -> asyncio.Future[list[Any]] | None:
        """As `call`, written when this returns, with the answers to come; None where nothing was sent: there is no connection, or too many
        calls wait on it."""
        pipe = self._pipe
        if pipe is None or pipe.lost or pipe.in_flight >= MAX_IN_FLIGHT:
            return None
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        return pipe.send(packed, expected, deadline, self._late)

    def take_in(self, wanted: asyncio.Future[list[Any]], seconds: float) -> None:
        """Wait so long for what `send` gave, with the event loop standing still."""
        if self._pipe is not None:
            self._pipe.take_in(wanted, seconds)

    async def _connect(self) -> _Pipe:
        async with self._connecting:
            if self._pipe is not None and not self._pipe.lost:
                return self._pipe
            if self._closed:
                raise LedgerUnavailable("the ledger's client is closed")
            loop = asyncio.get_running_loop()
            options = self._options
            pipe = _Pipe(loop, self.where)
            try:
                if options.get("path"):
                    await loop.create_unix_connection(lambda: pipe, options["path"])
                else:
                    host, port = options.get("host", "localhost"), options.get("port", 6379)
                    await loop.create_connection(lambda: pipe, host, port, ssl=self._tls())
            except OSError as error:
                raise LedgerUnavailable(f"no answer from {self.where}: {error.strerror or error}") from error
            try:
                await self._introduce(pipe)
            except BaseException:
                pipe.drop("it was given up while connecting")
                raise
            self._pipe = pipe
            self.connects += 1
            return pipe

    async def _introduce(self, pipe: _Pipe) -> None:
        options, commands = self._options, []
        if options.get("password") is not None:
            user = (options["username"],) if options.get("username") else ()
            commands.append(("AUTH", *user, options["password"]))
        if options.get("db"):
            commands.append(("SELECT", str(options["db"])))
        commands.append(("CLIENT", "SETNAME", self._name))
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        answers = await pipe.send(pack(commands), len(commands), deadline, self._late)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                kind = LedgerRefused if code_of(answer) in NOT_LET_IN else LedgerUnavailable
                raise kind(explain(self.where, answer, self.user))

    def _tls(self) -> ssl.SSLContext | None:
        if self._options.get("connection_class") is not SSLConnection:
            return None
        connection = SSLConnection(**{key: value for key, value in self._options.items() if key != "connection_class"})
        return connection.ssl_context.get()

    def close(self) -> None:
        """Drop the connection for good."""
        self._closed = True
        if self._pipe is not None:
            self._pipe.drop("the ledger's client was closed")


def pack(commands: Sequence[tuple[str | bytes | int, ...]]) -> bytes:
    """Return commands as bytes on the wire."""
    return b"".join([hiredis.pack_command(cast(Any, command)) for command in commands])
