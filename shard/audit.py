"""Is it all there, once? Checkpoints, log chains, replays, players and entities of a world, compared with each other.

Reads the ledger and writes nothing, so it is safe beside a running world. There, zones are read one after the other while players
walk from one to the next: what looks wrong is looked at again, and told only if it stays wrong. Called by `perdure audit`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perdure.game.contract import row_dtype
from perdure.game.portable import unpack_rows
from perdure.ledger.ledger import Ledger
from perdure.ledger.record import blob_digest, chain_digest, unpack_record
from perdure.ledger.values import LoggedRecord, ZoneHead
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import WorldGrid, key_hex
from shard.passages import stamp_of
from shard.program import Program
from shard.recovery import RECORDS_PER_READ
from shard.zone import Zone, ZoneError

PASSES = 6
PASS_PAUSE_S = 0.15
TRIES = 4


@dataclass
class AuditReport:
    """What an audit has looked at, and what is wrong: `faults` is empty where everything holds.

    `notes` say what this build cannot replay, since another has written it (and which): of those records the chain alone was checked.
    """

    zones: int = 0
    checkpoints: int = 0
    records: int = 0
    chained: int = 0
    players: int = 0
    entities: int = 0
    effects: int = 0
    """On their way between entities of two zones."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def audit(ledger: Ledger, program: Program, progress: Callable[[str], None] = lambda _: None) -> AuditReport:
    """Audit a whole world. Raises ZoneError where there is none, or it runs another game; LedgerError where the ledger fails."""
    world = await ledger.world()
    if world is None:
        raise ZoneError("the ledger holds no world of this name; check PERDURE_WORLD and PERDURE_REDIS_URL")
    if world.game != program.game.name:
        raise ZoneError(f"the world runs game {world.game!r}, not {program.game.name!r}")
    grid = WorldGrid(*program.game.world_size, world.columns, world.rows)
    report = AuditReport(zones=grid.zones)
    logs: dict[int, _Log] = {}
    for number in range(grid.zones):
        progress(f"zone {number} of {grid.zones}: checkpoints, log, replay")
        log = await _audit_zone(ledger, program, number, grid, world.seed, report)
        if log is not None:
            logs[number] = log
    standing: dict[str, None] | None = None
    for turn in range(PASSES):
        progress(f"who and what is where ({turn + 1})")
        if turn:
            await asyncio.sleep(PASS_PAUSE_S)
            await _catch_up(ledger, logs, report)
        zones = {number: log.zone for number, log in logs.items() if log.zone is not None}
        wrong = await _places(ledger, program, zones, report, complete=len(zones) == grid.zones)
        standing = wrong if standing is None else {what: None for what in standing if what in wrong}
        if not standing:
            break
    report.faults.extend(standing or {})
    return report


async def _audit_zone(ledger: Ledger, program: Program, number: int, grid: WorldGrid, seed: int, report: AuditReport) -> _Log | None:
    """Verify one zone from its older checkpoint on; again where a newer checkpoint came meanwhile and trimmed the log.

    None where it has a fault, or ends with what this build cannot replay.
    """
    head = await ledger.zone_head(number)
    for _ in range(TRIES):
        faults: list[str] = []
        log = await _replay_from(ledger, program, head, grid, seed, faults)
        again = await ledger.zone_head(number)
        if not faults or again.checkpoints == head.checkpoints:
            report.checkpoints += len(head.checkpoints)
            report.faults.extend(faults)
            if log is None:
                return None
            report.records += log.replayed
            report.chained += log.chained.total()
            report.notes.extend(log.notes())
            return log if not faults and log.zone is not None else None
        head = again
    report.faults.append(f"zone {number}: its checkpoints changed {TRIES} times while it was read")
    return None


async def _replay_from(ledger: Ledger, program: Program, head: ZoneHead, grid: WorldGrid, seed: int, faults: list[str]) -> _Log | None:
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
        return None
    log = _Log(kept[min(kept)] if kept else Zone(program, head.zone, grid, seed))
    newest = kept.get(head.checkpoints[0][0]) if head.checkpoints else None
    while found := await ledger.read_log(head.zone, log.tick + 1, RECORDS_PER_READ):
        for logged in found:
            try:
                log.take(logged)
                if newest is not None and log.tick == newest.tick:
                    log.compare(newest)
            except (ZoneError, ValueError) as error:
                faults.append(str(error) if str(error).startswith("zone") else f"zone {head.zone} tick {logged.tick}: {error}")
                return log
        await asyncio.sleep(0)
    if log.tick < head.tick:
        faults.append(f"zone {head.zone}: its log ends at tick {log.tick}, its head says {head.tick}")
    return log


class _Log:
    """A zone's log, read record by record: `zone` as its records give it, None while they are of a build that this one cannot replay.

    Of those the chain is checked, which shows that they are what was committed.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone: Zone | None = zone
        self.number, self.program = zone.zone, zone.program
        self.tick, self.digest = zone.tick, zone.digest
        self.replayed = 0
        self.chained: Counter[int] = Counter()
        """build -> its records that were not replayed"""

    def take(self, logged: LoggedRecord) -> None:
        """Take the next record. Raises ZoneError or ValueError for what is wrong with it."""
        record = unpack_record(logged.record)
        if self.zone is not None:
            try:
                self.zone.replay(logged.record, logged.page)
                self.replayed += 1
            except ZoneError:
                if record.build == self.program.build or record.tick != self.tick + 1:
                    raise
                self.zone = None
        if self.zone is None:
            if record.tick != self.tick + 1:
                raise ZoneError(f"zone {self.number}: the log goes from tick {self.tick} to {record.tick}; a record is missing")
            self.chained[record.build] += 1
        self.tick, self.digest = record.tick, chain_digest(self.digest, logged.record)
        if self.digest != logged.digest:
            raise ZoneError(f"zone {self.number} tick {logged.tick}: the log's chain is broken here")

    def compare(self, newest: Zone) -> None:
        """The newest checkpoint is of the record that was just read: it must be what the log gives; from here on it is replayed."""
        same = self.digest == newest.digest and (self.zone is None or self.zone.state_hash == newest.state_hash)
        if not same:
            raise ZoneError(f"zone {self.number}: its checkpoint of tick {newest.tick} is not what the log gives")
        self.zone = self.zone or newest

    def notes(self) -> list[str]:
        """Say what could not be replayed, and by which build it can be."""
        what = "its log ends with" if self.zone is None else "before its newest checkpoint are"
        return [
            f"zone {self.number}: {what} {count} records of build {build:016x}, this is {self.program.build:016x}: chained, not replayed"
            for build, count in self.chained.items()
        ]


async def _catch_up(ledger: Ledger, logs: dict[int, _Log], report: AuditReport) -> None:
    for number, log in list(logs.items()):
        before, sound = log.replayed, True
        try:
            while found := await ledger.read_log(number, log.tick + 1, RECORDS_PER_READ):
                for logged in found:
                    log.take(logged)
        except (ZoneError, ValueError) as error:
            report.faults.append(str(error))
            sound = False
        report.records += log.replayed - before
        if sound and log.zone is None:
            report.notes.extend(log.notes())
        if not sound or log.zone is None:
            del logs[number]


async def _places(ledger: Ledger, program: Program, zones: dict[int, Zone], report: AuditReport, *, complete: bool) -> dict[str, None]:
    """Return what is wrong with the places of players and entities, as this pass sees it."""
    effects: dict[tuple[int, int, int, int], list[str]] = defaultdict(list)
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
            if entry.kind is EntryKind.EFFECT and not zone.passages.has(entry):
                effects[entry.origin, *stamp_of(entry)].append(f"the inbox of zone {number}")
            if entry.kind not in (EntryKind.JOIN, EntryKind.ARRIVE):
                continue
            if entry.player:
                players[entry.player].append(f"the inbox of zone {number}")
                places[entry.player] = number
            if entry.kind is EntryKind.ARRIVE and entry.payload:
                for one in unpack_rows(entry.payload, dtypes[entry.type])["id"].tolist():
                    entities[one].append(f"the inbox of zone {number}")
    online = {presence.player: presence for presence in await ledger.online()}
    report.players, report.entities, report.effects = len(online), len(entities), len(effects)
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
    for (origin, *stamp), found in effects.items():
        if len(found) > 1:
            what = f"an effect of zone {origin} (generation, tick, place {tuple(stamp)})"
            wrong[f"{what} is in {len(found)} places: {', '.join(sorted(found))}"] = None
    return wrong
