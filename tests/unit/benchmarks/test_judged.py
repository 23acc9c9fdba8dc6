"""A bench whose crowd is not shown, sent or acknowledged what it should be has not passed, however good its figures are."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis.asyncio

from benchmarks import capacity, endtoend, fanout, inbound, jitter, tick, wire
from benchmarks._crowded import amiss
from benchmarks._meadow import tick as meadow_tick
from benchmarks._swarm import Measured
from shard.kernels import layout
from tests.unit.benchmarks.honest_crowd import crowd_sees, measured


def test_an_honest_crowd_has_nothing_amiss() -> None:
    assert amiss(measured(), 1000, sees=40.0) == []
    assert amiss(measured(commands=0, acknowledged=0), 1000, commands_hz=0) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"playing": 998}, "998 of 1000 players are in the world"),
        ({"faults": 3}, "3 faults in what was decoded"),
        ({"snapshots": 90_000}, "18.00 snapshots a second for each player, not 20"),
        ({"commands": 47_000}, "9.40 commands a second for each player, not 10"),
        ({"acknowledged": 47_000}, "9.40 acknowledged commands a second for each player, not 10"),
        ({"fewest": 49}, "a player was shown 49 snapshots, not 100"),
        ({"entities_seen": 35.9}, "35.9 entities are in sight, not 40"),
        ({"entities_seen": 44.1}, "44.1 entities are in sight, not 40"),
    ],
)
def test_each_thing_that_is_amiss_is_said(changes: dict[str, Any], said: str) -> None:
    assert amiss(measured(**changes), 1000, sees=40.0) == [said]


def test_what_a_few_see_is_no_sample() -> None:
    few = measured(500, entities_seen=30.0)
    assert amiss(few, 500, sees=40.0) == []
    assert amiss(measured(entities_seen=30.0), 1000) == [], "nobody asks"


async def test_a_level_of_capacity_holds_only_with_as_many_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd_sees(monkeypatch, capacity, measured(2000), measured(2000, entities_seen=20.0), measured(2000))
    level = await capacity._level(2000, 3, 5.0)
    assert (level["holds"], level["amiss"]) == (False, ["20.0 entities are in sight, not 40"])
    crowd_sees(monkeypatch, capacity, measured(2000))
    assert (await capacity._level(2000, 3, 5.0))["holds"] is True


def floor_of(module: Any, monkeypatch: pytest.MonkeyPatch, ns: float) -> None:
    monkeypatch.setattr(module, "_floor", lambda *_: [ns])


@pytest.mark.parametrize(
    ("seen", "passes"),
    [(measured(entities_seen=32.2), True), (measured(entities_seen=24.0), False), (measured(entities_seen=32.2, fewest=0), False)],
)
def test_endtoend_passes_only_with_31_in_sight_of_everybody(monkeypatch: pytest.MonkeyPatch, seen: Measured, passes: bool) -> None:
    crowd_sees(monkeypatch, endtoend, seen)
    floor_of(endtoend, monkeypatch, 400_000.0)
    found = endtoend.run()
    assert (found["ratio"], found["passed"]) == (1.0, passes)


def test_a_gateway_that_drops_commands_is_no_cheaper_one(monkeypatch: pytest.MonkeyPatch) -> None:
    floor_of(inbound, monkeypatch, 1.0)
    crowd_sees(monkeypatch, inbound, measured(500, acknowledged=10_000))
    found = inbound.run()
    assert found["amiss"][0] == "4.00 acknowledged commands a second for each player, not 10"
    assert (found["ratio"], found["passed"]) == (0.0, False)
    crowd_sees(monkeypatch, inbound, measured(500))
    assert inbound.run()["passed"] is True


@pytest.mark.parametrize(
    ("changes", "passes"), [({}, True), ({"playing": 999}, False), ({"fewest": 3}, False), ({"acknowledged": 0}, False),
                            ({"entities_seen": 60.0}, False)]
)  # fmt: skip
def test_each_window_of_jitter_is_judged(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], passes: bool) -> None:
    async def look(_: Any, told: dict[str, list[Any]]) -> None:
        for name, longest_ms in (("tick_ms", 4.0), ("commit_ms", 2.0), ("own_ms", 3.0)):
            told[name].append({"mean": 2.0, "longest": longest_ms})
        await asyncio.sleep(60)

    async def flush(flushes: list[float]) -> None:
        flushes.append(0.001)

    async def held_up(_: Any) -> tuple[dict[str, int], int]:
        return {}, 0

    async def nothing(*_: Any) -> None: ...

    for name, value in (("_look", look), ("_flush", flush), ("_held_up", held_up), ("LOOK_S", 0.01)):
        monkeypatch.setattr(jitter, name, value)
    monkeypatch.setattr(redis.asyncio.Redis, "from_url", lambda *_, **__: SimpleNamespace(config_set=nothing, aclose=nothing))
    honest = measured(entities_seen=31.0)
    crowd_sees(monkeypatch, jitter, honest, measured(**{"entities_seen": 31.0, **changes}), honest)
    found = jitter.run(minutes=1.0)
    assert (len(found["amiss"]), found["passed"]) == (0 if passes else 1, passes)
    assert (found["tick_ratio"], found["own_ratio"], found["own_ms_mean"], found["commit_ms_longest"]) == (2.0, 1.5, 2.0, 2.0)


@pytest.mark.parametrize(
    ("zone_sees", "cluster_says", "passes"),
    [(41.3, [], True), (36.0, [], False), (54.0, [], False), (41.3, ["12 are in the world"], False)],
)
def test_a_tick_counts_only_with_as_many_in_sight(
    monkeypatch: pytest.MonkeyPatch, zone_sees: float, cluster_says: list[str], passes: bool
) -> None:  # fmt: skip
    async def of_a_cluster(*_: Any) -> dict[str, Any]:
        return {"share": 0.2, "amiss": cluster_says, "audit_findings": 0}

    monkeypatch.setattr(tick, "_of_a_zone", lambda *_: {"seen_by_each": zone_sees})
    monkeypatch.setattr(tick, "_of_a_cluster", of_a_cluster)
    found = tick.run()
    assert (found["passed"], not found["amiss"]) == (passes, passes)


@pytest.mark.parametrize(("sees", "wrong"), [(43.0, 0), (42.0, 0), (38.0, 1), (48.0, 1)])
async def test_the_share_of_a_shard_is_with_43_in_sight(monkeypatch: pytest.MonkeyPatch, sees: float, wrong: int) -> None:
    crowd_sees(monkeypatch, tick, measured(entities_seen=sees))
    assert len((await tick._of_a_cluster(1000, 1, 1.0))["amiss"]) == wrong


class _Zone:
    """Two players who see 50 each, of which so many are updated with 300 bytes."""

    def __init__(self, updated: int) -> None:
        self._updated, self._ticks = updated, 0
        self.encoder = SimpleNamespace(entries={"length": np.full(2, 300)})

    def tick(self) -> None:
        self._ticks += 1

    def seen(self) -> int:
        return 100

    def state(self, which: int) -> int:
        return {layout.ENC_VIEWERS: 2, layout.ENC_UPDATES: 2 * self._updated * self._ticks}.get(which, self._ticks)


@pytest.mark.parametrize(("updated", "passes"), [(50, True), (48, True), (47, False), (25, False)])
def test_bytes_count_only_where_nearly_all_in_sight_are_updated(monkeypatch: pytest.MonkeyPatch, updated: int, passes: bool) -> None:
    monkeypatch.setattr(wire, "arena", lambda: None)
    monkeypatch.setattr(wire, "ArenaZone", lambda *_: _Zone(updated))
    found = wire.run()
    assert (found["bytes_per_visible_entity"], found["updated_share"], found["passed"]) == (6.0, updated / 50, passes)


@pytest.mark.parametrize(
    ("size", "wrong", "said"),
    [
        (428.0, [], []), (350.0, [], []), (150.0, [], ["snapshots have 150 bytes, not 350 to 450"]),
        (900.0, [], ["snapshots have 900 bytes, not 350 to 450"]), (428.0, ["so"], ["so"] * 6),
    ],
)  # fmt: skip
def test_fanout_is_of_frames_of_some_400_bytes(monkeypatch: pytest.MonkeyPatch, size: float, wrong: list[str], said: list[str]) -> None:
    async def delivered(_: str, __: int, rounds: int, ___: float) -> tuple[list[fanout._Round], int]:
        return [fanout._Round(8_000.0, size, 20.0, 40_000, 40_000, wrong)] * rounds, 0

    monkeypatch.setattr(fanout, "_delivered", delivered)
    floor_of(fanout, monkeypatch, 9_000.0)
    found = fanout.run()
    assert (found["amiss"], found["passed"]) == (said, not said)


async def test_a_gateway_that_leaves_snapshots_out_delivers_none_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measured(500, commands=0, acknowledged=0, snapshots=45_000)

    async def frames_out(_: int) -> int:
        return next(counts)

    async def measure(_: float) -> Measured:
        return seen

    counts = iter((0, 45_000))
    monkeypatch.setattr(fanout, "_frames_out", frames_out)
    monkeypatch.setattr(fanout, "cpu_ns", lambda _: 0)
    found = await fanout._round(1, 1, SimpleNamespace(measure=measure), 500, 5.0)  # type: ignore[arg-type]
    assert found.amiss == ["18.00 snapshots a second for each player, not 20"]


def test_a_crowd_on_the_meadow_stays_where_it_is() -> None:
    """Each goes through all headings again and again; else all would stand in a corner after an hour, and see all others."""
    me = SimpleNamespace(x=500.0, y=500.0, heading=0, id=1)
    order = SimpleNamespace(given=True, reach=1000, heading=0)
    world: Any = SimpleNamespace(walker=SimpleNamespace(rows=[me]), walk=[order], dt=0.05, x0=0.0, y0=0.0, x1=2048.0, y1=2048.0)
    rules: Any = meadow_tick
    for heading in range(8):
        order.heading = heading
        for _ in range(20):
            rules.py_func(world)
    assert (me.x, me.y) == (pytest.approx(500.0), pytest.approx(500.0))
