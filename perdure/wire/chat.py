"""Chat and names on the wire: what players say to each other, and who is behind a key.

Owns the shapes of CHAT, WHO and NAMES, the bounds of a text, and what is left of a text that somebody typed. What comes from a client is
not trusted. No state, no I/O. Called by gateway/session.py, gateway/chat.py and the client SDK.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Annotated

import msgspec

from perdure.wire.client_messages import MAX_TEXT, BadMessage, server_frame
from perdure.wire.identifiers import name_fault
from perdure.wire.opcodes import ClientOp, ServerOp

MAX_CHAT_TEXT = 200
"""Characters of a line of chat."""
MAX_WHO_KEYS = 64
"""Players that one WHO may ask for."""
_JOINERS = "\u200c\u200d"
"""Of the invisible characters these two are kept: scripts and emoji are written with them."""

_CHAT = msgspec.msgpack.Decoder(
    tuple[int, Annotated[str, msgspec.Meta(max_length=32)], Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHAT_TEXT)]]
)
_WHO = msgspec.msgpack.Decoder(Annotated[list[int], msgspec.Meta(min_length=2, max_length=1 + MAX_WHO_KEYS)])
_ENCODER = msgspec.msgpack.Encoder()


def clean_text(text: str) -> str:
    """Return one line of visible text: blanks and control characters become single blanks, what only steers the writing is dropped.

    So no line of chat can turn round the text of others (bidirectional overrides), hide, or begin a line that looks like somebody else's.
    """
    shown = "".join(" " if (kind := unicodedata.category(c)) in ("Cc", "Zl", "Zp", "Zs") else c if c in _JOINERS or kind[0] != "C" else ""
                    for c in text)  # fmt: skip
    return " ".join(shown.split()).strip(_JOINERS + " ")


def decode_chat(data: bytes) -> tuple[str, str]:
    """Decode [5, to, text] into (to, cleaned text), which may be empty; raises BadMessage."""
    try:
        _, to, text = _CHAT.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"chat: {error}"[:MAX_TEXT]) from error
    if to and (fault := name_fault(to)) is not None:
        raise BadMessage(f"chat: {fault}")
    return to, clean_text(text)


def decode_who(data: bytes) -> list[int]:
    """Decode [6, key, ...]: players' keys, each once; raises BadMessage."""
    try:
        keys = _WHO.decode(data)[1:]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadMessage(f"who: {error}"[:MAX_TEXT]) from error
    if any(not 0 < key < 1 << 63 for key in keys):
        raise BadMessage("who: a player's key is a whole number from 1 to 2^63 - 1")
    return list(dict.fromkeys(keys))


def encode_chat(text: str, to: str = "") -> bytes:
    return _ENCODER.encode([int(ClientOp.CHAT), to, text])


def encode_who(keys: Iterable[int]) -> bytes:
    return _ENCODER.encode([int(ClientOp.WHO), *keys])


def chat_frame(sender: str, to: str, text: str) -> bytes:
    """Return the websocket frame of one line. `sender` "": the server itself."""
    return server_frame(_ENCODER.encode([int(ServerOp.CHAT), sender, to, text]))


def names_frame(names: Iterable[tuple[int, str]]) -> bytes:
    return server_frame(_ENCODER.encode([int(ServerOp.NAMES), [list(pair) for pair in names]]))
