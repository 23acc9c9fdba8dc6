"""Messages between client and gateway: msgpack arrays in binary websocket messages, decoded under strict limits.

What comes from a client is not trusted. Every decoder here is typed, so that a wrong type, a nested array, a string
where a number belongs, an extension type or an over-long array is refused at its header, before anything is allocated
for it. Owns no state, does no I/O. Called by gateway/session.py (decode, server frames), by the client SDK (encode) and
by the load tester. docs/PROTOCOL.md describes the same messages for other languages.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any

import msgspec

from perdure.wire.opcodes import PROTOCOL_VERSION, ClientOp, Notice, ServerOp

MAX_CLIENT_MESSAGE = 16 * 1024
MAX_COMMAND_FIELDS = 32
MAX_TEXT = 120
"""Longest text (characters) in a refusal, a notice or a close reason; a close frame holds 123 bytes of it."""


class BadMessage(Exception):
    """A client's message is not msgpack of a known shape; the text says what is wrong, in one line."""


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first message of a client. Exactly one of `token` and `resume`; `schema` None skips the comparison."""

    protocol: int
    token: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    resume: Annotated[str, msgspec.Meta(max_length=96)] | None = None
    schema: Annotated[str, msgspec.Meta(max_length=64)] | None = None


_HELLO = msgspec.msgpack.Decoder(tuple[int, Hello])
_COMMAND = msgspec.msgpack.Decoder(Annotated[list[int | float | bool], msgspec.Meta(min_length=3, max_length=3 + MAX_COMMAND_FIELDS)])
_PING = msgspec.msgpack.Decoder(tuple[int, int])
_ENCODER = msgspec.msgpack.Encoder()


def client_op(data: bytes) -> int:
    """Return the number of a client message from its first bytes alone; raises BadMessage where there is none.

    The message must be a msgpack array whose first element is a small positive integer, encoded in one byte (as every
    encoder does).
    """
    if len(data) > MAX_CLIENT_MESSAGE:
        raise BadMessage(f"a message has at most {MAX_CLIENT_MESSAGE} bytes")
    if len(data) >= 2 and 0x91 <= data[0] <= 0x9F:  # fixarray
        op = data[1]
    elif len(data) >= 4 and data[0] == 0xDC:  # array 16
        op = data[3]
    else:
        raise BadMessage("a message is a msgpack array that starts with its number")
    if op > 0x7F:
        raise BadMessage("the first element of a message is its number, in one byte")
    return op


def decode_hello(data: bytes) -> Hello:
    """Decode [1, {...}]; raises BadMessage."""
    try:
        _, hello = _HELLO.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"hello: {error}"[:MAX_TEXT]) from error
    if (hello.token is None) == (hello.resume is None):
        raise BadMessage("hello has either a token or a resume token")
    return hello


def decode_command(data: bytes) -> list[int | float | bool]:
    """Decode [2, seq, kind, field, ...]: at most 32 fields, numbers and booleans only; raises BadMessage.

    Floats may still be NaN or infinite: `CommandSchema.fault` refuses both, since neither lies in any range.
    """
    try:
        return _COMMAND.decode(data)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"command: {error}"[:MAX_TEXT]) from error


def decode_ping(data: bytes) -> int:
    """Decode [3, n]; raises BadMessage."""
    try:
        return _PING.decode(data)[1]
    except msgspec.MsgspecError as error:
        raise BadMessage(f"ping: {error}"[:MAX_TEXT]) from error


# --- what a client sends ------------------------------------------------------------------------------------------


def encode_hello(*, token: str | None = None, resume: str | None = None, schema: str | None = None) -> bytes:
    body: dict[str, Any] = {"protocol": PROTOCOL_VERSION, "schema": schema}
    if token is not None:
        body["token"] = token
    if resume is not None:
        body["resume"] = resume
    return _ENCODER.encode([int(ClientOp.HELLO), body])


def encode_command(seq: int, kind: int, values: list[Any] | tuple[Any, ...]) -> bytes:
    return _ENCODER.encode([2, seq, kind, *values])


def encode_command_parts(kind: int, values: list[Any] | tuple[Any, ...]) -> tuple[bytes, bytes]:
    """Return what stands before and behind the number of a command, which is four bytes, big endian: for who sends it again and again."""
    whole = _ENCODER.encode([2, 1, kind, *values])
    at = whole.index(2) + 1
    return whole[:at] + b"\xce", whole[at + 1 :]


def encode_ping(number: int) -> bytes:
    return _ENCODER.encode([int(ClientOp.PING), number])


def encode_leave() -> bytes:
    return _ENCODER.encode([int(ClientOp.LEAVE)])


# --- what the gateway sends ---------------------------------------------------------------------------------------


def server_frame(payload: bytes) -> bytes:
    """Return one complete binary websocket frame, not masked, as servers send it (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x82, size)) + payload
    if size < 1 << 16:
        return struct.pack(">BBH", 0x82, 126, size) + payload
    return struct.pack(">BBQ", 0x82, 127, size) + payload


PING_FRAME = b"\x89\x00"
"""A websocket ping without payload: the gateway's keep-alive."""


def welcome_frame(body: dict[str, Any]) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.WELCOME), body]))


def notice_frame(notice: Notice, zone: int, text: str) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.NOTICE), int(notice), zone, text[:MAX_TEXT]]))


def stale_frame(zone: int, stale: tuple[int, ...]) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.STALE), zone, list(stale)]))


def pace_frame(zone: int, clock_percent: int, snapshot_every: int, far_every: int) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.PACE), zone, clock_percent, snapshot_every, far_every]))


def queued_frame(position: int, estimate_s: int) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.QUEUED), position, estimate_s]))


def pong_frame(number: int) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.PONG), number]))


def map_frame(columns: int, rows: int, owners: list[str]) -> bytes:
    """`owners`: for each zone the name of the shard that runs it, "" for none."""
    return server_frame(_ENCODER.encode([int(ServerOp.MAP), columns, rows, owners]))


def refused_frame(seq: int, text: str) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.REFUSED), seq, text[:MAX_TEXT]]))
