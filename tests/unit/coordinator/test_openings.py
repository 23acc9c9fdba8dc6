"""When a world is opened for another server of the ledger, and what is said of zones that it forgot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.cluster_state import ClusterSettings
from coordinator.events import Assign, Evict, Intend, LostZone, OpenWorld
from perdure.ledger.record import blob_digest
from perdure.ledger.values import Reseed
from tests.unit.coordinator.fake_cluster import SHARDS, FakeCluster, drive, running


def replaced(cluster: FakeCluster, kept: object | None = None) -> None:
    """Another server answers, with what it has or with an older copy."""
    cluster.store.restore(cluster.store.snapshot() if kept is None else kept)


def passing(cluster: FakeCluster, duration_ms: float) -> Iterator[None]:
    for _ in range(int(duration_ms / 100)):
        cluster.pass_ms(100)
        yield


def test_a_new_world_is_opened_once_owners_had_time_who_might_be_there() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=0))
    cluster.store.data.opened_for = ""
    cluster.join(*SHARDS)
    cluster.step()
    assert not cluster.view().opened and not cluster.view().zones
    cluster.pass_ms(900)
    assert not cluster.view().opened and not cluster.view().zones
    cluster.pass_ms(300)
    assert cluster.view().opened and cluster.view().generation == 1
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)


def test_a_ledger_that_is_known_to_be_new_is_opened_at_once_but_not_the_next() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=0, ledger_is_new=True))
    cluster.store.data.opened_for = ""
    cluster.join(*SHARDS)
    cluster.step()
    assert cluster.view().opened and cluster.view().generation == 1
    cluster.pass_ms(100)
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)
    replaced(cluster, FakeCluster().store.snapshot())
    cluster.pass_ms(900)
    assert not cluster.view().opened, "owners live, and this server is another one"


def test_a_new_ledger_in_which_somebody_has_put_zones_back_is_not_that_new() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=0, ledger_is_new=True))
    cluster.store.data.opened_for = ""
    cluster.join(*SHARDS)
    drive(cluster.ledger.reseed(Reseed(0, "s0", 1, 1, 9, "ab" * 16, b"blob", blob_digest(b"blob"))))
    cluster.step()
    assert not cluster.view().opened


def test_a_coordinator_that_starts_in_an_open_world_need_not_wait() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=0))
    cluster.join(*SHARDS)
    cluster.step()
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)
    assert not cluster.done(OpenWorld)


def test_another_server_gets_hands_off_until_owners_had_time() -> None:
    cluster = running()
    replaced(cluster)
    cluster.depart("s0")
    for _ in passing(cluster, 900):
        assert cluster.counts()["s0"] == 4 and not cluster.view().opened
    cluster.pass_ms(300)
    assert "s0" not in cluster.counts()
    assert cluster.done(OpenWorld) == [OpenWorld(2)]
    assert {route.generation for route in cluster.view().zones.values() if route.epoch > 1} == {2}
    cluster.pass_ms(3000)
    assert len(cluster.done(OpenWorld)) == 1


def at_work() -> tuple[FakeCluster, dict[str, list[int]]]:
    """Return a cluster whose shards commit and say what they run, and who owns which zones."""
    cluster = running()
    cluster.committing |= set(SHARDS)
    owned = {name: sorted(zones) for name, zones in cluster.owners().items()}
    for name in SHARDS:
        cluster.say(name, load={str(zone): 1 for zone in owned[name]})
    cluster.pass_ms(500)
    return cluster, owned


def test_an_owner_who_lives_and_is_not_through_is_waited_for() -> None:
    cluster, owned = at_work()
    cluster.committing.clear()
    replaced(cluster, FakeCluster().store.snapshot())
    cluster.pass_ms(3000)
    assert not cluster.view().opened, "everybody beats, and runs zones that the ledger lacks"
    for name in SHARDS[:3]:
        for zone in owned[name]:
            drive(cluster.ledger.reseed(Reseed(zone, name, 1, 1, 9, "ab" * 16, b"blob", blob_digest(b"blob"))))
    cluster.kill("s3")
    cluster.pass_ms(2500)
    assert cluster.view().opened, "nobody is waited for longer than that"
    (opening,) = cluster.done(OpenWorld)
    assert [lost.zone for lost in opening.lost] == owned["s3"]
    assert all(lost.known >= 5 and lost.left == 0 for lost in opening.lost)
    cluster.join("s3")
    cluster.pass_ms(3000)
    assert min(cluster.view().zones[zone].generation for zone in owned["s3"]) >= 2, "above all that anybody was shown"


def _late(cluster: FakeCluster) -> tuple[int, ...]:
    """The ledger is opened with older data while everybody lives, and s3 has not put its zones back; return those."""
    cluster.committing |= set(SHARDS)
    owned = cluster.owners()
    for name in SHARDS:
        cluster.say(name, load={str(zone): 1 for zone in owned[name]})
    cluster.pass_ms(500)
    kept = cluster.store.snapshot()
    cluster.pass_ms(1000)
    cluster.committing.clear()
    replaced(cluster, kept)
    for name in SHARDS[:3]:
        for zone in owned[name]:
            put_back(cluster, name, zone)
    cluster.pass_ms(5500)
    (opening,) = cluster.done(OpenWorld)
    assert {lost.zone: lost.awaited for lost in opening.lost} == dict.fromkeys(owned["s3"], True)
    return tuple(sorted(owned["s3"]))


def put_back(cluster: FakeCluster, name: str, zone: int) -> None:
    epoch = cluster.view().zones[zone].epoch
    drive(cluster.ledger.reseed(Reseed(zone, name, 1, epoch, 99, "ab" * 16, b"blob", blob_digest(b"blob"))))


def test_what_a_living_owner_may_still_put_back_is_given_to_nobody_else() -> None:
    cluster = running()
    zones = _late(cluster)
    drive(cluster.ledger.set_draining("s3", True))
    cluster.pass_ms(3000)
    assert not cluster.done(Intend), "it would go on from what the ledger has"
    assert {cluster.view().zones[zone].owner for zone in zones} == {"s3"}
    for zone in zones:
        put_back(cluster, "s3", zone)
    cluster.pass_ms(500)
    assert {intent.zone for intent in cluster.done(Intend)} <= set(zones)
    assert cluster.done(Intend), "now it may leave"


def test_who_may_still_put_something_back_is_not_given_up_after_a_leases_silence() -> None:
    """Seed 1160 of the simulation: a heartbeat's answer was lost, and with the shard the ticks that it alone had."""
    cluster = running()
    zones = _late(cluster)
    cluster.kill("s3")
    cluster.pass_ms(4500)
    assert not cluster.done(Evict), "it is silent, and that is all that is known"
    assert {cluster.view().zones[zone].owner for zone in zones} == {"s3"}
    cluster.pass_ms(1000)
    assert [evict.member for evict in cluster.done(Evict)] == ["s3"], "nobody is waited for longer than that"
    assert {cluster.view().zones[zone].owner for zone in zones} <= {"s0", "s1", "s2"}


def test_who_has_put_back_all_is_given_up_after_a_leases_silence() -> None:
    cluster = running()
    for zone in _late(cluster):
        put_back(cluster, "s3", zone)
    cluster.pass_ms(200)
    cluster.kill("s3")
    cluster.pass_ms(1500)
    assert [evict.member for evict in cluster.done(Evict)] == ["s3"]


def test_who_refuses_is_gone_whatever_it_had() -> None:
    cluster = running()
    _late(cluster)
    cluster.kill("s3")
    cluster.suspect("s3")
    cluster.pass_ms(300)
    assert [evict.member for evict in cluster.done(Evict)] == ["s3"]


def test_what_the_older_copy_had_intended_waits_too() -> None:
    cluster = running()
    zones = _late(cluster)
    term = cluster.view().term
    drive(cluster.ledger.intend(term, zones[0], "s0"))
    drive(cluster.ledger.successor_ready(zones[0], "s0"))
    cluster.pass_ms(2000)
    assert cluster.view().zones[zones[0]].owner == "s3"
    put_back(cluster, "s3", zones[0])
    cluster.pass_ms(500)
    assert cluster.view().ticks[zones[0]] == 99, "nothing is lost"


def test_a_ledger_that_is_restarted_twice_does_not_forget_what_may_still_be_put_back() -> None:
    cluster = running()
    zones = _late(cluster)
    replaced(cluster)
    cluster.pass_ms(3000)
    assert not cluster.view().opened, "it is waited for once more"
    cluster.pass_ms(2500)
    first, second = cluster.done(OpenWorld)
    assert [lost for lost in second.lost if lost.zone in zones] == list(first.lost)
    drive(cluster.ledger.set_draining("s3", True))
    cluster.pass_ms(1000)
    assert not cluster.done(Intend)


def test_an_owner_that_goes_on_from_what_is_left_is_waited_for_no_longer() -> None:
    cluster = running()
    zones = _late(cluster)
    cluster.committing.add("s3")
    cluster.pass_ms(300)
    drive(cluster.ledger.set_draining("s3", True))
    cluster.pass_ms(500)
    assert {intent.zone for intent in cluster.done(Intend)} <= set(zones)
    assert cluster.done(Intend)


def test_a_successor_that_is_gone_is_no_successor_whoever_is_waited_for() -> None:
    cluster = running()
    zones = _late(cluster)
    drive(cluster.ledger.intend(cluster.view().term, zones[0], "s0"))
    cluster.depart("s0")
    cluster.pass_ms(300)
    assert cluster.view().zones[zones[0]].successor == ""
    assert cluster.view().zones[zones[0]].owner == "s3"


def test_a_zone_that_moved_since_the_older_copy_is_left_to_who_runs_it_though_its_owner_by_the_copy_is_gone() -> None:
    """Seed 4030 of the simulation: it was given to that very shard, which went on from the copy."""
    cluster = running()
    cluster.committing |= set(SHARDS)
    cluster.pass_ms(500)
    kept = cluster.store.snapshot()
    zone, *others = sorted(cluster.owners()["s0"])
    epoch = cluster.view().zones[zone].epoch
    for moved in (zone, *others):
        drive(cluster.ledger.assign(cluster.view().term, moved, "s3", cluster.view().zones[moved].epoch))
    cluster.depart("s0")
    for name in SHARDS[1:]:
        cluster.say(name, load={str(number): 1 for number in cluster.owners()[name]})
    cluster.pass_ms(1000)
    cluster.committing.clear()
    cluster.store.restore(kept)
    drive(cluster.ledger.depart("s0", cluster.members["s0"].number))
    for name in SHARDS[1:]:
        for number in cluster.owners()[name]:
            put_back(cluster, name, number)
    cluster.pass_ms(7000)
    assert cluster.view().opened
    assert cluster.view().zones[zone].epoch == epoch, "nobody was given it"
    drive(cluster.ledger.reseed(Reseed(zone, "s3", 1, epoch + 1, 99, "ab" * 16, b"blob", blob_digest(b"blob"))))
    cluster.pass_ms(300)
    assert (cluster.view().zones[zone].owner, cluster.view().ticks[zone]) == ("s3", 99)
    cluster.kill("s3")
    cluster.suspect("s3")
    cluster.pass_ms(4000)
    assert {cluster.view().zones[other].owner for other in others} <= {"s1", "s2"}, "and who is gone is waited for no longer"


@pytest.mark.parametrize("started_later", [False, True])
def test_a_coordinator_that_has_not_seen_it_goes_by_what_the_shards_say(started_later: bool) -> None:
    """Seed 10029 of the simulation: the leader's last views had failed, and it took the older copy for all that there was."""
    cluster, owned = at_work()
    kept = cluster.store.snapshot()
    zone, *others = owned["s3"]
    left = cluster.view().ticks[zone]
    cluster.committing.clear()
    replaced(cluster, kept)
    if started_later:
        cluster.elect(cluster.coordinator("c1"))
    cluster.say("s3", committed={str(zone): (1, 1, left + 6), "x": [1, 1, 9], "3": [1, 2], "2": "much", str(others[0]): [1, 1, left]})
    cluster.pass_ms(1300)
    assert not cluster.view().opened, "s3 is waited for"
    cluster.pass_ms(4000)
    (opening,) = cluster.done(OpenWorld)
    assert opening == OpenWorld(2, (LostZone(zone, left + 6, left, True),))
    drive(cluster.ledger.set_draining("s3", True))
    cluster.pass_ms(1000)
    assert {intent.zone for intent in cluster.done(Intend)} == set(others)
    put_back(cluster, "s3", zone)
    cluster.say("s3", committed={})
    cluster.pass_ms(500)
    assert zone in {intent.zone for intent in cluster.done(Intend)}


def test_what_a_shard_says_only_once_the_world_is_open_holds_too() -> None:
    cluster = running()
    cluster.committing |= set(SHARDS)
    cluster.pass_ms(500)
    cluster.committing.clear()
    (zone, *others), left = sorted(cluster.owners()["s3"]), cluster.view().ticks[0]
    cluster.say("s3", load={str(number): 1 for number in (zone, *others)}, committed={str(zone): [1, 1, left + 6]})
    drive(cluster.ledger.set_draining("s3", True))
    cluster.pass_ms(1000)
    assert {intent.zone for intent in cluster.done(Intend)} == set(others)
    cluster.say("s3", load={str(number): 1 for number in others})
    cluster.pass_ms(500)
    assert zone in {intent.zone for intent in cluster.done(Intend)}, "s3 does not run it any more"


def test_once_nobody_says_so_any_more_a_zone_that_another_runs_is_awaited_no_longer() -> None:
    """S3 had the zone before the ledger went back, s0 has it by the older data, and both say that they run it."""
    cluster = running()
    cluster.committing |= set(SHARDS)
    cluster.pass_ms(500)
    cluster.committing.clear()
    zone, left = min(cluster.owners()["s0"]), cluster.view().ticks[0]
    for name in ("s0", "s3"):
        cluster.say(name, load={str(number): 1 for number in {*cluster.owners()[name], zone}})
    cluster.say("s3", committed={str(zone): [1, 2, left + 6]})
    drive(cluster.ledger.set_draining("s0", True))
    cluster.pass_ms(1000)
    cluster._commit(zone)  # s0 goes on with it, and falls asleep
    cluster.pass_ms(1000)
    assert zone not in {intent.zone for intent in cluster.done(Intend)}
    cluster.depart("s3")
    cluster.pass_ms(1000)
    assert zone in {intent.zone for intent in cluster.done(Intend)}


def test_a_zone_that_is_awaited_and_has_no_owner_holds_up_no_drain_of_others() -> None:
    cluster = running()
    zones = _late(cluster)
    cluster.say("s2", load={str(number): 1 for number in {*cluster.owners()["s2"], *zones}}, committed={str(n): [1, 9, 99] for n in zones})
    cluster.kill("s3")
    cluster.suspect("s3")
    cluster.pass_ms(1000)
    drive(cluster.ledger.set_draining("s1", True))
    cluster.pass_ms(1000)
    assert {cluster.view().zones[zone].owner for zone in zones} == {"s3"}, "s2 may put them back yet"
    assert {cluster.view().zones[intent.zone].owner for intent in cluster.done(Intend)} == {"s1"}


def test_once_the_owner_is_gone_its_zones_go_on_from_what_is_left() -> None:
    cluster = running()
    zones = _late(cluster)
    cluster.kill("s3")
    cluster.suspect("s3")
    cluster.pass_ms(4000)
    assert not {cluster.view().zones[zone].owner for zone in zones} & {"s3", ""}


def test_an_older_copy_says_what_is_left() -> None:
    cluster = running("s0", "s1")
    cluster.committing |= {"s0", "s1"}
    cluster.pass_ms(1000)
    kept = cluster.store.snapshot()
    left = cluster.view().ticks[0]
    cluster.pass_ms(1000)
    known = cluster.view().ticks[0]
    cluster.committing.clear()
    replaced(cluster, kept)
    cluster.pass_ms(1300)
    (opening,) = cluster.done(OpenWorld)
    assert opening.lost[0] == LostZone(0, known, left) and len(opening.lost) == 16


def test_nothing_is_called_lost_where_nothing_is() -> None:
    cluster = running()
    cluster.committing |= set(SHARDS)
    cluster.pass_ms(1000)
    replaced(cluster)
    cluster.pass_ms(1300)
    assert cluster.done(OpenWorld) == [OpenWorld(2)]
    assert len(cluster.done(Assign)) == 16
