"""The schema: one table of fields from which encoder, decoder, docs and every client come.

Made from a game's declaration by `perdure.game.contract`, stored as JSON in the ledger's world record by the first
shard, and sent to each client in its welcome. Holds no numba and no game code, so gateways and clients stay light.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

INTEGER_TYPES = {"i1": (-128, 127), "u1": (0, 255), "i2": (-32768, 32767), "u2": (0, 65535), "i4": (-(1 << 31), (1 << 31) - 1),
                 "u4": (0, (1 << 32) - 1), "i8": (-(1 << 53), 1 << 53)}  # fmt: skip
FLOAT_TYPES = ("f4", "f8")
MAX_WIRE_BYTES = 4
ENTER_HEADER = struct.Struct("<HBIH")
"""handle u16, entity type u8, low 32 bits of the id, high 16 bits of the id: 9 bytes, of an avatar's type then the player's key, then the
public fields."""
PLAYER_KEY = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """One field. On the wire a value is the unsigned level floor((value - lo) / step + 1/2), `wire_bytes` bytes, little endian.

    `to`: "all", "owner" or "server". For floats the range is half open: levels are 0 to (hi - lo) / step - 1.
    """

    name: str
    dtype: str
    to: str = "server"
    lo: float = 0
    hi: float = 0
    step: float = 1
    interpolate: bool = False

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_TYPES

    @property
    def levels(self) -> int:
        """Number of distinct values on the wire."""
        span = (self.hi - self.lo) / self.step
        return max(int(math.ceil(span)) if self.is_float else int(span) + 1, 1)

    @property
    def wire_bytes(self) -> int:
        if self.to == "server":
            return 0
        top = self.levels - 1
        return 1 if top < 1 << 8 else 2 if top < 1 << 16 else 3 if top < 1 << 24 else 4

    def value(self, level: int) -> float | int:
        """Return the value that a level stands for."""
        value = self.lo + level * self.step
        return value if self.is_float else int(value)

    def level(self, value: float) -> int:
        """Return the level of a value, clamped to the range (the slow twin of the encode kernel)."""
        return min(max(int(math.floor((value - self.lo) / self.step + 0.5)), 0), self.levels - 1)


def _wire_offsets(fields: Sequence[FieldSchema]) -> int:
    return sum(f.wire_bytes for f in fields)


@dataclass(frozen=True)
class EntitySchema:
    """One entity type; `index` is its number on the wire."""

    name: str
    index: int
    capacity: int
    avatar: bool
    fields: tuple[FieldSchema, ...]

    @cached_property
    def public(self) -> tuple[FieldSchema, ...]:
        return tuple(f for f in self.fields if f.to == "all")

    @cached_property
    def owner(self) -> tuple[FieldSchema, ...]:
        return tuple(f for f in self.fields if f.to == "owner")

    @property
    def mask_bytes(self) -> int:
        """Bytes of the bit mask in an update: bit k of byte k // 8 is set where public field k follows."""
        return (len(self.public) + 7) // 8

    @property
    def public_bytes(self) -> int:
        return _wire_offsets(self.public)

    @property
    def enter_bytes(self) -> int:
        """Bytes of a record that says that an entity comes into sight."""
        return ENTER_HEADER.size + (PLAYER_KEY.size if self.avatar else 0) + self.public_bytes

    @property
    def owner_bytes(self) -> int:
        return _wire_offsets(self.owner)


@dataclass(frozen=True)
class CommandSchema:
    """One kind of command. `payload` is the aligned dtype of its fields in a command row."""

    name: str
    kind: int
    fields: tuple[FieldSchema, ...]

    @cached_property
    def payload(self) -> np.dtype[np.void]:
        return np.dtype([(f.name, "<" + f.dtype if f.dtype[1] != "1" else f.dtype) for f in self.fields], align=True)

    @cached_property
    def _struct(self) -> struct.Struct:
        letters = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "f4": "f", "f8": "d"}
        layout, at = "<", 0
        for name, f in zip(self.payload.names or (), self.fields, strict=True):
            offsets: Any = self.payload.fields
            offset = offsets[name][1]
            layout += "x" * (offset - at) + letters[f.dtype]
            at = offset + np.dtype(f.dtype).itemsize
        return struct.Struct(layout + "x" * (self.payload.itemsize - at))

    def fault(self, values: Sequence[Any]) -> str | None:
        """Return why `values` cannot be this command's fields, or None."""
        if len(values) != len(self.fields):
            return f"{self.name} has {len(self.fields)} fields ({', '.join(f.name for f in self.fields)}), not {len(values)}"
        for f, value in zip(self.fields, values, strict=True):
            if f.is_float:
                if type(value) not in (float, int) or not f.lo <= value <= f.hi:  # NaN compares false
                    return f"{self.name}.{f.name} is a number from {f.lo} to {f.hi}"
            elif type(value) not in (int, bool) or not f.lo <= value <= f.hi:
                return f"{self.name}.{f.name} is a whole number from {int(f.lo)} to {int(f.hi)}"
        return None

    def pack(self, values: Sequence[Any]) -> bytes:
        """Return the payload bytes of checked values (see `fault`)."""
        return self._struct.pack(*values)


@dataclass(frozen=True)
class EventSchema:
    """One kind of event: seen by whoever is within `radius` of where it happened."""

    name: str
    index: int
    radius: float
    fields: tuple[FieldSchema, ...]

    @property
    def wire_bytes(self) -> int:
        return _wire_offsets(self.fields)


@dataclass(frozen=True)
class Schema:
    """All that clients and gateways know of a game. `hash` changes with anything a client could notice."""

    name: str
    tick_hz: int
    width: float
    height: float
    interest: float
    entities: tuple[EntitySchema, ...]
    commands: tuple[CommandSchema, ...]
    events: tuple[EventSchema, ...]
    _hash: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def command_payload_bytes(self) -> int:
        """Payload bytes of a command row: the longest kind, up to a multiple of 8, at least 8."""
        longest = max((c.payload.itemsize for c in self.commands), default=8)
        return max((longest + 7) // 8 * 8, 8)

    @property
    def avatar(self) -> EntitySchema:
        return next(e for e in self.entities if e.avatar)

    @property
    def hash(self) -> str:
        """16 hex digits: BLAKE2b-8 of the canonical JSON of `to_wire`."""
        if not self._hash:
            text = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"))
            self._hash.append(hashlib.blake2b(text.encode(), digest_size=8).hexdigest())
        return self._hash[0]

    def to_wire(self) -> dict[str, Any]:
        """Return the schema as plain values, for the welcome and the world record; server-only fields are left out."""

        def fields(items: Sequence[FieldSchema]) -> list[dict[str, Any]]:
            return [
                {"name": f.name, "dtype": f.dtype, "to": f.to, "lo": f.lo, "hi": f.hi, "step": f.step, "bytes": f.wire_bytes,
                 "interpolate": f.interpolate}
                for f in items if f.to != "server"
            ]  # fmt: skip

        return {
            "name": self.name, "tick_hz": self.tick_hz, "width": self.width, "height": self.height, "interest": self.interest,
            "entities": [{"name": e.name, "capacity": e.capacity, "avatar": e.avatar, "fields": fields(e.fields)} for e in self.entities],
            "commands": [{"name": c.name, "kind": c.kind, "fields": fields(c.fields)} for c in self.commands],
            "events": [{"name": v.name, "radius": v.radius, "fields": fields(v.fields)} for v in self.events],
        }  # fmt: skip

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> Schema:
        """Rebuild a schema from `to_wire`'s values."""

        def fields(items: Sequence[dict[str, Any]]) -> tuple[FieldSchema, ...]:
            return tuple(FieldSchema(f["name"], f["dtype"], f["to"], f["lo"], f["hi"], f["step"], f["interpolate"]) for f in items)

        return Schema(
            wire["name"], wire["tick_hz"], wire["width"], wire["height"], wire["interest"],
            tuple(EntitySchema(e["name"], i, e["capacity"], e["avatar"], fields(e["fields"])) for i, e in enumerate(wire["entities"])),
            tuple(CommandSchema(c["name"], c["kind"], fields(c["fields"])) for c in wire["commands"]),
            tuple(EventSchema(v["name"], i, v["radius"], fields(v["fields"])) for i, v in enumerate(wire["events"])),
        )  # fmt: skip
