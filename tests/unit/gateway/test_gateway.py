"""The gateway as a whole, in one loop with real links and clients: failover, the ledger away, slow readers, shutdown."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket as sockets
import sys
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gateway import gathering
from gateway.service import EXIT_FAULT, GatewayService, serve_gateway
from gateway.session_states import SessionState
from perdure.client import ClientClosed, WorldMap, run_bots
from perdure.ledger.ledger import LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.values import EnterAnswer, EnterRequest
from perdure.wire.client_messages import encode_hello
from perdure.wire.identifiers import player_key
from perdure.wire.opcodes import Close, Notice, SnapshotFlag
from tests.unit.gateway.cluster_double import cluster, eventually, settings_of, slow_socket
from tests.unit.gateway.shard_double import SECRET, PlayerTruth
from tests.unit.wire.naive_snapshot import TOY

pytestmark = pytest.mark.asyncio


async def test_a_busy_gateway_stands_still_now_and_then_and_takes_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BUSY_HZ", 1.0), ("CALM_HZ", 0.0), ("EVERY_S", 1.0), ("EVERY_PART", 1.0)):
        monkeypatch.setattr(gathering, name, value)
    async with cluster(commands_per_second=1000) as c, c.client("anna") as anna, c.client("otto") as otto:
        gathers = c.gateway.endpoint.gathering
        assert gathers._every_s == 1.0 / TOY.tick_hz, "it knows how often the world has ticks"
        newest = 0
        while newest < 1000 and c.gateway.counters.rests < 5:
            newest, _ = await asyncio.gather(anna.command("steer", mx=1), otto.command("steer", mx=1))
        assert c.gateway.counters.rests >= 5
        for name in ("anna", "otto"):
            assert [seq for seq, _, _ in c.player(name).applied] == list(range(1, newest + 1))
        assert anna.stats.closes == otto.stats.closes == []
        assert gathers.gathers
    assert not gathers.gathers, "it has stopped"


# --- failover and the resend rule -----------------------------------------------------------------------------------


async def test_a_shard_death_loses_no_command_and_no_socket() -> None:
    async with cluster() as c, c.client("anna") as anna:
        for _ in range(3):
            await anna.command("steer", mx=1)
        c.shards["shard-a"].ignore_commands = True  # in flight when it dies
        waiting = [asyncio.ensure_future(anna.command("steer", my=-1)) for _ in range(5)]
        await eventually(lambda: len(c.shards["shard-a"].received) == 8, "the commands at the shard that dies")
        await c.fail_over("shard-a", "shard-b")
        while c.gateway.fanout.session(1).state is SessionState.WAITING:  # type: ignore[union-attr]
            try:
                waiting.append(asyncio.ensure_future(anna.command("steer", mx=-1)))
            finally:
                await asyncio.sleep(0.002)
            if len(waiting) > 20:
                break
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
        assert [seq for seq, _, _ in c.player("anna").applied] == list(range(1, 4 + len(waiting)))
        assert anna.stats.closes == []
        assert anna.world.epoch == 2
        assert [notice.notice for notice in anna.notices] == [Notice.FAILED_OVER]
        assert c.gateway.counters.resends >= 1


async def test_clients_are_told_who_runs_which_zone_and_when_that_changes() -> None:
    async with cluster() as c, c.client("anna") as anna, c.client("otto") as otto:
        await eventually(lambda: anna.protocol.map is not None, "the map")
        assert anna.protocol.map == WorldMap(2, 1, ("shard-a", "shard-a"))
        await c.shards["shard-b"].own(c.term, 1)
        for client in (anna, otto):
            await eventually(lambda client=client: client.protocol.map == WorldMap(2, 1, ("shard-a", "shard-b")), "the new map")


async def test_who_comes_in_is_told_to_the_shard_since_the_zone_may_sleep() -> None:
    async with cluster() as c, c.client("anna") as anna:
        expected = [("shard-a", (anna.world.zone, [player_key("anna")]))]
        await eventually(lambda: [(s.name, told) for s in c.shards.values() for told in s.keyframes] == expected, "the shard is told")


async def test_suspicion_reaches_the_ledger_at_once() -> None:
    async with cluster() as c:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await c.shards["shard-a"].die()
        await eventually(lambda: c.gateway.counters.suspicions > 0, "a suspicion")
        assert loop.time() - began_s < 0.5
        assert (await c.ledger.view()).suspects["shard-a"] >= 1
        assert "shard-b" not in (await c.ledger.view()).suspects


async def test_a_link_that_breaks_while_the_shard_lives_is_redialled_without_suspicion() -> None:
    async with cluster() as c, c.client("anna") as anna:
        shard = c.shards["shard-a"]
        await anna.command("steer", mx=1)
        for writer in list(shard.links.values()):
            writer.transport.abort()
        await eventually(lambda: shard.hellos == 2, "the redial")
        await anna.command("steer", mx=1)
        before = anna.stats.snapshots
        await eventually(lambda: anna.stats.snapshots > before + 2, "snapshots")
        assert c.gateway.counters.suspicions == 0
        assert c.gateway.counters.keyframes_asked >= 1  # frames were lost with the link: the baseline is gone
        assert anna.stats.closes == []
        assert anna.notices == type(anna.notices)(maxlen=100)


async def test_a_shard_of_another_secret_gets_no_commands() -> None:
    async with cluster(hz=0) as c:
        stranger = GatewayService(settings_of(host="127.0.0.1", port=0, secret="y" * 40, heartbeat_ms=20, lease_ms=1000), c.ledger)
        await stranger.start()
        await eventually(lambda: stranger.counters.releases == 0 and len(stranger.links) == 2, "dialling")
        assert stranger.links.up == 0
        await stranger.stop()


async def test_a_new_shard_is_dialled_and_one_that_left_is_not_redialled() -> None:
    async with cluster() as c:
        await c.add_shard("shard-c", 0)
        await eventually(lambda: c.gateway.links.up == 3, "the third link")
        shard = c.shards.pop("shard-c")
        await c.ledger.depart("shard-c", shard.number)
        await eventually(lambda: "shard-c" not in c.gateway.routing.shards, "the view")
        assert c.gateway.links.up == 3  # served until it breaks
        await shard.die()
        await eventually(lambda: c.gateway.links.up == 2, "the loss")
        await c.gateway.links.follow(c.gateway.routing.shards)  # a refresh of the view may have done so before us
        assert len(c.gateway.links) == 2
        assert (c.gateway.counters.link_losses, c.gateway.counters.suspicions) == (1, 0)  # a redial would have been refused


async def test_notices_of_a_zone_reach_its_players() -> None:
    async with cluster() as c, c.client("anna") as anna:
        zone = anna.world.zone
        c.shards["shard-a"].notice(1 - zone, int(Notice.PAUSED))
        c.shards["shard-a"].notice(zone, int(Notice.RESUMED))
        await anna.wait_until(lambda: len(anna.notices) > 0)
        assert [(notice.notice, notice.zone) for notice in anna.notices] == [(Notice.RESUMED, zone)]


async def test_players_are_told_which_neighbours_are_shown_as_they_were() -> None:
    async with cluster() as c:
        async with c.client("anna") as anna:
            zone, shard = anna.world.zone, c.shards["shard-a"]
            assert anna.world.stale_zones == frozenset()
            shard.stale(1 - zone, (zone,))  # another zone's players are told that
            shard.stale(zone, (7, 9))
            await anna.wait_until(lambda: anna.world.stale_zones == {7, 9})
            anna.drop_socket()
            await anna.wait_until(lambda: anna.stats.closes != [])
            await anna.wait_until(lambda: anna.connected and anna.world.stale_zones == {7, 9})  # who comes later is told too
            shard.stale(zone, ())
            await anna.wait_until(lambda: anna.world.stale_zones == frozenset())


async def test_a_frame_for_a_session_that_is_gone_reaches_nobody() -> None:
    async with cluster() as c, c.client("anna") as anna:
        shard, truth = c.shards["shard-a"], c.truths[anna.world.zone]
        slot = c.player("anna").slot
        ghost = PlayerTruth(1, 1, c.gateway.membership.number, slot + 1000)
        frame = shard.frame(truth.zone, ghost, 1)
        shard.send_release(c.gateway.membership.number, truth.zone, [(slot + 1000, 0, 0, 1, frame)])
        await eventually(lambda: c.gateway.counters.frames_unknown == 1, "the frame")
        assert anna.stats.closes == []


async def test_stale_batches_are_dropped_whole() -> None:
    async with cluster() as c, c.client("anna") as anna:
        shard, zone = c.shards["shard-a"], anna.world.zone
        await c.fail_over("shard-a", "shard-b")
        await anna.wait_until(lambda: anna.world.epoch == 2)
        # The dead shard wakes up and speaks once more, of an older epoch and of a tick long past.
        zombie = c.shards["shard-b"]
        player = c.player("anna")
        frame = zombie.frame(zone, player, 1)
        gateway = c.gateway.membership.number
        tick = anna.world.tick
        zombie.send_release(gateway, zone, [(player.slot, player.hop, 99, 1, frame)], epoch=1, tick=tick + 1000)
        zombie.send_release(gateway, zone, [(player.slot, player.hop, 99, 1, frame)], epoch=2, tick=1)
        await eventually(lambda: c.gateway.counters.releases_stale == 2, "the stale batches")
        assert anna.protocol.acked == 0
        assert shard is not zombie


async def test_a_player_crosses_to_another_zone_and_its_commands_follow() -> None:
    async with cluster(hz=0) as c:
        shard = c.shards["shard-a"]
        key = player_key("anna")
        connecting = asyncio.ensure_future(c.client("anna").connect())
        await eventually(lambda: c.gateway.counters.logins == 1, "the login")
        home = next(p.place for p in await c.ledger.online())
        await shard.tick(home)
        await shard.tick(home)
        anna = await connecting
        anna.send_command("steer", mx=1)
        await eventually(lambda: len(shard.received) == 1, "the command")
        shard._waiting.clear()  # it arrives too late for the last tick here
        other = 1 - home
        player = c.truths[home].players.pop(key)
        entry = (player.slot, player.hop, player.last_seq, int(SnapshotFlag.MOVED), shard.frame(home, player, 0))
        shard.send_release(player.gateway, home, [entry])
        await eventually(lambda: c.gateway.fanout.session(player.slot).state is SessionState.WAITING, "MOVED")  # type: ignore[union-attr]
        anna.send_command("steer", mx=-1)
        player.hop += 1
        player.keyframe_due = True
        c.truths[other].players[key] = player
        shard.release(other)
        await eventually(lambda: len(shard.received) == 3, "the resend")
        assert [(zone, int(row["seq"])) for zone, row in shard.received] == [(home, 1), (other, 1), (other, 2)]
        await anna.wait_until(lambda: anna.world.zone == other)
        await anna.close()


# --- the ledger away ----------------------------------------------------------------------------------------------------


class Flaky(MemoryLedger):
    """Loses replies of `enter` (after it took effect), or refuses to answer at all."""

    lose_replies = 0
    away = False

    async def enter(self, request: EnterRequest) -> EnterAnswer:
        if self.away:
            raise LedgerUnavailable("away")
        answer = await super().enter(request)
        if self.lose_replies:
            self.lose_replies -= 1
            raise LedgerUnavailable("the reply was lost")
        return answer

    async def detach(self, player: int, session: int) -> bool:
        if self.away:
            raise LedgerUnavailable("away")
        return await super().detach(player, session)


def make_flaky(c: Any) -> Flaky:
    flaky = Flaky(c.ledger.store)
    c.gateway.admission._ledger = flaky
    return flaky


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_lost_replies_of_a_resume_do_not_lock_the_player_out(lost: int) -> None:
    async with cluster() as c:
        flaky = make_flaky(c)
        async with c.client("anna") as anna:
            await anna.command("steer", mx=1)
            flaky.lose_replies = lost
            anna._token = None  # it has nothing but its resume token
            anna.drop_socket()
            await eventually(lambda: anna.connected and anna.stats.reconnects == 1, "the resume")
            assert await anna.command("steer", mx=1) == 2
            assert anna.ended is None


async def test_a_login_without_ledger_is_closed_and_works_later() -> None:
    async with cluster(admission_timeout_ms=200) as c:
        flaky = make_flaky(c)
        flaky.away = True
        anna = c.client("anna")
        connecting = asyncio.ensure_future(anna.connect())
        await eventually(lambda: anna.stats.closes, "the close")
        assert anna.stats.closes[0].code == Close.UNAVAILABLE
        flaky.away = False
        await connecting
        await anna.close()


async def test_detaches_wait_for_the_ledger() -> None:
    async with cluster() as c:
        flaky = make_flaky(c)
        anna = await c.client("anna").connect()
        flaky.away = True
        await anna.close()
        await eventually(lambda: c.gateway.admission.departures_waiting == 1, "the departure")
        assert c.player("anna").gateway != -1
        flaky.away = False
        await eventually(lambda: c.player("anna").gateway == -1, "the detach")
        assert c.gateway.admission.departures_waiting == 0


async def test_an_entry_whose_reply_never_came_is_detached_later() -> None:
    async with cluster(admission_timeout_ms=150) as c:
        flaky = make_flaky(c)
        flaky.lose_replies = 1000
        anna = c.client("anna", reconnect=False)
        with pytest.raises(ClientClosed):
            await anna.connect()
        await eventually(lambda: any(player_key("anna") in t.players for t in c.truths.values()), "the entry took effect")
        await eventually(lambda: c.player("anna").gateway == -1, "the detach")


# --- slow readers -----------------------------------------------------------------------------------------------------


SLOW = {"slow_reader_bytes": 8192, "slow_reader_resume_bytes": 1024, "send_buffer_bytes": 4096}


async def test_a_slow_readers_snapshots_are_dropped_and_it_comes_back_with_a_keyframe() -> None:
    async with cluster(hz=100, **SLOW) as c, c.client("witness") as witness:
        c.shards["shard-a"].filler = 2000
        raw, _ = await slow_socket(c, "slow")
        counters = c.gateway.counters
        await eventually(lambda: counters.frames_slow > 20, "dropped snapshots")
        asked = len(c.shards["shard-a"].keyframes)
        loop = asyncio.get_running_loop()
        got = 0
        while len(c.shards["shard-a"].keyframes) == asked:  # read until it has drained
            async with asyncio.timeout(5):
                got += len(await loop.sock_recv(raw, 65536))
        slot = c.player("slow").slot
        session = c.gateway.fanout.session(slot)
        assert session is not None
        async with asyncio.timeout(5):
            while session.muted:
                await loop.sock_recv(raw, 65536)
        assert witness.stats.closes == []
        assert max(gap for _, gap in witness.stats.gaps) < 1.0
        raw.close()


async def test_a_reader_that_never_reads_is_closed() -> None:
    async with cluster(hz=100, slow_reader_timeout_ms=500, close_timeout_ms=200, **SLOW) as c, c.client("witness") as witness:
        c.shards["shard-a"].filler = 2000
        raw, _ = await slow_socket(c, "slow")
        await eventually(lambda: c.gateway.counters.closes[Close.SLOW_READER] == 1, "the close")
        await eventually(lambda: len(c.gateway.endpoint._connections) == 1, "the socket's end")
        assert c.player("slow").gateway in (-1, c.gateway.membership.number)
        await eventually(lambda: c.player("slow").gateway == -1, "the detach")
        assert witness.stats.closes == []
        raw.close()


# --- the process ------------------------------------------------------------------------------------------------------


async def test_shutdown_sends_everyone_away_to_another_gateway() -> None:
    async with cluster() as c:
        other = await c.add_gateway()
        clients = [c.client(f"p{k}") for k in range(10)]
        for client in clients:
            client._urls = [c.gateways[0].url, other.url]
            await client.connect()
            await client.command("steer", mx=1)
        leaving = c.gateways.pop(0)
        await leaving.stop()
        await eventually(lambda: len(other.fanout) == 10, "ten resumed sessions")
        await eventually(lambda: all(client.connected for client in clients), "snapshots")
        for client in clients:
            assert client.stats.closes[0].code == Close.GOING_AWAY
            assert await client.command("steer", mx=1) == 2
            await client.close()
        assert leaving.name not in (await c.ledger.view()).members
        assert c.truths[0].players.keys() | c.truths[1].players.keys() == {player_key(f"p{k}") for k in range(10)}


async def test_a_gateway_that_was_taken_for_lost_begins_anew() -> None:
    async with cluster() as c, c.client("anna") as anna:
        number = c.gateway.membership.number
        await anna.command("steer", mx=1)
        await c.ledger.evict(c.term, c.gateway.name, number)
        await c.ledger.gateway_lost(c.term, number)
        await eventually(lambda: c.gateway.membership.number != number, "another number")
        await eventually(lambda: anna.stats.reconnects == 1 and anna.connected, "the resume")
        assert anna.stats.closes[0].code == Close.GOING_AWAY
        assert await anna.command("steer", mx=1) == 2


async def test_a_taken_port_is_one_clear_line_and_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        settings = settings_of(host="127.0.0.1", port=taken.getsockname()[1], secret=SECRET, name="twice")
        assert await serve_gateway(settings, MemoryLedger()) == EXIT_FAULT
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) == 1
    assert "cannot_listen" in printed


async def test_sigterm_ends_with_zero() -> None:
    code = (
        "import sys, uvloop\n"
        "from gateway.service import serve_gateway\n"
        "from gateway.settings import GatewaySettings\n"
        "from perdure.ledger.memory_ledger import MemoryLedger\n"
        "from tests.unit.gateway.shard_double import world_of\n"
        "async def main():\n"
        "    ledger = MemoryLedger()\n"
        "    await ledger.init_world(world_of())\n"
        "    return await serve_gateway(GatewaySettings(port=0, development=True, compiled_sockets=False), ledger)\n"
        "sys.exit(uvloop.run(main()))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = b""
        while b"ready" not in line:
            line = await process.stdout.readline()
            assert line
        assert re.search(rb"ws://127\.0\.0\.1:\d+/ws", line)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_readiness_follows_the_world_and_the_links() -> None:
    ledger = MemoryLedger()
    gateway = GatewayService(settings_of(port=0, development=True, heartbeat_ms=20), ledger)
    await gateway.start()
    try:
        assert gateway._readiness() == "waiting for the ledger and the world"
        anna_socket = await connect(gateway.url, compression=None, proxy=None)
        await anna_socket.send(encode_hello(token="t"))
        await anna_socket.wait_closed()
        assert anna_socket.close_code == Close.UNAVAILABLE
        from tests.unit.gateway.shard_double import world_of

        await ledger.init_world(world_of())
        await gateway.wait_ready()
        assert gateway._readiness() == "no shard is linked"
    finally:
        await gateway.stop()


# --- bots -------------------------------------------------------------------------------------------------------------


async def test_bots_play_through_a_failover_without_a_drop() -> None:
    async with cluster(hz=30) as c:
        entered = asyncio.Event()
        stop = asyncio.Event()
        running = asyncio.ensure_future(run_bots(c.url, SECRET, 30, all_entered=entered, stop=stop))
        await entered.wait()
        await c.fail_over("shard-a", "shard-b")
        session = next(c.gateway.fanout.sessions())
        await eventually(lambda: session.route is not None and session.route.link.name == "shard-b", "the heir")
        before = c.gateway.counters.frames_out
        await eventually(lambda: c.gateway.counters.frames_out > before + 300, "snapshots")
        stop.set()
        report = await running
        summary = report.summary()
        assert summary["entered"] == 30
        assert summary["socket_drops"] == summary["acknowledged_lost"] == summary["backward_ticks"] == 0
        assert summary["commands_acknowledged"] > 0
        for bot in report.bots:
            assert bot.acknowledged == list(range(1, len(bot.acknowledged) + 1))
            applied = [seq for seq, _, _ in c.player(bot.name).applied]
            assert applied == list(range(1, len(applied) + 1))
            assert len(applied) >= len(bot.acknowledged)
