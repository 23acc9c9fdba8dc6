"""A local cluster with bots in it, watched: what the benchmarks of failover, migration, zombies and crossing share.

The bots are the SDK's, which decode all that they are shown; a lean swarm beside them makes up the number of players, counts the
same things of each, and decodes a twentieth.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks._audit import Audit, audit
from benchmarks._log_watch import LogWatch
from benchmarks._watched_swarm import WatchedSwarm
from perdure.cli.local_cluster import LocalCluster
from perdure.client.bots import BotReport, BotsReport, run_bots
from perdure.game.loading import load_game
from perdure.ledger.values import ClusterView
from perdure.wire.identifiers import player_key
from shard.audit import AuditReport
from shard.audit import audit as audit_world
from shard.program import compile_program

GAME = "games/arena"
COMMANDS_HZ = 10.0
STEERING = [(mx, my, fire) for fire in (0, 0, 1) for mx, my in ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))]
"""What the swarm does, another each second: a circle of eight turns is 1,600 wide, so that borders are crossed all the time."""
ENTER_DEADLINE_S = 300.0
APART_S = 0.25
"""A window in which gaps are looked for ends so long before the next fault: what is under way at its end is not of that one."""
HISTOGRAM_MS = 10
console = Console(stderr=True)


@dataclass
class Playing:
    """A run: the cluster, the watched log, and when it is over, what bots and audit say."""

    cluster: LocalCluster
    watch: LogWatch
    bots: asyncio.Task[BotsReport] | None = None
    names: list[str] = field(default_factory=list)
    report: BotsReport | None = None
    swarm: WatchedSwarm | None = None
    decode_faults: int = 0
    """Snapshots that the swarm's sample could not decode."""
    audit: Audit | None = None
    world: AuditReport | None = None
    """What `perdure audit` says of the whole world; None where nobody was to ask it."""

    async def owners(self) -> tuple[ClusterView, dict[str, str]]:
        """Return the view, and for every player online the shard that runs its zone."""
        view = await self.cluster.ledger.view()
        online = await self.cluster.ledger.online()
        return view, {p.name: view.zones[p.place].owner for p in online if p.place in view.zones}

    async def until(self, what: str, condition: Callable[[ClusterView], bool], deadline_s: float = 60.0) -> ClusterView:
        """Wait until the cluster's view meets a condition."""
        deadline = time.monotonic() + deadline_s
        while True:
            view = await self.cluster.ledger.view()
            if condition(view):
                return view
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {deadline_s:.0f} s still not: {what}; logs are in {self.cluster.folder}")
            await asyncio.sleep(0.02)

    def commands(self) -> dict[str, int]:
        """Compare what bots were told is applied with what the logs held.

        A player whose first acknowledgement of a session is below what it was told before has lost commands. Numbers go on where it came in
        from the lobby meanwhile; that it was put out is a fault by itself (`entered_anew`). Where it comes from there with lower numbers,
        since the ledger has forgotten it, these are looked at apart.
        A command that no watched record holds, nor an image that an owner put back into a ledger that forgot, is lost; where
        records went unwatched, it counts as unwatched instead, and the run does not pass: it proves too little, and says so.
        """
        assert self.report is not None
        lost = missing = duplicated = acknowledged = anew = 0
        for bot in self.report.bots:
            player = player_key(bot.name)
            begins, behind, entered = _stays(bot, self.watch)
            lost, anew, acknowledged = lost + behind, anew + entered, acknowledged + len(bot.acknowledged)
            stays = self.watch.applied_in_stays(player, begins)
            restored = [0] * len(stays)
            for session, last in self.watch.restored.get(player, ()):
                stay = bisect.bisect_right(begins, session)
                restored[stay] = max(restored[stay], last)
            for session, told in _told(bot):
                stay = bisect.bisect_right(begins, session)
                missing += sum(seq not in stays[stay] and seq > restored[stay] for seq in told)
            duplicated += sum(count > 1 for stay in stays for count in stay.values())
        unwatched = missing if self.watch.unwatched else 0
        return {
            "commands_acknowledged": acknowledged, "commands_lost": lost + missing - unwatched,
            "commands_duplicated": duplicated, "commands_unwatched": unwatched, "entered_anew": anew,
        }  # fmt: skip

    def faults(self) -> list[str]:
        """Return all that was found to be wrong, a line each."""
        assert self.audit is not None
        found = [*self.audit.replay_mismatches, *self.watch.faults, *(self.world.faults if self.world is not None else ())]
        for what, serials in (("lost", self.audit.relics_lost), ("there twice", self.audit.relics_duplicated)):
            found += [f"relic {serial} is {what}" for serial in serials]
        return [*found, *self.audit.players_lost, *self.audit.players_duplicated]

    def verdict(self) -> dict[str, Any]:
        """The counts that must all be zero, beside how much was checked."""
        assert self.report is not None and self.audit is not None
        entered = sum(bot.entered for bot in self.report.bots)
        return {
            "bots": len(self.report.bots), "bots_entered": entered, "snapshots": sum(b.snapshots for b in self.report.bots),
            "sockets_dropped": self.report.socket_drops, "resumes_refused": sum(bot.resumes_refused for bot in self.report.bots),
            "players_lost": len(self.audit.players_lost), "players_duplicated": len(self.audit.players_duplicated), **self.commands(),
            "stale_frames": sum(b.backward_ticks for b in self.report.bots), "decode_faults": self.decode_faults,
            "gold_delta": self.audit.gold_delta, "gold_minted": self.audit.gold_minted,
            "relics_lost": len(self.audit.relics_lost), "relics_duplicated": len(self.audit.relics_duplicated),
            "relics_made": self.audit.relics_made,
            "replay_mismatches": len(self.audit.replay_mismatches), "log_faults": len(self.watch.faults),
            "audit_faults": len(self.world.faults) if self.world is not None else 0,
            "log_records": self.watch.records, "log_unwatched": self.watch.unwatched,
        }  # fmt: skip


def socket_ends(report: BotsReport) -> list[str]:
    """Return why sockets ended, with how often: the most frequent reason first."""
    ends = Counter(f"{end.code or 'no code'}: {end.reason}" for bot in report.bots for end in bot.socket_drops)
    return [f"{count} x {why}" for why, count in ends.most_common()]


def _told(bot: BotReport) -> Iterator[tuple[int, list[int]]]:
    """Yield each session of a bot with what was acknowledged in it; all in one where its sessions are not known."""
    begins = [played.before for played in bot.sessions[1:]]
    numbers = [played.session for played in bot.sessions] or [0]
    for session, first, last in zip(numbers, [0, *begins], [*begins, len(bot.acknowledged)], strict=True):
        yield session, bot.acknowledged[first:last]


def _stays(bot: BotReport, watch: LogWatch) -> tuple[list[int], int, int]:
    """Return the sessions with which a bot came in from the lobby with lower numbers, how often it was behind what it had been told, and
    how often it came in from the lobby."""
    begins, behind, entered = [], 0, 0
    for (played, following), (_, told) in zip(itertools.pairwise(bot.sessions), _told(bot), strict=False):
        came_in = watch.came_in(player_key(bot.name), played.session, following.session)
        entered += came_in
        if following.first_ack < max([played.first_ack, *told[-1:]]):
            behind += 1
            if came_in:
                begins.append(following.session)
    return begins, behind, entered


ZEROES = ("sockets_dropped", "resumes_refused", "entered_anew", "players_lost", "players_duplicated", "commands_lost",
          "commands_duplicated", "commands_unwatched", "stale_frames", "decode_faults", "gold_delta", "relics_lost", "relics_duplicated",
          "replay_mismatches", "log_faults", "audit_faults")  # fmt: skip


def nothing_lost(figures: dict[str, Any]) -> bool:
    return all(figures[name] == 0 for name in ZEROES) and figures["bots_entered"] == figures["bots"]


def percentiles(values_s: list[float], what: str) -> dict[str, float]:
    """Return p50, p99 and max of seconds, in milliseconds. Raises RuntimeError where there are none of `what`: nothing was measured."""
    if not values_s:
        raise RuntimeError(f"there were no {what}: nothing was measured")
    ms = 1000 * np.array(values_s)
    return {"p50": round(float(np.percentile(ms, 50)), 1), "p99": round(float(np.percentile(ms, 99)), 1), "max": round(float(ms.max()), 1)}


def histogram(values_s: list[float]) -> list[list[int]]:
    """Return [milliseconds, how many] of seconds, in steps of `HISTOGRAM_MS`; steps with none are left out."""
    steps, counts = np.unique(np.floor(1000 * np.array(values_s) / HISTOGRAM_MS).astype(int), return_counts=True)
    return [[step * HISTOGRAM_MS, count] for step, count in zip(steps.tolist(), counts.tolist(), strict=True)]


def longest_gap(bot: BotReport, start: float, end: float) -> float:
    """Return the longest time between two of a bot's snapshots of those that ended within [start, end) or were under way at `end`.

    A gap counts in full, also what of it is outside. If no snapshot came any more, the last gap lasts until `end`; a bot that had no
    gap there was shown nothing in all that time.
    """
    gaps = bot.gaps
    first = bisect.bisect_left(gaps, start, key=lambda g: g[0])
    last = bisect.bisect_left(gaps, end, key=lambda g: g[0])
    found = [gap for _, gap in gaps[first:last]]
    if last < len(gaps):
        at, gap = gaps[last]
        if at - gap < end:
            found.append(gap)
    elif len(gaps):
        found.append(end - gaps[last - 1][0])
    return max(found, default=end - start)


@asynccontextmanager
async def playing(players: int, *, bots: int | None = None, shards: int = 4, zones: str = "4x4", settings: dict[str, str] | None = None,
                  drive: Callable[[Playing, asyncio.Event], Awaitable[BotsReport]] | None = None) -> AsyncIterator[Playing]:  # fmt: skip
    """Start a cluster and players, of whom so many (all) are bots; on leaving, stop them, then the shards, then audit the ledger."""
    bots = players if bots is None else min(bots, players)
    with console.status("starting a cluster") as status:
        cluster = LocalCluster(shards=shards, zones=zones, game=GAME, settings=settings or {}, progress=status.update)
        await cluster.start()
    stop = asyncio.Event()
    columns, _, rows = zones.partition("x")
    run = Playing(cluster, LogWatch(cluster.ledger, int(columns) * int(rows)))
    try:
        run.watch.start()
        urls = list(cluster.gateway_urls.values())
        entered = asyncio.Event()
        if drive is None:
            run.bots = asyncio.ensure_future(run_bots(urls, cluster.secret, bots, stop=stop, all_entered=entered))
            run.names = [f"bot{k}" for k in range(bots)]
            await asyncio.wait({asyncio.ensure_future(entered.wait()), run.bots}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        else:
            run.bots = asyncio.ensure_future(drive(run, stop))
        if players > bots:
            await _swarm_comes(run, players - bots)
        yield run
        stop.set()
        run.report = await run.bots
        if run.swarm is not None:
            seen, run.decode_faults = await run.swarm.report()
            run.report.bots.extend(seen)
            await run.swarm.kill()
        run.names = [bot.name for bot in run.report.bots]
        await stop_shards(cluster)
        await run.watch.stop()
        with console.status("replaying every zone, counting players and gold"):
            program = compile_program(load_game(GAME))
            run.audit = await audit(cluster.ledger, program, run.names)
            run.world = await audit_world(cluster.ledger, program)
        for fault in [*run.faults()[:20], *socket_ends(run.report)[:5]]:
            print(fault, file=sys.stderr)
    except BaseException:
        cluster.keep_folder()  # its logs tell what happened
        raise
    finally:
        stop.set()
        if run.swarm is not None:
            await run.swarm.kill()
        await cluster.stop()


async def _swarm_comes(run: Playing, count: int) -> None:
    """Have so many lean players come and steer."""
    assert run.cluster.folder is not None
    urls = list(run.cluster.gateway_urls.values())
    run.swarm = WatchedSwarm(run.cluster.folder, urls, run.cluster.secret, count, choices=STEERING)
    with console.status(f"{count} players come"):
        entered = await run.swarm.start(ENTER_DEADLINE_S)
    if entered["in"] != count:
        raise RuntimeError(f"of {count} players: {entered}")
    await run.swarm.steer(COMMANDS_HZ)


async def audit_findings(cluster: LocalCluster, game: str) -> int:
    """End the shards and audit the world as `perdure audit` does; say on standard error what is wrong, and return how much."""
    with console.status("auditing the world"):
        await stop_shards(cluster)
        faults = (await audit_world(cluster.ledger, compile_program(load_game(game)))).faults
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    return len(faults)


async def stop_shards(cluster: LocalCluster) -> None:
    """End all shards at once, so that none takes the others' zones first; the log then stands still."""
    names = cluster.shard_names()
    for name in names:
        cluster.send_signal(name, signal.SIGKILL)
    for name in names:
        await cluster.ended_of(name)
