"""A coordinator asks `perdure up` for a shard: over a real socket, against a cluster that only counts."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator.launcher import LauncherError, add_shard
from perdure.cli.launcher import MOST_SHARDS, Launcher
from tests.unit.coordinator.admin_bench import AdminBench


class Counting:
    """Stands for a local cluster."""

    def __init__(self, shards: int = 2) -> None:
        self.shards = shards

    def shard_names(self) -> list[str]:
        return [f"shard-{index + 1}" for index in range(self.shards)]

    async def add_shard(self) -> str:
        self.shards += 1
        return f"shard-{self.shards}"


@asynccontextmanager
async def launcher(path: Path, cluster: Counting) -> AsyncIterator[str]:
    serving = Launcher(cast(Any, cluster), path)
    await serving.start()
    try:
        yield str(path)
    finally:
        await serving.stop()
        assert not path.exists()


async def test_shards_are_added_one_after_the_other_up_to_a_bound(tmp_path: Path) -> None:
    cluster = Counting(MOST_SHARDS - 2)
    async with launcher(tmp_path / "l.sock", cluster) as path:
        assert stat.S_IMODE((tmp_path / "l.sock").stat().st_mode) == 0o600
        assert sorted(await asyncio.gather(add_shard(path), add_shard(path))) == [f"shard-{MOST_SHARDS - 1}", f"shard-{MOST_SHARDS}"]
        with pytest.raises(LauncherError, match="64 shards run already"):
            await add_shard(path)
    with pytest.raises(LauncherError, match="does not answer"):
        await add_shard(path)


@pytest.mark.parametrize("question", [b"", b"kill shard\n", b"x" * 10_000, b"\xff\x00\n"])
async def test_anything_else_starts_nothing(question: bytes, tmp_path: Path) -> None:
    cluster = Counting()
    async with launcher(tmp_path / "l.sock", cluster) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(question)
        writer.write_eof()
        answered = await reader.read()
        writer.close()
    assert b"shard" not in answered or b"only shards" in answered
    assert cluster.shards == 2


async def test_the_admin_api_offers_it_only_where_somebody_can_be_asked(tmp_path: Path) -> None:
    async with launcher(tmp_path / "l.sock", Counting()) as path:
        offering = AdminBench(launcher=path)
        async with offering.client() as client:
            assert (await client.get("/access")).json()["add_shard"] is True
            answered = await client.post("/shards")
            assert (answered.status_code, answered.json()["shard"]) == (202, "shard-3")
        async with offering.client("") as client:
            assert (await client.post("/shards")).status_code == 401
    async with offering.client() as client:
        assert (await client.post("/shards")).status_code == 503
    async with AdminBench().client() as client:
        assert (await client.get("/access")).json()["add_shard"] is False
        assert (await client.post("/shards")).status_code == 403
    token = "a-token-of-this-test-with-enough-characters"
    production = AdminBench(development=False, secret="a-secret-of-this-test-with-enough-characters", admin_token=token, launcher=path)
    async with production.client(token) as client:
        assert (await client.post("/shards")).status_code == 403
