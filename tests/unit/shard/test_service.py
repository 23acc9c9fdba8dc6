"""The shard process before and after its ticks: which worlds it joins, and that it leaves with its last tick on record."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shard.service
from perdure.game.contract import GameError
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.record import blob_digest
from perdure.ledger.values import CommitAnswer, CommitStatus, Reseed, WorldSettings, ZoneRoute
from perdure.wire.identifiers import WorldGrid
from shard.service import ShardService
from shard.settings import ShardSettings
from shard.zone import Zone, ZoneError
from tests.unit.shard.zone_lab import program, warm_program

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "small_game.py")


def settings(path: Path, **given: Any) -> ShardSettings:
    return ShardSettings(name="shard-1", game=SMALL, zones="2x1", listen=f"unix:{path}/shard.sock", development=True, **given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"game": "chess"}, "runs game 'chess' on 2x1 zones, this shard was told 'small'"),
        ({"columns": 9}, "on 9x1 zones"),
        ({"schema_hash": "0123"}, r"made with another schema of 'small' \(0123, this game's is .*another PERDURE_WORLD"),
    ],
)
async def test_a_world_of_another_kind_is_not_joined(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    game, ledger = program(SMALL), MemoryLedger()
    mine = WorldSettings("main", "small", game.schema.hash, "", 2, 1, 1, game.game.tick_hz)
    await ledger.init_world(dataclasses.replace(mine, **change))
    with pytest.raises(ValueError, match=words):
        await ShardService(settings(tmp_path), game, ledger)._join_world()


class SlowLedger(MemoryLedger):
    """Answers commits late, so that a shard that is told to leave is in the middle of one."""

    async def commit(self, commits: Any) -> list[CommitAnswer]:
        answers = await super().commit(commits)
        self.committing.set()
        await asyncio.sleep(0.05)
        return answers

    committing: asyncio.Event


async def test_a_shard_that_leaves_in_the_middle_of_a_commit_checkpoints_that_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("freeze", "disable"):  # this process goes on when the shard is gone
        monkeypatch.setattr(gc, name, lambda: None)
    ledger = SlowLedger()
    ledger.committing = asyncio.Event()
    shard = ShardService(settings(tmp_path), warm_program(SMALL), ledger)
    serving = asyncio.ensure_future(shard.serve())
    async with asyncio.timeout(30):
        while shard.state != "ready":
            await asyncio.sleep(0.005)
        term = (await ledger.elect("test")).term
        for zone in (0, 1):
            await ledger.assign(term, zone, "shard-1", 0)
        while not all(zone in shard.ticks.zones and shard.ticks.zones[zone].tick > 2 for zone in (0, 1)):
            await asyncio.sleep(0.005)
        ledger.committing.clear()
        await ledger.committing.wait()
        signal.raise_signal(signal.SIGTERM)
        assert await serving == 0
    for zone in (0, 1):
        head = await ledger.zone_head(zone)
        assert head.checkpoints[0][0] == head.tick


async def test_a_zone_that_could_not_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("freeze", "disable"):
        monkeypatch.setattr(gc, name, lambda: None)
    monkeypatch.setattr(shard.service, "RETRY_S", 0.05)
    take_over, damaged, tries = shard.service.take_over, True, 0

    async def from_a_damaged_log(follower: Any, generation: int, epoch: int) -> Any:
        nonlocal tries
        tries += 1
        if damaged:
            raise ZoneError("zone 0 tick 5: the log's chain is broken here")
        return await take_over(follower, generation, epoch)

    monkeypatch.setattr(shard.service, "take_over", from_a_damaged_log)
    ledger = MemoryLedger()
    under_test = ShardService(settings(tmp_path), warm_program(SMALL), ledger)
    serving = asyncio.ensure_future(under_test.serve())
    async with asyncio.timeout(30):
        while under_test.state != "ready":
            await asyncio.sleep(0.005)
        await ledger.assign((await ledger.elect("test", 100_000)).term, 0, "shard-1", 0)
        while tries < 2:
            await asyncio.sleep(0.005)
        assert "tick 5" in under_test.failed[0]
        damaged = False
        while 0 not in under_test.ticks.zones:
            await asyncio.sleep(0.005)
        assert under_test.failed == {}
        signal.raise_signal(signal.SIGTERM)
        assert await serving == 0


async def test_a_zone_that_is_given_up_again_and_again_rests_longer_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beginning breaks the links of all zones of the shard; and nobody else is given the zone meanwhile."""
    now_s = 1000.0
    under_test = ShardService(settings(tmp_path), warm_program(SMALL), MemoryLedger())
    taken: list[int] = []
    monkeypatch.setattr(under_test, "_take_over", lambda route, started: taken.append(route.zone))
    monkeypatch.setattr(shard.service, "time", SimpleNamespace(monotonic=lambda: now_s))
    loop = SimpleNamespace(create_task=lambda work: work)
    monkeypatch.setattr(shard.service, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    zone: Any = SimpleNamespace(zone=0, epoch=3)
    route = ZoneRoute(0, "shard-1", 1, 3)

    def rested_s() -> float:
        """Give the zone up, and return how long it is until it is taken anew."""
        nonlocal now_s
        under_test._gave_up(zone, "the ledger refuses its tick 9: a damaged record")
        began_s = now_s
        while True:
            under_test._take(route)
            if taken:
                taken.clear()
                under_test._takeovers.clear()
                under_test.failed.pop(0, None)
                return now_s - began_s
            assert under_test._info()["failed"] == {"0": "3: the ledger refuses its tick 9: a damaged record"}
            now_s += 1.0

    assert [rested_s() for _ in range(6)] == [0.0, 4.0, 8.0, 16.0, 32.0, 32.0]
    now_s += 61.0
    assert rested_s() == 0.0, "it ran for long"
    await under_test.ticks.close()


async def test_a_shard_whose_rules_do_not_compile_leaves_the_cluster_before_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise GameError("rules.py:3: the rules do not compile")

    monkeypatch.setattr("shard.service.warm", fail)
    ledger = MemoryLedger()
    with pytest.raises(GameError, match=r"rules\.py:3"):
        await ShardService(settings(tmp_path), program(SMALL), ledger).serve()
    assert not ledger.store.data.members
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "heartbeat"]


async def test_an_owner_keeps_its_zone_whatever_an_older_copy_of_the_ledger_says_of_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is from before the zone came here, and lacks the world: the zone and the world are put back, nothing is dropped."""
    for name in ("freeze", "disable"):
        monkeypatch.setattr(gc, name, lambda: None)
    ledger = MemoryLedger()
    shard = ShardService(settings(tmp_path), warm_program(SMALL), ledger)
    serving = asyncio.ensure_future(shard.serve())
    async with asyncio.timeout(30):
        while shard.state != "ready":
            await asyncio.sleep(0.005)
        term = (await ledger.elect("test", 100_000)).term
        await ledger.assign(term, 0, "shard-9", 0)
        kept: Any = ledger.store.snapshot()
        kept.world = None
        await ledger.assign(term, 0, "shard-1", 1)
        await ledger.assign(term, 1, "shard-1", 0)
        while not all(zone in shard.ticks.zones and shard.ticks.zones[zone].tick > 2 for zone in (0, 1)):
            await asyncio.sleep(0.005)
        running = dict(shard.ticks.zones)
        ledger.store.restore(kept)
        shard._follow(await ledger.view())
        assert shard.ticks.zones == running, "while the world is closed"
        ledger.store.data.opened_for = ledger.store.run_id
        shard._follow(await ledger.view())
        assert shard.ticks.zones == running, "when it is open again, and the zone is not yet put back"
        last = running[0].tick + 1
        while (await ledger.view()).ticks.get(0, 0) <= last or await ledger.world() is None:
            await asyncio.sleep(0.005)
        assert shard.ticks.zones == running
        assert {zone: (await ledger.zone_head(zone)).owner for zone in (0, 1)} == {0: "shard-1", 1: "shard-1"}
        signal.raise_signal(signal.SIGTERM)
        assert await serving == 0


async def test_a_zone_that_was_put_back_anew_since_it_was_prefetched_is_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("freeze", "disable"):
        monkeypatch.setattr(gc, name, lambda: None)
    ledger, game = MemoryLedger(), warm_program(SMALL)
    shard = ShardService(settings(tmp_path), game, ledger)
    serving = asyncio.ensure_future(shard.serve())
    async with asyncio.timeout(30):
        while shard.state != "ready":
            await asyncio.sleep(0.005)
        term = (await ledger.elect("test")).term
        await ledger.assign(term, 0, "shard-9", 0)
        zone = Zone(game, 0, WorldGrid(*game.game.world_size, 2, 1), shard._seed)
        zone.recovered(1, 1)
        for _ in range(5):
            (answer,) = await ledger.commit([zone.step()])
            zone.encode()
            zone.committed(answer)
        await ledger.intend(term, 0, "shard-1")
        while not (await ledger.view()).zones[0].ready:
            await asyncio.sleep(0.005)
        zone.step()
        zone.encode()
        zone.committed(CommitAnswer(CommitStatus.GAP))
        blob = zone.checkpoint()
        head = await ledger.reseed(Reseed(0, "shard-9", 1, 1, zone.tick, zone.digest, blob, blob_digest(blob)))
        await ledger.assign(term, 0, "shard-1", head.epoch)
        while 0 not in shard.ticks.zones:
            await asyncio.sleep(0.005)
        assert shard.ticks.zones[0].tick >= 6 and not shard.failed
        signal.raise_signal(signal.SIGTERM)
        assert await serving == 0


async def test_a_reseed_that_is_refused_ends_and_leaves_the_zone_that_was_loaded_since(tmp_path: Path) -> None:
    """The ledger is ahead: the frozen zone goes, once, and whoever took its place stays."""
    ledger, game = MemoryLedger(), warm_program(SMALL)
    term = (await ledger.elect("test")).term
    for epoch in range(2):
        await ledger.assign(term, 0, "shard-1", epoch)
    shard = ShardService(settings(tmp_path), game, ledger)
    grid = WorldGrid(*game.game.world_size, 2, 1)

    def made() -> Zone:
        zone = Zone(game, 0, grid, 1)
        zone.recovered(1, 1)
        return zone

    for loaded in ({}, {0: made()}):
        frozen = made()
        frozen.step()
        frozen.encode()
        frozen.committed(CommitAnswer(CommitStatus.GAP))
        shard.ticks.zones.clear()
        shard.ticks.zones.update(loaded or {0: frozen})
        async with asyncio.timeout(5):
            await shard.ticks.checkpoints.reseed(frozen)
        assert shard.ticks.zones == loaded
    shard.ticks.executor.shutdown()
