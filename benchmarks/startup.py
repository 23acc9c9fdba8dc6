"""Startup: from the command `perdure up` to the first snapshot at a client, with compiled kernels in the cache, and without."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._playing import GAME, console
from perdure.client.connection import Client, ClientClosed
from perdure.wire.tokens import make_token

BAR_WARM_S = 4.0
DEADLINE_S = 300.0


def run(rounds: int = 5, cold: int = 1, shards: int = 4) -> dict[str, Any]:
    """Start `rounds` times warm (after one uncounted start) and `cold` times cold."""
    with console.status("warming the cache"):
        _start(shards, {})
    warm = []
    for number in range(rounds):
        with console.status(f"warm start {number + 1} of {rounds}"):
            warm.append(_start(shards, {}))
    cold_s = []
    for number in range(cold):
        with console.status(f"cold start {number + 1} of {cold}: everything is compiled"), tempfile.TemporaryDirectory() as cache:
            cold_s.append(_start(shards, {"PERDURE_CACHE_DIR": cache}))
    return {
        "warm_s_median": round(median(warm), 2), "warm_s_max": round(max(warm), 2),
        "cold_s_median": round(median(cold_s), 2) if cold_s else None, "rounds": rounds,
        "shards": shards, "bar_warm_s": BAR_WARM_S, "passed": median(warm) <= BAR_WARM_S,
    }  # fmt: skip


def _start(shards: int, environment: dict[str, str]) -> float:
    """Run `perdure up` once; return the seconds to the first snapshot."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "perdure-local.json"
        started = time.monotonic()
        up = subprocess.Popen(
            [sys.executable, "-m", "perdure", "up", "--bots", "0", "--shards", str(shards), "--port", "0", "--game", GAME],
            env={**os.environ, **environment, "XDG_RUNTIME_DIR": folder}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            while not state.exists():
                if up.poll() is not None or time.monotonic() - started > DEADLINE_S:
                    detail = up.stderr.read().decode()[-500:] if up.stderr is not None and up.poll() is not None else "it took too long"
                    raise RuntimeError(f"perdure up did not come up: {detail}")
                time.sleep(0.01)
            address = json.loads(_read(state))
            asyncio.run(_first_snapshot(address["gateway_url"], address["secret"]))
            return time.monotonic() - started
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=30)


def _read(state: Path) -> str:
    """Return the state file's text, once it is whole."""
    while True:
        text = state.read_text()
        if text.endswith("}"):
            return text
        time.sleep(0.005)


async def _first_snapshot(url: str, secret: str) -> None:
    async with Client(url, lambda: make_token(secret, "newcomer", 60.0), connect_timeout_s=60.0) as client:
        if client.world.me is None:
            raise ClientClosed(None, "the first snapshot shows no avatar")
