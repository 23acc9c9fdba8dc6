"""Gateways that do not keep up: when they are sent less, when more again; nobody is spared for a burst, or for one that hangs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import shard.link_server
from perdure.wire.link import GOT_STRUCT, LinkType, pack_frame
from shard.pace import EVALUATE_S, RUNGS, Pace
from shard.relief import HOLD_S, HOPELESS_S, LEVELS, LOOKS, MOST_HOLD_S, REGRET_S, RENEW_EVERY_S, Relief
from tests.unit.shard.shard_lab import Gateway, Shard, playing, shard_in, until

FEW, FEWER = LEVELS[1:]


class Looks:
    """A relief that is asked once in EVALUATE_S, and what came of it."""

    def __init__(self) -> None:
        self.relief, self.now_s = Relief(), 100.0

    def look(self, times: int, *behind_s: float, gateway: int = 7) -> list[int]:
        """Find the gateway behind by so much, over and over (by nothing: it keeps up); return the rungs that it came to."""
        rungs = []
        for at in range(times):
            self.now_s += EVALUATE_S
            behind = {gateway: behind_s[at % len(behind_s)]} if behind_s else {}
            if self.relief.look(self.now_s, behind, [], [7, 8]):
                rungs.append(self.relief.rung(gateway))
        return rungs


def test_the_rungs_are_those_of_fewer_snapshots() -> None:
    assert [RUNGS[level].snapshot_every for level in LEVELS] == [1, 2, 3]
    assert all(RUNGS[level].clock_percent == 100 for level in LEVELS)


def test_who_stays_behind_is_sent_less_bit_by_bit_and_more_when_it_has_kept_up() -> None:
    looks = Looks()
    assert looks.look(LOOKS - 1, 0.5) == []
    assert looks.look(1, 0.5) == [FEW]
    assert looks.look(LOOKS, 0.6) == [FEWER]
    assert looks.look(100, 0.7) == [], "there is no rung of even fewer"
    assert looks.look(round(HOLD_S / EVALUATE_S) - 1) == []
    assert looks.look(1) == [FEW]
    assert looks.look(round(HOLD_S / EVALUATE_S)) == [0]
    assert looks.relief.rungs == {}


def test_a_burst_is_no_overload() -> None:
    looks = Looks()
    for _ in range(10):
        assert looks.look(LOOKS - 1, 0.5) == []
        assert looks.look(1) == []
    assert looks.relief.rungs == {}


def test_who_catches_up_is_not_sent_even_less() -> None:
    looks = Looks()
    assert looks.look(LOOKS, 1.0) == [FEW]
    assert looks.look(10, *(0.74 * 0.9**k for k in range(10))) == []
    assert looks.relief.rungs == {7: FEW}
    assert looks.look(60, 0.25) == [FEWER], "until it catches up no more"


def test_who_is_behind_by_now_more_now_less_does_not_catch_up() -> None:
    looks = Looks()
    assert looks.look(2 * LOOKS, 0.5, 0.42, 0.55, 0.48) == [FEW, FEWER]


def test_what_was_too_early_takes_longer_each_time() -> None:
    looks, holds = Looks(), []
    assert looks.look(LOOKS, 1.0) == [FEW]
    for _ in range(6):
        before_s = looks.now_s
        while looks.relief.rung(7):
            looks.look(1)
        holds.append(looks.now_s - before_s)
        assert looks.look(LOOKS, 1.0) == [FEW]
    assert holds == [HOLD_S, 2 * HOLD_S, 4 * HOLD_S, 8 * HOLD_S, 16 * HOLD_S, MOST_HOLD_S]
    looks.look(round((MOST_HOLD_S + REGRET_S) / EVALUATE_S) + 1)
    assert looks.look(LOOKS, 1.0) == [FEW], "and who has kept up for long begins anew"
    assert looks.look(round(HOLD_S / EVALUATE_S)) == [0]


def test_who_needs_no_relief_any_more_does_not_wait_as_long_for_each_rung() -> None:
    looks = Looks()
    assert looks.look(2 * LOOKS, 1.0) == [FEW, FEWER]
    for _ in range(6):  # the third rung is too little for it, so that it waits as long as ever
        while looks.relief.rung(7) == FEWER:
            looks.look(1)
        assert looks.look(LOOKS, 1.0) == [FEWER]
    began_s = looks.now_s
    while looks.relief.rung(7) == FEWER:
        looks.look(1)
    assert looks.now_s - began_s == MOST_HOLD_S
    while looks.relief.rung(7):
        looks.look(1)
    assert looks.now_s - began_s == 1.5 * MOST_HOLD_S
    assert looks.look(LOOKS, 1.0) == [FEW], "and where that was too early, it is as before"
    assert looks.look(round(MOST_HOLD_S / EVALUATE_S) - 1) == [] and looks.look(1) == [0]


def test_each_gateway_has_its_own_and_who_is_gone_has_none() -> None:
    looks = Looks()
    looks.look(LOOKS, 1.0, gateway=8)
    assert (looks.relief.rung(7), looks.relief.rung(8)) == (0, FEW)
    assert looks.relief.look(looks.now_s + REGRET_S / 2, {}, [], [7]) == []
    assert looks.relief.rungs == {8: FEW}, "a link that is made anew changes nothing"
    assert looks.relief.look(looks.now_s + REGRET_S, {}, [], [7]) == []
    assert looks.relief.rungs == {}


def test_who_is_hopelessly_behind_gets_a_new_link_now_and_then() -> None:
    looks, renewed = Looks(), list[float]()
    assert not looks.relief.is_hopeless(7, looks.now_s, HOPELESS_S), "nothing was found of it yet"
    for _ in range(200):
        looks.look(1, HOPELESS_S + 1)
        if looks.relief.is_hopeless(7, looks.now_s, HOPELESS_S + 1):
            renewed.append(looks.now_s)
    assert len(renewed) == 5 and renewed[1] - renewed[0] == RENEW_EVERY_S
    looks.look(80, HOPELESS_S - 1)
    assert not looks.relief.is_hopeless(7, looks.now_s, HOPELESS_S - 1)


def test_of_who_is_silent_what_was_found_before_stands() -> None:
    looks = Looks()

    def silence(times: int) -> None:
        for _ in range(times):
            looks.now_s += EVALUATE_S
            assert looks.relief.look(looks.now_s, {}, [7], [7, 8]) == []

    for _ in range(LOOKS - 1):
        assert looks.look(1, 0.5) == []
        silence(5)
    assert looks.look(1, 0.5) == [FEW], "it takes much at once, and tells seldom: that is no keeping up"
    silence(100)
    assert looks.relief.rungs == {7: FEW}
    assert looks.look(round(HOLD_S / EVALUATE_S) - 1) == [], "and no time of its silence counts as kept up"
    assert looks.look(1) == [0]


def weigh(pace: Pace, times: int, lowest: int, step_s: float, encode_s: float) -> list[int]:
    levels = []
    for k in range(times):
        for _ in range(5):
            pace.took(step_s, encode_s)
        pace.weigh(EVALUATE_S * k, 0.03, lowest)
        levels.append(pace.level)
    return levels


def test_a_zone_is_never_below_its_lowest_rung_and_climbs_from_there_if_it_is_dear() -> None:
    pace = Pace(0.05)
    assert set(weigh(pace, 100, FEW, 0.001, 0.001)) == {FEW} and pace.relieves
    assert weigh(pace, 20, FEW, 0.1, 0.1)[-1] > FEWER and not pace.relieves
    assert min(weigh(pace, 200, FEW, 0.001, 0.001)) == FEW and pace.relieves
    assert weigh(pace, 1, 0, 0.001, 0.001) == [0] and not pace.relieves


@pytest.mark.parametrize(("step", "encode"), [(0.9, 0.05), (0.2, 0.5), (0.1, 0.1)])
def test_a_zone_is_after_a_relief_where_it_was_before(step: float, encode: float) -> None:
    """What a zone costs while it is spared something says little; it is back at once, and was never told as dear."""
    pace, dear = Pace(0.05), list[bool]()
    assert set(weigh(pace, 20, 0, step * 0.03, encode * 0.03)) == {0}
    for lowest in (FEW, FEWER, FEW):
        far = encode / 1.7  # far entities are updated less often
        assert set(weigh(pace, 20, lowest, step * 0.03, far * 0.03)) == {lowest}
        dear.append(not pace.relieves)
    assert dear == [False] * 3
    assert weigh(pace, 1, 0, step * 0.03, encode / 1.7 * 0.03) == [0]


# --- with links ---------------------------------------------------------------------------------------------------


def got(gateway: Gateway, count: int) -> None:
    gateway.send(pack_frame(LinkType.GOT, GOT_STRUCT.pack(count)))


async def take(gateway: Gateway, late: int) -> None:
    """Take in what comes, and say so for all but the newest `late` releases."""
    said = 0
    while not gateway.ended:
        count = len(gateway.releases()) - late
        if count > said:
            said = count
            got(gateway, said)
        await asyncio.sleep(0.005)


async def two_playing(shard_1: Shard) -> tuple[Gateway, Gateway]:
    """A player of gateway 7 in zone 0, and one of gateway 8 in zone 1."""
    first, _ = await playing(shard_1, 0, 1)
    second = await shard_1.gateway(8)
    await shard_1.join("two", 8, 1)
    await until(second.releases)
    return first, second


async def test_the_zones_of_a_gateway_that_does_not_keep_up_have_fewer_snapshots_and_no_others(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        first, second = await two_playing(shard_1)
        keeping_up = asyncio.ensure_future(take(second, 0))
        slow = asyncio.ensure_future(take(first, 0))
        link = shard_1.links.links[7]
        await until(lambda: link._usual_s < 0.06, "it is known how far away it is")
        slow.cancel()
        slow = asyncio.ensure_future(take(first, 20))  # 0.4 s behind
        try:
            await until(lambda: shard_1.ticks.pacing.paces[0].level == FEW, "the first rung")
            assert shard_1.ticks.pacing.relief.rungs == {7: FEW}
            assert shard_1.ticks.pacing.told()["relieved"] == {"7": 2}
            assert shard_1.metrics.gateways_behind._value.get() == 1
            await until(first.paces)
            assert first.paces()[0] == (0, 100, 2, RUNGS[FEW].far_every), "clients are told"
            slow.cancel()
            slow = asyncio.ensure_future(take(first, 0))
            await until(lambda: shard_1.ticks.pacing.relief.rungs == {} and shard_1.ticks.pacing.paces[0].level == 0, "and back")
            assert shard_1.ticks.pacing.paces[1].level == 0 and all(zone == 0 for zone, *_ in second.paces())
        finally:
            slow.cancel()
            keeping_up.cancel()


@pytest.mark.parametrize("how", ["it tells nothing", "it has stopped"])
async def test_nobody_is_sent_less_for_a_gateway_that_hangs_or_does_not_tell(tmp_path: Path, how: str) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1)
        if how == "it has stopped":
            got(gateway, 1)
            link = shard_1.links.links[7]
            await until(lambda: (link.behind_s(link._got_s + 0.4, 0.5) or 0.0) > 0.1, "it is behind")
            await until(lambda: link.behind_s(time.monotonic(), 0.5) is None, "and then silent")
        seen = len(gateway.releases())
        await until(lambda: len(gateway.releases()) > seen + 100)  # two seconds
        assert shard_1.ticks.pacing.relief.rungs == {}


async def test_a_gateway_that_is_far_away_is_not_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What takes 0.3 s there and back takes that for each frame; what counts is how much longer it takes than that."""
    now = [1000.0]
    async with shard_in(tmp_path) as shard_1:
        await shard_1.gateway()
        monkeypatch.setattr(shard.link_server, "time", SimpleNamespace(monotonic=lambda: now[0]))  # not the event loop's
        link = shard_1.links.links[7]
        assert (link.behind_s(now[0], 0.5) or 0.0) == 0.0
        for tick in range(100):
            link.release(b"", 1)
            if tick >= 6:
                link._got(tick - 5)
                assert (link.behind_s(now[0], 0.5) or 0.0) < 0.01
            now[0] += 0.05
        for _ in range(5):  # and now it falls behind
            link.release(b"", 1)
            link._got(95)
            now[0] += 0.05
        assert 0.15 < (link.behind_s(now[0], 0.5) or 0.0) < 0.3
        for tick in range(3000):
            link.release(b"", 1)
            link._got(95 + tick)
            now[0] += 0.05
        assert (link.behind_s(now[0], 0.5) or 0.0) < 0.01, "a way that has become longer for good is what is usual"
        for tick in range(1000):  # a lag that grows by 20 ms a second
            link.release(b"", 1)
            link._got(3090 + tick - tick * 4 // 200)
            now[0] += 0.05
        assert (link.behind_s(now[0], 0.5) or 0.0) > 0.5, "but not what grows and grows"
        now[0] += 1e6  # nobody of this gateway's was here for days
        link.release(b"", 1)
        link._got(link._released)
        assert link.behind_s(now[0], 0.5) == 0.0


async def test_a_gateway_that_has_got_more_than_there_was_is_none(tmp_path: Path) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway, _ = await playing(shard_1)
        got(gateway, 1 << 40)
        await until(lambda: gateway.ended)


async def test_what_is_remembered_of_a_gateway_that_takes_nothing_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shard_in(tmp_path) as shard_1:
        gateway = await shard_1.gateway()
        link = shard_1.links.links[7]
        for _ in range(3 * shard.link_server.MAX_UNREAD):
            link.release(b"", 1)
        assert len(link._unread) == shard.link_server.MAX_UNREAD
        got(gateway, 3 * shard.link_server.MAX_UNREAD)
        await until(lambda: not link._unread)
