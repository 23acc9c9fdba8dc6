"""Bots in processes of their own, so that neither their decoding nor the runner's work slows the other down.

`Crowd` is the runner's side: starts the processes (they die with it), tells them to stop, puts their reports together. Run as a
module, this is one such process: one JSON object on standard input says what to play, the line `stop` (or the input's end) ends it,
and the report is pickled into the file that the object names. Bots play any game; a `tag` stays within what no game's rules fail on.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._light_socket import LightClient
from perdure.cli.children import die_with_parent
from perdure.client.bots import TOKEN_TTL_S, Bot, BotReport, BotsReport, run_bots
from perdure.game.schema import CommandSchema
from perdure.wire.tokens import make_token

TAGS = 60_000
FULL_EVERY = 10
ENTER_DEADLINE_S = 90.0
REPORT_DEADLINE_S = 60.0


class Crowd:
    """So many bots in `processes` processes; names are `<prefix>0`, `<prefix>1`, ..."""

    def __init__(self, folder: Path, urls: list[str], secret: str, count: int, *, processes: int = 2, prefix: str = "bot",
                 commands_hz: float = 10.0, seed: int = 1, launch: tuple[str, ...] = ()) -> None:  # fmt: skip
        self._folder, self._launch = folder, launch
        self._orders: list[dict[str, Any]] = []
        first = 0
        for k in range(processes):
            share = count // processes + (k < count % processes)
            report = str(folder / f"{prefix}-{k}.report")
            # A name that tells where it plays: each process turns round the list of gateways, so that each gateway has its share.
            turned = urls[k % len(urls) :] + urls[: k % len(urls)]
            self._orders.append(
                {"urls": turned, "secret": secret, "count": share, "first": first, "prefix": prefix, "hz": commands_hz,
                 "seed": seed * 101 + k, "report": report}
            )  # fmt: skip
            first += share
        self.names = [f"{prefix}{k}" for k in range(count)]
        self.stopped_s = 0.0
        self._children: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start them and return once all bots are in the world or have failed."""
        with open(self._folder / "crowd.log", "ab") as log:
            for order in self._orders:
                child = await asyncio.create_subprocess_exec(
                    *self._launch, sys.executable, "-m", "benchmarks._crowd", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    start_new_session=True, preexec_fn=die_with_parent,
                )  # fmt: skip
                assert child.stdin is not None
                child.stdin.write(json.dumps(order).encode() + b"\n")
                self._children.append(child)
        async with asyncio.timeout(ENTER_DEADLINE_S):
            for child in self._children:
                assert child.stdout is not None
                if await child.stdout.readline() != b"entered\n":
                    raise RuntimeError(f"the bots ended before all were in the world; see {self._folder / 'crowd.log'}")

    async def stop(self) -> BotsReport:
        """Have them stop playing; return what all of them saw."""
        self.stopped_s = time.monotonic()
        bots: list[BotReport] = []
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(b"stop\n")
        for child, order in zip(self._children, self._orders, strict=True):
            await asyncio.wait_for(child.wait(), REPORT_DEADLINE_S)
            if child.returncode:
                raise RuntimeError(f"a process of bots ended with {child.returncode}; see {self._folder / 'crowd.log'}")
            bots.extend(pickle.loads(Path(order["report"]).read_bytes()))
        self._children.clear()
        return BotsReport(bots)

    async def kill(self) -> None:
        """End what still runs, without a report."""
        for child in self._children:
            if child.returncode is None:
                child.kill()
            await child.wait()
        self._children.clear()


class CrowdBot(Bot):
    """A bot that never sends the tag on which the rules of a test's game fail. Most look at no more than the headers of what comes: two
    hundred full clients would take the machine that the cluster needs. Every tenth is the SDK's client as it is, over the websocket
    library, and notices a snapshot that does not fit the one before."""

    def __init__(self, url: str | Sequence[str], secret: str, name: str, *, commands_hz: float, hold_s: float, seed: int) -> None:
        super().__init__(url, secret, name, commands_hz=commands_hz, hold_s=hold_s, seed=seed)
        if seed % FULL_EVERY:
            self.client = LightClient(
                url, lambda: make_token(secret, name, TOKEN_TTL_S), on_message=self._message, connect_timeout_s=60.0
            )  # fmt: skip

    def _values(self, command: CommandSchema) -> dict[str, float | int]:
        values = super()._values(command)
        return {name: min(value, TAGS) if name == "tag" else value for name, value in values.items()}


async def _play(order: dict[str, Any]) -> None:
    stop, entered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: _told(stop))
    playing = asyncio.ensure_future(
        run_bots(order["urls"], order["secret"], order["count"], order["prefix"], first=order["first"], make=CrowdBot, stop=stop,
                 commands_hz=order["hz"], seed=order["seed"], all_entered=entered)
    )  # fmt: skip
    entering = asyncio.ensure_future(entered.wait())
    await asyncio.wait({entering, playing}, return_when=asyncio.FIRST_COMPLETED)
    print("entered", flush=True)
    report = await playing
    loop.remove_reader(0)
    Path(order["report"]).write_bytes(pickle.dumps(report.bots))


def _told(stop: asyncio.Event) -> None:
    os.read(0, 4096)  # `stop`, or the end of the input
    stop.set()


if __name__ == "__main__":
    import gc

    import uvloop

    first_line = b""
    while not first_line.endswith(b"\n"):
        first_line += os.read(0, 1)
    gc.freeze()
    uvloop.run(_play(json.loads(first_line)))
