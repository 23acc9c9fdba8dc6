"""Where things stand in a zone's arrays: dtypes and index constants that kernels and their Python side share.

All state is in rows of whole 64-bit words, so that one generic kernel can move, clear and hash rows of any type.
"""

from __future__ import annotations

import numpy as np

# meta: int64
META_TICK = 0
META_ZONE = 1
META_SEED = 2
META_GRACE_TICKS = 3
META_INPUTS = 4
META_COMMANDS = 5
META_OUT = 6
META_PLAYERS_HIGH = 7
META_COLUMNS = 8
META_ROWS = 9
META_ID_BASE = 10
META_TABLE_ROWS = 16
META_TABLE_GHOSTS = 48
META_LENGTH = 80

# floats: float64
FLOAT_DT, FLOAT_X0, FLOAT_Y0, FLOAT_X1, FLOAT_Y1, FLOAT_WIDTH, FLOAT_HEIGHT, FLOAT_HYSTERESIS, FLOAT_INTEREST = range(9)
FLOATS_LENGTH = 9

COUNTER_DEPARTURES = 1
COUNTERS_LENGTH = 4
"""counters: int64; [0] is the last entity number given out in this zone, [1] how many departures were ever noted (see DEPARTURE)."""

PLAYER = np.dtype(
    [("key", "<i8"), ("session", "<u4"), ("gateway", "<u4"), ("slot", "<u4"), ("hop", "<u4"), ("last_seq", "<u4"), ("row", "<i4"),
     ("detached_at", "<i8"), ("departed", "u1"), ("leaving", "u1"), ("stay", "<u2"), ("pad0", "<u4")],
    align=True,
)  # fmt: skip
"""A player in a zone. key 0: a free place. gateway 0: no socket, since tick `detached_at`. departed: 1 while its last frame
of this zone is made; the place is freed at the start of the next tick. leaving: 1 asked to, or was put out; LEAVING_COPY: the player
is elsewhere, what is here is left over from before a ledger went back, and goes without a word to rules or clients. stay: for so many
ticks it stays though it is beyond a border, since the zone there has had no room for it."""
LEAVING_COPY = 2

INPUT = np.dtype(
    [("player", "<i8"), ("kind", "<i4"), ("type", "<i4"), ("session", "<u4"), ("gateway", "<u4"), ("slot", "<u4"), ("hop", "<u4"),
     ("last_seq", "<u4"), ("arrival", "<i4"), ("origin", "<i4"), ("leaving", "<i4")],
    align=True,
)  # fmt: skip
"""An inbox entry, decoded; `arrival` is the row in its type's arrivals array, or -1. Where it brings a player who finds no room, session,
gateway and slot become what later entries of the page say; leaving: 1 where one of them puts the player out."""

OUT = np.dtype([("kind", "<i4"), ("target", "<i4"), ("type", "<i4"), ("row", "<i4"), ("player", "<i4"), ("entry", "<i4")], align=True)
"""Something that leaves the zone. kind OUT_CROSS: row `row` of table `type` goes to zone `target`, with player index `player`
(or -1). OUT_LOBBY: the player goes to the lobby. OUT_REFUSED: inbox entry `entry` found no room and goes back to `target`.
OUT_EFFECT: the effect in row `row` of kind `type` goes to zone `target`."""
OUT_CROSS, OUT_LOBBY, OUT_REFUSED, OUT_EFFECT = 1, 2, 3, 4

DEPARTURE = np.dtype([("id", "<i8"), ("zone", "<i8")], align=True)
"""An entity that left, and the zone that it went to: effects on it are sent on there. The newest DEPARTURES_KEPT are remembered, in
a ring; part of the state of a zone whose game has effects."""
DEPARTURES_KEPT = 1024
MAX_EFFECT_HOPS = 8
"""How often an effect may be sent on, from zone to zone behind its target, before it goes back."""

EFFECT_PROPOSED, EFFECT_NOT_PROPOSED, EFFECT_REPLIES, EFFECT_NOT_REPLIED, EFFECT_HANDLED = range(5)
EFFECT_COUNTS = 5
"""Counts a kind of effect (the first four as rules.COUNT_...): proposed for the next tick, found no room; answers, found none; handled
by this tick."""

KIND_JOIN, KIND_ATTACH, KIND_DETACH, KIND_LEAVE, KIND_ARRIVE, KIND_GATEWAY_LOST, KIND_KICK = range(1, 8)
KIND_EFFECT = 9
DEAD_DESPAWNED, DEAD_DEPARTED = 1, 2
LOBBY = -1

COMMAND_SEQ_BYTE, COMMAND_KIND_BYTE, COMMAND_PAYLOAD_BYTE = 8, 14, 16

META_COUNTS = META_LENGTH
"""From here on meta holds counts: two a table (spawned, spawns that found no room), then two an event (told, dropped)."""

# encoder: int64
ENC_RING_HEAD = 0
ENC_RING_COUNT = 1
ENC_FLAT = 2  # entities that may be seen this tick
ENC_VIEWERS = 3
ENC_EVENTS = 4
ENC_OUT_USED = 5
ENC_GROUPS = 6
ENC_NEXT_VIEWER = 7  # == ENC_VIEWERS when all frames are made; less where the buffer ran full
ENC_MAP_LIVE = 8  # which of the two handle maps is current
ENC_COLUMNS = 9
ENC_ROWS = 10
ENC_EPOCH = 11
ENC_ENTERS = 12
ENC_UPDATES = 13
ENC_LEAVES = 14
ENC_HANDLE_FAILED = 15
ENC_ENTER_STRIDE = 16
ENC_UPDATE_STRIDE = 17
ENC_EVENT_STRIDE = 18
ENC_OWNER_STRIDE = 19
ENC_OWN_EVENTS = 20  # of ENC_EVENTS: those of this zone, which come first
ENC_BASELINE = 21  # 1: later updates are told against this snapshot; 0: they are told against an earlier one still, far entities not at all
ENC_EVENTS_KEPT = 22  # events of ticks that had no snapshot, which the next one tells
ENC_MAP_MASK = 23  # for each of the two handle maps, how many of its places are in use, a power of two, less one
ENC_LENGTH = 25

FLAT = np.dtype(
    [("x", "<f8"), ("y", "<f8"), ("handle", "<i4"), ("enter_length", "<i4"), ("update_length", "<i4"), ("cell", "<i4"),
     ("sorted", "<i4"), ("pad", "<i4")],
    align=True,
)  # fmt: skip
"""An entity that may be seen this tick; its records stand at index * stride in enter_bytes and update_bytes. `update_length` is below 0
where no viewer can have it yet; `sorted` is its place in the order of the cells."""

SORTED = np.dtype([("x", "<f8"), ("y", "<f8"), ("flat", "<i4"), ("handle", "<i4"), ("update_length", "<i4"), ("pad", "<i4")], align=True)
"""The flat entities in the order of their cells, with what the loops over viewers ask of each: neighbours there are neighbours here."""

HANDLE = np.dtype([("stamp", "<i8")], align=True)
"""Per handle: the last tick in which its entity was there."""

MAPPED = np.dtype([("entity", "<i8"), ("handle", "<i8")], align=True)
"""A place of the open-addressing map from entity id to handle; entity 0 is empty."""

VIEW = np.dtype(
    [("key", "<i8"), ("session", "<i8"), ("gateway", "<i8"), ("hop", "<i8"), ("count", "<i4"), ("force", "<i4"),
     ("flat", "<i4"), ("pad", "<i4")],
    align=True,
)  # fmt: skip
"""What the last frame of a player's place was made for, how many handles it shows, whether a keyframe was asked for, and the
flat index of the player's own avatar in this tick (or -1)."""

VIEWER = np.dtype(
    [("x", "<f8"), ("y", "<f8"), ("me", "<i8"), ("place", "<i4"), ("flags", "<i4"), ("gateway", "<u4"), ("slot", "<u4"), ("hop", "<u4"),
     ("ack", "<u4"), ("owner_length", "<i4"), ("pad", "<i4")],
    align=True,
)  # fmt: skip
"""A player who is sent a frame this tick."""

HAPPENED = np.dtype([("x", "<f8"), ("y", "<f8"), ("reach", "<f8"), ("length", "<i8")], align=True)
"""An event of this tick: where, radius squared, and the length of its record."""

# border: int64 (shard.kernels.border)
BORDER_STAMP = 0  # number of the last fill: what stands in the map under another one is not there
BORDER_MAPPED = 1
BORDER_SETTLED = 2
BORDER_GENERATION = 3
BORDER_EPOCH = 4
BORDER_INTERVAL_US = 5
BORDER_DIGEST = 6
BORDER_NOTED_TICK = 7
BORDER_FROZEN = 8  # then one count a table

GHOST = np.dtype(
    [("entity", "<i8"), ("stamp", "<i8"), ("source", "<i8"), ("slot", "<i4"), ("crossings", "<i4"), ("live", "<i4"), ("pad", "<i4")],
    align=True,
)
"""A place of the open-addressing map of a fill: an entity, which copy of it is shown (`slot` of its table's ghosts, -1: none), how
often that one has crossed, whether it is live, and where it stands in the feeds (`source`, -1: in none)."""

# a feed: uint64 words. These, then where each section begins and the last one ends, then the sections: settled (id, crossings); for each
# table its live rows; for each table its frozen rows; for each event its rows. A row has its player's key ahead (0: nobody's).
FEED_DIGEST, FEED_SOURCE, FEED_VIEWER, FEED_GENERATION, FEED_EPOCH, FEED_TICK, FEED_INTERVAL_US, FEED_SECTIONS = range(8)

SCRATCH_VISIBLE, SCRATCH_ENTERS, SCRATCH_UPDATES, SCRATCH_LEAVES = range(4)

GROUP = np.dtype([("gateway", "<u4"), ("first", "<i4"), ("count", "<i4"), ("start", "<i8"), ("end", "<i8")], align=True)
"""One gateway's part of the frames: entries [first, first + count), blob bytes [start, end)."""

FLAG_KEYFRAME, FLAG_GONE, FLAG_MOVED = 1, 2, 4
"""As perdure.wire.opcodes.SnapshotFlag."""
WORD = 8
"""Bytes that records are copied by: a copy may read and write up to one word less a byte behind a record."""
FRAME_HEADER_ROOM = 10
"""Bytes kept free ahead of a frame for the longest websocket header of a server (RFC 6455 section 5.2)."""
