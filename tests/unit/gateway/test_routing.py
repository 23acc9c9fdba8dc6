from __future__ import annotations

from gateway.routing import FEWEST_SNAPSHOTS, RoutingTable
from perdure.ledger.values import ClusterView, Member, ZoneRoute
from shard.pace import RUNGS, Rung

DEAREST_WITH_ROOM = RUNGS[2]
"""The last rung on which a zone still takes new players."""


def routing(**rungs: Rung) -> RoutingTable:
    """Zones 0 and 1 run on shard a, 2 on shard b; `rungs` of zones, z0 to z2, as their shards tell them."""
    told: dict[str, dict[str, list[object]]] = {"a": {}, "b": {}}
    for zone, rung in rungs.items():
        told["b" if zone == "z2" else "a"][zone[1:]] = [rung.name, rung.clock_percent, rung.snapshot_every]
    members = {name: Member(name, "shard", k, "", info={"pace": pace}) for k, (name, pace) in enumerate(told.items(), 1)}
    zones = {zone: ZoneRoute(zone, "b" if zone == 2 else "a", 1, 1) for zone in range(3)}
    table = RoutingTable()
    table.update(ClusterView(1, 1, "", 1, zones, members, {}, {}, frozenset(), "run"))
    return table


def spawn_zones(table: RoutingTable) -> set[int]:
    return {table.spawn_zone(player, 3) for player in range(30)}


def test_nobody_new_starts_in_a_zone_whose_clock_is_slowed_next() -> None:
    for rung in RUNGS[3:]:
        table = routing(z1=rung)
        assert spawn_zones(table) == {0, 2}, rung
        assert not table.strained, "others have room"
    assert spawn_zones(routing(z1=DEAREST_WITH_ROOM)) == {0, 1, 2}


def test_who_logs_in_waits_before_the_clock_of_those_who_play_is_slowed() -> None:
    full = RUNGS[3]
    assert full.clock_percent == 100, "no clock is slowed yet"
    table = routing(z0=full, z1=full, z2=full)
    assert table.strained
    assert spawn_zones(table) == {0, 1, 2}, "who resumes, or comes from elsewhere, has a place all the same"
    assert not routing(z0=full, z1=full, z2=DEAREST_WITH_ROOM).strained
    assert routing(z0=RUNGS[-1], z1=RUNGS[4], z2=full).strained


def told(table: RoutingTable, **info: object) -> RoutingTable:
    """Have the shard of zones 0 and 1 tell this, and that of zone 2 nothing."""
    members = {"a": Member("a", "shard", 1, "", info=dict(info)), "b": Member("b", "shard", 2, "", info={"players": {"2": 5}})}
    zones = {zone: ZoneRoute(zone, "b" if zone == 2 else "a", 1, 1) for zone in range(3)}
    table.update(ClusterView(1, 1, "", 1, zones, members, {}, {}, frozenset(), "run"))
    return table


def test_nobody_new_starts_where_the_table_of_players_is_full() -> None:
    table = told(RoutingTable(), full=[0], players={"0": 10, "1": 9})
    assert spawn_zones(table) == {1, 2}
    assert not table.strained and table.players == 24
    assert not told(table, full=[0, 1]).strained
    table = told(RoutingTable(), full=[0, 1], pace={"0": ["far", 100, 1]})
    assert spawn_zones(table) == {2}


def test_few_snapshots_for_a_gateways_sake_close_no_zone_but_that_gateway() -> None:
    few, dear = RUNGS[3], RUNGS[4]
    pace = {str(zone): [rung.name, rung.clock_percent, rung.snapshot_every] for zone, rung in ((0, few), (1, dear))}
    table = told(RoutingTable(), pace=pace, relieving=[0], relieved={"7": 3, "8": 2})
    assert spawn_zones(table) == {0, 2}
    assert table.behind == {7}, "8 is not sent as little as it may be"
    assert told(table).behind == set()


def test_the_fewest_snapshots_are_those_of_the_ladder() -> None:
    before_the_clock = [rung for rung in RUNGS if rung.clock_percent == 100]
    assert before_the_clock[-1].snapshot_every == FEWEST_SNAPSHOTS
    assert all(rung.snapshot_every < FEWEST_SNAPSHOTS for rung in before_the_clock[:-1])
