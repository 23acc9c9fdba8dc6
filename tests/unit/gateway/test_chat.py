"""Chat through real gateways and clients: to the zone, to one player, across gateways; rates; outages; names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.chat import Chat
from gateway.fanout import Fanout
from gateway.metrics import GatewayCounters
from gateway.session_instructions import Say, Who
from gateway.world_rules import CHAT_BURST
from perdure.client import Client
from perdure.ledger.chat import ChatLine, ChatPage, SayStatus
from perdure.ledger.ledger import LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.wire.chat import encode_chat, encode_who
from perdure.wire.identifiers import player_key
from perdure.wire.opcodes import Close
from tests.unit.gateway.cluster_double import Cluster, cluster, eventually
from tests.unit.gateway.session_bench import Bench

pytestmark = pytest.mark.asyncio


def heard(client: Client) -> list[tuple[str, str, str]]:
    return [(line.sender, line.to, line.text) for line in client.chat]


def name_in(c: Cluster, zone: int, prefix: str) -> str:
    """Return a name whose player begins in a zone."""
    routing = c.gateway.routing
    return next(name for name in (f"{prefix}{n}" for n in range(100)) if routing.spawn_zone(player_key(name), len(c.truths)) == zone)


async def said(client: Client, what: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        await client.wait_until(what)


async def test_a_zone_hears_what_is_said_in_it_at_every_gateway_and_no_other_zone_does() -> None:
    async with cluster() as c:
        second = await c.add_gateway()
        here, there, apart = name_in(c, 0, "a"), name_in(c, 0, "b"), name_in(c, 1, "c")
        one, other = Client(c.gateway.url, c.token(here)), Client(second.url, c.token(there))
        far = Client(second.url, c.token(apart))
        async with one, other, far:
            one.say("first")
            await said(other, lambda: len(other.chat) == 1)
            other.say("second")
            await said(one, lambda: len(one.chat) == 2)
            await said(other, lambda: len(other.chat) == 2)
            assert heard(one) == heard(other) == [(here, "", "first"), (there, "", "second")]
            far.say("mine")
            await said(far, lambda: len(far.chat) == 1)
            assert heard(far) == [(apart, "", "mine")]
            assert len(one.chat) == 2


async def test_a_word_to_one_player_reaches_that_one_and_is_seen_by_who_said_it() -> None:
    async with cluster() as c:
        second = await c.add_gateway()
        ann, ben, cid = (Client(url, c.token(name)) for url, name in ((c.url, "ann"), (second.url, "ben"), (second.url, "cid")))
        async with ann, ben, cid:
            ann.say("psst", to="ben")
            await said(ben, lambda: bool(ben.chat))
            await said(ann, lambda: bool(ann.chat))
            assert heard(ben) == heard(ann) == [("ann", "ben", "psst")]
            ann.say("anyone?", to="nobody")
            await said(ann, lambda: len(ann.chat) == 2)
            assert heard(ann)[1] == ("", "ann", "no player of that name is here")
            assert heard(cid) == []


async def test_names_are_told_by_key_and_a_stranger_has_none() -> None:
    async with cluster() as c, c.client("ann") as ann, c.client("ben"):
        ann.ask_names([player_key("ben"), player_key("nobody")])
        await said(ann, lambda: bool(ann.names))
        assert ann.names == {player_key("ben"): "ben"}


async def test_who_speaks_too_fast_is_told_and_stays() -> None:
    async with cluster() as c, c.client("ann") as ann:
        for number in range(CHAT_BURST + 3):
            ann.say(str(number))
        await said(ann, lambda: len(ann.chat) == CHAT_BURST + 3)
        assert [text for sender, _, text in heard(ann) if sender == "ann"] == [str(n) for n in range(CHAT_BURST + 1)]
        assert [text for sender, _, text in heard(ann) if not sender] == ["slower: a line every 1 s"] * 2
        assert ann.ended is None


async def test_a_zone_in_which_all_speak_at_once_is_spared() -> None:
    async with cluster(zone_chat_per_second=0.5) as c, c.client("ann") as ann:
        for _ in range(4):
            ann.say("x")
        await said(ann, lambda: len(ann.chat) == 4)
        assert [text for sender, _, text in heard(ann) if not sender] == ["too many speak here at once; say it again in a moment"] * 2


class Silent(MemoryLedger):
    """A ledger that can be told not to answer."""

    silent = False

    async def say(self, player: int, session: int, to: str, text: str) -> SayStatus:
        if self.silent:
            raise LedgerUnavailable("away")
        return await super().say(player, session, to, text)

    async def chat(self, after: str) -> ChatPage:
        if self.silent:
            raise LedgerUnavailable("away")
        return await super().chat(after)


async def test_an_outage_is_told_to_who_speaks_and_costs_no_line_that_was_said() -> None:
    async with cluster() as c, c.client("ann") as ann, c.client("ben") as ben:
        silent = Silent(c.ledger.store)
        c.gateway.chat._ledger = silent
        silent.silent = True
        ann.say("lost", to="ben")
        await said(ann, lambda: bool(ann.chat))
        assert heard(ann) == [("", "ann", "the world could not be reached; that line may not have been heard")]
        await c.ledger.say(player_key("ann"), 1, "ben", "kept")  # by another gateway
        silent.silent = False
        await said(ben, lambda: bool(ben.chat))
        assert heard(ben) == [("ann", "ben", "kept")]


async def test_a_hint_that_was_lost_costs_no_line() -> None:
    """Hints get lost; the resync after the reconnect reads on from where this gateway was."""
    async with cluster() as c, c.client("ann") as ann:
        store = c.ledger.store
        subscriptions, store.subscriptions = store.subscriptions, []
        await c.ledger.say(player_key("ann"), 1, "ann", "unheard")
        store.subscriptions = subscriptions
        for subscription in subscriptions:
            subscription.resync()
        await said(ann, lambda: bool(ann.chat))
        assert heard(ann) == [("ann", "ann", "unheard")]


# --- the session's part -----------------------------------------------------------------------------------------------


async def test_a_session_speaks_only_in_the_world() -> None:
    bench = Bench()
    bench.say(encode_chat("x"))
    assert bench.closed() is Close.BAD_HELLO
    bench = Bench()
    bench.enter()
    bench.say(encode_chat("hello", "bob"))
    assert bench.take() == [Say("bob", "hello")]
    bench.say(encode_who([3, 4]))
    assert bench.take() == [Who((3, 4))]
    bench.say(encode_chat("\u202e"))
    assert bench.messages() == [[6, "", "anna", "there is nothing in that line that can be shown"]]
    bench.say(encode_chat("x", "not a name"))
    assert bench.closed() is Close.BAD_MESSAGE


async def test_who_reads_too_slowly_is_owed_no_chat() -> None:
    counters = GatewayCounters()
    ledger, fanout, bench = MemoryLedger(), Fanout(counters, lambda session: None), Bench()
    bench.play()
    bench.messages()
    fanout.add(bench.session)
    chat = Chat(ledger, fanout, counters, timeout_s=1.0, zone_per_second=10.0)
    following = asyncio.ensure_future(chat.follow())
    try:
        bench.session.congested = True
        chat._deliver(ChatLine("x", "", 0, "dropped"))
        bench.session.congested = False
        chat._deliver(ChatLine("x", "", 0, "shown"))
        assert bench.messages() == [[6, "x", "", "shown"]]
        assert counters.chat_lines == 1
        await eventually(lambda: chat._last == "0", "the beginning")
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
