"""After a run: is every player in exactly one place, is the gold all there, is every relic there once, and does every log give the state
that it says?

Reads a ledger whose shards have left (nothing moves any more). Knows in which fields the games of the benches keep gold and relics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from perdure.game.contract import effect_dtype, row_dtype
from perdure.game.portable import unpack_rows
from perdure.ledger.ledger import Ledger
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY, player_key
from shard.program import Program
from shard.replay import replay_zone
from shard.zone import Zone

GOLD = {("arena", "ship"): "gold", ("arena", "coin"): "value", ("bazaar", "trader"): "gold", ("bazaar", "purse"): "gold"}
"""(game, entity) -> the field that holds gold; each of these games counts in its totals what it minted."""
CARRIED = {("arena", "gain"): "value", ("bazaar", "gain"): "gold"}
"""(game, effect) -> the field in which it carries gold from a zone to another."""
RELICS = {("bazaar", "trader"): "relic", ("bazaar", "purse"): "relic"}
"""(game, entity) -> the field that holds the serial of a relic, 0 for none; no effect carries one. A zone's totals say which it made."""


@dataclass
class Audit:
    """What was found. All of it is zero or empty where nothing was lost."""

    players_lost: list[str] = field(default_factory=list)
    players_duplicated: list[str] = field(default_factory=list)
    gold_delta: int = 0
    gold_minted: int = 0
    relics_made: int = 0
    relics_lost: list[int] = field(default_factory=list)
    relics_duplicated: list[int] = field(default_factory=list)
    """Those that nobody made, too."""
    replay_mismatches: list[str] = field(default_factory=list)
    replayed_records: int = 0


async def audit(ledger: Ledger, program: Program, players: Iterable[str]) -> Audit:
    """Replay every zone and count players, gold and relics, in zones, in inboxes and in the lobby."""
    world = await ledger.world()
    assert world is not None
    found, places, gold = Audit(), Counter[int](), 0
    made, relics = set[int](), Counter[int]()
    game, avatar = program.game.name, program.game.entities[0].name
    dtypes = {index: (e.name, row_dtype(e)) for index, e in enumerate(program.game.entities)}
    for number in range(world.columns * world.rows):
        report, zone = await replay_zone(ledger, program, number)
        found.replayed_records += report.records
        if report.fault or zone is None:
            found.replay_mismatches.append(f"zone {number}: {report.fault}")
            continue
        found.gold_minted += int(zone.totals["minted"][0])
        here = zone.players
        places.update(here["key"][(here["key"] != 0) & (here["departed"] == 0)].tolist())
        gold += _gold_of_zone(game, zone)
        made |= _relics_made(game, zone)
        for entity in program.game.entities:
            rows = zone.rows(entity.name)
            relics.update(_relics(game, entity.name, rows[rows["dead"] == 0]))
        for data in [*zone.page, *await ledger.read_inbox(number)]:
            entry = unpack_entry(data)
            if entry.kind is EntryKind.EFFECT:
                gold += _gold_of_effect(program, entry)
            if entry.kind not in (EntryKind.JOIN, EntryKind.ARRIVE):
                continue
            if entry.player:
                places[entry.player] += 1
            if entry.payload:
                name, dtype = dtypes[entry.type if entry.kind is EntryKind.ARRIVE else 0]
                rows = unpack_rows(entry.payload, dtype)
                gold += _gold(game, name, rows)
                relics.update(_relics(game, name, rows))
    for name in players:
        record = await ledger.player(player_key(name))
        if record is not None and record.presence.place == LOBBY:
            places[record.presence.player] += 1
            if record.saved:
                rows = unpack_rows(record.saved, dtypes[0][1])
                gold += _gold(game, avatar, rows)
                relics.update(_relics(game, avatar, rows))
        count = places[player_key(name)]
        if count == 0:
            found.players_lost.append(name)
        elif count > 1:
            found.players_duplicated.append(name)
    found.gold_delta = gold - found.gold_minted
    found.relics_made = len(made)
    found.relics_lost, found.relics_duplicated = not_there_once(made, relics)
    return found


def _gold(game: str, entity: str, rows: np.ndarray) -> int:
    column = GOLD.get((game, entity))
    return int(rows[column].sum()) if column else 0


def not_there_once(made: set[int], found: Counter[int]) -> tuple[list[int], list[int]]:
    """Return the serials that are nowhere, and those that are in more than one place or were made by nobody."""
    return sorted(made - set(found)), sorted(serial for serial, count in found.items() if count > 1 or serial not in made)


def _relics(game: str, entity: str, rows: np.ndarray) -> list[int]:
    column = RELICS.get((game, entity))
    return [int(serial) for serial in rows[column] if serial] if column else []


def _relics_made(game: str, zone: Zone) -> set[int]:
    if all(of != game for of, _ in RELICS):
        return set()
    first, count = int(zone.totals["first_relic"][0]), int(zone.totals["relics"][0])
    return set(range(first, first + count))


def _gold_of_effect(program: Program, entry: Entry) -> int:
    effect = program.game.effects[entry.type]
    column = CARRIED.get((program.game.name, effect.name))
    return int(unpack_rows(entry.payload, effect_dtype(effect))[column].sum()) if column else 0


def _gold_of_zone(game: str, zone: Zone) -> int:
    total = 0
    for of, entity in GOLD:
        if of == game:
            rows = zone.rows(entity)
            total += _gold(game, entity, rows[rows["dead"] == 0])
    return total
