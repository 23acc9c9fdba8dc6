"""The link between a gateway and a shard: length-prefixed frames over TCP or a Unix socket.

A gateway dials every shard. Frames are `u32 length (of what follows), u8 type, body`, little endian. Bodies that
travel at tick rate are numpy rows, so neither side touches single commands or single snapshots in Python more than
it must. Owns no socket: `FrameReader` cuts bytes into frames, the pack functions make them.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<IB")
MAX_LINK_FRAME = 16 << 20
NONCE_BYTES = 16
"""Of a CHALLENGE; the shard's name follows."""


class LinkType(IntEnum):
    """Type byte of a link frame."""

    CHALLENGE = 1  # shard -> gateway: 16 random bytes, then the shard's name (utf-8)
    HELLO = 2  # gateway -> shard: gateway number u32, 32 bytes HMAC-SHA256(secret, nonce + number), name
    ACCEPT = 3  # shard -> gateway: u8 1: GOT is wanted, u8 1: WHEN may be asked (shards of an older build leave out what they do not know)
    COMMANDS = 4  # gateway -> shard: how many u16, for each the zone u16 that it is for; then as many rows of the game's command dtype
    KEYFRAMES = 5  # gateway -> shard: zone u16, then i64 player keys that need a full snapshot, or are about to come in
    RELEASE = 6  # shard -> gateway: RELEASE_STRUCT, RELEASE_ENTRY rows, then the blob that they cut
    ZONE_NOTICE = 7  # shard -> gateway: zone u16, notice u8
    BORDER = 8  # shard -> shard: one feed (shard.border), as words
    PEER = 9  # shard -> shard, instead of HELLO: number u32, 32 bytes HMAC-SHA256(secret, "border" + nonce + number), name
    SUBSCRIBE = 10  # shard -> shard: pairs of zones u16, u16 (source, viewer) whose feeds are wanted, and no others
    STALE = 11  # shard -> gateway: zone u16, then the zones u16 whose entities are shown frozen there
    LOOK = 12  # coordinator -> shard, instead of HELLO: 32 bytes HMAC-SHA256(secret, "look" + nonce), LOOK_STRUCT: where is this player?
    AT = 13  # shard -> coordinator: AT_STRUCT, or nothing where the player is not there; then the shard ends the link
    GOT = 14  # gateway -> shard: u64, how many RELEASE frames of this link have been taken in
    WHEN = 15  # gateway -> shard: nothing; tell when you read (READS), from now on
    READS = 16  # shard -> gateway: READS_STRUCT
    ZONE_PACE = 20  # shard -> gateway: zone u16, clock percent u8, snapshot every u8, far entities every u8


_TYPES = {int(kind): kind for kind in LinkType}

COMMAND_HEADER: list[tuple[str, str]] = [("player", "<i8"), ("seq", "<u4"), ("session", "<u2"), ("kind", "u1"), ("pad0", "u1")]
"""First 16 bytes of a command row; `session` is the low half of the session's number. The kind's packed fields follow, padded to
the game's longest command."""


def command_dtype(payload_bytes: int) -> np.dtype[np.void]:
    """Return the dtype of one command row; `payload_bytes` is a multiple of 8."""
    return np.dtype([*COMMAND_HEADER, ("payload", "u1", (payload_bytes,))])


ZONE_PACE_STRUCT = struct.Struct("<HBBB")
"""zone u16, clock percent u8, snapshot every u8, far entities every u8. (Shards of an older build leave the last one out.)"""

ACCEPTED = b"\x01\x01"
"""Body of an ACCEPT."""
GOT_STRUCT = struct.Struct("<Q")
READS_STRUCT = struct.Struct("<IB")
"""us u32 from when it was sent to when the shard reads what gateways have sent, next and then once an interval of a tick (AT_ONCE_US: as it
comes); changed u8, 1 where that is another time than it was."""
AT_ONCE_US = 0xFFFFFFFF

LOOK_STRUCT = struct.Struct("<Hq")
"""zone u16, player's key i64."""
AT_STRUCT = struct.Struct("<Qdd")
"""tick u64, x f64, y f64."""

RELEASE_STRUCT = struct.Struct("<HHIQIII")
"""zone u16, reserved u16, epoch u32, tick u64, generation u32, entries u32, blob bytes u32."""

RELEASE_ENTRY: np.dtype[np.void] = np.dtype(
    [("slot", "<u4"), ("hop", "<u4"), ("ack", "<u4"), ("flags", "<u4"), ("offset", "<u4"), ("length", "<u4")]
)
"""One player's part of a release: its slot at that gateway, how often it has changed zones, the highest command
number applied, SnapshotFlag bits, and which bytes of the blob are its ready-made websocket frame."""


@dataclass(frozen=True, slots=True)
class Release:
    """A decoded RELEASE frame; `entries` and `blob` are views into the frame's bytes."""

    zone: int
    epoch: int
    tick: int
    generation: int
    entries: npt.NDArray[np.void]
    blob: memoryview


def pack_frame(type_: LinkType, *parts: bytes | memoryview) -> bytes:
    """Return one link frame; parts (of bytes) are joined, in one copy."""
    return b"".join((_HEAD.pack(sum(map(len, parts)) + 1, type_), *parts))


def pack_commands(zones: Sequence[int], rows: Sequence[bytes]) -> bytes:
    """Return a COMMANDS frame; `zones` says which zone each row is for. At most 65,535 rows."""
    return pack_frame(LinkType.COMMANDS, struct.pack(f"<H{len(zones)}H", len(zones), *zones), *rows)


def pack_keyframes(zone: int, players: list[int]) -> bytes:
    return pack_frame(LinkType.KEYFRAMES, struct.pack(f"<H{len(players)}q", zone, *players))


def unpack_keyframes(body: memoryview) -> tuple[int, list[int]]:
    (zone,) = struct.unpack_from("<H", body)
    count = (len(body) - 2) // 8
    return zone, list(struct.unpack_from(f"<{count}q", body, 2))


def pack_zone_notice(zone: int, notice: int) -> bytes:
    return pack_frame(LinkType.ZONE_NOTICE, struct.pack("<HB", zone, notice))


def pack_stale(zone: int, stale: tuple[int, ...]) -> bytes:
    return pack_frame(LinkType.STALE, struct.pack(f"<{1 + len(stale)}H", zone, *stale))


def unpack_stale(body: memoryview) -> tuple[int, tuple[int, ...]]:
    zone, *stale = struct.unpack(f"<{len(body) // 2}H", body)
    return zone, tuple(stale)


def pack_subscribe(pairs: Iterable[tuple[int, int]]) -> bytes:
    flat = [zone for pair in pairs for zone in pair]
    return pack_frame(LinkType.SUBSCRIBE, struct.pack(f"<{len(flat)}H", *flat))


def unpack_subscribe(body: memoryview) -> list[tuple[int, int]]:
    """Return (source, viewer) pairs; raises struct.error where they are none."""
    return list(struct.iter_unpack("<HH", body))


def pack_zone_pace(zone: int, clock_percent: int, snapshot_every: int, far_every: int) -> bytes:
    return pack_frame(LinkType.ZONE_PACE, ZONE_PACE_STRUCT.pack(zone, clock_percent, snapshot_every, far_every))


def unpack_release(body: memoryview) -> Release:
    """Decode a RELEASE body without copying; raises ValueError on a length that does not add up."""
    zone, _, epoch, tick, generation, count, blob_bytes = RELEASE_STRUCT.unpack_from(body)
    start = RELEASE_STRUCT.size
    end = start + count * RELEASE_ENTRY.itemsize
    if end + blob_bytes != len(body):
        raise ValueError(f"a release of zone {zone} says {count} entries and {blob_bytes} bytes, but has {len(body)} bytes in all")
    return Release(zone, epoch, tick, generation, np.frombuffer(body[start:end], RELEASE_ENTRY), body[end:])


def link_proof(secret: bytes, nonce: bytes, number: int) -> bytes:
    """Return what a gateway answers to a shard's challenge: HMAC-SHA256 over nonce and gateway number."""
    return hmac.new(secret, nonce + struct.pack("<I", number), hashlib.sha256).digest()


def peer_proof(secret: bytes, nonce: bytes, number: int) -> bytes:
    """Return what a shard answers to another's challenge: HMAC-SHA256 over "border", nonce and the shard's member number."""
    return hmac.new(secret, b"border" + nonce + struct.pack("<I", number), hashlib.sha256).digest()


def look_proof(secret: bytes, nonce: bytes) -> bytes:
    """Return what a coordinator answers to a shard's challenge: HMAC-SHA256 over "look" and nonce."""
    return hmac.new(secret, b"look" + nonce, hashlib.sha256).digest()


class FrameReader:
    """Cuts a byte stream into link frames. `feed` bytes, then iterate; what is incomplete waits for more.

    Who cuts frames itself asks for the `whole`, and says what to `keep`.
    """

    __slots__ = ("_needed", "_pending")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = 0
        """Bytes without which `_pending` is no frame: a big one comes in many pieces, and is copied once."""

    @property
    def waits(self) -> bool:
        """Has a frame begun of which the rest is still to come?"""
        return bool(self._pending)

    def whole(self, data: bytes) -> bytes:
        """Return what was kept and `data` together; nothing, and keep all of it, where that is no frame yet."""
        pending = self._pending
        if not pending:
            return data
        pending += data
        if len(pending) < self._needed:
            return b""
        data = bytes(pending)
        pending.clear()
        return data

    def keep(self, rest: bytes | memoryview) -> None:
        """Keep the beginning of a frame for the next `whole`."""
        if rest:
            self._needed = 4 + LENGTH.unpack_from(rest)[0] if len(rest) >= 4 else 4
            self._pending += rest

    def feed(self, data: bytes) -> Iterator[tuple[LinkType, memoryview]]:
        """Yield (type, body) of every complete frame; raises ValueError on a frame over MAX_LINK_FRAME."""
        view = memoryview(self.whole(data))
        at, total = 0, len(view)
        while total - at >= 4:
            (length,) = LENGTH.unpack_from(view, at)
            if not 1 <= length <= MAX_LINK_FRAME:
                raise ValueError(f"a link frame of {length} bytes; 1 to {MAX_LINK_FRAME} are allowed")
            if total - at - 4 < length:
                break
            yield link_type(view[at + 4]), view[at + 5 : at + 4 + length]
            at += 4 + length
        self.keep(view[at:])


def link_type(number: int) -> LinkType:
    """Return the type of a link frame. Raises ValueError where there is none of this number."""
    return _TYPES.get(number) or LinkType(number)
