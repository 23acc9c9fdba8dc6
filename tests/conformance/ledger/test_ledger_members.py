"""Membership, election, assignment, orders, and the hints that tell of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ledger_lab import Lab, member

from perdure.ledger import keys
from perdure.ledger.ledger import EVICTED_REMEMBERED, ORDERS_LIMIT, ROUTES_CHANNEL, SUSPECT_CHANNEL, LedgerRefused, gateway_channel
from perdure.ledger.record import blob_digest
from perdure.ledger.values import CommitStatus, HeartbeatAnswer, Leadership, Member, ZoneHead, ZoneRoute

pytestmark = pytest.mark.asyncio


async def hint(hints: AsyncIterator[tuple[str, bytes]]) -> tuple[str, bytes]:
    async with asyncio.timeout(10):
        return await anext(hints)


# --- heartbeats -------------------------------------------------------------------------------------------------------


async def test_an_empty_world_has_an_empty_view(lab: Lab) -> None:
    view = await lab.ledger.view()
    assert (view.version, view.term, view.leader, view.generation) == (0, 0, "", 1)
    assert (view.zones, view.members, view.suspects, view.ticks, view.draining) == ({}, {}, {}, {}, frozenset())
    assert view.run_id == (await lab.ledger.view()).run_id != ""
    assert await lab.ledger.routes_version() == 0


async def test_registering_raises_the_version_and_plain_beats_do_not(lab: Lab) -> None:
    info = {"state": "starting", "build": "b1", "pid": 12, "load": 0.5, "host": "h", "deep": {"list": [1, None, "µ"]}}
    first = Member("shard-a", "shard", 2**31 - 1, "unix:/s", 1, info)
    assert await lab.ledger.heartbeat(first) == HeartbeatAnswer(True, 1)
    assert (await lab.ledger.view()).members == {"shard-a": first}
    second = Member("shard-a", "shard", 2**31 - 1, "unix:/s", 2, {**info, "load": 0.75})
    assert await lab.ledger.heartbeat(second) == HeartbeatAnswer(True, 1)
    assert (await lab.ledger.view()).members == {"shard-a": second}


@pytest.mark.parametrize("change", [{"state": "draining"}, {"address": "tcp:h:1"}])
async def test_a_change_that_steers_raises_the_version(lab: Lab, change: dict[str, Any]) -> None:
    await lab.ledger.heartbeat(member())
    assert await lab.ledger.heartbeat(member(beat=2, **change)) == HeartbeatAnswer(True, 2)
    assert await lab.ledger.routes_version() == 2


async def test_a_name_that_is_held_is_refused_until_its_holder_is_evicted(lab: Lab) -> None:
    await lab.lead()
    await lab.ledger.heartbeat(member(number=11))
    answer = await lab.unchanged(lab.ledger.heartbeat(member(number=12)))
    assert (answer.accepted, answer.routes_version) == (False, 1) and "number 11" in answer.detail
    await lab.ledger.evict(lab.term, "shard-a", 11)
    assert (await lab.ledger.heartbeat(member(number=12))).accepted
    answer = await lab.unchanged(lab.ledger.heartbeat(member(number=11)))
    assert not answer.accepted and "evicted" in answer.detail


async def test_an_evicted_member_leaves_no_trace_but_its_number(lab: Lab) -> None:
    await lab.lead()
    await lab.ledger.heartbeat(member(number=11))
    await lab.ledger.suspect("shard-a", 11, "gateway-1")
    await lab.ledger.set_draining("shard-a", True)
    await lab.ledger.order("shard-a", "drain")
    version = await lab.ledger.routes_version()
    await lab.unchanged(lab.ledger.evict(lab.term, "shard-a", 99))
    await lab.unchanged(lab.ledger.evict(lab.term, "shard-z", 11))
    assert isinstance(await lab.unchanged(lab.ledger.evict(lab.term - 1, "shard-a", 11)), LedgerRefused)
    await lab.ledger.evict(lab.term, "shard-a", 11)
    view = await lab.ledger.view()
    assert (view.version, view.members, view.suspects, view.draining) == (version + 1, {}, {}, frozenset())
    await lab.unchanged(lab.ledger.evict(lab.term, "shard-a", 11))
    assert await lab.ledger.heartbeat(member(number=12)) == HeartbeatAnswer(True, version + 2)


async def test_one_who_departed_is_not_registered_by_a_late_beat(lab: Lab) -> None:
    await lab.ledger.heartbeat(member(number=11))
    await lab.unchanged(lab.ledger.depart("shard-a", 12))
    await lab.ledger.depart("shard-a", 11)
    assert (await lab.ledger.view()).members == {}
    answer = await lab.unchanged(lab.ledger.heartbeat(member(number=11, beat=2)))
    assert (answer.accepted, answer.routes_version) == (False, 2)


async def test_only_so_many_evictions_are_remembered(lab: Lab) -> None:
    numbers = range(1, EVICTED_REMEMBERED - 1)
    await leave_as(lab, 0)
    if lab.store is not None:
        lab.store.data.evicted.update({("m", number): None for number in numbers})
    else:
        assert lab.raw is not None
        await lab.raw.zadd(keys.key(lab.world, "EVICTED"), {f"{number} m": 2 + number / EVICTED_REMEMBERED for number in numbers})
    await leave_as(lab, 10_000)
    assert not (await lab.unchanged(lab.ledger.heartbeat(member("m", 0)))).accepted
    await leave_as(lab, 10_001)
    assert not (await lab.ledger.heartbeat(member("m", 1))).accepted
    assert (await lab.ledger.heartbeat(member("m", 0))).accepted


async def leave_as(lab: Lab, number: int) -> None:
    await lab.ledger.heartbeat(member("m", number))
    await lab.ledger.depart("m", number)


async def test_suspicions_are_counted_for_the_registered_incarnation(lab: Lab) -> None:
    await lab.ledger.heartbeat(member(number=11))
    hints = lab.ledger.subscribe(SUSPECT_CHANNEL)
    assert await hint(hints) == (SUSPECT_CHANNEL, b"resync")
    await lab.unchanged(lab.ledger.suspect("shard-a", 12, "gateway-1"))
    await lab.unchanged(lab.ledger.suspect("shard-z", 11, "gateway-1"))
    await lab.ledger.suspect("shard-a", 11, "gateway-1")
    await lab.ledger.suspect("shard-a", 11, "gateway-2")
    assert (await lab.ledger.view()).suspects == {"shard-a": 2}
    assert await hint(hints) == (SUSPECT_CHANNEL, b"shard-a 11 gateway-1")
    assert (await lab.ledger.view()).version == 1


async def test_draining_is_a_mark_that_raises_the_version_once(lab: Lab) -> None:
    answer = await lab.unchanged(lab.ledger.set_draining("shard-a", True))
    assert isinstance(answer, LedgerRefused) and "shard-a" in str(answer)
    await lab.ledger.heartbeat(member())
    await lab.ledger.set_draining("shard-a", True)
    await lab.unchanged(lab.ledger.set_draining("shard-a", True))
    view = await lab.ledger.view()
    assert (view.draining, view.version) == (frozenset({"shard-a"}), 2)
    await lab.ledger.set_draining("shard-a", False)
    await lab.unchanged(lab.ledger.set_draining("shard-a", False))
    assert (await lab.ledger.view()).draining == frozenset()


async def test_orders_come_in_order_until_they_are_taken_and_are_bounded(lab: Lab) -> None:
    assert isinstance(await lab.unchanged(lab.ledger.order("shard-a", "die")), LedgerRefused)
    await lab.ledger.heartbeat(member())
    for at in range(ORDERS_LIMIT):
        await lab.ledger.order("shard-a", f"pause {at}")
    answer = await lab.unchanged(lab.ledger.order("shard-a", "drain"))
    assert isinstance(answer, LedgerRefused) and "does not beat" in str(answer)
    told = (await lab.ledger.heartbeat(member(beat=2))).orders
    assert [order.text for order in told] == [f"pause {at}" for at in range(ORDERS_LIMIT)]
    assert len({order.number for order in told}) == ORDERS_LIMIT
    assert (await lab.ledger.heartbeat(member(beat=3))).orders == told, "that answer may have been lost"
    first = [order.number for order in told[:3]]
    assert (await lab.ledger.heartbeat(member(beat=4), True, first)).orders == told[3:]
    await lab.ledger.order("shard-a", "drain")
    left = (await lab.ledger.heartbeat(member(beat=5), True, [order.number for order in told])).orders
    assert [order.text for order in left] == ["drain"] and left[0].number not in {order.number for order in told}
    assert (await lab.ledger.heartbeat(member(beat=6), True, [left[0].number])).orders == ()


async def test_orders_are_not_for_who_comes_by_the_name_later(lab: Lab) -> None:
    term = await lab.lead()
    await lab.ledger.heartbeat(member(number=11))
    await lab.ledger.order("shard-a", "die")
    assert len((await lab.ledger.heartbeat(member(number=11, beat=2))).orders) == 1
    await lab.ledger.evict(term, "shard-a", 11)
    assert (await lab.ledger.heartbeat(member(number=12))).orders == ()


# --- election ---------------------------------------------------------------------------------------------------------


async def test_one_leads_until_somebody_has_seen_no_beat_of_it_for_long_enough(lab: Lab) -> None:
    assert await lab.ledger.elect("a") == Leadership(True, 1, "a", 1)
    assert await lab.unchanged(lab.ledger.elect("b")) == Leadership(False, 1, "a", 1)
    assert (await lab.ledger.view()).leader == "a"
    assert await lab.ledger.elect("a", 1) == Leadership(True, 1, "a", 2)
    # Of two who watch, one saw the beat rise too late: the leader goes on.
    assert await lab.unchanged(lab.ledger.elect("b", 0, 1)) == Leadership(False, 1, "a", 2)
    assert await lab.ledger.elect("b", 0, 2) == Leadership(True, 2, "b", 3)
    assert await lab.unchanged(lab.ledger.elect("c", 0, 2)) == Leadership(False, 2, "b", 3), "one of two who saw the same silence"
    assert await lab.unchanged(lab.ledger.elect("a", 1)) == Leadership(False, 2, "b", 3), "it wakes up, and leads no more"
    assert await lab.ledger.elect("b", 2) == Leadership(True, 2, "b", 4)
    view = await lab.ledger.view()
    assert (view.term, view.leader) == (2, "b")


async def test_a_process_that_comes_back_under_the_leaders_name_leads_in_a_term_of_its_own(lab: Lab) -> None:
    assert (await lab.ledger.elect("a")).term == 1
    assert await lab.ledger.elect("a") == Leadership(True, 2, "a", 2)
    assert await lab.ledger.elect("a", 2) == Leadership(True, 2, "a", 3)


async def test_a_leader_resigns_for_itself_only(lab: Lab) -> None:
    await lab.ledger.elect("a")
    await lab.unchanged(lab.ledger.resign("b"))
    await lab.ledger.resign("a")
    await lab.unchanged(lab.ledger.resign("a"))
    assert await lab.ledger.elect("a", 1) == Leadership(True, 2, "a", 2)


async def test_no_clock_of_the_server_ends_a_leadership(redis_lab: Lab) -> None:
    assert redis_lab.raw is not None
    await redis_lab.ledger.elect("a")
    assert await redis_lab.raw.ttl(keys.key(redis_lab.world, "LEADER")) == -1, "a wall clock would end it, or never would"


async def test_a_coordinator_of_the_first_revision_is_still_served(redis_lab: Lab) -> None:
    assert redis_lab.raw is not None
    raw, base = redis_lab.raw, keys.base(redis_lab.world)

    async def elect(*arguments: str) -> list[bytes | int]:
        answer: Any = await raw.execute_command("FCALL", "perdure_v1_elect", 1, base, *arguments)
        return answer

    assert await elect("old", "60000") == [1, b"1", b"old"]
    assert 0 < await raw.pttl(keys.key(redis_lab.world, "LEADER")) <= 60_000
    assert await elect("old", "60000") == [1, b"1", b"old"]
    seen = await redis_lab.ledger.elect("new")
    assert seen == Leadership(False, 1, "old", 2), "its beat can be watched"
    assert (await redis_lab.ledger.elect("new", 0, seen.beat)).leading
    assert await redis_lab.unchanged(elect("old", "60000")) == [0, b"2", b"new"]


async def test_every_write_of_an_old_leader_is_refused(lab: Lab) -> None:
    await lab.ledger.heartbeat(member())
    await lab.zones(0)
    await lab.ledger.resign("coordinator-a")
    await lab.ledger.elect("coordinator-b")
    for term in (1, 3):
        for call in (
            lab.ledger.assign(term, 0, "shard-b", 1),
            lab.ledger.intend(term, 0, "shard-b"),
            lab.ledger.evict(term, "shard-a", 11),
            lab.ledger.gateway_lost(term, 7),
        ):
            answer = await lab.unchanged(call)
            assert isinstance(answer, LedgerRefused)
            assert f"term {term} is over, it is 2 now" in str(answer) and "\n" not in str(answer)


# --- assignment -------------------------------------------------------------------------------------------------------


async def test_assigning_makes_a_head_and_then_raises_its_epoch(lab: Lab) -> None:
    await lab.lead()
    assert await lab.ledger.assign(lab.term, 5, "shard-a", 0) == 1
    head = await lab.ledger.zone_head(5)
    assert (head.generation, head.epoch, head.owner, head.tick, head.digest, head.checkpoints) == (1, 1, "shard-a", 0, "", ())
    for expected in (0, 2):
        answer = await lab.unchanged(lab.ledger.assign(lab.term, 5, "shard-b", expected))
        assert isinstance(answer, LedgerRefused) and f"epoch 1, not {expected}" in str(answer)
    lab.heads[5] = (1, 1, 0, "")
    await lab.commit(5)
    assert await lab.ledger.assign(lab.term, 5, "", 1) == 2
    view = await lab.ledger.view()
    assert view.zones == {5: ZoneRoute(5, "", 1, 2)} and view.ticks == {5: 1} and view.version == 2
    answer = await lab.unchanged(lab.ledger.assign(lab.term, 6, "shard-b", 1))
    assert isinstance(answer, LedgerRefused)


async def test_an_unknown_zone_has_a_head_of_zeros(lab: Lab) -> None:
    head = await lab.unchanged(lab.ledger.zone_head(77))
    assert head == ZoneHead(77, 0, 0, "", 0, "", (), 0)


async def test_a_migration_is_an_intent_a_report_and_an_assignment(lab: Lab) -> None:
    await lab.zones(0)
    await lab.ledger.intend(lab.term, 0, "shard b")
    assert (await lab.ledger.view()).zones[0] == ZoneRoute(0, "shard-a", 1, 1, "shard b", False)
    await lab.unchanged(lab.ledger.intend(lab.term, 0, "shard b"))
    await lab.unchanged(lab.ledger.successor_ready(0, "shard-c"))
    await lab.unchanged(lab.ledger.successor_ready(1, "shard b"))
    await lab.unchanged(lab.ledger.successor_ready(0, ""))
    await lab.ledger.successor_ready(0, "shard b")
    await lab.unchanged(lab.ledger.successor_ready(0, "shard b"))
    view = await lab.ledger.view()
    assert view.zones[0] == ZoneRoute(0, "shard-a", 1, 1, "shard b", True) and view.version == 3
    await lab.unchanged(lab.ledger.intend(lab.term, 0, "shard b"))
    assert await lab.ledger.assign(lab.term, 0, "shard b", 1) == 2
    assert (await lab.ledger.view()).zones[0] == ZoneRoute(0, "shard b", 1, 2)


async def checkpointed(lab: Lab, zone: int, tick: int) -> None:
    blob = b"image %d" % tick
    _, epoch, *_ = lab.heads[zone]
    await lab.ledger.put_checkpoint(zone, tick, epoch, blob)
    assert await lab.ledger.flip_checkpoint(zone, 1, epoch, tick, blob_digest(blob)) is CommitStatus.OK


async def test_a_handover_is_an_assignment_at_a_checkpoint_with_no_tail(lab: Lab) -> None:
    await lab.zones(0)
    await lab.commit(0)
    await checkpointed(lab, 0, 1)
    await lab.ledger.intend(lab.term, 0, "shard-b")
    assert (await lab.ledger.view()).zones[0].image == -1, "nobody was ready"
    await lab.commit(0)
    await lab.ledger.successor_ready(0, "shard-b")
    answer = await lab.unchanged(lab.ledger.assign(lab.term, 0, "shard-b", 1, True))
    assert isinstance(answer, LedgerRefused) and "stands at tick 2, its checkpoint at 1" in str(answer)
    await lab.commit(0)
    version = (await lab.ledger.view()).version
    await checkpointed(lab, 0, 2)
    view = await lab.ledger.view()
    assert (view.zones[0].image, view.version) == (2, version), "the log has a tail: nobody need be told"
    await checkpointed(lab, 0, 3)
    view = await lab.ledger.view()
    assert (view.zones[0].image, view.version) == (3, version + 1)
    assert await lab.ledger.assign(lab.term, 0, "shard-b", 1, True) == 2
    assert (await lab.ledger.view()).zones[0] == ZoneRoute(0, "shard-b", 1, 2)


async def test_an_intent_forgets_what_an_earlier_one_waited_for(lab: Lab) -> None:
    await lab.zones(0)
    for successor in ("", "shard-c"):
        await lab.ledger.intend(lab.term, 0, "shard-b")
        await lab.ledger.successor_ready(0, "shard-b")
        await lab.commit(0)
        await checkpointed(lab, 0, lab.heads[0][2])
        assert (await lab.ledger.view()).zones[0].image == lab.heads[0][2]
        await lab.ledger.intend(lab.term, 0, successor)
        assert (await lab.ledger.view()).zones[0] == ZoneRoute(0, "shard-a", 1, 1, successor)


async def test_a_zone_that_never_ran_has_no_tail(lab: Lab) -> None:
    await lab.lead()
    assert await lab.ledger.assign(lab.term, 0, "shard-a", 0, True) == 1
    assert await lab.ledger.assign(lab.term, 0, "shard-b", 1, True) == 2


async def test_an_intent_is_withdrawn_or_replaced(lab: Lab) -> None:
    await lab.zones(0)
    await lab.unchanged(lab.ledger.intend(lab.term, 0, ""))
    await lab.ledger.intend(lab.term, 0, "shard-b")
    await lab.ledger.successor_ready(0, "shard-b")
    await lab.ledger.intend(lab.term, 0, "shard-c")
    assert (await lab.ledger.view()).zones[0] == ZoneRoute(0, "shard-a", 1, 1, "shard-c", False)
    await lab.ledger.intend(lab.term, 0, "")
    assert (await lab.ledger.view()).zones[0] == ZoneRoute(0, "shard-a", 1, 1)
    answer = await lab.unchanged(lab.ledger.intend(lab.term, 1, "shard-b"))
    assert isinstance(answer, LedgerRefused) and "never assigned" in str(answer)


async def test_a_view_of_many_zones_is_whole(lab: Lab) -> None:
    """More zones than one chunk of the view's function."""
    await lab.lead()
    zones = range(2100)
    for first in range(0, len(zones), 100):
        await asyncio.gather(*(lab.ledger.assign(lab.term, zone, f"shard-{zone % 7}", 0) for zone in zones[first : first + 100]))
    view = await lab.ledger.view()
    assert list(view.zones) == list(zones) and view.version == len(zones)
    assert all(view.zones[zone] == ZoneRoute(zone, f"shard-{zone % 7}", 1, 1) for zone in zones)


async def test_views_share_their_routes_as_long_as_none_has_changed(lab: Lab) -> None:
    await lab.zones(0, 1, 2)
    views = [await lab.ledger.view()]

    async def look(same: bool) -> None:
        views.append(await lab.ledger.view())
        assert (views[-1].zones is views[-2].zones) == same

    await lab.commit(0)
    await look(same=True)
    assert (views[0].ticks[0], views[1].ticks[0]) == (0, 1)
    await lab.ledger.assign(lab.term, 1, "shard-b", 1)
    await look(same=False)
    assert (views[-2].zones[1].owner, views[-1].zones[1].owner) == ("shard-a", "shard-b"), "who has the older view keeps it"
    for successor in ("shard-b", ""):
        await lab.ledger.intend(lab.term, 2, successor)
        await look(same=False)
        assert views[-1].zones[2].successor == successor
    await lab.ledger.assign(lab.term, 3, "shard-a", 0)
    await look(same=False)
    await look(same=True)
    assert list(views[-1].zones) == [0, 1, 2, 3]


async def test_clients_of_one_world_see_the_same_and_other_worlds_nothing(lab: Lab) -> None:
    other = await lab.client()
    await lab.zones(0, 1)
    await lab.enter("ada")
    assert await other.view() == await lab.ledger.view()
    assert await other.online() == await lab.ledger.online()
    (answer,) = await other.commit([lab.next(0)])
    assert len(answer.page) == 1


# --- hints ------------------------------------------------------------------------------------------------------------


async def test_subscribers_get_a_resync_first_and_then_what_is_published(lab: Lab) -> None:
    other = await lab.client()
    hints = other.subscribe(ROUTES_CHANNEL, SUSPECT_CHANNEL)
    assert {await hint(hints), await hint(hints)} == {(ROUTES_CHANNEL, b"resync"), (SUSPECT_CHANNEL, b"resync")}
    await lab.ledger.heartbeat(member())
    await lab.ledger.heartbeat(member(beat=2))
    await lab.ledger.suspect("shard-a", 11, "gateway-1")
    await lab.zones(0)
    await lab.ledger.intend(lab.term, 0, "shard-b")
    await lab.ledger.successor_ready(0, "shard-b")
    await lab.ledger.set_draining("shard-a", True)
    await lab.ledger.depart("shard-a", 11)
    seen = [await hint(hints) for _ in range(7)]
    assert seen == [
        (ROUTES_CHANNEL, b"1"),
        (SUSPECT_CHANNEL, b"shard-a 11 gateway-1"),
        *((ROUTES_CHANNEL, b"%d" % version) for version in range(2, 7)),
    ]


async def test_a_subscriber_hears_only_its_channels(lab: Lab) -> None:
    await lab.zones(0)
    hints = lab.ledger.subscribe(gateway_channel(8))
    assert await hint(hints) == (gateway_channel(8), b"resync")
    await lab.enter("ada", gateway=7)
    await lab.enter("ada", gateway=8, slot=2)
    await lab.enter("ada", gateway=9)
    assert await hint(hints) == (gateway_channel(8), b"2")


async def test_closing_ends_the_subscriptions(lab: Lab) -> None:
    other = await lab.client()
    hints = other.subscribe(ROUTES_CHANNEL)
    await hint(hints)

    async def rest() -> list[tuple[str, bytes]]:
        return [got async for got in hints]

    waiting = asyncio.create_task(rest())
    await asyncio.sleep(0)
    await other.close()
    assert await asyncio.wait_for(waiting, 10) == []
