"""What players are shown of others, across borders too: states that were committed, not too old, each entity once, and no gaps.

`Sights` hears of every state that a zone has committed, and of everything that clients show afterwards. While nothing is broken
(`strict`), what is shown is a committed state, no older than a stated bound, and who is near stays in sight. With faults, only that nobody
is shown an entity twice: ghosts of a zone that fails over freeze. Called by tests.simulation.checks and players.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from perdure.client.world_view import Snapshot, WorldView
from perdure.game.schema import Schema
from shard.kernels import layout
from shard.zone import Zone

REMEMBERED_STATES = 600
"""States of an entity, one for each change."""
HOPS_S = 0.03
"""What the simulated network may take from the ledger's commit to a client: five hops of at most 2.5 ms, and something to spare."""
MARGIN = 12.0
"""How far inside a player's interest another must be to be sure to be in sight: what both walk while a state is on its way."""
SETTLED_S = 1.0
"""How long an entity, and one's own view, must have been there before a gap is one: logins are over, borders are subscribed for."""

State = tuple[float, tuple[int, ...] | None]
"""When it was committed, and the public levels; None: it is no more."""


class Sights:
    """See the module docstring. `fail(text)` takes a violation; `now_s()` is the virtual time."""

    on_time = True
    """Do all zones tick, and show, at the full rate? Where some sleep or are slowed, only doubles are refused, as with faults."""

    def __init__(self, schema: Schema, fail: Callable[[str], None], now_s: Callable[[], float]) -> None:
        self._schema, self._fail, self._now_s = schema, fail, now_s
        self._states: dict[int, deque[State]] = {}
        self._avatar = schema.avatar.index
        self._avatars: dict[int, tuple[float, float]] = {}
        self._since: dict[int, float] = {}
        self._viewing: dict[str, tuple[int, float]] = {}
        self.bound_s = 2 / schema.tick_hz + HOPS_S
        self.strict_until_s = 0.0
        self.ghosts_seen = 0

    # --- what was committed ---------------------------------------------------------------------------------------
    def committed(self, zone: Zone) -> None:
        """A zone has committed its state."""
        now_s = self._now_s()
        gone = self._logged_out(zone)
        for entity in self._schema.entities:
            for row in zone.rows(entity.name):
                key = int(row["id"])
                out = (entity.index, key) in gone  # it is shown once more, in the frame that says so
                over = row["dead"] == layout.DEAD_DESPAWNED or out
                levels = None if over and not out else tuple(f.level(float(row[f.name])) for f in entity.public)
                states = self._states.setdefault(key, deque(maxlen=REMEMBERED_STATES))
                if not states or states[-1][1] != levels:
                    states.append((now_s, levels))
                if out:
                    states.append((now_s, None))
                if entity.index == self._avatar:
                    self._since.setdefault(key, now_s)
                    self._avatars[key] = float(row["x"]), float(row["y"])
                    if over:
                        self._avatars.pop(key)

    def _logged_out(self, zone: Zone) -> set[tuple[int, int]]:
        out = np.asarray(zone.arrays.out[: zone.arrays.meta[layout.META_OUT]])
        lobby = out[out["kind"] == layout.OUT_LOBBY]
        rows = zone.rows(self._schema.avatar.name)
        return {(self._avatar, int(rows[int(row)]["id"])) for row in lobby["row"]}

    # --- what is shown --------------------------------------------------------------------------------------------
    def shown(self, name: str, snapshot: Snapshot, world: WorldView) -> None:
        """A client has applied a snapshot."""
        now_s = self._now_s()
        strict = self.on_time and now_s < self.strict_until_s
        if len(world._handles) != len(world.entities):
            self._fail(f"sights: {name} is shown an entity twice in zone {snapshot.zone} at tick {snapshot.tick}")
        for entity in world.entities.values():
            if entity.id != world.me_id:
                self._look_at(name, snapshot, entity.id, tuple(entity.levels), strict)
        me, began_s = self._viewing.get(name, (0, 0.0))
        if me != world.me_id:
            self._viewing[name] = world.me_id, now_s
        elif strict and now_s - began_s > SETTLED_S and world.me is not None:
            self._look_for_gaps(name, snapshot, world)

    def _look_at(self, name: str, snapshot: Snapshot, entity: int, levels: tuple[int, ...], strict: bool) -> None:
        states = self._states.get(entity, ())
        newest = next((k for k in range(len(states) - 1, -1, -1) if states[k][1] == levels), None)
        where = f"in zone {snapshot.zone} at tick {snapshot.tick}"
        if newest is None:
            if strict and len(states) < REMEMBERED_STATES:
                self._fail(f"sights: {name} is shown entity {entity:x} as {levels} {where}, a state that no zone has committed")
            return
        if entity >> 32 != snapshot.zone:
            self.ghosts_seen += 1
        over_s = self._now_s() - states[newest + 1][0] if newest + 1 < len(states) else 0.0
        if strict and over_s > self.bound_s:
            self._fail(f"sights: {name} is shown entity {entity:x} {where} as it was {over_s:.3f} s ago; {self.bound_s:.3f} s are allowed")

    def _look_for_gaps(self, name: str, snapshot: Snapshot, world: WorldView) -> None:
        me, now_s = world.me, self._now_s()
        assert me is not None
        for entity, (x, y) in self._avatars.items():
            near = (x - me.x) ** 2 + (y - me.y) ** 2 < (self._schema.interest - MARGIN) ** 2
            if not near or now_s - self._since[entity] < SETTLED_S:
                continue
            where = f"in zone {snapshot.zone} at tick {snapshot.tick}, though it is at ({x:.1f}, {y:.1f}) and {name} at ({me.x}, {me.y})"
            if entity not in world.entities:
                self._fail(f"sights: {name} is not shown entity {entity:x} {where}")
            elif entity in snapshot.left:
                self._fail(f"sights: entity {entity:x} left the sight of {name} {where}")
