"""Asks whoever started this cluster on one machine (`perdure up`) for one more shard, over a Unix socket that it named in the settings.

Owns the question and how long it waits. A coordinator starts no processes: where nobody can be asked, the order does not exist.
Called by `live_api`; the other side is `perdure.cli.launcher`.
"""

from __future__ import annotations

import asyncio

import msgspec

ANSWER_DEADLINE_S = 30.0
MOST_ANSWER_BYTES = 4096


class LauncherError(Exception):
    """There is no shard, and this is why."""


class _Answer(msgspec.Struct):
    shard: str = ""
    fault: str = ""


async def add_shard(path: str) -> str:
    """Return the name of the shard that was started."""
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=MOST_ANSWER_BYTES)
            try:
                writer.write(b"add shard\n")
                line = await reader.readline()
            finally:
                writer.close()
        told = msgspec.json.decode(line, type=_Answer)
    except (OSError, TimeoutError, ValueError) as error:
        raise LauncherError(f"who started this cluster does not answer: {' '.join(str(error).split()) or 'no answer in time'}") from error
    if told.fault or not told.shard:
        raise LauncherError(told.fault or "no shard was named")
    return told.shard
