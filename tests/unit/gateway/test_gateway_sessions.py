"""Sessions of a gateway: takeover, resume, detach, leaving, and who waits for room; with real links and clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.admission import LOGINS_AT_ONCE
from perdure.client import ClientClosed
from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable
from perdure.ledger.values import EnterAnswer, EnterRequest
from perdure.wire.client_messages import encode_hello
from perdure.wire.identifiers import LOBBY, player_key
from perdure.wire.opcodes import Close
from tests.unit.gateway.cluster_double import cluster, eventually

pytestmark = pytest.mark.asyncio


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_newer_login_takes_over_on_the_same_gateway() -> None:
    async with cluster() as c, c.client("anna") as first:
        async with c.client("anna") as second:
            await first_closed(first)
            await second.command("steer", mx=1)
            assert len(c.gateway.fanout) == 1
        assert first.ended is not None and first.ended.code == Close.TAKEN_OVER


async def first_closed(client: Any) -> None:
    with pytest.raises(ClientClosed) as caught:
        async with asyncio.timeout(5):
            await client.wait_until(lambda: False)
    assert caught.value.code == Close.TAKEN_OVER


async def test_a_newer_login_takes_over_across_gateways() -> None:
    async with cluster() as c, c.client("anna") as first:
        other = await c.add_gateway()
        second = await type(first)(other.url, c.token("anna")).connect()
        await first_closed(first)
        await second.command("steer", mx=1)
        assert (len(c.gateway.fanout), len(other.fanout)) == (0, 1)
        await second.close()


async def test_a_lost_takeover_notice_is_made_good() -> None:
    async with cluster() as c, c.client("anna") as first:
        await c.ledger.enter(EnterRequest(player_key("anna"), "anna", 12345, 1, 0, 0, "ab" * 32))
        await first_closed(first)
        # and without any notice:
        async with c.client("bert") as bert:
            known = c.ledger.store.data.players[player_key("bert")]
            known.session += 1
            known.gateway, known.slot = 12345, 1
            await c.gateway.admission.verify(list(c.gateway.fanout.sessions()))
            await first_closed(bert)


async def test_many_logins_of_one_player_at_once_leave_one_session() -> None:
    async with cluster() as c:
        other = await c.add_gateway()
        urls = [c.gateway.url, other.url]
        clients = [c.client("anna") for _ in range(8)]
        for k, client in enumerate(clients):
            client._urls = [urls[k % 2]]
        await asyncio.gather(*(client.connect() for client in clients), return_exceptions=True)
        await eventually(lambda: len(c.gateway.fanout) + len(other.fanout) == 1, "one session")
        await eventually(lambda: sum(client.ended is None for client in clients) == 1, "one client")
        for client in clients:
            await client.close()


async def test_resume_continues_and_rotates_the_token() -> None:
    async with cluster() as c, c.client("anna") as anna:
        await anna.command("steer", mx=1)
        first = anna.protocol.resume
        anna.drop_socket()
        await eventually(lambda: anna.stats.reconnects == 1 and anna.connected, "the resume")
        assert await anna.command("steer", mx=1) == 2
        assert anna.protocol.resume != first
        assert anna.welcome is not None and anna.welcome.session == 2
        assert [seq for seq, _, _ in c.player("anna").applied] == [1, 2]
        # the used one is worth nothing now
        socket = await connect(c.url, compression=None, proxy=None)
        await socket.send(encode_hello(resume=first))
        await socket.wait_closed()
        assert socket.close_code == Close.BAD_RESUME
        assert anna.ended is None


async def test_a_broken_socket_detaches_the_player_and_keeps_it_in_the_world() -> None:
    async with cluster() as c:
        anna = await c.client("anna").connect()
        anna._reconnect = False
        anna.drop_socket()
        await eventually(lambda: c.player("anna").gateway == -1, "the detach")
        assert len(c.gateway.fanout) == 0
        await anna.close()


async def test_leaving_returns_the_player_to_the_lobby() -> None:
    async with cluster() as c:
        async with c.client("anna") as anna:
            await anna.leave()
            assert anna.ended is not None and anna.ended.code == Close.LOGGED_OUT
        record = await c.ledger.player(player_key("anna"))
        assert record is not None and record.presence.place == LOBBY


async def test_an_operators_kick_says_so() -> None:
    async with cluster() as c, c.client("anna") as anna:
        await c.ledger.leave(player_key("anna"), -1, kick=True)
        with pytest.raises(ClientClosed) as caught:
            await anna.wait_until(lambda: False)
        assert caught.value.code == Close.KICKED


async def test_a_lost_last_frame_of_a_logout_is_made_good() -> None:
    async with cluster(hz=0) as c:
        shard = c.shards["shard-a"]
        connecting = asyncio.ensure_future(c.client("anna").connect())
        await eventually(lambda: c.gateway.counters.logins == 1, "the login")
        home = next(p.place for p in await c.ledger.online())
        for _ in range(2):
            await shard.tick(home)
        anna = await connecting
        leaving = asyncio.ensure_future(anna.leave())
        await eventually(lambda: len(c.ledger.store.data.zones[home].inbox) == 1, "LEAVE in the inbox")
        await shard.tick(home)
        await shard.tick(home, release=False)  # the shard dies between its commit and its release
        await c.gateway.admission.verify(list(c.gateway.fanout.sessions()))
        await leaving


async def test_a_player_whom_a_full_zone_sends_back_to_the_lobby_is_told() -> None:
    async with cluster(hz=0) as c:
        connecting = asyncio.ensure_future(c.client("anna").connect())
        await eventually(lambda: c.gateway.counters.logins == 1, "the login")
        known = c.ledger.store.data.players[player_key("anna")]
        known.place = LOBBY  # the zone had no row for her, and gave the JOIN back
        await c.gateway.admission.verify(list(c.gateway.fanout.sessions()))
        await eventually(lambda: len(c.gateway.fanout) == 0, "the end of the session")
        assert c.gateway.counters.closes[Close.FULL] == 1
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)


# --- no room ---------------------------------------------------------------------------------------------------------------


async def test_who_finds_no_room_waits_is_told_its_place_and_comes_in_in_order() -> None:
    async with cluster(max_sessions=1, max_queued=2) as c:
        anna, otto, emil, last = (c.client(name) for name in ("anna", "otto", "emil", "last"))
        await anna.connect()
        waiting = asyncio.ensure_future(otto.connect())
        await eventually(lambda: otto.protocol.queued is not None, "word of the queue")
        behind = asyncio.ensure_future(emil.connect())
        await eventually(lambda: emil.protocol.queued is not None, "word of the queue")
        assert otto.protocol.queued is not None and otto.protocol.queued.position == 1
        assert emil.protocol.queued is not None and emil.protocol.queued.position == 2 and emil.protocol.queued.estimate_s >= 1
        assert await otto.ping() >= 0.0, "pings are answered in the queue"
        full = asyncio.ensure_future(last.connect())
        await eventually(lambda: c.gateway.counters.closes[Close.FULL] >= 1, "4013 of a full queue")
        full.cancel()
        await asyncio.gather(full, return_exceptions=True)
        await last.close()  # else it comes again, and finds the place that is free by then
        await anna.close()
        await waiting
        assert otto.protocol.queued is None and len(c.gateway.admission.queue) == 1
        behind.cancel()
        await asyncio.gather(behind, return_exceptions=True)
        await emil.close()
        await eventually(lambda: len(c.gateway.admission.queue) == 0, "who is gone waits no more")
        await otto.close()


@pytest.mark.parametrize("full", ["the world", "this gateway does not keep up", "another does not"])
async def test_a_full_world_lets_nobody_new_in_but_those_who_are_in_it(full: str) -> None:
    async with cluster(max_players=1 if full == "the world" else 0) as c:
        anna = c.client("anna")
        await anna.connect()
        number = c.gateway.admission.number
        c.gateway.routing.players = 1
        c.gateway.routing.behind = {"this gateway does not keep up": {number}, "another does not": {number + 1}}.get(full, set())
        if full == "another does not":
            async with c.client("otto"):
                await anna.close()
            return
        otto = c.client("otto")
        waiting = asyncio.ensure_future(otto.connect())
        await eventually(lambda: otto.protocol.queued is not None, "word of the queue")
        sessions = c.gateway.counters.logins
        anna.drop_socket()
        await eventually(lambda: c.gateway.counters.logins > sessions, "the resume")
        assert otto.stats.snapshots == 0
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await otto.close()
        await anna.close()


async def test_a_resume_token_that_does_not_count_goes_before_nobody() -> None:
    """Its form says nothing: a gateway that is full asks the ledger before it lets anybody stand in front of the others."""
    async with cluster(max_sessions=1, max_queued=2) as c, c.client("anna") as anna:
        for _ in range(5):
            socket = await connect(c.url, compression=None, proxy=None)
            await socket.send(encode_hello(resume="anna." + "a" * 43))
            await socket.wait_closed()
            assert socket.close_code == Close.BAD_RESUME
        assert len(c.gateway.admission.queue) == 0 and c.gateway.endpoint.waiting == 0
        assert anna.stats.closes == []


async def test_one_token_brings_nobody_in_too_often() -> None:
    async with cluster() as c:
        for _ in range(LOGINS_AT_ONCE):
            socket = await connect(c.url, compression=None, proxy=None)
            await socket.send(encode_hello(token=c.token("anna")))
            await socket.recv()
            await socket.close()
        logins = c.gateway.counters.logins
        socket = await connect(c.url, compression=None, proxy=None)
        await socket.send(encode_hello(token=c.token("anna")))
        await socket.wait_closed()
        assert socket.close_code == Close.UNAVAILABLE and socket.close_reason is not None and "too often" in socket.close_reason
        assert c.gateway.counters.logins == logins
        async with c.client("otto") as otto:
            assert otto.connected


async def test_the_time_limit_of_a_login_holds_at_the_gate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger hangs, and more log in at once than are let to it at a time: the last hears of it as soon as the first."""
    async with cluster(admission_timeout_ms=500, max_admissions=1) as c:

        async def hangs(request: object) -> EnterAnswer:
            await asyncio.sleep(60)
            raise AssertionError

        monkeypatch.setattr(c.ledger, "enter", hangs)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ends = []
        for name in ("anna", "otto", "emil", "lola", "ida", "tom"):
            socket = await connect(c.url, compression=None, proxy=None)
            await socket.send(encode_hello(token=c.token(name)))
            ends.append(socket)
        for socket in ends:
            await socket.wait_closed()
            assert socket.close_code == Close.UNAVAILABLE
        assert loop.time() - began_s < 1.5


async def test_who_waited_at_the_gate_for_long_is_not_cut_off_in_the_middle_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """More log in than the ledger can take: a call that it carries out for nobody uses up a token, and its place."""
    async with cluster(admission_timeout_ms=600, max_admissions=2) as c:
        enter, carried_out = c.ledger.enter, 0

        async def slowly(request: EnterRequest) -> EnterAnswer:
            nonlocal carried_out
            carried_out += 1
            answer = await enter(request)
            await asyncio.sleep(0.1)
            return answer

        monkeypatch.setattr(c.ledger, "enter", slowly)

        async def logs_in(name: str) -> bool:
            socket = await connect(c.url, compression=None, proxy=None)
            await socket.send(encode_hello(token=c.token(name)))
            try:
                await socket.recv()
            except ConnectionClosed:
                assert "too many log in" in str(socket.close_reason), "who is not let in has not come to the ledger"
                return False
            await socket.close()
            return True

        let_in = sum(await asyncio.gather(*(logs_in(f"player-{number}") for number in range(40))))
        assert 8 <= let_in < 40
        assert carried_out == let_in


async def test_a_login_whose_answer_was_lost_is_undone_when_the_next_try_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster() as c:
        enter, tries = c.ledger.enter, 0

        async def loses_then_refuses(request: EnterRequest) -> EnterAnswer:
            nonlocal tries
            tries += 1
            if tries > 1:
                raise LedgerRefused("the inbox of zone 0 is full")
            await enter(request)
            raise LedgerUnavailable("the reply is lost")

        monkeypatch.setattr(c.ledger, "enter", loses_then_refuses)
        socket = await connect(c.url, compression=None, proxy=None)
        await socket.send(encode_hello(token=c.token("anna")))
        await socket.wait_closed()
        assert socket.close_code == Close.UNAVAILABLE
        await eventually(lambda: c.player("anna").gateway == -1, "the detach of the player whom nobody plays")
