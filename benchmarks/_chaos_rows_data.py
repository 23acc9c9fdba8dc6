"""Chaos rows in which the ledger's data is damaged behind everybody's back: it is used where it can be, and said loudly where not."""

from __future__ import annotations

from typing import Any

from benchmarks._chaos_row import row
from benchmarks._stage import Setup, Stage
from perdure.ledger import keys

WORLD = "main"


async def _new_checkpoint(stage: Stage, zone: int) -> tuple[int, int]:
    """Wait until a zone has just written a checkpoint; return its tick, and the zone's epoch."""
    ledger = stage.cluster.ledger
    at = (await ledger.zone_head(zone)).checkpoints[:1]
    stage.say(f"waiting for zone {zone}'s next checkpoint")
    while True:
        head = await ledger.zone_head(zone)
        if head.checkpoints[:1] != at and len(head.checkpoints) == 2:
            return head.checkpoints[0][0], head.epoch
        await stage.pause()


async def _populated(stage: Stage) -> tuple[int, str]:
    """Choose a zone with players; return it and its owner."""
    view = await stage.settled()
    zone = stage.choose.choice(sorted({p.place for p in await stage.cluster.ledger.online() if p.place in view.zones}))
    return zone, view.zones[zone].owner


@row("checkpoint-corrupt", "the newest checkpoint of a zone is damaged and its owner killed: the older one is used, nothing lost")
async def checkpoint_corrupt(stage: Stage) -> None:
    zone, owner = await _populated(stage)
    _, owner_of = await stage.owners()
    tick, epoch = await _new_checkpoint(stage, zone)
    key = keys.key(WORLD, "BLOB", zone, tick, epoch)
    server: Any = stage.raw()
    try:
        async with stage.blackout({player for player, at in owner_of.items() if at == owner}):
            blob = bytearray(await server.get(key))
            blob[len(blob) // 2] ^= 0x55
            await server.set(key, bytes(blob))
            await stage.cluster.kill(owner)
            await stage.off(owner)
    finally:
        await server.aclose()
    stage.expect("checkpoint_unusable" in stage.logs("shard"), "the log of the new owner says checkpoint_unusable", "it does not")
    await stage.heal()
    while tick in {at for at, _ in (await stage.cluster.ledger.zone_head(zone)).checkpoints}:
        await stage.pause()  # until it is replaced, the auditor rightly finds it


@row(
    "log-gap",
    "a record behind a zone's checkpoint is deleted, its owner killed: the zone stands still and says where; mended, it goes on, none lost",
    Setup(allowed=frozenset({"log_faults", "commands_unwatched"})),
)
async def log_gap(stage: Stage) -> None:
    zone, owner = await _populated(stage)
    log = keys.key(WORLD, "LOG", zone)
    tick, _ = await _new_checkpoint(stage, zone)
    await stage.until("some ticks behind it", lambda v: v.ticks[zone] > tick + 5)
    server: Any = stage.raw()
    try:
        server.set_response_callback("XRANGE", lambda answer, **_: answer)  # as it is: fields of one name stand in it more than once
        gone = f"{tick + 3}-0"
        [(_, fields)] = await server.execute_command("XRANGE", log, gone, gone)
        await server.xdel(log, gone)
        await stage.cluster.kill(owner)
        await stage.until_so("some shard says zone_cannot_run", lambda: _said(stage, "zone_cannot_run", zone))
        others = {z: t for z, t in (await stage.view()).ticks.items() if z != zone}
        stood = (await stage.view()).ticks[zone]
        await stage.until("the other zones go on", lambda v: all(v.ticks[z] > t + 20 for z, t in others.items()))
        stage.expect((await stage.view()).ticks[zone] == stood, "the zone stands still", "it ticks on")
        named = [
            line for line in stage.logs("shard").splitlines() if "zone_cannot_run" in line and f"from tick {tick + 2} to {tick + 4}" in line
        ]
        stage.expect(bool(named), f"the log says that it goes from tick {tick + 2} to {tick + 4}", "it does not")
        await _put_back(server, log, gone, fields)
    finally:
        await server.aclose()
    held = (await stage.view()).zones[zone].owner
    await stage.cluster.kill(held)  # an owner that cannot run a zone does not try again by itself: an operator restarts it
    await stage.until("the zone goes on with its record put back", lambda v: v.ticks[zone] > stood + 20)
    await stage.heal()


def _said(stage: Stage, what: str, zone: int) -> bool:
    return any(what in line and f"zone={zone}" in line for line in stage.logs("shard").splitlines())


async def _put_back(server: Any, log: str, gone: str, fields: list[Any]) -> None:
    """Write a stream anew with the entry that it had (one entry cannot be put into the middle of a stream)."""
    entries = await server.execute_command("XRANGE", log, "-", "+")
    added: list[Any] = [gone.encode(), fields]
    whole = sorted([*entries, added], key=lambda entry: int(entry[0].partition(b"-")[0]))
    async with server.pipeline(transaction=True) as together:
        together.delete(log)
        for at, held in whole:
            together.execute_command("XADD", log, at, *held)
        await together.execute()
