"""What open dashboards cost the coordinator: its CPU over a while with nobody looking, and with four streams of the live picture.

A real coordinator over a real ledger; 64 zones on four members that beat as shards do but run nothing, and 2,000 players in the presence
book, so that the machine is the coordinator's. Rounds with and without viewers alternate; the bar is on the ratio of the medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks._playing import console
from perdure.cli.children import die_with_parent
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import LedgerError
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import EnterRequest, Member, WorldSettings
from perdure.wire.identifiers import player_key

BAR_RATIO = 2.0
"""What all who look on cost together is not more than what the coordinator does anyway."""
SIDE, SHARDS = 8, 4
HEARTBEAT_S = 0.2
SETTLE_S = 2.0
START_S = 30.0
SCHEMA = {"name": "none", "tick_hz": 20, "width": 1.0, "height": 1.0, "interest": 1.0, "entities": [], "commands": [], "events": []}


def run(viewers: int = 4, players: int = 2000, rounds: int = 5, seconds: float = 6.0) -> dict[str, Any]:
    """Measure in so many pairs of rounds of so many seconds."""
    return asyncio.run(_run(viewers, players, rounds, seconds))


async def _run(viewers: int, players: int, rounds: int, seconds: float) -> dict[str, Any]:
    alone: list[float] = []
    watched: list[float] = []
    pictures = 0
    async with _coordinator(players) as (url, pid):
        await asyncio.sleep(SETTLE_S)
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                alone.append(await _cpu_share(pid, seconds))
                looking = [asyncio.ensure_future(_look(url)) for _ in range(viewers)]
                watched.append(await _cpu_share(pid, seconds))
                for task in looking:
                    task.cancel()
                seen = await asyncio.gather(*looking)
                pictures += sum(seen)
    ratio = median(watched) / median(alone)
    return {
        "cpu_percent_alone": round(100 * median(alone), 2), "cpu_percent_watched": round(100 * median(watched), 2),
        "ratio": round(ratio, 3), "bar_ratio": BAR_RATIO, "viewers": viewers, "zones": SIDE * SIDE, "players": players,
        "pictures_a_second_and_viewer": round(pictures / (rounds * seconds * viewers), 2), "passed": ratio <= BAR_RATIO and pictures > 0,
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _coordinator(players: int) -> AsyncIterator[tuple[str, int]]:
    """Run a ledger and a coordinator with the members and players that it is to know; yield its admin address and pid."""
    with tempfile.TemporaryDirectory(prefix="perdure-") as folder:
        server = EmbeddedServer(Path(folder) / "data", Path(folder) / "valkey.sock")
        await asyncio.to_thread(server.start)
        settings = {"REDIS_URL": server.url, "DEVELOPMENT": "1", "LEDGER_IS_NEW": "1", "LOG_LEVEL": "error", "NAME": "coordinator"}
        environment = {**os.environ, **{f"PERDURE_{name}": value for name, value in settings.items()}}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "perdure", "coordinator", env=environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        beating: asyncio.Task[None] | None = None
        ledger: RedisLedger | None = None
        try:
            ledger = await RedisLedger.connect(server.url, "main")
            await ledger.init_world(WorldSettings("main", "none", "0" * 16, orjson.dumps(SCHEMA).decode(), SIDE, SIDE, 1, 20))
            beating = asyncio.create_task(_beat(ledger))
            yield await _ready(ledger, players), process.pid
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            if ledger is not None:
                await ledger.close()
            process.terminate()
            await process.wait()
            await asyncio.to_thread(server.stop)


async def _ready(ledger: RedisLedger, players: int) -> str:
    """Wait until every zone has its shard, then let players in; return the coordinator's admin address."""
    async with asyncio.timeout(START_S):
        while True:
            view = await ledger.view()
            if sum(bool(route.owner) for route in view.zones.values()) == SIDE * SIDE and view.opened:
                break
            await asyncio.sleep(0.1)
    for index in range(players):
        name = f"player-{index}"
        await ledger.enter(EnterRequest(player_key(name), name, 500, index, index % (SIDE * SIDE), 0, f"{index:064x}"))
    return str(view.members["coordinator"].info["admin"])


async def _beat(ledger: RedisLedger) -> None:
    """Beat for all members, with infos as large as those of real ones."""
    zones = {str(zone): 31 for zone in range(SIDE * SIDE // SHARDS)}
    times = {"mean": 2.125, "p50": 2.031, "p99": 7.512, "longest": 11.25}
    info = {
        "state": "ready", "build": "6a09e667f3bcc908", "pid": 1, "host": "bench", "load": zones, "players": zones, "failed": {},
        "stale": {}, "paused": False, "tick_ms": times, "commit_ms": times, "own_ms": times, "bytes_s": 1_000_000,
    }  # fmt: skip
    for beat in range(1, 1 << 30):
        for index in range(SHARDS):
            with contextlib.suppress(LedgerError):  # the functions are loaded by the coordinator, in a moment
                await ledger.heartbeat(Member(f"shard-{index + 1}", "shard", 100 + index, f"unix:/none-{index}", beat, info))
        with contextlib.suppress(LedgerError):
            gateway = {"state": "ready", "load": 2000, "links": SHARDS, "bytes_s": 4_000_000, "url": "ws://none/ws"}
            await ledger.heartbeat(Member("gateway-1", "gateway", 500, "ws://none", beat, gateway))
        await asyncio.sleep(HEARTBEAT_S)


async def _look(url: str) -> int:
    """Read the stream of pictures until cancelled, as a page does; return how many came."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    pictures = 0
    try:
        writer.write(f"GET /live/stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        while line := await reader.readuntil(b"\n"):
            pictures += line.startswith(b"event: picture")
    except (asyncio.CancelledError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        return pictures
    finally:
        writer.close()
    return pictures


async def _cpu_share(pid: int, seconds: float) -> float:
    """Return the CPU time that a process takes in so many seconds, as a share of one core."""
    loop = asyncio.get_running_loop()
    began_s, used_s = loop.time(), _cpu_s(pid)
    await asyncio.sleep(seconds)
    return (_cpu_s(pid) - used_s) / (loop.time() - began_s)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
