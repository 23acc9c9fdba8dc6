"""Zones that move while their owner lives: a joining shard's share, planned migrations and draining; without an event loop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.cluster_state import ClusterSettings
from coordinator.events import Assign, Cause, Intend, ViewRead
from coordinator.migration import MigrationSettings, Phase, phase
from tests.unit.coordinator.fake_cluster import SHARDS, FakeCluster, drive, running

# --- joining ------------------------------------------------------------------------------------------------------


def test_a_joining_shard_gets_its_share_by_migrations_a_few_at_a_time() -> None:
    cluster = running("s0", "s1", "s2")
    cluster.join("s3")
    most = 0
    for _ in range(40):
        cluster.step()
        moving = [route for route in cluster.view().zones.values() if route.successor]
        most = max(most, len(moving))
        pairs = [(route.owner, route.successor) for route in moving]
        assert all(pairs.count(pair) <= 2 for pair in pairs)
        cluster.follow()
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)
    assert 0 < most <= 8
    assert {assign.cause for assign in cluster.done(Assign)} == {Cause.START, Cause.MIGRATION}


def test_migrations_are_bounded_between_two_shards() -> None:
    cluster = running("s0")
    cluster.join("s1")
    assert len(cluster.step()) == 2
    assert cluster.step() == []


def test_a_zone_that_an_operator_moved_is_not_moved_back_for_balance() -> None:
    one_at_a_time = ClusterSettings(settle_ms=0, migration=MigrationSettings(most=1))
    cluster = running("s0", "s1", columns=4, rows=1, settings=one_at_a_time)
    zone = next(zone for zone in (1, 2) if cluster.owner(zone) == "s0")
    drive(cluster.ledger.intend(cluster.view().term, zone, "s1"))
    cluster.follow()
    cluster.settle()
    assert cluster.owner(zone) == "s1"
    assert cluster.counts() == {"s0": 2, "s1": 2}, "another zone went the other way"


def test_migrations_are_bounded_in_all() -> None:
    settings = ClusterSettings(settle_ms=0, migration=MigrationSettings(most=3, most_per_pair=2))
    cluster = running("s0", "s1", "s2", settings=settings)
    cluster.join("s3")
    cluster.step()
    assert sum(1 for route in cluster.view().zones.values() if route.successor) == 3
    assert cluster.step() == []


def test_a_balanced_cluster_is_left_alone() -> None:
    cluster = running()
    before = cluster.owners()
    cluster.pass_ms(60_000, step_ms=400)
    assert cluster.owners() == before
    assert not cluster.done(Intend)


def test_without_rebalancing_a_joining_shard_gets_nothing() -> None:
    cluster = running("s0", settings=ClusterSettings(settle_ms=0, migration=MigrationSettings(rebalance=False)))
    cluster.join("s1")
    cluster.pass_ms(3000)
    assert cluster.counts() == {"s0": 16}


def test_a_loaded_shard_gives_zones_away_and_they_do_not_come_back_at_once() -> None:
    cluster = running("s0", "s1")
    hot = sorted(cluster.owners()["s0"])[:4]
    cluster.say("s0", load={str(zone): 200 for zone in hot})
    for _ in range(300):
        cluster.pass_ms(100)
        cluster.follow()
    moved = [zone for zone in hot if cluster.owner(zone) == "s1"]
    assert len(moved) == 2
    intents = len(cluster.done(Intend))
    cluster.say("s0", load={str(zone): 0.0 for zone in hot})
    for _ in range(50):
        cluster.pass_ms(100)
        cluster.follow()
    assert [zone for zone in hot if cluster.owner(zone) == "s1"] == moved
    assert len(cluster.done(Intend)) - intents <= 4


@pytest.mark.parametrize("load", [None, "much", float("nan"), -1, True, {"x": 1}, {"0": "heavy"}, [1, 2], 1e300])
def test_a_wild_load_breaks_nothing(load: object) -> None:
    cluster = FakeCluster()
    cluster.join("s0", "s1")
    cluster.settle()
    member = replace(cluster.members["s0"], info={"state": "ready", "load": load})
    view = cluster.view()
    view.members["s0"] = member
    cluster.leader.state.handle(ViewRead(cluster.now_ms + 10, view))
    assert all(0 <= share <= 1e6 for share in cluster.leader.state.loads().values())


# --- migration and takeover of the leader ---------------------------------------------------------------------------


def migrating(**settings: object) -> tuple[FakeCluster, int]:
    """Return a cluster in which one zone of s0 is on its way to s1, and the zone."""
    migration = MigrationSettings(rebalance=False, timeout_ms=10_000.0)
    cluster = running("s0", "s1", "s2", settings=ClusterSettings(settle_ms=0, migration=migration))
    zone = min(cluster.owners()["s0"])
    drive(cluster.ledger.intend(cluster.view().term, zone, "s1"))
    cluster.step()
    assert phase(cluster.view().zones[zone]) is Phase.PREFETCHING
    return cluster, zone


@pytest.mark.parametrize("new_leader", [False, True])
def test_a_zone_moves_when_its_successor_is_ready(new_leader: bool) -> None:
    cluster, zone = migrating()
    if new_leader:
        cluster.elect(cluster.coordinator("c1"))
        assert cluster.step() == []
    cluster.follow()
    assert phase(cluster.view().zones[zone]) is Phase.READY
    if new_leader:
        cluster.elect(cluster.coordinator("c2"))
    cluster.step()
    assert cluster.owner(zone) == "s1"
    assert phase(cluster.view().zones[zone]) is Phase.SETTLED
    if new_leader:
        cluster.elect(cluster.coordinator("c3"))
    assert cluster.step() == []


def test_a_migration_is_withdrawn_when_its_time_is_over() -> None:
    cluster, zone = migrating()
    cluster.pass_ms(9_800)
    assert cluster.view().zones[zone].successor == "s1"
    cluster.pass_ms(400)
    assert cluster.view().zones[zone].successor == ""
    assert cluster.owner(zone) == "s0"


@pytest.mark.parametrize("again", [True, False])
def test_a_new_leader_gives_a_migration_its_full_time(again: bool) -> None:
    cluster, zone = migrating()
    cluster.pass_ms(9_000)
    cluster.elect(cluster.leader if again else cluster.coordinator("c1"))
    cluster.pass_ms(9_000)
    assert cluster.view().zones[zone].successor == "s1"
    cluster.pass_ms(1_500)
    assert cluster.view().zones[zone].successor == ""


@pytest.mark.parametrize("ready", [False, True])
def test_a_migration_is_cancelled_when_the_successor_dies(ready: bool) -> None:
    cluster, zone = migrating()
    if ready:
        cluster.follow()
    cluster.kill("s1")
    cluster.suspect("s1")
    cluster.settle()
    assert cluster.view().zones[zone].successor == ""
    assert cluster.owner(zone) == "s0"
    assert "s1" not in cluster.counts()


@pytest.mark.parametrize("ready", [False, True])
def test_the_successor_takes_over_when_the_owner_dies(ready: bool) -> None:
    cluster, zone = migrating()
    if ready:
        cluster.follow()
    cluster.kill("s0")
    cluster.suspect("s0")
    wanted = [i for i in cluster.step() if isinstance(i, Assign) and i.zone == zone]
    assert [(i.shard, i.cause) for i in wanted] == [("s1", Cause.FAILOVER)]
    assert "s0" not in cluster.counts()


def test_a_zone_whose_owner_and_successor_die_goes_to_a_third() -> None:
    cluster, zone = migrating()
    cluster.kill("s0", "s1")
    cluster.suspect("s0", "s1")
    cluster.settle()
    assert cluster.counts() == {"s2": 16}
    assert cluster.view().zones[zone].successor == ""


def test_a_migration_to_a_shard_that_is_drained_meanwhile_is_cancelled() -> None:
    cluster, zone = migrating()
    drive(cluster.ledger.set_draining("s1", True))
    cluster.step()
    assert cluster.view().zones[zone].successor != "s1"


# --- draining -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_operator", [True, False])
def test_a_draining_shard_gives_all_its_zones_away_live(by_operator: bool) -> None:
    cluster = running()
    if by_operator:
        drive(cluster.ledger.set_draining("s0", True))
    else:
        cluster.say("s0", state="draining")
    cluster.settle()
    assert sorted(cluster.counts()) == ["s1", "s2", "s3"]
    assert not [i for i in cluster.done(Assign) if i.cause is Cause.FAILOVER]
    cluster.depart("s0")
    assert cluster.step() == []


def test_a_draining_shard_gets_rid_of_a_zone_whose_successor_is_never_ready() -> None:
    cluster = running("s0", "s1")
    cluster.say("s0", state="draining")
    cluster.pass_ms(60_000)
    assert cluster.counts() == {"s1": 16}


def test_a_draining_shard_gets_no_zones_of_a_lost_one() -> None:
    cluster = running()
    cluster.say("s0", state="draining")
    cluster.kill("s1")
    cluster.suspect("s1")
    before = cluster.owners()["s0"]
    cluster.step()
    assert cluster.owners().get("s0", set()) <= before


def test_the_last_shard_keeps_its_zones_while_it_drains_and_they_wait_when_it_left() -> None:
    cluster = running("s0")
    cluster.say("s0", state="draining")
    assert cluster.step() == []
    cluster.depart("s0")
    cluster.step()
    assert cluster.counts() == {"": 16}
    cluster.join("s0")
    cluster.step()
    assert cluster.counts() == {"s0": 16}


def test_all_shards_that_drain_together_keep_their_zones() -> None:
    cluster = running()
    for name in SHARDS:
        cluster.say(name, state="draining")
    cluster.pass_ms(2000)
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)


def test_a_shard_that_an_operator_emptied_is_better_than_nobody() -> None:
    cluster = running("s0", "s1")
    drive(cluster.ledger.set_draining("s0", True))
    cluster.settle()
    assert cluster.counts() == {"s1": 16}
    cluster.kill("s1")
    cluster.pass_ms(1500)
    assert cluster.counts() == {"s0": 16}


def test_an_undrained_shard_gets_its_share_again() -> None:
    cluster = running("s0", "s1")
    drive(cluster.ledger.set_draining("s0", True))
    cluster.settle()
    drive(cluster.ledger.set_draining("s0", False))
    cluster.pass_ms(31_000)  # the zones that moved rest first
    cluster.settle()
    assert cluster.counts() == {"s0": 8, "s1": 8}
