"""Running `perdure load` against a cluster, and reading what Locust prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure.cli.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
PACES = ROOT / "tests" / "data" / "paces.py"
STROLLS = ROOT / "tests" / "data" / "strolls.py"
USERS = 8


@asynccontextmanager
async def small_cluster(game: Path = PACES) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(shards=2, zones="2x2", game=str(game))
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


def load(*words: str, environment: dict[str, str] | None = None) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Run `perdure load`; return its exit code, Locust's rows by name, and what it said."""
    command = [sys.executable, "-m", "perdure", "load", "--users", str(USERS), "--spawn-rate", "50", "--json", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=200, check=False
    )
    said = done.stdout + done.stderr
    start = done.stdout.find("[\n")
    rows = json.JSONDecoder().raw_decode(done.stdout, start)[0] if start >= 0 else []  # workers print a list of their own after it
    return done.returncode, {row["name"]: row for row in rows}, said


def on(cluster: LocalCluster, *words: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    url = next(iter(cluster.gateway_urls.values()))
    return load("--gateway", url, *words, environment={"PERDURE_SECRET": cluster.secret})


def failures(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: row["num_failures"] for name, row in rows.items() if row["num_failures"]}


LOOSE = [
    word for row in ("command to effect", "snapshot jitter", "crossing gap", "blackout (failover)") for word in ("--bound", f"{row}=9000")
]
