"""Websocket frames by hand: the least that a client needs which talks to a Perdure gateway, for who plays hundreds of players.

Owns the upgrade request, what cuts a server's bytes into frames, and a client's frames (RFC 6455, sections 4.1 and 5). No I/O. A websocket
library checks more and costs more: the SDK uses one (connection.py). A gateway sends every message in one frame, unmasked and without
extensions; anything else is an error here. Called by the load test's players and the benches' crowds.
"""

from __future__ import annotations

import base64
import os
import struct
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MAX_FRAME_BYTES = 1 << 20
MAX_HEAD_BYTES = 1 << 16
_LONG, _LONGER = struct.Struct(">H"), struct.Struct(">Q")


def upgrade_request(url: str) -> bytes:
    """Return the request that opens a websocket. The key's answer is not verified: it proves nothing about who answers."""
    parts, key = urlsplit(url), base64.b64encode(os.urandom(16)).decode()
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(message: bytes, opcode: int = BINARY) -> bytes:
    """Return a client's frame, masked with zeros: RFC 6455 wants a mask, not a secret."""
    return frame_head(len(message), opcode) + message


def frame_head(size: int, opcode: int = BINARY) -> bytes:
    """Return what stands before a message of so many bytes in its frame."""
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    return head + b"\0\0\0\0"


def close_code(body: bytes) -> tuple[int | None, str]:
    """Return the code and the reason of a close frame's content."""
    return (_LONG.unpack_from(body)[0] if len(body) >= 2 else None), body[2:].decode(errors="replace")


class Frames:
    """Cuts a server's bytes into its answer to the upgrade and its frames (whole messages, not masked)."""

    def __init__(self) -> None:
        self.upgraded = False
        self._rest = b""

    @property
    def empty(self) -> bool:
        """Whether no part of a frame waits for its rest."""
        return not self._rest

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (opcode, message) of each frame that is complete. Raises ValueError: a refused upgrade, or a frame that is none."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self.upgraded:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                if len(data) > MAX_HEAD_BYTES:
                    raise ValueError(f"the answer to the upgrade is longer than {MAX_HEAD_BYTES} bytes")
                self._rest = data
                return []
            self._upgrade(head)
            data = rest
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while at + 2 <= end:
            first, size, start = data[at], data[at + 1], at + 2
            if first & 0xF0 != 0x80 or first == 0x80 or size > 127:
                raise ValueError(f"a frame begins with {first:02x} {size:02x}: in pieces, masked, or with an extension")
            if size == 126:
                if start + 2 > end:
                    break
                size, start = _LONG.unpack_from(data, start)[0], start + 2
            elif size == 127:
                if start + 8 > end:
                    break
                size, start = _LONGER.unpack_from(data, start)[0], start + 8
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes: at most {MAX_FRAME_BYTES} are taken")
            if start + size > end:
                break
            frames.append((first & 0x0F, data[start : start + size]))
            at = start + size
        self._rest = data[at:]
        return frames

    def _upgrade(self, head: bytes) -> None:
        line = head.split(b"\r\n", 1)[0]
        if b" 101" not in line:
            raise ValueError(f"the upgrade is refused: {line.decode('latin-1')[:80]}")
        self.upgraded = True
