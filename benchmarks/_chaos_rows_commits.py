"""Chaos rows at the seams of a tick: kills in the middle of a commit and of a transfer, replies that are lost, kills during a drain."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from benchmarks._chaos_row import row
from benchmarks._proxy import has_commit, has_transfer
from benchmarks._stage import STILL, Setup, Stage, Unexpected

SHARDS = ("shard-1", "shard-2", "shard-3", "shard-4")
PAUSE_P99_MS = 150


async def _kill_at(stage: Stage, victim: str, wanted: Any, how: str) -> None:
    """SIGKILL a shard at the next request that `wanted` picks out: before it is sent, half-way through it, or once it has been sent."""
    proxy, pid, struck = stage.proxies[victim], stage.cluster.pids[victim], asyncio.Event()

    def cut(request: bytes) -> bytes:
        if struck.is_set():
            return b"" if how != "sent" else request  # the dead say nothing
        if not wanted(request):
            return request
        struck.set()
        os.kill(pid, signal.SIGKILL)
        return {"unsent": b"", "half": request[: len(request) // 2], "sent": request}[how]

    proxy.cut = cut
    stage.say(f"waiting for such a commit of {victim} ({how})")
    try:
        async with asyncio.timeout(30):
            await struck.wait()
        await stage.cluster.ended_of(victim)
    except TimeoutError:
        raise Unexpected(f"such a commit of {victim} within 30 s", "none came") from None
    finally:
        proxy.cut = None


async def _kills_at(stage: Stage, wanted: Any) -> None:
    for how in stage.choose.sample(("unsent", "half", "sent"), 3):
        victim, players, number = await stage.victim()
        async with stage.blackout(players):
            await _kill_at(stage, victim, wanted, how)
            await stage.off(victim)
        await stage.cluster.start_shard(victim)
        await stage.back(victim, number)


@row("kill-in-commit", "SIGKILL of a shard before, half-way through and after sending a commit: its zones run elsewhere, nothing lost",
     Setup(proxied=SHARDS))  # fmt: skip
async def kill_in_commit(stage: Stage) -> None:
    await _kills_at(stage, has_commit)


@row("kill-in-transfer", "SIGKILL of a shard at a commit that moves players over a border (before, half-way, after): each is in one place",
     Setup(proxied=SHARDS))  # fmt: skip
async def kill_in_transfer(stage: Stage) -> None:
    await _kills_at(stage, has_transfer)


@row("reply-lost", "replies to commits that took effect are lost, 20 times at each shard: nothing is applied twice, no epoch moves",
     Setup(proxied=SHARDS, settings=STILL))  # fmt: skip
async def reply_lost(stage: Stage) -> None:
    before, earlier = await stage.settled(), {name: proxy.lost_replies for name, proxy in stage.proxies.items()}

    def lost(name: str) -> int:
        return stage.proxies[name].lost_replies - earlier[name]

    async with stage.blackout():
        for _ in range(20):
            for proxy in stage.proxies.values():
                proxy.lose_replies(1)
            await asyncio.sleep(0.2)  # so that they are spread over seconds
        await stage.until_so("20 replies lost at each shard", lambda: all(lost(name) >= 20 for name in earlier))
    after = await stage.view()
    stage.figures["replies_lost"] = sum(map(lost, earlier))
    epochs = [{z: r.epoch for z, r in view.zones.items()} for view in (before, after)]
    stage.expect(epochs[0] == epochs[1], "no epoch moves", epochs)


@row("rolling-restart", "every shard drained and replaced, one after the other, under load: 0 disconnects, pause <= 150 ms (p99)",
     Setup(bar_p99_ms=PAUSE_P99_MS))  # fmt: skip
async def rolling_restart(stage: Stage) -> None:
    for name in SHARDS:
        number = (await stage.view()).members[name].number
        async with stage.blackout():
            stage.say(f"draining {name}")
            stage.cluster.send_signal(name, signal.SIGTERM)
            code = await stage.cluster.ended_of(name)
            stage.expect(code == 0, f"{name} leaves with 0", code)
        await stage.cluster.start_shard(name)
        async with stage.blackout():
            await stage.back(name, number)
    losses = stage.logs("coordinator").count("member lost")
    stage.expect(losses == 0, "nobody is taken for lost", f"{losses} taken for lost")


@row("crash-in-rolling-restart", "a shard dies in the middle of its drain, and one that takes its zones: all run elsewhere, nothing lost")
async def crash_in_rolling_restart(stage: Stage) -> None:
    for draining, dies in (("shard-1", "shard-1"), ("shard-2", "shard-3")):
        view, owner_of = await stage.owners()
        owned = sum(r.owner == draining for r in view.zones.values())
        async with stage.blackout({player for player, owner in owner_of.items() if owner in (draining, dies)}):
            stage.cluster.send_signal(draining, signal.SIGTERM)
            await stage.until(
                f"{draining} has given its first zone away",
                lambda v, name=draining, most=owned: sum(r.owner == name for r in v.zones.values()) < most,
            )
            stage.cluster.send_signal(dies, signal.SIGKILL)
            await stage.cluster.ended_of(dies)
            if dies != draining:
                await stage.cluster.ended_of(draining)
            await stage.off(draining, dies)
        await stage.heal()
        await stage.settled()


@row("all-kill-in-turn", "each shard killed in turn while the one before is still being replaced: nothing lost")
async def all_kill_in_turn(stage: Stage) -> None:
    async with stage.blackout():
        for name in SHARDS:
            await stage.cluster.kill(name)
            await stage.off(name)
            await stage.cluster.start_shard(name)
    await stage.settled()
