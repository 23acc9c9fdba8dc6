"""Who sleeps and who is near: what the players of a zone saw keeps nobody awake once they are gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

import shard.sleepers
from shard.sleepers import Sleepers
from shard.zone import Zone


def zone_of(number: int, players: int) -> Zone:
    stub: Any = SimpleNamespace(zone=number, page=(), players=players)
    stub.player_count = lambda: stub.players
    return cast(Zone, stub)


def test_the_last_player_who_leaves_near_a_border_lets_the_neighbours_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.sleepers, "zones_seen", lambda zone: frozenset({2}) if zone.player_count() else frozenset())
    sleepers = Sleepers(1.0, 20.0)
    left, right = zone_of(1, 1), zone_of(2, 0)
    sleepers.look_around([left, right])
    for zone in (left, right):
        sleepers.ticked(zone, 1.0)
    assert not sleepers.numbers()
    cast(Any, left).players = 0
    sleepers.ticked(left, 2.0)
    assert sleepers.numbers() == [1]
    sleepers.look_around([right])  # those that sleep are not looked at
    sleepers.ticked(right, 3.0)
    assert sorted(sleepers.numbers()) == [1, 2] and sleepers.seen_here() == []
