"""The cluster state, scenario by scenario, without an event loop: who is lost, and what becomes of it. Planned moves: test_migration."""

from __future__ import annotations

from coordinator.cluster_state import ClusterSettings, ClusterState
from coordinator.events import Assign, Cause, Elected, Evict, GatewayLost, Intend, StepDown, SuspectAnswers, ViewRead
from coordinator.failover import LivenessSettings
from tests.unit.coordinator.fake_cluster import SHARDS, FakeCluster, drive, running

# --- start --------------------------------------------------------------------------------------------------------


def test_nothing_is_assigned_before_the_world_is_known() -> None:
    cluster = FakeCluster()
    cluster.join(*SHARDS)
    state = ClusterState(ClusterSettings(settle_ms=0))
    state.handle(Elected(0.0, 0))
    assert state.handle(ViewRead(1000.0, cluster.view())) == []


def test_nothing_is_assigned_by_a_standby() -> None:
    cluster = FakeCluster()
    cluster.join(*SHARDS)
    standby = cluster.coordinator("c1")
    assert cluster.step(standby) == []


def test_four_shards_that_start_together_share_evenly_without_migrations() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=300))
    cluster.join("s0")
    cluster.pass_ms(100)
    cluster.join("s1", "s2")
    cluster.pass_ms(100)
    cluster.join("s3")
    assert not cluster.view().zones
    cluster.pass_ms(200)
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)
    assert all(assign.cause is Cause.START for assign in cluster.done(Assign))
    cluster.settle()
    assert not cluster.done(Intend)


def test_a_start_waits_for_the_expected_shards() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=300, expected_shards=3, expected_wait_ms=5000))
    cluster.join("s0", "s1")
    cluster.pass_ms(2000)
    assert not cluster.view().zones
    cluster.join("s2")
    cluster.step()
    assert sorted(cluster.counts().values()) == [5, 5, 6]


def test_a_start_does_not_wait_for_ever_for_the_expected_shards() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=300, expected_shards=3, expected_wait_ms=5000))
    cluster.join("s0", "s1")
    cluster.pass_ms(5200)
    assert cluster.counts() == {"s0": 8, "s1": 8}


def test_a_starting_shard_gets_no_zone_until_it_is_ready() -> None:
    cluster = FakeCluster()
    cluster.join("s0")
    cluster.join("s1", state="starting")
    cluster.settle()
    assert cluster.counts() == {"s0": 16}
    cluster.say("s1", state="ready")
    cluster.settle()
    assert cluster.counts() == {"s0": 8, "s1": 8}


def test_without_a_shard_the_zones_wait() -> None:
    cluster = FakeCluster()
    cluster.pass_ms(3000)
    assert not cluster.view().zones
    cluster.join("s0")
    cluster.step()
    assert cluster.counts() == {"s0": 16}


# --- suspicion ----------------------------------------------------------------------------------------------------


def test_a_suspected_shard_is_taken_over_by_the_next_view_in_one_batch() -> None:
    cluster = running()
    lost = cluster.owners()["s1"]
    cluster.kill("s1")
    cluster.suspect("s1")
    wanted = cluster.step()
    assigns = [i for i in wanted if isinstance(i, Assign)]
    assert {i.zone for i in assigns} == lost
    assert {i.cause for i in assigns} == {Cause.FAILOVER}
    assert isinstance(wanted[-1], Evict), "the zones are assigned before their owner is put out"
    assert sorted(cluster.counts().values()) == [5, 5, 6]
    assert "s1" not in cluster.view().members
    assert cluster.step() == []


def test_two_suspects_are_taken_over_together() -> None:
    cluster = running()
    cluster.kill("s1", "s2")
    cluster.suspect("s1", "s2")
    cluster.step()
    assert cluster.counts() == {"s0": 8, "s3": 8}
    assert {evict.member for evict in cluster.done(Evict)} == {"s1", "s2"}


def test_the_only_shard_is_not_put_out_on_a_report_alone() -> None:
    cluster = running("s0")
    cluster.suspect("s0")
    cluster.pass_ms(5000)
    assert cluster.counts() == {"s0": 16}
    cluster.kill("s0")
    cluster.pass_ms(1200)
    assert cluster.counts() == {"": 16}


def test_reports_of_a_shard_that_answers_do_not_count_and_later_ones_do() -> None:
    cluster = running("s0", "s1")
    number = cluster.members["s1"].number
    for reports in (1, 2, 3):
        cluster.suspect("s1")
        assert [member.name for member in cluster.leader.state.suspects(cluster.view())] == ["s1"]
        cluster.leader.state.handle(SuspectAnswers("s1", number, reports))
        assert cluster.leader.state.suspects(cluster.view()) == []
        cluster.step()
    assert cluster.counts() == {"s0": 8, "s1": 8}
    cluster.suspect("s1")
    cluster.step()
    assert cluster.counts() == {"s0": 16}


def test_a_ledger_that_forgot_reports_does_not_shield_the_dead() -> None:
    cluster = running("s0", "s1")
    cluster.leader.state.handle(SuspectAnswers("s1", cluster.members["s1"].number, 5))
    cluster.step()  # there are none now
    cluster.suspect("s1")
    cluster.step()
    assert cluster.counts() == {"s0": 16}


def test_reports_from_before_a_shard_was_ready_do_not_count() -> None:
    cluster = running("s0")
    cluster.join("s1", state="starting")
    cluster.suspect("s1")
    cluster.step()
    cluster.suspect("s1")
    cluster.step()
    cluster.say("s1", state="ready")
    cluster.settle()
    assert cluster.counts() == {"s0": 8, "s1": 8}
    cluster.suspect("s1")
    cluster.step()
    assert cluster.counts() == {"s0": 16}


def test_zones_are_never_left_with_a_suspect_that_the_leader_did_not_live_to_take_over() -> None:
    cluster = running()
    cluster.suspect("s2")
    cluster.step(carry_out=lambda instruction: False)
    cluster.elect(cluster.coordinator("c1"))
    cluster.step()
    assert "s2" not in cluster.counts()


def test_a_new_leader_does_not_wait_to_settle_while_zones_run() -> None:
    cluster = FakeCluster(settings=ClusterSettings(settle_ms=300))
    cluster.join(*SHARDS)
    cluster.pass_ms(500)
    cluster.suspect("s2")
    cluster.elect(cluster.coordinator("c1"))
    cluster.step()
    assert "s2" not in cluster.counts()


def test_a_failover_that_was_half_done_is_finished_by_the_next_leader() -> None:
    cluster = running()
    cluster.suspect("s2")
    done: list[int] = []
    cluster.step(carry_out=lambda instruction: isinstance(instruction, Assign) and len(done) < 2 and not done.append(instruction.zone))
    assert cluster.counts()["s2"] == 2
    cluster.elect(cluster.coordinator("c1"))
    cluster.settle()
    assert "s2" not in cluster.counts()
    assert "s2" not in cluster.view().members


# --- lease --------------------------------------------------------------------------------------------------------


def test_a_silent_shard_is_taken_over_when_its_lease_is_over() -> None:
    cluster = running()
    cluster.kill("s3")
    cluster.pass_ms(900)
    assert cluster.counts()["s3"] == 4
    cluster.pass_ms(200)
    assert "s3" not in cluster.counts()
    (evict,) = cluster.done(Evict)
    assert evict.reason.startswith("lease")


def test_a_shard_that_commits_is_slow_and_not_dead() -> None:
    cluster = running()
    cluster.committing = {"s3"}
    cluster.kill("s3")  # no heartbeats any more, but commits
    cluster.pass_ms(10_000)
    assert cluster.counts()["s3"] == 4
    cluster.committing = set()
    cluster.pass_ms(1200)
    assert "s3" not in cluster.counts()


def test_an_outage_of_the_ledger_puts_nobody_out() -> None:
    cluster = running()
    cluster.join("g0", kind="gateway")
    cluster.step()
    for _ in range(100):
        cluster.now_ms += 100
        cluster.fail_view()
    cluster.step()  # the ledger is back; nobody has beaten yet
    cluster.pass_ms(1500, leader=True)
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)
    assert not cluster.done(Evict)


def test_members_get_a_grace_after_an_outage_but_not_for_ever() -> None:
    cluster = running(settings=ClusterSettings(settle_ms=0, liveness=LivenessSettings(1000, 3000, 1000)))
    cluster.fail_view()
    cluster.kill("s0")
    cluster.now_ms += 5000
    cluster.step()
    cluster.pass_ms(1900)
    assert cluster.counts()["s0"] == 4
    cluster.pass_ms(200)
    assert "s0" not in cluster.counts()


def test_a_coordinator_that_was_paused_itself_puts_nobody_out() -> None:
    cluster = running()
    cluster.now_ms += 60_000
    assert cluster.step() == []
    cluster.pass_ms(3000)
    assert not cluster.done(Evict)


def test_a_standby_that_takes_over_knows_who_is_silent() -> None:
    cluster = running()
    standby = cluster.coordinator("c1")
    cluster.kill("s0")
    for _ in range(11):
        cluster.pass_ms(100, leader=False)
        cluster.step(standby)
    cluster.elect(standby)
    cluster.step()
    assert "s0" not in cluster.counts()


# --- losing all, coming back --------------------------------------------------------------------------------------


def test_when_the_last_shard_is_lost_its_zones_are_taken_from_it_and_wait() -> None:
    cluster = running("s0")
    epoch = cluster.view().zones[0].epoch
    cluster.kill("s0")
    cluster.pass_ms(1200)
    assert cluster.counts() == {"": 16}
    assert cluster.view().zones[0].epoch == epoch + 1, "the lost owner is fenced"
    assert cluster.step() == []
    cluster.join("s1")
    cluster.step()
    assert cluster.counts() == {"s1": 16}
    assert {assign.cause for assign in cluster.done(Assign)[-16:]} == {Cause.FAILOVER}


def test_a_shard_that_was_evicted_comes_back_under_its_name_and_gets_its_share() -> None:
    cluster = running()
    cluster.kill("s1")
    cluster.suspect("s1")
    cluster.step()
    cluster.join("s1")
    cluster.settle()
    assert cluster.counts() == dict.fromkeys(SHARDS, 4)


def test_zones_are_given_anew_when_their_owner_left_and_another_process_came_under_its_name() -> None:
    cluster = running("s0")
    epochs = {zone: route.epoch for zone, route in cluster.view().zones.items()}
    cluster.depart("s0")
    cluster.join("s0")  # between two polls
    cluster.step()
    assert cluster.counts() == {"s0": 16}
    assert all(route.epoch > epochs[zone] for zone, route in cluster.view().zones.items())
    assert cluster.step() == []


def test_zones_that_their_owner_says_it_does_not_run_are_given_anew_by_a_new_leader() -> None:
    """All left in order, and a shard came back under its name before any coordinator looked."""
    cluster = running("s0")
    cluster.depart("s0")
    cluster.join("s0")
    cluster.say("s0", stale={str(zone): route.epoch for zone, route in cluster.view().zones.items()})
    cluster.elect(cluster.coordinator("c1"))
    cluster.step()
    assert {route.epoch for route in cluster.view().zones.values()} == {2}
    assert cluster.step() == []


def test_a_zone_that_its_owner_never_begins_to_run_is_given_anew_less_and_less_often() -> None:
    cluster = running("s0", columns=1, rows=2)
    cluster.say("s0", load={"1": 1})
    cluster.pass_ms(4_900)
    assert cluster.view().zones[0].epoch == 1
    cluster.pass_ms(200)
    assert cluster.view().zones[0].epoch == 2
    cluster.pass_ms(9_900)
    assert cluster.view().zones[0].epoch == 2
    cluster.pass_ms(200)
    assert cluster.view().zones[0].epoch == 3
    assert cluster.view().zones[1].epoch == 1
    cluster.say("s0", load={"0": 1, "1": 1})
    cluster.pass_ms(60_000)
    assert cluster.view().zones[0].epoch == 3


def test_a_zone_that_its_owner_stopped_for_a_reason_is_left_with_it() -> None:
    cluster = running("s0", "s1", columns=1, rows=2)
    cluster.say("s0", load={}, failed={str(zone): "1: hash differs" for zone in cluster.owners()["s0"]})
    before = cluster.view().zones
    cluster.pass_ms(60_000)
    assert cluster.view().zones == before


# --- gateways and coordinators ------------------------------------------------------------------------------------


def test_a_silent_gateway_is_put_out_after_its_players_are_detached() -> None:
    cluster = running()
    cluster.join("g0", kind="gateway")
    cluster.enter("ann", "g0")
    cluster.step()
    cluster.kill("g0")
    cluster.pass_ms(2800)
    assert "g0" in cluster.view().members
    cluster.pass_ms(400)
    assert "g0" not in cluster.view().members
    kinds = [type(i) for i in cluster.leader.done if isinstance(i, GatewayLost | Evict)]
    assert kinds == [GatewayLost, Evict]
    (ann,) = drive(cluster.ledger.online())
    assert ann.gateway == -1


def test_players_of_a_gateway_that_left_without_a_word_are_detached() -> None:
    cluster = running()
    cluster.join("g0", kind="gateway")
    cluster.enter("ann", "g0")
    cluster.depart("g0")
    cluster.elect(cluster.coordinator("c1"))
    cluster.pass_ms(2900)
    assert not cluster.done(GatewayLost)
    cluster.pass_ms(400)
    assert [lost.number for lost in cluster.done(GatewayLost)] == [cluster.members["g0"].number]
    cluster.pass_ms(10_000)
    assert len(cluster.done(GatewayLost)) == 1


def test_a_silent_coordinator_is_put_out() -> None:
    cluster = running()
    cluster.join("c0", "c1", kind="coordinator")
    cluster.kill("c1")
    cluster.pass_ms(10_000)
    assert [evict.member for evict in cluster.done(Evict)] == ["c1"]


def test_a_leader_whose_name_a_dead_process_holds_puts_that_one_out() -> None:
    cluster = running()
    cluster.join("c0", kind="coordinator")
    dead = cluster.members["c0"].number
    cluster.kill("c0")
    cluster.elect(cluster.coordinator("c0"))  # started anew under its name, and refused as a member for as long as the dead one is there
    cluster.pass_ms(3500)
    assert [(evict.member, evict.number) for evict in cluster.done(Evict)] == [("c0", dead)]


def test_a_leader_of_an_old_term_wants_nothing_but_to_step_down() -> None:
    cluster = running()
    old = cluster.leader
    cluster.elect(cluster.coordinator("c1"))
    cluster.suspect("s0")
    assert [type(i) for i in cluster.step(old)] == [StepDown]
    assert not old.state.leading
    assert cluster.step(old) == []


def test_a_refused_assignment_is_asked_for_again() -> None:
    cluster = running()
    cluster.suspect("s0")
    cluster.refuse = lambda instruction: isinstance(instruction, Assign)
    cluster.step()
    assert cluster.counts()["s0"] == 4
    cluster.refuse = lambda instruction: False
    cluster.step()
    assert "s0" not in cluster.counts()
