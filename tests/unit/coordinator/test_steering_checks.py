"""What may be asked of a cluster is the same by the command and by the admin API."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from perdure.cli.steer import _steer
from tests.unit.coordinator.admin_bench import AdminBench

pytestmark = pytest.mark.asyncio


async def nobody_leads(bench: AdminBench) -> None:
    bench.store.data.leader = ""


async def on_its_way(bench: AdminBench) -> None:
    await bench.ledger.intend(1, 0, "s2")


async def draining(bench: AdminBench) -> None:
    await bench.ledger.set_draining("s1", True)


@pytest.mark.parametrize("before", [nobody_leads, on_its_way, draining])
async def test_a_migration_is_refused_in_the_same_words(before: Callable[[AdminBench], Any]) -> None:
    bench = AdminBench()
    await bench.start("s0", "s1", "s2")
    owner = (await bench.ledger.view()).zones[0].owner
    wanted = "s1" if owner != "s1" else "s0"
    if wanted == "s0" and before is draining:
        await bench.ledger.set_draining("s0", True)
    await before(bench)
    said = await _steer("migrate", argparse.Namespace(zone=0, shard=wanted), bench.ledger)
    async with bench.client() as client:
        answer = (await client.post("/zones/0/migrate", json={"shard": wanted})).json()
    assert said == f"{answer['error']}: {answer['mend']}"


@pytest.mark.parametrize("name", ["nobody", "g0", "s0"])
async def test_a_drain_is_answered_alike(name: str) -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    said = await _steer("drain", argparse.Namespace(name=name), bench.ledger)
    async with bench.client() as client:
        answer = await client.post(f"/members/{name}/drain")
    assert (answer.status_code == 202) is (said == "")
    assert not said or said == f"{answer.json()['error']}: {answer.json()['mend']}"
