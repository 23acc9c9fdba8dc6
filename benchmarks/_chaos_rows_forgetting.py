"""Chaos rows in which the ledger forgets: it comes back empty, with an older backup, or as a replica that lags. Owners that live put
back what they hold, under a new generation; what nobody holds any more is reported, never lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks._chaos_row import row
from benchmarks._proxy import puts_zones
from benchmarks._stage import Setup, Stage
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import LedgerUnavailable
from perdure.ledger.values import ClusterView

EVERYBODY = ("shard-1", "shard-2", "shard-3", "shard-4", "gateway-1", "gateway-2", "coordinator-1", "coordinator-2")
FORGOTTEN: frozenset[str] = frozenset()
"""What may be found wrong where owners live: nothing. Commands that only the forgotten records held are in the images put back."""
LOST = frozenset({
    "log_faults", "commands_lost", "commands_unwatched", "replay_mismatches",
    "players_lost", "gold_delta", "bots_silent", "stale_frames", "entered_anew", "bots_entered", "players_duplicated",
})  # fmt: skip
"""What may be found wrong where an owner died with the ledger."""
LAG_S = 1.0


async def _generation(stage: Stage) -> int:
    return max(route.generation for route in (await stage.view()).zones.values())


async def _reseeded(stage: Stage, generation: int) -> None:
    """Wait until every zone goes on under a newer generation."""
    await stage.until("every zone goes on under a new generation", lambda v: _all_newer(v, generation), 60.0)
    await stage.plays_on(deadline_s=60.0)
    stage.figures["reseeded"] = stage.logs("shard").count("reseeded")


def _all_newer(view: ClusterView, generation: int) -> bool:
    return len(view.zones) > 0 and all(r.generation > generation and r.owner for r in view.zones.values())


async def _nobody_taken_back(stage: Stage) -> None:
    """Everybody plays on at the state that they were shown: checked by their acknowledgements and ticks once the bots have reported."""
    await stage.everybody_in(60.0)


def _data_and_backup(stage: Stage) -> tuple[Path, Path]:
    return stage.folder / "data" / "appendonlydir", stage.folder / "backup"


async def _keep_backup(stage: Stage) -> None:
    """Copy what Valkey has, and play on until that is 5 s old."""
    await asyncio.to_thread(stage.cluster.server.kill)  # so that the copy is whole
    shutil.copytree(*_data_and_backup(stage))
    await asyncio.to_thread(stage.cluster.server.start)
    await stage.plays_on()
    await asyncio.sleep(5.0)


async def _bring_back(stage: Stage) -> None:
    """Kill Valkey and start it with the backup."""
    data, backup = _data_and_backup(stage)
    await asyncio.to_thread(stage.cluster.server.kill)
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    await asyncio.to_thread(stage.cluster.server.start)


@row("ledger-empty", "Valkey comes back empty while the owners live: they put their zones back under a new generation, nothing lost",
     Setup(may_drop=True, allowed=FORGOTTEN), repeats=1)  # fmt: skip
async def ledger_empty(stage: Stage) -> None:
    generation = await _generation(stage)
    async with stage.blackout(deadline_s=60.0):
        await asyncio.to_thread(stage.cluster.server.kill)
        shutil.rmtree(stage.folder / "data" / "appendonlydir")
        await asyncio.to_thread(stage.cluster.server.start)
        await _reseeded(stage, generation)
        await _nobody_taken_back(stage)


@row("ledger-backup", "Valkey comes back with a backup 5 s older while the owners live: their zones go on where they were, nothing lost",
     Setup(may_drop=True, allowed=FORGOTTEN), repeats=1)  # fmt: skip
async def ledger_backup(stage: Stage) -> None:
    generation = await _generation(stage)
    await _keep_backup(stage)
    async with stage.blackout(deadline_s=60.0):
        await _bring_back(stage)
        await _reseeded(stage, generation)
        await _nobody_taken_back(stage)


@row("late-owner", "a backup 5 s older, and one owner gets nothing through until the world is open: its zones come back late, nothing lost",
     Setup(proxied=("shard-1", "shard-2", "shard-3", "shard-4"), may_drop=True, allowed=FORGOTTEN), repeats=1)  # fmt: skip
async def late_owner(stage: Stage) -> None:
    generation = await _generation(stage)
    await _keep_backup(stage)
    late, _, _ = await stage.victim()
    late_zones = {zone for zone, route in (await stage.view()).zones.items() if route.owner == late}
    async with stage.blackout(deadline_s=90.0):
        stage.proxies[late].deaf_to = puts_zones
        await _bring_back(stage)
        view = await stage.until("the world is open without the late owner", lambda v: v.opened and v.generation > generation, 60.0)
        still = {zone for zone in late_zones if view.zones[zone].generation > generation}
        stage.expect(not still, f"no zone of {late} is put back before", f"zones {sorted(still)}")
        await asyncio.sleep(1.0)  # so late it is
        stage.proxies[late].deaf_to = None
        await _reseeded(stage, generation)
        await _nobody_taken_back(stage)


@row("replica-lags", "a replica that lags by a second is promoted while the owners live: their zones go on where they were, nothing lost",
     Setup(proxied=EVERYBODY, may_drop=True, allowed=FORGOTTEN), repeats=1)  # fmt: skip
async def replica_lags(stage: Stage) -> None:
    generation, server = await _generation(stage), stage.raw()
    port = stage.choose.randrange(20_000, 30_000)
    await server.config_set("port", port)
    extra = ("--replicaof", "127.0.0.1", str(port))
    replica = EmbeddedServer(stage.folder / "replica", stage.folder / "replica.sock", preexec=stage.cluster.server.preexec, extra=extra)
    await asyncio.to_thread(replica.start)
    stage.replica = replica
    try:
        for _ in range(500):
            if (await server.info("replication")).get("slave0", {}).get("state") == "online":
                break
            await stage.pause()
        await stage.plays_on()
        async with stage.blackout(deadline_s=60.0):
            await _promote(replica)  # cut off from the primary, which goes on; nobody has noticed yet
            await asyncio.sleep(LAG_S)  # so far it lags
            await asyncio.to_thread(stage.cluster.server.kill)
            for proxy in stage.proxies.values():
                proxy.target = stage.folder / "replica.sock"
                proxy.break_all()
            await stage.look_at(replica)
            await _reseeded(stage, generation)
            await _nobody_taken_back(stage)
    finally:
        with contextlib.suppress(Exception):
            await server.aclose()


async def _promote(replica: EmbeddedServer) -> None:
    import redis.asyncio

    promoted = redis.asyncio.Redis(unix_socket_path=str(replica.socket_path))
    await promoted.execute_command("REPLICAOF", "NO", "ONE")
    await promoted.aclose()


@row("ledger-empty-shard-dead", "Valkey comes back empty and a shard died with it: its zones' loss is told, never silent",
     Setup(may_drop=True, audited=False, allowed=LOST), repeats=1)  # fmt: skip
async def ledger_empty_shard_dead(stage: Stage) -> None:
    victim, players, _ = await stage.victim()
    lost_zones = sorted(z for z, r in (await stage.view()).zones.items() if r.owner == victim)
    generation = await _generation(stage)
    stage.figures["players_there"] = len(players)
    await asyncio.to_thread(stage.cluster.server.kill)
    await stage.cluster.kill(victim)
    shutil.rmtree(stage.folder / "data" / "appendonlydir")
    await asyncio.to_thread(stage.cluster.server.start)
    await stage.until(
        "the living shards' zones go on", lambda v: sum(r.generation > generation for r in v.zones.values()) >= 16 - len(lost_zones), 60.0
    )
    await asyncio.sleep(3.0)  # so long the loss may take to be noticed
    said = [zone for zone in lost_zones if _loss_told(stage, zone)]
    if len(said) < len(lost_zones):
        verdict = await asyncio.to_thread(_audited, stage)
        said = [zone for zone in lost_zones if any(f"zone {zone}" in fault for fault in verdict)] if verdict else said
    stage.expect(said == lost_zones, f"the loss of zones {lost_zones} is told", f"only of {said}")


def _loss_told(stage: Stage, zone: int) -> bool:
    """Whether a log line of level error speaks of a loss and names the zone."""
    lines = (stage.logs("shard") + stage.logs("coordinator")).splitlines()
    return any("[error" in line and "lost" in line and (f"zone={zone}" in line or f"zone {zone}" in line) for line in lines)


def _audited(stage: Stage) -> list[str]:
    """Run `perdure audit` as an operator would; return its faults."""
    words = [sys.executable, "-m", "perdure", "audit", "--json", "--game", stage.cluster.game]
    done = subprocess.run(words, env=stage.cluster.environment(), capture_output=True, text=True, timeout=60)
    try:
        return list(json.loads(done.stdout.splitlines()[-1])["faults"])
    except (ValueError, IndexError, KeyError) as error:
        raise LedgerUnavailable(f"perdure audit gave no answer: {done.stderr.strip()[-200:]}") from error
