"""How long a player was shown nothing around a fault, also where that outlasts the window; and that nobody affected is no figure."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import chaos, crossing, failover, migration, seam, zombie
from benchmarks._playing import ZEROES, longest_gap, percentiles
from benchmarks._stage import Outcome, Setup, Stage, _verdict
from benchmarks._swarm import Gaps
from perdure.client.bots import BotReport, BotsReport


def as_list(times: Sequence[float]) -> list[tuple[float, float]]:
    return [(later, later - earlier) for earlier, later in pairwise(times)]


def as_swarm(times: Sequence[float]) -> Gaps:
    return Gaps(array("d", times))


@pytest.mark.parametrize("gaps", [as_list, as_swarm])
@pytest.mark.parametrize(
    ("times", "longest"),
    [
        ((9.9, 10.0, 10.1, 10.8, 10.9, 11.0, 11.1), 0.7),  # all within
        ((9.0, 9.9, 10.5, 11.05), 0.6),  # one that began before
        ((9.9, 10.0, 10.2, 13.0, 13.1), 2.8),  # one under way at the end, in full
        ((9.9, 13.0, 13.1), 3.1),  # and one that is as long as the window and more
        ((9.9, 10.0, 10.2), 0.8),  # nothing came any more: until the end
        ((9.0, 9.1), 1.9),
        ((11.5, 11.6), 1.0),  # who came later was shown nothing meanwhile
        ((9.9,), 1.0),
        ((), 1.0),
    ],
)
def test_a_gap_counts_that_outlasts_the_window(gaps: Callable[[Sequence[float]], Any], times: tuple[float, ...], longest: float) -> None:
    assert longest_gap(BotReport("ann", gaps=gaps(times)), 10.0, 11.0) == pytest.approx(longest)


def test_no_sample_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="there were no players on a shard that was killed: nothing was measured"):
        percentiles([], "players on a shard that was killed")
    assert percentiles([0.1, 0.3], "players") == {"p50": 200.0, "p99": 298.0, "max": 300.0}


class _Cluster:
    """One shard with one zone, in which `kill` lasts no time."""

    def __init__(self) -> None:
        zones = {0: SimpleNamespace(owner="shard-1", successor="", epoch=1)}
        members = {"shard-1": SimpleNamespace(number=1, info={"state": "ready"})}
        self.pids, self.killed = {"shard-1": 1}, 0.0
        self.seen = SimpleNamespace(zones=zones, members=members, ticks={0: 1}, term=1)
        self.ledger: Any = self

    async def view(self) -> Any:
        return self.seen

    async def kill(self, _: str) -> None:
        self.killed = time.monotonic()

    async def start_shard(self, _: str) -> None:
        """It is there at once."""


class _Game:
    """What a bench sees of a run. Ann plays there, is shown a snapshot every 50 ms, and nothing for a while after a kill."""

    def __init__(self, dark_s: float) -> None:
        self.cluster, self.swarm, self.bots, self.report = _Cluster(), None, None, BotsReport([])
        self._dark_s, self._began = dark_s, time.monotonic()

    async def owners(self) -> tuple[Any, dict[str, str]]:
        return self.cluster.seen, {"ann": "shard-1"}

    async def until(self, _: str, __: Any) -> Any:
        return self.cluster.seen

    def end(self) -> None:
        now, killed = time.monotonic(), self.cluster.killed
        times = [self._began + 0.05 * k for k in range(int((now - self._began) / 0.05) + 1)]
        self.report.bots.append(BotReport("ann", gaps=as_list([t for t in times if not killed <= t < killed + self._dark_s])))

    def verdict(self) -> dict[str, int]:
        return {**dict.fromkeys(ZEROES, 0), "bots": 1, "bots_entered": 1}


def plays(monkeypatch: pytest.MonkeyPatch, module: Any, dark_s: float = 0.0) -> None:
    @asynccontextmanager
    async def playing(*_: Any, **__: Any) -> AsyncIterator[_Game]:
        game = _Game(dark_s)
        yield game
        game.end()

    monkeypatch.setattr(module, "playing", playing)


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (failover, {"kills": 0}, "players on a shard that was killed"),
        (migration, {"migrations": 0}, "players in a zone that moved"),
        (zombie, {"rounds": 0}, "players on a shard that was stopped"),
        (crossing, {"crossings": 0}, "crossings between shards"),
    ],
)
def test_a_bench_without_players_whom_it_concerned_fails(
    monkeypatch: pytest.MonkeyPatch, module: Any, options: dict[str, int], said: str
) -> None:  # fmt: skip
    plays(monkeypatch, module)
    with pytest.raises(RuntimeError, match=f"there were no {said}: nothing was measured"):
        module.run(**options)


async def test_a_seam_at_which_nothing_was_seen_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "SETTLE_S", 0.0)
    with pytest.raises(RuntimeError, match="there were no states of a player across the border: nothing was measured"):
        await seam._age(_Cluster(), 0, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dark_s", "longest_ms", "passes"), [(0.2, (200, 260), True), (60.0, (700, 2000), False)])
def test_a_blackout_is_looked_for_until_shortly_before_the_next_kill(
    monkeypatch: pytest.MonkeyPatch, dark_s: float, longest_ms: tuple[float, float], passes: bool
) -> None:  # fmt: skip
    """The end of the run is no blackout of the last kill; a player who is shown nothing any more has one."""
    plays(monkeypatch, failover, dark_s)
    monkeypatch.setattr(failover.random, "Random", lambda _: SimpleNamespace(choice=lambda names: names[0], uniform=lambda low, high: 1.0))
    found = failover.run(kills=1)
    assert longest_ms[0] <= found["blackout_ms_max"] <= longest_ms[1]
    assert (found["clients_affected"], found["passed"]) == (1, passes)


def _counted(setup: Setup, outcome: Outcome) -> str:
    audit = SimpleNamespace()
    stage: Any = SimpleNamespace(report=BotsReport([]), audit=audit, setup=setup, unmoved=set())
    outcome.figures = {**dict.fromkeys((*ZEROES, "bots_silent"), 0), "bots": 0, "bots_entered": 0}
    return _verdict(stage, outcome)


def test_a_chaos_row_may_affect_nobody_but_not_where_it_has_a_bar() -> None:
    nobody = Outcome("clocks", runs=1, passed_runs=1)
    assert _counted(Setup(), nobody) == ""
    assert "blackout_ms_p50" not in nobody.as_json()
    assert chaos.line(nobody).endswith("): nobody was affected")
    assert _counted(Setup(bar_p99_ms=700), nobody) == "expected a blackout of 700 ms at most (p99); seen: nobody was affected"
    assert _counted(Setup(bar_p99_ms=700), Outcome("shard-kill", blackouts_s=[0.2])) == ""


async def test_what_follows_a_window_of_a_chaos_row_comes_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the gap that is under way at its end is over before the next fault."""
    stage = Stage(None, None, names=["ann"])  # type: ignore[arg-type]

    async def plays_on(**_: Any) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(stage, "plays_on", plays_on)
    async with stage.blackout():
        pass
    next_fault = time.monotonic()
    stage.report = BotsReport([BotReport("ann", gaps=as_list([next_fault - 0.8, next_fault - 0.2, next_fault - 0.1, next_fault + 9.0]))])
    assert stage.blackouts() == [pytest.approx(0.6)]
