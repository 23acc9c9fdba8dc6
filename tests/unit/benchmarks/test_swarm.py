"""What a lean swarm says of a while: also of players who are shown little, or nothing any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import _swarm
from benchmarks._swarm import Steering, SwarmPlayers, with_overdue
from perdure.client.world_view import Snapshot

ORDER = {"urls": ["ws://x/ws"], "secret": "s" * 32, "small": False, "enter_s": 1.0, "prefix": "player", "core": None, "kind": 1,
         "choices": [[0]]}  # fmt: skip
MESSAGE = b"\x9c\x02\x03\x01\x0a\x00\x04" + bytes(20)
"""Of a snapshot, up to what it acknowledges (4)."""


def crowd(count: int) -> tuple[SwarmPlayers, list[Steering]]:
    """So many players, all in the world."""
    players = SwarmPlayers(ORDER | {"count": count})
    for one in players.steering:
        one.playing, one.acked = True, 4
    return players, players.steering


class Seconds:
    """Time of the swarm's own: a measuring lasts no time, and what is to happen meanwhile happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self._meanwhile = 100.0, lambda _: None
        monkeypatch.setattr(_swarm, "time", SimpleNamespace(perf_counter=lambda: self.now_s, process_time=lambda: 0.0))
        monkeypatch.setattr(_swarm, "asyncio", SimpleNamespace(sleep=self._sleep))

    async def _sleep(self, seconds: float) -> None:
        began_s = self.now_s
        self._meanwhile(began_s)
        self.now_s = began_s + seconds

    async def measure(self, players: SwarmPlayers, shown: dict[Steering, int], seconds: float = 1.0) -> dict[str, Any]:
        """Measure; these are shown so many snapshots meanwhile, 50 ms apart."""

        def show(began_s: float) -> None:
            for turn in range(max(shown.values(), default=0)):
                self.now_s = began_s + 0.05 * turn
                for one, count in shown.items():
                    if turn < count:
                        one._seen(MESSAGE, 0)

        self._meanwhile = show
        found = await players.command(f"measure {seconds}")
        assert found is not None
        return found


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    return Seconds(monkeypatch)


async def test_who_is_shown_nothing_any_more_has_an_interval_all_the_same(seconds: Seconds) -> None:
    players, (ann, ben) = crowd(2)
    found = await seconds.measure(players, {ann: 20, ben: 3})
    assert found["interval_ms_max"] == pytest.approx(900.0), "ben's, which is still open"
    assert found["interval_ms_p50"] == pytest.approx(50.0)
    assert (found["snapshots"], found["fewest"], found["playing"]) == (23, 3, 2)


async def test_who_is_shown_nothing_at_all_is_the_one_with_the_fewest(seconds: Seconds) -> None:
    players, (ann, ben) = crowd(2)
    assert (await seconds.measure(players, {ann: 20, ben: 0}))["fewest"] == 0
    assert (await seconds.measure(players, {ann: 20, ben: 4}))["fewest"] == 4
    assert (await seconds.measure(players, {ann: 17, ben: 20}))["fewest"] == 17, "each measuring counts anew"


async def test_a_world_that_stands_still_has_intervals_as_long_as_it_stands(seconds: Seconds) -> None:
    players, everybody = crowd(3)
    for one in everybody:
        one.last_s = seconds.now_s
    assert (await seconds.measure(players, {}))["interval_ms_p50"] == pytest.approx(1000.0)


def test_intervals_that_are_open_as_they_usually_are_do_not_count() -> None:
    """A measuring ends somewhere within an interval of every player: these are no samples, and would make the others look shorter."""
    rng = np.random.default_rng(1)
    intervals = 0.05 + rng.normal(0.0, 0.004, 20_000)
    still_open = rng.uniform(0.0, 0.06, 1000)
    assert np.array_equal(with_overdue(intervals, still_open), intervals)
    assert with_overdue(intervals, np.append(still_open, 3.0)).max() == 3.0
    assert np.array_equal(with_overdue(np.empty(0), still_open), still_open)


async def test_entities_are_counted_in_every_snapshot_that_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    players, (ann, *_) = crowd(20)
    sample: Any = ann.sample
    sample.world = SimpleNamespace(entities={})

    def receive(message: bytes) -> Any:
        sample.world.entities = dict.fromkeys(range(message[0]))
        return Snapshot(3, 1, 10, 0, 4, 9) if message[0] else None

    async def decode(_: float) -> None:
        for size in (10, 0, 20):  # the one between is another message
            ann._decode(bytes([size]))

    monkeypatch.setattr(sample, "receive", receive)
    ann._decode(bytes([90]))
    monkeypatch.setattr(_swarm, "asyncio", SimpleNamespace(sleep=decode))
    found = await players.command("measure 1")
    assert found is not None and (found["entities_seen"], found["decoded"]) == (15.0, 3)
