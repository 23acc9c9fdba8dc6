"""A world opens for each server of the ledger anew; gateways say again which sessions they have."""

from __future__ import annotations

import pytest
from ledger_lab import Lab, logout, member, seed

from perdure.ledger import keys
from perdure.ledger.generations import MOST_GENERATIONS, MOVES_A_GENERATION
from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable
from perdure.ledger.values import CommitStatus, EnterStatus, Member, PlayerInZone, Restated
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import player_key

pytestmark = pytest.mark.asyncio


async def shut(lab: Lab, by: str = "another") -> None:
    """Make the server another one, as far as this world can tell."""
    if lab.store is not None:
        lab.store.data.opened_for = by
        return
    assert lab.raw is not None
    control = keys.key(lab.world, "CONTROL")
    await (lab.raw.hset(control, "opened_for", by) if by else lab.raw.hdel(control, "opened_for"))  # type: ignore[misc]


async def test_nobody_comes_or_goes_before_the_world_is_open(lab: Lab) -> None:
    await lab.zones(0)
    session = (await lab.enter("ada")).session
    await shut(lab)
    assert not (await lab.ledger.view()).opened
    for call in (
        lab.enter("bob"), lab.ledger.detach(player_key("ada"), session), lab.ledger.leave(player_key("ada"), session),
        lab.ledger.restate(7, []),
    ):  # fmt: skip
        answer = await lab.unchanged(call)
        assert isinstance(answer, LedgerUnavailable) and "the world is not open" in str(answer)
    assert (await lab.commit(0)).status is CommitStatus.OK, "zones that run go on"
    before = await lab.ledger.routes_version()
    assert await lab.ledger.open_world(lab.term) == 2
    view = await lab.ledger.view()
    assert view.opened and view.generation == 2 and view.version == before + 1
    assert (await lab.enter("bob")).status is EnterStatus.OK


async def test_nobody_is_given_a_zone_before_the_world_is_open(lab: Lab) -> None:
    """Seed 691 of the simulation: a move decided before the ledger went back came after it, and what the zone had since was lost."""
    await lab.zones(0)
    await shut(lab)
    for zone, epoch in ((0, 1), (5, 0)):
        refused = await lab.unchanged(lab.ledger.assign(lab.term, zone, "shard-b", epoch))
        assert isinstance(refused, LedgerRefused) and "the world is not open" in str(refused)
    assert (await lab.commit(0)).status is CommitStatus.OK
    await lab.ledger.open_world(lab.term)
    assert await lab.ledger.assign(lab.term, 0, "shard-b", 1) == 2


async def test_nobody_is_put_out_before_the_world_is_open(lab: Lab) -> None:
    await lab.zones(0)
    await lab.ledger.heartbeat(member("shard-a", 11))
    await lab.enter("ada")
    await shut(lab)
    for call in (lab.ledger.evict(lab.term, "shard-a", 11), lab.ledger.gateway_lost(lab.term, 7)):
        refused = await lab.unchanged(call)
        assert isinstance(refused, LedgerRefused) and "the world is not open" in str(refused)
    await lab.ledger.depart("shard-a", 11)


async def test_a_world_is_opened_once_for_a_server(lab: Lab) -> None:
    await lab.lead()
    before = await lab.ledger.routes_version()
    assert await lab.unchanged(lab.ledger.open_world(lab.term, 9)) == 1, "it is open"
    assert isinstance(await lab.unchanged(lab.ledger.open_world(lab.term - 1)), LedgerRefused)
    await shut(lab)
    assert isinstance(await lab.unchanged(lab.ledger.open_world(lab.term - 1)), LedgerRefused)
    assert await lab.ledger.open_world(lab.term, 9) == 9
    assert await lab.ledger.routes_version() == before + 1


async def test_the_first_opening_of_a_data_set_leaves_the_generation(lab: Lab) -> None:
    await lab.lead()
    await shut(lab, "")
    assert await lab.ledger.open_world(lab.term) == 1


async def test_zones_are_assigned_under_the_worlds_generation(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.commit(0)
    await shut(lab)
    await lab.ledger.open_world(lab.term, 4)
    assert await lab.ledger.assign(lab.term, 0, "shard-b", 1) == 2
    assert await lab.ledger.assign(lab.term, 5, "shard-b", 0) == 1
    head = await lab.ledger.zone_head(0)
    assert (head.generation, head.epoch, head.tick) == (4, 2, 1)
    assert {zone: route.generation for zone, route in (await lab.ledger.view()).zones.items()} == {0: 4, 1: 1, 5: 4}


async def test_gateways_say_what_the_ledger_forgot_of_sessions(lab: Lab) -> None:
    await lab.zones(0)
    here = (PlayerInZone(player_key("ada"), 3, 7, 5, 2), PlayerInZone(player_key("bob"), 1, 7, 6, 2))
    await lab.ledger.reseed(seed(0, 1, 1, 8, players=here))
    said = (
        Restated(player_key("ada"), 3, 5, "ada", "aa" * 32), Restated(player_key("bob"), 2, 6, "bob", "bb" * 32),
        Restated(player_key("cid"), 1, 9, "cid", "cc" * 32),
    )  # fmt: skip
    assert await lab.ledger.restate(7, said, now_ms=1234) == [True, False, False]
    found = {presence.player: presence for presence in await lab.ledger.online()}
    ada, bob = found[player_key("ada")], found[player_key("bob")]
    assert (ada.name, ada.since_ms, ada.gateway, ada.slot) == ("ada", 1234, 7, 5)
    assert (bob.name, bob.gateway) == ("", 7)
    assert await lab.ledger.player(player_key("cid")) is None
    assert await lab.unchanged(lab.ledger.restate(7, said, now_ms=99)) == [True, False, False], "said again, it changes nothing"
    assert (await lab.enter("ada", resume_presented="00" * 32)).status is EnterStatus.BAD_RESUME
    assert (await lab.enter("ada", resume_presented="aa" * 32)).status is EnterStatus.OK


async def test_players_that_no_gateway_has_are_detached(lab: Lab) -> None:
    await lab.zones(0)
    for name in ("ada", "bob", "cid"):
        await lab.enter(name, gateway=7)
    await lab.enter("dan", gateway=8)
    await lab.commit(0)
    await lab.commit(0, logout("cid"))
    assert await lab.ledger.restate(7, [], keep=[player_key("bob")]) == []
    assert {presence.name: presence.gateway for presence in await lab.ledger.online()} == {"ada": -1, "bob": 7, "dan": 8}
    assert [(entry.kind, entry.player) for entry in await lab.inbox(0)] == [(EntryKind.DETACH, player_key("ada"))]


async def test_a_player_whom_the_ledger_forgot_has_a_number_above_all_that_zones_remember(lab: Lab) -> None:
    """A zone passes over who comes at a number that it has seen: who comes anew must not."""
    await lab.zones(0)
    await lab.enter("ada")
    (joined,) = await lab.ledger.read_inbox(0)
    assert unpack_entry(joined).hop == 1
    await shut(lab)
    assert await lab.ledger.open_world(lab.term, 3) == 3
    await lab.enter("bob")
    (_, joined) = await lab.ledger.read_inbox(0)
    assert unpack_entry(joined).hop == 2 * MOVES_A_GENERATION + 1
    assert (await lab.ledger.player(player_key("bob"))).moves == 2 * MOVES_A_GENERATION + 1  # type: ignore[union-attr]


async def test_the_numbers_of_moves_stay_within_their_32_bits(lab: Lab) -> None:
    await lab.zones(0)
    await shut(lab)
    await lab.ledger.open_world(lab.term, MOST_GENERATIONS + 5)
    await lab.enter("ada")
    (joined,) = await lab.ledger.read_inbox(0)
    assert unpack_entry(joined).hop == (MOST_GENERATIONS - 1) * MOVES_A_GENERATION + 1 < 1 << 31


async def test_a_server_that_went_back_gives_a_name_to_the_process_that_it_had_accepted_last(lab: Lab) -> None:
    """It has an earlier process under the name. The one that lives was accepted by it, before it went back."""
    await lab.zones(0)
    await lab.ledger.heartbeat(Member("shard-a", "shard", 11, "unix:/a", 1, {"state": "ready"}))
    later = Member("shard-a", "shard", 12, "unix:/b", 9, {"state": "ready"})
    assert not (await lab.unchanged(lab.ledger.heartbeat(later, known=True))).accepted, "the world is open: it was put out"
    await shut(lab)
    assert not (await lab.unchanged(lab.ledger.heartbeat(later))).accepted, "a newcomer waits"
    before = await lab.ledger.routes_version()
    assert (await lab.ledger.heartbeat(later, known=True)).accepted
    view = await lab.ledger.view()
    assert view.members["shard-a"] == later and view.version == before + 1
    await lab.ledger.open_world(lab.term)
    assert (await lab.ledger.heartbeat(later)).accepted
    assert not (await lab.unchanged(lab.ledger.heartbeat(Member("shard-a", "shard", 11, "unix:/a", 2, {"state": "ready"})))).accepted
