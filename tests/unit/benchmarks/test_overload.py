"""What players of a slow zone must be given, and how the others are compared with the calm time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import overload
from benchmarks.overload import PACES, Watched
from perdure.cli.bench import BadOption
from perdure.client.world_view import Snapshot


def player(turns_hz: int, paces: list[tuple[float, int]]) -> Watched:
    """One who wants to send so many commands a second, from 100.0 to 110.0, in a zone with these paces."""
    one = Watched()
    one.turns = [100.0 + k / turns_hz for k in range(10 * turns_hz)]
    one.paces = [(at, percent, 1, 1) for at, percent in paces]
    return one


@pytest.mark.parametrize(
    ("turns_hz", "paces", "could"),
    [
        (10, [], 100),  # at the full rate: all that are sent
        (40, [], 200),  # but one in a tick
        (10, [(90.0, 30)], 60),  # 6 ticks a second
        (10, [(90.0, 30), (95.0, 65)], 100),  # what was told last holds
        (10, [(90.0, 50), (105.0, 10)], 60),  # 5 s at 10 ticks a second, 5 s at 2
        (10, [(90.0, 10), (120.0, 100)], 20),  # what is told later is of later
    ],
)
def test_a_zone_applies_a_command_of_each_player_a_tick(turns_hz: int, paces: list[tuple[float, int]], could: float) -> None:
    assert player(turns_hz, paces).could_be_applied(100.0, 110.0) == pytest.approx(could)


def test_commands_are_counted_not_the_snapshots_that_acknowledge_some() -> None:
    one = player(10, [(90.0, 30)])
    for ack in (2, 4, 4, 7):
        one.message(Snapshot(3, 1, 10, 0, ack, 9))
    assert [count for _, count in one.acks] == [2, 2, 3]
    one.acks = [(99.9, 50), (100.0, 20), (105.0, 10), (110.0, 50)]
    assert (one.applied(100.0, 110.0), one.applied_share(100.0, 110.0)) == (30, pytest.approx(0.5))
    assert Watched().applied_share(100.0, 110.0) == 0.0


class _Seconds:
    """Time that passes only while somebody sleeps."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class _Client:
    """Burns: its zone climbs to 30 % at once, and comes down at once. It applies commands at so many percent of the clock meanwhile."""

    def __init__(self, clock: _Seconds, crowd: list[Watched], applies_percent: float, holes: int) -> None:
        self._clock, self._crowd, self._applies, self._holes = clock, crowd, applies_percent, holes

    async def command(self, _: str, rounds: int) -> None:
        await self._clock.sleep(0.1)  # until it is acknowledged
        now, (first, *others) = self._clock.now_s, self._crowd
        if not rounds:
            first.paces.append((now, *PACES[0]))
            return
        first.paces += [(now, *pace) for pace in PACES[1:8]]
        hz = self._applies / 100 / overload.TICK_S
        first.acks = [(now + k / hz, 1) for k in range(int(100 * hz))]
        for hole in range(self._holes):
            start = now + 3.0 + 5.0 * hole + 2.0  # once the climb is over
            for other in others:
                other.times = [t for t in other.times if not start <= t < start + 1.0 or round(20 * t) % 4 == 0]


async def play(monkeypatch: pytest.MonkeyPatch, applies_percent: float = 30.0, holes: int = 0, rung: float = 7.0) -> dict[str, Any]:
    """Play; in some of the windows the others are shown every fourth snapshot for a second."""
    clock = _Seconds()
    monkeypatch.setattr(overload, "time", clock)
    monkeypatch.setattr(overload, "asyncio", clock)
    crowd = [Watched(zone=zone) for zone in (0, 1, 1)]
    for one in crowd:
        one.client = SimpleNamespace()  # type: ignore[assignment]
        one.times = [clock.now_s + k / 20 for k in range(20 * 100)]
        one.turns = [clock.now_s + k / 10 for k in range(10 * 100)]
        one.acks = [(at, 1) for at in one.turns]
    crowd[0].client = _Client(clock, crowd, applies_percent, holes)  # type: ignore[assignment]

    async def read_metrics(port: int) -> dict[str, float]:
        return {'perdure_zone_rung{zone="0"}': rung}

    monkeypatch.setattr(overload, "read_metrics", read_metrics)
    return await overload._play(crowd, 1000, 5, 5.0, 3.0, 1)


async def test_a_rung_that_is_not_in_the_metrics_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await play(monkeypatch, rung=0.0)
    assert (found["passed"], found["rung_told"], found["rung_in_metrics"]) == (False, 7, 0)


async def test_a_zone_that_applies_what_its_clock_allows_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await play(monkeypatch)
    assert found["passed"] is True
    assert (found["clock_percent"], found["least_applied_share"]) == (30, pytest.approx(1.0, abs=0.02))
    assert found["others_applied_share"] == pytest.approx(1.0, abs=0.02)


async def test_a_zone_that_applies_a_command_now_and_then_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await play(monkeypatch, applies_percent=10.0)
    assert found["least_commands_acknowledged"] > 0
    assert (found["least_applied_share"], found["passed"]) == (pytest.approx(0.33, abs=0.02), False)


async def test_one_odd_window_does_not_decide_but_most_do(monkeypatch: pytest.MonkeyPatch) -> None:
    once = await play(monkeypatch, holes=1)
    assert (once["others_p99_ratio"], once["passed"]) == (pytest.approx(1.0), True)
    assert once["others_p99_ms_worst_window"] == pytest.approx(200.0)
    often = await play(monkeypatch, holes=4)
    assert (often["others_p99_ratio"], often["passed"]) == (pytest.approx(4.0), False)


def test_windows_there_must_be() -> None:
    with pytest.raises(BadOption, match="1 of --rounds"):
        overload.run(rounds=0)
