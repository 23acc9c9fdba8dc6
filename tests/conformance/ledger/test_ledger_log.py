"""x."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ledger_lab import Lab, arrive, effect, logout

from perdure.ledger import keys
from perdure.ledger.ledger import INBOX_PAGE_BYTES, INBOX_PAGE_ENTRIES
from perdure.ledger.record import blob_digest
from perdure.ledger.values import CommitAnswer, CommitStatus, Transfer, WorldSettings, ZoneHead
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import key_hex, player_key

pytestmark = pytest.mark.asyncio

OK, FENCED, GAP, BROKEN = CommitStatus.OK, CommitStatus.FENCED, CommitStatus.GAP, CommitStatus.BROKEN


# --- world ------------------------------------------------------------------------------------------------------------


async def test_the_first_to_record_the_world_wins(lab: Lab) -> None:
    assert await lab.ledger.world() is None
    first = WorldSettings("main", "arena", "ab", '{"f": [1, "µ"]}', 4, 3, 2**63 - 1, 20)
    assert await lab.ledger.init_world(first) == first
    assert await lab.ledger.init_world(WorldSettings("main", "tag", "cd", "{}", 1, 1, 1, 10)) == first
    assert await lab.ledger.world() == first


# --- what waits -------------------------------------------------------------------------------------------------------


async def test_an_owner_is_told_which_inboxes_hold_something_and_nothing_is_taken(lab: Lab) -> None:
    await lab.zones(0, 1, 2)
    assert (await lab.ledger.waiting([])).zones == frozenset()
    assert (await lab.ledger.waiting([0, 1, 2, 3])).zones == frozenset()
    await lab.enter("ada", spawn=1)
    told = await lab.unchanged(lab.ledger.waiting([0, 1, 2, 3]))
    assert told.zones == {1}
    assert (await lab.ledger.waiting([0, 2])).zones == frozenset(), "only of those that are asked for"
    assert len((await lab.commit(1)).page) == 1
    assert (await lab.ledger.waiting([0, 1, 2, 3])).zones == frozenset()
    await lab.commit(1, arrive("ada", 2))
    again = await lab.ledger.waiting(range(5000))
    assert again.zones == {2} and again.server == told.server


# --- commit -----------------------------------------------------------------------------------------------------------


async def test_commits_follow_each_other_and_stand_in_the_log(lab: Lab) -> None:
    await lab.zones(0)
    for tick in range(1, 4):
        assert await lab.commit(0, record=bytes([0, 255, tick])) == CommitAnswer(OK)
    generation, epoch, tick, digest = lab.heads[0]
    assert await lab.ledger.zone_head(0) == ZoneHead(0, generation, epoch, "shard-a", tick, digest)
    log = await lab.ledger.read_log(0, 1)
    assert [(row.tick, row.record, row.page) for row in log] == [(tick, bytes([0, 255, tick]), ()) for tick in range(1, 4)]
    assert log[-1].digest == digest
    assert [row.tick for row in await lab.ledger.read_log(0, 2)] == [2, 3]
    assert [row.tick for row in await lab.ledger.read_log(0, 0, limit=2)] == [1, 2]
    assert await lab.ledger.read_log(0, 1, limit=0) == []
    assert await lab.ledger.read_log(0, 4) == []
    assert await lab.ledger.read_log(5, 1) == []


async def test_many_zones_commit_in_one_call_and_answer_in_order(lab: Lab) -> None:
    await lab.zones(*range(20))
    good = [lab.next(zone, record=b"%d" % zone) for zone in range(20)]
    spoilt = [*good[:7], lab.next(7, epoch=0), *good[8:]]
    answers = await lab.ledger.commit(spoilt)
    assert [answer.status for answer in answers] == [OK] * 7 + [FENCED] + [OK] * 12
    assert [(await lab.ledger.zone_head(zone)).tick for zone in (6, 7, 8)] == [1, 0, 1]
    assert await lab.ledger.commit([]) == []


async def test_a_resent_commit_gets_the_stored_page_and_writes_nothing(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada")
    commit = lab.next(0)
    (first,) = await lab.ledger.commit([commit])
    assert first.status is OK and len(first.page) == 1
    await lab.enter("bob")
    assert await lab.unchanged(lab.ledger.commit([commit])) == [first]
    assert len(await lab.inbox(0)) == 1


async def test_the_same_tick_with_another_digest_is_another_process_of_the_name(lab: Lab) -> None:
    await lab.zones(0)
    commit = lab.next(0)
    await lab.commit(0)
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0, tick=1, previous="", digest="ee" * 16)]))
    assert answer.status is FENCED and "tick 1" in answer.detail and commit.digest in answer.detail


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"epoch": 0}, FENCED),
        ({"generation": 0}, FENCED),
        ({"generation": 0, "epoch": 9}, FENCED),
        ({"epoch": 2}, GAP),
        ({"generation": 2}, GAP),
        ({"generation": 2, "epoch": 0}, GAP),
        ({"tick": 4}, GAP),
        ({"tick": 0}, FENCED),
        ({"tick": 1, "digest": "ab" * 16}, FENCED),
        ({"tick": 2, "digest": "ab" * 16}, FENCED),
        ({"previous": "ab" * 16}, GAP),
        ({"zone": 99}, GAP),
        ({"transfers": (arrive("nobody", 1),)}, BROKEN),
        ({"transfers": (logout("nobody"),)}, BROKEN),
        ({"transfers": (Transfer(-1, 0, b"saved"),)}, BROKEN),
    ],
)
async def test_a_refused_commit_writes_nothing(lab: Lab, change: dict[str, Any], status: CommitStatus) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.commit(0)
    await lab.commit(0)
    await lab.push(0, Entry(EntryKind.DETACH).pack())
    (answer,) = await lab.unchanged(lab.ledger.commit([replace(lab.next(0), **change)]))
    assert answer.status is status
    assert answer.detail and answer.page == ()
    assert (await lab.commit(0)).status is OK


async def test_one_broken_transfer_stops_the_good_ones_beside_it(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.commit(0)
    for transfers in (
        (effect(1), arrive("ada", 1), arrive("nobody", 1)),
        (arrive("ada", 1), arrive("ada", 1)),
        (arrive("ada", 1), logout("ada")),
    ):
        (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0, transfers=transfers)]))
        assert answer.status is BROKEN and "is not in zone 0" in answer.detail


async def test_an_old_owner_is_fenced_at_once_by_an_assignment(lab: Lab) -> None:
    await lab.zones(0)
    await lab.commit(0)
    assert await lab.ledger.assign(lab.term, 0, "shard-b", 1) == 2
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0)]))
    assert answer.status is FENCED and "epoch 2" in answer.detail
    generation, _, tick, digest = lab.heads[0]
    lab.heads[0] = (generation, 2, tick, digest)
    assert (await lab.commit(0)).status is OK


async def test_a_resend_of_a_fenced_owner_is_fenced_even_where_the_tick_is_there(lab: Lab) -> None:
    await lab.zones(0)
    commit = lab.next(0)
    await lab.commit(0)
    await lab.ledger.assign(lab.term, 0, "shard-b", 1)
    (answer,) = await lab.unchanged(lab.ledger.commit([commit]))
    assert answer.status is FENCED


# --- transfers and places ---------------------------------------------------------------------------------------------


async def test_an_entity_without_a_player_reaches_the_other_inbox_as_it_is(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.commit(0, effect(1, b"\x00one"), effect(1, b"two"), effect(0, b"to myself"))
    assert (await lab.commit(1)).page == (effect(1, b"\x00one").entry, effect(1, b"two").entry)
    assert (await lab.commit(0)).page == (effect(0, b"to myself").entry,)
    assert (await lab.commit(1)).page == ()


async def test_a_player_crosses_a_border_exactly_once(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.commit(0)
    crossing = arrive("ada", 1)
    await lab.commit(0, crossing)
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None and record.presence.place == 1
    assert [presence.name for presence in await lab.ledger.online(1)] == ["ada"]
    assert await lab.ledger.online(0) == []
    (again,) = await lab.unchanged(lab.ledger.commit([lab.next(0, transfers=[arrive("ada", 1, hop=3)])]))
    assert again.status is BROKEN
    assert (await lab.commit(0, crossing)).status is OK, "a move that has happened is passed over"
    assert (await lab.commit(1)).page == (crossing.entry,)
    assert (await lab.commit(1)).page == ()


async def test_a_player_who_still_waits_in_the_inbox_cannot_leave(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0, transfers=[arrive("ada", 1)])]))
    assert answer.status is BROKEN and "still in the inbox" in answer.detail


async def test_a_transfer_to_the_own_zone_keeps_the_place(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada")
    await lab.commit(0)
    assert (await lab.commit(0, arrive("ada", 0))).status is OK
    assert [presence.name for presence in await lab.ledger.online(0)] == ["ada"]
    assert [unpack_entry(entry).kind for entry in (await lab.commit(0)).page] == [EntryKind.ARRIVE]


async def test_a_logout_saves_the_player_and_its_zone(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.commit(0)
    await lab.commit(0, arrive("ada", 1))
    await lab.commit(1)
    await lab.commit(1, logout("ada", b"\x00\xffsaved", hop=3))
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None
    assert (record.saved, record.home_zone) == (b"\x00\xffsaved", 1)
    assert (record.presence.place, record.presence.gateway, record.presence.slot) == (-1, -1, -1)
    assert await lab.ledger.online() == []
    again = await lab.enter("ada", spawn=0)
    assert (again.session, again.place, again.old_gateway) == (2, 1, -1)
    (joined,) = await lab.inbox(1)
    assert (joined.kind, joined.session, joined.hop, joined.payload) == (EntryKind.JOIN, 2, 4, b"\x00\xffsaved")


@pytest.mark.parametrize("seq", [57, 2**32 - 1])
async def test_numbers_of_commands_go_on_after_the_lobby(lab: Lab, seq: int) -> None:
    """Else a command whose acknowledgement was lost before the logout is applied twice when it is sent again."""
    await lab.zones(0)
    await lab.enter("ada")
    await lab.commit(0)
    await lab.commit(0, logout("ada", seq=seq))
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None and record.seq == seq
    await lab.enter("ada", gateway=8)
    (joined,) = [unpack_entry(entry) for entry in (await lab.commit(0)).page]
    assert joined == Entry(EntryKind.JOIN, player_key("ada"), 2, 8, 3, hop=3, last_seq=seq, payload=b"saved")
    await lab.enter("ada", gateway=9)
    assert [(entry.kind, entry.last_seq) for entry in await lab.inbox(0)] == [(EntryKind.ATTACH, 0)], "the zone knows it itself"
    await lab.commit(0)
    await lab.commit(0, logout("ada", session=3, hop=4, seq=5))
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None and record.seq == 5, "what the zone says holds, as it does of what is saved"


async def test_a_record_of_a_build_that_kept_no_number_counts_from_the_start(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada")
    await lab.commit(0)
    await lab.commit(0, logout("ada", seq=57))
    if lab.raw is not None:
        assert await lab.raw.hdel(keys.key(lab.world, "PLAYER", key_hex(player_key("ada"))), "seq") == 1  # type: ignore[misc]
    else:
        assert lab.store is not None
        lab.store.data.players[player_key("ada")].seq = 0
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None and record.seq == 0
    await lab.enter("ada")
    assert [(entry.kind, entry.last_seq) for entry in await lab.inbox(0)] == [(EntryKind.JOIN, 0)]


async def test_what_waits_for_a_player_follows_it_over_the_border(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.enter("bob", slot=4)
    await lab.commit(0)
    second = await lab.enter("ada", gateway=8, slot=5)
    await lab.enter("bob", gateway=8, slot=6)
    await lab.ledger.detach(player_key("ada"), second.session)
    await lab.ledger.leave(player_key("ada"), second.session)
    answer = await lab.commit(0, arrive("ada", 1))
    assert [(unpack_entry(entry).kind, unpack_entry(entry).player) for entry in answer.page] == [(EntryKind.ATTACH, player_key("bob"))]
    arrived = [unpack_entry(entry) for entry in (await lab.commit(1)).page]
    assert [entry.kind for entry in arrived] == [EntryKind.ARRIVE, EntryKind.ATTACH, EntryKind.DETACH, EntryKind.LEAVE]
    assert [entry.player for entry in arrived] == [player_key("ada")] * 4
    assert (arrived[1].gateway, arrived[1].slot, arrived[1].session) == (8, 5, 2)
    assert await lab.inbox(0) == []


async def test_the_loss_of_its_gateway_follows_a_player_over_the_border(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada", gateway=7)
    await lab.enter("bob", gateway=8)
    await lab.commit(0)
    await lab.ledger.gateway_lost(lab.term, 7)
    await lab.commit(1)
    await lab.commit(0, arrive("ada", 1, gateway=7), arrive("bob", 1, gateway=8))
    arrived = [unpack_entry(entry) for entry in (await lab.commit(1)).page]
    kinds = [(entry.kind, entry.player) for entry in arrived]
    assert kinds == [(EntryKind.ARRIVE, player_key("ada")), (EntryKind.DETACH, player_key("ada")), (EntryKind.ARRIVE, player_key("bob"))]
    assert arrived[1].session == 1


async def test_one_who_comes_back_as_it_logs_out_is_joined_anew(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada")
    await lab.commit(0)
    await lab.ledger.leave(player_key("ada"), 1)
    back = await lab.enter("ada", gateway=8, slot=5)
    assert back.place == 0
    await lab.ledger.detach(player_key("ada"), back.session)
    page = [unpack_entry(entry) for entry in (await lab.commit(0, logout("ada", b"newest", seq=57))).page]
    assert [entry.kind for entry in page] == [EntryKind.JOIN, EntryKind.DETACH]
    assert page[0] == Entry(EntryKind.JOIN, player_key("ada"), 2, 8, 5, hop=3, last_seq=57, payload=b"newest")
    record = await lab.ledger.player(player_key("ada"))
    assert record is not None and record.presence.place == 0 and record.saved == b"newest" and (record.moves, record.seq) == (3, 57)
    assert (await lab.commit(0, logout("ada", hop=4))).status is OK
    assert await lab.ledger.online() == []


async def test_following_works_past_the_first_page(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.commit(0)
    filler = [effect(0, b"%04d" % at).entry for at in range(INBOX_PAGE_ENTRIES + 1500)]
    await lab.push(0, *filler[:1700])
    await lab.enter("ada", gateway=9)
    await lab.push(0, *filler[1700:])
    answer = await lab.commit(0, arrive("ada", 1))
    assert answer.page == tuple(filler[:INBOX_PAGE_ENTRIES])
    assert [entry.pack() for entry in await lab.inbox(0)] == filler[INBOX_PAGE_ENTRIES:]
    assert [entry.kind for entry in await lab.inbox(1)] == [EntryKind.ARRIVE, EntryKind.ATTACH]


# --- pages ------------------------------------------------------------------------------------------------------------


async def test_a_page_holds_so_many_entries_and_no_more(lab: Lab) -> None:
    await lab.zones(0)
    entries = [effect(0, b"%d" % at).entry for at in range(INBOX_PAGE_ENTRIES + 3)]
    await lab.push(0, *entries)
    assert (await lab.commit(0)).page == tuple(entries[:INBOX_PAGE_ENTRIES])
    assert (await lab.ledger.zone_head(0)).inbox_length == 3
    assert (await lab.commit(0)).page == tuple(entries[INBOX_PAGE_ENTRIES:])
    assert [len(row.page) for row in await lab.ledger.read_log(0, 1)] == [INBOX_PAGE_ENTRIES, 3]


async def test_a_page_holds_so_many_bytes_but_one_entry_at_least(lab: Lab) -> None:
    await lab.zones(0)
    big, small = effect(0, b"b" * INBOX_PAGE_BYTES).entry, effect(0, b"s" * (INBOX_PAGE_BYTES // 2 - 32)).entry
    assert len(small) * 2 == INBOX_PAGE_BYTES
    await lab.push(0, big, small, small, small)
    assert (await lab.commit(0)).page == (big,)
    assert (await lab.commit(0)).page == (small, small)
    assert (await lab.commit(0)).page == (small,)
    assert (await lab.commit(0)).page == ()


# --- checkpoints ------------------------------------------------------------------------------------------------------


async def flip(lab: Lab, zone: int, blob: bytes, tick: int | None = None) -> CommitStatus:
    generation, epoch, at, _ = lab.heads[zone]
    tick = at if tick is None else tick
    await lab.ledger.put_checkpoint(zone, tick, epoch, blob)
    return await lab.ledger.flip_checkpoint(zone, generation, epoch, tick, blob_digest(blob))


async def stored_blobs(lab: Lab, zone: int) -> set[tuple[int, int]]:
    if lab.store is not None:
        return set(lab.store.data.zone(zone).blobs)
    assert lab.raw is not None
    start = keys.key(lab.world, "BLOB", zone, "")
    found = [key.decode().removeprefix(start).split(":") async for key in lab.raw.scan_iter(match=start + "*", count=1000)]
    return {(int(tick), int(epoch)) for tick, epoch in found}


async def test_two_checkpoints_are_kept_and_the_log_reaches_back_to_the_older(lab: Lab) -> None:
    await lab.zones(0)
    kept: list[tuple[int, str]] = []
    for tick in range(1, 10):
        await lab.commit(0, record=b"%d" % tick)
        if tick % 3 == 0:
            blob = b"\x00blob%d" % tick
            assert await flip(lab, 0, blob) is OK
            kept.insert(0, (tick, blob_digest(blob)))
            assert (await lab.ledger.zone_head(0)).checkpoints == tuple(kept[:2])
            first = 1 if tick == 3 else tick - 3
            assert [row.tick for row in await lab.ledger.read_log(0, 0)] == list(range(first, tick + 1))
    assert await lab.ledger.read_checkpoint(0, 9) == b"\x00blob9"
    assert await lab.ledger.read_checkpoint(0, 6) == b"\x00blob6"
    assert await lab.ledger.read_checkpoint(0, 3) is None
    assert await lab.ledger.read_checkpoint(1, 3) is None
    assert await stored_blobs(lab, 0) == {(9, 1), (6, 1)}
    (row,) = await lab.ledger.read_log(0, 9)
    (answer,) = await lab.unchanged(lab.ledger.commit([lab.next(0, tick=9, digest=row.digest, record=row.record)]))
    assert answer.status is OK


async def test_an_image_whose_answer_was_lost_goes_with_the_next_one(lab: Lab) -> None:
    """Else they pile up as long as no checkpoint comes through: seed 1437 of the simulation."""
    await lab.zones(0)
    for _ in range(4):
        await lab.commit(0)
    assert await flip(lab, 0, b"four") is OK
    await lab.ledger.put_checkpoint(0, 9, 0, b"of an owner before")
    for _ in range(4):
        await lab.commit(0)
    for tick in (5, 6, 7, 8):
        await lab.ledger.put_checkpoint(0, tick, 1, b"lost")
    assert await stored_blobs(lab, 0) == {(4, 1), (8, 1), (9, 0)}
    assert await lab.ledger.flip_checkpoint(0, 1, 1, 8, blob_digest(b"lost")) is OK
    assert await stored_blobs(lab, 0) == {(4, 1), (8, 1)}


async def test_a_blob_that_was_only_put_is_referred_to_by_nothing_and_later_removed(lab: Lab) -> None:
    await lab.zones(0)
    await lab.commit(0)
    await lab.ledger.put_checkpoint(0, 1, 1, b"lost")
    await lab.ledger.put_checkpoint(0, 3, 1, b"early")
    assert await lab.ledger.read_checkpoint(0, 1) is None
    await lab.commit(0)
    assert await flip(lab, 0, b"two") is OK
    assert await stored_blobs(lab, 0) == {(2, 1), (3, 1)}


async def test_a_checkpoint_of_the_same_tick_replaces_the_newest(lab: Lab) -> None:
    await lab.zones(0)
    await lab.commit(0)
    assert await flip(lab, 0, b"one") is OK
    await lab.commit(0)
    assert await flip(lab, 0, b"two") is OK
    await lab.ledger.assign(lab.term, 0, "shard-b", 1)
    lab.heads[0] = (1, 2, *lab.heads[0][2:])
    assert await flip(lab, 0, b"two again") is OK
    assert (await lab.ledger.zone_head(0)).checkpoints == ((2, blob_digest(b"two again")), (1, blob_digest(b"one")))
    assert await stored_blobs(lab, 0) == {(2, 2), (1, 1)}
    assert await lab.ledger.read_checkpoint(0, 1) == b"one"


async def test_a_refused_flip_writes_nothing(lab: Lab) -> None:
    await lab.zones(0)
    await lab.commit(0)
    await lab.commit(0)
    assert await flip(lab, 0, b"two") is OK
    await lab.ledger.put_checkpoint(0, 3, 1, b"three")
    await lab.ledger.put_checkpoint(0, 1, 1, b"one")

    async def refused(generation: int, epoch: int, tick: int, blob: bytes, zone: int = 0) -> CommitStatus:
        return await lab.unchanged(lab.ledger.flip_checkpoint(zone, generation, epoch, tick, blob_digest(blob)))

    assert await refused(1, 0, 2, b"two") is FENCED
    assert await refused(0, 1, 2, b"two") is FENCED
    assert await refused(1, 2, 2, b"two") is GAP
    assert await refused(1, 1, 9, b"nine") is BROKEN
    assert await refused(1, 1, 2, b"not what is stored") is BROKEN
    assert await refused(1, 1, 1, b"one") is GAP
    assert await refused(1, 1, 3, b"three") is GAP
    assert await refused(1, 1, 2, b"two", zone=5) is GAP
