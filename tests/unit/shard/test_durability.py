"""Checkpoint and log give the same zone again, at any tick; what is damaged is noticed; what a refused tick owed is not lost."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.ledger.record import blob_digest, unpack_record
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, LoggedRecord, Reseed
from perdure.wire.identifiers import LOBBY
from shard.program import Program
from shard.recovery import Follower, take_over
from shard.zone import Phase, Zone, ZoneError
from tests.unit.shard.zone_lab import KEYFRAME, World, now, program

SMALL = Path(__file__).resolve().parents[2] / "data" / "small_game.py"


def play(world: World, rng: random.Random, ticks: int) -> None:
    """Anything that can happen to players, at random."""
    for _ in range(ticks):
        name = f"p{rng.randrange(5)}"
        player = world.players.get(name)
        what = rng.random()
        if player is None or (world.place(name) == LOBBY and what < 0.5):
            world.join(name, zone=rng.randrange(world.grid.zones), gateway=rng.randint(1, 3))
        elif world.holder(name):
            if what < 0.25:
                world.command(name, "go", x=rng.uniform(-5, 105), y=rng.uniform(-5, 105))
            elif what < 0.5:
                world.command(name, "add", n=rng.randint(1, 9))
            elif what < 0.65:
                world.command(name, "throw", vx=rng.uniform(-50, 50))
            elif what < 0.7:
                now(world.ledger.leave(player.key, player.session))
            elif what < 0.8:
                now(world.ledger.detach(player.key, player.session))
            elif what < 0.85:
                world.join(name, gateway=rng.randint(1, 3))
        world.tick()


def fresh(world: World, number: int = 0, game: Program | None = None) -> Zone:
    return Zone(game or world.program, number, world.grid, world.seed)


def image(zone: Zone) -> dict[str, bytes]:
    return {name: rows.tobytes() for name, rows in zone._sections().items()} | {"counters": zone.arrays.counters.tobytes()}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 60))
def test_checkpoint_and_log_give_the_same_zone_at_any_tick(seed: int, ticks: int) -> None:
    world, rng = World(program(str(SMALL)), 2, 1), random.Random(seed)
    play(world, rng, ticks)
    blobs = {number: zone.checkpoint() for number, zone in world.zones.items()}
    first = ticks + 1
    play(world, rng, 30)
    for number, zone in world.zones.items():
        restored, whole = fresh(world, number), fresh(world, number)
        restored.restore(blobs[number])
        assert restored.tick == ticks
        for record in now(world.ledger.read_log(number, 1)):
            whole.replay(record.record, record.page)
            if record.tick >= first:
                restored.replay(record.record, record.page)
        for copy in (restored, whole):
            assert (copy.tick, copy.state_hash, copy.digest, copy.page) == (zone.tick, zone.state_hash, zone.digest, zone.page)
            assert image(copy) == image(zone)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_checkpoint_is_refused(data: st.DataObject) -> None:
    world = World(program(str(SMALL)))
    play(world, random.Random(1), 12)
    blob = world.zones[0].checkpoint()
    if data.draw(st.booleans(), label="truncate"):
        damaged = blob[: data.draw(st.integers(0, len(blob) - 1))]
    else:
        bit = data.draw(st.integers(0, 8 * len(blob) - 1))
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ZoneError, match="checkpoint"):
        fresh(world).restore(bytes(damaged))
    whole = fresh(world)
    whole.restore(blob)
    assert whole.state_hash == world.zones[0].state_hash


def test_a_zone_that_never_ran_has_a_checkpoint_too() -> None:
    world = World(program(str(SMALL)))
    zone = fresh(world)
    zone.restore(world.zones[0].checkpoint())
    assert zone.tick == 0


def test_a_checkpoint_of_another_zone_is_refused() -> None:
    world = World(program(str(SMALL)), 2, 1)
    world.tick()
    with pytest.raises(ZoneError, match="it is of zone 1"):
        fresh(world, 0).restore(world.zones[1].checkpoint())


def two_checkpoints() -> tuple[World, list[int]]:
    world, rng = World(program(str(SMALL))), random.Random(3)
    ticks = []
    for _ in range(2):
        play(world, rng, 10)
        ticks.append(world.zones[0].tick)
        world.put_checkpoint(0)
    play(world, rng, 5)
    return world, ticks


def damage(world: World, tick: int) -> None:
    blobs = world.store.data.zones[0].blobs
    (key,) = [key for key in blobs if key[0] == tick]
    blobs[key] = blobs[key][:-3] + b"???"


async def test_recovery_takes_the_newest_whole_checkpoint() -> None:
    world, (older, newer) = two_checkpoints()
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    assert (await follower.load()).tick == newer
    damage(world, newer)
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    assert (await follower.load()).tick == older
    zone = await take_over(follower, 1, 1)
    assert (zone.tick, zone.state_hash, zone.phase) == (world.zones[0].tick, world.zones[0].state_hash, Phase.READY)
    assert follower.replayed == zone.tick - older
    damage(world, older)
    with pytest.raises(ZoneError, match="neither of its checkpoints can be used"):
        await Follower(world.ledger, world.program, 0, world.grid, world.seed).load()


async def test_a_successor_follows_the_log_and_goes_on_as_the_owner_would() -> None:
    world, rng = World(program(str(SMALL))), random.Random(9)
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    for _ in range(4):
        play(world, rng, 6)
        assert (await follower.catch_up()).state_hash == world.zones[0].state_hash
    old = world.zones[0]
    epoch = await world.ledger.assign(world.term, 0, "other", 1)
    answer = (await world.ledger.commit([old.step()]))[0]
    old.committed(answer)
    assert (answer.status, old.phase) == (CommitStatus.FENCED, Phase.DROPPED)
    world.zones[0] = await take_over(follower, 1, epoch)
    play(world, rng, 10)
    assert world.zones[0].tick == 34


async def test_a_follower_that_is_cancelled_in_the_middle_of_a_replay_leaves_the_zone_to_nobody_half_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, rng = World(program(str(SMALL))), random.Random(4)
    play(world, rng, 8)
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    replay, begun, go_on = Zone.replay, threading.Event(), threading.Event()

    def slow_replay(zone: Zone, data: bytes, page: tuple[bytes, ...]) -> None:
        begun.set()
        assert go_on.wait(10)
        replay(zone, data, page)

    monkeypatch.setattr(Zone, "replay", slow_replay)
    following = asyncio.ensure_future(follower.catch_up())
    await asyncio.to_thread(begun.wait, 10)
    following.cancel()
    done, _ = await asyncio.wait([following], timeout=0.05)
    assert not done, "it is still being replayed"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await following
    zone = await take_over(follower, 1, 1)
    assert (zone.tick, zone.state_hash) == (world.zones[0].tick, world.zones[0].state_hash)


def change(record: LoggedRecord, at: int, to: int) -> bytes:
    data = bytearray(record.record)
    data[at] ^= to
    return bytes(data)


def test_a_replay_that_differs_is_noticed() -> None:
    world, rng = World(program(str(SMALL))), random.Random(4)
    play(world, rng, 20)
    records = now(world.ledger.read_log(0, 1))
    with_commands = next(k for k, record in enumerate(records) if unpack_record(record.record).rows)
    zone = fresh(world)
    for record in records[:with_commands]:
        zone.replay(record.record, record.page)
    tick, damaged = with_commands + 1, records[with_commands]
    at_hash = 4 + 1 + 1 + 2 + 4 + 4 + 8
    with pytest.raises(ZoneError, match=rf"tick {tick}: replay gives state \w+, the log says \w+; the record was written by build"):
        zone.replay(change(damaged, at_hash, 1), damaged.page)
    again = fresh(world)
    with pytest.raises(ZoneError, match="a record is missing"):
        again.replay(records[1].record, records[1].page)
    wider = unpack_record(records[0].record)
    with pytest.raises(ZoneError, match="bytes each"):
        again.replay(dataclasses.replace(wider, row_bytes=16, rows=0, commands=b"").pack(), ())
    with pytest.raises(ValueError, match="not a record"):
        again.replay(change(records[0], 0, 1), ())


async def test_a_broken_chain_is_noticed() -> None:
    world, rng = World(program(str(SMALL))), random.Random(4)
    play(world, rng, 8)
    log = world.store.data.zones[0].log
    log[5] = LoggedRecord(5, "0" * 32, log[5].record, log[5].page)
    with pytest.raises(ZoneError, match="tick 5: the log's chain is broken here"):
        await Follower(world.ledger, world.program, 0, world.grid, world.seed).catch_up()


async def test_a_damaged_record_is_not_run_and_the_zone_goes_on_once_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    world, rng = World(program(str(SMALL))), random.Random(4)
    play(world, rng, 8)
    log, replay, ran = world.store.data.zones[0].log, Zone.replay, []

    def told(zone: Zone, data: bytes, page: tuple[bytes, ...]) -> None:
        ran.append(zone.tick + 1)
        replay(zone, data, page)

    monkeypatch.setattr(Zone, "replay", told)
    whole = log[5]
    log[5] = dataclasses.replace(whole, record=change(whole, len(whole.record) - 1, 1))
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    with pytest.raises(ZoneError, match="zone 0 tick 5: the log's chain is broken here"):
        await follower.catch_up()
    assert ran == [1, 2, 3, 4]
    log[5] = whole
    assert (await follower.catch_up()).state_hash == world.zones[0].state_hash


@pytest.mark.parametrize(
    ("missing", "words"), [((5,), "the log goes from tick 4 to 6; records are missing"), ((7, 8), "its log ends at tick 6, but tick 8 was")]
)
async def test_missing_records_are_noticed(missing: tuple[int, ...], words: str) -> None:
    world, rng = World(program(str(SMALL))), random.Random(4)
    play(world, rng, 8)
    log = world.store.data.zones[0].log
    kept = {tick: log.pop(tick) for tick in missing}
    epoch = await world.ledger.assign(world.term, 0, "other", 1)
    follower = Follower(world.ledger, world.program, 0, world.grid, world.seed)
    with pytest.raises(ZoneError, match=f"zone 0: {words}"):
        await take_over(follower, 1, epoch)
    log.update(kept)
    assert (await take_over(follower, 1, epoch)).tick == 8


def test_a_page_that_was_lost_changes_the_state() -> None:
    world = World(program(str(SMALL)))
    world.join("one")
    world.tick()
    world.tick()
    first, second = now(world.ledger.read_log(0, 1))
    zone = fresh(world)
    zone.replay(first.record, ())
    with pytest.raises(ZoneError, match="replay gives state"):
        zone.replay(second.record, second.page)


def test_a_build_with_a_new_field_restores_an_older_checkpoint(tmp_path: Path) -> None:
    world, rng = World(program(str(SMALL)), 2, 1), random.Random(2)
    play(world, rng, 25)
    file = tmp_path / "newer.py"
    text = SMALL.read_text().replace("    i: flag\n\n\n@game.entity", "    i: flag\n    mood: u16 = q(0, 9)\n\n\n@game.entity", 1)
    text = text.replace("    returned: u8\n", "").replace("        man.returned += 1 if returning else 0\n".replace("        ", "    "), "")
    file.write_text(text)
    newer = program(str(file))
    assert newer.schema.hash != world.program.schema.hash
    for number, old in world.zones.items():
        zone = fresh(world, number, newer)
        zone.restore(old.checkpoint())
        assert (zone.tick, zone.digest, zone.page) == (old.tick, old.digest, old.page)
        before, after = old.rows("man"), zone.rows("man")
        assert set(after.dtype.names or ()) - set(before.dtype.names or ()) == {"mood"}
        assert set(before.dtype.names or ()) - set(after.dtype.names or ()) == {"returned"}
        for name in set(before.dtype.names or ()) & set(after.dtype.names or ()):
            assert after[name].tolist() == before[name].tolist()
        assert after["mood"].tolist() == [0] * len(before)
        assert zone.rows("pebble").tolist() == old.rows("pebble").tolist()


# --- a ledger that goes back in time ------------------------------------------------------------------------------


def refused(world: World, number: int) -> Commit:
    """Step a zone and have the ledger refuse the commit: it knows less than the owner."""
    zone = world.zones[number]
    commit = zone.step()
    zone.encode()
    zone.committed(CommitAnswer(CommitStatus.GAP))
    assert zone.phase is Phase.FROZEN
    return commit


def reseed(world: World, number: int) -> None:
    zone, blob = world.zones[number], world.zones[number].checkpoint()
    seed = Reseed(
        number, "shard", zone.generation, zone.epoch, zone.tick, zone.digest, blob, blob_digest(blob), zone.in_zone(),
        zone.passages.since(0), zone.highest_move(),
    )  # fmt: skip
    head = now(world.ledger.reseed(seed))
    zone.reseeded(head.generation, head.epoch)


def crossing_refused() -> World:
    """A player and a pebble are on their way from zone 0 to zone 1 in the very tick that the ledger refuses."""
    world = World(program(str(SMALL)), 2, 1)
    one = world.join("one", gateway=2)
    world.join("leaver")
    for _ in range(3):
        world.tick(encode=True)
    world.row("one")["gold"] = 41
    world.row("leaver")["gold"] = 5
    leaver = world.players["leaver"]
    assert now(world.ledger.leave(leaver.key, leaver.session))
    world.command("one", "throw", vx=400.0)
    world.tick(encode=True)
    world.command("one", "go", x=80.0, y=20.0)
    assert world.zones[0].add_commands(one.unacked[2])
    commit = refused(world, 0)
    assert sorted((t.target, t.player != 0) for t in commit.transfers) == [(LOBBY, True), (1, False), (1, True)]
    reseed(world, 0)
    return world


def arrived(world: World) -> None:
    for _ in range(3):
        world.tick(encode=True)
    assert world.holder("one") == [1]
    assert (world.row("one")["gold"], world.row("one")["x"]) == (41, 80.0)
    assert len(world.zones[1].rows("pebble")) == 1
    assert world.place("leaver") == LOBBY
    assert world.saved("leaver")["gold"] == 105


def test_what_a_refused_tick_sent_goes_with_the_next_one() -> None:
    world = crossing_refused()
    arrived(world)
    assert world.zones[0].generation == 2


def test_an_owner_that_dies_after_the_reseed_loses_nothing() -> None:
    world = crossing_refused()
    dead = world.zones[0]
    head = now(world.ledger.zone_head(0))
    blob = now(world.ledger.read_checkpoint(0, head.tick))
    assert blob is not None
    heir = fresh(world)
    heir.restore(blob)
    epoch = now(world.ledger.assign(world.term, 0, "heir", dead.epoch))
    heir.recovered(head.generation, epoch)
    world.zones[0] = heir
    arrived(world)


def test_a_replay_past_the_reseed_owes_nothing_twice() -> None:
    world = crossing_refused()
    blob = now(world.ledger.read_checkpoint(0, world.zones[0].tick))
    assert blob is not None
    arrived(world)
    heir = fresh(world)
    heir.restore(blob)
    for record in now(world.ledger.read_log(0, heir.tick + 1)):
        heir.replay(record.record, record.page)
    assert heir.state_hash == world.zones[0].state_hash
    heir.recovered(2, now(world.ledger.assign(world.term, 0, "heir", world.zones[0].epoch)))
    world.zones[0] = heir
    world.tick()
    assert world.commits[0].transfers == ()


def test_a_zone_refused_twice_owes_both_ticks() -> None:
    world = crossing_refused()
    refused(world, 0)
    reseed(world, 0)
    assert world.zones[0].generation == 3
    arrived(world)


def test_everyone_gets_a_full_snapshot_after_frames_that_were_never_released() -> None:
    world = World(program(str(SMALL)))
    one = world.join("one")
    for _ in range(3):
        world.tick(encode=True)
    world.command("one", "go", x=10.0, y=10.0)
    world.zones[0].add_commands(one.unacked[1])
    refused(world, 0)
    reseed(world, 0)
    world.tick(encode=True)
    assert one.flags == KEYFRAME
    world.check_view("one")
    assert one.client.world is not None
    assert one.client.world.me is not None
    assert one.client.world.me.x == 10.0


def rolled_back(owner_lives: bool) -> World:
    """A player walks from zone 0 to zone 1, and the ledger comes back as it was before; zone 1's owner lives."""
    world = World(program(str(SMALL)), 2, 1)
    world.join("one")
    world.join("two")
    for _ in range(3):
        world.tick(encode=True)
    kept, blob = world.store.snapshot(), world.zones[0].checkpoint()
    world.command("one", "go", x=80.0, y=20.0)
    for _ in range(4):
        world.tick(encode=True)
    assert world.holder("one") == [1]
    world.row("one")["gold"] = 41
    world.store.restore(kept)
    for number in (0, 1) if owner_lives else (1,):
        refused(world, number)
        reseed(world, number)
    now(world.ledger.open_world(world.term))
    if not owner_lives:
        heir = fresh(world)
        heir.restore(blob)
        epoch = now(world.ledger.assign(world.term, 0, "heir", world.zones[0].epoch))
        heir.recovered(now(world.ledger.zone_head(0)).generation, epoch)
        world.zones[0] = heir
    return world


@pytest.mark.parametrize("owner_lives", [True, False])
def test_who_walked_away_from_a_zone_that_is_taken_back_is_in_one_place(owner_lives: bool) -> None:
    world = rolled_back(owner_lives)
    if not owner_lives:
        assert world.holder("one") == [0, 1], "the heir's copy is from before"
    for _ in range(3):  # gateways drop the copy's frames, which are of an earlier move
        world.tick()
    assert world.holder("one") == [1] and world.place("one") == 1
    assert world.row("one")["gold"] == 41
    assert len(world.zones[0].rows("man")) == 1, "two is there, and no copy of one"
    world.command("one", "go", x=10.0, y=20.0)
    for _ in range(4):
        world.tick(encode=True)
    assert world.holder("one") == [0] and world.row("one")["gold"] == 41


def test_who_logged_out_is_put_back_however_long_ago_it_was() -> None:
    """A ledger that comes back empty does not know it: only the zone that it left has what was saved."""
    world = World(program(str(SMALL)), 2, 1)
    world.join("leaver")
    for _ in range(3):
        world.tick(encode=True)
    leaver = world.players["leaver"]
    assert now(world.ledger.leave(leaver.key, leaver.session))
    for _ in range(300):
        world.tick(encode=True)
    (sent,) = world.zones[0].passages.since(world.zones[0].tick - 200)
    assert (sent.transfer.target, sent.transfer.player) == (LOBBY, leaver.key) and sent.tick < 10
