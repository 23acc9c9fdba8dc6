"""Zombies: a shard is stopped (SIGSTOP) for five seconds, and goes on afterwards as if nothing had happened. Its zones run
elsewhere by then; nothing that it still writes or sends may count. Without players on it nothing is measured, and the bench fails."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import Any

from benchmarks._playing import console, longest_gap, nothing_lost, percentiles, playing

BAR_P99_MS = 2000


def run(rounds: int = 5, bots: int = 100, shards: int = 4, stopped_s: float = 5.0, seed: int = 1) -> dict[str, Any]:
    """Stop a shard `rounds` times; return the figures and whether the bars hold."""
    return asyncio.run(_run(rounds, bots, shards, stopped_s, seed))


async def _run(rounds: int, bots: int, shards: int, stopped_s: float, seed: int) -> dict[str, Any]:
    choose = random.Random(seed)
    happened: list[tuple[float, float, set[str]]] = []
    async with playing(bots, shards=shards, settings={"migration_rest_ms": "1000"}) as game:
        with console.status("") as status:
            for number in range(rounds):
                view, owner_of = await game.owners()
                victim = choose.choice(sorted({route.owner for route in view.zones.values()}))
                affected = {name for name, owner in owner_of.items() if owner == victim}
                incarnation = view.members[victim].number
                status.update(f"stop {number + 1} of {rounds}: {victim}, {len(affected)} players there")
                started = time.monotonic()
                game.cluster.send_signal(victim, signal.SIGSTOP)
                await game.until("its zones run elsewhere", lambda v, gone={"", victim}: all(r.owner not in gone for r in v.zones.values()))
                await asyncio.sleep(max(0.0, started + stopped_s - time.monotonic()))
                game.cluster.send_signal(victim, signal.SIGCONT)
                await game.until(
                    "the shard has joined anew",
                    lambda v, back=victim, old=incarnation: back in v.members and v.members[back].number != old
                    and v.members[back].info.get("state") == "ready",
                )  # fmt: skip
                happened.append((started, time.monotonic(), affected))
                await game.until(
                    "it has zones again and none is moving",
                    lambda v, back=victim: (
                        any(r.owner == back for r in v.zones.values()) and not any(r.successor for r in v.zones.values())
                    ),
                )
    assert game.report is not None
    reports = {bot.name: bot for bot in game.report.bots}
    gaps = [longest_gap(reports[name], start, end) for start, end, names in happened for name in names if name in reports]
    blackout = percentiles(gaps, "players on a shard that was stopped")
    verdict = game.verdict()
    figures = {
        "rounds": rounds, "stopped_s": stopped_s, **{f"blackout_ms_{k}": v for k, v in blackout.items()}, "clients_affected": len(gaps),
        "zombie_writes": verdict["log_faults"] + verdict["replay_mismatches"], **verdict,
    }  # fmt: skip
    passed = blackout["p99"] <= BAR_P99_MS and nothing_lost(figures) and figures["zombie_writes"] == 0
    return {**figures, "bar_p99_ms": BAR_P99_MS, "passed": passed}
