"""The load test against a real cluster: players come and play, and a broken bound is an exit code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.cli.local_cluster import LocalCluster
from tests.faults.loading import LOOSE, USERS, failures, load, on, small_cluster

pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    async with small_cluster() as cluster:
        yield cluster


@pytest.mark.parametrize("processes", [1, 2])
def test_players_play(cluster: LocalCluster, processes: int) -> None:
    code, rows, said = on(cluster, "--run-time", "8s", "--processes", str(processes), *LOOSE)
    assert code == 0, said
    assert failures(rows) == {}
    assert "connect" in rows, said
    assert "the players of this process took" in said
    assert rows["connect"]["num_requests"] == rows["hello to first snapshot"]["num_requests"] == USERS
    assert rows["command to effect"]["num_requests"] >= USERS
    assert rows["crossing gap"]["num_requests"] > 0, "a step of this game leads anywhere in the world"


def test_a_broken_bound_is_an_exit_code(cluster: LocalCluster) -> None:
    code, rows, said = on(cluster, "--run-time", "8s", *LOOSE, "--bound", "command to effect=0.001")
    assert code == 1, said
    assert set(failures(rows)) == {"command to effect"}
    assert "over its bound of 0.001 ms" in said


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PERDURE_SECRET": "", "PERDURE_REDIS_URL": ""}
    code, _, said = load("--gateway", "ws://127.0.0.1:9/ws", environment=environment)
    assert code == 2
    assert said.strip() == "perdure load: no secret; give the cluster's in PERDURE_SECRET, to sign players in"
    code, _, said = load("--gateway", "ws://127.0.0.1:9/ws", "--bound", "sped=1", environment=environment | {"PERDURE_SECRET": "s" * 32})
    assert code == 2 and "Traceback" not in said
    assert "loadtest: --bound 'sped=1': it is ROW=MS" in said
