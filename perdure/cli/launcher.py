"""Where the coordinators of `perdure up` ask for one more shard: a Unix socket in the cluster's folder, which only this user can open.

Owns the socket. Starts shards through the local cluster, one at a time and no more than MOST_SHARDS. Used by perdure.cli.up alone; the
other side is `coordinator.launcher`.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from perdure.cli.local_cluster import LocalCluster

LAUNCHER_SOCKET = "launcher.sock"
MOST_SHARDS = 64
QUESTION_DEADLINE_S = 5.0
MOST_QUESTION_BYTES = 256


class Launcher:
    """Answers `add shard` with {"shard": its name} or {"fault": why not}, one JSON object and line a connection."""

    def __init__(self, cluster: LocalCluster, path: Path) -> None:
        self._cluster = cluster
        self._path = path
        self._one_at_a_time = asyncio.Lock()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MOST_QUESTION_BYTES)
        os.chmod(self._path, 0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(QUESTION_DEADLINE_S):
                question = await reader.readline()
            found = await self._add() if question == b"add shard\n" else {"fault": "only shards are added here"}
            writer.write(json.dumps(found).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, TimeoutError):
            return  # whoever asked is gone, or asked nothing
        finally:
            writer.close()

    async def _add(self) -> dict[str, str]:
        async with self._one_at_a_time:
            if len(self._cluster.shard_names()) >= MOST_SHARDS:
                return {"fault": f"{MOST_SHARDS} shards run already"}
            return {"shard": await self._cluster.add_shard()}
