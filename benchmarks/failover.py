"""Failover: SIGKILL of a random shard under bots that move, cross and shoot, again and again; then everything is counted.

A blackout is a client's longest time between two snapshots, from a kill until shortly before the next one; the percentiles are over
the clients whose zone ran on the killed shard, all kills together. Without such clients nothing is measured, and the bench fails.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from benchmarks._playing import APART_S, console, histogram, longest_gap, nothing_lost, percentiles, playing
from perdure.ledger.values import ClusterView

BAR_P50_MS, BAR_P99_MS = 300, 700


def run(kills: int = 20, players: int = 1000, bots: int = 50, shards: int = 4, seed: int = 1) -> dict[str, Any]:
    """Kill `kills` times under so many players, of whom `bots` decode all they see; return the figures and whether the bars hold."""
    return asyncio.run(_run(kills, players, bots, shards, seed))


async def _run(kills: int, players: int, bots: int, shards: int, seed: int) -> dict[str, Any]:
    choose = random.Random(seed)
    happened: list[tuple[float, float, set[str]]] = []
    settings = {"migration_rest_ms": "1000"}  # so that a shard is soon worth killing again
    async with playing(players, bots=bots, shards=shards, settings=settings) as game:
        with console.status("") as status:
            for number in range(kills):
                view, owner_of = await game.owners()
                victims = sorted({route.owner for route in view.zones.values()} & set(game.cluster.pids))
                victim = choose.choice(victims)
                affected = {name for name, owner in owner_of.items() if owner == victim}
                killed = time.monotonic()
                status.update(f"kill {number + 1} of {kills}: {victim}, {len(affected)} players there")
                before = view.members[victim].number
                await game.cluster.kill(victim)
                await game.until("its zones run elsewhere", lambda v, gone=victim: _taken_over(v, gone))
                await game.cluster.start_shard(victim)
                await game.until("the shard is back and has zones", lambda v, back=victim, old=before: _is_back(v, back, old))
                await asyncio.sleep(choose.uniform(0.5, 1.5) - APART_S)  # so that kills fall into every phase of a tick and a checkpoint
                happened.append((killed, time.monotonic(), affected))
                await asyncio.sleep(APART_S)
        await asyncio.sleep(1.0)
    assert game.report is not None
    reports = {bot.name: bot for bot in game.report.bots}
    gaps = [longest_gap(reports[name], start, end) for start, end, names in happened for name in names if name in reports]
    blackout = percentiles(gaps, "players on a shard that was killed")
    figures = {"kills": kills, **{f"blackout_ms_{k}": v for k, v in blackout.items()}, "clients_affected": len(gaps), **game.verdict(),
               "blackout_ms_histogram": histogram(gaps)}  # fmt: skip
    bars = {"bar_p50_ms": BAR_P50_MS, "bar_p99_ms": BAR_P99_MS}
    return {**figures, **bars, "passed": blackout["p50"] <= BAR_P50_MS and blackout["p99"] <= BAR_P99_MS and nothing_lost(figures)}


def _taken_over(view: ClusterView, gone: str) -> bool:
    return gone not in view.members and all(route.owner and route.owner != gone for route in view.zones.values())


def _is_back(view: ClusterView, back: str, old: int) -> bool:
    member = view.members.get(back)
    ready = member is not None and member.number != old and member.info.get("state") == "ready"
    return ready and any(route.owner == back for route in view.zones.values()) and not any(r.successor for r in view.zones.values())
