"""An effect is taken once, whatever fails: refused ticks, resent commits, ledgers that went back, owners that died."""

from __future__ import annotations

import random
from zlib import crc32

import msgpack
import pytest

from perdure.ledger.record import unpack_record
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, Transfer, WorldSettings
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import LOBBY
from shard.audit import audit
from shard.kernels import layout
from shard.kernels.layout import MAX_EFFECT_HOPS
from shard.passages import EFFECTS_REMEMBERED, REMEMBERED, Passages
from shard.proposals import HEAD, pack_proposals, unpack_proposals
from shard.zone import CHECKPOINT_MAGIC, Zone
from tests.unit.shard.effects_lab import damage, flying, gold, hide, mirror, total, totals, traders
from tests.unit.shard.test_durability import SMALL, reseed
from tests.unit.shard.test_effects import archers, ghost_of
from tests.unit.shard.zone_lab import World, now, program


def shot_in(world: World) -> None:
    """The next tick of zone 0 sends a shot to zone 1."""
    ghost_of(world, "two", 0)
    world.command("one", "loose")
    world.tick()


def refused(world: World, number: int) -> Commit:
    """Step a zone and have the ledger refuse the commit: it knows less than the owner."""
    commit = world.zones[number].step()
    world.zones[number].committed(CommitAnswer(CommitStatus.GAP))
    return commit


def hit_once(world: World) -> None:
    for _ in range(4):
        world.tick()
    assert totals(world, "sent") == total(world.zones[1], "taken") == damage(world) == 7
    assert world.row("two")["hurt"] == 7


def test_a_shot_of_a_refused_tick_hits_once() -> None:
    world = archers()
    shot_in(world)
    (sent,) = refused(world, 0).transfers
    assert sent.target == 1
    reseed(world, 0)
    hit_once(world)


def test_a_commit_that_is_sent_again_delivers_nothing_again() -> None:
    world = archers()
    shot_in(world)
    world.tick()
    again = now(world.ledger.commit(world.commits))
    assert [answer.status for answer in again] == [CommitStatus.OK, CommitStatus.OK]
    assert len(flying(world)) == 1
    hit_once(world)


@pytest.mark.parametrize("later", [0, 1, 2, 3])
def test_a_shot_that_a_ledger_forgot_is_delivered_again_and_hits_once(later: int) -> None:
    world = archers()
    kept = world.store.snapshot()
    shot_in(world)
    for _ in range(later):
        world.tick()
    world.store.restore(kept)
    for number in (0, 1):
        refused(world, number)
        reseed(world, number)
    now(world.ledger.open_world(world.term))
    hit_once(world)


def heir_of(world: World, number: int, blob: bytes) -> None:
    """The owner of a zone dies; another one restores the checkpoint, replays the log, and has no ghosts yet."""
    old = world.zones[number]
    heir = Zone(world.program, number, world.grid, world.seed)
    heir.restore(blob)
    for record in now(world.ledger.read_log(number, heir.tick + 1)):
        heir.replay(record.record, record.page)
    assert (heir.tick, heir.state_hash) == (old.tick, old.state_hash)
    epoch = now(world.ledger.assign(world.term, number, "heir", old.epoch))
    heir.recovered(now(world.ledger.zone_head(number)).generation, epoch)
    world.zones[number] = heir


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("later", [0, 1, 2, 3])
def test_a_shot_hits_once_whoever_dies_and_whenever(killed: int, later: int) -> None:
    world = archers()
    blob = world.zones[killed].checkpoint()
    shot_in(world)
    for _ in range(later):
        world.tick()
    heir_of(world, killed, blob)
    if later == 0 and killed == 0:  # nothing was proposed yet: the heir does, once it has ghosts
        ghost_of(world, "two", 0)
    hit_once(world)


def act(world: World, rng: random.Random, name: str) -> None:
    what = rng.random()
    if name not in world.players or world.place(name) == LOBBY:
        if what < 0.3:
            world.join(name, zone=rng.randrange(world.grid.zones))
    elif what < 0.2:
        world.command(name, "loose")
    elif what < 0.4:
        world.command(name, "drop", gold=rng.randint(1, 9))
    elif what < 0.7:
        world.command(name, "go", x=50.0 + rng.uniform(-15.0, 15.0), y=50.0 + rng.uniform(-15.0, 15.0))
    elif what < 0.72:
        now(world.ledger.leave(world.players[name].key, world.players[name].session))


def everything(world: World) -> int:
    """Return the gold of the world, with that of players in the lobby."""
    saved = [world.saved(name) for name in world.players if world.place(name) == LOBBY]
    return gold(world) + sum(int(row["gold"]) for row in saved if row is not None)


@pytest.mark.parametrize("seed", range(3))
def test_damage_and_gold_are_conserved_whatever_happens(seed: int) -> None:
    world, rng = traders(2, 2), random.Random(seed)
    blobs = {number: zone.checkpoint() for number, zone in world.zones.items()}
    unclear = 0
    for _ in range(100):
        unclear -= 1
        for k in range(6):
            act(world, rng, f"p{k}")
        mirror(world)
        fault, number = rng.random(), rng.randrange(4)
        if fault < 0.06:
            unclear = 3  # what a refused tick had sent is there twice, until its zone has seen the second one
            refused(world, number)
            reseed(world, number)
            blobs[number] = world.zones[number].checkpoint()
        elif fault < 0.16:
            heir_of(world, number, blobs[number])
        elif fault < 0.2:
            blobs[number] = world.zones[number].checkpoint()
        world.tick()
        if unclear <= 0:
            assert (damage(world), everything(world)) == (totals(world, "sent"), totals(world, "minted"))
    hide(world)
    for _ in range(2 * MAX_EFFECT_HOPS + 4):
        world.tick()
    assert (damage(world), everything(world), flying(world)) == (totals(world, "sent"), totals(world, "minted"), [])
    assert totals(world, "sent") > 70


def test_effects_do_not_push_players_out_of_what_a_zone_remembers() -> None:
    passages = Passages()

    def transfer(kind: EntryKind, player: int, index: int) -> Transfer:
        return Transfer(1, player, Entry(kind, player, 7, 1, index, hop=1).pack())

    passages.leave(7, [transfer(EntryKind.ARRIVE, 5, 0)])
    for k in range(EFFECTS_REMEMBERED + 10):
        passages.leave(7, [transfer(EntryKind.EFFECT, 0, k), transfer(EntryKind.ARRIVE, 0, k)][: 1 + (k % 100 == 0)])
    kept = [sent.transfer for sent in passages.since(0)]
    assert kept[0].player == 5
    assert len(kept) == EFFECTS_REMEMBERED + 1 + 11 < EFFECTS_REMEMBERED + REMEMBERED
    restored = Passages()
    restored.restore(passages.image())
    assert restored.since(0) == passages.since(0)


def test_a_zones_image_holds_whom_it_sent_where_and_an_older_image_does_not() -> None:
    world = archers()
    for x in (20.0, 53.0, 20.0):
        world.command("two", "go", x=x, y=50.0)
        for _ in range(3):
            world.tick()
    zone = world.zones[1]
    noted = int(zone.arrays.counters[layout.COUNTER_DEPARTURES])
    assert noted == 2
    heir = Zone(world.program, 1, world.grid, world.seed)
    heir.restore(zone.checkpoint())
    assert heir.state_hash == zone.state_hash
    assert heir.arrays.departures[:noted].tolist() == zone.arrays.departures[:noted].tolist()
    image = msgpack.unpackb(zone.checkpoint()[len(CHECKPOINT_MAGIC) + 4 :])
    del image["sections"]["departures"]
    image["build"] = 1
    body = msgpack.packb(image) or b""
    older = Zone(world.program, 1, world.grid, world.seed)
    older.restore(CHECKPOINT_MAGIC + crc32(body).to_bytes(4, "little") + body)
    assert (older.tick, int(older.arrays.counters[layout.COUNTER_DEPARTURES])) == (zone.tick, 0)


def test_a_record_of_the_version_before_effects_is_read() -> None:
    world = archers()
    (*_, last) = now(world.ledger.read_log(0, 1))
    old = last.record[:4] + b"\x02" + last.record[5:]
    assert unpack_record(old) == unpack_record(last.record)
    with pytest.raises(ValueError, match="not a record of version 2 or 3"):
        unpack_record(last.record[:4] + b"\x04" + last.record[5:])
    with pytest.raises(ValueError, match="bytes of effects, but has"):
        unpack_record(last.record + b"?")


def test_effects_of_another_game_are_not_replayed() -> None:
    world = archers()
    shot_in(world)
    world.zones[0].step()
    (arrow,) = world.zones[0].arrays.hurt_effects_words[:1]
    whole = HEAD.pack(0, 1, 40) + arrow.tobytes()
    zone = Zone(world.program, 0, world.grid, world.seed)
    unpack_proposals(world.program, zone.arrays, whole)
    assert pack_proposals(world.program, zone.arrays) == whole
    for damaged in (
        whole[:-1],
        whole[:5],
        HEAD.pack(7, 1, 40) + arrow.tobytes(),
        HEAD.pack(0, 1, 48) + bytes(48),
        HEAD.pack(0, 9, 40) + bytes(360),
    ):
        with pytest.raises(ValueError, match="effect"):
            unpack_proposals(world.program, zone.arrays, damaged)
    small = program(str(SMALL))
    with pytest.raises(ValueError, match="it has an effect of kind 0; this build's game has 0"):
        unpack_proposals(small, Zone(small, 0, world.grid, world.seed).arrays, whole)


async def test_the_auditor_counts_what_is_on_its_way_and_finds_it_twice() -> None:
    world = archers()
    shot_in(world)
    world.tick()
    now(world.ledger.init_world(WorldSettings("w", world.program.game.name, "", "{}", 2, 1, world.seed, 20)))
    report = await audit(world.ledger, world.program)
    assert (report.effects, [fault for fault in report.faults if "effect" in fault]) == (1, [])
    (entry,) = world.zones[1].page
    world.store.data.zones[1].inbox.append(entry)
    report = await audit(world.ledger, world.program)
    assert [fault for fault in report.faults if "an effect of zone 0" in fault and "is in 2 places" in fault]
