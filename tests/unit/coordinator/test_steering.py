"""Turns of the wheel, and the whole service, over a memory ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from coordinator.service import CoordinatorService
from coordinator.settings import DEVELOPMENT_ADMIN_TOKEN
from coordinator.steering import Turn
from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.values import Member
from tests.unit.coordinator.admin_bench import WORLD, AdminBench, make_settings

pytestmark = pytest.mark.asyncio


def fail_once(bench: AdminBench, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
    """Let the next call of a ledger method fail."""
    real: Callable[..., Any] = getattr(bench.ledger, method)

    async def failing(*args: object) -> Any:
        monkeypatch.setattr(bench.ledger, method, real)
        raise error

    monkeypatch.setattr(bench.ledger, method, failing)


async def test_the_first_leads_and_the_second_waits_until_the_lease_is_over() -> None:
    first = AdminBench()
    await first.start("s0")
    second = AdminBench(store=first.store, name="c1")
    await second.turns()
    assert (first.steering.leading, second.steering.leading) == (True, False)
    second.now_s += 0.9
    await second.steering.turn()
    first.now_s += 0.9
    await first.steering.turn()
    second.now_s += 0.9
    await second.steering.turn()
    assert not second.steering.leading, "it has seen the leader's beat rise"
    second.now_s += 1.1
    assert await second.steering.turn() is Turn.ACTED
    assert second.steering.state.term == 2
    await first.steering.turn()
    assert not first.steering.leading, "it finds a later term"


async def test_the_lease_is_renewed_at_a_third() -> None:
    bench = AdminBench()
    await bench.start("s0")
    for _ in range(20):
        bench.now_s += 0.34
        await bench.steering.turn()
    assert (await bench.ledger.view()).term == 1


async def test_a_resigned_leader_is_followed_at_once() -> None:
    first = AdminBench()
    await first.start("s0")
    await first.steering.resign()
    second = AdminBench(store=first.store, name="c1")
    await second.turns()
    assert second.steering.leading


async def test_a_standby_that_leads_over_an_empty_ledger_waits_for_owners_and_tells_what_nobody_puts_back() -> None:
    """It is the first to come in the new election, and all that the ledger has is new."""
    first = AdminBench()
    await first.start("s0")
    await first.commit(0)
    second = AdminBench(store=first.store, name="c1", ledger_is_new=True)
    await second.turns()
    assert not second.steering.leading
    empty = MemoryStore()
    empty.data.opened_for = ""
    first.store.restore(empty.snapshot())
    with capture_logs() as lines:
        await second.turns()
        assert second.steering.leading and not (await second.ledger.view()).opened
        second.now_s += 1.1
        await second.turns()
    view = await second.ledger.view()
    assert view.opened and view.generation == 2
    assert [line["zone"] for line in lines if line["log_level"] == "error"] == [0]


async def test_an_old_leader_that_wakes_up_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    old = AdminBench()
    await old.start("s0", "s1")
    view = await old.ledger.view()
    new = AdminBench(store=old.store, name="c1")
    await new.turns()
    new.now_s += 1.1
    await new.turns()
    await old.ledger.suspect("s0", 100, "g0")
    before = await old.ledger.view()

    async def stale() -> object:
        monkeypatch.undo()
        return replace(view, suspects={"s0": 1})

    monkeypatch.setattr(old.steering, "_renewed_ms", old.steering.now_ms())
    monkeypatch.setattr(old.ledger, "view", stale)
    assert await old.steering.turn() is Turn.IDLE
    assert await old.ledger.view() == before, "its term is over: each write is refused"
    await old.steering.turn()
    assert not old.steering.leading


async def test_an_outage_is_told_once_and_the_world_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = AdminBench()
    await bench.start("s0")
    with capture_logs() as lines:
        for _ in range(3):
            fail_once(bench, monkeypatch, "view", LedgerUnavailable("gone"))
            assert await bench.steering.turn() is Turn.UNAVAILABLE
        await bench.turns()
    assert [line["event"][:10] for line in lines if line["log_level"] == "warning"] == ["the ledger"]
    assert [line["event"] for line in lines if line["log_level"] == "info"] == ["the ledger answers again"]
    assert bench.metrics.registry.get_sample_value("perdure_coordinator_ledger_failures_total") == 3


@pytest.mark.parametrize("method", ["assign", "evict"])
@pytest.mark.parametrize("error", [LedgerUnavailable("gone"), LedgerRefused("no")])
async def test_a_takeover_that_fails_midway_is_finished_later(method: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.ledger.suspect("s0", 100, "g0")
    fail_once(bench, monkeypatch, method, error)
    assert await bench.steering.turn() is not Turn.ACTED
    await bench.turns()
    view = await bench.ledger.view()
    assert {route.owner for route in view.zones.values()} == {"s1"}
    assert "s0" not in view.members


async def test_a_ledger_that_refuses_a_reading_is_an_error_in_the_log_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = AdminBench()
    fail_once(bench, monkeypatch, "view", LedgerRefused("NOPERM"))
    with capture_logs() as lines:
        assert await bench.steering.turn() is Turn.UNAVAILABLE
    assert lines[0]["log_level"] == "error"


async def test_another_error_of_a_write_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.ledger.suspect("s0", 100, "g0")
    fail_once(bench, monkeypatch, "assign", ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await bench.steering.turn()


async def test_metrics_count_failovers_and_their_time() -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.ledger.suspect("s0", 100, "g0")
    await bench.turns()
    sample = bench.metrics.registry.get_sample_value
    assert sample("perdure_failovers_total", {"kind": "shard"}) == 1
    assert sample("perdure_failover_assign_seconds_count") == 1
    assert sample("perdure_zones_assigned_total", {"cause": "failover"}) == 2
    assert sample("perdure_zones_unassigned") == 0
    assert sample("perdure_members", {"kind": "shard"}) == 1
    assert sample("perdure_coordinator_leader") == 1


# --- the service --------------------------------------------------------------------------------------------------


async def until(ledger: MemoryLedger, condition: Callable[[Any], bool]) -> Any:
    """Wait until the view is as wanted, for at most 5 s."""
    async with asyncio.timeout(5):
        while True:
            view = await ledger.view()
            if condition(view):
                return view
            await asyncio.sleep(0.005)


async def test_a_service_leads_assigns_answers_and_leaves() -> None:
    store = MemoryStore()
    ledger = MemoryLedger(store)
    service = CoordinatorService(make_settings(heartbeat_ms=20, poll_ms=20), MemoryLedger(store))
    await ledger.init_world(WORLD)
    await ledger.heartbeat(Member("s0", "shard", 1, "unix:/s0", 1, {"state": "ready"}))
    running = asyncio.create_task(service.run())
    view = await until(ledger, lambda view: len(view.zones) == 4 and "c0" in view.members)
    assert view.leader == "c0"
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {DEVELOPMENT_ADMIN_TOKEN}"}) as client:
        response = await client.get(f"{view.members['c0'].info['admin']}/status")
    assert response.json()["leader"] == "c0"
    evicted = view.members["c0"].number
    await ledger.evict(view.term, "c0", evicted)
    await until(ledger, lambda view: "c0" in view.members and view.members["c0"].number != evicted)
    service.stop()
    await asyncio.wait_for(running, 5)
    view = await ledger.view()
    assert (view.leader, "c0" in view.members) == ("", False)


async def test_a_hint_is_followed_at_once_and_not_at_the_next_poll() -> None:
    store = MemoryStore()
    ledger = MemoryLedger(store)
    settings = make_settings(poll_ms=5000, leader_lease_ms=60_000, lease_ms=60_000, gateway_lease_ms=60_000)
    service = CoordinatorService(settings, MemoryLedger(store))
    await ledger.init_world(WORLD)
    running = asyncio.create_task(service.run())
    await until(ledger, lambda view: view.leader == "c0")
    for number, name in enumerate(("s0", "s1")):
        await ledger.heartbeat(Member(name, "shard", 100 + number, f"unix:/{name}", 1, {"state": "ready"}))
    await until(ledger, lambda view: len(view.zones) == 4)
    await ledger.suspect("s0", 100, "g0")
    await until(ledger, lambda view: {route.owner for route in view.zones.values()} == {"s1"})
    service.stop()
    await asyncio.wait_for(running, 5)


async def test_a_drained_coordinator_leaves() -> None:
    store = MemoryStore()
    ledger = MemoryLedger(store)
    service = CoordinatorService(make_settings(heartbeat_ms=20), MemoryLedger(store))
    running = asyncio.create_task(service.run())
    await until(ledger, lambda view: "c0" in view.members and view.leader == "c0")
    await ledger.order("c0", "drain")
    await asyncio.wait_for(running, 5)
    view = await ledger.view()
    assert (view.leader, view.members) == ("", {})


async def test_a_bug_in_a_loop_ends_the_service_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    service = CoordinatorService(make_settings(), MemoryLedger())

    async def broken() -> Turn:
        raise RuntimeError("a bug")

    monkeypatch.setattr(service.steering, "turn", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(service.run(), 5)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"development": False, "secret": "x" * 40},
        {"development": False, "secret": "x" * 40, "admin_token": "short"},
        {"development": False, "secret": "x" * 40, "admin_token": DEVELOPMENT_ADMIN_TOKEN},
        {"leader_lease_ms": 200, "poll_ms": 100},
        {"gateway_lease_ms": 900},
    ],
)
async def test_settings_that_cannot_be_meant_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make_settings(**values)


async def test_the_admin_token_may_stand_in_a_file_and_is_not_shown(tmp_path: Any) -> None:
    file = tmp_path / "token"
    file.write_text("t" * 40 + "\n")
    found = make_settings(development=False, secret="x" * 40, admin_token_file=str(file))
    assert found.admin_token == "t" * 40
    assert "t" * 40 not in repr(found)
