"""Effects between entities of two zones: proposed once, taken once, sent on behind their target, or back to where they came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perdure.ledger.record import unpack_record
from perdure.wire.entries import EntryKind, unpack_entry
from shard.kernels import layout
from shard.zone import Zone, ZoneError
from tests.unit.shard.effects_lab import damage, flying, gold, hide, show, total, totals, traders
from tests.unit.shard.zone_lab import World, now


def archers() -> World:
    """One archer in each of two zones, close to the border between them, and ghosts of each in the other's."""
    world = traders()
    world.join("one", zone=0)
    world.join("two", zone=1)
    world.tick()
    world.tick()
    world.command("one", "go", x=48.0, y=50.0)
    world.command("two", "go", x=53.0, y=50.0)
    world.tick()
    return world


def ghost_of(world: World, name: str, viewer: int) -> None:
    (owner,) = world.holder(name)
    show(world, viewer, "archer", world.row(name), owner)


def effects_in(world: World) -> list[tuple[int, int]]:
    """Return (zone, kind of effect) of all that this tick's commits sent."""
    entries = [(commit.zone, unpack_entry(t.entry)) for commit in world.commits for t in commit.transfers]
    return [(zone, entry.type) for zone, entry in entries if entry.kind is EntryKind.EFFECT]


def test_a_shot_over_the_border_hits_once_though_it_is_proposed_again_and_again() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    world.tick()  # the arrow is there
    assert len(world.zones[0].rows("arrow")) == 1
    world.tick()  # and is seen to reach the ghost: it leaves
    assert effects_in(world) == [(0, 0)]
    assert len(world.zones[0].rows("arrow")) == 0
    for _ in range(5):
        world.tick()
        assert totals(world, "sent") == damage(world) == 7
    assert world.row("two")["hurt"] == 7
    assert total(world.zones[1], "taken") == 7


def test_what_is_proposed_is_in_the_record_and_a_replay_needs_no_ghosts() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    for _ in range(4):
        world.tick()
    logged = [now(world.ledger.read_log(number, 1)) for number in (0, 1)]
    assert [len(unpack_record(r.record).effects) for r in logged[0] if unpack_record(r.record).effects] == [8 + 40]
    for number, records in enumerate(logged):
        replica = Zone(world.program, number, world.grid, world.seed)
        for record in records:
            replica.replay(record.record, record.page)
        assert (replica.state_hash, replica.digest) == (world.zones[number].state_hash, world.zones[number].digest)


def test_a_record_that_has_lost_its_effects_does_not_replay() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    world.tick()
    world.tick()
    replica = Zone(world.program, 0, world.grid, world.seed)
    *before, last = now(world.ledger.read_log(0, 1))
    for record in before:
        replica.replay(record.record, record.page)
    told = unpack_record(last.record)
    bare = last.record[: len(last.record) - len(told.effects)]
    without = bare[:44] + (0).to_bytes(4, "little") + bare[48:]
    assert unpack_record(without).effects == b""
    with pytest.raises(ZoneError, match="replay gives state"):
        replica.replay(without, last.page)


def test_a_purse_across_the_border_is_picked_up_once_though_two_race_for_it() -> None:
    world = archers()
    world.join("three", zone=0)
    world.tick()
    world.tick()
    world.command("two", "drop", gold=30)
    world.command("three", "go", x=49.0, y=52.0)
    world.tick()
    world.command("two", "go", x=90.0, y=90.0)
    world.tick()
    (purse,) = world.zones[1].rows("purse")
    show(world, 0, "purse", purse, 1)
    for _ in range(6):
        world.tick()
        assert gold(world) == totals(world, "minted") == 300
    assert len(world.zones[1].rows("purse")) == 0
    assert sorted(int(world.row(name)["gold"]) for name in ("one", "two", "three")) == [70, 100, 130]


def moved(world: World, name: str, x: float, y: float = 50.0) -> None:
    world.command(name, "go", x=x, y=y)
    world.tick()


def test_an_effect_follows_its_target_over_the_border() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    world.tick()
    moved(world, "two", 20.0)  # the shot is on its way to zone 1; the target to zone 0
    for _ in range(5):
        world.tick()
        assert totals(world, "sent") == damage(world) == 7
    assert world.holder("two") == [0]
    assert world.row("two")["hurt"] == 7
    assert total(world.zones[0], "taken") == 7


def test_an_effect_whose_target_logged_out_comes_back_to_its_source_once() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    two = world.players["two"]
    assert now(world.ledger.leave(two.key, two.session))
    world.tick()
    for _ in range(6):
        world.tick()
        assert totals(world, "sent") == damage(world) == 7
    assert (total(world.zones[0], "missed"), total(world.zones[0], "refused"), totals(world, "taken")) == (7, 1, 0)
    assert flying(world) == []


def test_gold_that_finds_nobody_goes_back() -> None:
    world = archers()
    world.command("two", "drop", gold=30)
    world.tick()
    world.command("two", "go", x=90.0, y=90.0)
    world.tick()
    show(world, 0, "purse", world.zones[1].rows("purse")[0], 1)
    one = world.players["one"]
    assert now(world.ledger.leave(one.key, one.session))
    world.tick()
    for _ in range(6):
        world.tick()
        saved = world.saved("one")
        assert gold(world) + (int(saved["gold"]) if saved is not None else 0) == totals(world, "minted")
    assert totals(world, "minted") == 170
    assert len(world.zones[1].rows("purse")) == 0


def test_an_effect_is_not_sent_on_for_ever() -> None:
    world = archers()
    row, two = world.row("two"), world.players["two"]
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    assert now(world.ledger.leave(two.key, two.session))
    for number, there in ((0, 1), (1, 0)):  # each of them believes that it is in the other one
        arrays = world.zones[number].arrays
        arrays.counters[1] = world.program.module.note_departure(arrays.departures, arrays.counters[1], row["id"], there)
    hops = set()
    for _ in range(2 * layout.MAX_EFFECT_HOPS + 6):
        world.tick()
        hops |= {int(effect["hops"]) for _, effect in flying(world)}
        assert totals(world, "sent") == damage(world)
    assert hops == set(range(layout.MAX_EFFECT_HOPS + 1))
    assert (flying(world), totals(world, "missed")) == ([], 7)


def test_a_proposal_of_what_is_gone_is_dropped_and_too_many_are_cut() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    for k in range(12):
        world.command("one", "loose")
        world.tick(order=(0, 1))
        if k == 0:
            hide(world)
    hide(world)
    for _ in range(3):
        world.tick()
    before = totals(world, "sent")
    arrows = len(world.zones[0].rows("arrow"))
    assert arrows > 8
    ghost_of(world, "two", 0)
    world.tick()
    assert totals(world, "sent") - before == 8 * 7, "the capacity of the effect"
    assert len(world.zones[0].rows("arrow")) == arrows - 8
    world.tick()
    assert len(world.zones[0].rows("arrow")) == max(arrows - 16, 0)


def test_entries_that_are_no_effects_of_this_game_are_counted_and_do_nothing() -> None:
    world = archers()
    entry = unpack_entry(world.commits[0].transfers[0].entry) if world.commits[0].transfers else None
    assert entry is None
    from perdure.wire.entries import Entry

    for kind, payload in ((0, b""), (0, b"\x05\x00{}"), (9, b"\x02\x00[]"), (2, b"")):
        world.zones[1].page += (
            Entry(EntryKind.EFFECT, 0, 1000 + len(world.zones[1].page), 1, type=kind, origin=0, payload=payload).pack(),
        )
    state = {name: rows.tobytes() for name, rows in world.zones[1]._sections().items()}
    world.zones[1].step()
    assert world.zones[1].bad_entries == 4
    assert {name: rows.tobytes() for name, rows in world.zones[1]._sections().items()} == state


def test_a_hook_that_writes_to_what_it_may_only_read_is_told_in_development(monkeypatch: pytest.MonkeyPatch) -> None:
    world = archers()
    zone = world.zones[0]
    zone.compare_across = True
    world.tick()
    assert zone.across_fault == ""

    def writes(arrays: Any) -> None:
        np.asarray(arrays.archer_rows)["gold"][0] += 1

    monkeypatch.setattr(type(world.program), "across", property(lambda _: writes))
    world.tick()
    assert "@game.across has written to archer" in zone.across_fault


def test_a_tick_that_was_only_tried_takes_nothing_in() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    world.tick()
    world.tick()
    zone = world.zones[1]
    assert [unpack_entry(data).kind for data in zone.page] == [EntryKind.EFFECT]
    saved = [np.array(part, copy=True) for part in zone.arrays]
    zone.try_tick(np.zeros((0, zone.arrays.commands.shape[1]), np.uint8))
    for part, was in zip(zone.arrays, saved, strict=True):
        np.copyto(part, was)
    world.tick()
    assert total(zone, "taken") == 7


def test_a_zone_that_was_mended_proposes_nothing_for_a_while() -> None:
    world = archers()
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    world.tick()
    world.zones[0].proposes_from = world.zones[0].tick + 3
    for _ in range(3):
        world.tick()
        assert effects_in(world) == []
    world.tick()
    assert effects_in(world) == [(0, 0)]
