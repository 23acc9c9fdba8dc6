"""The asyncio client against a real gateway: reconnects, waiting, iterators, and ends that are for good."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.server import ServerConnection, serve

from perdure.client import Client, ClientClosed, CommandRefused, NotReady
from perdure.client.protocol import Received
from perdure.wire.opcodes import Close
from perdure.wire.tokens import make_token
from tests.unit.gateway.cluster_double import cluster, eventually
from tests.unit.gateway.shard_double import SECRET

pytestmark = pytest.mark.asyncio


async def test_a_client_without_any_token_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        Client("ws://127.0.0.1:1/ws")


async def test_nobody_there_is_tried_until_the_time_is_over() -> None:
    client = Client("ws://127.0.0.1:1/ws", "t", connect_timeout_s=0.5)
    with pytest.raises(TimeoutError):
        await client.connect()
    assert len(client.stats.closes) >= 2
    assert "cannot connect" in client.stats.closes[0].reason
    await client.close()


async def test_an_expired_token_is_for_good() -> None:
    async with cluster() as c:
        client = Client(c.url, make_token(SECRET, "anna", -5))
        with pytest.raises(ClientClosed) as caught:
            await client.connect()
        assert caught.value.code == Close.TOKEN_EXPIRED
        with pytest.raises(ClientClosed):
            client.send_command("steer")
        await client.close()


async def test_a_token_function_is_asked_when_the_resume_token_is_worth_nothing() -> None:
    async with cluster() as c:
        asked = 0

        async def fetch() -> str:
            nonlocal asked
            asked += 1
            return c.token("anna")

        async with Client(c.url, fetch, resume="anna." + "a" * 43) as client:
            assert [end.code for end in client.stats.closes] == [Close.BAD_RESUME]
            assert asked == 1


async def test_an_error_of_the_token_function_ends_the_client_and_whoever_waits_is_told() -> None:
    async with cluster(hz=50) as c:
        fails: Exception | None = None

        async def fetch() -> str:
            if fails is not None:
                raise fails
            return c.token("anna")

        async with asyncio.timeout(10), Client(c.url, fetch) as client:
            c.shards["shard-a"].ignore_commands = True
            command = asyncio.ensure_future(client.command("steer", mx=1))
            snapshots = asyncio.ensure_future(_count(client))
            await asyncio.sleep(0)
            fails = ValueError("the login service sent no JSON")
            client.protocol.resume = ""  # as after a refused resume
            client.drop_socket()
            with pytest.raises(ClientClosed, match="ValueError: the login service sent no JSON") as caught:
                await command
            assert caught.value.__cause__ is fails
            await snapshots
            with pytest.raises(ClientClosed, match="login service"):
                await client.command("steer", mx=1)


async def _count(client: Client) -> int:
    return len([snapshot async for snapshot in client.snapshots()])


async def test_a_login_service_that_is_away_is_asked_again() -> None:
    async with cluster() as c:
        asked = 0

        def fetch() -> str:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise ConnectionRefusedError("away")
            return c.token("anna")

        async with Client(c.url, fetch) as client:
            assert asked == 3
            assert "away" in client.stats.closes[0].reason


async def test_an_error_of_on_message_ends_the_client_and_whoever_waits_is_told() -> None:
    async with cluster() as c:
        fault = KeyError("of the caller")

        def on_message(received: Received) -> None:
            raise fault

        async with asyncio.timeout(5):
            client = Client(c.url, c.token("anna"), on_message=on_message)
            with pytest.raises(ClientClosed, match="KeyError: 'of the caller'") as caught:
                await client.connect()
            assert caught.value.__cause__ is fault
            await client.close()


async def test_a_ping_does_not_outlive_its_socket() -> None:
    async with cluster() as c, asyncio.timeout(10):
        client = await c.client("anna").connect()
        assert await client.ping() >= 0
        ping = asyncio.ensure_future(client.ping())
        await asyncio.sleep(0)
        client.drop_socket()
        with pytest.raises(NotReady, match="broke"):
            await ping
        with pytest.raises(NotReady, match="no connection"):
            await client.ping()
        await client.close()
        with pytest.raises(ClientClosed):
            await client.ping()


async def test_a_server_that_answers_no_ping_is_dead() -> None:
    over = asyncio.Event()

    async def dies(socket: ServerConnection) -> None:
        await socket.recv()
        socket.transport.pause_reading()  # as where the network swallows everything: no FIN comes, and no RST
        await over.wait()
        socket.transport.abort()

    async with serve(dies, "127.0.0.1", 0, ping_interval=None, close_timeout=0.01) as server:
        port = server.sockets[0].getsockname()[1]
        client = Client(f"ws://127.0.0.1:{port}/ws", "t", keep_alive_s=0.1)
        connecting = asyncio.ensure_future(client.connect())
        await eventually(lambda: client.stats.closes, "a socket that is given up")
        assert client.stats.closes[0].code is None
        assert "keepalive" in client.stats.closes[0].reason
        connecting.cancel()
        await client.close()
        over.set()


async def test_another_process_may_continue_with_the_resume_token() -> None:
    async with cluster() as c:
        async with c.client("anna") as first:
            await first.command("steer", mx=1)
            resume = first.protocol.resume
        async with Client(c.url, resume=resume) as second:
            assert second.welcome is not None and second.welcome.player == "anna"
            assert await second.command("steer", mx=1) == 2


async def test_snapshots_and_events_can_be_iterated_and_are_bounded() -> None:
    async with cluster(hz=100) as c, c.client("anna", queue_length=4) as client:
        ticks = []
        async for snapshot in client.snapshots():
            ticks.append(snapshot.tick)
            if len(ticks) == 5:
                break
        assert ticks == list(range(ticks[0], ticks[0] + 5))
        lazy = client.snapshots()
        first = (await anext(lazy)).tick
        seen = client.stats.snapshots
        await client.wait_until(lambda: client.stats.snapshots > seen + 20)
        assert client.stats.queue_drops >= 10
        assert (await anext(lazy)).tick > first + 5
        await lazy.aclose()


async def test_gaps_are_measured() -> None:
    async with cluster(hz=50) as c, c.client("anna") as client:
        await client.wait_until(lambda: client.stats.snapshots > 10)
        assert len(client.stats.gaps) == client.stats.snapshots - 1
        assert all(0 <= gap < 2 for _, gap in client.stats.gaps)


async def test_a_refused_command_raises_and_later_ones_go_through() -> None:
    async with cluster(max_pending_commands=4) as c, c.client("anna") as client:
        c.shards["shard-a"].ignore_commands = True
        waiting = [asyncio.ensure_future(client.command("steer", mx=1)) for _ in range(6)]
        results = asyncio.gather(*waiting, return_exceptions=True)
        await client.wait_until(lambda: client.stats.refused == 2)
        c.shards["shard-a"].ignore_commands = False
        await client.wait_until(lambda: not client.protocol._refusals_due)
        for writer in list(c.shards["shard-a"].links.values()):
            writer.transport.abort()  # a redial brings the resend
        outcome = await results
        assert [seq for seq in outcome if isinstance(seq, int)] == [1, 2, 3, 4]
        assert sum(isinstance(error, CommandRefused) for error in outcome) == 2
        await client.wait_until(lambda: client.protocol.ready and not client.protocol.pending)
        assert await client.command("steer", mx=0) == 5


async def test_a_client_that_is_closed_ends_its_iterators() -> None:
    async with cluster() as c:
        client = await c.client("anna").connect()
        seen = 0

        async def watch() -> None:
            nonlocal seen
            async for _ in client.snapshots():
                seen += 1

        watching = asyncio.ensure_future(watch())
        await eventually(lambda: seen > 2, "snapshots")
        await client.close()
        async with asyncio.timeout(2):
            await watching


async def test_who_leaves_while_the_socket_is_gone_has_left_once_it_is_back() -> None:
    async with cluster(hz=50) as c, c.client("anna") as client:
        client.drop_socket()
        await client.wait_until(lambda: len(client.stats.closes) == 1)
        assert not client.connected
        await client.leave(5.0)
        assert client.ended is not None and client.ended.code == Close.LOGGED_OUT
