"""The load test over TLS, through a proxy with a self-signed certificate, as one stands before gateways."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.loading import LOOSE, USERS, failures, load, small_cluster
from tests.tls import tls_proxy

pytestmark = pytest.mark.timeout(300)


async def test_players_play_over_tls_where_they_know_the_authority(tmp_path: Path) -> None:
    async with small_cluster() as cluster, tls_proxy(tmp_path, next(iter(cluster.gateway_urls.values()))) as port:
        words = ["--host", f"https://127.0.0.1:{port}", "--run-time", "6s", *LOOSE]
        environment = {"PERDURE_SECRET": cluster.secret}
        trusting = [*words, "--ca-file", str(tmp_path / "certificate.pem")]
        code, rows, said = await asyncio.to_thread(lambda: load(*trusting, environment=environment))
        assert code == 0, said
        assert failures(rows) == {} and rows["connect"]["num_requests"] == USERS
        assert rows["command to effect"]["num_requests"] >= USERS
        code, rows, said = await asyncio.to_thread(lambda: load(*words, environment=environment))
        assert code == 1 and "certificate verify failed" in said, said
        assert "connect" not in rows
