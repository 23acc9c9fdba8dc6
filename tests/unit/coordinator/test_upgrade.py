"""Shards of two builds at a time: who is given which zone, and when; without an event loop."""

from __future__ import annotations

import pytest

from coordinator.cluster_state import ClusterSettings
from coordinator.events import Assign, Cause, Instruction, Intend, ReadTail
from coordinator.migration import MigrationSettings
from perdure.ledger.ledger import LedgerRefused
from tests.unit.coordinator.fake_cluster import FakeCluster, drive

OLD, NEW = 0xA, 0xB


def two_builds(*, old: tuple[str, ...] = ("a0", "a1"), new: tuple[str, ...] = ("b0",), rest_ms: float = 30_000.0) -> FakeCluster:
    """Return a cluster whose zones run on shards of the old build, and that shards of the new one have joined."""
    settings = ClusterSettings(settle_ms=0.0, migration=MigrationSettings(rest_ms=rest_ms))
    cluster = FakeCluster(2, 2, settings)
    cluster.join(*old, build=OLD)
    cluster.settle()
    cluster.committing = {*old, *new}
    cluster.pass_ms(500)
    cluster.join(*new, build=NEW)
    return cluster


def turns(cluster: FakeCluster, count: int = 6) -> list[Instruction]:
    return [instruction for _ in range(count) for instruction in cluster.step()]


def intended(cluster: FakeCluster) -> tuple[FakeCluster, int]:
    """Return the cluster with one zone of a0 on its way to b0, which is ready for it."""
    zone = min(cluster.owners()["a0"])
    drive(cluster.ledger.intend(cluster.view().term, zone, "b0"))
    cluster.follow(zone)
    return cluster, zone


def hand_over(cluster: FakeCluster, *zones: int, for_ms: float = 100.0) -> None:
    """Let time pass in which successors are ready and owners hand these zones over."""
    for _ in range(round(for_ms / 100)):
        cluster.pass_ms(100)
        cluster.follow(*zones)
        cluster.checkpoint(*zones)
        cluster.step()


def fail(cluster: FakeCluster, shard: str, zone: int) -> None:
    """Let a shard say that it cannot run a zone as it is now."""
    cluster.say(shard, failed={str(zone): f"{cluster.view().zones[zone].epoch}: replay gives another state"})


# --- planned ------------------------------------------------------------------------------------------------------


def test_a_shard_of_another_build_gets_nothing_for_balance_alone() -> None:
    cluster = two_builds()
    cluster.pass_ms(10_000)
    assert cluster.counts() == {"a0": 2, "a1": 2}
    cluster.join("a2", build=OLD)
    for _ in range(300):
        cluster.pass_ms(100)
        cluster.follow()
    assert cluster.counts() == {"a0": 1, "a1": 2, "a2": 1} or cluster.counts() == {"a0": 2, "a1": 1, "a2": 1}


def test_the_epoch_moves_to_another_build_only_with_a_checkpoint_of_the_last_tick() -> None:
    cluster, zone = intended(two_builds())
    assert not [i for i in turns(cluster) if isinstance(i, Assign)]
    cluster.checkpoint(zone)
    (wanted,) = [i for i in cluster.step() if isinstance(i, Assign)]
    assert (wanted.shard, wanted.cause, wanted.at_checkpoint) == ("b0", Cause.MIGRATION, True)
    assert cluster.owner(zone) == "b0"


def test_an_owner_that_went_on_meanwhile_keeps_the_zone() -> None:
    cluster, zone = intended(two_builds())
    cluster.checkpoint(zone)
    wanted = cluster.step(carry_out=lambda instruction: False)
    assert [i.zone for i in wanted if isinstance(i, Assign)] == [zone]
    cluster._commit(zone)
    with pytest.raises(LedgerRefused, match="has not handed it over"):
        cluster.carry_out(cluster.leader, next(i for i in wanted if isinstance(i, Assign)))
    assert not [i for i in cluster.step() if isinstance(i, Assign)], "the log has a tail again"
    assert cluster.owner(zone) == "a0"


def test_a_checkpoint_from_before_the_successor_was_ready_does_not_count() -> None:
    cluster = two_builds()
    zone = min(cluster.owners()["a0"])
    cluster.checkpoint(zone)
    drive(cluster.ledger.intend(cluster.view().term, zone, "b0"))
    assert not [i for i in cluster.step() if isinstance(i, Assign)]


@pytest.mark.parametrize("leaving", [False, True])
def test_a_handover_that_takes_too_long_is_withdrawn_and_the_owner_keeps_the_zone(leaving: bool) -> None:
    cluster, zone = intended(two_builds())
    if leaving:
        cluster.say("a0", state="draining")
    cluster.pass_ms(9_900)
    assert cluster.view().zones[zone].successor == "b0"
    cluster.pass_ms(300)
    assert not [i for i in cluster.done(Assign) if i.zone == zone and i.cause is not Cause.START]
    assert [i for i in cluster.done(Intend) if (i.zone, i.successor) == (zone, "")]
    assert cluster.owner(zone) == "a0"


def test_drained_shards_give_their_zones_to_another_build_one_after_the_other() -> None:
    cluster = two_builds(old=("a0",), new=("b0",))
    cluster.say("a0", state="draining")
    hand_over(cluster, 0, 1, 2, 3, for_ms=2000)
    assert cluster.counts() == {"b0": 4}
    assert all(i.at_checkpoint for i in cluster.done(Assign) if i.cause is Cause.MIGRATION)


def test_moves_within_a_build_need_no_checkpoint() -> None:
    cluster = two_builds()
    zone = min(cluster.owners()["a0"])
    drive(cluster.ledger.intend(cluster.view().term, zone, "a1"))
    cluster.follow(zone)
    (wanted,) = [i for i in cluster.step() if isinstance(i, Assign)]
    assert (wanted.shard, wanted.at_checkpoint) == ("a1", False)


# --- a successor that cannot --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [False, True])
def test_a_successor_that_cannot_run_the_zone_does_not_get_it(ready: bool) -> None:
    cluster = two_builds()
    zone = min(cluster.owners()["a0"])
    drive(cluster.ledger.intend(cluster.view().term, zone, "a1"))
    fail(cluster, "a1", zone)
    if ready:
        cluster.follow(zone)
    cluster.step()
    (withdrawn,) = [i for i in cluster.done(Intend) if i.zone == zone]
    assert withdrawn.successor == ""
    assert withdrawn.reason == "the successor says that it cannot run the zone (replay gives another state): a0 keeps it"
    assert cluster.owner(zone) == "a0"


def test_a_leaving_owner_is_not_asked_for_ever_to_give_a_zone_to_one_that_cannot_run_it() -> None:
    cluster = two_builds(old=("a0",), new=("b0",), rest_ms=5000.0)
    zone, others = 0, (1, 2, 3)
    cluster.say("a0", state="draining")
    hand_over(cluster, *others, for_ms=2000)
    assert cluster.counts() == {"a0": 1, "b0": 3}
    assert cluster.view().zones[zone].successor == "b0"
    fail(cluster, "b0", zone)
    before = len([i for i in cluster.done(Intend) if i.zone == zone])
    cluster.pass_ms(4000)
    cluster.say("b0", failed={})
    assert len([i for i in cluster.done(Intend) if i.zone == zone]) == before + 1, "withdrawn, and left alone"
    cluster.pass_ms(1500)
    assert cluster.view().zones[zone].successor == "b0", "after a rest it is tried again"


# --- unplanned ----------------------------------------------------------------------------------------------------


def test_a_lost_shards_zones_go_to_shards_of_the_build_that_wrote_their_logs() -> None:
    cluster = two_builds(new=("b0", "b1", "b2"))
    cluster.kill("a0")
    cluster.suspect("a0")
    wanted = turns(cluster)
    assert [i for i in wanted if isinstance(i, ReadTail)]
    assert cluster.counts() == {"a1": 4}
    assert "a0" not in cluster.view().members


def test_where_the_last_record_is_gone_the_one_before_it_tells_the_build() -> None:
    cluster = two_builds(new=("b0", "b1", "b2"))
    zones = cluster.owners()["a0"]
    cluster.committing.discard("a0")
    for zone in zones:
        log = cluster.ledger.store.data.zones[zone].log
        del log[max(log)]
    cluster.kill("a0")
    cluster.suspect("a0")
    turns(cluster)
    assert cluster.counts() == {"a1": 4}


def test_a_zone_that_cannot_run_goes_to_its_build_once_its_log_is_mended() -> None:
    """The first owner could not read how the log ends; then it can, and it is of another build."""
    cluster = two_builds(old=("a0", "a1"), new=("b0",))
    zone = min(cluster.owners()["a0"])
    log = cluster.ledger.store.data.zones[zone].log
    gone = dict(log)
    log.clear()
    cluster.committing = {"a1"}
    drive(cluster.ledger.assign(cluster.view().term, zone, "b0", cluster.view().zones[zone].epoch))
    epoch = cluster.view().zones[zone].epoch
    cluster.say("b0", failed={str(zone): f"{epoch}: records are missing"})
    turns(cluster)
    assert cluster.owner(zone) == "b0", "nobody knows of a better one"
    log.update(gone)
    turns(cluster)
    assert cluster.owner(zone) == "b0"
    cluster.say("b0", failed={str(zone): f"{epoch}: replay gives another state"})
    turns(cluster)
    assert cluster.owner(zone) in ("a0", "a1")


def test_the_log_counts_and_not_the_name_of_the_owner() -> None:
    """A process comes back under its old name, with another build."""
    cluster = two_builds(old=("a0", "a1"), new=("b0",))
    zones = cluster.owners()["a0"]
    cluster.kill("a0")
    cluster.depart("a0")
    cluster.join("a0", build=NEW)
    turns(cluster)
    assert cluster.owners()["a1"] >= zones


def test_a_shard_that_leaves_but_has_the_build_is_better_than_one_that_has_not() -> None:
    cluster = two_builds()
    cluster.say("a1", state="draining")
    cluster.kill("a0")
    cluster.suspect("a0")
    turns(cluster, 2)
    assert cluster.counts() == {"a1": 4}


def test_where_no_shard_of_the_build_lives_another_is_tried_once_and_the_first_that_comes_back_gets_the_zone() -> None:
    cluster = two_builds(old=("a0",), new=("b0", "b1"))
    cluster.committing = {"a0"}
    cluster.kill("a0")
    cluster.suspect("a0")
    turns(cluster)
    assert sum(cluster.counts().get(name, 0) for name in ("b0", "b1")) == 4
    before = {zone: route.epoch for zone, route in cluster.view().zones.items()}
    for name in ("b0", "b1"):
        mine = cluster.owners().get(name, set())
        cluster.say(name, failed={str(zone): f"{before[zone]}: replay gives another state" for zone in mine}, load={})
    cluster.pass_ms(120_000)
    assert {zone: route.epoch for zone, route in cluster.view().zones.items()} == before, "nobody else could do better"
    cluster.join("a1", build=OLD)
    turns(cluster)
    assert cluster.counts() == {"a1": 4}


def test_a_damaged_log_is_not_given_round() -> None:
    cluster = two_builds()
    zone = min(cluster.owners()["a0"])
    epoch = cluster.view().zones[zone].epoch
    cluster.committing = set()
    fail(cluster, "a0", zone)
    cluster.pass_ms(60_000)
    assert cluster.view().zones[zone].epoch == epoch


def test_a_leaving_shard_gets_rid_of_a_zone_that_it_cannot_run() -> None:
    cluster = two_builds(old=("a0", "a1"), new=())
    zone = min(cluster.owners()["a0"])
    cluster.committing = set()
    fail(cluster, "a0", zone)
    cluster.say("a0", state="draining")
    cluster.step()
    assert cluster.owner(zone) == "a1"


def test_the_successor_of_another_build_does_not_take_over_when_the_owner_dies() -> None:
    cluster, zone = intended(two_builds())
    cluster.kill("a0")
    cluster.suspect("a0")
    turns(cluster)
    assert cluster.owner(zone) == "a1"
