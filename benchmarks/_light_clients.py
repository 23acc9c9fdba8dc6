"""Clients that cost next to nothing: they log in, resume, count the bytes that come, and look at no snapshot but the first of a socket.

`Herd` is the runner's side: one process of its own with all the clients, told what to do by lines. Run as a module, this is that process.
Orders: `break` aborts every socket at once, and each client resumes as a client should (by its resume token, with the SDK's backoff);
`slow` has the clients read too slowly from now on: every second of them nothing at all, the others in turns; `quick` has them read
again, and waits until all are in the world; `stop` ends. Answers are JSON objects, one a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from perdure.cli.children import die_with_parent
from perdure.client.connection import SocketEnd
from perdure.client.frames import CLOSE, Frames, close_code, frame, upgrade_request
from perdure.client.reconnect import BACKOFF_FIRST_S, BACKOFF_MOST_S, STAGGER_S
from perdure.wire.client_messages import encode_hello
from perdure.wire.opcodes import Close, ServerOp
from perdure.wire.tokens import make_token

SMALL_BUFFER = 4096
PAUSE_S, GULP_S = 12.0, 3.0
"""Who reads in turns reads nothing for so long, then everything for so long."""
NOTICE_S = 1.0
"""Once they read again, clients have so long to notice that their socket has ended."""
ANSWER_S = 10.0
"""Before the runner's patience is over, whoever is not in by then is told of."""
LINE_BYTES = 1 << 24
"""An answer may be as long as this."""
BACK_DEADLINE_S = 45.0
"""After a break, whoever is not back by then is told of."""


class Herd:
    """So many light clients in a process of their own."""

    module = "benchmarks._light_clients"

    def __init__(self, folder: Path, urls: Sequence[str], secret: str, count: int, *, prefix: str, small_buffers: bool = False) -> None:
        self._log = folder / f"{prefix}.log"
        self.order: dict[str, Any] = {"urls": list(urls), "secret": secret, "count": count, "prefix": prefix, "small": small_buffers}
        self.names = [f"{prefix}{k}" for k in range(count)]
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, deadline_s: float) -> dict[str, Any]:
        """Start it and return what it says once all are in."""
        with open(self._log, "ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self.module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent, limit=LINE_BYTES,
            )  # fmt: skip
        return await self.ask(json.dumps(self.order | {"enter_s": deadline_s - ANSWER_S}), deadline_s)

    async def ask(self, order: str, deadline_s: float) -> dict[str, Any]:
        """Give an order; return its answer."""
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        child.stdin.write(order.encode() + b"\n")
        try:
            async with asyncio.timeout(deadline_s):
                line = await child.stdout.readline()
        except TimeoutError:
            what = order if order.isalpha() else "enter"
            raise TimeoutError(f"the light clients were to {what}, and {deadline_s:g} s later not all had; see {self._log}") from None
        if not line:
            raise RuntimeError(f"the light clients ended; see {self._log}")
        return json.loads(line)

    async def kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()


class LightPlayer(asyncio.Protocol):
    """One player over any number of sockets."""

    def __init__(self, herd: Players, name: str, number: int) -> None:
        self.herd, self.name, self.number = herd, name, number
        # Players come from many addresses, and there is a cap for each: these come from many of the loopback's.
        self._address = f"127.0.{number // 200}.{number % 200 + 1}"
        self.transport: asyncio.Transport | None = None
        self._resume = ""
        self.frames = Frames()
        self.playing = False
        self.tries = self.sockets = self.bytes = self.session = 0
        self.ends: list[SocketEnd] = []
        """How each socket that is over ended, in order."""
        self._close: tuple[int | None, str] = (None, "")
        self.stopped = False
        self.slowness: asyncio.Task[None] | None = None

    def dial(self) -> None:
        task = asyncio.get_running_loop().create_task(self._dial())
        self.herd.tasks.add(task)
        task.add_done_callback(self.herd.tasks.discard)

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        url = urlsplit(self.herd.urls[(self.number + self.sockets) % len(self.herd.urls)])
        self.sockets += 1
        self.frames = Frames()
        made = socket.socket()
        made.setblocking(False)
        try:
            if self.herd.small:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            made.bind((self._address, 0))
            await loop.sock_connect(made, (str(url.hostname), int(url.port or 80)))
            transport, _ = await loop.create_connection(lambda: self, sock=made)
        except OSError as error:
            made.close()
            self._over(f"cannot connect: {error}")
            return
        transport.write(upgrade_request(url.geturl()))

    def _over(self, why: str) -> None:
        """A socket is over: by a close frame that said why, or because of `why`."""
        code, reason = self._close
        self._close = None, ""
        self.ends.append(SocketEnd(time.monotonic(), code, reason or why))
        self._again()

    def _again(self) -> None:
        """Come again, as the SDK does; but also where it would not (4015), so that a crowd stays one."""
        self.playing = False
        self.tries += 1
        if self.stopped:
            return
        wait = random.uniform(0, STAGGER_S)
        if self.tries > 1:
            wait = random.uniform(0.5, 1.0) * min(BACKOFF_FIRST_S * 2 ** (self.tries - 2), BACKOFF_MOST_S)
        asyncio.get_running_loop().call_later(wait, self.dial)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._over(f"the socket broke: {exc}" if exc else "the socket broke")

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        if self.playing:
            return  # what it shows is for nobody
        upgraded = self.frames.upgraded
        try:
            frames = self.frames.feed(data)
        except ValueError:
            self.abort()
            return
        if not upgraded and self.frames.upgraded:
            self._hello()
        for opcode, message in frames:
            self.message(opcode, message)

    def _hello(self) -> None:
        if self._resume:
            message = encode_hello(resume=self._resume)
        else:
            message = encode_hello(token=make_token(self.herd.secret, self.name))
        assert self.transport is not None
        self.transport.write(frame(message))

    def message(self, opcode: int, body: bytes) -> None:
        """Take one message of the time before the first snapshot."""
        if opcode == CLOSE:
            self._close = close_code(body)
            self.herd.closes.append(self._close[0] or 0)
            if self._close[0] == Close.BAD_RESUME:
                self._resume = ""
            self.abort()
        elif opcode == 2:
            message = msgspec.msgpack.decode(body)
            if message[0] == ServerOp.WELCOME:
                self._resume, self.session = message[1]["resume"], message[1]["session"]
            elif message[0] == ServerOp.SNAPSHOT and not self.playing:
                self.playing, self.tries = True, 0
                self.entered(message)
                self.herd.plays()

    def entered(self, snapshot: list[Any]) -> None:
        """The first snapshot of a socket: for who does more than count bytes."""

    @property
    def mute(self) -> bool:
        """Whether it has an open socket, has said hello, and has been shown nothing."""
        return self.transport is not None and self.frames.upgraded and not self.playing

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def slow(self) -> None:
        self.slowness = self.slowness or asyncio.get_running_loop().create_task(self._slow())

    async def _slow(self) -> None:
        in_turns = self.number % 2 == 1
        while self.transport is not None:
            self.transport.pause_reading()
            await asyncio.sleep(PAUSE_S)
            if in_turns and self.transport is not None:
                self.transport.resume_reading()
                await asyncio.sleep(GULP_S)

    def quick(self) -> None:
        if self.slowness is not None:
            self.slowness.cancel()
            self.slowness = None
        if self.transport is not None:
            self.transport.resume_reading()


class Players:
    """All of them, in this process."""

    player: type[LightPlayer] = LightPlayer

    def __init__(self, order: dict[str, Any]) -> None:
        self.urls: list[str] = order["urls"]
        self.secret, self.small = str(order["secret"]), bool(order["small"])
        self._enter_s = float(order["enter_s"])
        self.tasks: set[asyncio.Task[None]] = set()
        self.closes: list[int] = []
        self.clients = [self.player(self, f"{order['prefix']}{k}", k) for k in range(order["count"])]
        self._changed = asyncio.Event()

    def plays(self) -> None:
        self._changed.set()

    async def until_playing(self, share: float) -> float:
        """Wait until so great a share of the clients is in the world; return how long it took."""
        began = time.monotonic()
        wanted = round(share * len(self.clients))
        while sum(client.playing for client in self.clients) < wanted:
            self._changed.clear()
            await self._changed.wait()
        return time.monotonic() - began

    async def enter(self, at_once: int) -> dict[str, Any]:
        """Have all of them log in, so many at a time; return how many are in, and where the others are if that takes too long."""
        try:
            async with asyncio.timeout(self._enter_s):
                for at in range(0, len(self.clients), at_once):
                    for client in self.clients[at : at + at_once]:
                        client.dial()
                    await self.until_playing(min(1.0, (at + at_once) / len(self.clients)))
        except TimeoutError:
            return self.away()
        return {"in": len(self.clients)}

    def away(self) -> dict[str, Any]:
        """Say who has begun and is not in the world: on an open socket that shows nothing (mute), or still on the way."""
        away = [client for client in self.clients if client.sockets and not client.playing]
        mute = sum(client.mute for client in away)
        return {"in": self.count()["playing"], "away": len(away), "mute": mute, "names": [client.name for client in away[:5]]}

    async def break_all(self) -> dict[str, Any]:
        self.closes.clear()
        for client in self.clients:
            client.playing = False
            client.abort()
        began = time.monotonic()
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(BACK_DEADLINE_S):
                for name, share in (("back_90_s", 0.9), ("back_all_s", 1.0)):
                    await self.until_playing(share)
                    found[name] = round(time.monotonic() - began, 2)
        except TimeoutError:
            found |= self.away()
        return {**found, "closes": self.closes[:20]}

    def slow(self) -> dict[str, Any]:
        for client in self.clients:
            client.slow()
        return {"silent": len(self.clients[::2]), "in_turns": len(self.clients[1::2])}

    async def quick(self) -> dict[str, Any]:
        for client in self.clients:
            client.quick()
        await asyncio.sleep(NOTICE_S)
        try:
            async with asyncio.timeout(BACK_DEADLINE_S):
                await self.until_playing(1.0)
        except TimeoutError:
            return self.away()
        return self.count()

    def count(self) -> dict[str, Any]:
        return {"playing": sum(client.playing for client in self.clients), "sockets": sum(client.sockets for client in self.clients),
                "bytes": sum(client.bytes for client in self.clients)}  # fmt: skip

    async def command(self, order: str) -> dict[str, Any] | None:
        """Carry out an order; return its answer, or None where the process is to end."""
        if order == "break":
            return await self.break_all()
        if order == "slow":
            return self.slow()
        if order == "quick":
            return await self.quick()
        return self.count() if order == "count" else None

    def stop(self) -> None:
        for client in self.clients:
            client.stopped = True
            client.abort()


async def serve(kind: type[Players]) -> None:
    """Read orders from standard input until it ends; answer each with one line."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    clients = kind(json.loads(await lines.readline()))
    print(json.dumps(await clients.enter(50)), flush=True)
    while order := (await lines.readline()).decode().strip():
        answer = await clients.command(order)
        if answer is None:
            break
        print(json.dumps(answer), flush=True)
    clients.stop()


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(Players))
