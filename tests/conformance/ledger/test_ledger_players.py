"""Players: entering, resuming, being taken over, leaving; presence; the layout of entries that the ledger builds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ledger_lab import Lab, arrive, logout, request

from perdure.ledger import keys
from perdure.ledger.ledger import (
    INBOX_LIMIT_ENTRIES,
    PRESENCE_CHANNEL,
    PRESENCE_LOG_LENGTH,
    RESUME_MS,
    LedgerRefused,
    gateway_channel,
)
from perdure.ledger.values import EnterAnswer, EnterStatus, LobbyRecord, Presence
from perdure.wire.entries import NO_ORIGIN, Entry, EntryKind
from perdure.wire.identifiers import key_hex, player_key

pytestmark = pytest.mark.asyncio

ADA = player_key("ada")
WHEN = 1_700_000_000_123


async def test_a_newcomer_joins_the_spawn_zone(lab: Lab) -> None:
    await lab.zones(4)
    assert await lab.enter("ada", gateway=7, slot=3, spawn=4) == EnterAnswer(EnterStatus.OK, 1, 4, -1, -1)
    assert await lab.inbox(4) == [Entry(EntryKind.JOIN, ADA, 1, 7, 3, hop=1)]
    presence = Presence(ADA, "ada", 4, 7, 3, 1, WHEN)
    assert await lab.ledger.player(ADA) == LobbyRecord(presence, b"", -1, 1, "aa" * 32)
    assert await lab.ledger.online() == await lab.ledger.online(4) == [presence]
    assert await lab.ledger.player(ADA + 1) is None


async def test_entries_of_the_ledger_have_the_layout_of_the_wire(lab: Lab) -> None:
    """Numbers that use every byte, and a key whose raw bytes hold zeros."""
    await lab.zones(0)
    await lab.lead("another")
    player, gateway, slot = 0x7FFE_00FD_FC00_FA01, 0x7FFF_FEFD, 0xFFFE_FDFC
    odd = request("ada", gateway, slot, player=player)
    assert (await lab.ledger.enter(odd)).status is EnterStatus.OK
    await lab.commit(0)
    await lab.ledger.enter(odd)
    await lab.ledger.leave(player, 2)
    await lab.ledger.leave(player, -1, kick=True)
    await lab.ledger.detach(player, 2)
    await lab.ledger.gateway_lost(lab.term, gateway)
    assert await lab.inbox(0) == [
        Entry(EntryKind.ATTACH, player, 2, gateway, slot),
        Entry(EntryKind.LEAVE, player, 2),
        Entry(EntryKind.KICK, player, 2),
        Entry(EntryKind.DETACH, player, 2),
        Entry(EntryKind.GATEWAY_LOST, gateway=gateway),
    ]
    assert all(entry.origin == NO_ORIGIN for entry in await lab.inbox(0))
    assert (await lab.ledger.read_log(0, 1))[0].page == (Entry(EntryKind.JOIN, player, 1, gateway, slot, hop=1).pack(),)


async def test_a_second_login_takes_over_and_the_older_gateway_hears_of_it(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada", gateway=7, slot=3)
    await lab.commit(0)
    hints = lab.ledger.subscribe(gateway_channel(7))
    assert await hint(hints) == (gateway_channel(7), b"resync")
    assert await lab.enter("ada", gateway=8, slot=5, spawn=1, now_ms=WHEN + 9) == EnterAnswer(EnterStatus.OK, 2, 0, 7, 3)
    assert await hint(hints) == (gateway_channel(7), b"3")
    assert await lab.inbox(0) == [Entry(EntryKind.ATTACH, ADA, 2, 8, 5)]
    assert await lab.ledger.online() == [Presence(ADA, "ada", 0, 8, 5, 2, WHEN)]
    assert not await lab.unchanged(lab.ledger.detach(ADA, 1))
    assert not await lab.unchanged(lab.ledger.leave(ADA, 1))
    assert not await lab.unchanged(lab.ledger.leave(ADA, 1, kick=True))
    assert not await lab.unchanged(lab.ledger.leave(ADA, -1))


async def test_a_resume_token_works_once_and_is_rotated(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", resume_issued="11" * 32)
    for wrong in ("22" * 32, "11" * 31):
        answer = await lab.unchanged(lab.enter("ada", resume_presented=wrong))
        assert answer.status is EnterStatus.BAD_RESUME and answer.detail
    assert (await lab.enter("ada", resume_presented="11" * 32, resume_issued="22" * 32)).status is EnterStatus.OK
    answer = await lab.unchanged(lab.enter("ada", resume_presented="11" * 32, resume_issued="33" * 32))
    assert answer.status is EnterStatus.BAD_RESUME
    assert (await lab.enter("ada", resume_presented="22" * 32, resume_issued="33" * 32)).session == 3
    assert (await lab.enter("ada", resume_issued="44" * 32)).session == 4
    assert (await lab.unchanged(lab.enter("ada", resume_presented="33" * 32))).status is EnterStatus.BAD_RESUME
    answer = await lab.unchanged(lab.enter("bob", resume_presented="44" * 32))
    assert answer.status is EnterStatus.BAD_RESUME


@pytest.mark.parametrize("kick", [False, True])
async def test_who_logs_out_or_is_put_out_has_no_resume_token_any_more(lab: Lab, kick: bool) -> None:
    """Not even before the zone has done it: else who is put out would be in again before it is out."""
    await lab.zones(0)
    await lab.enter("ada", resume_issued="11" * 32)
    await lab.commit(0)
    assert await lab.ledger.leave(ADA, 1, kick=kick)
    assert (await lab.unchanged(lab.enter("ada", resume_presented="11" * 32))).status is EnterStatus.BAD_RESUME
    await lab.commit(0, logout("ada"))
    assert (await lab.unchanged(lab.enter("ada", resume_presented="11" * 32))).status is EnterStatus.BAD_RESUME
    assert (await lab.enter("ada")).status is EnterStatus.OK, "a login brings her back"


async def test_an_old_resume_token_brings_nobody_in_from_the_lobby(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", resume_issued="11" * 32)
    await lab.commit(0)
    late = WHEN + RESUME_MS + 1
    assert (await lab.enter("ada", now_ms=late, resume_presented="11" * 32, resume_issued="22" * 32)).status is EnterStatus.OK, (
        "in the world"
    )
    await lab.commit(0)
    await lab.commit(0, logout("ada", session=2))  # her grace time is over
    assert (await lab.unchanged(lab.enter("ada", now_ms=late, resume_presented="22" * 32))).status is EnterStatus.BAD_RESUME
    assert (await lab.enter("ada", now_ms=late - 1, resume_presented="22" * 32)).status is EnterStatus.OK


async def test_another_name_with_the_same_key_is_refused(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada")
    answer = await lab.unchanged(lab.ledger.enter(request("bob", player=ADA)))
    assert answer.status is EnterStatus.NAME_CLASH and "ada" in answer.detail and "bob" in answer.detail


async def test_a_lost_socket_detaches_and_a_resume_reattaches(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada")
    await lab.commit(0)
    assert await lab.ledger.detach(ADA, 1)
    assert await lab.inbox(0) == [Entry(EntryKind.DETACH, ADA, 1)]
    assert await lab.ledger.online() == [Presence(ADA, "ada", 0, -1, -1, 1, WHEN)]
    assert await lab.unchanged(lab.ledger.detach(ADA, 1)) is True
    assert await lab.enter("ada", gateway=8, slot=1, resume_presented="aa" * 32) == EnterAnswer(EnterStatus.OK, 2, 0, -1, -1)
    assert [entry.kind for entry in await lab.inbox(0)] == [EntryKind.DETACH, EntryKind.ATTACH]


async def test_nobody_detaches_or_leaves_from_the_lobby(lab: Lab) -> None:
    await lab.zones(0)
    assert not await lab.unchanged(lab.ledger.detach(ADA, 1))
    assert not await lab.unchanged(lab.ledger.leave(ADA, 1))
    await lab.enter("ada")
    await lab.commit(0)
    await lab.commit(0, logout("ada"))
    assert not await lab.unchanged(lab.ledger.detach(ADA, 1))
    assert not await lab.unchanged(lab.ledger.leave(ADA, 1))
    assert not await lab.unchanged(lab.ledger.leave(ADA, -1, kick=True))


async def test_leaving_posts_to_the_zone_where_the_player_is(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.commit(0)
    await lab.commit(0, arrive("ada", 1))
    assert await lab.ledger.leave(ADA, 1)
    assert [entry.kind for entry in await lab.inbox(1)] == [EntryKind.ARRIVE, EntryKind.LEAVE]
    assert [presence.name for presence in await lab.ledger.online(1)] == ["ada"]


async def test_nobody_enters_where_the_inbox_is_full(lab: Lab) -> None:
    await lab.zones(0)
    await lab.push(0, *([b"x"] * INBOX_LIMIT_ENTRIES))
    answer = await lab.unchanged(lab.enter("ada"))
    assert isinstance(answer, LedgerRefused) and "is full" in str(answer) and "\n" not in str(answer)


async def test_a_lost_gateway_is_told_to_every_zone_and_detaches_its_players(lab: Lab) -> None:
    await lab.zones(0, 1, 2)
    for at, name in enumerate(("ada", "bob", "cid")):
        await lab.enter(name, gateway=7, slot=at, spawn=at % 2)
    await lab.enter("dee", gateway=8)
    await lab.enter("ada", gateway=8)
    for zone in (0, 1):
        await lab.commit(zone)
    await lab.ledger.gateway_lost(lab.term, 7)
    for zone in (0, 1, 2):
        assert await lab.inbox(zone) == [Entry(EntryKind.GATEWAY_LOST, gateway=7)]
    assert {presence.name: presence.gateway for presence in await lab.ledger.online()} == {"ada": 8, "bob": -1, "cid": -1, "dee": 8}
    answer = await lab.unchanged(lab.ledger.gateway_lost(lab.term - 1, 8))
    assert isinstance(answer, LedgerRefused) and "term" in str(answer)


async def test_a_lost_gateway_of_very_many_players_is_marked_in_batches(lab: Lab) -> None:
    await lab.zones(0)
    names = [f"player-{at}" for at in range(1203)]
    for first in range(0, len(names), 100):
        await asyncio.gather(*(lab.enter(name) for name in names[first : first + 100]))
    await lab.ledger.gateway_lost(lab.term, 7)
    online = await lab.ledger.online(0)
    assert [presence.name for presence in online] == sorted(names)
    assert {presence.gateway for presence in online} == {-1}
    assert [entry.kind for entry in await lab.inbox(0)].count(EntryKind.GATEWAY_LOST) == 1


async def test_presence_changes_are_published_and_kept_on_a_capped_log(lab: Lab) -> None:
    await lab.zones(0, 1)
    hints = lab.ledger.subscribe(PRESENCE_CHANNEL)
    assert await hint(hints) == (PRESENCE_CHANNEL, b"resync")
    await lab.enter("ada")
    await lab.commit(0)
    await lab.enter("ada", gateway=8, slot=4)
    await lab.commit(0)
    await lab.commit(0, arrive("ada", 1))
    await lab.commit(1)
    await lab.ledger.detach(ADA, 2)
    await lab.commit(1)
    await lab.commit(1, logout("ada", hop=3))
    seen = [json.loads((await hint(hints))[1]) for _ in range(5)]
    base = {"player": key_hex(ADA), "name": "ada", "since_ms": WHEN}
    assert seen == [
        {"change": "enter", **base, "place": 0, "gateway": 7, "slot": 3, "session": 1},
        {"change": "attach", **base, "place": 0, "gateway": 8, "slot": 4, "session": 2},
        {"change": "move", **base, "place": 1, "gateway": 8, "slot": 4, "session": 2},
        {"change": "detach", **base, "place": 1, "gateway": -1, "slot": -1, "session": 2},
        {"change": "leave", **base, "place": -1, "gateway": -1, "slot": -1, "session": 2},
    ]
    assert [json.loads(row) for row in await presence_log(lab)] == seen
    for at in range(PRESENCE_LOG_LENGTH // 100):
        await asyncio.gather(*(lab.enter(f"p{at}-{player}") for player in range(100)))
    rows = await presence_log(lab)
    assert len(rows) == PRESENCE_LOG_LENGTH and json.loads(rows[0])["name"] != "ada"


async def test_presence_rows_leave_nothing_behind(lab: Lab) -> None:
    """What stands about a player beside its record is derived: all of it is gone once it is in the lobby."""
    if lab.raw is None:
        pytest.skip("the twin in memory derives presence as it is asked")
    await lab.zones(0, 1)
    await lab.enter("ada")
    await lab.enter("ada", gateway=8)
    await lab.commit(0)
    await lab.commit(0, arrive("ada", 1))
    await lab.commit(1)
    await lab.commit(1, logout("ada", hop=3))
    left = {key async for key in lab.raw.scan_iter(match=keys.base(lab.world) + "*", count=1000)}
    rows = [keys.key(lab.world, "ONLINE")]
    rows += [keys.key(lab.world, "ZONE_PLAYERS", zone) for zone in (0, 1)]
    rows += [keys.key(lab.world, "GATEWAY_PLAYERS", gateway) for gateway in (7, 8)]
    assert not {row.encode() for row in rows} & left


async def hint(hints: AsyncIterator[tuple[str, bytes]]) -> tuple[str, bytes]:
    async with asyncio.timeout(10):
        return await anext(hints)


async def presence_log(lab: Lab) -> list[str]:
    if lab.store is not None:
        return list(lab.store.data.presence_log)
    assert lab.raw is not None
    rows: Any = await lab.raw.xrange(keys.key(lab.world, "PRESENCE_LOG"))
    return [row[b"c"].decode() for _, row in rows]
