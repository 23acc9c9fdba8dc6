"""Numbers on the wire: client opcodes, frame flags, notices, close codes. docs/PROTOCOL.md is written from this table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

PROTOCOL_VERSION = 1


class ClientOp(IntEnum):
    """First element of every message that a client sends (a msgpack array)."""

    HELLO = 1  # [1, {"protocol": int, "token": str | "resume": str, "schema": str | nil}]
    COMMAND = 2  # [2, seq, kind, field, ...]
    PING = 3  # [3, any integer]
    LEAVE = 4  # [4]: log out; the server closes with LOGGED_OUT once the player is back in the lobby
    CHAT = 5  # [5, to, text]: say something to a player, or to one's zone where `to` is empty
    WHO = 6  # [6, key, ...]: ask for the names of players


class ServerOp(IntEnum):
    """First element of every message that the server sends (a msgpack array)."""

    WELCOME = 1  # [1, {...}]
    SNAPSHOT = 2  # [2, zone, epoch, tick, flags, ack, me, enters, updates, leaves, events, owner]
    NOTICE = 3  # [3, notice, zone, text]
    PONG = 4  # [4, the integer of the ping]
    REFUSED = 5  # [5, seq, text]: a command was not accepted; its number may be used again
    CHAT = 6  # [6, from, to, text]: somebody says something; from "": the server
    NAMES = 7  # [7, [[key, name], ...]]: the answer to WHO
    PACE = 8  # [8, zone, clock_percent, snapshot_every]: the zone's clock runs at so many percent; a snapshot every so many ticks
    QUEUED = 9  # [9, position, estimate_s]: before the welcome, while waiting for admission
    STALE = 10  # [10, zone, [zone, ...]]: in `zone`, entities of these neighbouring zones are shown as they were
    MAP = 11  # [11, columns, rows, [owner, ...]]: the shard that runs each zone, "" for none


class SnapshotFlag(IntFlag):
    """Flags of one player's snapshot; they stand in the frame and in the release entry beside it."""

    KEYFRAME = 1  # a full picture: whatever is not in it is gone
    GONE = 2  # the player has left to the lobby (no frame bytes)
    MOVED = 4  # the player is now in another zone: this is the last frame of this zone


class Notice(IntEnum):
    """What a client is told about the world around it."""

    PAUSED = 1  # the zone cannot commit; nothing is lost; wait
    RESUMED = 2  # the zone goes on
    FAILED_OVER = 3  # the zone runs on another shard now


@dataclass(frozen=True, slots=True)
class CloseReason:
    """One way in which the server ends a connection."""

    code: int
    name: str
    cause: str
    mend: str
    resumable: bool


class Close(IntEnum):
    """Websocket close codes of the server (4000 to 4999 are free for applications, RFC 6455 section 7.4.2)."""

    GOING_AWAY = 1001
    MESSAGE_TOO_BIG = 1009
    HELLO_TIMEOUT = 4000
    BAD_HELLO = 4001
    BAD_TOKEN = 4002
    TOKEN_EXPIRED = 4003
    BAD_RESUME = 4004
    WRONG_SCHEMA = 4005
    WRONG_PROTOCOL = 4006
    BAD_MESSAGE = 4007
    BAD_COMMAND = 4008
    TOO_FAST = 4009
    TAKEN_OVER = 4010
    SLOW_READER = 4011
    LOGGED_OUT = 4012
    FULL = 4013
    IDLE = 4014
    KICKED = 4015
    UNAVAILABLE = 4016


CLOSE_REASONS: dict[Close, CloseReason] = {
    reason.code: reason  # type: ignore[misc]
    for reason in (
        CloseReason(
            Close.GOING_AWAY, "going away", "the gateway is shutting down, or the cluster gave it up", "resume; any gateway takes you", True
        ),
        CloseReason(Close.MESSAGE_TOO_BIG, "message too big", "a message was over 16 KiB", "send smaller messages", False),
        CloseReason(Close.HELLO_TIMEOUT, "no hello", "no hello came within 3 s", "send hello first", False),
        CloseReason(Close.BAD_HELLO, "bad hello", "the first message was not a hello", "see hello in PROTOCOL.md", False),
        CloseReason(Close.BAD_TOKEN, "bad token", "the token's signature or content is wrong", "fetch a new token", False),
        CloseReason(Close.TOKEN_EXPIRED, "token expired", "the token is too old", "fetch a new token", False),
        CloseReason(Close.BAD_RESUME, "bad resume token", "it was used before, never given, or ended", "log in by token", False),
        CloseReason(
            Close.WRONG_SCHEMA,
            "wrong schema",
            "the client was built for other entity types",
            "update the client, or send no schema hash",
            False,
        ),
        CloseReason(Close.WRONG_PROTOCOL, "wrong protocol", "the protocol version is not spoken here", "update the client", False),
        CloseReason(Close.BAD_MESSAGE, "bad message", "a message is not msgpack of a known shape", "see PROTOCOL.md", False),
        CloseReason(
            Close.BAD_COMMAND, "bad command", "unknown kind, wrong types, or a value out of range", "obey the schema's ranges", False
        ),
        CloseReason(Close.TOO_FAST, "too fast", "more messages a second than allowed, for too long", "send less", True),
        CloseReason(Close.TAKEN_OVER, "taken over", "the same player logged in elsewhere", "do not reconnect by itself", False),
        CloseReason(Close.SLOW_READER, "slow reader", "snapshots were not read for too long", "resume when there is bandwidth", True),
        CloseReason(Close.LOGGED_OUT, "logged out", "the client asked to leave", "log in again to play", False),
        CloseReason(Close.FULL, "full", "this gateway or the zone holds all it can", "try again later, or another gateway", True),
        CloseReason(Close.IDLE, "idle", "nothing was heard for too long", "send a ping now and then", True),
        CloseReason(Close.KICKED, "kicked", "an operator, or a command that crashed the zone", "ask the operator", False),
        CloseReason(
            Close.UNAVAILABLE,
            "unavailable",
            "the world could not be reached, or forgot this login; or this player comes in too often",
            "resume with backoff",
            True,
        ),
    )
}
