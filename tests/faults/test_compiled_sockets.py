"""Compiled sends and reads on real sockets, under what sockets do: clients that read slowly or not at all, that reset, that come and go.

The gateway runs in the loop of its processes (uvloop), with shard doubles behind it. Every client decodes all it is sent, and knows its own
body: a frame that is torn, out of order or another player's is a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Any

import pytest
import uvloop

from benchmarks._light_socket import BINARY, Frames, frame, upgrade_request
from gateway.session import Session
from perdure.client.protocol import ClientProtocol
from perdure.client.world_view import Snapshot
from perdure.wire.client_messages import encode_hello
from perdure.wire.identifiers import player_key
from tests.unit.gateway.cluster_double import Cluster, cluster, eventually

pytestmark = pytest.mark.timeout(300)

SMALL = {
    "slow_reader_bytes": 8192, "slow_reader_resume_bytes": 1024, "send_buffer_bytes": 4096,
    "slow_reader_timeout_ms": 100_000, "ping_interval_ms": 100_000, "idle_timeout_ms": 200_000,
}  # fmt: skip
HZ = 30
STEADY, SLOW, CHURNING = 3, 2, 3
LIVES = 8


class Reader:
    """One player on a socket of its own, who checks what it reads."""

    def __init__(self, c: Cluster, name: str) -> None:
        self.c, self.name = c, name
        self.serial = player_key(name) & 0xFFFF_FFFF
        self.socket = socket.socket()
        self.snapshots = self.keyframes = self.tick = 0
        self.steers = False
        self._frames = Frames()
        self._protocol = ClientProtocol()

    async def open(self, receive_bytes: int = 0) -> None:
        loop = asyncio.get_running_loop()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.setblocking(False)
        await loop.sock_connect(self.socket, ("127.0.0.1", self.c.gateway.endpoint.port))
        hello = frame(encode_hello(token=self.c.token(self.name)))
        await loop.sock_sendall(self.socket, upgrade_request(self.c.url))
        await self.read(lambda: self._frames.upgraded)
        await loop.sock_sendall(self.socket, hello)

    async def read(self, enough: Any, most: int = 65536) -> None:
        """Read until `enough()`; every snapshot is the player's own, and newer than the last."""
        while not enough():
            data = await asyncio.get_running_loop().sock_recv(self.socket, most)
            assert data, f"{self.name}: the gateway closed"
            for opcode, message in self._frames.feed(data):
                assert opcode == BINARY, f"{self.name}: opcode {opcode}, {message!r}"
                received = self._protocol.receive(message)
                if isinstance(received, Snapshot):
                    world = self._protocol.world
                    assert world is not None and world.me is not None and world.me.serial == self.serial
                    assert received.tick > self.tick
                    self.tick = received.tick
                    self.snapshots += 1
                    self.keyframes += received.keyframe
                    self.steer()

    @property
    def session(self) -> Session | None:
        return self.c.gateway.fanout.of_player(player_key(self.name))

    def steer(self) -> None:
        """Answer a snapshot with a command or two, now and then with half of one."""
        if self.steers and len(self._protocol.pending) < 16:
            data = b"".join(frame(self._protocol.command("steer", mx=1)[1]) for _ in range(1 + self.snapshots % 2))
            if self.snapshots % 7 == 0:
                self.socket.send(data[:9])
                data = data[9:]
            self.socket.send(data)

    async def until_snapshots(self, more: int) -> None:
        wanted = self.snapshots + more
        await self.read(lambda: self.snapshots >= wanted)

    def reset(self) -> None:
        """End as a client that died: whatever is on its way is answered with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


async def watch(c: Cluster, seen: set[int]) -> None:
    """At every moment, an armed row names the socket of its own session's connection."""
    gateway = c.gateway
    while True:
        for connection in gateway.endpoint._connections:
            session = connection.session
            if gateway.fanout.sends.is_armed(session):
                raw = connection.transport.get_extra_info("socket")
                row = gateway.fanout.sends._rows[session.slot & gateway.fanout.sends._mask]
                assert row["descriptor"] == raw.fileno() == connection.descriptor
                assert gateway.fanout.session(session.slot) is session
                assert connection.transport.get_write_buffer_size() == 0
                os.fstat(int(row["descriptor"]))
                seen.add(session.slot)
        armed = int((gateway.fanout.sends._rows["armed"] != 0).sum())
        assert armed <= len(gateway.endpoint._connections)
        await asyncio.sleep(0.002)


async def slow(reader: Reader, stop: asyncio.Event) -> None:
    """Read nothing until one's snapshots are dropped, then all that waits; again and again."""
    while not stop.is_set():
        await eventually(lambda: (session := reader.session) is not None and session.muted, "a reader that is too slow", 60.0)
        before = reader.keyframes
        await reader.read(lambda before=before: reader.keyframes > before)
    await reader.until_snapshots(3)


async def churn(c: Cluster, name: str) -> None:
    """Log in, see a few snapshots or none, reset; the next life begins on a socket that may have the same number."""
    for life in range(LIVES):
        reader = Reader(c, f"{name}-{life % 3}")
        await reader.open(4096 if life % 2 else 0)
        await reader.until_snapshots(life % 4)
        reader.reset()


async def scene() -> dict[str, int]:
    async with cluster(hz=HZ, **SMALL) as c:
        for shard in c.shards.values():
            shard.filler = 800
        assert c.gateway.fanout.sends.compiled
        steady = [Reader(c, f"steady{k}") for k in range(STEADY)]
        lazy = [Reader(c, f"slow{k}") for k in range(SLOW)]
        for reader in steady:
            await reader.open()
            reader.steers = True
        for reader in lazy:
            await reader.open(4096)
        stop, seen = asyncio.Event(), set[int]()
        watching = asyncio.ensure_future(watch(c, seen))
        going = [asyncio.ensure_future(reader.read(stop.is_set)) for reader in steady]
        going += [asyncio.ensure_future(slow(reader, stop)) for reader in lazy]
        async with asyncio.timeout(250):
            await asyncio.gather(*(churn(c, f"churn{k}") for k in range(CHURNING)))
            stop.set()
            for task in going:
                await task
            assert not watching.done(), watching.exception()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            # Whoever drained is served by compiled code again.
            counters = c.gateway.counters
            await eventually(lambda: len(c.gateway.endpoint._connections) == STEADY + SLOW, "the resets")
            for reader in (*steady, *lazy):
                await reader.until_snapshots(20)
            left, out = counters.frames_left_over, counters.frames_out
            await asyncio.gather(*(reader.until_snapshots(20) for reader in (*steady, *lazy)))
            told = {"left": counters.frames_left_over - left, "out": counters.frames_out - out, "armed": len(seen)}
            told |= {"slow": counters.frames_slow, "keyframes": min(reader.keyframes for reader in lazy)}
        for reader in steady:
            applied = [seq for seq, _, _ in c.player(reader.name).applied]
            assert applied == list(range(1, len(applied) + 1)) and len(applied) > 20, reader.name
        for reader in (*steady, *lazy):
            reader.socket.close()
        return told


def test_slow_readers_resets_and_partial_writes_harm_nobody() -> None:
    told = uvloop.run(scene())
    assert told["armed"] > STEADY + SLOW, "those who came and went were served by compiled code as well"
    assert told["slow"] > 0 and told["keyframes"] >= 2, "a slow reader lost snapshots, and was brought up to date"
    assert told["left"] < told["out"] / 2, "in the end it is compiled code again that sends"
