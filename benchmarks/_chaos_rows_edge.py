"""Chaos rows at the edge and in the coordination: gateways and coordinators die or hang, clients all come at once, or read too slowly."""

from __future__ import annotations

import asyncio
import re
import signal

from benchmarks._chaos_row import row
from benchmarks._proxy import Proxy
from benchmarks._stage import Setup, Stage
from perdure.ledger.values import ClusterView

COORDINATORS = ("coordinator-1", "coordinator-2")


@row("gateway-kill", "SIGKILL of a gateway: its clients resume at the other one, the other's clients notice nothing, nothing lost",
     Setup(may_drop=True), repeats=1)  # fmt: skip
async def gateway_kill(stage: Stage) -> None:
    name = stage.choose.choice(("gateway-1", "gateway-2"))
    gateway = (await stage.view()).members[name].number
    online = await stage.cluster.ledger.online()
    hit, others = ({p.name for p in online if (p.gateway == gateway) == there} for there in (True, False))
    stage.expect(bool(hit and others), "both gateways have players", f"{len(hit)} and {len(others)}")
    async with stage.blackout(hit):
        await stage.cluster.kill(name)
        await stage.everybody_in()
        await asyncio.sleep(1.0)  # the last have their first snapshot
    await stage.heal()
    stage.unmoved = others


async def _leader(stage: Stage) -> str:
    return (await stage.until("somebody leads", lambda v: v.leader in stage.cluster.pids)).leader


@row("leader-kill", "SIGKILL of the leading coordinator and then of a shard: the standby leads and fails over, nothing lost")
async def leader_kill(stage: Stage) -> None:
    leader = await _leader(stage)
    victim, players, _ = await stage.victim()
    async with stage.blackout(players):
        await stage.cluster.kill(leader)
        await stage.cluster.kill(victim)
        view = await stage.off(victim)
    stage.expect(view.leader != leader, "another leader", view.leader)
    await stage.heal()


@row("leader-stop", "SIGSTOP of the leading coordinator, a shard dies, SIGCONT: the standby leads, the woken one moves nothing")
async def leader_stop(stage: Stage) -> None:
    leader = await _leader(stage)
    term = (await stage.view()).term
    victim, players, _ = await stage.victim()
    async with stage.blackout(players):
        stage.cluster.send_signal(leader, signal.SIGSTOP)
        await stage.until("the standby leads", lambda v: v.leader not in ("", leader) and v.term > term)
        await stage.cluster.kill(victim)  # the sleeper's view still holds it
        await stage.off(victim)
    before = await stage.settled()
    stage.cluster.send_signal(leader, signal.SIGCONT)
    await _stood_down(stage, leader)
    after = await stage.view()
    moved = _moved(stage, before, after)
    stage.expect(not moved and after.term == before.term, "the woken leader moves nothing", f"term {after.term}, moved {moved}")
    await stage.heal()


def _moved(stage: Stage, before: ClusterView, after: ClusterView) -> dict[int, tuple[str, str]]:
    """Return who had and who has the zones that were moved, but for those that the leader itself moves for the balance's sake."""
    balanced = {int(zone) for zone in re.findall(r"\] migration +reason=.* zone=(\d+)", stage.log(after.leader))}
    return {z: (before.zones[z].owner, r.owner) for z, r in after.zones.items() if r.epoch != before.zones[z].epoch and z not in balanced}


async def _stood_down(stage: Stage, leader: str) -> None:
    await stage.until_so(f"{leader} has seen that it leads no longer", lambda: "no longer leading" in stage.log(leader))


@row("two-leaders", "the leader's orders are held on their way, another leads, then they arrive: refused by their term, nothing moves",
     Setup(proxied=COORDINATORS))  # fmt: skip
async def two_leaders(stage: Stage) -> None:
    leader = await _leader(stage)
    term = (await stage.view()).term
    victim, players, _ = await stage.victim()
    proxy: Proxy = stage.proxies[leader]
    async with stage.blackout(players):
        await stage.cluster.kill(victim)
        await asyncio.sleep(stage.choose.uniform(0.0, 0.03))  # so that it sees some of it, and its orders are on their way
        proxy.hold()
        await stage.until("the standby leads", lambda v: v.leader not in ("", leader) and v.term > term)
        await stage.off(victim)
    before = await stage.settled()
    proxy.release()
    await _stood_down(stage, leader)
    after = await stage.view()
    moved = _moved(stage, before, after)
    stage.expect(not moved and after.term == before.term, "late orders move nothing", f"term {after.term}, moved {moved}")
    await stage.heal()


@row("coordinators-gone", "both coordinators and then a shard die: the other zones run on; once one is back, all run, nothing lost")
async def coordinators_gone(stage: Stage) -> None:
    victim, players, _ = await stage.victim()
    async with stage.blackout(players):
        for name in COORDINATORS:
            await stage.cluster.kill(name)
        await stage.cluster.kill(victim)
        before = await stage.view()
        others = {z: t for z, t in before.ticks.items() if before.zones[z].owner != victim}
        await stage.until("the other zones run on", lambda v: all(v.ticks[z] > t + 40 for z, t in others.items()))
        stage.cluster.start_coordinator(COORDINATORS[0])
        await stage.off(victim)
    await stage.heal()
