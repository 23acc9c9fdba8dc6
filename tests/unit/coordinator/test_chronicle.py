"""What the chronicle tells of a cluster that is made to go through things."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.chronicle import EVENTS_KEPT, Chronicle, EventKind
from tests.unit.coordinator.fake_cluster import FakeCluster, running


class Told:
    """A cluster whose coordinator's views are told to a chronicle, every 100 ms as it polls them."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.chronicle = Chronicle(wall_s=lambda: 5.0)
        self.look()
        self.seen = 0

    def look(self) -> None:
        self.chronicle.observe(self.cluster.now_ms, self.cluster.view())

    def pass_ms(self, duration_ms: float) -> None:
        until = self.cluster.now_ms + duration_ms
        while self.cluster.now_ms < until:
            self.cluster.pass_ms(100.0)
            self.look()

    def kinds(self) -> list[EventKind]:
        found = self.chronicle.since(self.seen)
        self.seen = self.chronicle.number
        return [event.kind for event in found]


def test_a_lost_shard_is_told_with_the_blackout_of_its_zones() -> None:
    cluster = running()
    cluster.committing = {"s0", "s1", "s2", "s3"}
    told = Told(cluster)
    told.pass_ms(500)
    assert told.kinds() == []
    zones = sorted(zone for zone, route in cluster.view().zones.items() if route.owner == "s0")
    cluster.committing.discard("s0")
    cluster.kill("s0")
    told.pass_ms(2000)
    events = told.chronicle.since(0)
    assert [event.kind for event in events] == [EventKind.LOST, EventKind.FAILOVER, EventKind.RECOVERED]
    lost, failover, recovered = events
    assert sorted(zone for zone, _, _ in failover.moves) == zones
    assert {owner for _, owner, _ in failover.moves} == {"s0"}
    assert lost.text.startswith("shard s0 is lost (no heartbeat")
    assert recovered.blackout_ms is not None and 1000 <= recovered.blackout_ms <= 1500
    assert recovered.to_json()["blackout_ms"] == round(recovered.blackout_ms)
    assert told.chronicle.blackouts() == [recovered]
    assert recovered.at_ms == 5000


def test_why_a_member_was_put_out_is_told_by_who_did_it() -> None:
    cluster = running()
    told = Told(cluster)
    told.chronicle.put_out("s1", cluster.members["s1"].number, "suspicion: its port refused")
    cluster.depart("s1")
    told.look()
    assert told.chronicle.since(0)[-1].text == "shard s1 is lost (suspicion: its port refused)"


def test_zones_that_wait_for_nobody_are_counted_from_where_they_stood_still() -> None:
    cluster = running("s0")
    cluster.committing = {"s0"}
    told = Told(cluster)
    told.pass_ms(300)
    cluster.committing.clear()
    cluster.kill("s0")
    told.pass_ms(3000)
    assert EventKind.RECOVERED not in told.kinds()
    cluster.join("s9")
    cluster.committing = {"s9"}
    told.pass_ms(1000)
    (recovered,) = told.chronicle.blackouts()
    assert recovered.member == "s0"
    assert recovered.blackout_ms is not None and recovered.blackout_ms >= 3000


def test_a_migration_is_told_when_it_begins_and_when_it_is_done() -> None:
    cluster = running("s0", "s1", settings=None)
    told = Told(cluster)
    zone = next(zone for zone, route in cluster.view().zones.items() if route.owner == "s0")
    cluster.join("s2")
    for _ in range(40):
        cluster.pass_ms(100.0)
        told.look()
        cluster.follow()
    kinds = told.kinds()
    assert kinds[0] is EventKind.JOINED
    assert EventKind.MIGRATING in kinds and EventKind.MIGRATED in kinds
    assert EventKind.FAILOVER not in kinds
    moved = [move for event in told.chronicle.since(0) if event.kind is EventKind.MIGRATED for move in event.moves]
    assert {to for _, _, to in moved} == {"s2"}
    assert zone >= 0


def test_a_member_that_says_goodbye_has_left() -> None:
    cluster = running()
    cluster.join("s4")
    told = Told(cluster)
    cluster.depart("s4")
    told.look()
    assert told.kinds()[0] is EventKind.LEFT


def test_pauses_and_outages_are_told_once() -> None:
    cluster = running()
    told = Told(cluster)
    cluster.say("s0", paused=True)
    told.look()
    told.look()
    cluster.say("s0", paused=False)
    told.look()
    assert told.kinds() == [EventKind.PAUSED, EventKind.RESUMED]
    told.chronicle.no_view()
    told.chronicle.no_view()
    told.look()
    assert told.kinds() == [EventKind.LEDGER_AWAY, EventKind.LEDGER_BACK]


@pytest.mark.parametrize("junk", ["yes", 7, None, [1], {"a": {"b": 1}}, float("nan")])
def test_what_members_publish_cannot_make_it_fail(junk: object) -> None:
    cluster = running()
    told = Told(cluster)
    cluster.say("s0", paused=junk, state=junk, players=junk, tick_ms=junk)
    told.look()
    assert told.kinds() == []


def test_the_ring_is_bounded_and_numbers_go_on() -> None:
    cluster = running()
    told = Told(cluster)
    for beat in range(EVENTS_KEPT + 10):
        cluster.say("s0", paused=beat % 2 == 0)
        told.look()
    assert told.chronicle.number == EVENTS_KEPT + 10
    assert len(told.chronicle.since(0)) == EVENTS_KEPT
    assert [event.number for event in told.chronicle.since(0, 2)] == [EVENTS_KEPT + 9, EVENTS_KEPT + 10]
    assert told.chronicle.since(0, 0) == []


def test_a_world_that_begins_is_told_by_shard() -> None:
    cluster = FakeCluster()
    told = Told(cluster)
    cluster.join("s0", "s1")
    cluster.settle()
    told.look()
    assert told.kinds().count(EventKind.STARTED) == 2
    started = [event for event in told.chronicle.since(0) if event.kind is EventKind.STARTED]
    assert sorted(zone for event in started for zone, _, _ in event.moves) == list(range(16))


def test_another_leader_is_told() -> None:
    cluster = running()
    told = Told(cluster)
    view = cluster.view()
    told.chronicle.observe(cluster.now_ms, replace(view, leader="c7", term=view.term + 1))
    assert [event.text for event in told.chronicle.since(0)] == [f"c7 leads in term {view.term + 1}"]
