"""What the load test breaks on purpose, and that all players come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.cli.local_cluster import LocalCluster
from tests.faults.loading import LOOSE, PACES, USERS, load, on, small_cluster

pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    async with small_cluster() as cluster:
        yield cluster


def test_a_storm_breaks_every_socket_and_all_come_back(cluster: LocalCluster) -> None:
    code, rows, said = on(cluster, "--run-time", "10s", "--shape", "storm", "--every", "3", *LOOSE)
    assert code == 0, said
    assert rows["blackout (socket broke)"]["num_requests"] >= USERS
    assert "drop" not in rows, "what the scenario breaks is no failure of the cluster"


@pytest.mark.parametrize("way", ["--scenario", "--shape"])
def test_visitors_of_a_churn_log_out_and_in(cluster: LocalCluster, way: str) -> None:
    code, rows, said = on(cluster, "--run-time", "9s", way, "churn", "--every", "2", *LOOSE)
    assert code == 0, said
    assert rows["hello to first snapshot"]["num_requests"] > USERS
    assert "blackout (socket broke)" not in rows and "drop" not in rows


@pytest.mark.parametrize("way", ["--scenario", "--shape"])
def test_shards_are_killed_in_a_cluster_of_its_own(tmp_path: Path, way: str) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PERDURE_REDIS_URL": ""}
    code, rows, said = load(
        "--shards", "2", "--zones", "2x2", "--game", str(PACES), "--run-time", "24s", way, "kill", "--every", "3", *LOOSE,
        environment=environment,
    )  # fmt: skip
    assert code == 0, said
    assert rows["shard killed"]["num_requests"] >= 1
    assert rows["blackout (failover)"]["num_requests"] >= 1
    assert "drop" not in rows, "no socket breaks where a shard dies"
    assert list(tmp_path.iterdir()) == [], "the cluster is not known any more"
