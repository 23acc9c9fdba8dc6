"""What the dashboard lives on: the picture, its stream, the events, players page by page. Over ASGI, against a memory ledger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from coordinator.live_feed import LiveFeed
from coordinator.live_picture import ZONE_FIELDS, number, picture, told_players, told_sessions
from coordinator.trends import SAMPLES_KEPT, TREND_FIELDS, Trends
from perdure.ledger.values import Member
from tests.unit.coordinator.admin_bench import WORLD, AdminBench
from tests.unit.coordinator.fake_cluster import running

pytestmark = pytest.mark.asyncio

SHARD = {
    "state": "ready", "players": {"0": 1}, "tick_ms": {"p50": 2.0, "p99": 9.0}, "commit_ms": {"p50": 0.5, "p99": 1.5}, "bytes_s": 1000,
    "build": "abc", "pace": {"0": ["slow", 80, 2]}, "zone_ms": {"0": 3.25},
}  # fmt: skip


async def started(most_streams: int = 16) -> AdminBench:
    bench = AdminBench(max_live_streams=most_streams)
    await bench.start("s0", "s1")
    await bench.ledger.heartbeat(Member("s0", "shard", 100, "unix:/s0", 2, SHARD))
    await bench.ledger.heartbeat(Member("s1", "shard", 101, "unix:/s1", 2, {**SHARD, "tick_ms": {"p50": 4.0, "p99": 30.0}}))
    await bench.ledger.heartbeat(Member("g0", "gateway", 7, "ws://g0", 2, {"state": "ready", "bytes_s": 5000, "load": 3}))
    await bench.turns()
    return bench


async def see(bench: AdminBench, *names: str, zone: int = 0) -> None:
    for name in names:
        await bench.enter(name, zone)
    await bench.feed.take(b"resync")


async def test_the_picture_shows_zones_members_and_totals() -> None:
    bench = await started()
    await see(bench, "ann", "bob", zone=3)
    async with bench.client() as client:
        found = (await client.get("/live")).json()
    assert found["world"] == {"name": "main", "game": "arena", "columns": 2, "rows": 2, "tick_hz": 20}
    zones = [dict(zip(found["zone_fields"], row, strict=True)) for row in found["zones"]]
    assert [zone["players"] for zone in zones] == [0, 0, 0, 2]
    assert {zone["owner"] for zone in zones} == {"s0", "s1"}
    assert all(zone["epoch"] == 1 for zone in zones)
    assert [zone["pace"] for zone in zones] == [80, None, None, None]
    assert [zone["tick_ms"] for zone in zones] == [3.25, None, None, None]
    shard = found["shards"][0]
    assert (shard["name"], shard["zones"], shard["tick_ms"], shard["bytes_s"]) == ("s0", 2, {"p50": 2.0, "p99": 9.0}, 1000)
    assert found["gateways"][0]["players"] == 2
    assert found["totals"] == {
        "tick_ms_p50": 3.0, "tick_ms_p99": 30.0, "commit_ms_p50": 0.5, "commit_ms_p99": 1.5, "players": 3, "bytes_s": 5000,
    }  # fmt: skip
    assert (found["players"], found["leader"], found["development"]) == (2, "c0", True)
    assert found["trend"]["fields"] == list(TREND_FIELDS) and found["trend"]["samples"]
    assert [event["kind"] for event in found["events"]][-2:] == ["started", "started"]


async def test_before_the_first_view_there_is_no_picture() -> None:
    bench = AdminBench()
    async with bench.client() as client:
        assert (await client.get("/live")).status_code == 503
        assert (await client.get("/live/stream")).status_code == 503


@pytest.mark.parametrize(
    "junk",
    ["x", -1, float("nan"), True, None, [1], {"p50": "x", 3: 4, "0": [1]}, {"0": ["x", "y"]}, {"0": [1, -1]}, {"0": -1}, {"0": 1e400}],
)
async def test_what_members_publish_cannot_break_the_picture(junk: object) -> None:
    cluster = running()
    names = ("state", "players", "tick_ms", "commit_ms", "bytes_s", "pace", "zone_ms", "failed", "load", "build", "pid", "url", "links")
    cluster.say("s0", **dict.fromkeys(names, junk))
    view = cluster.view()
    view = replace(view, members={**view.members, "g": Member("g", "gateway", 1, "", 1, dict.fromkeys(names, junk))})
    found = orjson.loads(orjson.dumps(picture(view, None, told_players(view), told_sessions(view))))
    assert len(found["zones"]) == 16
    assert all(number(told) is not None for told in found["shards"][0]["tick_ms"].values())


async def test_a_player_is_counted_where_presence_has_it_and_told_where_its_owner_says() -> None:
    bench = await started()
    view = bench.steering.view
    assert view is not None
    zone = next(zone for zone, route in view.zones.items() if route.owner == "s0")
    assert told_players(view)[0] == 1
    assert told_sessions(view) == {7: 3}
    row = dict(zip(ZONE_FIELDS, picture(view, WORLD, {zone: 5}, {})["zones"][zone], strict=True))
    assert (row["players"], row["owner"]) == (5, "s0")


async def test_events_are_read_from_where_one_was() -> None:
    bench = await started()
    async with bench.client() as client:
        found = (await client.get("/events")).json()
        assert found["number"] == found["events"][-1]["id"]
        assert (await client.get(f"/events?since={found['number']}")).json()["events"] == []
        assert len((await client.get("/events?limit=1")).json()["events"]) == 1
        for query in ("since=x", "since=-1", "limit=0", "limit=501"):
            assert (await client.get(f"/events?{query}")).status_code == 400


async def test_players_come_in_pages_filtered_and_sorted() -> None:
    bench = await started()
    await see(bench, *(f"bot-{index:03}" for index in range(60)), zone=1)
    await see(bench, "Zoe", zone=0)

    async def page(query: str) -> dict[str, Any]:
        async with bench.client() as client:
            return (await client.get(f"/live/players?{query}")).json()

    first = await page("")
    assert (first["count"], len(first["players"]), first["players"][0]["name"]) == (61, 50, "Zoe")
    assert [p["name"] for p in (await page("offset=50"))["players"]][-1] == "bot-059"
    assert (await page("find=zO"))["players"] == [{"name": "Zoe", "zone": 0, "gateway": "g0", "attached": True, "session": 1}]
    assert (await page("zone=1"))["count"] == 60
    assert (await page("sort=name&order=down"))["players"][0]["name"] == "bot-059"
    assert (await page("sort=zone"))["players"][0]["name"] == "Zoe"
    assert (await page("sort=gateway&order=down"))["count"] == 61
    async with bench.client() as client:
        for query in ("sort=secret", "limit=0", "limit=201", "offset=-1", "zone=x"):
            assert (await client.get(f"/live/players?{query}")).status_code == 400


# --- the stream -----------------------------------------------------------------------------------------------------


async def test_the_stream_brings_a_picture_and_what_happened_since() -> None:
    bench = await started()
    async with bench.client() as client:
        told = (await client.get("/live")).json()["told"]
    await bench.ledger.heartbeat(Member("s6", "shard", 176, "unix:/s6", 1, {"state": "starting"}))
    await bench.turns()  # between the first picture and the stream
    stream = bench.api.live._pictures(told)
    first, log = await anext(stream), await anext(stream)
    assert first.startswith(b"event: picture\ndata: {")
    assert log.startswith(b"event: log\ndata: [{") and b"s6 joined" in log
    await bench.ledger.heartbeat(Member("s7", "shard", 177, "unix:/s7", 1, {"state": "starting"}))
    await bench.turns()
    later = [await anext(stream) for _ in range(3)]  # a picture of s6 among them
    assert [part for part in later if part.startswith(b"event: log\ndata: [{") and b"s7 joined" in part]
    assert [part for part in later if part.startswith(b"event: picture\n") and b'"s7"' in part]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_streams_are_bounded_and_end_with_the_coordinator() -> None:
    bench = await started(most_streams=1)
    stream = bench.api.live._pictures(0)
    await anext(stream)
    async with bench.client() as client:
        assert (await client.get("/live/stream")).status_code == 429
    await stream.aclose()  # type: ignore[attr-defined]
    await bench.feed.close()
    async with bench.client() as client:
        response = await client.get("/live/stream")
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_all_who_look_on_share_one_picture_and_nobody_costs_nothing() -> None:
    drawn = 0

    def draw() -> dict[str, Any]:
        nonlocal drawn
        drawn += 1
        return {"drawn": drawn}

    feed = LiveFeed(draw)
    await asyncio.sleep(0.01)
    assert drawn == 0
    number, body = feed.newest()
    assert (number, body) == (1, b'{"drawn":1}')
    assert feed.newest() == (1, body), "it is new enough"
    found = await asyncio.gather(*(feed.after(number) for _ in range(20)))
    assert {body for _, body in found} == {b'{"drawn":2}'}
    assert drawn == 2


async def test_trends_keep_one_sample_a_second() -> None:
    view, trends = running().view(), Trends()
    for tenth in range(10 * (SAMPLES_KEPT + 20)):
        trends.observe(tenth * 100.0, view)
    told = trends.to_json((SAMPLES_KEPT + 20) * 1000.0)
    assert len(told["samples"]) == SAMPLES_KEPT
    assert told["samples"][0][0] - told["samples"][-1][0] == (SAMPLES_KEPT - 1) * 1000
