"""The client's picture of the world: entities by id, kept up to date by snapshots.

Owns decoding of the binary parts of a snapshot (enters, updates, leaves, events, owner) by the schema. No I/O, no asyncio:
the asyncio client, the bots and the gevent load tester share it. Values stay as wire levels until somebody asks for them,
so that a load tester that looks at nothing pays for nothing. Called by `perdure.client.protocol`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure.game.schema import ENTER_HEADER, PLAYER_KEY, EntitySchema, FieldSchema, Schema
from perdure.wire.opcodes import SnapshotFlag

_HANDLE = struct.Struct("<H")
_LETTERS = {1: "B", 2: "H", 3: "HB", 4: "I"}
_KEYFRAME = int(SnapshotFlag.KEYFRAME)


class SnapshotError(ValueError):
    """A snapshot does not fit the schema or the handles in use. The text says where."""


class _Layout:
    """How a run of fields lies on the wire: one struct, and which of its 3-byte levels must be put together. `run`: the fields as a slice,
    where they are neighbours."""

    __slots__ = ("_wide", "indexes", "run", "size", "unpack_from")

    def __init__(self, fields: Sequence[FieldSchema], indexes: Sequence[int]) -> None:
        packed = struct.Struct("<" + "".join(_LETTERS[f.wire_bytes] for f in fields))
        self.size = packed.size
        self.unpack_from = packed.unpack_from
        self.indexes = tuple(indexes)
        neighbours = bool(self.indexes) and self.indexes == tuple(range(self.indexes[0], self.indexes[-1] + 1))
        self.run = slice(self.indexes[0], self.indexes[-1] + 1) if neighbours else None
        self._wide = tuple(k for k, f in enumerate(fields) if f.wire_bytes == 3)

    def read(self, data: bytes, at: int) -> Sequence[int]:
        levels: Sequence[int] = self.unpack_from(data, at)
        if self._wide:
            merged = list(levels)
            for k in self._wide:  # rising: the parts of earlier fields are merged already
                merged[k] |= merged.pop(k + 1) << 16
            return merged
        return levels


class _TypePlan:
    """Layouts of one entity type: all public fields, all owner fields, and each update mask that has occurred."""

    __slots__ = ("entity", "mask_bytes", "owner", "public", "updates")

    def __init__(self, entity: EntitySchema) -> None:
        self.entity = entity
        self.mask_bytes = entity.mask_bytes
        self.public = _Layout(entity.public, range(len(entity.public)))
        self.owner = _Layout(entity.owner, range(len(entity.owner)))
        self.updates: dict[bytes, _Layout] = {}

    def update(self, mask: bytes) -> _Layout:
        layout = self.updates.get(mask)
        if layout is None:
            bits = int.from_bytes(mask, "little")
            public = self.entity.public
            if bits >> len(public):
                raise SnapshotError(f"an update of {self.entity.name} names a field that it has not")
            indexes = [k for k in range(len(public)) if bits >> k & 1]
            layout = self.updates[mask] = _Layout([public[k] for k in indexes], indexes)
        return layout


class EntityView:
    """One entity as this client sees it. Fields are attributes (`ship.x`) and stand in `fields`; both are values."""

    __slots__ = ("_plan", "handle", "id", "key", "levels", "owner_levels")

    def __init__(self, plan: _TypePlan, id_: int, handle: int, levels: list[int]) -> None:
        self._plan = plan
        self.id = id_
        self.handle = handle
        self.key = 0
        """Key of the player whose avatar this is; 0 for nobody's. `Client.ask_names` turns it into a name."""
        self.levels = levels
        """Wire levels of the public fields, in the schema's order."""
        self.owner_levels: Sequence[int] = ()
        """Wire levels of the owner-only fields; empty for entities other than one's own avatar."""

    @property
    def type(self) -> str:
        return self._plan.entity.name

    @property
    def schema(self) -> EntitySchema:
        return self._plan.entity

    @property
    def fields(self) -> dict[str, float | int]:
        """All fields that are known of the entity, as values."""
        entity = self._plan.entity
        values = {f.name: f.value(level) for f, level in zip(entity.public, self.levels, strict=True)}
        if self.owner_levels:
            values.update((f.name, f.value(level)) for f, level in zip(entity.owner, self.owner_levels, strict=True))
        return values

    def __getattr__(self, name: str) -> float | int:
        entity = self._plan.entity
        for k, f in enumerate(entity.public):
            if f.name == name:
                return f.value(self.levels[k])
        if self.owner_levels:
            for k, f in enumerate(entity.owner):
                if f.name == name:
                    return f.value(self.owner_levels[k])
        raise AttributeError(f"{entity.name} {self.id} has no field {name!r} that this client can see")

    def __repr__(self) -> str:
        return f"<{self.type} {self.id} {self.fields}>"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened near by, in the tick of its snapshot."""

    name: str
    tick: int
    fields: Mapping[str, float | int]


@dataclass(slots=True)
class Snapshot:
    """What one snapshot said. `entered` and `left` hold ids; an entity that a keyframe repeats is in neither."""

    zone: int
    epoch: int
    tick: int
    flags: int
    ack: int
    me: int
    entered: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    updated: int = 0
    events: list[Event] = field(default_factory=list)

    @property
    def keyframe(self) -> bool:
        return bool(self.flags & _KEYFRAME)


class WorldView:
    """All entities in sight. `entities` maps id to view; `me` is one's own avatar, or None before the first snapshot."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.entities: dict[int, EntityView] = {}
        self.zone = -1
        self.epoch = 0
        self.tick = 0
        self.me_id = 0
        self.stale_zones: frozenset[int] = frozenset()
        """Neighbouring zones whose entities are shown as they were, since their server is being replaced."""
        self._plans = [_TypePlan(entity) for entity in schema.entities]
        self._events = [(event, _Layout(event.fields, range(len(event.fields)))) for event in schema.events]
        self._handles: dict[int, EntityView] = {}

    @property
    def me(self) -> EntityView | None:
        return self.entities.get(self.me_id)

    def entity(self, type_: int, id_: int, handle: int, levels: list[int]) -> EntityView:
        """Return a view of an entity that is kept elsewhere, from the levels of its public fields; more of them are passed over."""
        plan = self._plans[type_]
        return EntityView(plan, id_, handle, levels[: len(plan.entity.public)])

    def of_type(self, name: str) -> list[EntityView]:
        """Return the entities of one type, in order of id."""
        return sorted((entity for entity in self.entities.values() if entity.type == name), key=lambda entity: entity.id)

    def apply(self, message: Sequence[Any]) -> Snapshot:
        """Apply a decoded snapshot message [2, zone, ..., owner]; raises SnapshotError where it does not fit.

        Leaves first, then enters, then updates: a handle may be used anew in the same snapshot.
        """
        try:
            _, zone, epoch, tick, flags, ack, me, enters, updates, leaves, events, owner = message
            snapshot = Snapshot(zone, epoch, tick, flags, ack, me)
            previous = self.entities
            if flags & _KEYFRAME:
                self.entities = {}
                self._handles.clear()
            if leaves:
                self._leave(leaves, snapshot)
            if enters:
                self._enter(enters, snapshot, previous)
            if flags & _KEYFRAME:
                snapshot.left = [id_ for id_ in previous if id_ not in self.entities]
            if updates:
                self._update(updates, snapshot)
            if events:
                self._event(events, snapshot)
            self.zone, self.epoch, self.tick, self.me_id = zone, epoch, tick, me
            if owner:
                self._owner(owner)
        except (struct.error, IndexError, TypeError, ValueError) as error:
            if isinstance(error, SnapshotError):
                raise
            raise SnapshotError(f"a snapshot does not fit the schema: {error}") from error
        return snapshot

    def _leave(self, leaves: bytes, snapshot: Snapshot) -> None:
        for (handle,) in _HANDLE.iter_unpack(leaves):
            entity = self._handles.pop(handle, None)
            if entity is None:
                raise SnapshotError(f"handle {handle} leaves, but is not in use")
            if self.entities.get(entity.id) is entity:
                del self.entities[entity.id]
            snapshot.left.append(entity.id)

    def _enter(self, enters: bytes, snapshot: Snapshot, previous: dict[int, EntityView]) -> None:
        at, end = 0, len(enters)
        plans, handles, entities = self._plans, self._handles, self.entities
        while at < end:
            handle, type_, low, high = ENTER_HEADER.unpack_from(enters, at)
            plan = plans[type_]
            layout = plan.public
            at += ENTER_HEADER.size
            key = 0
            if plan.entity.avatar:
                (key,) = PLAYER_KEY.unpack_from(enters, at)
                at += PLAYER_KEY.size
            levels = layout.read(enters, at)
            at += layout.size
            id_ = high << 32 | low
            entity = previous.get(id_)
            if entity is None or entity._plan is not plan:
                snapshot.entered.append(id_)
                entity = EntityView(plan, id_, handle, list(levels))
            else:  # known already: the same object goes on, so that whoever holds it sees it move
                entity.handle = handle
                entity.levels = list(levels)
            entity.key = key
            entities[id_] = handles[handle] = entity

    def _update(self, updates: bytes, snapshot: Snapshot) -> None:
        at, end, count = 0, len(updates), 0
        handles = self._handles
        while at < end:
            handle = updates[at] | updates[at + 1] << 8
            entity = handles.get(handle)
            if entity is None:
                raise SnapshotError(f"an update of handle {handle}, which is not in use")
            plan = entity._plan
            start = at + 2 + plan.mask_bytes
            mask = updates[at + 2 : start]
            layout = plan.updates.get(mask) or plan.update(mask)
            read = layout.read(updates, start)
            if layout.run is not None:  # who moved: the most frequent update by far
                entity.levels[layout.run] = read
            else:
                levels = entity.levels
                for k, level in zip(layout.indexes, read, strict=True):
                    levels[k] = level
            at = start + layout.size
            count += 1
        snapshot.updated = count

    def _event(self, events: bytes, snapshot: Snapshot) -> None:
        at, end = 0, len(events)
        while at < end:
            event, layout = self._events[events[at]]
            levels = layout.read(events, at + 1)
            fields = {f.name: f.value(level) for f, level in zip(event.fields, levels, strict=True)}
            snapshot.events.append(Event(event.name, snapshot.tick, fields))
            at += 1 + layout.size

    def _owner(self, owner: bytes) -> None:
        entity = self.entities.get(self.me_id)
        if entity is None:
            raise SnapshotError("owner fields came, but one's own avatar is not in sight")
        layout = entity._plan.owner
        if len(owner) != layout.size:
            raise SnapshotError(f"owner fields have {len(owner)} bytes, not {layout.size}")
        entity.owner_levels = layout.read(owner, 0)
