"""Is it all there, once? Checkpoints, log chains, replays, players and entities of a world, compared with each other.

Reads the ledger and writes nothing, so it is safe beside a running world. There, zones are read one after the other while players
walk from one to the next: what looks wrong is looked at again, and told only if it stays wrong. Called by `perdure audit`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perdure.game.contract import row_dtype
from perdure.game.portable import unpack_rows
from perdure.ledger.ledger import Ledger, ZoneHead
from perdure.ledger.record import blob_digest
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import WorldGrid, key_hex
from shard.program import Program
from shard.recovery import RECORDS_PER_READ
from shard.zone import Zone, ZoneError

PASSES = 6
PASS_PAUSE_S = 0.15
TRIES = 4


@dataclass
class AuditReport:
    """What an audit has looked at, and what is wrong: `faults` is empty where everything holds."""

    zones: int = 0
    checkpoints: int = 0
    records: int = 0
    players: int = 0
    entities: int = 0
    faults: list[str] = field(default_factory=list)


async def audit(ledger: Ledger, program: Program, progress: Callable[[str], None] = lambda _: None) -> AuditReport:
    """Audit a whole world. Raises ZoneError where there is none, or it runs another game; LedgerError where the ledger fails."""
    world = await ledger.world()
    if world is None:
        raise ZoneError("the ledger holds no world of this name; check PERDURE_WORLD and PERDURE_REDIS_URL")
    if world.game != program.game.name:
        raise ZoneError(f"the world runs game {world.game!r}, not {program.game.name!r}")
    grid = WorldGrid(*program.game.world_size, world.columns, world.rows)
    report = AuditReport(zones=grid.zones)
    zones: dict[int, Zone] = {}
    for number in range(grid.zones):
        progress(f"zone {number} of {grid.zones}: checkpoints, log, replay")
        zone = await _audit_zone(ledger, program, number, grid, world.seed, report)
        if zone is not None:
            zones[number] = zone
    standing: dict[str, None] | None = None
    for turn in range(PASSES):
        progress(f"who and what is where ({turn + 1})")
        if turn:
            await asyncio.sleep(PASS_PAUSE_S)
            await _catch_up(ledger, zones, report)
        wrong = await _places(ledger, program, zones, report, complete=len(zones) == grid.zones)
        standing = wrong if standing is None else {what: None for what in standing if what in wrong}
        if not standing:
            break
    report.faults.extend(standing or {})
    return report


async def _audit_zone(ledger: Ledger, program: Program, number: int, grid: WorldGrid, seed: int, report: AuditReport) -> Zone | None:
    """Verify one zone from its older checkpoint on; again where a newer checkpoint came meanwhile and trimmed the log."""
    head = await ledger.zone_head(number)
    for _ in range(TRIES):
        faults: list[str] = []
        zone, records = await _replay_from(ledger, program, head, grid, seed, faults)
        again = await ledger.zone_head(number)
        if not faults or again.checkpoints == head.checkpoints:
            report.records += records
            report.checkpoints += len(head.checkpoints)
            report.faults.extend(faults)
            return zone
        head = again
    report.faults.append(f"zone {number}: its checkpoints changed {TRIES} times while it was read")
    return None


async def _replay_from(
    ledger: Ledger, program: Program, head: ZoneHead, grid: WorldGrid, seed: int, faults: list[str]
) -> tuple[Zone | None, int]:
    """Restore both checkpoints, replay the log from the older one, and compare it with the newer one on the way."""
    kept: dict[int, Zone] = {}
    for tick, digest in head.checkpoints:
        blob = await ledger.read_checkpoint(head.zone, tick)
        zone = Zone(program, head.zone, grid, seed)
        try:
            if blob is None:
                raise ZoneError(f"zone {head.zone}: its checkpoint of tick {tick} is not there")
            if blob_digest(blob) != digest:
                raise ZoneError(f"zone {head.zone}: its checkpoint of tick {tick} has another digest than the ledger knows")
            zone.restore(blob)
            kept[tick] = zone
        except ZoneError as error:
            faults.append(str(error))
    if head.checkpoints and not kept:
        return None, 0
    zone = kept[min(kept)] if kept else Zone(program, head.zone, grid, seed)
    newest = kept.get(head.checkpoints[0][0]) if head.checkpoints else None
    records = 0
    while found := await ledger.read_log(head.zone, zone.tick + 1, RECORDS_PER_READ):
        for logged in found:
            try:
                zone.replay(logged.record, logged.page)
            except (ZoneError, ValueError) as error:
                faults.append(str(error) if str(error).startswith("zone") else f"zone {head.zone} tick {logged.tick}: {error}")
                return None, records
            if zone.digest != logged.digest:
                faults.append(f"zone {head.zone} tick {logged.tick}: the log's chain is broken here")
                return None, records
            records += 1
            if newest is not None and zone.tick == newest.tick and (zone.digest, zone.state_hash) != (newest.digest, newest.state_hash):
                faults.append(f"zone {head.zone}: its checkpoint of tick {newest.tick} is not what the log gives")
        await asyncio.sleep(0)
    if zone.tick < head.tick:
        faults.append(f"zone {head.zone}: its log ends at tick {zone.tick}, its head says {head.tick}")
        return None, records
    return zone, records


async def _catch_up(ledger: Ledger, zones: dict[int, Zone], report: AuditReport) -> None:
    for number, zone in list(zones.items()):
        while found := await ledger.read_log(number, zone.tick + 1, RECORDS_PER_READ):
            try:
                for logged in found:
                    zone.replay(logged.record, logged.page)
                report.records += len(found)
            except (ZoneError, ValueError) as error:
                report.faults.append(str(error))
                del zones[number]
                break


async def _places(ledger: Ledger, program: Program, zones: dict[int, Zone], report: AuditReport, *, complete: bool) -> dict[str, None]:
    """Return what is wrong with the places of players and entities, as this pass sees it."""
    players: dict[int, list[str]] = defaultdict(list)
    places: dict[int, int] = {}
    entities: dict[int, list[str]] = defaultdict(list)
    dtypes = [row_dtype(entity) for entity in program.game.entities]
    for number, zone in zones.items():
        here = zone.players
        for key in here["key"][(here["key"] != 0) & (here["departed"] == 0)].tolist():
            players[key].append(f"zone {number}")
            places[key] = number
        for entity in program.game.entities:
            rows = zone.rows(entity.name)
            for one in np.asarray(rows["id"][rows["dead"] == 0]).tolist():
                entities[one].append(f"zone {number}")
        for data in [*zone.page, *await ledger.read_inbox(number)]:
            entry = unpack_entry(data)
            if entry.kind not in (EntryKind.JOIN, EntryKind.ARRIVE):
                continue
            if entry.player:
                players[entry.player].append(f"the inbox of zone {number}")
                places[entry.player] = number
            if entry.kind is EntryKind.ARRIVE and entry.payload:
                for one in unpack_rows(entry.payload, dtypes[entry.type])["id"].tolist():
                    entities[one].append(f"the inbox of zone {number}")
    online = {presence.player: presence for presence in await ledger.online()}
    report.players, report.entities = len(online), len(entities)
    wrong: dict[str, None] = {}
    for key, found in players.items():
        name = online[key].name if key in online else key_hex(key)
        if len(found) > 1:
            wrong[f"player {name} is in {len(found)} places: {', '.join(sorted(found))}"] = None
        elif key not in online:
            wrong[f"player {name} is in {found[0]}, but presence does not know"] = None
        elif online[key].place != places[key]:
            wrong[f"player {name} is in {found[0]}, but presence says zone {online[key].place}"] = None
    for key, presence in online.items():
        if complete and key not in players:
            wrong[f"player {presence.name} should be in zone {presence.place}, and is nowhere"] = None
    for one, found in entities.items():
        if len(found) > 1:
            wrong[f"entity {one:x} is in {len(found)} places: {', '.join(sorted(found))}"] = None
    return wrong
