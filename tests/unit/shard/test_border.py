"""What players see across borders: neighbours' entities, without a gap, a double or a flicker while something crosses."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from perdure.wire.identifiers import WorldGrid
from shard.border import QUIET_S, SILENT_INTERVALS, FeedError, check_feed, zones_near
from shard.kernels import layout
from tests.unit.shard.zone_lab import Player, World, program


def put(world: World, name: str, x: float, y: float) -> None:
    row = world.row(name)
    row["x"], row["y"] = x, y


def joined(world: World, **zones: int) -> None:
    for name, zone in zones.items():
        world.join(name, zone=zone)
    for _ in range(2):
        world.tick()


def id_of(world: World, name: str) -> int:
    return int(world.row(name)["id"])


def sees(player: Player, entity: int) -> bool:
    view = player.client.world
    return view is not None and entity in view.entities


def test_players_see_each_other_across_a_border_and_round_a_corner() -> None:
    world = World(program("tag"), 2, 2, ghosts=True)
    joined(world, a=0, b=1, c=2, d=3)
    for name, x, y in (("a", 505.0, 505.0), ("b", 519.0, 505.0), ("c", 505.0, 519.0), ("d", 519.0, 519.0)):
        put(world, name, x, y)
    for _ in range(3):
        world.tick(encode=True)
    ids = {id_of(world, name) for name in "abcd"}
    for name in "abcd":
        view = world.players[name].client.world
        assert view is not None
        assert set(view.entities) == ids, name
    put(world, "d", 519.0 + 300.0, 519.0 + 300.0)
    for _ in range(2):
        world.tick(encode=True)
    assert not sees(world.players["a"], id_of(world, "d")), "out of sight is out of sight across a border too"


def test_a_ghost_moves_as_its_owner_has_committed_it_a_tick_before() -> None:
    world = World(program("tag"), 2, 1, ghosts=True)
    joined(world, a=0, b=1)
    put(world, "a", 500.0, 100.0)
    put(world, "b", 530.0, 100.0)
    for _ in range(3):
        world.tick(encode=True)
    before = float(world.row("b")["x"])
    for _ in range(10):
        world.command("b", "run", mx=1, my=0)
        world.tick(encode=True)
        view = world.players["a"].client.world
        assert view is not None
        assert view.entities[id_of(world, "b")].x == pytest.approx(before, abs=1 / 16)
        before = float(world.row("b")["x"])
    assert before > 560.0


@pytest.mark.parametrize("watcher", ["zone that it leaves", "zone that it enters", "third zone", "itself"])
def test_an_entity_that_crosses_never_leaves_the_view(watcher: str) -> None:
    world = World(program("tag"), 2, 2, ghosts=True)
    joined(world, mover=0, old=0, new=1, third=2)
    put(world, "old", 470.0, 480.0)
    put(world, "new", 560.0, 480.0)
    put(world, "third", 500.0, 530.0)
    put(world, "mover", 500.0, 490.0)
    for _ in range(3):
        world.tick(encode=True)
    names = {"zone that it leaves": "old", "zone that it enters": "new", "third zone": "third", "itself": "mover"}
    player, mover = world.players[names[watcher]], id_of(world, "mover")
    others = [id_of(world, name) for name in ("old", "new", "third")]
    visited = set()
    for step in range(60):
        player.snapshots.clear()
        for _ in range(2 - len(world.players["mover"].unacked)):
            world.command("mover", "run", mx=1 if step // 15 % 2 == 0 else -1, my=0)
        world.tick(encode=True)
        visited.update(world.holder("mover"))
        assert sees(player, mover)
        for shot in player.snapshots:
            assert mover not in shot.entered
            assert mover not in shot.left
            if watcher == "itself":
                assert not set(others) & {*shot.entered, *shot.left}, "what the zone before showed goes on"
    assert visited == {0, 1}


def wandering(world: World, rng: random.Random, ticks: int, check: Callable[[], None]) -> None:
    for _ in range(ticks):
        for name in world.players:
            if len(world.players[name].unacked) < 3:
                world.command(name, "steer", mx=rng.randint(-1, 1), my=rng.randint(-1, 1), fire=int(rng.random() < 0.3))
        for player in world.players.values():
            player.snapshots.clear()
        world.tick(encode=True)
        check()


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_ships_around_a_corner_are_always_all_in_sight(loss: float) -> None:
    """Eight ships round the corner of four zones for 300 ticks, feeds lost at random: no gap, no double, no flicker."""
    world, rng = World(program("arena"), 2, 2, ghosts=True), random.Random(5)
    world.deliver = lambda feed: rng.random() >= loss  # type: ignore[method-assign]
    joined(world, **{f"p{k}": k % 4 for k in range(8)})
    for k in range(8):
        put(world, f"p{k}", 2048 + rng.uniform(-60, 60), 2048 + rng.uniform(-60, 60))
    for _ in range(4):
        for zone in world.zones.values():
            zone.rows("ship")["protected"] = 50
        world.tick(encode=True)
    ids = {id_of(world, name) for name in world.players}
    crossed = set()

    def check() -> None:
        for k in range(8):
            row = world.row(f"p{k}")
            if row is None:
                crossed.add(k)
            else:  # nobody dies, and nobody flies out of the others' sight
                row["hp"] = 100
                row["x"] = min(max(float(row["x"]), 1948.0), 2148.0)
                row["y"] = min(max(float(row["y"]), 1948.0), 2148.0)
        for name, player in world.players.items():
            for shot in player.snapshots:
                assert not ids & {*shot.entered, *shot.left}, (name, shot)
                view = player.client.world
                assert view is not None
                assert ids <= set(view.entities)

    wandering(world, rng, 300, check)
    assert len(crossed) > 4


def test_what_dies_beyond_the_border_is_gone_everywhere() -> None:
    """A bullet that crosses and then ends is shown frozen by nobody."""
    world = World(program("arena"), 2, 1, ghosts=True)
    joined(world, a=0, b=1)
    put(world, "a", 1960.0, 100.0)
    put(world, "b", 2300.0, 300.0)
    world.command("a", "steer", mx=1, my=0, fire=1)
    world.command("a", "steer", mx=-1, my=0, fire=0)
    shown = set()
    for _ in range(34):
        world.tick(encode=True)
        for name in "ab":
            view = world.players[name].client.world
            assert view is not None
            shown.update(
                (name, zone.zone) for zone in world.zones.values() for row in zone.rows("bullet") if int(row["id"]) in view.entities
            )
    assert {("a", 0), ("b", 0), ("a", 1), ("b", 1)} <= shown
    for name in "ab":
        view = world.players[name].client.world
        assert view is not None
        assert not view.of_type("bullet")


def test_the_state_does_not_know_of_ghosts() -> None:
    """The same commands give the same hashes, with ghosts and without."""
    hashes = []
    for ghosts in (False, True):
        world = World(program("tag"), 2, 1, ghosts=ghosts)
        joined(world, a=0, b=1)
        put(world, "a", 505.0, 100.0)
        put(world, "b", 519.0, 100.0)
        for _ in range(12):
            world.command("a", "run", mx=1, my=0)
            world.tick(encode=True)
        hashes.append([zone.state_hash for zone in world.zones.values()])
    assert hashes[0] == hashes[1]


def test_a_feed_that_is_old_or_none_is_not_taken() -> None:
    world = World(program("tag"), 2, 1, ghosts=True)
    joined(world, a=0, b=1)
    put(world, "b", 519.0, 100.0)
    world.tick()
    kept = [feed for feed in world.feeds if feed.viewer == 0]
    world.tick()
    assert kept
    assert not world.zones[0].border.receive(kept[0]), "older than what is held"
    game, words = world.program, kept[0].words
    assert check_feed(game, words).stamp == kept[0].stamp
    for broken in (words[:5], words[:-1], np.concatenate([words, words[:3]])):
        with pytest.raises(FeedError):
            check_feed(game, broken)
    other = words.copy()
    other[layout.FEED_DIGEST] ^= np.uint64(1)
    with pytest.raises(FeedError, match="layout"):
        check_feed(game, other)
    wild = words.copy()
    wild[layout.FEED_SECTIONS + 1] = np.uint64(1 << 62)
    with pytest.raises(FeedError):
        check_feed(game, wild)


def test_a_zone_that_falls_silent_is_stale_until_it_is_heard_again() -> None:
    world = World(program("tag"), 2, 1, ghosts=True)
    joined(world, a=0, b=1)
    put(world, "a", 505.0, 100.0)
    put(world, "b", 519.0, 100.0)
    for _ in range(3):
        world.tick(encode=True)
    border, b = world.zones[0].border, id_of(world, "b")
    world.deliver = lambda feed: False  # type: ignore[method-assign]
    for _ in range(SILENT_INTERVALS):
        world.tick(encode=True)
        assert border.stale() == ()
    for _ in range(30):
        world.tick(encode=True)
        assert sees(world.players["a"], b), "it freezes, and stays"
    assert border.stale() == (1,)
    del world.deliver
    for _ in range(2):
        world.tick(encode=True)
    assert border.stale() == ()
    border.cut(1)
    assert border.stale() == (1,), "a link that broke needs no waiting"


def told(world: World, source: int) -> list[bool]:
    """Tick on; return for each feed of a zone whether it tells of something."""
    world.tick(encode=True)
    bare = layout.FEED_SECTIONS + len(world.program.feed_widths) + 1
    return [len(feed.words) > bare for feed in world.feeds if feed.source == source]


def test_who_has_nothing_to_tell_says_so_only_now_and_then_and_is_not_taken_for_silent() -> None:
    world = World(program("tag"), 2, 1, ghosts=True)
    joined(world, a=0, b=1)
    put(world, "a", 505.0, 100.0)
    put(world, "b", 900.0, 100.0)
    for _ in range(50):  # until nobody tells of how the two came any more
        world.tick(encode=True)
    feeds = []
    each = round(QUIET_S / 0.05)
    for _ in range(6 * each):
        feeds += told(world, 1)
        assert world.zones[0].border.stale() == ()
    assert not any(feeds)
    assert 5 <= len(feeds) <= 7, "once in QUIET_S, of 0.05 s a tick"
    assert not sees(world.players["a"], id_of(world, "b"))
    put(world, "b", 519.0, 100.0)
    assert told(world, 1) == [True], "what there is to tell is told at once"
    world.tick(encode=True)
    assert sees(world.players["a"], id_of(world, "b"))
    put(world, "b", 900.0, 100.0)
    assert told(world, 1) == [False], "and that it is gone"
    world.tick(encode=True)
    assert not sees(world.players["a"], id_of(world, "b"))
    for _ in range(10):
        world.zones[1].border.tell_anew()
        assert told(world, 1) == [False], "who subscribes anew need not wait"
    border = world.zones[0].border
    world.deliver = lambda feed: False  # type: ignore[method-assign]
    for _ in range(SILENT_INTERVALS * each - each):  # its last word may be almost QUIET_S old
        world.tick()
        assert border.stale() == ()
    for _ in range(2 * each):
        world.tick()
    assert border.stale() == (1,)
    del world.deliver
    for _ in range(2 * each):
        world.tick()
    assert border.stale() == ()


def test_a_zone_that_slows_down_while_it_has_nothing_to_tell_says_so_at_once() -> None:
    world = World(program("tag"), 2, 1, ghosts=True)
    joined(world, a=0, b=1)
    put(world, "b", 900.0, 100.0)
    for _ in range(60):
        world.tick(encode=True)
    zone = world.zones[1]
    (each,) = zone.publish(5.0)
    assert each.interval_s == 5.0 > QUIET_S
    assert zone.publish(5.0) == []
    (each,) = zone.publish(0.05)
    assert each.interval_s == QUIET_S, "and faster again"


@pytest.mark.parametrize(("reach", "count"), [(100.0, 8), (250.0, 20), (1e9, 63)])
def test_zones_within_reach_are_near(reach: float, count: int) -> None:
    grid = WorldGrid(1600, 1600, 8, 8)
    near = zones_near(grid, 27, reach)
    assert len(near) == count
    x0, y0, x1, y1 = grid.bounds(27)
    for zone in set(range(64)) - {27}:
        a0, b0, a1, b1 = grid.bounds(zone)
        dx, dy = max(a0 - x1, x0 - a1, 0.0), max(b0 - y1, y0 - b1, 0.0)
        assert (zone in near) == (dx * dx + dy * dy <= reach * reach)
