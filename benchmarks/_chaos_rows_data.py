"""Chaos rows in which the ledger's data is damaged behind everybody's back: it is used where it can be, and said loudly where not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks._chaos_row import row
from benchmarks._stage import Setup, Stage
from perdure.ledger import keys

WORLD = "main"
STARTS_S = 5.0
"""Within so long a time a zone starts by itself once its damaged record is back (docs/RELIABILITY.md)."""


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


async def _populated(stage: Stage) -> int:
    """Choose a zone with players."""
    view = await stage.settled()
    return stage.choose.choice(sorted({p.place for p in await stage.cluster.ledger.online() if p.place in view.zones}))


async def _owned(stage: Stage, zone: int) -> tuple[str, set[str]]:
    """Return who runs a zone now, and the players in all zones that this shard runs."""
    view, owner_of = await stage.owners()
    owner = view.zones[zone].owner
    return owner, {name for name, at in owner_of.items() if at == owner}


@row("checkpoint-corrupt", "the newest checkpoint of a zone is damaged and its owner killed: the older one is used, nothing lost")
async def checkpoint_corrupt(stage: Stage) -> None:
    zone = await _populated(stage)
    tick, epoch = await _new_checkpoint(stage, zone)
    owner, players = await _owned(stage, zone)
    key = keys.key(WORLD, "BLOB", zone, tick, epoch)
    server: Any = stage.raw()
    try:
        async with stage.blackout(players):
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


async def _log_damaged(stage: Stage, damage: Callable[[list[bytes]], list[bytes]], says: Callable[[int], str]) -> None:
    """Damage the record three ticks behind a zone's checkpoint and kill its owner. The zone stands still, a shard's log says where; the
    others go on; with the record put back, the shard that has the zone starts it by itself. `says`: what the log says, for this tick."""
    zone = await _populated(stage)
    log = keys.key(WORLD, "LOG", zone)
    tick, _ = await _new_checkpoint(stage, zone)
    await stage.until("some ticks behind it", lambda v: v.ticks[zone] > tick + 5)
    await stage.until_so("who watches the log has read it too", lambda: stage.watch.seen(zone) > tick + 3)
    owner, players = await _owned(stage, zone)
    server: Any = stage.raw()
    struck = time.monotonic()
    try:
        # The dead owner's other players see a failover, whatever is wrong with their neighbour; who has walked into that waits with it.
        async with stage.blackout(players, but={zone}):
            server.set_response_callback("XRANGE", lambda answer, **_: answer)  # as it is: fields of one name stand in it more than once
            at = f"{tick + 3}-0"
            [(_, fields)] = await server.execute_command("XRANGE", log, at, at)
            await _replace(server, log, at, damage([*fields]))
            await stage.cluster.kill(owner)
            await stage.until_so("some shard says zone_cannot_run", lambda: _said(stage, "zone_cannot_run", zone))
            stood = (await stage.view()).ticks[zone]
            players -= {p.name for p in await stage.cluster.ledger.online(zone)}
        stage.expect((await stage.view()).ticks[zone] == stood, "the zone stands still", "it ticks on")
        named = [line for line in stage.logs("shard").splitlines() if "zone_cannot_run" in line and says(tick + 3) in line]
        stage.expect(bool(named), f"the log says {says(tick + 3)!r}", "it does not")
        await _replace(server, log, at, [*fields])
        mended = time.monotonic()
    finally:
        await server.aclose()
    await stage.until("the zone starts by itself, its record put back", lambda v: v.ticks[zone] > stood, STARTS_S)
    stage.figures["zone_started_s"] = round(time.monotonic() - mended, 2)
    stage.figures["zone_stood_s"] = round(time.monotonic() - struck, 1)
    await stage.heal()


DAMAGED = Setup(allowed=frozenset({"log_faults", "commands_unwatched"}))


@row(
    "log-gap",
    "a record behind a zone's checkpoint is deleted, its owner killed: the zone stands still, says where; mended, it starts by itself",
    DAMAGED,
)
async def log_gap(stage: Stage) -> None:
    await _log_damaged(stage, lambda _: [], lambda tick: f"from tick {tick - 1} to {tick + 1}")


@row(
    "log-bit-flip",
    "a bit of a record behind a zone's checkpoint flips, its owner dies: the zone stands still, says where; mended, it starts by itself",
    DAMAGED,
)
async def log_bit_flip(stage: Stage) -> None:
    def flipped(fields: list[bytes]) -> list[bytes]:
        record = bytearray(fields[fields.index(b"r") + 1])
        bit = stage.choose.randrange(8 * len(record))
        stage.figures["bit"] = f"{bit} of {8 * len(record)}"
        record[bit // 8] ^= 1 << bit % 8
        fields[fields.index(b"r") + 1] = bytes(record)
        return fields

    await _log_damaged(stage, flipped, lambda tick: f"tick {tick}")


def _said(stage: Stage, what: str, zone: int) -> bool:
    return any(what in line and f"zone={zone}" in line for line in stage.logs("shard").splitlines())


async def _replace(server: Any, log: str, at: str, fields: list[bytes]) -> None:
    """Put an entry into a stream in the place of the one that it has there, or take it out where there are no fields.

    A stream takes entries at its end alone, so it is written anew, in one step: its owner may be at work.
    """
    await server.eval(_REPLACE, 1, log, at, *fields)


_REPLACE = """
local kept, number = redis.call('XRANGE', KEYS[1], '-', '+'), tonumber(string.match(ARGV[1], '^%d+'))
local at = 1
while kept[at] and tonumber(string.match(kept[at][1], '^%d+')) < number do at = at + 1 end
if kept[at] and kept[at][1] == ARGV[1] then table.remove(kept, at) end
if #ARGV > 1 then table.insert(kept, at, { ARGV[1], { unpack(ARGV, 2) } }) end
redis.call('DEL', KEYS[1])
for _, entry in ipairs(kept) do redis.call('XADD', KEYS[1], entry[1], unpack(entry[2])) end
"""
