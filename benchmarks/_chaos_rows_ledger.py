"""Chaos rows of the ledger's server: it restarts, hangs, is unreachable, slow, full, or out of memory. What it acknowledged stays."""

from __future__ import annotations

import asyncio
import os
import signal

from benchmarks import _shim
from benchmarks._chaos_row import row
from benchmarks._stage import STILL, Setup, Stage
from perdure.ledger.values import ClusterView

EVERYBODY = ("shard-1", "shard-2", "shard-3", "shard-4", "gateway-1", "gateway-2", "coordinator-1", "coordinator-2")


def _same(stage: Stage, before: ClusterView, after: ClusterView) -> None:
    """Nobody was given up and no zone moved: an outage of the ledger is nobody's death."""
    members = [{n: m.number for n, m in view.members.items()} for view in (before, after)]
    stage.expect(members[0] == members[1], "nobody is taken for lost", members)
    zones = [{z: (r.generation, r.epoch) for z, r in view.zones.items()} for view in (before, after)]
    stage.expect(zones[0] == zones[1], "no zone moves", zones)


@row("ledger-restart", "SIGKILL of Valkey, started again on its append-only file: a pause, nobody is given up, no zone moves, nothing lost",
     Setup(settings=STILL))  # fmt: skip
async def ledger_restart(stage: Stage) -> None:
    before = await stage.settled()
    for _ in range(2):
        async with stage.blackout():
            await stage.restart_ledger()
    _same(stage, before, await stage.view())


async def _unreachable(stage: Stage, seconds: float) -> None:
    before = await stage.settled()
    async with stage.blackout(deadline_s=60.0):
        for proxy in stage.proxies.values():
            proxy.hold()
        stood = await stage.view()
        stage.say(f"the ledger is unreachable for {seconds:g} s")
        await asyncio.sleep(seconds)  # so long it is away
        late = await stage.view()
        moved = [z for z, tick in late.ticks.items() if tick > stood.ticks[z] + 2]
        stage.expect(not moved, "no zone commits meanwhile", moved)
        for proxy in stage.proxies.values():
            proxy.release()
    _same(stage, before, await stage.view())


@row("ledger-away-5s", "Valkey unreachable for 5 s (no packet passes): the world pauses, sockets stay, nobody is given up, nothing lost",
     Setup(proxied=EVERYBODY, settings=STILL))  # fmt: skip
async def ledger_away_5s(stage: Stage) -> None:
    await _unreachable(stage, 5.0)


@row("ledger-away-60s", "Valkey unreachable for 60 s: the world pauses, sockets stay, nobody is given up, nothing lost",
     Setup(proxied=EVERYBODY, settings=STILL))  # fmt: skip
async def ledger_away_60s(stage: Stage) -> None:
    await _unreachable(stage, 60.0)


@row("ledger-refuses", "connections to Valkey refused for 5 s: as unreachable", Setup(proxied=EVERYBODY, settings=STILL))
async def ledger_refuses(stage: Stage) -> None:
    before = await stage.settled()
    async with stage.blackout(deadline_s=60.0):
        for proxy in stage.proxies.values():
            proxy.refuse()
        await asyncio.sleep(5.0)  # so long it is away
        for proxy in stage.proxies.values():
            proxy.accept()
    _same(stage, before, await stage.view())


@row("ledger-slow-disk", "each fsync takes 300 ms for 6 s: ticks come late, sockets stay, nobody is given up, nothing lost",
     Setup(shimmed=("valkey",), settings=STILL), missing=_shim.missing)  # fmt: skip
async def ledger_slow_disk(stage: Stage) -> None:
    before = await stage.settled()
    shim = stage.shims["valkey"]
    async with stage.blackout(deadline_s=60.0):
        shim.slow_disk(300)
        stood = (await stage.view()).ticks
        await asyncio.sleep(6.0)  # so long it is slow
        ticks = min(tick - stood[z] for z, tick in (await stage.view()).ticks.items())
        shim.slow_disk(0)
        stage.expect(0 < ticks < 60, "the world goes on, slower than 10 ticks a second", f"{ticks} ticks in 6 s")
    stage.figures["ticks_in_6_s"] = ticks
    _same(stage, before, await stage.view())


@row("ledger-maxmemory", "Valkey refuses writes for want of memory, 4 s: the world pauses and says why, nobody is given up, nothing lost",
     Setup(settings=STILL))  # fmt: skip
async def ledger_maxmemory(stage: Stage) -> None:
    before = await stage.settled()
    server = stage.raw()
    try:
        async with stage.blackout():
            await server.config_set("maxmemory", "1mb")
            await asyncio.sleep(4.0)  # so long it is full
            await server.config_set("maxmemory", "0")
    finally:
        await server.aclose()
    stage.expect("raise maxmemory" in stage.logs("shard"), "the shards' logs say: raise maxmemory", "they do not")
    _same(stage, before, await stage.view())


@row("power-cut", "SIGKILL of every process at once, Valkey too; all started again: clients come back by themselves, nothing lost",
     Setup(may_drop=True), repeats=1)  # fmt: skip
async def power_cut(stage: Stage) -> None:
    async with stage.blackout(deadline_s=60.0):
        await cut_power(stage)
        await asyncio.to_thread(stage.cluster.server.start)
        stage.say("starting everything again")
        await stage.heal()
        await stage.everybody_in()


async def cut_power(stage: Stage) -> None:
    """End every process of the cluster at once."""
    cluster = stage.cluster
    for pid in [cluster.server.pid, *cluster.pids.values()]:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(cluster.server.kill)
    for name in list(cluster.pids):
        await cluster.ended_of(name)
