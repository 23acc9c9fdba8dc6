"""A zone that goes to another build: held at its last checkpoint, taken from there or kept; what the audit says of its log."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shard.audit
import shard.checkpoints
import shard.handover
import shard.service
from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable
from perdure.ledger.record import unpack_record
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, Member, Reseed, ZoneHead
from shard.program import Program
from shard.recovery import Follower, take_over
from shard.service import ShardService
from shard.settings import ShardSettings
from shard.warmup import warm
from shard.zone import Phase, Zone, ZoneError
from tests.unit.shard.shard_lab import SMALL, Shard, shard_in, until
from tests.unit.shard.test_audit import world_of
from tests.unit.shard.zone_lab import World, now, program, warm_program


def of_another_build(game: Program) -> Program:
    """The same rules under another stamp: what is tested is who may replay what."""
    other = dataclasses.replace(game, build=game.build ^ 1)
    warm(other)  # not within the time that a test has: its arrays are of types of their own
    return other


async def held(under_test: Shard, number: int = 0) -> Zone:
    """Ask for a handover; return the zone once it stands at its last checkpoint."""
    zone = under_test.ticks.zones[number]
    await until(lambda: zone.tick > 2)
    under_test.ticks.handovers.ask(number)
    async with asyncio.timeout(10):
        while True:
            head = await under_test.ledger.zone_head(number)
            if zone.phase is Phase.HELD and head.checkpoints and head.checkpoints[0][0] == head.tick == zone.tick:
                return zone
            await asyncio.sleep(0.002)


# --- the owner ----------------------------------------------------------------------------------------------------


def test_a_held_zone_is_not_stepped_and_can_be_checkpointed_or_dropped() -> None:
    world = World(program(SMALL))
    zone = world.zones[0]
    world.tick()
    zone.hold()
    with pytest.raises(ZoneError, match="'step' is not possible while held"):
        zone.step()
    assert zone.checkpoint()
    zone.go_on()
    world.tick()
    zone.hold()
    zone.drop()


async def test_a_zone_stands_at_a_checkpoint_of_its_last_tick_until_it_is_not_wanted_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard.handover._Asked, "__init__", _patient)
    async with shard_in(tmp_path) as under_test:
        await under_test.run(0, 1)
        zone, other = await held(under_test), under_test.ticks.zones[1]
        stands, goes = zone.tick, other.tick
        await until(lambda: other.tick > goes + 3)
        assert zone.tick == stands, "the others tick on"
        under_test.ticks.handovers.withdraw(0)
        await until(lambda: zone.tick > stands + 3)


def _patient(asked: Any) -> None:
    asked.hold_s, asked.not_before_s, asked.task, asked.ended = 60.0, 0.0, None, asyncio.Event()


async def test_a_zone_that_nobody_takes_goes_on_by_itself(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as under_test:
        await under_test.run(0)
        zone = await held(under_test)
        stands = zone.tick
        await until(lambda: zone.tick > stands + 3)
        assert under_test.ticks.zones == {0: zone}


async def test_a_zone_goes_on_at_once_where_its_checkpoint_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.handover._Asked, "__init__", _patient)
    async with shard_in(tmp_path) as under_test:
        await under_test.run(0)
        zone = under_test.ticks.zones[0]
        tried: list[int] = []

        async def put_checkpoint(number: int, tick: int, *rest: Any) -> None:
            if zone.phase is Phase.HELD:
                tried.append(tick)
            raise LedgerUnavailable("nobody answers")

        monkeypatch.setattr(under_test.ledger, "put_checkpoint", put_checkpoint)
        under_test.ticks.handovers.ask(0)
        await until(lambda: tried and zone.tick > tried[-1] + 3)


async def test_a_zone_that_was_taken_is_not_the_old_owners_whatever_that_does(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as under_test:
        await under_test.run(0)
        zone = await held(under_test)
        await under_test.ledger.assign(under_test.ledger.store.data.term, 0, "another", zone.epoch, True)
        stands = zone.tick
        await until(lambda: 0 not in under_test.ticks.zones)  # it went on, and was fenced
        assert (await under_test.ledger.zone_head(0)).tick == stands


async def test_a_zone_that_is_taken_while_an_earlier_checkpoint_is_on_its_way_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 3299 of the simulation: its last checkpoint was asked of it when it was gone."""
    monkeypatch.setattr(shard.handover._Asked, "__init__", _patient)
    async with shard_in(tmp_path) as under_test:
        ticks, through = under_test.ticks, asyncio.Event()
        put_checkpoint = under_test.ledger.put_checkpoint

        async def slowly(*args: Any) -> None:
            await through.wait()
            await put_checkpoint(*args)

        monkeypatch.setattr(under_test.ledger, "put_checkpoint", slowly)
        ticks.checkpoints._every_ticks = 1
        await under_test.run(0)
        zone = ticks.zones[0]
        await until(lambda: 0 in ticks.checkpoints._tasks, "a checkpoint is on its way")
        ticks.handovers.ask(0)
        await until(lambda: zone.phase is Phase.HELD, "it is held")
        holding = ticks.handovers._asked[0].task
        assert holding is not None
        ticks.remove(0)
        through.set()
        await holding
        assert zone.phase is Phase.DROPPED


async def test_an_owner_that_went_on_cannot_be_robbed(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as under_test:
        under_test.ticks.checkpoints._every_ticks = 1 << 30  # but for the handover's
        await under_test.run(0)
        zone = await held(under_test)
        stands = zone.tick
        await until(lambda: zone.phase is Phase.READY and zone.tick > stands)
        with pytest.raises(LedgerRefused, match="has not handed it over"):
            await under_test.ledger.assign(under_test.ledger.store.data.term, 0, "another", zone.epoch, True)


# --- the successor ------------------------------------------------------------------------------------------------


async def test_a_new_owner_of_another_build_writes_a_checkpoint_of_its_own_at_once(tmp_path: Path) -> None:
    async with shard_in(tmp_path, tick_hz=5) as under_test:
        await under_test.add(0)
        first = under_test.ticks.zones.pop(0)
        for _ in range(3):
            (answer,) = await under_test.ledger.commit([first.step()])
            first.committed(answer)
        second = Zone(of_another_build(under_test.program), 0, under_test.grid, 3)
        second.restore(first.checkpoint())
        assert second.image_build == under_test.program.build
        second.recovered(1, first.epoch)
        under_test.ticks.checkpoints._every_ticks = 1 << 30  # none for the time's sake
        under_test.ticks.add(second)
        await under_test.run()
        await until(lambda: under_test.ledger.store.data.zones[0].checkpoints)
        assert under_test.ledger.store.data.zones[0].checkpoints[0].tick == first.tick + 1


def shard_service(path: Path, game: Program, ledger: Any, **given: Any) -> ShardService:
    settings = ShardSettings(name="heir", game=SMALL, zones="2x1", listen=f"unix:{path}/heir.sock", development=True, **given)
    return ShardService(settings, game, ledger)


async def following(service: ShardService, world: World) -> None:
    """Let a shard that was never started, and is a member, see the world as it stands."""
    membership: Any = SimpleNamespace(number=7)
    service._membership = membership
    await world.ledger.heartbeat(Member("heir", "shard", 7, "unix:/heir", 1, {"state": "ready", "build": f"{service.program.build:016x}"}))
    service._grid, service._seed = world.grid, world.seed
    service._follow(await world.ledger.view())


async def test_a_successor_of_another_build_is_ready_without_a_record_of_the_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of()
    await world.ledger.heartbeat(_member("shard", world.program.build))
    only_own_build(monkeypatch)
    await world.ledger.intend(world.term, 0, "heir")
    service = shard_service(tmp_path, of_another_build(world.program), world.ledger)
    await following(service, world)
    await until(lambda: world.store.data.zones[0].ready)
    assert service.failed == {}
    world.put_checkpoint(0)
    epoch = await world.ledger.assign(world.term, 0, "heir", world.zones[0].epoch, True)
    await following(service, world)
    await until(lambda: 0 in service.ticks.zones)
    taken = service.ticks.zones[0]
    assert (taken.tick, taken.digest, taken.epoch) == (world.zones[0].tick, world.zones[0].digest, epoch)
    await service.ticks.close()


async def test_a_successor_that_cannot_says_so_until_it_is_asked_no_more(tmp_path: Path) -> None:
    world = world_of()
    for checkpoint in world.store.data.zones[0].checkpoints:
        world.store.data.zones[0].blobs[checkpoint.tick, checkpoint.epoch] = b"damaged"
    await world.ledger.intend(world.term, 0, "heir")
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    await following(service, world)
    await until(lambda: service.failed)
    assert service.failed[0].startswith(f"{world.zones[0].epoch}: zone 0: neither of its checkpoints can be used")
    assert service._info()["failed"] == {"0": service.failed[0]}
    assert not world.store.data.zones[0].ready
    await world.ledger.intend(world.term, 0, "")
    await following(service, world)
    assert service.failed == {}
    await service.ticks.close()


def _member(name: str, build: int) -> Any:
    from perdure.ledger.values import Member

    return Member(name, "shard", 5, "unix:/x", 1, {"state": "ready", "build": f"{build:016x}"})


# --- the audit ----------------------------------------------------------------------------------------------------


def only_own_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no zone replay another build's record, as where the rules differ."""
    real = Zone.replay

    def replay(self: Zone, data: bytes, page: tuple[bytes, ...]) -> None:
        if unpack_record(data).build != self.program.build:
            raise ZoneError(f"zone {self.zone}: replay gives another state")
        real(self, data, page)

    monkeypatch.setattr(Zone, "replay", replay)


@pytest.fixture
def upgraded(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose zone 0 went to another build at a checkpoint, and whose zone 1 did not."""
    monkeypatch.setattr(shard.audit, "PASS_PAUSE_S", 0.0)
    world = world_of()
    world.put_checkpoint(0)
    world.zones[0].program = of_another_build(world.program)
    for _ in range(5):
        world.tick()
    only_own_build(monkeypatch)
    return world


async def test_records_of_another_build_are_chained_and_no_fault(upgraded: World) -> None:
    new = await shard.audit.audit(upgraded.ledger, of_another_build(upgraded.program))
    old = await shard.audit.audit(upgraded.ledger, upgraded.program)
    assert new.faults == old.faults == []
    assert new.chained > 0 and new.records >= 5
    assert old.chained == 5
    ends, before = "its log ends with", "before its newest checkpoint are"
    assert [note.split(": ")[0] + ends * (ends in note) + before * (before in note) for note in new.notes] == [
        f"zone 0{before}",
        f"zone 1{ends}",
    ]
    assert [note for note in old.notes if ends in note and f"5 records of build {upgraded.program.build ^ 1:016x}" in note] == old.notes


async def test_a_damaged_record_of_another_build_is_a_fault(upgraded: World) -> None:
    log = upgraded.store.data.zones[0].log
    tick = upgraded.store.data.zones[0].checkpoints[0].tick - 1
    record = bytearray(log[tick].record)
    record[26] ^= 1
    log[tick] = dataclasses.replace(log[tick], record=bytes(record))
    report = await shard.audit.audit(upgraded.ledger, of_another_build(upgraded.program))
    assert [fault for fault in report.faults if f"zone 0 tick {tick}: the log's chain is broken here" in fault]


def test_the_fixture_is_what_it_says(upgraded: World) -> None:
    builds = [unpack_record(logged.record).build for logged in now(upgraded.ledger.read_log(0, 0))]
    assert set(builds) == {upgraded.program.build, upgraded.program.build ^ 1}
    assert isinstance(upgraded.commits[0], Commit) and upgraded.answers[0].status is CommitStatus.OK


async def test_who_is_to_leave_first_puts_back_what_a_ledger_that_went_back_gives_to_others(tmp_path: Path) -> None:
    world = world_of()
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    view = dataclasses.replace(
        await world.ledger.view(), members={"other": Member("other", "shard", 9, "unix:/o", info={"state": "ready"})}
    )
    assert "heir" not in {route.owner for route in view.zones.values()}
    service._draining = True
    service.ticks.zones[0] = world.zones[0]
    for opened in (False, True):
        service._check_drained(dataclasses.replace(view, opened=opened))
        assert not service._stop.is_set(), "it runs a zone that is another's by what the ledger has"
    service.ticks.zones.clear()
    service._check_drained(dataclasses.replace(view, opened=False))
    assert not service._stop.is_set(), "what a closed ledger says of owners may be old"
    service._check_drained(view)
    assert service._stop.is_set()
    await service.ticks.close()


async def test_a_shard_that_seems_to_be_the_last_one_does_not_leave_a_ledger_that_has_just_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are no members there until their next heartbeats, and what this one runs is put back only now."""
    world = world_of()
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    closed = dataclasses.replace(await world.ledger.view(), members={}, opened=False)
    service._draining = True
    service.ticks.zones[0] = world.zones[0]
    for _ in range(3):
        service._check_drained(closed)
        assert not service._stop.is_set()
    monkeypatch.setattr(shard.service, "LAST_RESEED_S", 0.0)
    service._check_drained(closed)
    assert service._stop.is_set(), "nobody opens the world: it does not wait for ever"
    service._stop.clear()
    service._check_drained(dataclasses.replace(closed, opened=True))
    assert service._stop.is_set(), "it is the last one"
    await service.ticks.close()


async def test_the_last_shard_puts_back_what_the_ledger_turns_out_to_have_forgotten(tmp_path: Path) -> None:
    world = world_of()
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    kept = world.store.snapshot()
    for _ in range(5):
        world.tick()
    zone = world.zones[0]
    service.ticks.zones[0] = zone
    world.store.restore(kept)
    assert (await world.ledger.zone_head(0)).tick == zone.tick - 5
    await service.ticks.checkpoints.all()
    assert (await world.ledger.zone_head(0)).tick == zone.tick
    await service.ticks.close()


def with_a_zone_that_is_being_put_back(path: Path) -> tuple[World, ShardService]:
    """A shard that runs a zone of which the ledger, it says, has forgotten the last tick."""
    world = world_of()
    service = shard_service(path, warm_program(SMALL), world.ledger)
    zone = service.ticks.zones[0] = world.zones[0]
    zone.step()
    zone.encode()
    zone.committed(CommitAnswer(CommitStatus.GAP))
    return world, service


def reseed_that_fails(world: World, times: int, error: Exception) -> None:
    """Have the ledger raise this so many times before it takes a zone back."""
    reseed, left = world.ledger.reseed, times

    async def fails_at_first(seed: Reseed) -> ZoneHead:
        nonlocal left
        if left:
            left -= 1
            raise error
        return await reseed(seed)

    world.ledger.reseed = fails_at_first  # type: ignore[method-assign]


async def test_a_shard_that_leaves_waits_for_zones_that_are_being_put_back(tmp_path: Path) -> None:
    world, service = with_a_zone_that_is_being_put_back(tmp_path)
    zone = world.zones[0]
    reseed, may_go_on = world.ledger.reseed, asyncio.Event()

    async def slowly(seed: Reseed) -> ZoneHead:
        await may_go_on.wait()
        return await reseed(seed)

    world.ledger.reseed = slowly  # type: ignore[method-assign]
    service.ticks.checkpoints.restore(zone)
    waiting = asyncio.ensure_future(service.ticks.checkpoints.restored(30.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    may_go_on.set()
    await waiting
    assert zone.phase is Phase.READY
    await service.ticks.close()


async def test_a_reseed_that_is_refused_for_what_can_be_mended_waits_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without the right, a damaged record of a player: there is no other copy."""
    monkeypatch.setattr(shard.checkpoints, "RESEED_AGAIN_S", 0.0)
    world, service = with_a_zone_that_is_being_put_back(tmp_path)
    zone = world.zones[0]
    reseed_that_fails(world, 3 * shard.checkpoints.RESEED_TRIES, LedgerRefused("user shard has no permissions to run this"))
    service.ticks.checkpoints.restore(zone)
    await service.ticks.checkpoints.restored(30.0)
    assert service.ticks.zones[0] is zone and zone.phase is Phase.READY
    await service.ticks.close()


async def test_a_zone_is_not_taken_over_from_a_ledger_that_went_back_meanwhile(tmp_path: Path) -> None:
    """What was committed under the epoch that the successor was told of is not there: it must not put back less over an owner's more."""
    world = world_of()
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    head = await world.ledger.zone_head(0)
    for generation, epoch in ((head.generation, head.epoch + 1), (head.generation, head.epoch - 1), (head.generation - 1, head.epoch)):
        with pytest.raises(LedgerUnavailable, match="another owner since, or the ledger has gone back in time"):
            await take_over(follower, generation, epoch)
    assert (await take_over(follower, head.generation, head.epoch)).tick == head.tick


async def test_a_process_takes_nothing_that_is_given_to_another_one_of_its_name(tmp_path: Path) -> None:
    """It was stopped, and put out meanwhile; what took its place has its name, and is given zones by it."""
    world = world_of()
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    world.put_checkpoint(0)
    await world.ledger.heartbeat(Member("heir", "shard", 8, "unix:/heir", 1, {"state": "ready"}))
    await world.ledger.assign(world.term, 0, "heir", world.zones[0].epoch)
    await world.ledger.intend(world.term, 1, "heir")
    membership: Any = SimpleNamespace(number=7)
    service._membership, service._grid, service._seed = membership, world.grid, world.seed
    service._follow(await world.ledger.view())
    assert not service._takeovers and not service._followers
    membership.number = 8
    service._follow(await world.ledger.view())
    assert 0 in service._takeovers and 1 in service._followers
    await until(lambda: 0 in service.ticks.zones)
    _, task = service._followers.pop(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await service.ticks.close()


async def test_a_reseed_that_fails_in_an_unforeseen_way_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shard has in memory is the only copy of the zone's last ticks."""
    monkeypatch.setattr(shard.checkpoints, "RESEED_AGAIN_S", 0.0)
    world, service = with_a_zone_that_is_being_put_back(tmp_path)
    zone = world.zones[0]
    reseed_that_fails(world, 3, RuntimeError("a fault of ours"))
    service.ticks.checkpoints.restore(zone)
    await service.ticks.checkpoints.restored(30.0)
    assert service.ticks.zones[0] is zone and zone.phase is Phase.READY
    assert (await world.ledger.zone_head(0)).tick == zone.tick
    await service.ticks.close()


async def test_an_older_checkpoint_that_fails_takes_no_zone_away_that_is_being_put_back(tmp_path: Path) -> None:
    world, service = with_a_zone_that_is_being_put_back(tmp_path)
    zone, reseed, checkpoints = world.zones[0], world.ledger.reseed, service.ticks.checkpoints
    fail, may_go_on = asyncio.Event(), asyncio.Event()

    async def an_older_checkpoint() -> None:
        await fail.wait()
        raise RuntimeError("a fault of ours")

    async def slowly(seed: Reseed) -> ZoneHead:
        await may_go_on.wait()
        return await reseed(seed)

    world.ledger.reseed = slowly  # type: ignore[method-assign]
    checkpoints._start(zone, an_older_checkpoint())
    older = checkpoints._tasks[0]
    checkpoints.restore(zone)
    fail.set()
    await asyncio.wait([older])
    await asyncio.sleep(0)
    assert service.ticks.zones[0] is zone
    may_go_on.set()
    await checkpoints.restored(30.0)
    assert zone.phase is Phase.READY
    await service.ticks.close()


async def test_a_ledger_that_hangs_holds_a_shard_that_leaves_for_so_long_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.checkpoints, "LAST_S", 0.1)
    world = world_of()
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    kept = world.store.snapshot()
    world.tick()
    service.ticks.zones[0] = world.zones[0]
    world.store.restore(kept)

    async def hangs(seed: Reseed) -> ZoneHead:
        await asyncio.sleep(60)
        raise AssertionError

    world.ledger.reseed = hangs  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        await service.ticks.checkpoints.all()
    await service.ticks.close()


async def test_a_reseed_that_fails_in_an_unforeseen_way_leaves_no_zone_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard.checkpoints, "RESEED_AGAIN_S", 0.0)
    world, service = with_a_zone_that_is_being_put_back(tmp_path)

    async def fails(seed: Reseed) -> ZoneHead:
        raise RuntimeError("a fault of ours")

    world.ledger.reseed = fails  # type: ignore[method-assign]
    service.ticks.checkpoints.restore(world.zones[0])
    await service.ticks.checkpoints.restored(30.0)
    await asyncio.sleep(0)
    assert not service.ticks.zones, "another poll of the routes loads it anew"
    await service.ticks.close()


async def test_a_successor_that_is_asked_again_says_again_that_it_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move was withdrawn and asked for again, and no view showed that between."""
    monkeypatch.setattr(shard.service, "VIEW_POLL_S", 0.0)
    world = world_of()
    service = shard_service(tmp_path, warm_program(SMALL), world.ledger)
    service._grid = world.grid
    term = (await world.ledger.elect("test")).term
    for follow in (True, False):
        await world.ledger.intend(term, 0, "heir")
        asked = (await world.ledger.view()).zones[0]
        service._prefetch(asked, follow=follow)
        async with asyncio.timeout(10):
            while not (await world.ledger.view()).zones[0].ready:
                await asyncio.sleep(0.005)
        await world.ledger.intend(term, 0, "")
        await world.ledger.intend(term, 0, "heir")
        asked = (await world.ledger.view()).zones[0]
        assert not asked.ready
        service._prefetch(asked, follow=follow)
        async with asyncio.timeout(10):
            while not (await world.ledger.view()).zones[0].ready:
                await asyncio.sleep(0.005)
        _, task = service._followers.pop(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await service.ticks.close()
