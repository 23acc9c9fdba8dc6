"""The audit finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import shard.audit
from perdure.ledger.values import EnterRequest, WorldSettings
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import player_key
from shard.audit import AuditReport, audit
from shard.zone import ZoneError
from tests.unit.shard.test_durability import play
from tests.unit.shard.zone_lab import World, now, program

SMALL = str(Path(__file__).resolve().parents[2] / "data" / "small_game.py")


def world_of(ticks: int = 60) -> World:
    """Two zones that were played in, with two checkpoints each, and somebody in sight."""
    world = World(program(SMALL), 2, 1)
    game = world.program.game
    now(world.ledger.init_world(WorldSettings("main", game.name, world.program.schema.hash, "", 2, 1, world.seed, game.tick_hz)))
    rng = random.Random(5)
    play(world, rng, ticks // 3)
    for _ in range(2):
        world.put_checkpoint(0)
        world.put_checkpoint(1)
        play(world, rng, ticks // 3)
    for name in ("ann", "bob"):
        world.join(name, zone=1)
        world.tick()
        world.tick()
    return world


async def audited(world: World) -> AuditReport:
    return await audit(world.ledger, world.program)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.audit, "PASS_PAUSE_S", 0.0)


async def test_a_sound_world_has_no_faults() -> None:
    world = world_of()
    report = await audited(world)
    assert report.faults == []
    assert (report.zones, report.checkpoints) == (2, 4)
    assert report.players >= 1
    assert report.records > 20


def damaged_checkpoint(world: World) -> None:
    zone = world.store.data.zones[0]
    at = (zone.checkpoints[0].tick, zone.checkpoints[0].epoch)
    zone.blobs[at] = zone.blobs[at][:-1] + b"?"


def missing_checkpoint(world: World) -> None:
    zone = world.store.data.zones[1]
    del zone.blobs[zone.checkpoints[1].tick, zone.checkpoints[1].epoch]


def flipped_bit(world: World) -> None:
    log = world.store.data.zones[0].log
    tick = max(log) - 2
    record = bytearray(log[tick].record)
    record[26] ^= 1
    log[tick] = dataclasses.replace(log[tick], record=bytes(record))


def gap(world: World) -> None:
    log = world.store.data.zones[0].log
    del log[max(log) - 2]


def cut_tail(world: World) -> None:
    log = world.store.data.zones[0].log
    del log[max(log)]


def wrong_page(world: World) -> None:
    log = world.store.data.zones[1].log
    tick = max(tick for tick in log if log[tick].page)
    log[tick] = dataclasses.replace(log[tick], page=())


def doubled_player(world: World) -> None:
    world.store.data.zones[0].inbox.append(Entry(EntryKind.JOIN, player_key("ann"), 99, 1, 1).pack())


def lost_player(world: World) -> None:
    now(world.ledger.enter(EnterRequest(player_key("eve"), "eve", 1, 77, 0, 0, "")))
    world.store.data.zones[0].inbox.clear()


def wrong_presence(world: World) -> None:
    world.store.data.players[player_key("ann")].place = 0


def forgotten_presence(world: World) -> None:
    world.store.data.players[player_key("ann")].place = -1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damaged_checkpoint, "zone 0: its checkpoint of tick .* another digest"),
        (missing_checkpoint, "zone 1: its checkpoint of tick .* is not there"),
        (flipped_bit, "zone 0 tick"),
        (gap, "zone 0: the log goes from tick .* a record is missing"),
        (cut_tail, "zone 0: its log ends at tick .*, its head says"),
        (wrong_page, "zone 1 tick .*: replay gives state"),
        (doubled_player, "player ann is in 2 places: the inbox of zone 0, zone 1"),
        (lost_player, "player eve should be in zone 0, and is nowhere"),
        (wrong_presence, "player ann is in zone 1, but presence says zone 0"),
        (forgotten_presence, "player .* is in zone 1, but presence does not know"),
    ],
)
async def test_what_is_wrong_is_told(damage: Callable[[World], None], words: str) -> None:
    world = world_of()
    damage(world)
    report = await audited(world)
    assert report.faults
    with pytest.raises(AssertionError, match=words):
        raise AssertionError("\n".join(report.faults))


async def test_players_who_walk_while_it_reads_are_no_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of()
    rng = random.Random(11)
    read = world.ledger.read_log

    async def and_the_world_goes_on(zone: int, first_tick: int, limit: int = 1000) -> list[object]:
        found = await read(zone, first_tick, limit)
        if rng.random() < 0.5 and world.zones[0].tick < 400:
            play(world, rng, 1)
        return found  # type: ignore[return-value]

    monkeypatch.setattr(world.ledger, "read_log", and_the_world_goes_on)
    assert (await audited(world)).faults == []


async def test_another_game_or_no_world_is_said() -> None:
    world = World(program(SMALL), 2, 1)
    with pytest.raises(ZoneError, match="holds no world"):
        await audited(world)
    now(world.ledger.init_world(WorldSettings("main", "chess", "x", "", 2, 1, 1, 20)))
    with pytest.raises(ZoneError, match="runs game 'chess'"):
        await audited(world)
