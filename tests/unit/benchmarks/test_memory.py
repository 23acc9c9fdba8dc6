from __future__ import annotations

import asyncio
import itertools
import os
from types import SimpleNamespace
from typing import Any

import pytest
import redis.asyncio

from benchmarks import memory
from benchmarks._swarm import Measured
from benchmarks.memory import Kib, cost, growth_an_hour, memory_of, whole_share
from tests.unit.benchmarks.honest_crowd import measured


def test_growth_is_a_slope_for_an_hour() -> None:
    at_s = [float(second) for second in range(0, 600, 10)]
    assert growth_an_hour(at_s, [1000.0] * 60) == pytest.approx(0.0, abs=1e-9)
    leaking = [1000.0 + second / 36.0 for second in at_s]  # 100 an hour
    assert growth_an_hour(at_s, leaking) == pytest.approx(0.1, rel=0.02)


def test_what_grows_while_players_come_does_not_count() -> None:
    at_s = [float(second) for second in range(80)]
    assert growth_an_hour(at_s, [second * 100.0 if second < 20 else 2000.0 for second in at_s]) == pytest.approx(0.0, abs=1e-9)


def test_a_process_has_memory_of_which_a_part_is_its_own() -> None:
    here = memory_of(os.getpid())
    assert here.rss > here.private > 1000


def test_what_a_player_costs_is_by_what_is_resident() -> None:
    assert cost(Kib(50_000, 30_000), Kib(70_000, 45_000), 1000) == (20.0, 15.0)


class _Swarm:
    def __init__(self, seen: Measured) -> None:
        self._seen = seen

    async def start(self, _: float) -> dict[str, int]:
        return {"in": 1000}

    async def steer(self, _: float) -> None:
        """They steer."""

    async def measure(self, _: float) -> Measured:
        return self._seen

    async def kill(self) -> None:
        """Nothing runs."""


class _Cluster:
    def __init__(self, **_: Any) -> None:
        self.folder, self.redis_url, self.secret, self.gateway_urls = "nowhere", "redis://nowhere", "s" * 32, {"gateway-1": "ws://x/ws"}
        self.pids = {"gateway-1": 1, "shard-1": 2, "coordinator-1": 3}
        self.ledger = self

    async def view(self) -> Any:
        return SimpleNamespace(zones=range(4))

    async def start(self) -> None:
        """It is there."""

    stop = start


def bench(monkeypatch: pytest.MonkeyPatch, full: Kib, seen: Measured) -> dict[str, Any]:
    """Run it with a gateway that has so much once all play, and players who see this."""

    async def info(_: str) -> dict[str, int]:
        return {"used_memory": 2_000_000}

    async def nothing(*_: Any) -> int:
        return 0

    looks = {1: itertools.chain([Kib(50_000, 30_000)], itertools.repeat(full))}
    monkeypatch.setattr(memory, "memory_of", lambda pid: next(looks[pid]) if pid in looks else Kib(60_000, 40_000))
    monkeypatch.setattr(memory, "LocalCluster", _Cluster)
    monkeypatch.setattr(memory, "Swarm", lambda *_, **__: _Swarm(seen))
    monkeypatch.setattr(memory, "audit_findings", nothing)
    monkeypatch.setattr(redis.asyncio.Redis, "from_url", lambda *_, **__: SimpleNamespace(info=info, aclose=nothing))
    return memory.run(players=1000, minutes=0.0005)


def test_pages_of_files_and_of_siblings_count_for_a_player(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench(monkeypatch, Kib(71_000, 45_000), measured())
    assert (found["gateway_kib_a_player"], found["gateway_private_kib_a_player"], found["passed"]) == (21.0, 15.0, False)
    assert bench(monkeypatch, Kib(69_000, 45_000), measured())["passed"] is True


def test_players_who_are_shown_too_little_cost_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench(monkeypatch, Kib(69_000, 45_000), measured(acknowledged=20_000))
    assert found["amiss"][0] == "4.00 acknowledged commands a second for each player, not 10"
    assert found["passed"] is False


def test_what_players_were_shown_is_judged_on_the_whole_by_the_least_of_it() -> None:
    honest = measured()
    assert whole_share([honest, honest], 1000) == pytest.approx(1.0)
    assert whole_share([honest, measured(snapshots=honest.snapshots * 9 // 10)], 1000) == pytest.approx(0.95)
    assert whole_share([honest, measured(acknowledged=honest.acknowledged // 2)], 1000) == pytest.approx(0.75)


async def test_the_ledgers_memory_is_looked_at_all_the_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It rises from one checkpoint to the next, and falls then: one look at a time is a look at some moment of that."""
    monkeypatch.setattr(memory, "LOOK_EVERY_S", 0.001)
    saw, over = itertools.cycle(range(2048, 4096, 512)), asyncio.Event()
    looks = 0

    async def info(_: str) -> dict[str, int]:
        nonlocal looks
        looks += 1
        if looks == 40:
            over.set()
        return {"used_memory": next(saw)}

    async def measuring() -> Measured:
        await over.wait()
        return measured()

    seen, kib = await memory.ledger_meanwhile(SimpleNamespace(info=info), measuring())
    assert seen == measured() and len(kib) >= 40 and (min(kib), max(kib)) == (2.0, 3.5)
