"""A slow, obvious encoder of snapshots, and a toy schema: what docs/PROTOCOL.md says, in as few words as possible.

The twin of the shard's encode kernel for tests of clients and gateways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import msgpack

from perdure.game.schema import CommandSchema, EntitySchema, EventSchema, FieldSchema, Schema
from perdure.wire.client_messages import server_frame

TOY = Schema(
    "toy",
    20,
    4096.0,
    4096.0,
    400.0,
    (
        EntitySchema(
            "ship",
            0,
            64,
            True,
            (
                FieldSchema("x", "f4", "all", 0, 4096, 1 / 16, True),
                FieldSchema("y", "f4", "all", 0, 4096, 1 / 16, True),
                FieldSchema("hp", "i2", "all", 0, 100),
                FieldSchema("score", "u4", "all", 0, 1_000_000),
                FieldSchema("serial", "u4", "all", 0, (1 << 32) - 1),
                FieldSchema("turn", "i1", "all", -1, 1),
                FieldSchema("a", "u1", "all", 0, 9),
                FieldSchema("b", "u1", "all", 0, 9),
                FieldSchema("c", "u1", "all", 0, 9),
                FieldSchema("ammo", "u1", "owner", 0, 50),
                FieldSchema("fuel", "u4", "owner", 0, 100_000),
            ),
        ),
        EntitySchema("coin", 1, 64, False, (FieldSchema("x", "f4", "all", 0, 4096, 1 / 16), FieldSchema("worth", "u1", "all", 1, 10))),
    ),
    (
        CommandSchema(
            "steer",
            1,
            (FieldSchema("mx", "i1", "all", -1, 1), FieldSchema("my", "i1", "all", -1, 1), FieldSchema("fire", "u1", "all", 0, 1)),
        ),
        CommandSchema("aim", 2, (FieldSchema("angle", "f4", "all", 0, 6.25, 1 / 64),)),
    ),
    (EventSchema("hit", 0, 600.0, (FieldSchema("who", "u4", "all", 0, (1 << 24) - 1), FieldSchema("damage", "u1", "all", 0, 100))),),
)


def packed(value: object) -> bytes:
    """Return a value as msgpack, by another library than the one under test."""
    return cast(bytes, msgpack.packb(value))


@dataclass
class Parts:
    """The five byte strings of a snapshot, as they grow."""

    schema: Schema = TOY
    enters: bytes = b""
    updates: bytes = b""
    leaves: bytes = b""
    events: bytes = b""
    owner: bytes = b""
    log: list[str] = field(default_factory=list)

    def _levels(self, fields: tuple[FieldSchema, ...], values: Mapping[str, float]) -> bytes:
        return b"".join(f.level(values[f.name]).to_bytes(f.wire_bytes, "little") for f in fields)

    def enter(self, handle: int, type_: int, id_: int, values: Mapping[str, float], key: int = 0) -> Parts:
        entity = self.schema.entities[type_]
        head = handle.to_bytes(2, "little") + bytes((type_,)) + id_.to_bytes(6, "little")
        self.enters += head + (key.to_bytes(8, "little") if entity.avatar else b"") + self._levels(entity.public, values)
        return self

    def update(self, handle: int, type_: int, values: Mapping[str, float]) -> Parts:
        entity = self.schema.entities[type_]
        changed = [k for k, f in enumerate(entity.public) if f.name in values]
        mask = sum(1 << k for k in changed).to_bytes(entity.mask_bytes, "little")
        self.updates += handle.to_bytes(2, "little") + mask + self._levels(tuple(entity.public[k] for k in changed), values)
        return self

    def leave(self, handle: int) -> Parts:
        self.leaves += handle.to_bytes(2, "little")
        return self

    def event(self, index: int, values: Mapping[str, float]) -> Parts:
        self.events += bytes((index,)) + self._levels(self.schema.events[index].fields, values)
        return self

    def own(self, type_: int, values: Mapping[str, float]) -> Parts:
        self.owner = self._levels(self.schema.entities[type_].owner, values)
        return self

    def message(self, *, zone: int = 0, epoch: int = 1, tick: int = 1, flags: int = 0, ack: int = 0, me: int = 0) -> bytes:
        return packed([2, zone, epoch, tick, flags, ack, me, self.enters, self.updates, self.leaves, self.events, self.owner])

    def frame(self, **head: int) -> bytes:
        return server_frame(self.message(**head))
