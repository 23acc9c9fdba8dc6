"""Live migration: zones move between shards under playing bots; the gap is a client's longest time between two snapshots
around its zone's change of owner. Without clients in zones that moved nothing is measured, and the bench fails."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from benchmarks._playing import APART_S, console, histogram, longest_gap, nothing_lost, percentiles, playing
from perdure.ledger.values import ClusterView

BAR_P99_MS = 100
AROUND_S = 0.4


def run(migrations: int = 40, players: int = 1000, bots: int = 50, shards: int = 4, seed: int = 1) -> dict[str, Any]:
    """Migrate `migrations` zones, one after the other, under so many players, of whom `bots` decode all they see."""
    return asyncio.run(_run(migrations, players, bots, shards, seed))


async def _run(migrations: int, players: int, bots: int, shards: int, seed: int) -> dict[str, Any]:
    choose = random.Random(seed)
    happened: list[tuple[float, float, set[str]]] = []
    async with playing(players, bots=bots, shards=shards, settings={"rebalance": "0"}) as game:
        with console.status("") as status:
            for number in range(migrations):
                view, _ = await game.owners()
                online = await game.cluster.ledger.online()
                zone = choose.choice(sorted({p.place for p in online if p.place in view.zones}))
                owner = view.zones[zone].owner
                target = choose.choice(sorted(set(game.cluster.shard_names()) - {owner}))
                status.update(f"migration {number + 1} of {migrations}: zone {zone}, {owner} -> {target}")
                await game.cluster.ledger.intend(view.term, zone, target)
                start, epoch = time.monotonic(), view.zones[zone].epoch
                after = await game.until("the zone has moved", lambda v, z=zone, e=epoch: v.zones[z].epoch > e)
                assert after.zones[zone].owner == target
                moved = time.monotonic()
                await game.until("the zone ticks on", lambda v, z=zone, t=after.ticks[zone]: _ticks_on(v, z, t))
                happened.append((max(start, moved - AROUND_S), moved + AROUND_S, {p.name for p in online if p.place == zone}))
                await asyncio.sleep(AROUND_S + APART_S)
    assert game.report is not None
    reports = {bot.name: bot for bot in game.report.bots}
    gaps = [longest_gap(reports[name], start, end) for start, end, names in happened for name in names if name in reports]
    gap = percentiles(gaps, "players in a zone that moved")
    figures = {"migrations": migrations, **{f"gap_ms_{k}": v for k, v in gap.items()}, "clients_affected": len(gaps), **game.verdict(),
               "gap_ms_histogram": histogram(gaps)}  # fmt: skip
    return {**figures, "bar_p99_ms": BAR_P99_MS, "passed": gap["p99"] <= BAR_P99_MS and nothing_lost(figures)}


def _ticks_on(view: ClusterView, zone: int, tick: int) -> bool:
    return view.ticks.get(zone, 0) > tick
