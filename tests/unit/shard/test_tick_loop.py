"""A shard's links and its tick loop, over real sockets and a ledger in memory that answers as it is told to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import shard.committing
import shard.tick_loop
from perdure.ledger.ledger import LedgerUnavailable
from perdure.ledger.values import CommitStatus, Waiting
from perdure.wire.identifiers import LOBBY
from perdure.wire.link import (
    pack_keyframes,
)
from perdure.wire.opcodes import Notice, SnapshotFlag
from shard.border import QUIET_S, SILENT_INTERVALS
from shard.pace import RUNGS, Pace
from shard.zone import Phase, Zone
from tests.unit.shard.shard_lab import Shard, TestedLedger, commands_of, playing, shard_in, until
from tests.unit.shard.zone_lab import command_row


@pytest.fixture(params=[False, True], ids=["by the event loop", "at once"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits go to the ledger by the event loop, or without it."""
    monkeypatch.setattr(TestedLedger, "at_once", request.param)


# --- the tick loop ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both_ways")
async def test_commands_go_in_and_frames_come_out(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        assert gateway.releases()[0].entries["flags"].tolist() == [SnapshotFlag.KEYFRAME]
        row = command_row(shard_1.program, key, 1, "add", n=4)
        gateway.send(commands_of(0, row))
        await until(lambda: gateway.releases()[-1].entries["ack"].tolist() == [1])
        assert shard_1.ticks.zones[0].rows("man")["log"].tolist() == [4]
        gateway.send(commands_of(5, row))  # a zone that does not run here
        await until(lambda: shard_1.metrics.dropped_commands._value.get() == 1)
        ticks = [release.tick for release in gateway.releases()]
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))


async def test_nothing_is_kept_of_commands_for_zones_that_run_elsewhere(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        row = command_row(shard_1.program, 1, 1, "add", n=1)
        for _ in range(100):
            assert shard_1.ticks.frames_arrived(commands_of(5, row), 0, commands=True).elsewhere == 1
        assert shard_1.ticks.arrivals.bytes_waiting == 0


async def test_a_zone_that_is_added_ticks_at_once_and_alone(tmp_path: Path) -> None:
    async with shard_in(tmp_path, tick_hz=2) as shard_1:
        await shard_1.run(0)
        await until(lambda: shard_1.ticks.zones[0].tick == 1)
        await until(lambda: shard_1.ticks._sleeper is not None)
        await shard_1.add(1)
        await until(lambda: len(shard_1.ledger.calls) == 3)
        assert [[c.zone for c in commits] for commits in shard_1.ledger.calls] == [[0], [1], [0, 1]]


async def test_full_snapshots_come_when_wanted_and_with_a_new_link(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        await until(lambda: gateway.releases()[-1].entries["flags"].tolist() == [0])
        seen = len(gateway.releases())
        gateway.send(pack_keyframes(0, [key]))
        await until(lambda: any(r.entries["flags"].tolist() == [SnapshotFlag.KEYFRAME] for r in gateway.releases()[seen:]))
        again = await shard_1.gateway()
        await until(again.releases)
        await until(lambda: any(r.entries["flags"].tolist() == [SnapshotFlag.KEYFRAME] for r in again.releases()))


async def test_too_many_commands_renew_the_link(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        rows = np.concatenate([command_row(shard_1.program, key, seq, "add", n=1) for seq in range(1, 400)])
        gateway.send(commands_of(0, rows))
        await until(lambda: gateway.ended)
        again = await shard_1.gateway()
        # what fitted went in, so that it comes to an end however much is sent again
        await until(lambda: again.releases() and again.releases()[-1].entries["ack"].tolist() > [3])


@pytest.mark.usefixtures("both_ways")
async def test_nothing_leaves_before_its_commit_is_answered(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1, 0, 1)
        shard_1.ledger.away = True
        await until(lambda: gateway.notices() == [(0, Notice.PAUSED), (1, Notice.PAUSED)])
        released = len(gateway.releases())
        tick = shard_1.ticks.zones[0].tick
        calls = shard_1.ledger.calls
        started = len(calls)
        await until(lambda: len(calls) > started + 4)
        assert calls[-1] == calls[-2] == calls[started], "identical bytes, again and again"
        assert shard_1.ticks.zones[0].tick == tick, "one tick in flight, never more"
        assert len(gateway.releases()) == released
        assert max(release.tick for release in gateway.releases()) == tick - 1
        shard_1.ledger.away = False
        await until(lambda: len(gateway.notices()) == 4)
        assert gateway.notices()[2:] == [(0, Notice.RESUMED), (1, Notice.RESUMED)]
        await until(lambda: len(gateway.releases()) > released + 2)
        ticks = [release.tick for release in gateway.releases()]
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks))), "no tick is left out, none comes twice"
        shard_1.ledger.away = True
        await until(lambda: gateway.notices()[4:] == [(0, Notice.PAUSED), (1, Notice.PAUSED)], "told a second time")


@pytest.mark.parametrize("why", ["", "a heartbeat goes along", "a zone is in a lane", "its answer is late"])
async def test_a_tick_whose_commit_is_answered_at_once_does_not_go_round_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(TestedLedger, "at_once", True)
    async with shard_in(tmp_path) as shard_1:
        await shard_1.add(0)
        ticks, zone = shard_1.ticks, shard_1.ticks.zones[0]
        ticks.pacing.paces[0].took(0.0001, 0.0001)  # so cheap a zone is no work for threads
        ticks.committing = lambda: why == "a heartbeat goes along"
        shard_1.ledger.script = ["late"] if why == "its answer is late" else []
        if why == "a zone is in a lane":
            ticks._lanes[1] = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        ticking = ticks._tick([zone])
        if why:
            ticking.send(None)
            assert zone.phase is Phase.COMMITTING
            ticking.close()
        else:
            with pytest.raises(StopIteration):
                ticking.send(None)
            assert zone.tick == 1 and zone.phase is Phase.READY


async def test_ticks_that_are_always_late_leave_the_event_loop_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TestedLedger, "at_once", True)
    async with shard_in(tmp_path, tick_hz=1_000_000) as shard_1:
        await shard_1.run(0)
        monkeypatch.setattr("shard.tick_loop.ALONE_S", 10.0)
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        await until(lambda: shard_1.ticks.zones[0].tick > 200)
        before, tick = turns, shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 200)
        assert turns - before >= (shard_1.ticks.zones[0].tick - tick) / 2


async def test_a_tick_is_told_with_and_without_its_wait_for_the_commit(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        shard_1.ledger.away = True
        await until(lambda: shard_1.ticks.paused)  # after 50 ms
        shard_1.ledger.away = False
        times, own = shard_1.ticks.times._last, shard_1.ticks.own_times._last
        await until(lambda: max(times) >= 0.05 and len(own) == len(times))
        at = times.index(max(times))
        assert 0.0 < own[at] <= times[at] - 0.04


async def unanswered(*args: Any) -> Any:
    raise LedgerUnavailable("nobody answers")


async def test_it_says_how_far_zones_are_committed_as_long_as_the_ledger_may_have_forgotten_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1, 0, 1)
        shard_1.ledger.away = True
        await until(lambda: len(gateway.notices()) == 2)
        head = await shard_1.ledger.zone_head(0)
        await until(lambda: shard_1.ticks.unconfirmed() == dict.fromkeys("01", (1, 1, head.tick)))
        shard_1.ledger.away = False
        await until(lambda: not shard_1.ticks.unconfirmed())
        kept = shard_1.ledger.store.snapshot()
        ahead = shard_1.ticks.zones[0].tick + 3
        await until(lambda: shard_1.ticks.zones[0].tick > ahead)
        monkeypatch.setattr(shard_1.ledger, "reseed", unanswered)
        shard_1.ledger.store.restore(kept)
        await until(lambda: all(zone.phase is Phase.FROZEN for zone in shard_1.ticks.zones.values()))
        shown = max(release.tick for release in gateway.releases() if release.zone == 0)
        assert shown >= ahead
        assert shard_1.ticks.unconfirmed()["0"] == (1, 1, shown)
        monkeypatch.undo()
        await until(lambda: not shard_1.ticks.unconfirmed())


@pytest.mark.usefixtures("both_ways")
async def test_a_lost_answer_is_asked_for_again(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        shard_1.ledger.script = ["lost", "away", "lost", "late", "late"]
        tick = shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 5)
        log = await shard_1.ledger.read_log(0, 1)
        assert [record.tick for record in log] == list(range(log[0].tick, log[0].tick + len(log)))
        assert not shard_1.ledger.script


@pytest.mark.usefixtures("both_ways")
async def test_a_shard_that_may_have_been_replaced_lets_others_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had no answer for more than a lease, and the ledger is one that may have forgotten who replaced it."""
    monkeypatch.setattr(shard.committing, "HOLD_OF_S", 0.5)
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        ledger, ticks = shard_1.ledger, shard_1.ticks
        for is_open, held in ((True, False), (False, True)):
            ledger.away = True
            await until(lambda: ticks.paused)
            ticks._commits.answered_s -= 10.0
            data, tick = ledger.store.data, ticks.zones[0].tick
            data.opened_for = ledger.store.run_id if is_open else "another run"
            ledger.away, began_s = False, time.monotonic()
            await until(lambda tick=tick: ticks.zones[0].tick > tick)
            assert (time.monotonic() - began_s >= 0.2) is held
            tick, began_s = ticks.zones[0].tick, time.monotonic()
            await until(lambda tick=tick: ticks.zones[0].tick > tick + 3)
            assert time.monotonic() - began_s < 0.2, "it was answered: it goes on as always"


async def test_a_shard_whose_zones_sleep_hears_of_the_ledger_by_its_questions(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0.0) as shard_1:
        await shard_1.run(0)
        await until(lambda: 0 in shard_1.ticks.sleepers)
        ticks = shard_1.ticks
        ticks._commits.answered_s -= 10.0
        await until(lambda: time.monotonic() - ticks._commits.answered_s < 1.0)
        ticks._server = "the server of before"
        before = ticks._commits.answered_s = time.monotonic() - 10.0
        await ticks._peek()
        assert ticks._commits.answered_s == before, "another server, which may have forgotten who replaced this shard"


@pytest.mark.parametrize("status", [CommitStatus.FENCED, CommitStatus.BROKEN])
@pytest.mark.usefixtures("both_ways")
async def test_a_zone_of_another_owner_or_a_broken_one_stops_at_once(tmp_path: Path, status: CommitStatus) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1)
        zone = shard_1.ticks.zones[0]
        shard_1.ledger.script = [status]
        await until(lambda: not shard_1.ticks.zones)
        assert zone.phase is Phase.DROPPED
        stopped = zone.tick
        ticked = shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked > ticked + 3)
        assert zone.tick == stopped
        assert max(release.tick for release in gateway.releases()) < stopped
        # What waited for a broken zone, and was in the tick that never happened, must come again once it is loaded anew.
        assert bool(shard_1.links.links) is (status is CommitStatus.FENCED)


@pytest.mark.parametrize("error", [AssertionError("no"), RuntimeError("no"), ZeroDivisionError("no"), TypeError("no")])
def test_whatever_the_rules_raise_is_a_tick_that_never_happened(error: Exception) -> None:
    def step() -> None:
        raise error

    zone: Any = SimpleNamespace(fill_ghosts=lambda: None, step=step)
    assert shard.tick_loop._step(zone) == (None, error)


def test_a_shard_without_memory_does_not_take_its_trouble_for_the_rules() -> None:
    def step() -> None:
        raise MemoryError

    zone: Any = SimpleNamespace(fill_ghosts=lambda: None, step=step)
    with pytest.raises(MemoryError):
        shard.tick_loop._step(zone)


async def test_a_dear_zone_that_falls_asleep_leaves_its_lane(tmp_path: Path) -> None:
    """In a lane it would tick one tick after the other, with nobody there."""
    async with shard_in(tmp_path, idle_hz=0.0) as shard_1:
        await shard_1.run(0)
        await until(lambda: 0 in shard_1.ticks.sleepers)
        tick = shard_1.ticks.zones[0].tick
        shard_1.ticks.pacing.paces[0]._step_s = 1.0
        shard_1.ticks._open_lane(0)
        await until(lambda: not shard_1.ticks._lanes)
        assert shard_1.ticks.zones[0].tick == tick


async def test_an_overloaded_zone_that_falls_asleep_is_at_its_full_rate_again(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0.0) as shard_1:
        await shard_1.run(0)
        await until(lambda: 0 in shard_1.ticks.sleepers)
        pace = shard_1.ticks.pacing.paces[0]
        pace._own = len(RUNGS) - 1
        await until(lambda: pace.level == 0)
        assert shard_1.ticks.zones[0].pace is RUNGS[0]


@pytest.mark.usefixtures("both_ways")
async def test_a_ledger_that_went_back_is_given_the_zone_anew(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        gateway.send(commands_of(0, command_row(shard_1.program, key, 1, "add", n=4)))
        await until(lambda: gateway.releases()[-1].entries["ack"].tolist() == [1])
        kept = shard_1.ledger.store.snapshot()
        tick = shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 3)
        shard_1.ledger.store.restore(kept)
        await until(lambda: gateway.releases()[-1].generation == 2)
        first = next(release for release in gateway.releases() if release.generation == 2)
        before = max(release.tick for release in gateway.releases() if release.generation == 1)
        assert first.tick > before, "what was shown is never taken back"
        assert first.entries["flags"].tolist() == [SnapshotFlag.KEYFRAME]
        assert first.epoch > 1 << 20
        assert shard_1.ticks.zones[0].rows("man")["log"].tolist() == [4]


async def test_checkpoints_are_made_while_it_runs(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1)
        await until(lambda: shard_1.metrics.checkpoints._value.get() >= 2)
        head = await shard_1.ledger.zone_head(0)
        assert len(head.checkpoints) == 2


async def test_a_player_on_whose_command_the_rules_fail_is_put_out_and_nobody_else_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        others = [await shard_1.join(f"player-{n}") for n in range(2)]
        zone = shard_1.ticks.zones[0]
        await until(lambda: zone.player_count() == 3)
        fail_on(monkeypatch, lambda sent: 66 in sent)
        monkeypatch.setattr(shard_1.ledger, "leave", refused_once(shard_1.ledger.leave))
        rows = [command_row(shard_1.program, other, 1, "add", n=n + 1, session=1) for n, other in enumerate(others)]
        poison = command_row(shard_1.program, key, 1, "add", n=66, session=1)
        gateway.send(commands_of(0, np.concatenate([rows[0], poison, rows[1]])))
        await until(lambda: shard_1.ticks.zones[0] is not zone)
        gateway.send(commands_of(0, poison))  # as gateways do, until they hear that it is gone
        await until(lambda: shard_1.ledger.store.data.players[key].place == LOBBY)
        mended = shard_1.ticks.zones[0]
        await until(lambda: mended.player_count() == 2)
        await until(lambda: len(mended.rows("man")) == 2)
        assert {row["log"] for row in mended.rows("man")} == {1, 2}, "each of the others' commands was applied, once"
        assert shard_1.ticks.zones[0] is mended and not gateway.ended
        assert all(shard_1.ledger.store.data.players[other].place == 0 for other in others)


async def test_two_whose_commands_fail_only_together_are_both_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, key = await playing(shard_1)
        other = await shard_1.join("other")
        zone = shard_1.ticks.zones[0]
        await until(lambda: zone.player_count() == 2)
        fail_on(monkeypatch, lambda sent: {7, 8} <= sent)
        pair = [command_row(shard_1.program, who, 1, "add", n=n, session=1) for who, n in ((key, 7), (other, 8))]
        gateway.send(commands_of(0, np.concatenate(pair)))
        await until(lambda: shard_1.ticks.zones[0] is not zone)
        await until(lambda: {row["log"] for row in shard_1.ticks.zones[0].rows("man")} == {7, 8})
        assert {shard_1.ledger.store.data.players[who].place for who in (key, other)} == {0}
        assert not gateway.ended


def fail_on(monkeypatch: pytest.MonkeyPatch, bad: Callable[[set[int]], bool]) -> None:
    """Let the rules fail on what is added in one tick."""
    run = Zone._run

    def failing(zone: Zone) -> None:
        rows = zone.arrays.commands[: len(zone.commanding()), 16:]
        run(zone)
        if bad(set(rows.ravel().tolist())):
            raise ValueError("the rules fail")

    monkeypatch.setattr(Zone, "_run", failing)


def refused_once(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ledger's method that finds no answer at first."""
    tries: list[int] = []

    async def call(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise LedgerUnavailable("away")
        return await real(*arguments, **named)

    return call


async def test_a_zone_whose_rules_fail_stops_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1, 0, 1)

        run = Zone._run

        def fail(zone: Zone) -> None:
            if zone.zone == 1 and zone.phase is not Phase.RECOVERING:
                raise ZeroDivisionError("the rules divide by zero")
            run(zone)

        monkeypatch.setattr(Zone, "_run", fail)
        await until(lambda: list(shard_1.ticks.zones) == [0])
        tick = shard_1.ticks.zones[0].tick
        await until(lambda: shard_1.ticks.zones[0].tick > tick + 3)


# --- zones with nobody in or near them ------------------------------------------------------------------------------


async def asleep(shard_1: Shard, *zones: int) -> None:
    await until(lambda: all(zone in shard_1.ticks.sleepers for zone in zones), "the zones sleep")


@pytest.mark.parametrize(("gateway_tells", "most_ticks"), [(True, 4), (False, 9)])
async def test_a_zone_with_nobody_in_it_stands_still_and_its_first_player_is_served_soon(
    tmp_path: Path, gateway_tells: bool, most_ticks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        await shard_1.run(0, 1)
        gateway = await shard_1.gateway()
        await asleep(shard_1, 0, 1)
        assert [shard_1.ticks.zones[zone].tick for zone in (0, 1)] == [1, 1]
        ticked = shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked > ticked + 10)
        assert [shard_1.ticks.zones[zone].tick for zone in (0, 1)] == [1, 1]
        ticked = shard_1.ticks.ticked
        if gateway_tells:

            async def nothing_waits(zones: Any) -> Waiting:
                return Waiting(frozenset(), shard_1.ticks._server)

            monkeypatch.setattr(shard_1.ledger, "waiting", nothing_waits)
        key = await shard_1.join("one")
        if gateway_tells:
            gateway.send(pack_keyframes(0, [key]))
        await until(gateway.releases)
        assert shard_1.ticks.ticked - ticked <= most_ticks, "it is woken, ticks to take the entry, and ticks to apply it"
        await until(lambda: shard_1.ticks.zones[0].tick > 20)


async def test_an_idle_zone_ticks_at_the_rate_of_the_game(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=10) as shard_1:
        await shard_1.run(0)
        await asleep(shard_1, 0)
        tick, ticked = shard_1.ticks.zones[0].tick, shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked >= ticked + 100)
        assert 10 <= shard_1.ticks.zones[0].tick - tick <= 40


async def test_a_player_who_comes_near_wakes_the_neighbour_and_who_is_far_lets_it_sleep(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        _, key = await playing(shard_1, 0, 1)
        zone = shard_1.ticks.zones[0]
        (place,) = np.flatnonzero(zone.players["key"] == key)
        man = zone.players["row"][place]
        interest = zone.program.game.interest
        zone.rows("man")["x"][man] = 50 - interest - 5  # the border is at 50
        await asleep(shard_1, 1)
        zone.rows("man")["x"][man] = 50 - interest + 1
        await until(lambda: 1 not in shard_1.ticks.sleepers)
        tick = shard_1.ticks.zones[1].tick
        await until(lambda: shard_1.ticks.zones[1].tick > tick + 5)
        zone.rows("man")["x"][man] = 50 - interest - 5
        await asleep(shard_1, 1)
        shard_1.ticks.seen_from_elsewhere([1])
        await until(lambda: 1 not in shard_1.ticks.sleepers)
        assert 0 not in shard_1.ticks.sleepers


@pytest.mark.parametrize("idle_hz", [0, 2])
async def test_a_neighbour_that_sleeps_is_not_taken_for_silent(tmp_path: Path, idle_hz: float) -> None:
    async with shard_in(tmp_path, idle_hz=idle_hz) as shard_1:
        _, key = await playing(shard_1, 0, 1)
        zone, told = shard_1.ticks.zones[0], set[tuple[int, ...]]()
        (place,) = np.flatnonzero(zone.players["key"] == key)
        zone.rows("man")["x"][zone.players["row"][place]] = 50 - zone.program.game.interest - 5  # the border is at 50
        await asleep(shard_1, 1)
        tick = zone.tick

        def later() -> bool:
            told.add(zone.border.stale())
            return zone.tick > tick + 5 * SILENT_INTERVALS

        await until(later)
        assert told == {()}
        shard_1.ticks.seen_from_elsewhere([1])
        await until(lambda: zone.border._held[1].feed.interval_s == QUIET_S)


async def test_sleeping_zones_are_put_back_into_a_ledger_that_forgot_their_last_ticks(tmp_path: Path) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        kept = None
        await shard_1.add(0, 1)
        kept = shard_1.ledger.store.snapshot()
        shard_1.task = asyncio.get_running_loop().create_task(shard_1.ticks.run())
        await asleep(shard_1, 0, 1)
        await until(lambda: shard_1.ticks._server)
        shard_1.ledger.store.restore(kept)
        await until(lambda: all(zone.generation == 2 for zone in shard_1.ticks.zones.values()))
        assert (await shard_1.ledger.zone_head(0)).tick == shard_1.ticks.zones[0].tick


async def test_sleeping_zones_look_where_the_ledger_stands_once_it_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path, idle_hz=0) as shard_1:
        await shard_1.run(0)
        await asleep(shard_1, 0)
        tick = shard_1.ticks.zones[0].tick
        monkeypatch.setattr(shard_1.ledger, "waiting", refused_once(shard_1.ledger.waiting))
        await until(lambda: shard_1.ticks.zones[0].tick > tick)
        await asleep(shard_1, 0)


# --- in which thread ----------------------------------------------------------------------------------------------


async def test_short_ticks_stay_in_the_thread_of_the_loop_and_long_ones_do_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, ran = shard.tick_loop._each, list[bool]()

    def watched(function: Callable[[Zone], Any], zones: list[Zone]) -> list[tuple[Any, float]]:
        ran.append(threading.current_thread() is threading.main_thread())
        return each(function, zones)

    async with shard_in(tmp_path) as shard_1:
        await playing(shard_1, 0, 1)
        monkeypatch.setattr(shard.tick_loop, "_each", watched)
        for expected_s, known, here in ((0.0, True, True), (0.1, True, False), (0.0, False, False)):
            for part in ("of_step_s", "of_encode_s"):  # each part for itself
                monkeypatch.setattr(Pace, part, lambda _, expected_s=expected_s: expected_s)
            monkeypatch.setattr(Pace, "known", known)
            ran.clear()
            await until(lambda: len(ran) > 9)
            assert set(ran[3:]) == {here}, (expected_s, known)


# --- zones that take too long ---------------------------------------------------------------------------------------


async def test_a_zone_that_takes_too_long_slows_its_own_clock_alone_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, step = shard.tick_loop._each, shard.tick_loop._step
    heavy_s = [0.06]  # of 20 ms

    def slow(function: Callable[[Zone], Any], zones: list[Zone]) -> list[tuple[Any, float]]:
        done = each(function, zones)
        if function is not step or all(zone.zone != 1 for zone in zones):
            return done
        time.sleep(heavy_s[0])
        return [(result, cost_s + heavy_s[0] * (zone.zone == 1)) for zone, (result, cost_s) in zip(zones, done, strict=True)]

    monkeypatch.setattr(shard.tick_loop, "_each", slow)
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1, 0, 1)
        pace = shard_1.ticks.pacing.paces[1]
        await until(lambda: pace.rung.clock_percent < 40)
        at, ticked = [shard_1.ticks.zones[zone].tick for zone in (0, 1)], shard_1.ticks.ticked
        await until(lambda: shard_1.ticks.ticked > ticked + 40)
        assert shard_1.ticks.zones[0].border.stale() == (), "who is slow is not silent"
        normal, slowed = (shard_1.ticks.zones[zone].tick - before for zone, before in zip((0, 1), at, strict=True))
        assert normal >= 36, "the other zone ticks with every interval"
        assert 5 <= slowed <= 24
        told = [pace for zone, *pace in gateway.paces() if zone == 1]
        levels = [[[rung.clock_percent, rung.snapshot_every, rung.far_every] for rung in RUNGS].index(pace) for pace in told]
        assert levels[0] == 1 and levels == sorted(levels) and levels[-1] >= 7, "one rung after the other, each told"
        assert not [zone for zone, *_ in gateway.paces() if zone == 0]
        heavy_s[0] = 0.0
        await until(lambda: pace.level == 0 and not shard_1.ticks._lanes)
        await until(lambda: gateway.paces()[-1] == (1, 100, 1, 1))
