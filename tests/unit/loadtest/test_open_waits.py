"""What a player waits for and does not get: a failure when the bound has passed, once, whether it ever ends or not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import loadtest.player
from loadtest.census import Census, verdict
from loadtest.player import Conductor, Player
from loadtest.reader import Reader
from loadtest.report import Report, bounds_of
from loadtest.steering import wander
from perdure.game.jit import JIT_DISABLED
from tests.unit.loadtest.gateway_double import Socket, gateway

WIDE = ("snapshot jitter=60000", "crossing gap=60000", "connect=60000")
"""What a busy machine is late with is not what these tests are about."""
EFFECT, HELLO, FAILOVER, BROKE = "command to effect", "hello to first snapshot", "blackout (failover)", "blackout (socket broke)"
compiled = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.skipif(JIT_DISABLED, reason="no compiler"))])


class Run:
    """A player at a gateway, and the rows that it reported."""

    def __init__(self, player: Player, rows: list[dict[str, Any]]) -> None:
        self.player, self.rows = player, rows

    def times(self, row: str) -> list[float]:
        """Return the times of a row, ms."""
        return [one["response_time"] for one in self.rows if one["name"] == row and one["response_time"] is not None]

    def failures(self) -> list[str]:
        return [one["name"] for one in self.rows if one["exception"] is not None]


@contextlib.contextmanager
def playing(script: Callable[[Socket], None], *bounds: str, compiled: bool = False, commands_hz: float = 50.0) -> Iterator[Run]:
    rows: list[dict[str, Any]] = []
    conductor, reader = Conductor(commands_hz), Reader() if compiled else None
    with gateway(script) as url:
        player = Player(
            [url], "one", lambda: "token", wander(), Report(lambda **row: rows.append(row), bounds_of([*WIDE, *bounds])),
            conductor=conductor, seed=1, reader=reader,
        )  # fmt: skip
        greenlet = gevent.spawn(player.play)
        try:
            yield Run(player, rows)
        finally:
            greenlet.kill()
            if conductor._greenlet is not None:
                conductor._greenlet.kill()
            if reader is not None:
                reader.close()


def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        gevent.sleep(0.005)


@compiled
def test_a_command_that_is_never_acknowledged_fails_and_another_is_watched(compiled: bool) -> None:
    answers: list[bool] = []

    def script(one: Socket) -> None:
        one.welcome()
        one.snapshots(lambda: bool(answers))
        one.snapshots(lambda: False, ack=10_000)

    with playing(script, f"{EFFECT}=500", f"{FAILOVER}=60000", compiled=compiled) as run:
        until(lambda: run.failures() == [EFFECT, EFFECT])
        assert run.times(EFFECT) == [], "how long it takes is not known yet"
        answers.append(True)
        until(lambda: len(run.times(EFFECT)) >= 3)
        assert run.times(EFFECT)[0] > 1000.0 and run.times(EFFECT)[0] > run.times(EFFECT)[1] > 500.0
        assert run.failures() == [EFFECT, EFFECT], "a late answer is no second failure"


@pytest.mark.parametrize("welcomed", [False, True])
def test_a_hello_without_a_first_snapshot_fails_when_its_bound_has_passed(welcomed: bool) -> None:
    goes_on: list[bool] = []

    def script(one: Socket) -> None:
        if welcomed:
            one.welcome()
        one.wait(lambda: bool(goes_on))
        one.welcome()
        one.snapshots(lambda: False)

    with playing(script, f"{HELLO}=200", f"{FAILOVER}=60000", f"{EFFECT}=60000") as run:
        until(lambda: run.failures() == [HELLO])
        assert run.times(HELLO) == [] and not run.player.entered
        gevent.sleep(0.3)
        goes_on.append(True)
        until(lambda: run.player.entered)
        assert run.failures() == [HELLO] and [time_ms > 400.0 for time_ms in run.times(HELLO)] == [True]


@compiled
@pytest.mark.parametrize(("end", "row"), [("same zone", FAILOVER), ("another zone", "crossing gap"), ("failed over", FAILOVER)])
def test_a_gap_fails_while_it_lasts_and_only_once(compiled: bool, end: str, row: str) -> None:
    goes_on: list[bool] = []

    def script(one: Socket) -> None:
        one.welcome()
        began_s = time.monotonic()
        one.snapshots(lambda: time.monotonic() > began_s + 0.3)
        one.wait(lambda: bool(goes_on))
        if end == "failed over":
            one.failed_over()
        one.snapshots(lambda: False, zone=int(end == "another zone"))

    bounds = (f"{FAILOVER}=1000", f"{EFFECT}=60000", "snapshot jitter=1500", "crossing gap=1000", f"{HELLO}=60000")
    with playing(script, *bounds, compiled=compiled) as run:
        until(lambda: run.failures() == [FAILOVER])
        before = len(run.times(row))
        gevent.sleep(0.8)
        goes_on.append(True)
        until(lambda: len(run.times(row)) > before)
        assert run.times(row)[before] > 1700.0
        jitters = len(run.times("snapshot jitter"))
        until(lambda: len(run.times("snapshot jitter")) >= jitters + 2)
        assert run.failures() == [FAILOVER], "neither its end nor the jitter of its second is another failure"


def test_a_socket_that_is_not_made_anew_is_a_gap_too() -> None:
    def script(one: Socket) -> None:
        if one.number == 0:
            one.welcome()
            one.snapshots(lambda: one.tick >= 5)
            one.taken.close()
        else:
            one.wait(lambda: False)

    with playing(script, f"{BROKE}=300", f"{HELLO}=60000", f"{FAILOVER}=60000", f"{EFFECT}=60000") as run:
        until(lambda: BROKE in run.failures())
        gevent.sleep(0.3)
        run.player.stop()
        assert run.failures() == ["drop", BROKE]


@compiled
def test_what_is_open_when_a_player_is_stopped_fails_then(compiled: bool) -> None:
    def script(one: Socket) -> None:
        one.welcome()
        one.snapshots(lambda: one.tick >= 5)

    seldom = 0.001  # turns are so far apart that none comes
    with playing(script, f"{FAILOVER}=300", f"{EFFECT}=60000", compiled=compiled, commands_hz=seldom) as run:
        until(lambda: run.player.entered)
        gevent.sleep(1.0)
        assert run.failures() == []
        run.player.stop()
        assert run.failures() == [FAILOVER]
        run.player.stop()
        assert run.failures() == [FAILOVER]
    assert run.times(FAILOVER)[0] > 700.0, "it is told how long it has been at least"


def test_who_waits_in_the_queue_of_logins_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadtest.player, "SILENCE_S", 1.0)

    def script(one: Socket) -> None:
        for _ in range(20):
            one.queued()
            time.sleep(0.1)
        one.welcome()
        one.snapshots(lambda: False)

    with playing(script, f"{HELLO}=1500", f"{FAILOVER}=60000", f"{EFFECT}=60000") as run:
        until(lambda: run.player.entered)
        assert run.failures() == [], "neither is the socket dropped, nor does the time in the queue count as the server's"
        (queued_ms,), (entering_ms,) = run.times("queue"), run.times(HELLO)
        assert queued_ms > 1900.0 and entering_ms < 1500.0


def test_who_waits_in_a_queue_that_has_fallen_silent_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadtest.player, "SILENCE_S", 0.5)
    with playing(Socket.queued) as run:
        until(lambda: "drop" in run.failures() and len(run.times("queue")) > 0)  # a busy machine may take longer than that to queue anybody
        assert run.times("queue")[0] > 400.0


class Somebody:
    entered = False

    def judge(self, now_s: float) -> None: ...


def test_a_census_counts_who_came_and_who_had_the_time_to() -> None:
    census, one, two, three = Census(grace_s=5.0), Somebody(), Somebody(), Somebody()
    census.joins(one, 100.0)
    census.joins(two, 100.0)
    census.joins(three, 104.0)
    one.entered = True
    assert census.count(103.0) == (1, 0), "there is time yet"
    assert census.count(106.0) == (1, 1)
    census.leaves(one, 106.0)
    census.leaves(two, 106.0)
    census.leaves(two, 120.0)
    census.leaves(three, 106.0)
    assert census.count(120.0) == (1, 1) and census.here() == []


def test_a_run_that_many_never_came_into_has_failed() -> None:
    assert verdict([(0, 0)], 0.95) == verdict([], 0.95) == "nobody came into the world: do gateways and workers run?"
    assert verdict([(95, 0), (0, 5)], 0.95) == ""
    assert verdict([(94, 0), (0, 6)], 0.95) == "6 of 100 players never came into the world: at least 95 % are to (--entered)"
    assert verdict([(1, 99)], 0.0) == ""
