"""Names of every key and channel that a world has in Redis: the one owner of them, for Python and for Lua.

All keys of a world begin with `perdure:{<world>}`, so they share a hash tag and live on one slot of a cluster, and an ACL
user is confined by one pattern. The Lua functions get that base as KEYS[1] and append the suffixes below, which
`lua_constants` hands to them. Never talks to a server. Called by redis_ledger and redis_functions.
"""

from __future__ import annotations

import re

from perdure.ledger.chat import CHAT_CHANNEL, CHAT_KEPT
from perdure.ledger.generations import MOST_GENERATIONS, MOVES_A_GENERATION, SESSIONS_A_GENERATION
from perdure.ledger.ledger import (
    CHECKPOINTS_KEPT,
    EPOCH_RESEED_STEP,
    EVICTED_REMEMBERED,
    INBOX_LIMIT_ENTRIES,
    INBOX_PAGE_BYTES,
    INBOX_PAGE_ENTRIES,
    ORDERS_LIMIT,
    PRESENCE_CHANNEL,
    PRESENCE_LOG_LENGTH,
    RESUME_MS,
    ROUTES_CHANNEL,
    SUSPECT_CHANNEL,
)
from perdure.wire.entries import ENTRY_HEADER, HOP_AT, NO_ORIGIN, EntryKind

WORLD_NAME_PATTERN = re.compile(r"^[A-Za-z0-9_.\-]{1,64}$")

SUFFIXES: dict[str, tuple[str, str]] = {
    "WORLD": (":world", "hash: WorldSettings"),
    "CONTROL": (":control", "hash: version, term, beat (of the leader), generation"),
    "LEADER": (":leader", "string: name of the leading coordinator"),
    "OWNERS": (":owners", "hash: zone -> name of the shard, or empty; a zone exists once it is in here"),
    "SUCCESSORS": (":successors", "hash: zone -> '0 <shard>' (asked to prefetch) or '1 <shard>' (ready); '<zone>:image' -> tick"),
    "HEAD": (":head:", "string a zone: '<generation> <epoch> <tick> <digest>', the fence and the end of the log"),
    "LOG": (":log:", "stream a zone: id <tick>-0; fields d digest, r record, then one e for each page entry"),
    "INBOX": (":inbox:", "list a zone: entries that no commit has taken yet"),
    "CHECKPOINTS": (":checkpoints:", "string a zone: '<tick> <epoch> <digest>' of each kept, newest first, by ';'"),
    "BLOBS": (":blobs:", "set a zone: '<tick>:<epoch>' of each stored blob, referred to or not"),
    "BLOB": (":blob:", "string a checkpoint blob: <zone>:<tick>:<epoch>"),
    "PLAYER": (":player:", "hash a player (16 hex digits): name session place gateway slot since saved home resume moves seq"),
    "ONLINE": (":online", "hash: player -> '<place> <gateway> <slot> <session> <since> <name>' of all who are online"),
    "ZONE_PLAYERS": (":players:", "set a zone: players whose place it is"),
    "GATEWAY_PLAYERS": (":gateway:", "set a gateway: players attached to it"),
    "PRESENCE_LOG": (":presence", "stream: the last presence changes, JSON in field c"),
    "CHAT": (":chat", "stream: the last lines of chat: f from, t to, z zone, x text"),
    "MEMBERS": (":members", "hash: name -> msgpack of [kind, number, address, beat, state, info as JSON], strings"),
    "EVICTED": (":evicted", "sorted set: '<number> <name>' by routes version"),
    "SUSPECTS": (":suspects", "hash: name -> reports since it registered"),
    "DRAINING": (":draining", "set of names"),
    "ORDERS": (":orders:", "list a member: orders that its next heartbeat takes"),
    "CHANNEL": (":channel:", "prefix of the pub/sub channels"),
}
"""Suffix and content of each key; a suffix that ends in a colon is followed by a zone, a player, a gateway or a name."""


def base(world: str) -> str:
    """Return what all keys of a world begin with; raises ValueError on a name that would break the hash tag."""
    if not WORLD_NAME_PATTERN.fullmatch(world):
        raise ValueError(f"a world's name is 1 to 64 of the characters A-Z a-z 0-9 _ . -, not {world!r}")
    return f"perdure:{{{world}}}"


def key(world: str, name: str, *rest: object) -> str:
    """Return a key: `name` is one of SUFFIXES, `rest` what follows it, joined by colons."""
    return base(world) + SUFFIXES[name][0] + ":".join(str(part) for part in rest)


def channel(world: str, name: str) -> str:
    """Return the pub/sub channel under which a hint of this world travels (pub/sub knows no key patterns)."""
    return key(world, "CHANNEL", name)


def lua_constants() -> str:
    """Return the Lua tables KEY, LIMIT, KIND and CHANNEL, so that no number or name stands twice."""
    limits = {
        "PAGE_ENTRIES": INBOX_PAGE_ENTRIES,
        "PAGE_BYTES": INBOX_PAGE_BYTES,
        "INBOX": INBOX_LIMIT_ENTRIES,
        "CHECKPOINTS": CHECKPOINTS_KEPT,
        "RESEED_STEP": EPOCH_RESEED_STEP,
        "MOVES_A_GENERATION": MOVES_A_GENERATION,
        "SESSIONS_A_GENERATION": SESSIONS_A_GENERATION,
        "MOST_GENERATIONS": MOST_GENERATIONS,
        "PRESENCE_LOG": PRESENCE_LOG_LENGTH,
        "CHAT": CHAT_KEPT,
        "RESUME_MS": RESUME_MS,
        "ORDERS": ORDERS_LIMIT,
        "EVICTED": EVICTED_REMEMBERED,
        "ENTRY_HEADER": ENTRY_HEADER,
        "HOP_AT": HOP_AT,
        "NO_ORIGIN": NO_ORIGIN,
    }
    channels = {"ROUTES": ROUTES_CHANNEL, "SUSPECT": SUSPECT_CHANNEL, "PRESENCE": PRESENCE_CHANNEL, "GATEWAY": "gateway:",
                "CHAT": CHAT_CHANNEL}  # fmt: skip
    tables: dict[str, dict[str, str]] = {
        "KEY": {name: f"'{suffix}'" for name, (suffix, _) in SUFFIXES.items()},
        "LIMIT": {name: str(value) for name, value in limits.items()},
        "KIND": {kind.name: str(int(kind)) for kind in EntryKind},
        "CHANNEL": {name: f"'{SUFFIXES['CHANNEL'][0]}{value}'" for name, value in channels.items()},
    }
    return "\n".join(
        f"local {table} = {{ {', '.join(f'{name} = {value}' for name, value in rows.items())} }}" for table, rows in tables.items()
    )
