"""A ledger that forgot: nobody enters before the world is open again, and then the gateway says which sessions it has."""

from __future__ import annotations

import asyncio

import pytest

from perdure.ledger.generations import sessions_floor
from perdure.ledger.memory_store import StoredPlayer
from perdure.wire.identifiers import player_key
from perdure.wire.opcodes import Close
from tests.unit.gateway.cluster_double import Cluster, cluster, eventually

pytestmark = pytest.mark.asyncio


def another_server(c: Cluster) -> dict[int, StoredPlayer]:
    """The ledger's server restarts; returns its players, for the test to spoil."""
    c.ledger.store.restore(c.ledger.store.snapshot())
    return c.ledger.store.data.players


async def test_logins_wait_until_the_world_is_open_while_those_inside_play_on() -> None:
    async with cluster() as c, c.client("anna") as anna:
        another_server(c)
        connecting = asyncio.ensure_future(c.client("bert").connect())
        await anna.command("steer", mx=1)
        before = anna.stats.snapshots
        await eventually(lambda: anna.stats.snapshots > before + 5, "snapshots")
        assert player_key("bert") not in c.ledger.store.data.players and not connecting.done()
        await c.ledger.open_world(c.term)
        bert = await connecting
        await bert.command("steer", mx=1)
        assert anna.stats.closes == [] and bert.stats.closes == []
        await bert.close()


async def test_names_and_resume_tokens_are_said_again() -> None:
    async with cluster() as c, c.client("anna") as anna:
        record = another_server(c)[player_key("anna")]
        record.name, record.resume, record.since_ms = "", "", 0
        await c.ledger.open_world(c.term)
        await eventually(lambda: record.name == "anna", "the name")
        assert record.resume and record.since_ms
        anna.drop_socket()
        await eventually(lambda: anna.stats.reconnects == 1 and anna.connected, "the resume")
        assert anna.welcome is not None and anna.welcome.session == sessions_floor(2) + 1, "the first of the next generation"


async def test_who_entered_in_the_time_that_is_forgotten_logs_in_again() -> None:
    async with cluster() as c, c.client("anna") as anna:
        del another_server(c)[player_key("anna")]
        assert anna.connected
        await c.ledger.open_world(c.term)
        await eventually(lambda: c.gateway.counters.closes[Close.UNAVAILABLE] == 1, "the end of the session")
        assert c.gateway.counters.closes[Close.TAKEN_OVER] == 0


async def test_a_session_newer_than_the_ledgers_is_no_logout() -> None:
    """An older copy has the player in the lobby, after a session before this one."""
    async with cluster() as c, c.client("anna") as anna:
        record = another_server(c)[player_key("anna")]
        record.place, record.session = -1, record.session - 1
        await c.gateway.admission.verify(list(c.gateway.fanout.sessions()))
        assert anna.connected and anna.stats.closes == []


async def test_players_whose_sockets_broke_meanwhile_are_detached() -> None:
    async with cluster() as c, c.client("anna"):
        players = another_server(c)
        players[player_key("bert")] = StoredPlayer("bert", session=3, place=0, gateway=c.gateway.admission.number, slot=99)
        await c.ledger.open_world(c.term)
        await eventually(lambda: players[player_key("bert")].gateway == -1, "the detach")
        assert players[player_key("anna")].gateway == c.gateway.admission.number


async def test_who_is_entering_meanwhile_is_not_taken_for_one_who_is_gone() -> None:
    async with cluster() as c:
        another_server(c)
        connecting = [asyncio.ensure_future(c.client(f"p{k}").connect()) for k in range(20)]
        await eventually(lambda: len(c.gateway.admission._entering_players) > 10, "logins that wait")
        await c.ledger.open_world(c.term)
        for client in await asyncio.gather(*connecting):
            await client.command("steer", mx=1)
            await client.close()
