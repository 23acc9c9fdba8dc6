"""Wandering bots: many players in one loop, driven by the schema alone, so they play any game.

Each bot picks random values within the ranges of a command's fields, holds them for a while, and keeps count of all that a
test of zero loss wants to know. No knowledge of any game. Called by the CLI (`perdure bots`), benchmarks and tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perdure.client.connection import Client, ClientClosed, SocketEnd
from perdure.client.protocol import NotReady, Received, Refused, Welcome
from perdure.client.world_view import Snapshot
from perdure.game.schema import CommandSchema
from perdure.wire.opcodes import Close
from perdure.wire.tokens import make_token

TOKEN_TTL_S = 300.0


class SessionPlayed(NamedTuple):
    """One session of a bot. `first_ack`: what its first snapshot acknowledged. `before`: how many of the report's `acknowledged` come
    before it; those that this snapshot acknowledged are of the session before."""

    session: int
    first_ack: int
    before: int


@dataclass(slots=True)
class BotReport:
    """What one bot saw. `gaps`: (monotonic time, seconds since the snapshot before). `acknowledged`: own command numbers.

    Numbers go on over sessions and logouts; they go back only where a ledger forgot. `sessions` tells which of them are of which session.
    """

    name: str
    entered: bool = False
    sent: int = 0
    refused: int = 0
    acknowledged: list[int] = field(default_factory=list)
    sessions: list[SessionPlayed] = field(default_factory=list)
    unacknowledged: list[int] = field(default_factory=list)
    acknowledged_lost: int = 0
    snapshots: int = 0
    bytes: int = 0
    reconnects: int = 0
    queue_drops: int = 0
    gaps: Sequence[tuple[float, float]] = ()
    socket_drops: list[SocketEnd] = field(default_factory=list)
    backward_ticks: int = 0
    error: str = ""

    @property
    def longest_gap_s(self) -> float:
        return max((gap for _, gap in self.gaps), default=0.0)

    @property
    def resumes_refused(self) -> int:
        """How often its resume token was refused, so that it logged in by token."""
        return sum(end.code == Close.BAD_RESUME for end in self.socket_drops)


@dataclass(slots=True)
class BotsReport:
    """All bots of one run."""

    bots: list[BotReport]

    @property
    def longest_gap_s(self) -> float:
        return max((bot.longest_gap_s for bot in self.bots), default=0.0)

    @property
    def socket_drops(self) -> int:
        return sum(len(bot.socket_drops) for bot in self.bots)

    @property
    def acknowledged_lost(self) -> int:
        return sum(bot.acknowledged_lost for bot in self.bots)

    def gap_percentile_s(self, percent: float) -> float:
        """Return a percentile of all gaps between snapshots."""
        gaps = sorted(gap for bot in self.bots for _, gap in bot.gaps)
        return gaps[min(int(len(gaps) * percent / 100), len(gaps) - 1)] if gaps else 0.0

    def summary(self) -> dict[str, Any]:
        """Return the figures that people ask for first."""
        return {
            "bots": len(self.bots),
            "entered": sum(bot.entered for bot in self.bots),
            "errors": sorted({bot.error for bot in self.bots if bot.error}),
            "snapshots": sum(bot.snapshots for bot in self.bots),
            "bytes": sum(bot.bytes for bot in self.bots),
            "commands_sent": sum(bot.sent for bot in self.bots),
            "commands_acknowledged": sum(len(bot.acknowledged) for bot in self.bots),
            "commands_refused": sum(bot.refused for bot in self.bots),
            "acknowledged_lost": self.acknowledged_lost,
            "socket_drops": self.socket_drops,
            "reconnects": sum(bot.reconnects for bot in self.bots),
            "backward_ticks": sum(bot.backward_ticks for bot in self.bots),
            "gap_p50_ms": round(1000 * self.gap_percentile_s(50), 1),
            "gap_p99_ms": round(1000 * self.gap_percentile_s(99), 1),
            "gap_max_ms": round(1000 * self.longest_gap_s, 1),
            "gap_mean_ms": round(1000 * statistics.fmean([g for b in self.bots for _, g in b.gaps] or [0.0]), 1),
        }


class Bot:
    """One wandering player."""

    def __init__(self, url: str | Sequence[str], secret: str, name: str, *, commands_hz: float, hold_s: float, seed: int) -> None:
        self.report = BotReport(name)
        self.client = Client(url, lambda: make_token(secret, name, TOKEN_TTL_S), on_message=self._message, connect_timeout_s=60.0)
        self._random = random.Random(seed)
        self._interval_s = 1.0 / commands_hz
        self._hold_s = hold_s
        self._sent: list[int] = []
        self._tick = 0
        self._zone = -1
        self._session = 0
        """The session whose first snapshot is due; 0: it is here."""

    def _message(self, received: Received) -> None:
        if isinstance(received, Welcome):
            self._session = received.session
        if isinstance(received, Refused):
            self._sent = [seq for seq in self._sent if seq < received.seq]
        if not isinstance(received, Snapshot):
            return
        if received.zone == self._zone and received.tick <= self._tick:
            self.report.backward_ticks += 1
        self._zone, self._tick = received.zone, received.tick
        if self._session:
            unknown, new = self.client.protocol.unknown, self.client.protocol.renumbered
            self._sent = [new.get(seq, seq) for seq in self._sent if seq not in unknown]
        sent = self._sent
        while sent and sent[0] <= received.ack:
            self.report.acknowledged.append(sent.pop(0))
        if self._session:
            self.report.sessions.append(SessionPlayed(self._session, received.ack, len(self.report.acknowledged)))
            self._session = 0

    def _values(self, command: CommandSchema) -> dict[str, float | int]:
        values: dict[str, float | int] = {}
        for f in command.fields:
            if f.is_float:
                values[f.name] = self._random.uniform(f.lo, f.hi)
            else:
                values[f.name] = self._random.randint(int(f.lo), int(f.hi))
        return values

    async def play(self, stop: asyncio.Event) -> BotReport:
        """Play until `stop` is set, or until a close that is for good; never raises ClientClosed or TimeoutError."""
        client, report = self.client, self.report
        try:
            await client.connect()
            report.entered = True
            await self._wander(stop)
        except (ClientClosed, TimeoutError) as error:
            report.error = str(error) or type(error).__name__
        finally:
            await client.close()
            stats = client.stats
            report.refused, report.snapshots, report.bytes = stats.refused, stats.snapshots, stats.bytes
            report.reconnects, report.queue_drops = stats.reconnects, stats.queue_drops
            report.gaps = list(stats.gaps)
            report.socket_drops = list(stats.closes)
            report.unacknowledged = list(self._sent)
            report.acknowledged_lost = client.protocol.acknowledged_lost
        return report

    async def _wander(self, stop: asyncio.Event) -> None:
        client = self.client
        loop = asyncio.get_running_loop()
        commands = list(client.protocol.commands.values())
        await asyncio.sleep(self._random.uniform(0, self._interval_s))  # so that bots do not send in step
        hold_until_s = 0.0
        command, values = commands[0], {}
        next_s = loop.time()
        while not stop.is_set():
            if client.ended is not None:
                raise client.ended
            if loop.time() >= hold_until_s:
                command = self._random.choice(commands)
                values = self._values(command)
                hold_until_s = loop.time() + self._random.uniform(0.2, 1.0) * self._hold_s
            with contextlib.suppress(NotReady):  # the zone is paused or has just moved: skip this one, as a player's client would
                self._sent.append(client.send_command(command.name, **values))
                self.report.sent += 1
            next_s = max(next_s + self._interval_s, loop.time())
            await asyncio.sleep(next_s - loop.time())


async def run_bots(
    url: str | Sequence[str],
    secret: str,
    count: int,
    prefix: str = "bot",
    *,
    duration_s: float | None = None,
    stop: asyncio.Event | None = None,
    commands_hz: float = 10.0,
    hold_s: float = 2.0,
    joins_at_once: int = 50,
    seed: int = 1,
    all_entered: asyncio.Event | None = None,
    first: int = 0,
    make: type[Bot] = Bot,
) -> BotsReport:
    """Run `count` bots named prefix0, prefix1, ... (from `first` on) until `stop` is set or `duration_s` after all have entered.

    `all_entered` is set once every bot is in the world or has failed. At most `joins_at_once` log in at the same time.
    """
    stopping = stop if stop is not None else asyncio.Event()
    gate = asyncio.Semaphore(joins_at_once)
    numbers = range(first, first + count)
    bots = [make(url, secret, f"{prefix}{k}", commands_hz=commands_hz, hold_s=hold_s, seed=seed * 1_000_003 + k) for k in numbers]

    async def play(bot: Bot) -> BotReport:
        async with gate:
            try:
                await bot.client.connect()
            except (ClientClosed, TimeoutError) as error:
                bot.report.error = str(error) or type(error).__name__
        return await bot.play(stopping) if not bot.report.error else await _given_up(bot)

    tasks = [asyncio.ensure_future(play(bot)) for bot in bots]
    try:
        while not all(bot.report.entered or bot.report.error for bot in bots) and not stopping.is_set():
            await asyncio.sleep(0.02)
        if all_entered is not None:
            all_entered.set()
        if duration_s is not None:
            try:
                async with asyncio.timeout(duration_s):
                    await stopping.wait()
            except TimeoutError:
                stopping.set()
        return BotsReport(list(await asyncio.gather(*tasks)))
    finally:
        stopping.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _given_up(bot: Bot) -> BotReport:
    await bot.client.close()
    bot.report.socket_drops = [end for end in bot.client.stats.closes if end.code != Close.LOGGED_OUT]
    return bot.report


__all__ = ["Bot", "BotReport", "BotsReport", "SessionPlayed", "run_bots"]
