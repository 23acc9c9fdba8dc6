"""The record: what one tick of one zone puts on the log, as bytes.

A record holds the commands that the tick applied, the effects that were proposed for it over borders, the hash of the state after it
and the build that ran it. The inbox entries that the tick applied are in the log entry of the tick before (the commit that returned
them put them there). Layout: RECORD_STRUCT, then the command rows, then the effects (shard.proposals). Version 2 is the same without
effects.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

RECORD_STRUCT = struct.Struct("<4sBBHIIQQQHHI")
"""magic, version u8, kind u8, zone u16, generation u32, epoch u32, tick u64, state hash u64, build u64, row bytes u16,
rows u16, bytes of effects u32."""
RECORD_MAGIC = b"PRDR"
RECORD_VERSION = 3
READ_VERSIONS = (2, 3)
GENESIS_DIGEST = ""


class RecordKind(IntEnum):
    TICK = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One decoded record; `commands` are `rows` rows of `row_bytes` bytes each, `effects` what was proposed for the tick."""

    kind: RecordKind
    zone: int
    generation: int
    epoch: int
    tick: int
    state_hash: int
    build: int
    row_bytes: int
    rows: int
    commands: bytes
    effects: bytes = b""

    def pack(self) -> bytes:
        return (
            RECORD_STRUCT.pack(
                RECORD_MAGIC, RECORD_VERSION, self.kind, self.zone, self.generation, self.epoch, self.tick,
                self.state_hash, self.build, self.row_bytes, self.rows,
                len(self.effects),
            )
            + self.commands
            + self.effects
        )  # fmt: skip


def unpack_record(data: bytes) -> Record:
    """Decode a record; raises ValueError where it is not one, or is cut short."""
    if len(data) < RECORD_STRUCT.size:
        raise ValueError(f"a record of {len(data)} bytes is shorter than its header")
    magic, version, kind, zone, generation, epoch, tick, state_hash, build, row_bytes, rows, more = RECORD_STRUCT.unpack_from(data)
    if magic != RECORD_MAGIC or version not in READ_VERSIONS:
        raise ValueError(f"not a record of version {' or '.join(map(str, READ_VERSIONS))}: it starts with {data[:5]!r}")
    end = RECORD_STRUCT.size + row_bytes * rows
    if len(data) != end + more:
        raise ValueError(f"the record of tick {tick} says {rows} rows of {row_bytes} bytes and {more} bytes of effects, but has "
                         f"{len(data) - RECORD_STRUCT.size} bytes of both")  # fmt: skip
    commands, effects = data[RECORD_STRUCT.size : end], data[end:]
    return Record(RecordKind(kind), zone, generation, epoch, tick, state_hash, build, row_bytes, rows, commands, effects)


def chain_digest(previous: str, record: bytes) -> str:
    """Return the digest of a record on the chain: BLAKE2b-16 over the previous digest and the record, 32 hex digits."""
    return hashlib.blake2b(previous.encode() + record, digest_size=16).hexdigest()


def blob_digest(blob: bytes) -> str:
    """Return the BLAKE2b-16 of a checkpoint blob, 32 hex digits."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
