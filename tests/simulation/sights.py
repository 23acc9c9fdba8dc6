"""What players are shown of others, across borders too: states that were committed, not too old, each entity once, and no gaps.

`Sights` hears of every state that a zone has committed, and of everything that clients show afterwards. What holds whatever is broken:

- each entity is shown once, in a state that some zone has committed, and as the avatar of the player whose it is;
- what the zone of a snapshot owns is shown as that zone has it, never as a neighbour told of it, and all of it that is near is in sight.

Ghosts of a zone that fails over freeze. So it is while nothing is broken (`strict`) that they are no older than a stated bound, and that
who is near over a border stays in sight; and some seconds after the last fault (`calm_from_s`), with wider bounds. Called by
tests.simulation.checks and players.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

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
CALM_S = 1.5
"""In a calm after faults: so old may a ghost be, and so long may one be missing that is near."""
LOOKS_S = 0.5
"""Between two looks of one viewer; after a longer time what was missing may have come and gone."""
ON_ITS_WAY_S = 3.0
"""How long what was shown by a zone that is slowed may be on its way."""
REMEMBERED_TICKS = 100
"""Ticks of a zone of which it is known what it owned: more than a snapshot is on its way."""

State = tuple[float, tuple[int, ...] | None]
"""When it was committed, and the public levels; None: it is no more."""


class Owned(NamedTuple):
    """A living row of a zone at a tick."""

    levels: tuple[int, ...]
    x: float
    y: float


class Sights:
    """See the module docstring. `fail(text)` takes a violation; `now_s()` is the virtual time."""

    at_full_rate = True
    """Do all zones tick, and show, at the full rate? Where some sleep or are slowed, ages, gaps and what is owned are not looked at."""

    def __init__(self, schema: Schema, fail: Callable[[str], None], now_s: Callable[[], float]) -> None:
        self._schema, self._fail, self._now_s = schema, fail, now_s
        self._states: dict[int, deque[State]] = {}
        self._avatar = schema.avatar.index
        self._avatars: dict[int, tuple[float, float]] = {}
        self._since: dict[int, float] = {}
        self._viewing: dict[str, tuple[int, float]] = {}
        self._keys: dict[int, int] = {}
        self._owned: dict[int, dict[int, tuple[int, dict[int, Owned]]]] = {}
        """zone -> tick -> (epoch, what it owned)"""
        self._now_owned: dict[int, dict[int, Owned]] = {}
        self._missing: dict[tuple[str, int], tuple[float, float]] = {}
        """(viewer, entity) -> since when it is missing, and when that was last seen"""
        self.bound_s = 2 / schema.tick_hz + HOPS_S
        self.strict_until_s = 0.0
        self.calm_from_s = math.inf
        self.slowed: Callable[[], bool] = lambda: False
        """Is a zone on a rung of the ladder of overload (it relieves a gateway)?"""
        self._slowed_s = -math.inf
        self.ghosts_seen = self.owned_seen = self.calm_seen = 0

    # --- what was committed ---------------------------------------------------------------------------------------
    def committed(self, zone: Zone, epoch: int) -> None:
        """A zone has committed its state, under this epoch."""
        now_s = self._now_s()
        gone = self._logged_out(zone)
        owned: dict[int, Owned] = {}
        ticks = self._owned.setdefault(zone.zone, {})
        ticks[zone.tick] = epoch, owned
        self._now_owned[zone.zone] = owned
        ticks.pop(zone.tick - REMEMBERED_TICKS, None)
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
                if levels is not None and row["dead"] == 0:
                    owned[key] = Owned(levels, float(row["x"]), float(row["y"]))
                if entity.index == self._avatar:
                    self._is_avatar_of(key, int(zone.players[row["player"]]["key"]) if row["player"] >= 0 else 0)
                    self._since.setdefault(key, now_s)
                    self._avatars[key] = float(row["x"]), float(row["y"])
                    if over:
                        self._avatars.pop(key)

    def _is_avatar_of(self, entity: int, player: int) -> None:
        """An id is that of one player's avatar, for ever."""
        if player and self._keys.setdefault(entity, player) != player:
            self._fail(f"sights: entity {entity:x} is the avatar of {player:x}, and was that of {self._keys[entity]:x}")

    def _logged_out(self, zone: Zone) -> set[tuple[int, int]]:
        out = np.asarray(zone.arrays.out[: zone.arrays.meta[layout.META_OUT]])
        lobby = out[out["kind"] == layout.OUT_LOBBY]
        rows = zone.rows(self._schema.avatar.name)
        return {(self._avatar, int(rows[int(row)]["id"])) for row in lobby["row"]}

    @property
    def on_time(self) -> bool:
        if self.slowed():
            self._slowed_s = self._now_s()
        return self.at_full_rate and self._now_s() - self._slowed_s > ON_ITS_WAY_S

    # --- what is shown --------------------------------------------------------------------------------------------
    def shown(self, name: str, snapshot: Snapshot, world: WorldView) -> None:
        """A client has applied a snapshot."""
        now_s = self._now_s()
        on_time = self.on_time
        strict = on_time and now_s < self.strict_until_s
        calm = on_time and now_s > self.calm_from_s
        bound_s = self.bound_s if strict else CALM_S if calm else math.inf
        if len(world._handles) != len(world.entities):
            self._fail(f"sights: {name} is shown an entity twice in zone {snapshot.zone} at tick {snapshot.tick}")
        for entity in world.entities.values():
            of = self._keys.get(entity.id, entity.key)
            if entity.key and of != entity.key:
                self._fail(f"sights: {name} is shown entity {entity.id:x} as the avatar of {entity.key:x}; it is that of {of:x}")
            if entity.id != world.me_id:
                self._look_at(name, snapshot, entity.id, tuple(entity.levels), bound_s)
        self._look_at_owned(name, snapshot, world)
        self.calm_seen += calm
        me, began_s = self._viewing.get(name, (0, 0.0))
        if me != world.me_id:
            self._viewing[name] = world.me_id, now_s
        elif (strict or calm) and now_s - began_s > SETTLED_S and world.me is not None:
            self._look_for_gaps(name, snapshot, world, 0.0 if strict else CALM_S)

    def _look_at_owned(self, name: str, snapshot: Snapshot, world: WorldView) -> None:
        """What the snapshot's zone owns at its tick is shown as it has it, and what is near is shown."""
        me, (epoch, owned) = world.me, self._owned.get(snapshot.zone, {}).get(snapshot.tick, (0, {}))
        here = owned.get(world.me_id)
        if not self.on_time or epoch != snapshot.epoch or here is None or me is None:
            return  # too long ago, or the last look before a border
        self.owned_seen += 1
        where = f"in zone {snapshot.zone} at tick {snapshot.tick}"
        for entity, row in owned.items():
            shown = world.entities.get(entity)
            if shown is not None:
                if tuple(shown.levels) != row.levels:
                    self._fail(
                        f"sights: {name} is shown entity {entity:x} {where} as {tuple(shown.levels)}; the zone has it as {row.levels}"
                    )
            elif (distance := math.hypot(row.x - here.x, row.y - here.y)) < self._schema.interest:
                self._fail(f"sights: {name} is not shown entity {entity:x} {where}, which the zone owns {distance:.1f} away")

    def _look_at(self, name: str, snapshot: Snapshot, entity: int, levels: tuple[int, ...], bound_s: float) -> None:
        states = self._states.get(entity, ())
        newest = next((k for k in range(len(states) - 1, -1, -1) if states[k][1] == levels), None)
        where = f"in zone {snapshot.zone} at tick {snapshot.tick}"
        if newest is None:
            if len(states) < REMEMBERED_STATES:
                self._fail(f"sights: {name} is shown entity {entity:x} as {levels} {where}, a state that no zone has committed")
            return
        if entity >> 32 != snapshot.zone:
            self.ghosts_seen += 1
        over_s = self._now_s() - states[newest + 1][0] if newest + 1 < len(states) else 0.0
        if over_s > bound_s:
            self._fail(f"sights: {name} is shown entity {entity:x} {where} as it was {over_s:.3f} s ago; {bound_s:.3f} s are allowed")

    def _is_somewhere(self, entity: int) -> bool:
        """Does a zone own it now? (A body that a late owner had may have been given up on its way.)"""
        return any(entity in owned for owned in self._now_owned.values())

    def _look_for_gaps(self, name: str, snapshot: Snapshot, world: WorldView, most_s: float) -> None:
        me, now_s = world.me, self._now_s()
        assert me is not None
        for entity, (x, y) in self._avatars.items():
            near = (x - me.x) ** 2 + (y - me.y) ** 2 < (self._schema.interest - MARGIN) ** 2
            seen = most_s and (entity in world.entities or not self._is_somewhere(entity))
            if not near or seen or now_s - self._since[entity] < SETTLED_S:
                self._missing.pop((name, entity), None)
                continue
            where = f"in zone {snapshot.zone} at tick {snapshot.tick}, though it is at ({x:.1f}, {y:.1f}) and {name} at ({me.x}, {me.y})"
            if entity not in world.entities:
                since_s, last_s = self._missing.get((name, entity), (now_s, now_s))
                since_s = since_s if now_s - last_s < LOOKS_S else now_s
                self._missing[name, entity] = since_s, now_s
                if now_s - since_s < most_s:
                    continue
                self._fail(f"sights: {name} is not shown entity {entity:x} {where}")
            elif entity in snapshot.left:
                self._fail(f"sights: entity {entity:x} left the sight of {name} {where}")
