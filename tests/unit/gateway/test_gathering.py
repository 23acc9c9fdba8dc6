"""Messages of a busy gateway gather for a moment, those of a calm one do not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from gateway import gathering
from gateway.gathering import BUSY_HZ, CALM_HZ, EVERY_S, SHORTEST_S, Gathering
from gateway.metrics import GatewayCounters
from gateway.shard_links import LEAD_PART, LEAD_S

WEIGHED_EVERY_S = 0.1


class Stage:
    """A gateway's counters, and a clock that goes on where somebody sleeps, or says so."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self.counters = GatewayCounters()

    def time(self) -> SimpleNamespace:
        return SimpleNamespace(monotonic=lambda: self.now_s, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def come(self, gathering: Gathering, hz: float) -> None:
        """So many messages a second come until they are weighed, which is now."""
        self.now_s += WEIGHED_EVERY_S
        self.counters.frames_in += round(hz * WEIGHED_EVERY_S)
        gathering.weigh()

    async def turns(self, gathering: Gathering, count: int, *, messages: int = 3, busy_s: float = 0.0) -> list[float]:
        """Let the event loop turn so often, each time with so many messages and so much to do; return how long it stood still."""
        before = len(self.slept)
        for _ in range(count):
            for _ in range(messages if gathering.gathers else 0):  # as GameConnection does
                gathering.came()
            self.now_s += busy_s
            await asyncio.sleep(0)
        return self.slept[before:]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(gathering, "time", stage.time())
    return stage


async def test_a_calm_gateway_never_stands_still(stage: Stage) -> None:
    calm = Gathering(stage.counters)
    for _ in range(3):
        stage.come(calm, BUSY_HZ - 100)
        assert not calm.gathers
    assert await stage.turns(calm, 5) == []
    assert stage.counters.rests == 0


async def test_a_busy_one_looks_once_in_so_long_however_many_messages_come(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, BUSY_HZ)
    assert await stage.turns(busy, 1) == []  # it has not looked for long
    assert await stage.turns(busy, 4) == pytest.approx([EVERY_S] * 4)
    assert await stage.turns(busy, 3, busy_s=0.4 * EVERY_S) == pytest.approx([0.6 * EVERY_S] * 3)
    assert stage.counters.rests == len(stage.slept)


@pytest.mark.parametrize("tick_hz", [1, 20, 60, 120])
async def test_a_look_is_never_late_for_what_is_to_be_written_before_a_tick(stage: Stage, tick_hz: int) -> None:
    busy = Gathering(stage.counters)
    busy.ticks_at(tick_hz)
    stage.come(busy, BUSY_HZ)
    await stage.turns(busy, 1)
    lead_s = min(LEAD_S, LEAD_PART / tick_hz)
    rests = await stage.turns(busy, 3)
    assert len(rests) == 3 and max(rests) <= min(EVERY_S, lead_s / 3) + 1e-9


async def test_it_waits_for_the_next_message_as_ever_where_none_came(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, BUSY_HZ)
    await stage.turns(busy, 3)
    assert await stage.turns(busy, 5, messages=0) == []


async def test_who_has_much_to_do_never_stands_still(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, 2 * BUSY_HZ)
    assert await stage.turns(busy, 5, busy_s=EVERY_S - SHORTEST_S / 2) == []
    assert busy.gathers


async def test_it_goes_on_until_it_is_calm_and_not_for_one_turn_more(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, BUSY_HZ)
    stage.come(busy, CALM_HZ)
    await stage.turns(busy, 1)
    assert len(await stage.turns(busy, 3)) == 3
    stage.come(busy, CALM_HZ - 100)
    assert not busy.gathers
    await stage.turns(busy, 1)
    busy.came()  # it was on its way
    assert await stage.turns(busy, 3) == []
    stage.come(busy, BUSY_HZ - 100)  # what was enough to go on is too little to begin
    assert not busy.gathers


async def test_it_hurries_where_something_else_is_on_its_way(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, BUSY_HZ)
    await stage.turns(busy, 2)
    busy.hurry()
    assert await stage.turns(busy, 1) == []
    assert len(await stage.turns(busy, 1)) == 1, "once"


async def test_two_weighings_in_one_moment_are_one(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, BUSY_HZ)
    busy.weigh()
    assert busy.gathers


async def test_a_gateway_that_stops_looks_at_once(stage: Stage) -> None:
    busy = Gathering(stage.counters)
    stage.come(busy, BUSY_HZ)
    await stage.turns(busy, 2)
    busy.came()
    busy.close()
    assert await stage.turns(busy, 3) == []
