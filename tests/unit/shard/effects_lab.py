"""What the tests of effects work with: a world of two zones whose ghosts the test fills by hand, and who is counted where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perdure.game.contract import effect_dtype
from perdure.game.portable import unpack_rows
from perdure.wire.entries import EntryKind, unpack_entry
from shard.kernels import layout
from shard.program import table_parts
from shard.zone import Zone
from tests.unit.shard.zone_lab import World, now, program

TRADERS = Path(__file__).resolve().parents[2] / "data" / "traders.py"


def traders(columns: int = 2, rows: int = 1) -> World:
    return World(program(str(TRADERS)), columns, rows)


def show(world: World, viewer: int, name: str, row: Any, owner: int) -> None:
    """Show a copy of a row as a ghost in another zone, as its neighbour `owner` would."""
    zone = world.zones[viewer]
    index = [e.name for e in world.program.game.entities].index(name)
    at = layout.META_TABLE_GHOSTS + index
    place = table_parts(world.program.game.entities[index]).owned + int(zone.arrays.meta[at])
    rows = np.asarray(getattr(zone.arrays, f"{name}_rows"))
    rows[place] = row
    rows[place]["player"], rows[place]["dead"] = -2 - owner, 0
    zone.arrays.meta[at] += 1


def hide(world: World) -> None:
    """There are no ghosts any more."""
    for zone in world.zones.values():
        zone.arrays.meta[layout.META_TABLE_GHOSTS : layout.META_TABLE_GHOSTS + len(world.program.game.entities)] = 0


def mirror(world: World) -> None:
    """Show every zone all rows of all others, as they are now."""
    hide(world)
    for owner, zone in world.zones.items():
        for entity in world.program.game.entities:
            for row in zone.rows(entity.name):
                if row["dead"] == 0:
                    for viewer in world.zones:
                        if viewer != owner:
                            show(world, viewer, entity.name, row, owner)


def flying(world: World) -> list[tuple[str, Any]]:
    """Return (name, row) of every effect that waits in an inbox, or in a page that the next tick applies."""
    found = []
    for zone in world.zones.values():
        for data in [*now(world.ledger.read_inbox(zone.zone)), *zone.page]:
            entry = unpack_entry(data)
            if entry.kind is EntryKind.EFFECT:
                effect = world.program.game.effects[entry.type]
                found.append((effect.name, unpack_rows(entry.payload, effect_dtype(effect))[0]))
    return found


def total(zone: Zone, name: str) -> int:
    return int(zone.totals[name][0])


def totals(world: World, name: str) -> int:
    return sum(total(zone, name) for zone in world.zones.values())


def gold(world: World) -> int:
    """Return the gold of everyone and everything, on the way included."""
    rows = sum(int(row["gold"]) for zone in world.zones.values() for name in ("archer", "purse") for row in zone.rows(name)
               if row["dead"] == 0)  # fmt: skip
    walking = sum(int(row["gold"]) for name, row in world.in_transit() if name in ("archer", "purse"))
    return rows + walking + sum(int(effect["gold"]) for name, effect in flying(world) if name == "gain")


def damage(world: World) -> int:
    """Return what of the damage that was sent has arrived, came back, or is on its way."""
    return totals(world, "taken") + totals(world, "missed") + sum(int(e["damage"]) for name, e in flying(world) if name == "hurt")
