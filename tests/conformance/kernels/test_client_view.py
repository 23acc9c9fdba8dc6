"""What a client shows is what the zone's rows say, every tick: encode, the wire and the client's world view in one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import shard.program
from perdure.wire.identifiers import WorldGrid
from shard.kernels import layout
from shard.kernels.encode import FAR_SHARE
from shard.pace import RUNGS
from tests.unit.shard.zone_lab import GONE, KEYFRAME, MOVED, World, now, program


def wander(world: World, rng: random.Random) -> None:
    for name in world.players:
        if rng.random() < 0.7 and len(world.players[name].unacked) < 20:
            world.command(name, "steer", mx=rng.randint(-1, 1), my=rng.randint(-1, 1), fire=int(rng.random() < 0.5))


def put(world: World, name: str, x: float, y: float) -> None:
    """Put an avatar somewhere, as no rule would."""
    row = world.row(name)
    row["x"], row["y"] = x, y


@pytest.mark.parametrize("small_buffer", [False, True])
def test_clients_show_the_truth_through_crossings(monkeypatch: pytest.MonkeyPatch, small_buffer: bool) -> None:
    if small_buffer:
        monkeypatch.setattr(shard.program, "FRAME_BUFFER_BYTES", 300)
    world, rng = World(program("arena"), 2, 2), random.Random(5)
    for k in range(8):
        world.join(f"p{k}", zone=k % 4, gateway=1 + k % 3)
    world.tick()
    world.tick()
    for k in range(8):  # close together, around the corner that all four zones share
        put(world, f"p{k}", 2048 + rng.uniform(-60, 60), 2048 + rng.uniform(-60, 60))
    moved = entered = left = updated = told = 0
    for _ in range(400):
        wander(world, rng)
        for player in world.players.values():
            player.snapshots.clear()
        world.tick(encode=True)
        for name, player in world.players.items():
            if player.snapshots:
                world.check_view(name)
                assert player.client.world is not None and player.client.world.me is not None
                assert player.client.world.me.key == player.key, "on whichever side of a border"
                shot = player.snapshots[-1]
                moved += bool(shot.flags & MOVED)
                entered, left = entered + len(shot.entered), left + len(shot.left)
                updated, told = updated + shot.updated, told + len(shot.events)
            else:
                assert world.holder(name) == [], "only one who is between two zones is sent nothing"
    assert min(moved, entered, left, told) > 20
    assert updated > 1000


@pytest.mark.parametrize("level", range(1, len(RUNGS)))
def test_under_load_clients_show_the_truth_a_little_later_and_hear_of_every_event_once(level: int) -> None:
    world, rng, rung = World(program("arena"), 2, 1), random.Random(level), RUNGS[level]
    for k in range(12):
        world.join(f"p{k}", zone=k % 2, gateway=1 + k % 3)
    for _ in range(3):
        world.tick(encode=True)
    for k in range(12):
        put(world, f"p{k}", 2048 + rng.uniform(-300, 300), 2048 + rng.uniform(-300, 300))
    for zone in world.zones.values():
        zone.pace = rung
    told: dict[str, list[tuple[int, str]]] = {name: [] for name in world.players}
    happened = dict.fromkeys(world.players, 0)
    full = near_only = skipped = 0
    for _ in range(160):
        wander(world, rng)
        before = {name: len(player.snapshots) for name, player in world.players.items()}
        world.tick(encode=True)
        for name, player in world.players.items():
            happened[name] += len(world.events_near(name))
            if len(player.snapshots) == before[name]:
                skipped += 1
                continue
            shot = player.snapshots[-1]
            told[name] += [(shot.zone, event.name) for event in shot.events]
            if len(player.snapshots) - before[name] > 1 or shot.keyframe:
                continue
            encoder = world.zones[shot.zone].encoder
            if encoder.state[layout.ENC_BASELINE]:
                full += 1
                world.check_view(name, events=False)
            else:
                near_only += 1
                world.check_view(name, events=False, within=FAR_SHARE)
    assert full > 50 and near_only > 50 if rung.snapshot_every == 1 else full > 20
    assert (skipped > 100) == (rung.snapshot_every > 1)
    assert sum(len(events) for events in told.values()) >= 0.8 * sum(happened.values()) > 20, "but for who moved away meanwhile"
    for zone in world.zones.values():
        zone.pace = RUNGS[0]
    for player in world.players.values():
        player.snapshots.clear()
    world.tick(encode=True)
    for name, player in world.players.items():
        if player.snapshots:
            world.check_view(name, events=False)


def test_a_departing_player_is_told_where_it_goes() -> None:
    world = World(program("arena"), 2, 1)
    leaver, mover = world.join("leaver"), world.join("mover")
    world.tick()
    world.tick(encode=True)
    assert leaver.flags == mover.flags == KEYFRAME
    put(world, "mover", 2048 + 30.0, 1000.0)
    assert now(world.ledger.leave(leaver.key, leaver.session))
    world.tick(encode=True)
    assert mover.flags == MOVED
    world.check_view("mover")
    world.tick(encode=True)
    assert leaver.flags == GONE
    world.check_view("leaver")
    assert mover.flags == KEYFRAME
    assert mover.snapshots[-1].zone == 1
    world.check_view("mover")
    count = len(leaver.snapshots)
    world.tick(encode=True)
    assert len(leaver.snapshots) == count, "no frame after the last one"


def test_a_keyframe_comes_when_it_is_asked_for_and_when_the_socket_is_another() -> None:
    world = World(program("arena"))
    player = world.join("one")
    other = world.join("two", gateway=2)
    for _ in range(3):
        world.tick(encode=True)
    assert player.flags == other.flags == 0
    zone = world.zones[0]
    zone.force_keyframe([player.key, 12345])
    world.tick(encode=True)
    assert (player.flags, other.flags) == (KEYFRAME, 0)
    zone.force_keyframes_of(2)
    world.tick(encode=True)
    assert (player.flags, other.flags) == (0, KEYFRAME)
    again = world.join("one", gateway=3)
    world.tick(encode=True)
    world.tick(encode=True)
    assert again.flags == KEYFRAME
    assert again.snapshots[-1].left == [], "an entity that goes on is in neither list"
    world.check_view("one")


CROWD = """
from perdure import Game, f32, i16, q, rand, u8, u32

game = Game("crowd", world=(512, 512), interest=128, max_visible=8)


@game.entity(capacity=64, avatar=True)
class Ant:
    x: f32 = q(0, 512, step=1 / 32)
    y: f32 = q(0, 512, step=1 / 32)
    a: u8 = q(0, 9)
    b: i16 = q(-300, 300)
    c: u32 = q(0, 100_000)
    d: u32
    e: u8 = q(0, 250, step=10)
    f: u8 = q(0, 9)
    g: u8 = q(0, 9)
    h: u8 = q(0, 9)
    i: u8 = q(0, 9)


@game.tick
def tick(w):
    for ant in w.ant.rows:
        ant.x = 100.0 + rand(w, ant.id, 1) * 8.0
        ant.y = 100.0
        ant.a = w.tick % 12
        ant.b = w.tick % 700 - 350
        ant.c = w.tick * 1000
        ant.e = w.tick
        ant.i = w.tick // 3
"""


def test_a_crowd_past_max_visible_always_holds_oneself(tmp_path: Path) -> None:
    file = tmp_path / "crowd.py"
    file.write_text(CROWD)
    world = World(program(str(file)))
    for k in range(20):
        world.join(f"p{k}")
    zone = world.zones[0]
    for _ in range(12):
        world.tick(encode=True)
        for player in world.players.values():
            if not player.snapshots:
                continue
            view = player.client.world
            assert view is not None
            assert len(view.entities) == 8
            assert view.me is not None, "one's own avatar is in sight"
            rows = {int(row["id"]): row for row in zone.rows("ant")}
            for ant in view.entities.values():
                assert ant.levels == [f.level(float(rows[ant.id][f.name])) for f in world.program.schema.avatar.public]
    zone.rows("ant")[3]["x"] = np.nan
    zone.encoder = None
    assert zone.encode(), "a place that is no number harms nobody else's frame"


def test_the_grid_covers_the_zone_and_what_is_seen_beyond() -> None:
    game = program("arena").game
    grid = WorldGrid(*game.world_size, 4, 4)
    x0, y0, x1, y1 = grid.bounds(0)
    columns, rows = shard.program.grid_shape(game, x1 - x0, y1 - y0)
    assert columns * game.interest >= x1 - x0 + 2 * game.interest
    assert rows * game.interest >= y1 - y0 + 2 * game.interest
