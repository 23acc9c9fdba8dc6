"""Overload: one zone at three times its budget beside normal zones on the same shard, and what its players and the others notice.

Players are the SDK's clients. Calm first; then the rules of one zone are made dear, until its clock is slow enough, and for some windows
more; then they are as before, and it is calm again. The others' snapshots must come as evenly as when it was calm, before and after
(medians of the windows' p99s); those in the dear zone must all get snapshots, and have as many commands applied as its clock allows, one
a tick; each rung of the ladder must be told in its order, and stand in the shard's metrics; and all must be well again after. In the end
all zones are dear: who logs in then is told its place in the queue, and comes in once they are as before. Then a gateway has three quarters
of what it needs, in a world of its own (_starved.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks._playing import audit_findings, console
from benchmarks._starved import NEEDS, starved_gateway
from benchmarks._tick_parts import free_port, read_metrics
from benchmarks.scale import plots, square
from perdure.cli.bench import BadOption
from perdure.cli.local_cluster import Launch, LocalCluster
from perdure.client.connection import Client
from perdure.client.protocol import NotReady, Paced, Queued, Received
from perdure.client.world_view import Snapshot
from perdure.game.loading import load_game
from perdure.wire.identifiers import WorldGrid
from perdure.wire.tokens import make_token
from shard.pace import BUDGET, RUNGS
from shard.program import compile_program
from shard.warmup import warm
from shard.zone import Zone

BAR_OTHERS_RATIO, BAR_LONGEST_GAP_MS, BAR_RECOVERY_S = 1.5, 2000.0, 30.0
BAR_APPLIED = 0.9
"""Of the commands that could be applied."""
COMMANDS_HZ = 10.0
CLIMB_DEADLINE_S, ENTER_DEADLINE_S = 30.0, 60.0
QUEUE_DEADLINE_S, VIEW_S = 10.0, 1.0
TICK_S = 0.05
PACES = [(rung.clock_percent, rung.snapshot_every, rung.far_every) for rung in RUNGS]


@dataclass
class Watched:
    """One player and what it was sent. `paces`: (when, clock percent, snapshot every, far every). `acks`: (when, how many commands more).
    `turns`: when it wanted to send a command, whether too many were waiting or not."""

    client: Client = field(init=False)
    times: list[float] = field(default_factory=list)
    acks: list[tuple[float, int]] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    paces: list[tuple[float, int, int, int]] = field(default_factory=list)
    zone: int = -1
    acked: int = 0

    def message(self, received: Received) -> None:
        now = time.monotonic()
        if isinstance(received, Snapshot):
            self.times.append(now)
            self.zone = received.zone
            if received.ack > self.acked:
                self.acks.append((now, received.ack - self.acked))
                self.acked = received.ack
        elif isinstance(received, Paced):
            self.paces.append((now, received.clock_percent, received.snapshot_every, received.far_every))

    def gaps_ms(self, start: float, end: float) -> list[float]:
        """Return the times between snapshots within [start, end], those at its two ends included."""
        within = [start, *(t for t in self.times if start <= t <= end), end]
        return [1000 * (b - a) for a, b in pairwise(within)]

    def applied(self, start: float, end: float) -> int:
        """Return how many commands were acknowledged within [start, end)."""
        return sum(count for at, count in self.acks if start <= at < end)

    def could_be_applied(self, start: float, end: float) -> float:
        """Return how many could be within [start, end): one in each tick of the zone's clock, and no more than the player had for it."""
        steps = [(start, 100), *((max(at, start), percent) for at, percent, *_ in self.paces if at < end), (end, 0)]
        ticks = sum((until - at) / TICK_S * percent / 100 for (at, percent), (until, _) in pairwise(steps))
        return min(ticks, sum(start <= at < end for at in self.turns))

    def applied_share(self, start: float, end: float) -> float:
        """Return how much of what could be applied was acknowledged; 0.0 where there was nothing to apply."""
        could = self.could_be_applied(start, end)
        return self.applied(start, end) / could if could else 0.0


def run(
    players: int = 32,
    zones: int = 4,
    rounds: int = 5,
    seconds: float = 5.0,
    times_budget: float = 3.0,
    crowd: int = 1000,
    needs: float = NEEDS,
) -> dict[str, Any]:
    """Play with so many players in so many zones of one shard, `rounds` windows of `seconds` at the end of the climb, and as many when it
    is calm (one more where that is odd); and with a crowd of so many at a gateway that needs `needs` times what it gets."""
    import uvloop

    if zones < 2 or zones & (zones - 1) or players < zones or rounds < 1:
        raise BadOption("--zones is a power of two, 2 at least, there are as many players at least, and 1 of --rounds")
    found = uvloop.run(_run(players, zones, rounds, seconds, times_budget))
    starved = uvloop.run(starved_gateway(crowd, rounds, needs))
    return {**found, **starved, "passed": found["passed"] and starved.get("gateway_as_it_should", True)}


async def _run(players: int, zones: int, rounds: int, seconds: float, times_budget: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="perdure-plots-") as folder:
        game = plots(Path(folder), zones)
        burnt = burnt_in(game, times_budget * BUDGET * TICK_S)
        columns, rows = square(zones)
        port = free_port()
        cluster = LocalCluster(shards=1, gateways=1, coordinators=1, zones=f"{columns}x{rows}", game=str(game),
                               launches={"shard-1": Launch(settings={"health_port": str(port)})})  # fmt: skip
        try:
            with console.status("a cluster"):
                await cluster.start()
            async with contextlib.AsyncExitStack() as stack:
                crowd = await _enter(stack, cluster, players)
                steering = asyncio.ensure_future(_steer(crowd))
                try:
                    played = await _play(crowd, burnt, rounds, seconds, times_budget, port)
                    queued = await _queue(cluster, crowd, burnt)
                finally:
                    steering.cancel()
                    await asyncio.gather(steering, return_exceptions=True)
            findings = await audit_findings(cluster, str(game))
            passed = played["passed"] and queued["queued_as_it_should"] and findings == 0
            return {**played, **queued, "audit_findings": findings, "passed": passed}
        finally:
            await cluster.stop()


def burnt_in(game: Path, seconds: float) -> int:
    """Return how many rounds of the game's loop take so long on this machine."""
    program = compile_program(load_game(game))
    warm(program)
    zone = Zone(program, 0, WorldGrid(*program.game.world_size, 1, 1), 1)
    zone.totals["rounds"] = 1_000_000
    costs = []
    for _ in range(5):
        began = time.thread_time()
        program.step(zone.arrays)
        costs.append(time.thread_time() - began)
    return int(1_000_000 * seconds / min(costs))


async def _enter(stack: contextlib.AsyncExitStack, cluster: LocalCluster, players: int) -> list[Watched]:
    urls, crowd = list(cluster.gateway_urls.values()), []
    for number in range(players):
        name = f"player{number}"
        watched = Watched()
        watched.client = Client(
            urls, partial(make_token, cluster.secret, name, 600.0), connect_timeout_s=ENTER_DEADLINE_S, on_message=watched.message
        )
        await stack.enter_async_context(watched.client)
        crowd.append(watched)
    async with asyncio.timeout(ENTER_DEADLINE_S):
        while not all(len(watched.times) > 20 for watched in crowd):
            await asyncio.sleep(0.05)
    return crowd


async def _steer(crowd: list[Watched]) -> None:
    heading = 0
    while True:
        heading = (heading + 1) % 8
        for watched in crowd:
            watched.turns.append(time.monotonic())
            with contextlib.suppress(NotReady):  # its zone is slow: too many wait for their acknowledgement
                watched.client.send_command("walk", heading=heading)
        await asyncio.sleep(1 / COMMANDS_HZ)


async def _play(crowd: list[Watched], burnt: int, rounds: int, seconds: float, times_budget: float, port: int) -> dict[str, Any]:
    dear = crowd[0].zone
    inside = [watched for watched in crowd if watched.zone == dear]
    others = [watched for watched in crowd if watched.zone != dear]
    with console.status("calm"):
        calm = await _windows(others, (rounds + 1) // 2, seconds)
    heavy_from = time.monotonic()
    await inside[0].client.command("burn", rounds=burnt)
    with console.status("one zone is dear"):
        await _until(lambda: _still_for(inside[0], 3.0) and inside[0].paces[-1][1] < 100, CLIMB_DEADLINE_S)
        climbed_s = time.monotonic() - heavy_from
        slow_from = time.monotonic()
        slow = await _windows(others, rounds, seconds)
    heavy_to = time.monotonic()
    rung = (await read_metrics(port))[f'perdure_zone_rung{{zone="{dear}"}}']
    rung_told = PACES.index(inside[0].paces[-1][1:]) if inside[0].paces and inside[0].paces[-1][1:] in PACES else -1
    percent = inside[0].paces[-1][1] if inside[0].paces else 100
    await inside[0].client.command("burn", rounds=0)  # which comes after all that waits in the slow zone
    cheap_from = time.monotonic()
    with console.status("and calm again"):
        recovered = await _until(lambda: all(w.paces and w.paces[-1][1:] == PACES[0] for w in inside), BAR_RECOVERY_S)
        recovery_s = time.monotonic() - cheap_from
        calm += await _windows(others, (rounds + 1) // 2, seconds)
    ratio = median(slow) / median(calm)
    longest = max(max(w.gaps_ms(heavy_from, heavy_to)) for w in inside)
    told = [pace[1:] for pace in inside[0].paces if pace[0] <= heavy_to]
    in_order = (
        all(pace in PACES for pace in told)
        and told[:1] == PACES[1:2]
        and [PACES.index(p) for p in told] == sorted(PACES.index(p) for p in told)
    )
    share, others_share = (min(w.applied_share(slow_from, heavy_to) for w in those) for those in (inside, others))
    told_others = sum(len(w.paces) for w in others)
    return {
        "others_p99_ratio": round(ratio, 3), "bar_others_p99_ratio": BAR_OTHERS_RATIO, "longest_gap_ms": round(longest, 1),
        "bar_longest_gap_ms": BAR_LONGEST_GAP_MS, "clock_percent": percent, "rungs_told": [list(pace) for pace in told],
        "rungs_in_order": in_order, "rung_told": rung_told, "rung_in_metrics": round(rung),
        "least_commands_acknowledged": min(w.applied(slow_from, heavy_to) for w in inside),
        "least_applied_share": round(share, 3), "others_applied_share": round(others_share, 3), "bar_applied_share": BAR_APPLIED,
        "recovered": recovered, "recovery_s": round(recovery_s, 1), "climb_s": round(climbed_s, 1),
        "others_p99_ms_calm": round(median(calm), 1), "others_p99_ms": round(median(slow), 1),
        "others_p99_ms_worst_window": round(max(slow), 1), "others_told_of_a_pace": told_others,
        "players_inside": len(inside), "players": len(crowd), "rounds": rounds, "times_budget": times_budget,
        "passed": ratio <= BAR_OTHERS_RATIO and longest <= BAR_LONGEST_GAP_MS and percent < 100 and in_order
        and rung == rung_told and min(share, others_share) >= BAR_APPLIED and recovered and told_others == 0,
    }  # fmt: skip


async def _queue(cluster: LocalCluster, crowd: list[Watched], burnt: int) -> dict[str, Any]:
    """Make all zones dear, and have somebody log in. Return what it was told, and whether it came in when they were as before."""
    burners = list({watched.zone: watched.client for watched in crowd}.values())
    places: list[Queued] = []

    def message(received: Received) -> None:
        if isinstance(received, Queued):
            places.append(received)

    token = partial(make_token, cluster.secret, "newcomer", 600.0)
    newcomer = Client(list(cluster.gateway_urls.values()), token, connect_timeout_s=ENTER_DEADLINE_S, on_message=message)
    with console.status("all zones are dear"):
        for client in burners:
            await client.command("burn", rounds=burnt)
        slowed = await _until(lambda: all(w.paces and w.paces[-1][1] < 100 for w in crowd), CLIMB_DEADLINE_S)
        await asyncio.sleep(VIEW_S)  # gateways hear of it by the shards' heartbeats
        entering = asyncio.ensure_future(newcomer.connect())
        waited = await _until(lambda: len(places) >= 3, QUEUE_DEADLINE_S) and not entering.done()
        slowest = min((w.paces[-1][1] for w in crowd if w.paces), default=100)
        for client in burners:
            await client.command("burn", rounds=0)
    with console.status("and no zone is"):
        async with asyncio.timeout(ENTER_DEADLINE_S):
            await entering
        await newcomer.close()
    first = places[0] if places else Queued(0, -1)
    return {
        "all_slowed": slowed, "slowest_clock_percent": slowest, "queue_position": first.position, "queue_estimate_s": first.estimate_s,
        "queued_as_it_should": slowed and waited and first.position == 1 and first.estimate_s >= 0,
    }  # fmt: skip


async def _windows(crowd: list[Watched], count: int, seconds: float) -> list[float]:
    """Let so many windows pass; return the p99 of the times between a crowd's snapshots in each, in milliseconds."""
    found = []
    for _ in range(count):
        start = time.monotonic()
        await asyncio.sleep(seconds)
        end = time.monotonic()
        found.append(float(np.percentile([gap for watched in crowd for gap in watched.gaps_ms(start, end)], 99)))
    return found


def _still_for(watched: Watched, seconds: float) -> bool:
    """Has it been told a pace, and no other one for so long?"""
    return bool(watched.paces) and time.monotonic() - watched.paces[-1][0] > seconds


async def _until(true: Any, deadline_s: float) -> bool:
    until = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.02)
    return True
