"""Where in its zone a player is: asked of the shard that runs the zone, at the port of its links, when somebody looks a player up.

Owns a connection for one question. Nothing is kept and nobody else is asked: a shard that does not answer in time leaves the place unknown.
Called by `admin_api`.
"""

from __future__ import annotations

import asyncio
import struct

import structlog

from perdure.ledger.values import Member
from perdure.wire.link import AT_STRUCT, LOOK_STRUCT, NONCE_BYTES, FrameReader, LinkType, look_proof, pack_frame

DEADLINE_S = 1.0
READ_BYTES = 4096

log = structlog.get_logger("coordinator")


async def whereabouts(shard: Member, secret: bytes, zone: int, player: int) -> tuple[int, float, float] | None:
    """Return (tick, x, y) as of the zone's last committed tick, or None where the player is not there or nobody answers."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await _ask(shard, secret, zone, player)
    except (OSError, TimeoutError, ValueError, struct.error) as error:
        log.info("whereabouts_unknown", shard=shard.name, zone=zone, why=repr(error))
        return None


async def connect(shard: Member) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to the port of a shard's links; raises OSError, or ValueError where its address is none."""
    if shard.address.startswith("unix:"):
        return await asyncio.open_unix_connection(shard.address.removeprefix("unix:"))
    host, _, port = shard.address.removeprefix("tcp:").rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


async def _ask(shard: Member, secret: bytes, zone: int, player: int) -> tuple[int, float, float] | None:
    reader, writer = await connect(shard)
    frames = FrameReader()
    try:
        while data := await reader.read(READ_BYTES):
            for kind, body in frames.feed(data):
                if kind is LinkType.CHALLENGE:
                    if bytes(body[NONCE_BYTES:]) != shard.name.encode():
                        raise ValueError(f"another process answers at {shard.address}")
                    question = LOOK_STRUCT.pack(zone, player)
                    writer.write(pack_frame(LinkType.LOOK, look_proof(secret, bytes(body[:NONCE_BYTES])), question))
                elif kind is LinkType.AT:
                    return AT_STRUCT.unpack(body) if body else None
        raise ValueError("the shard ended the link without an answer")
    finally:
        writer.close()
