"""An owner tells a ledger that forgot: where its zone stands, who is in it, what it sent away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ledger_lab import Lab, arrive, effect, logout, seed
from test_ledger_log import flip, stored_blobs
from test_ledger_open import shut

from perdure.ledger import keys
from perdure.ledger.generations import MOVES_A_GENERATION, generation_above, moves_floor, sessions_floor
from perdure.ledger.ledger import EPOCH_RESEED_STEP, LedgerAhead, LedgerRefused
from perdure.ledger.record import blob_digest
from perdure.ledger.values import CommitStatus, EnterStatus, PlayerInZone, Sent, ZoneHead
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import player_key

pytestmark = pytest.mark.asyncio

OK, FENCED, GAP = CommitStatus.OK, CommitStatus.FENCED, CommitStatus.GAP


async def test_an_owner_restores_a_zone_that_the_ledger_forgot(lab: Lab) -> None:
    await lab.lead()
    before = await lab.ledger.routes_version()
    head = await lab.ledger.reseed(seed(3, 2, 17, 500, "ab" * 16, b"blob"))
    assert head == ZoneHead(3, 3, 17 + EPOCH_RESEED_STEP, "shard-a", 500, "ab" * 16, ((500, blob_digest(b"blob")),))
    assert await lab.ledger.zone_head(3) == head
    assert await lab.ledger.read_checkpoint(3, 500) == b"blob"
    assert await lab.ledger.read_log(3, 0) == []
    view = await lab.ledger.view()
    assert view.generation == 3 and view.version == before + 1
    assert (view.zones[3].generation, view.zones[3].epoch, view.ticks[3]) == (3, 17 + EPOCH_RESEED_STEP, 500)
    lab.heads[3] = (3, 17 + EPOCH_RESEED_STEP, 500, "ab" * 16)
    assert (await lab.commit(3)).status is OK


async def test_an_owner_restores_a_zone_that_went_back_in_time(lab: Lab) -> None:
    await lab.zones(0)
    for _ in range(3):
        await lab.commit(0)
    assert await flip(lab, 0, b"three") is OK
    await lab.enter("ada")
    head = await lab.ledger.reseed(seed(0, 1, 1, 9, "ab" * 16, b"nine"))
    assert (head.generation, head.epoch, head.owner, head.tick, head.inbox_length) == (2, 1 + EPOCH_RESEED_STEP, "shard-a", 9, 1)
    assert head.checkpoints == ((9, blob_digest(b"nine")),)
    assert await stored_blobs(lab, 0) == {(9, 1 + EPOCH_RESEED_STEP)}
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
    assert answer.status is FENCED
    lab.heads[0] = (2, 1 + EPOCH_RESEED_STEP, 9, "ab" * 16)
    assert [unpack_entry(entry).kind for entry in (await lab.commit(0)).page] == [EntryKind.JOIN]
    await lab.zones(1)
    assert (await lab.ledger.view()).generation == 2


async def test_the_epoch_of_a_reseed_is_above_both(lab: Lab) -> None:
    await lab.zones(0)
    for epoch in range(1, 5):
        await lab.ledger.assign(lab.term, 0, "shard-b", epoch)
    head = await lab.ledger.reseed(seed(0, 2, 1, 9))
    assert (head.generation, head.epoch) == (3, 5 + EPOCH_RESEED_STEP)


@pytest.mark.parametrize("caller", [(1, 1, 2), (1, 0, 99), (0, 9, 99)])
async def test_a_reseed_from_behind_is_refused_and_writes_nothing(lab: Lab, caller: tuple[int, int, int]) -> None:
    await lab.zones(0)
    for _ in range(3):
        await lab.commit(0)
    answer = await lab.unchanged(lab.ledger.reseed(seed(0, *caller)))
    assert isinstance(answer, LedgerRefused) and "ahead of" in str(answer)


async def restored_by(lab: Lab, run: str) -> None:
    """Have it said that zone 0 was put back for another run of the server."""
    if lab.store is not None:
        lab.store.data.restored[0] = replace(lab.store.data.restored[0], run=run)
        return
    assert lab.raw is not None
    control = keys.key(lab.world, "CONTROL")
    told = (await lab.raw.hget(control, "restored:0")).decode()  # type: ignore[misc,union-attr]
    await lab.raw.hset(control, "restored:0", f"{run} {told.partition(' ')[2]}")  # type: ignore[misc]


@pytest.mark.parametrize("generation", [1, 2, 3])
async def test_a_later_owner_takes_a_zone_from_an_earlier_one_that_came_first(lab: Lab, generation: int) -> None:
    """The first had not heard that the zone was given away, and the ledger had forgotten it: seed 3407 of the simulation.

    The later one's generation is higher where the world was opened in between for servers that were restarted.
    """
    await lab.zones(0, 1)
    for _ in range(4):
        await lab.commit(0)
    await shut(lab)
    first = await lab.ledger.reseed(seed(0, 1, 1, 5, "ab" * 16, b"five"))
    sent = (Sent(4, effect(1, b"old")), Sent(5, effect(1, b"five")), Sent(6, effect(1, b"six")))
    later = await lab.ledger.reseed(seed(0, generation, 2, 6, "cd" * 16, b"six", sent=sent))
    assert (later.generation, later.epoch, later.tick) == (generation + 1, first.epoch + EPOCH_RESEED_STEP, 6)
    assert later.digest == "cd" * 16
    assert await stored_blobs(lab, 0) == {(6, later.epoch)}
    assert len(await lab.ledger.read_inbox(1)) == 2, "what it sent after the tick that the ledger had at first"
    lab.heads[0] = (2, first.epoch, 5, "ab" * 16)
    (answer,) = await lab.ledger.commit([lab.next(0)])
    assert answer.status is FENCED, "nothing of the earlier one's gets out"
    for caller in ((1, 1, 9), (generation, 2, 9)):
        assert isinstance(await lab.unchanged(lab.ledger.reseed(seed(0, *caller))), LedgerRefused), "neither the first again, nor itself"
    lab.heads[0] = (later.generation, later.epoch, 6, "cd" * 16)
    assert (await lab.commit(0)).status is OK


async def test_a_later_owner_who_only_commits_is_not_fenced_by_an_earlier_one_that_came_first(lab: Lab) -> None:
    """Its memory is the only copy of its ticks: it has to hear that the ledger went back, and not that it was put out."""
    await lab.zones(0)
    for _ in range(4):
        await lab.commit(0)
    await shut(lab)
    first = await lab.ledger.reseed(seed(0, 1, 1, 5, "ab" * 16, b"five"))
    lab.heads[0] = (1, 2, 54, "cd" * 16)
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
    assert answer.status is GAP and "an earlier owner has put it back" in answer.detail
    assert await lab.unchanged(lab.ledger.flip_checkpoint(0, 1, 2, 54, blob_digest(b"image"))) is GAP, "its last checkpoint hears so, too"
    assert await lab.unchanged(lab.ledger.flip_checkpoint(0, 1, 1, 4, blob_digest(b"image"))) is FENCED
    lab.heads[0] = (1, 1, 5, "ab" * 16)
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
    assert answer.status is FENCED, "who put it back, under what it was before"
    later = await lab.ledger.reseed(seed(0, 1, 2, 55, "ef" * 16, b"later"))
    for _ in range(2):
        lab.heads[0] = (first.generation, first.epoch, 5, "ab" * 16)
        (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
        assert answer.status is FENCED, "the two do not take it from each other in turn"
        assert isinstance(await lab.unchanged(lab.ledger.reseed(seed(0, first.generation, first.epoch, 6))), LedgerAhead)
        lab.heads[0] = (1, 1, 5, "ab" * 16)
        (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
        assert answer.status is FENCED
    latest = await lab.ledger.reseed(seed(0, 1, 3, 60, "aa" * 16, b"latest"))
    assert latest.epoch > later.epoch, "one that ran it later still"
    await lab.ledger.open_world(lab.term)
    lab.heads[0] = (1, 4, 70, "cd" * 16)
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
    assert answer.status is FENCED, "who comes when the world is open comes too late"


async def test_a_process_that_goes_by_the_owners_name_puts_nothing_back_over_what_the_owner_committed(lab: Lab) -> None:
    await lab.zones(0)
    for _ in range(3):
        await lab.commit(0)
    *_, tick, digest = lab.heads[0]
    assert isinstance(await lab.unchanged(lab.ledger.reseed(seed(0, 1, 1, tick, "ab" * 16))), LedgerAhead)
    head = await lab.ledger.reseed(seed(0, 1, 1, tick, digest))
    assert (head.tick, head.digest) == (tick, digest), "the very same is no harm"


async def test_once_the_world_is_open_the_later_one_comes_too_late(lab: Lab) -> None:
    await lab.zones(0)
    await shut(lab)
    await lab.ledger.reseed(seed(0, 1, 1, 5))
    await lab.ledger.open_world(lab.term)
    assert isinstance(await lab.unchanged(lab.ledger.reseed(seed(0, 1, 2, 6))), LedgerRefused)


async def test_who_put_a_zone_back_in_an_earlier_run_of_the_server_is_nobody_now(lab: Lab) -> None:
    await lab.zones(0)
    await shut(lab)
    await lab.ledger.reseed(seed(0, 1, 1, 5))
    await restored_by(lab, "another/run")
    assert isinstance(await lab.unchanged(lab.ledger.reseed(seed(0, 1, 2, 6))), LedgerRefused)


async def test_a_reseed_mends_where_players_are(lab: Lab) -> None:
    """What the zone says holds, where the record has not moved further; a newer session is told to the zone."""
    await lab.zones(0, 1)
    for name in ("ada", "bob", "cid", "dan"):
        await lab.enter(name)
    await lab.commit(0)
    await lab.enter("dan", gateway=9, slot=8)
    await lab.commit(0, arrive("cid", 1))
    ada, bob, cid, dan, eve = (player_key(name) for name in ("ada", "bob", "cid", "dan", "eve"))
    here = (PlayerInZone(ada, 1, 7, 3, 2), PlayerInZone(bob, 4, 8, 5, 6), PlayerInZone(cid, 1, 7, 3, 1), PlayerInZone(dan, 1, 7, 3, 4),
            PlayerInZone(eve, 3, 0, 0, 9))  # fmt: skip
    await lab.ledger.reseed(seed(1, 1, 1, 50, players=here))
    found = {presence.player: (presence.place, presence.session, presence.gateway, presence.slot) for presence in await lab.ledger.online()}
    assert found == {ada: (1, 1, 7, 3), bob: (1, 4, 8, 5), cid: (1, 1, 7, 3), dan: (1, 2, 9, 8), eve: (1, 3, -1, -1)}
    records = {player: await lab.ledger.player(player) for player in found}
    assert [record.moves for record in records.values() if record is not None] != []
    assert {player: record.moves for player, record in records.items() if record} == {ada: 2, bob: 6, cid: 2, dan: 4, eve: 9}
    waiting = [(entry.kind, entry.player, entry.session, entry.gateway, entry.slot) for entry in await lab.inbox(1)]
    assert waiting == [(EntryKind.ARRIVE, cid, 1, 7, 3), (EntryKind.ATTACH, dan, 2, 9, 8)]
    stranger = await lab.unchanged(lab.enter("eve", resume_presented="bb" * 32))
    assert stranger.status is EnterStatus.BAD_RESUME, "nobody knows her token now: whoever presents one may be anybody"
    back = await lab.enter("eve")
    assert (back.status, back.session, back.place) == (EnterStatus.OK, sessions_floor(2) + 1, 1), "above all of the generation before"


async def test_a_reseed_delivers_again_what_the_ledger_forgot_and_nothing_else(lab: Lab) -> None:
    await lab.zones(0, 1, 2)
    for name in ("ada", "bob", "cid"):
        await lab.enter(name)
    await lab.commit(0)
    await lab.commit(0, arrive("ada", 2))  # tick 2: the ledger has it still
    await lab.commit(2)
    sent = (Sent(2, arrive("ada", 2)), Sent(2, effect(2, b"old")), Sent(3, arrive("bob", 1)), Sent(3, effect(1, b"new")),
            Sent(4, logout("cid", b"what cid has", seq=57)), Sent(5, arrive("ada", 1, hop=4)))  # fmt: skip
    await lab.ledger.reseed(seed(1, 1, 1, 1, players=(PlayerInZone(player_key("ada"), 1, 7, 3, 5),)))
    await lab.ledger.reseed(seed(0, 1, 1, 6, sent=sent))
    (copy,) = await lab.inbox(2)
    assert (copy.kind, copy.player, copy.hop) == (EntryKind.MOVED, player_key("ada"), 5), "whoever runs it has her from before"
    assert [(entry.kind, entry.player, entry.payload) for entry in await lab.inbox(1)] == [
        (EntryKind.ARRIVE, player_key("bob"), b"row"), (EntryKind.ARRIVE, 0, b"new"),
    ]  # fmt: skip
    assert {presence.name: presence.place for presence in await lab.ledger.online()} == {"ada": 1, "bob": 1}
    cid = await lab.ledger.player(player_key("cid"))
    assert cid is not None and (cid.saved, cid.home_zone, cid.moves, cid.seq) == (b"what cid has", 0, 2, 57)
    await lab.enter("cid")
    assert [(entry.player, entry.last_seq) for entry in await lab.inbox(0) if entry.kind is EntryKind.JOIN] == [(player_key("cid"), 57)]


async def test_a_reseed_takes_out_of_the_inbox_who_came_before(lab: Lab) -> None:
    """An older copy's inbox holds arrivals that the zone has taken; those that it has not seen stay."""
    await lab.zones(0, 1)
    for name in ("ada", "bob", "cid"):
        await lab.enter(name)
    here, sent = (PlayerInZone(player_key("ada"), 1, 7, 3, 1),), (Sent(7, arrive("bob", 1)),)
    await lab.ledger.reseed(seed(0, 1, 1, 8, players=here, sent=sent))
    assert [(entry.kind, entry.player) for entry in await lab.inbox(0)] == [(EntryKind.JOIN, player_key("cid"))]
    assert [(entry.kind, entry.player) for entry in await lab.inbox(1)] == [(EntryKind.ARRIVE, player_key("bob"))]


async def test_an_owner_that_comes_late_hears_who_has_moved_further(lab: Lab) -> None:
    """A statement that loses leaves a copy in the zone that makes it: it is told, unless what moved the player waits for it there."""
    await lab.zones(0, 1)
    for name in ("ada", "bob", "cid"):
        await lab.enter(name)
    await lab.commit(0)
    await lab.commit(0, arrive("bob", 1, hop=9), logout("cid", b"what cid has", hop=5))
    late = tuple(PlayerInZone(player_key(name), 1, 7, 3, 0) for name in ("ada", "bob", "cid"))
    await lab.ledger.reseed(seed(1, 1, 1, 50, players=late, sent=(Sent(50, arrive("ada", 0, hop=1)),)))
    told = [(entry.kind, entry.player, entry.hop) for entry in await lab.inbox(1)]
    assert told == [
        (EntryKind.ARRIVE, player_key("bob"), 9), (EntryKind.MOVED, player_key("ada"), 1), (EntryKind.MOVED, player_key("cid"), 5),
    ]  # fmt: skip
    assert {presence.name: presence.place for presence in await lab.ledger.online()} == {"ada": 0, "bob": 1}


async def test_two_histories_that_came_to_the_same_number(lab: Lab) -> None:
    """A late owner whose word is as old as the record's is told that its player is elsewhere: nobody is in two zones."""
    await lab.zones(0, 1)
    for name in ("ada", "bob", "cid"):
        await lab.enter(name)
    await lab.commit(0)
    await lab.commit(0, arrive("bob", 1), logout("cid", b"what cid has"))
    late = tuple(PlayerInZone(player_key(name), 1, 7, 3, moves) for name, moves in (("ada", 1), ("bob", 2), ("cid", 2)))
    await lab.ledger.reseed(seed(1, 1, 1, 50, players=late))
    told = [(entry.player, entry.hop) for entry in await lab.inbox(1) if entry.kind is EntryKind.MOVED]
    assert told == [(player_key("ada"), 1)], "bob came by the very move that the zone tells; cid is in the lobby"
    assert {presence.name: presence.place for presence in await lab.ledger.online()} == {"ada": 0, "bob": 1, "cid": 1}


async def test_who_logged_in_again_where_a_late_owner_knows_that_it_has_left(lab: Lab) -> None:
    """The login found the player in the zone, by an older copy: it is joined anew, with what was saved as it left."""
    await lab.zones(0)
    for name in ("ada", "bob"):
        await lab.enter(name)
    await lab.commit(0)
    again = await lab.enter("ada", gateway=9, slot=8)
    sent = (Sent(9, logout("ada", b"what ada has", seq=57)), Sent(9, logout("bob", b"what bob has")))
    await lab.ledger.reseed(seed(0, 1, 1, 10, sent=sent))
    joined = [entry for entry in await lab.inbox(0) if entry.kind is EntryKind.JOIN]
    assert joined == [Entry(EntryKind.JOIN, player_key("ada"), again.session, 9, 8, hop=3, last_seq=57, payload=b"what ada has")]
    assert [(presence.name, presence.place, presence.gateway) for presence in await lab.ledger.online()] == [("ada", 0, 9)]
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None and (record.moves, record.saved, record.home_zone, record.seq) == (3, b"what ada has", 0, 57)


async def test_numbers_rise_above_all_that_a_zone_remembers(lab: Lab) -> None:
    """More moves than a generation has room for: the owner says so, and who comes in from the lobby is above them all the same."""
    await lab.zones(0)
    highest = 5 * MOVES_A_GENERATION + 3
    assert moves_floor(generation_above(highest)) == 6 * MOVES_A_GENERATION
    assert [moves_floor(generation_above(n)) for n in (0, 1, MOVES_A_GENERATION)] == [0, MOVES_A_GENERATION, MOVES_A_GENERATION]
    await lab.ledger.reseed(seed(0, 1, 1, 9, highest=highest))
    assert (await lab.ledger.view()).generation == generation_above(highest) == 7
    await lab.enter("ada")
    (joined,) = await lab.inbox(0)
    assert joined.hop == 6 * MOVES_A_GENERATION + 1 > highest
