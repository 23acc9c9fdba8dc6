"""A gateway that is no member of the cluster: it takes nobody in, and nobody is left on a socket that says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from gateway.metrics import GatewayCounters
from gateway.service import GatewayService
from gateway.shard_links import ShardLinks
from perdure.client import Client
from perdure.ledger import membership
from perdure.ledger.ledger import LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.values import EnterAnswer, EnterRequest, HeartbeatAnswer, Member
from perdure.wire.identifiers import player_key
from perdure.wire.opcodes import Close
from tests.unit.gateway.cluster_double import BOUND_S, cluster, eventually, settings_of
from tests.unit.gateway.shard_double import SECRET
from tests.unit.gateway.test_shard_links import Listener, nobody

pytestmark = pytest.mark.asyncio


async def test_a_gateway_whose_name_a_dead_process_holds_takes_nobody_in_until_it_is_a_member() -> None:
    async with cluster() as c:
        dead = Member("gateway-1", "gateway", 4711, "ws://dead/ws", 1, {"state": "ready"})
        await c.ledger.heartbeat(dead)
        settings = settings_of(
            name="gateway-1", host="127.0.0.1", port=0, secret=SECRET, development=True, heartbeat_ms=20, admission_timeout_ms=400
        )
        anew = GatewayService(settings, c.ledger)
        await anew.start()
        try:
            async with Client([c.url], c.token("bert")):
                pass  # a login elsewhere takes longer than several of its heartbeats
            assert "waiting" in anew._readiness()
            assert anew.links.up == 0
            anna = Client([anew.url], c.token("anna"))
            connecting = asyncio.ensure_future(anna.connect())
            await eventually(lambda: anna.stats.closes, "the close of a login that waited for long enough")
            assert anna.stats.closes[0].code == Close.UNAVAILABLE
            assert await c.ledger.player(player_key("anna")) is None  # it was not let in under a number that nobody knows
            await eventually(lambda: anew.endpoint.waiting == 1, "the next try")
            await c.ledger.evict(c.term, "gateway-1", 4711)
            async with asyncio.timeout(BOUND_S):
                await connecting
                assert await anna.command("steer", mx=1) == 1
            assert len(anna.stats.closes) == 1, "the login that waited was let in"
            assert (await c.ledger.view()).members["gateway-1"].number == anew.membership.number
            assert not anew._readiness()
            await anna.close()
        finally:
            await anew.stop()


class Held(MemoryLedger):
    """Answers `enter` when it is told to."""

    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__(ledger.store)
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()

    async def enter(self, request: EnterRequest) -> EnterAnswer:
        answer = await super().enter(request)
        self.arrived.set()
        await self.go_on.wait()
        return answer


async def test_a_login_under_way_while_the_gateway_is_taken_for_lost_is_not_left_in_silence() -> None:
    async with cluster() as c:
        held = Held(c.ledger)
        c.gateway.admission._ledger = held
        anna = c.client("anna")
        connecting = asyncio.ensure_future(anna.connect())
        await held.arrived.wait()
        number = c.gateway.membership.number
        await c.ledger.evict(c.term, c.gateway.name, number)
        await eventually(lambda: c.gateway.membership.number != number and c.gateway.membership.accepted, "another number")
        held.go_on.set()
        async with asyncio.timeout(BOUND_S):
            await connecting
            assert await anna.command("steer", mx=1) == 1
        assert c.player("anna").gateway == c.gateway.membership.number
        await anna.close()


async def test_a_session_that_somebody_detached_is_sent_away_to_resume() -> None:
    async with cluster() as c, c.client("anna") as anna:
        await anna.command("steer", mx=1)
        await c.ledger.gateway_lost(c.term, c.gateway.membership.number)
        await c.gateway.admission.verify(list(c.gateway.fanout.sessions()))
        await eventually(lambda: anna.stats.reconnects == 1 and anna.connected, "the resume")
        assert anna.stats.closes[0].code == Close.GOING_AWAY
        assert await anna.command("steer", mx=1) == 2


async def test_links_that_change_while_the_gateway_gets_another_number_are_all_there_under_the_new_one() -> None:
    async with cluster(hz=0) as c:
        await c.add_shard("shard-c", 0)
        shards = {m.name: m for m in (await c.ledger.view()).members.values() if m.kind == "shard"}
        links = ShardLinks(
            number=1, own_name="g", secret=SECRET.encode(), sink=Listener(), counters=GatewayCounters(), suspect=nobody
        )  # fmt: skip
        try:
            await links.follow(shards)
            for number in range(2, 12):
                await links.wait_up(3)
                # The view is read, again and again, while every link is closed and introduced anew.
                await asyncio.gather(
                    links.renumber(number), *(links.follow(shards) for _ in range(3)), links.follow({}), links.follow(shards)
                )
                await eventually(lambda: links.up == 3, f"all links as number {number}")
                linked = [number in shard.links for shard in c.shards.values()]
                assert all(linked), f"number {number} is linked to {sum(linked)} of {len(linked)} shards"
        finally:
            await links.close()


class Deaf(MemoryLedger):
    """Does not answer heartbeats."""

    async def heartbeat(self, member: Member, known: bool = False, taken: Sequence[int] = ()) -> HeartbeatAnswer:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


async def test_a_heartbeat_without_an_answer_is_given_up_in_time_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert membership.ANSWER_DEADLINE_S <= 3.0 / 2, "a gateway's lease"
    monkeypatch.setattr(membership, "ANSWER_DEADLINE_S", 0.01)
    one = membership.Membership(
        Deaf(), kind="gateway", name="g", address="ws://g", heartbeat_s=0.1, development=True, info=dict, routes_changed=lambda _: None,
        evicted=nobody_knows, drain=lambda: None,
    )  # fmt: skip
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(LedgerUnavailable, match="no answer to a heartbeat"):
            await one.beat()
    assert not one.accepted


async def nobody_knows() -> None:
    raise AssertionError("silence is no eviction")


class Forgetful(MemoryLedger):
    """Loses the answers to its first heartbeats, after they took effect."""

    lost = 3

    async def heartbeat(self, member: Member, known: bool = False, taken: Sequence[int] = ()) -> HeartbeatAnswer:
        answer = await super().heartbeat(member, known, taken)
        if known and self.lost:
            self.lost -= 1
            raise LedgerUnavailable("the answer is lost")
        return answer


async def test_an_order_whose_answer_is_lost_comes_again_and_is_obeyed_once() -> None:
    ledger, drained = Forgetful(), []
    one = membership.Membership(
        ledger, kind="gateway", name="g", address="ws://g", heartbeat_s=0.1, development=True, info=dict, routes_changed=lambda _: None,
        evicted=nobody_knows, drain=lambda: drained.append(1),
    )  # fmt: skip
    await one.beat()
    await ledger.order("g", "drain")
    for _ in range(Forgetful.lost):
        with pytest.raises(LedgerUnavailable):
            await one.beat()
    assert drained == []
    await one.beat()
    assert drained == [1]
    ledger.lost = 1
    with pytest.raises(LedgerUnavailable):
        await one.beat()
    await one.beat()
    await one.beat()
    assert drained == [1] and ledger.store.data.orders == {}


class Counting(MemoryLedger):
    """Counts heartbeats."""

    beats = 0

    async def heartbeat(self, member: Member, known: bool = False, taken: Sequence[int] = ()) -> HeartbeatAnswer:
        self.beats += 1
        return await super().heartbeat(member, known, taken)


def member_of(ledger: MemoryLedger, heartbeat_s: float) -> membership.Membership:
    return membership.Membership(
        ledger, kind="shard", name="s", address="unix:/s", heartbeat_s=heartbeat_s, development=True, info=dict,
        routes_changed=lambda _: None, evicted=nobody_knows, drain=lambda: None,
    )  # fmt: skip


@pytest.mark.parametrize("leeway", [0.15, 2.0])
async def test_a_heartbeat_that_is_nearly_due_goes_along_with_what_goes_to_the_ledger_anyway(
    monkeypatch: pytest.MonkeyPatch, leeway: float
) -> None:
    monkeypatch.setattr(membership, "LEEWAY", leeway)
    ledger = Counting()
    one = member_of(ledger, heartbeat_s=60.0)
    one.start()
    try:
        for expected in range(1, 4):
            await asyncio.sleep(0)
            one.along()
            await asyncio.sleep(0)
            assert ledger.beats == (expected if leeway == 2.0 else 0), "in the very next pass of the loop, or not before it is due"
    finally:
        await one.stop()


@pytest.mark.parametrize("commits", [False, True])
async def test_whose_commits_go_on_beats_half_as_often(commits: bool) -> None:
    one = member_of(Counting(), heartbeat_s=60.0)
    if commits:
        one.along()
    one.start()
    try:
        await asyncio.sleep(0)
        assert one._due_s - time.monotonic() == pytest.approx(120.0 if commits else 60.0, abs=5.0)
    finally:
        await one.stop()


async def test_a_heartbeat_comes_in_time_where_nothing_else_goes_to_the_ledger_any_more() -> None:
    ledger = Counting()
    one = member_of(ledger, heartbeat_s=0.02)
    one.along()
    one.start()
    try:
        async with asyncio.timeout(BOUND_S):
            while ledger.beats < 5:
                await asyncio.sleep(0.005)
    finally:
        await one.stop()
