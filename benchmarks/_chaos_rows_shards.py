"""Chaos rows in which shards die, hang, leave, or do both at once."""

from __future__ import annotations

import asyncio
import signal

from benchmarks._chaos_row import row
from benchmarks._stage import Setup, Stage


@row(
    "shard-kill", "SIGKILL of a shard: its zones run elsewhere; p50 <= 300 ms, p99 <= 700 ms, sockets stay, nothing lost",
    Setup(bar_p50_ms=300, bar_p99_ms=700),
)  # fmt: skip
async def shard_kill(stage: Stage) -> None:
    victim, players, number = await stage.victim()
    async with stage.blackout(players):
        await stage.cluster.kill(victim)
        await stage.off(victim)
    await stage.cluster.start_shard(victim)
    await stage.back(victim, number)


@row("two-shards-kill", "SIGKILL of two shards at once: the others run everything, sockets stay, nothing lost")
async def two_shards_kill(stage: Stage) -> None:
    view, owner_of = await stage.owners()
    victims = stage.choose.sample(sorted({r.owner for r in view.zones.values()}), 2)
    async with stage.blackout({player for player, owner in owner_of.items() if owner in victims}):
        for victim in victims:
            stage.cluster.send_signal(victim, signal.SIGKILL)
        await stage.off(*victims)
    await stage.heal()


@row("shard-stop", "SIGSTOP of a shard for 10 s, then SIGCONT: its zones run elsewhere, no stale frame, it joins anew, nothing lost")
async def shard_stop(stage: Stage) -> None:
    victim, players, number = await stage.victim()
    async with stage.blackout(players):
        stage.cluster.send_signal(victim, signal.SIGSTOP)
        await stage.off(victim)
        await asyncio.sleep(10.0)  # so long it hangs
        stage.cluster.send_signal(victim, signal.SIGCONT)
    await stage.back(victim, number)


@row("calm", "nothing is broken, 5 s: what this machine gives by itself, to compare the other rows with")
async def calm(stage: Stage) -> None:
    for _ in range(2):
        async with stage.blackout():
            await asyncio.sleep(2.5)  # so long nothing happens
