"""The floor of delivering snapshots: a process that writes ready-made frames to sockets, and one that takes what comes.

Run as a module: one JSON object on standard input ({"sockets", "bytes", "hz", "seconds", "rounds"}), one on standard output: nanoseconds
of processor time for each write, round by round. The writer does nothing but uvloop's `transport.write` of slices of one buffer, all
different, as often as a gateway would. Both processes end by themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import uvloop

from perdure.cli.children import die_with_parent


class _Writer(asyncio.Protocol):
    def __init__(self, transports: list[asyncio.Transport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(cast(asyncio.Transport, transport))


async def _take(path: str, sockets: int) -> None:
    """The other side: as many TCP connections as wanted, held until they end."""
    loop = asyncio.get_running_loop()
    deadline_s = time.monotonic() + 10.0
    while not (found := Path(path).read_text() if Path(path).exists() else ""):
        if time.monotonic() > deadline_s:
            raise TimeoutError("the writer did not listen")
        await asyncio.sleep(0.01)
    ended = asyncio.Event()

    class Sink(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    for _ in range(sockets):
        await loop.create_connection(Sink, "127.0.0.1", int(found))
    await ended.wait()


async def _write(path: str, order: dict[str, Any]) -> list[float]:
    loop = asyncio.get_running_loop()
    transports: list[asyncio.Transport] = []
    server = await loop.create_server(lambda: _Writer(transports), "127.0.0.1", 0)
    temporary = Path(path + ".new")
    temporary.write_text(str(server.sockets[0].getsockname()[1]))
    temporary.rename(path)
    while len(transports) < order["sockets"]:
        await asyncio.sleep(0.01)
    size = int(order["bytes"])
    buffer = memoryview(os.urandom(size + len(transports)))
    frames = [buffer[k : k + size] for k in range(len(transports))]
    found: list[float] = []
    for _ in range(order["rounds"] + 1):
        writes, due_s, began_s = 0, time.monotonic(), _cpu_s()
        for _ in range(int(order["seconds"] * order["hz"])):
            for transport, frame in zip(transports, frames, strict=True):
                transport.write(frame)
            writes += len(transports)
            due_s += 1.0 / order["hz"]
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        found.append((_cpu_s() - began_s) / writes * 1e9)
    for transport in transports:
        transport.abort()
    server.close()
    return found[1:]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    order = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "port")
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            try:
                uvloop.run(_take(path, order["sockets"]))
            finally:
                os._exit(0)
        found = uvloop.run(_write(path, order))
        os.waitpid(pid, 0)
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
