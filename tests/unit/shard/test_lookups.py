"""Where a player is: a coordinator asks a shard over a real socket, and is told what is in the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import coordinator.whereabouts
from coordinator.whereabouts import whereabouts
from perdure.ledger.values import Member
from perdure.wire.identifiers import player_key
from shard.lookups import MAX_WAITING, Lookups
from shard.zone import Zone
from tests.unit.shard.shard_lab import DEADLINE_S, SECRET, Shard, playing, shard_in, until

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator.whereabouts, "DEADLINE_S", DEADLINE_S)


def member(shard: Shard, name: str = "shard-1") -> Member:
    return Member(name, "shard", 5, shard.address)


async def test_a_player_is_found_where_the_zone_has_it(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        _, key = await playing(shard_1)
        found = await whereabouts(member(shard_1), SECRET, 0, key)
        assert found is not None
        avatar = shard_1.ticks.zones[0].avatars()[0]
        assert found[1:] == (float(avatar["x"]), float(avatar["y"])) and found[0] > 0
        assert await whereabouts(member(shard_1), SECRET, 0, player_key("nobody")) is None
        assert await whereabouts(member(shard_1), SECRET, 0, 0) is None, "free rows have the key 0"
        assert await whereabouts(member(shard_1), SECRET, 1, key) is None, "a zone that does not run here"
        await until(lambda: len(shard_1.links.open) == 1)  # the gateway's: questions leave no link behind


async def test_nobody_is_told_without_the_secret_and_nobody_waits_for_a_shard_that_is_gone(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        _, key = await playing(shard_1)
        assert await whereabouts(member(shard_1), b"another secret", 0, key) is None
        assert await whereabouts(member(shard_1, "shard-2"), SECRET, 0, key) is None, "another process took the address"
        assert await whereabouts(Member("shard-3", "shard", 5, f"unix:{tmp_path}/nobody.sock"), SECRET, 0, key) is None


async def test_what_is_told_is_in_the_log(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        _, key = await playing(shard_1)
        shard_1.ledger.away = True
        before = len(shard_1.ledger.calls)
        await until(lambda: len(shard_1.ledger.calls) > before + 1)
        in_doubt = shard_1.ticks.zones[0].tick
        asked = asyncio.get_running_loop().create_task(whereabouts(member(shard_1), SECRET, 0, key))
        await until(lambda: shard_1.ticks._lookups._waiting)
        assert not asked.done(), "the tick is not committed"
        shard_1.ledger.away = False
        found = await asked
        assert found is not None and found[0] >= in_doubt


async def test_questions_that_wait_are_bounded() -> None:
    told: list[bytes] = []
    busy = {3}
    zones: dict[int, Zone] = {}
    lookups = Lookups(zones, busy)
    for _ in range(MAX_WAITING + 2):
        lookups.ask(3, 1, told.append)
    assert told == [b"", b""]
    busy.clear()
    lookups.ticked()
    assert len(told) == MAX_WAITING + 2
