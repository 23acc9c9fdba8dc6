"""Does a shard live whose port a gateway was refused at? Asked of the port itself, since the refusal may be of the way there (a firewall).

Owns a connection for one look. Nothing is sent: a shard says its name to whoever connects. Called by `steering`.
"""

from __future__ import annotations

import asyncio

from coordinator.whereabouts import READ_BYTES, connect
from perdure.ledger.values import Member
from perdure.wire.link import NONCE_BYTES, FrameReader, LinkType

DEADLINE_S = 0.1
"""One that lives and is as slow as this is put out on a gateway's word, as one that is dead is: its players wait."""


async def answers(shard: Member) -> bool:
    """Return whether a shard of this name answers at its port, in time."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await _says_its_name(shard)
    except (OSError, TimeoutError, ValueError):
        return False


async def _says_its_name(shard: Member) -> bool:
    reader, writer = await connect(shard)
    frames = FrameReader()
    try:
        while data := await reader.read(READ_BYTES):
            for kind, body in frames.feed(data):
                return kind is LinkType.CHALLENGE and bytes(body[NONCE_BYTES:]) == shard.name.encode()
        return False
    finally:
        writer.close()
