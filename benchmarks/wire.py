"""Wire: bytes that a player receives for each entity in sight, where everything that can move does.

Snapshots that leave some entities out have fewer bytes for each: nearly all that are in sight must be updated in each. Coins are not, nor
is what just came into sight, which is told as a whole.
"""

from __future__ import annotations

from typing import Any

from benchmarks._arena_zone import ArenaZone, arena
from benchmarks._playing import console
from perdure.wire.link import RELEASE_ENTRY
from shard.kernels import layout

BAR_BYTES = 8.0
UPDATED_SHARE = 0.95


def run(players: int = 2000, ticks: int = 40) -> dict[str, Any]:
    """Count the bytes of `ticks` ticks of an arena zone: whole websocket frames.(header, enters, leaves, events, owner)."""
    with console.status("the arena's kernels"):
        program = arena()
    with console.status(f"{players} players come"):
        zone = ArenaZone(program, players)
    total = snapshots = seen = 0
    enters, updates = zone.state(layout.ENC_ENTERS), zone.state(layout.ENC_UPDATES)
    for _ in range(ticks):
        zone.tick()
        viewers = zone.state(layout.ENC_VIEWERS)
        total += int(zone.encoder.entries["length"][:viewers].sum())
        snapshots += viewers
        seen += zone.seen()
    assert RELEASE_ENTRY.names is not None
    enters, updates = zone.state(layout.ENC_ENTERS) - enters, zone.state(layout.ENC_UPDATES) - updates
    each, updated = total / seen, updates / seen
    return {
        "bytes_per_visible_entity": round(each, 2), "bar": BAR_BYTES, "bytes_per_snapshot": round(total / snapshots, 1),
        "seen_by_each": round(seen / snapshots, 1), "updates_per_snapshot": round(updates / snapshots, 1),
        "updated_share": round(updated, 3), "bar_updated_share": UPDATED_SHARE,
        "enters_per_snapshot": round(enters / snapshots, 2), "kilobit_a_second_each": round(total / snapshots * 20 * 8 / 1000, 1),
        "players": players, "ticks": ticks, "passed": each <= BAR_BYTES and updated >= UPDATED_SHARE,
    }  # fmt: skip
