"""The players of a simulated run: the real client, steered by chance, with everything that it receives handed to the checks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from perdure.client.connection import Client, ClientClosed, CommandRefused, OutcomeUnknown
from perdure.client.protocol import ProtocolError, Received, Welcome
from perdure.client.world_view import Snapshot
from perdure.wire.tokens import make_token
from tests.simulation.cluster import SECRET, Cluster

POISON = 65_535
"""The tag that the game's rules fail on (tests/data/bazaar.py)."""


class Player:
    """One person, who comes back after every end, by whatever gateway."""

    def __init__(self, cluster: Cluster, number: int, seed: int) -> None:
        self.cluster, self.name = cluster, f"player-{number}"
        self.random = random.Random(seed * 1_000_003 + number)
        self.client: Client | None = None
        self._sessions: dict[Client, set[int]] = {}
        """What each device of this player was welcomed under, in 16 bits."""
        self.seen: dict[int, tuple[int, int]] = {}
        self._behind: dict[Client, int] = {}
        """How often sessions of each device began behind what it had been told before."""
        self.tag = number * 4096
        self.last_heard_s = self.last_ack_s = 0.0
        self.closes: list[tuple[float, str]] = []
        self.out_until_s = 0.0
        """Leave, and do not come in before."""
        self.heading: tuple[int, int] | None = None
        """Walk this way, and do not come back."""
        self.resting = False
        """Set at the end of a run: play on, but send no more."""
        self.process = cluster.machines.spawn(self.name, cluster.host_of(self.name), self.main)
        self.process.loop.network = cluster.network
        self._commands: set[asyncio.Task[None]] = set()

    async def main(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self.out_until_s - self.cluster.machines.now))
            urls = self.cluster.urls()
            self.random.shuffle(urls)
            self.client = self._device(urls, self._received)
            try:
                async with self.client:
                    await self._play(self.client)
            except (ClientClosed, TimeoutError) as error:
                self.closes.append((self.cluster.machines.now, str(error) or type(error).__name__))
            await asyncio.sleep(self.random.uniform(0.1, 1.0))

    def _device(self, urls: list[str], shown: Callable[[Received], None]) -> Client:
        sessions: set[int] = set()

        def received(message: Received) -> None:
            if isinstance(message, Welcome):
                sessions.add(message.session & 0xFFFF)
            shown(message)

        client = Client(urls, lambda: make_token(SECRET, self.name, 600.0), on_message=received, connect_timeout_s=5.0)
        self._sessions[client] = sessions
        return client

    def _looks_behind(self, client: Client, ack: int) -> None:
        lost = client.protocol.acknowledged_lost
        if lost != self._behind.get(client, 0):
            self._behind[client] = lost
            self.cluster.checks.began_behind(self.name, ack)

    def send_poison(self) -> None:
        """A command that the rules fail on."""
        if self.process.alive:
            self.process.loop.call_soon(self._poison)

    def _poison(self) -> None:
        client = self.client
        if client is not None and client.ended is None and client.connected:
            try:
                client.send_command("walk", dx=0, dy=0, tag=POISON)
            except ProtocolError as error:  # not the moment for it
                self.closes.append((self.cluster.machines.now, f"no poison: {error}"))

    def change_gateway(self) -> None:
        """The socket breaks with commands in flight; the client comes back by the next gateway that it knows."""
        if self.process.alive:
            self.process.loop.call_soon(self._change)

    def _change(self, away_s: float = 0.0) -> None:
        client = self.client
        if client is None or client.ended is not None or not client.connected or self.resting:
            return
        for _ in range(3):
            self.tag = self.tag % 65_534 + 1
            task = asyncio.ensure_future(self._command(client, False, self.tag))
            self._commands.add(task)
            task.add_done_callback(self._commands.discard)
        self.process.loop.call_later(self.random.uniform(0.0, 0.1), self._drop, client, away_s)

    def _drop(self, client: Client, away_s: float) -> None:
        client.drop_socket()
        if away_s:
            self.process.stop()
            self.cluster.machines.later(away_s, self.process.go_on)

    def cut_off(self, for_s: float) -> None:
        """The socket breaks with commands in flight, and nobody hears of the player for so long."""
        if self.process.alive:
            self.process.loop.call_soon(self._change, for_s)

    def log_in_elsewhere(self, for_s: float) -> None:
        """The same player from a second device, which takes over; when it is gone, the first one comes back."""
        if self.process.alive:
            self.process.loop.call_soon(self._second, for_s)

    def _second(self, for_s: float) -> None:
        task = asyncio.ensure_future(self._elsewhere(for_s))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _elsewhere(self, for_s: float) -> None:
        client = self._device(self.cluster.urls(), lambda received: None)
        try:
            async with client, asyncio.timeout(for_s):
                while client.ended is None:
                    self.tag = self.tag % 65_534 + 1
                    await self._command(client, False, self.tag)
                    await asyncio.sleep(0.2)
        except (ClientClosed, TimeoutError) as error:
            self.closes.append((self.cluster.machines.now, f"second device: {error}"))

    async def _play(self, client: Client) -> None:
        until = asyncio.get_running_loop().time() + self.random.uniform(5.0, 60.0)
        while self.resting or asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self.random.uniform(0.05, 0.4))
            if client.ended is not None:
                raise client.ended
            if self.resting:
                continue
            if self.out_until_s > self.cluster.machines.now:
                await client.leave(10.0)
                return
            chance = self.random.random()
            if chance < 0.01:
                client.drop_socket()
            elif len(self._commands) < 20:
                self.tag = self.tag % 65_534 + 1
                task = asyncio.ensure_future(self._command(client, chance < 0.15, self.tag))
                self._commands.add(task)
                task.add_done_callback(self._commands.discard)
        if self.random.random() < 0.3 and not self.resting:
            await client.leave(10.0)

    async def _command(self, client: Client, drop: bool, tag: int) -> None:
        dx, dy = self.random.randint(-1, 1), self.random.randint(-1, 1)
        if self.heading is not None:
            dx, dy = self.heading
        values: dict[str, Any] = {} if drop else {"dx": dx, "dy": dy}
        self.cluster.checks.sent(self.name, tag, self._sessions[client])
        try:
            seq = await client.command("drop" if drop else "walk", tag=tag, **values)
        except (ClientClosed, CommandRefused, OutcomeUnknown, ProtocolError):
            return
        self.last_ack_s = self.cluster.machines.now
        self.cluster.checks.told_applied(self.name, seq, tag)

    def _received(self, received: Received) -> None:
        if not isinstance(received, Snapshot):
            return
        checks, client = self.cluster.checks, self.client
        assert client is not None
        self.last_heard_s = self.cluster.machines.now
        self._looks_behind(client, received.ack)
        before = self.seen.get(received.zone)
        if before is not None and received.tick < before[1]:
            checks.fail(f"time: {self.name} saw tick {received.tick} of zone {received.zone} after tick {before[1]}")
        self.seen[received.zone] = received.epoch, received.tick
        checks.shown(self.name, received.zone, received.epoch, received.tick, client.world.me)
        checks.sights.shown(self.name, received, client.world)
