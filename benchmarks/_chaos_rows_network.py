"""Chaos rows of partitions, in network namespaces: packets of a pair are dropped, both ways, one way, now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks import _network
from benchmarks._chaos_row import row
from benchmarks._network import LEDGER_PORT, Network
from benchmarks._playing import longest_gap, percentiles
from benchmarks._stage import STILL, Setup, Stage
from perdure.client.bots import BotsReport

SHARD, PEER, GATEWAY, COORDINATORS = "shard-1", "shard-2", "gateway-1", ("coordinator-1", "coordinator-2")
CUT_S = 5.0
SHORT_CUT_S = 1.5
"""Shorter than a gateway's lease."""
HEALS_S = 6.0
"""A link comes back by TCP's own resends, each after twice the time of the one before: once more as long as the cut, at worst."""
FRESH_S = 8.0
PLAYS_ON_MS = 1000
"""Who waits for less than that does not wait for a cut of 5 s."""
FEEDS_IN = 'perdure_feed_frames_total{direction="in"}'


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


Cut = Callable[[Network], Awaitable[None]]


async def _rested() -> None:
    await asyncio.sleep(HEALS_S)


async def _pair_cut(stage: Stage, peer: str, players: set[str] | None, cut: Cut, healed: Callable[[], Awaitable[None]] = _rested) -> None:
    """Cut a shard from a gateway, or from another shard: neither is a way to the ledger, so nobody is taken for lost and no zone moves."""
    network, before = _network_of(stage), await stage.settled()
    async with stage.blackout(players):
        await cut(network)
        network.mend(SHARD)
        await healed()
    after = await stage.view()
    epochs = [{z: r.epoch for z, r in view.zones.items()} for view in (before, after)]
    stage.expect(epochs[0] == epochs[1], "no zone moves", epochs)
    numbers = [{name: view.members[name].number for name in (SHARD, peer)} for view in (before, after)]
    stage.expect(numbers[0] == numbers[1], "nobody is taken for lost", numbers)


def _once(peer: str, *, sends: bool = True, receives: bool = True) -> Cut:
    """Return what cuts the shard from a peer for a while."""

    async def cut(network: Network) -> None:
        network.cut(SHARD, peer=peer, sends=sends, receives=receives)
        await asyncio.sleep(CUT_S)  # so long it lasts

    return cut


def _flapping(stage: Stage, peer: str) -> Cut:
    """Return what has the way to a peer come and go."""

    async def cut(network: Network) -> None:
        for _ in range(10):
            network.cut(SHARD, peer=peer)
            await asyncio.sleep(stage.choose.uniform(0.1, 1.2))
            network.mend(SHARD)
            await asyncio.sleep(stage.choose.uniform(0.1, 0.5))

    return cut


# --- a shard and a gateway ------------------------------------------------------------------------------------------

PAIR_APART = Setup(apart=(SHARD, GATEWAY), settings=STILL)


async def _gateway_cut(stage: Stage, cut: Cut, wait_s: float = 0.9 * CUT_S) -> None:
    """Cut a shard from a gateway. Half of the players between the two wait for so long at least, or it was no cut."""
    there = (await stage.settled()).members[GATEWAY].number
    players = {p.name for p in await stage.cluster.ledger.online() if p.gateway == there} & await _players_on(stage, SHARD)
    start = time.monotonic()
    await _pair_cut(stage, GATEWAY, players, cut)
    end = time.monotonic()

    def waited(report: BotsReport) -> None:
        waits = percentiles([longest_gap(bot, start, end) for bot in report.bots if bot.name in players], "players between the two")
        stage.expect(waits["p50"] >= 1000 * wait_s, f"half of {len(players)} players wait for {wait_s:g} s", waits)

    stage.afterwards.append(waited)


@row("partition-shard-gateway", "a shard and a gateway cut off from each other, 5 s: that pair's players wait, no zone moves, nothing lost",
     PAIR_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_gateway(stage: Stage) -> None:
    await _gateway_cut(stage, _once(GATEWAY))


@row("partition-shard-gateway-out", "a shard's packets to a gateway are dropped, 5 s, the gateway's not: as cut off from each other",
     PAIR_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_gateway_out(stage: Stage) -> None:
    await _gateway_cut(stage, _once(GATEWAY, receives=False))


@row("partition-shard-gateway-in", "a gateway's packets to a shard are dropped, 5 s, the shard's not: as cut off from each other",
     PAIR_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_gateway_in(stage: Stage) -> None:
    await _gateway_cut(stage, _once(GATEWAY, sends=False))


@row("partition-shard-gateway-refused", "a gateway's packets to a shard are refused, 5 s, as by a firewall: it answers others, so it is "
     "not taken for dead on that gateway's word", PAIR_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_gateway_refused(stage: Stage) -> None:
    async def cut(network: Network) -> None:
        network.refuse(SHARD, GATEWAY)
        await asyncio.sleep(CUT_S)  # so long it lasts

    await _gateway_cut(stage, cut)


@row("partition-shard-gateway-flapping", "the way between a shard and a gateway comes and goes ten times within 10 s: no zone moves, "
     "sockets stay, nothing lost", PAIR_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_gateway_flapping(stage: Stage) -> None:
    await _gateway_cut(stage, _flapping(stage, GATEWAY), wait_s=0.0)


# --- two shards -----------------------------------------------------------------------------------------------------

SHARDS_APART = Setup(apart=(SHARD, PEER), measured=(SHARD, PEER), settings=STILL, bar_p99_ms=PLAYS_ON_MS)


async def _borders_cut(stage: Stage, cut: Cut) -> None:
    """Cut two shards off from each other: players play on, and see the neighbours as they were until the way is there again."""
    linked = [(await stage.metrics(name))["perdure_feed_links_up"] for name in (SHARD, PEER)]
    stage.expect(all(linked), "both shards hear of other shards' zones", linked)
    stale: list[float] = []

    async def looked(network: Network) -> None:
        looking = asyncio.ensure_future(_look(stage, stale))
        try:
            await cut(network)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def fresh() -> None:
        """Wait until neither shows anything as it was, all links are up, and feeds have come over them."""
        mended, at_mending = time.monotonic(), [await stage.metrics(name) for name in (SHARD, PEER)]
        while True:
            now = [await stage.metrics(name) for name in (SHARD, PEER)]
            seen = [(one["perdure_feeds_stale"], one["perdure_feed_links_up"], one["perdure_feed_links"]) for one in now]
            came = [one[FEEDS_IN] - then[FEEDS_IN] for one, then in zip(now, at_mending, strict=True)]
            if all(not of and up == links for of, up, links in seen) and all(came):
                break
            stage.expect(time.monotonic() < mended + FRESH_S, f"within {FRESH_S:g} s every border is fresh again", f"{seen}, {came}")
            await stage.pause()
        stage.figures["borders_fresh_s"] = round(time.monotonic() - mended, 1)

    await _pair_cut(stage, PEER, None, looked, fresh)
    stage.expect(max(stale, default=0.0) > 0, "neighbours across the cut are shown as they were, and that is told", stale)
    stage.figures["feeds_stale_most"] = int(max(stale))


async def _look(stage: Stage, stale: list[float]) -> None:
    """Note again and again how many neighbours the two shards show as they were."""
    while True:
        stale.append(sum([(await stage.metrics(name))["perdure_feeds_stale"] for name in (SHARD, PEER)]))
        await stage.pause()


@row("partition-shard-shard", "two shards cut off from each other, 5 s: everybody plays on, borders are stale meanwhile and fresh again",
     SHARDS_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_shard(stage: Stage) -> None:
    await _borders_cut(stage, _once(PEER))


@row("partition-shard-shard-one-way", "one of two shards' packets to the other are dropped, 5 s: everybody plays on, borders become fresh",
     SHARDS_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_shard_one_way(stage: Stage) -> None:
    out = stage.choose.choice((True, False))
    await _borders_cut(stage, _once(PEER, sends=out, receives=not out))


@row("partition-shard-shard-flapping", "the way between two shards comes and goes ten times within 10 s: everybody plays on, borders are "
     "fresh again", SHARDS_APART, missing=_network.missing)  # fmt: skip
async def partition_shard_shard_flapping(stage: Stage) -> None:
    await _borders_cut(stage, _flapping(stage, PEER))


# --- who coordinates ------------------------------------------------------------------------------------------------


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
