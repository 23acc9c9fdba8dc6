"""Chaos rows of partitions, in network namespaces: packets of a pair are dropped, both ways, one way, now and then."""

from __future__ import annotations

import asyncio

from benchmarks import _network
from benchmarks._chaos_row import row
from benchmarks._network import LEDGER_PORT, Network
from benchmarks._stage import Setup, Stage

SHARD, GATEWAY, COORDINATORS = "shard-1", "gateway-1", ("coordinator-1", "coordinator-2")
CUT_S = 5.0
SHORT_CUT_S = 1.5
"""Shorter than a gateway's lease."""


def _network_of(stage: Stage) -> Network:
    assert stage.network is not None
    return stage.network


async def _players_on(stage: Stage, shard: str) -> set[str]:
    _, owner_of = await stage.owners()
    return {player for player, owner in owner_of.items() if owner == shard}


async def _shard_cut_off(stage: Stage, *, sends: bool, receives: bool) -> None:
    """Cut a shard from the ledger; it is taken for lost, what it still does is fenced, and it joins anew."""
    network, players = _network_of(stage), await _players_on(stage, SHARD)
    number = (await stage.view()).members[SHARD].number
    async with stage.blackout(players):
        network.cut(SHARD, port=LEDGER_PORT, sends=sends, receives=receives)
        await stage.off(SHARD)
        await asyncio.sleep(CUT_S)  # so long it is cut off
        network.mend(SHARD)
    await stage.back(SHARD, number)


@row("partition-shard-ledger", "a shard cut off from Valkey: taken for lost after its lease, its zones run elsewhere, it joins anew",
     Setup(apart=(SHARD,)), missing=_network.missing)  # fmt: skip
async def partition_shard_ledger(stage: Stage) -> None:
    await _shard_cut_off(stage, sends=True, receives=True)


@row("partition-one-way-out", "a shard's packets to Valkey are dropped, the answers not: as cut off",
     Setup(apart=(SHARD,)), missing=_network.missing)  # fmt: skip
async def partition_one_way_out(stage: Stage) -> None:
    await _shard_cut_off(stage, sends=True, receives=False)


@row("partition-one-way-in", "Valkey's answers to a shard are dropped, what it sends not: what it commits counts once, then as cut off",
     Setup(apart=(SHARD,)), missing=_network.missing)  # fmt: skip
async def partition_one_way_in(stage: Stage) -> None:
    await _shard_cut_off(stage, sends=False, receives=True)


@row("partition-flapping", "a shard's way to Valkey comes and goes ten times within 10 s: sockets stay, nothing lost",
     Setup(apart=(SHARD,)), missing=_network.missing)  # fmt: skip
async def partition_flapping(stage: Stage) -> None:
    network = _network_of(stage)
    async with stage.blackout(await _players_on(stage, SHARD)):
        for _ in range(10):
            network.cut(SHARD, port=LEDGER_PORT)
            await asyncio.sleep(stage.choose.uniform(0.1, 1.2))
            network.mend(SHARD)
            await asyncio.sleep(stage.choose.uniform(0.1, 0.5))
    await stage.until(f"{SHARD} is at work again", lambda v: any(r.owner == SHARD for r in v.zones.values()))


@row("partition-shard-gateway", "a shard and a gateway cut off from each other, 5 s: that pair's players wait, no zone moves, nothing lost",
     Setup(apart=(SHARD, GATEWAY)), missing=_network.missing)  # fmt: skip
async def partition_shard_gateway(stage: Stage) -> None:
    network, before = _network_of(stage), await stage.settled()
    there = before.members[GATEWAY].number
    players = {p.name for p in await stage.cluster.ledger.online() if p.gateway == there} & await _players_on(stage, SHARD)
    async with stage.blackout(players):
        network.cut(SHARD, peer=GATEWAY)
        await asyncio.sleep(CUT_S)  # so long it lasts
        network.mend(SHARD)
        await asyncio.sleep(3.0)  # the link comes back by TCP's own resends, or by dialling anew
    after = await stage.view()
    epochs = [{z: r.epoch for z, r in view.zones.items()} for view in (before, after)]
    stage.expect(epochs[0] == epochs[1], "no zone moves", epochs)


@row("partition-gateway-ledger", "a gateway cut off from Valkey, 1.5 s: nobody notices; players of both gateways play on",
     Setup(apart=(GATEWAY,)), missing=_network.missing)  # fmt: skip
async def partition_gateway_ledger(stage: Stage) -> None:
    network, before = _network_of(stage), await stage.view()
    async with stage.blackout():
        network.cut(GATEWAY, port=LEDGER_PORT)
        await asyncio.sleep(SHORT_CUT_S)  # so long it lasts
        network.mend(GATEWAY)
        await asyncio.sleep(2.0)
    after = await stage.view()
    numbers = [view.members[GATEWAY].number for view in (before, after)]
    stage.expect(numbers[0] == numbers[1], "the gateway is not taken for lost", numbers)


@row("partition-gateway-lost", "a gateway cut off from Valkey for longer than its lease: taken for lost; its clients play again",
     Setup(apart=(GATEWAY,), may_drop=True), missing=_network.missing, repeats=1)  # fmt: skip
async def partition_gateway_lost(stage: Stage) -> None:
    network, before = _network_of(stage), await stage.view()
    there = before.members[GATEWAY].number
    online = await stage.cluster.ledger.online()
    stage.unmoved = {p.name for p in online if p.gateway != there}
    async with stage.blackout({p.name for p in online if p.gateway == there}):
        network.cut(GATEWAY, port=LEDGER_PORT)
        await stage.until("the gateway is taken for lost", lambda v: GATEWAY not in v.members or v.members[GATEWAY].number != there)
        network.mend(GATEWAY)
        await stage.everybody_in()
        await asyncio.sleep(1.0)  # the last have their first snapshot


@row("partition-leader-ledger", "the leading coordinator cut off from Valkey while a shard dies: the standby leads and fails over",
     Setup(apart=COORDINATORS), missing=_network.missing)  # fmt: skip
async def partition_leader_ledger(stage: Stage) -> None:
    network = _network_of(stage)
    view = await stage.view()
    leader, victim = view.leader, stage.choose.choice(("shard-1", "shard-2"))
    async with stage.blackout(await _players_on(stage, victim)):
        network.cut(leader, port=LEDGER_PORT)
        await stage.cluster.kill(victim)
        await stage.off(victim)
    before = await stage.settled()
    network.mend(leader)
    await stage.until_so(f"{leader} has seen that it leads no longer", lambda: "no longer leading" in stage.log(leader))
    after = await stage.view()
    stage.expect(after.term == before.term, "it does not lead again by itself", f"term {before.term}, then {after.term}")
    await stage.heal()
