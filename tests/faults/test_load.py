"""The load test against a real cluster: players come, play, break and come back, and a broken bound is an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure.cli.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
PACES = ROOT / "tests" / "data" / "paces.py"
USERS = 8
pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(shards=2, zones="2x2", game=str(PACES))
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
    rows = json.loads(done.stdout[start : done.stdout.rfind("]") + 1]) if start >= 0 else []
    return done.returncode, {row["name"]: row for row in rows}, said


def on(cluster: LocalCluster, *words: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    url = next(iter(cluster.gateway_urls.values()))
    return load("--gateway", url, *words, environment={"PERDURE_SECRET": cluster.secret})


def failures(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: row["num_failures"] for name, row in rows.items() if row["num_failures"]}


LOOSE = [
    word for row in ("command to effect", "snapshot jitter", "crossing gap", "blackout (failover)") for word in ("--bound", f"{row}=9000")
]


@pytest.mark.parametrize("processes", [1, 2])
def test_players_play(cluster: LocalCluster, processes: int) -> None:
    code, rows, said = on(cluster, "--run-time", "6s", "--processes", str(processes), *LOOSE)
    assert code == 0, said
    assert failures(rows) == {}
    assert rows["connect"]["num_requests"] == rows["hello to first snapshot"]["num_requests"] == USERS
    assert rows["command to effect"]["num_requests"] >= USERS
    assert rows["crossing gap"]["num_requests"] > 0, "a step of this game leads anywhere in the world"


def test_a_broken_bound_is_an_exit_code(cluster: LocalCluster) -> None:
    code, rows, said = on(cluster, "--run-time", "4s", *LOOSE, "--bound", "command to effect=0.001")
    assert code == 1, said
    assert set(failures(rows)) == {"command to effect"}
    assert "over its bound of 0.001 ms" in said


def test_a_storm_breaks_every_socket_and_all_come_back(cluster: LocalCluster) -> None:
    code, rows, said = on(cluster, "--run-time", "9s", "--scenario", "storm", "--every", "3", *LOOSE)
    assert code == 0, said
    assert rows["blackout (socket broke)"]["num_requests"] >= USERS
    assert "drop" not in rows, "what the scenario breaks is no failure of the cluster"


def test_visitors_of_a_churn_log_out_and_in(cluster: LocalCluster) -> None:
    code, rows, said = on(cluster, "--run-time", "9s", "--scenario", "churn", "--every", "2", *LOOSE)
    assert code == 0, said
    assert rows["hello to first snapshot"]["num_requests"] > USERS
    assert "blackout (socket broke)" not in rows and "drop" not in rows


def test_shards_are_killed_in_a_cluster_of_its_own(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PERDURE_REDIS_URL": ""}
    code, rows, said = load(
        "--shards", "2", "--zones", "2x2", "--game", str(PACES), "--run-time", "10s", "--scenario", "kill", "--every", "4", *LOOSE,
        environment=environment,
    )  # fmt: skip
    assert code == 0, said
    assert rows["shard killed"]["num_requests"] >= 1
    assert rows["blackout (failover)"]["num_requests"] >= 1
    assert "drop" not in rows, "no socket breaks where a shard dies"
    assert list(tmp_path.iterdir()) == [], "the cluster is not known any more"


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PERDURE_SECRET": "", "PERDURE_REDIS_URL": ""}
    code, _, said = load("--gateway", "ws://127.0.0.1:9/ws", environment=environment)
    assert code == 2
    assert said.strip() == "perdure load: no secret; give the cluster's in PERDURE_SECRET, to sign players in"
    code, _, said = load("--gateway", "ws://127.0.0.1:9/ws", "--bound", "sped=1", environment=environment | {"PERDURE_SECRET": "s" * 32})
    assert code != 0 and "Traceback" not in said
    assert "loadtest: --bound 'sped=1': it is ROW=MS" in said
