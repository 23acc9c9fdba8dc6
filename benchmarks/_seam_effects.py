"""Part "effects" of seam: shots and races for coins over the border of two shards, while shards are killed; then everything is counted."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._playing import audit_findings, console
from perdure.cli.local_cluster import LocalCluster
from perdure.client.connection import Client
from perdure.game.contract import effect_dtype
from perdure.game.loading import load_game
from perdure.game.portable import unpack_rows
from perdure.ledger.ledger import Ledger
from perdure.ledger.values import ClusterView
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.tokens import make_token
from shard.program import Program, compile_program
from shard.replay import replay_zone

DUEL = str(Path(__file__).parent / "_seam_duel.py")
BORDER_X, APART = 512.0, 20.0
DEADLINE_S = 120.0
SHARDS = 3
"""Two that run a zone each, and one that takes over."""


async def effects(duels: int, shots: int, kill_every_s: float, seed: int) -> dict[str, Any]:
    """Let `duels` pairs shoot over the border until `shots` have been sent; kill a shard that runs a zone every so often."""
    cluster = LocalCluster(shards=SHARDS, zones="2x1", game=DUEL, settings={"rebalance": "0"})
    clients: list[Client] = []
    try:
        with console.status("a cluster for duels"):
            await cluster.start()
        for k in range(duels):
            clients += [await _duellist(cluster, f"duel{k}{side}", BORDER_X + side * APART, 40.0 + 900.0 * k / duels) for side in (-1, 1)]
        kills = await _kill_until(cluster, clients, shots, kill_every_s, random.Random(seed))
        findings = await audit_findings(cluster, DUEL)
        counted = await _count(cluster.ledger, compile_program(load_game(DUEL)))
    except BaseException:
        cluster.keep_folder()  # its logs tell what happened
        raise
    finally:
        await asyncio.gather(*(client.close() for client in clients))
        await cluster.stop()
    return {"duellists": len(clients), "kills": kills, **counted, "audit_findings": findings}


async def _duellist(cluster: LocalCluster, name: str, x: float, y: float) -> Client:
    urls, secret = list(cluster.gateway_urls.values()), cluster.secret
    client = Client(urls, lambda: make_token(secret, name, 3600.0), connect_timeout_s=DEADLINE_S)
    await client.connect()
    await client.command("stand", x=x, y=y)
    return client


async def _kill_until(cluster: LocalCluster, clients: list[Client], shots: int, every_s: float, choose: random.Random) -> int:
    kills, until = 0, time.monotonic() + DEADLINE_S + 0.1 * shots
    with console.status("") as status:
        while (sent := sum(int(client.world.me.shots) for client in clients if client.world.me is not None)) < shots:
            status.update(f"{sent} of {shots} shots, {kills} kills")
            if time.monotonic() > until:
                raise TimeoutError(f"{sent} of {shots} shots after {kills} kills; logs are in {cluster.folder}")
            await asyncio.sleep(every_s * choose.uniform(0.5, 1.5))  # so that kills fall into every phase of a tick
            view = await cluster.ledger.view()
            victim = choose.choice(sorted({route.owner for route in view.zones.values()} & set(cluster.pids)))
            before = view.members[victim].number
            await cluster.kill(victim)
            kills += 1
            await _until(cluster, f"the zones of {victim} run elsewhere", lambda v, gone=victim: all(
                route.owner and route.owner != gone for route in v.zones.values()))  # fmt: skip
            await cluster.start_shard(victim)
            await _until(cluster, f"{victim} is back", lambda v, back=victim, old=before: (
                back in v.members and v.members[back].number != old and v.members[back].info.get("state") == "ready"))  # fmt: skip
    return kills


async def _until(cluster: LocalCluster, what: str, condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            view: ClusterView = await cluster.ledger.view()
            if condition(view):
                return
            await asyncio.sleep(0.05)


async def _count(ledger: Ledger, program: Program) -> dict[str, Any]:
    """Replay both zones and add up rows, totals, and what is on its way."""
    world = await ledger.world()
    assert world is not None
    totals, found, faults = Counter[str](), Counter[str](), []
    for number in range(world.columns * world.rows):
        report, zone = await replay_zone(ledger, program, number)
        if zone is None:
            faults.append(report.fault)
            continue
        for name in zone.totals.dtype.names or ():
            totals[name] += int(zone.totals[name][0])
        coins, duellists = zone.rows("coin"), zone.rows("duellist")
        found["coins"] += int((coins["dead"] == 0).sum())
        found["gold"] += int(coins["value"][coins["dead"] == 0].sum()) + int(duellists["gold"][duellists["dead"] == 0].sum())
        for data in [*zone.page, *await ledger.read_inbox(number)]:
            entry = unpack_entry(data)
            if entry.kind is EntryKind.EFFECT and not zone.passages.has(entry):
                effect = program.game.effects[entry.type]
                (row,) = unpack_rows(entry.payload, effect_dtype(effect))
                found[f"{effect.name}s"] += 1
                found["damage"] += int(row["damage"]) if effect.name == "shot" else 0
                found["gold"] += int(row["value"]) if effect.name == "gain" else 0
    damage = totals["sent"] - totals["dealt"] - totals["missed"] - found["damage"]
    coins_delta = totals["made"] - found["coins"] - totals["picked"] - totals["granted"]
    gains = totals["granted"] - totals["gained"] - totals["returned"] - found["gains"]
    gold = totals["minted"] - found["gold"]
    return {
        "shots": totals["shots"], "damage_sent": totals["sent"], "damage_delta": damage, "coins_made": totals["made"],
        "coins_over_the_border": totals["granted"], "coins_delta": coins_delta, "gains_delta": gains, "gold_delta": gold,
        "replay_faults": len(faults), "effects_passed": not (damage or coins_delta or gains or gold or faults) and totals["granted"] > 0,
    }  # fmt: skip
