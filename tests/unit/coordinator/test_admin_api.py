"""The admin API over ASGI, against a memory ledger."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from httpx import Response
from structlog.testing import capture_logs

from perdure.ledger.ledger import LedgerUnavailable
from perdure.ledger.values import Member
from perdure.wire.identifiers import key_hex, player_key
from perdure.wire.link import COMMAND_HEADER
from tests.unit.coordinator.admin_bench import SCHEMA, AdminBench

pytestmark = pytest.mark.asyncio

READING = [
    "/status", "/world", "/players", "/players/ann", "/presence/changes", "/presence/stream", "/zones/0/log", "/live", "/live/stream",
    "/live/players", "/events",
]  # fmt: skip
CHANGING = [
    "/zones/0/migrate", "/players/ann/kick", "/members/s0/kill", "/members/s0/pause", "/members/s0/drain", "/members/s0/undrain",
]  # fmt: skip


def expect(response: Response, status: int) -> Any:
    """Check the status and that the answer is JSON; of an error, that it says what and how to mend it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    if status >= 400:
        assert set(found) == {"error", "mend"}
        assert found["error"]
        assert found["mend"]
    return found


# --- the door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "wrong", "perdure-development-admin-token-not-for-productio", "ünïcödé".encode().decode("latin-1")])
@pytest.mark.parametrize("path", [*READING, *CHANGING])
async def test_without_the_token_nothing_is_told_and_nothing_done(path: str, token: str) -> None:
    bench = AdminBench(read_without_token=False)
    await bench.start("s0", "s1")
    await bench.enter("ann")
    before = bench.store.snapshot()
    async with bench.client("") as client:
        headers = [(b"Authorization", f"Bearer {token}".encode("latin-1"))] if token else []
        method = "POST" if path in CHANGING else "GET"
        response = await client.request(method, path, headers=headers)
    expect(response, 401)
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert bench.store.snapshot() == before


@pytest.mark.parametrize("path", sorted(set(READING) - {"/presence/stream", "/live/stream"}))
async def test_in_development_looking_needs_no_token_unless_a_domain_was_made_to_point_here(path: str) -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.enter("ann")
    async with bench.client("") as client:
        for host in ("localhost:7710", "127.0.0.1", "[::1]:80", "coordinator"):
            expect(await client.get(path, headers={"Host": host}), 200)
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1.example:80"):
            expect(await client.get(path, headers={"Host": host}), 401)
        expect(await client.post("/members/s0/kill"), 401)
    assert await orders(bench, "s0") == ()


async def test_in_production_looking_needs_the_token_unless_it_is_set_otherwise() -> None:
    production = {"development": False, "secret": "a-secret-of-this-test-with-enough-characters"}
    token = "a-token-of-this-test-with-enough-characters"
    for setting, status in ((None, 401), (False, 401), (True, 200)):
        bench = AdminBench(**production, admin_token=token, read_without_token=setting)
        await bench.start("s0")
        async with bench.client("") as client:
            expect(await client.get("/live"), status)
            expect(await client.post("/members/s0/drain"), 401)
        async with bench.client(token) as client:
            expect(await client.get("/live"), 200)


async def test_another_scheme_is_no_token() -> None:
    bench = AdminBench(read_without_token=False)
    async with bench.client("") as client:
        headers = {"Authorization": f"Basic {bench.settings.admin_token}"}
        expect(await client.get("/status", headers=headers), 401)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_need_no_token(path: str) -> None:
    bench = AdminBench()
    await bench.start("s0")
    async with bench.client("") as client:
        assert (await client.get(path)).status_code == 200


async def test_unknown_paths_and_wrong_methods_are_json_too() -> None:
    bench = AdminBench()
    async with bench.client() as client:
        expect(await client.get("/nothing"), 404)
        expect(await client.post("/status"), 405)
        expect(await client.get("/members/s0/kill"), 405)


async def test_changing_calls_are_audited_and_refused_ones_too() -> None:
    bench = AdminBench()
    await bench.start("s0")
    with capture_logs() as lines:
        async with bench.client() as client:
            await client.post("/members/s0/drain")
        async with bench.client("wrong") as client:
            await client.post("/members/s0/kill")
    audited = [(line["path"], line["status"]) for line in lines if line["event"] == "admin"]
    assert audited == [("/members/s0/drain", 202), ("/members/s0/kill", 401)]
    assert bench.settings.admin_token not in str(lines)


# --- what there is ------------------------------------------------------------------------------------------------


async def test_status_shows_the_cluster() -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.enter("ann", zone=3)
    await bench.feed.take(b"resync")
    await bench.ledger.heartbeat(Member("c0", "coordinator", 9, "http://c0", 1, {"admin": "http://c0"}))
    await bench.turns()
    async with bench.client() as client:
        found = expect(await client.get("/status"), 200)
    assert (found["leader"], found["term"], found["leading"]) == ("c0", 1, True)
    assert [shard["name"] for shard in found["shards"]] == ["s0", "s1"]
    assert sorted(zone for shard in found["shards"] for zone in shard["zones"]) == [0, 1, 2, 3]
    assert found["gateways"][0]["players"] == 1
    assert found["coordinators"][0]["info"]["admin"] == "http://c0"
    assert [zone["zone"] for zone in found["zones"]] == [0, 1, 2, 3]
    assert found["zones"][3]["players"] == 1
    assert found["zones"][0]["migration"] == "settled"
    assert found["zones_unassigned"] == 0
    assert found["players"] == 1


async def test_a_standby_serves_the_same() -> None:
    leader = AdminBench()
    await leader.start("s0", "s1")
    standby = AdminBench(store=leader.store, name="c1")
    await standby.turns()
    assert not standby.steering.leading
    async with standby.client() as client:
        found = expect(await client.get("/status"), 200)
        assert (found["leader"], found["answered_by"], found["leading"]) == ("c0", "c1", False)
        zone, target = (0, "s1") if found["zones"][0]["owner"] == "s0" else (0, "s0")
        expect(await client.post(f"/zones/{zone}/migrate", json={"shard": target}), 202)
    await leader.ledger.successor_ready(zone, target)
    await leader.turns()
    assert (await leader.ledger.view()).zones[zone].owner == target


async def test_status_before_the_first_view_and_ready_after_an_outage() -> None:
    bench = AdminBench()
    async with bench.client() as client:
        expect(await client.get("/status"), 503)
        expect(await client.get("/readyz"), 503)
        await bench.start("s0")
        expect(await client.get("/readyz"), 200)
        bench.now_s += 10
        expect(await client.get("/readyz"), 503)
        expect(await client.get("/healthz"), 200)
        assert expect(await client.get("/status"), 200)["view_age_ms"] == 10_000


async def test_a_ledger_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = AdminBench()
    await bench.start("s0")

    async def away(*_: object) -> None:
        raise LedgerUnavailable("no answer")

    monkeypatch.setattr(bench.ledger, "online", away)
    monkeypatch.setattr(bench.ledger, "view", away)
    async with bench.client() as client:
        expect(await client.get("/players"), 503)
        expect(await client.post("/members/s0/drain"), 503)


async def test_world_opens_the_schema() -> None:
    bench = AdminBench()
    async with bench.client() as client:
        expect(await client.get("/world"), 404)
        await bench.start("s0")
        found = expect(await client.get("/world"), 200)
    assert (found["zones"], found["schema"]["commands"][0]["name"]) == (4, "steer")


async def test_players_and_one_player() -> None:
    bench = AdminBench()
    await bench.start("s0")
    await bench.enter("ann", zone=1)
    await bench.enter("bob", zone=2)
    async with bench.client() as client:
        everyone = expect(await client.get("/players"), 200)
        assert [player["name"] for player in everyone["players"]] == ["ann", "bob"]
        there = expect(await client.get("/players?zone=2"), 200)
        assert (there["count"], there["players"][0]["gateway"]) == (1, "g0")
        ann = expect(await client.get("/players/ann"), 200)
        assert (ann["online"], ann["zone"], ann["since_ms"]) == (True, 1, 1234)
        assert ann["at"] is None, "no shard listens there"
        expect(await client.get("/players/nobody"), 404)
        expect(await client.get("/players/no%20name"), 404)
        for zone in ("9", "-1", "x", "٣", "1e9"):
            expect(await client.get("/players", params={"zone": zone}), 404)


async def test_a_log_is_readable() -> None:
    bench = AdminBench()
    await bench.start("s0")
    await bench.enter("ann", zone=1)
    steer = SCHEMA.commands[0]
    row = np.zeros(1, np.dtype([*COMMAND_HEADER, ("payload", "u1", (8,))]))
    row["player"], row["seq"], row["kind"] = player_key("ann"), 5, 1
    row["payload"] = np.frombuffer(steer.pack([-1, 2.5]), "u1")
    strange = row.copy()
    strange["kind"] = 99
    await bench.commit(1)
    await bench.commit(1, row.tobytes() + strange.tobytes())
    async with bench.client() as client:
        found = expect(await client.get("/zones/1/log"), 200)
        first, second = found["records"]
        assert (first["tick"], first["kind"], first["state_hash"]) == (1, "tick", "000000000000abcd")
        assert (first["inbox"][0]["kind"], first["inbox"][0]["player"]) == ("join", key_hex(player_key("ann")))
        assert second["commands"][0]["fields"] == {"mx": -1, "power": 2.5}
        assert "fault" in second["commands"][1]
        assert [r["tick"] for r in expect(await client.get("/zones/1/log?from=2&limit=1"), 200)["records"]] == [2]
        for query in ("limit=0", "limit=1001", "limit=x", "from=-1", "from=99999999999999999999"):
            expect(await client.get(f"/zones/1/log?{query}"), 400)
        expect(await client.get("/zones/4/log"), 404)


async def test_a_record_that_is_broken_is_shown_as_such() -> None:
    bench = AdminBench()
    await bench.start("s0")
    await bench.commit(0)
    zone = bench.store.data.zones[0]
    object.__setattr__(zone.log[1], "record", b"junk")
    object.__setattr__(zone.log[1], "page", (b"short",))
    async with bench.client() as client:
        (record,) = expect(await client.get("/zones/0/log"), 200)["records"]
    assert "fault" in record
    assert "fault" in record["inbox"][0]


# --- presence -----------------------------------------------------------------------------------------------------


async def test_presence_changes_follow_the_ledgers_hints() -> None:
    bench = AdminBench()
    await bench.start("s0")
    hints = bench.ledger.subscribe("presence")
    await anext(hints)
    await bench.enter("ann")
    await bench.feed.take((await anext(hints))[1])
    await bench.feed.take(b"not json")
    await bench.feed.take(b'{"player": "xyz"}')
    async with bench.client() as client:
        found = expect(await client.get("/presence/changes"), 200)
        assert [(c["change"], c["name"], c["gateway"]) for c in found["changes"]] == [("enter", "ann", "g0")]
        assert expect(await client.get(f"/presence/changes?since={found['number']}"), 200)["changes"] == []
        expect(await client.get("/presence/changes?since=x"), 400)


async def test_the_stream_yields_changes_as_they_come_and_ends_with_the_feed() -> None:
    bench = AdminBench()
    await bench.start("s0")
    await bench.enter("ann")
    await bench.feed.take(b"resync")
    events = bench.api._events(0)
    assert (await anext(events)).startswith(b":")
    assert b'"ann"' in await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await bench.enter("bob")
    await bench.feed.take(b"resync")
    assert b'"bob"' in await waiting
    await bench.feed.close()
    async with bench.client() as client:
        response = await client.get("/presence/stream?since=0")
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_streams_are_bounded() -> None:
    bench = AdminBench(max_streams=1)
    await bench.start("s0")
    events = bench.api._events(0)
    await anext(events)
    async with bench.client() as client:
        expect(await client.get("/presence/stream"), 429)
    await events.aclose()  # type: ignore[attr-defined]
    await bench.feed.close()
    async with bench.client() as client:
        assert (await client.get("/presence/stream")).status_code == 200


# --- what to do ---------------------------------------------------------------------------------------------------


async def test_migrate_asks_for_what_can_be_done_and_says_why_not() -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    owner = (await bench.ledger.view()).zones[0].owner
    other = "s1" if owner == "s0" else "s0"
    async with bench.client() as client:
        for body in (b"", b"{", b"[]", b'{"shard": 1}', b'{"shard": "s1", "more": 1}', b"\xff\xfe"):
            expect(await client.post("/zones/0/migrate", content=body), 400)
        expect(await client.post("/zones/0/migrate", content=b"x" * 5000), 413)
        expect(await client.post("/zones/99/migrate", json={"shard": other}), 404)
        expect(await client.post("/zones/0/migrate", json={"shard": "nobody"}), 404)
        expect(await client.post("/zones/0/migrate", json={"shard": "g0"}), 404)
        expect(await client.post("/zones/0/migrate", json={"shard": owner}), 409)
        found = expect(await client.post("/zones/0/migrate", json={"shard": other}), 202)
        assert (found["from"], found["to"]) == (owner, other)
        expect(await client.post("/zones/0/migrate", json={"shard": other}), 409)
        await bench.ledger.set_draining(owner, True)
        zone = next(z for z, r in (await bench.ledger.view()).zones.items() if r.owner == other)
        expect(await client.post(f"/zones/{zone}/migrate", json={"shard": owner}), 409)


async def test_migrations_by_hand_are_bounded_too_and_need_a_leader() -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.ledger.heartbeat(Member("c0", "coordinator", 1, "http://c0", 1, {"max_migrations": 1}))
    view = await bench.ledger.view()
    first, second = (zone for zone, route in view.zones.items() if route.owner == "s0")
    async with bench.client() as client:
        bench.store.data.leader = ""
        expect(await client.post(f"/zones/{first}/migrate", json={"shard": "s1"}), 503)
        await bench.turns()
        expect(await client.post(f"/zones/{first}/migrate", json={"shard": "s1"}), 202)
        expect(await client.post(f"/zones/{second}/migrate", json={"shard": "s1"}), 429)


async def test_kick_reaches_the_players_zone() -> None:
    bench = AdminBench()
    await bench.start("s0")
    await bench.enter("ann")
    async with bench.client() as client:
        expect(await client.post("/players/ann/kick"), 202)
        expect(await client.post("/players/nobody/kick"), 404)
    await bench.commit(0)
    (record,) = await bench.ledger.read_log(0, 1)
    assert [entry[0] for entry in record.page] == [1, 7]


async def orders(bench: AdminBench, name: str) -> tuple[str, ...]:
    member = (await bench.ledger.view()).members[name]
    return tuple(order.text for order in (await bench.ledger.heartbeat(member)).orders)


async def test_kill_and_pause_are_orders_in_development() -> None:
    bench = AdminBench()
    await bench.start("s0")
    async with bench.client() as client:
        expect(await client.post("/members/s0/kill"), 202)
        expect(await client.post("/members/s0/pause?ms=250"), 202)
        expect(await client.post("/members/g0/kill"), 202)
        expect(await client.post("/members/nobody/kill"), 404)
        for pause in ("0", "-5", "x", "600001", ""):
            expect(await client.post("/members/s0/pause", params={"ms": pause}), 400)
    assert await orders(bench, "s0") == ("die", "pause 250")
    assert await orders(bench, "g0") == ("die",)


async def test_kill_and_pause_are_refused_outside_development() -> None:
    token = "a-token-of-this-test-with-enough-characters"
    bench = AdminBench(development=False, secret="a-secret-of-this-test-with-enough-characters", admin_token=token)
    await bench.start("s0")
    async with bench.client(token) as client:
        expect(await client.post("/members/s0/kill"), 403)
        expect(await client.post("/members/s0/pause?ms=250"), 403)
        expect(await client.post("/members/g0/drain"), 202)
    assert await orders(bench, "s0") == ()
    assert await orders(bench, "g0") == ("drain",)


async def test_drain_and_undrain() -> None:
    bench = AdminBench()
    await bench.start("s0", "s1")
    await bench.ledger.heartbeat(Member("c0", "coordinator", 9, "http://c0", 1, {}))
    async with bench.client() as client:
        expect(await client.post("/members/s0/drain"), 202)
        assert (await bench.ledger.view()).draining == {"s0"}
        assert await orders(bench, "s0") == (), "the shard finds the mark; told twice it would leave at once"
        expect(await client.post("/members/s0/undrain"), 200)
        assert (await bench.ledger.view()).draining == frozenset()
        expect(await client.post("/members/g0/drain"), 202)
        assert await orders(bench, "g0") == ("drain",)
        expect(await client.post("/members/c0/drain"), 202)
        assert await orders(bench, "c0") == ("drain",)
        expect(await client.post("/members/g0/undrain"), 409)
        expect(await client.post("/members/nobody/drain"), 404)


async def test_a_member_with_a_full_queue_of_orders_is_said_so() -> None:
    bench = AdminBench()
    await bench.start("s0")
    async with bench.client() as client:
        for _ in range(16):
            expect(await client.post("/members/s0/pause"), 202)
        expect(await client.post("/members/s0/pause"), 409)
