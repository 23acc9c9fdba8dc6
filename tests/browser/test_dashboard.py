"""The dashboard in a real browser: what it shows, what it lets one do, and what it does with hostile names."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from perdure.cli.launcher import LAUNCHER_SOCKET, Launcher
from perdure.cli.local_cluster import LocalCluster
from perdure.ledger.values import Member
from tests.browser.conftest import PATIENCE_MS, Pages, is_within_width
from tests.browser.dashboard_stage import TOKEN, DashboardStage, dashboard

pytestmark = [pytest.mark.asyncio, pytest.mark.browser]
ARENA = str(Path(__file__).resolve().parents[2] / "games" / "arena")
HOSTILE = "<img src=x onerror=window.broken=1>\"'<script>window.broken=1</script>"
expect.set_options(timeout=PATIENCE_MS)


async def become_operator(page: Page, token: str = TOKEN) -> None:
    await page.click("#access")
    await page.fill("#token", token)
    await page.press("#token", "Enter")


async def owner(stage: DashboardStage, zone: int) -> str:
    return (await stage.ledger.view()).zones[zone].owner


async def test_a_big_world_is_shown_whole_and_fits_a_phone(pages: Pages) -> None:
    async with dashboard(side=8, shards=6, players=2000) as stage, pages.open(stage.url, width=390, height=844) as page:
        await expect(page.locator(".zone")).to_have_count(64)
        await expect(page.locator(".shard")).to_have_count(6)
        await expect(page.locator("#connection")).to_contain_text("live")
        await expect(page.locator("#figures")).to_contain_text("2,000")
        assert await is_within_width(page)
        await page.click("[data-kind=players]")
        await expect(page.locator("tbody tr")).to_have_count(50)
        await expect(page.locator("#pager")).to_contain_text("1 to 50 of 2000")
        await page.click("text=Next")
        await expect(page.locator("#pager")).to_contain_text("51 to 100 of 2000")
        await page.fill("#filter", "bot-1999")
        await expect(page.locator("tbody tr")).to_have_count(1)
        assert await is_within_width(page)
        for kind in ("zones", "gateways", "coordinators"):
            await page.click(f"[data-kind={kind}]")
            await expect(page.locator("tbody tr").first).to_be_visible()
            assert await is_within_width(page)


async def test_tables_are_sorted_and_filtered_and_pages_hold_no_inline_code(pages: Pages) -> None:
    async with dashboard(side=4, shards=3) as stage, pages.open() as page:
        answered = await page.goto(stage.url)
        assert answered is not None
        policy = (await answered.all_headers())["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        await page.click("[data-kind=zones]")
        await page.click("th[data-name=zone] button")
        await expect(page.locator("tbody tr").first).to_contain_text("15")
        await page.click("th[data-name=tick_ms] button")
        await page.click("th[data-name=tick_ms] button")
        await expect(page.locator("tbody tr").first).to_contain_text("1.4")
        await page.fill("#filter", "shard-2")
        await expect(page.locator("tbody tr").first.locator("td.owner")).to_have_text("shard-2")
        owned = [zone for zone, route in (await stage.ledger.view()).zones.items() if route.owner == "shard-2"]
        await expect(page.locator("tbody tr")).to_have_count(len(owned))


async def test_without_the_token_nothing_can_be_done_and_a_wrong_one_is_refused(pages: Pages) -> None:
    async with dashboard() as stage, pages.open(stage.url) as page:
        await page.click(".shard >> nth=0")
        await page.click("text=Drain…")
        await expect(page.locator("#dialog-title")).to_have_text("Admin token")
        await page.fill("#token", "a wrong one")
        await page.press("#token", "Enter")
        await expect(page.locator("#dialog [role=alert]")).to_contain_text("not this coordinator's")
        assert await page.evaluate("sessionStorage.length") == 0
        await page.fill("#token", TOKEN)
        await page.press("#token", "Enter")
        await expect(page.locator("#dialog-title")).to_have_text("Drain shard-1?")
        assert (await stage.ledger.view()).draining == frozenset(), "it waits for the confirmation"
        await page.click("[data-confirm]")
        await expect(page.locator(".event.draining")).to_contain_text("shard-1")
        assert TOKEN not in page.url


async def test_a_zone_is_moved_by_keyboard_and_by_dragging_it_onto_a_shard(pages: Pages) -> None:
    async with dashboard(rebalance=False) as stage, pages.open(stage.url) as page:
        await become_operator(page)
        await expect(page.locator("#access")).to_have_text("Operator")
        await page.focus("[data-zone='0']")
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowDown")
        await expect(page.locator("[data-zone='5']")).to_be_focused()
        first = await owner(stage, 5)
        to = next(name for name in stage.shards if name != first)
        await page.keyboard.press("Enter")
        await page.select_option("#target", to)
        await page.click("text=Move…")
        await expect(page.locator("#dialog-title")).to_have_text(f"Move zone 5 to {to}?")
        await page.keyboard.press("Enter")
        await expect(page.locator("[data-zone='5']")).to_have_class("zone moving")
        await stage.ledger.successor_ready(5, to)
        await expect(page.locator(".event.migrated")).to_contain_text(f"zone 5 moved from {first} to {to}")
        second = await owner(stage, 10)
        other = next(name for name in stage.shards if name != second)
        await page.drag_and_drop("[data-zone='10']", f"[data-shard='{other}']")
        await expect(page.locator("#dialog-title")).to_have_text(f"Move zone 10 to {other}?")
        await page.click("text=Close")
        assert (await stage.ledger.view()).zones[10].successor == "", "it was not confirmed"


async def test_a_player_is_looked_up_and_disconnected(pages: Pages) -> None:
    async with dashboard(players=3) as stage, pages.open(stage.url) as page:
        await become_operator(page)
        await page.click("[data-kind=players]")
        await page.click("text=bot-0002")
        await expect(page.locator(".facts")).to_contain_text("gateway-2")
        await expect(page.locator(".facts dd").nth(1)).to_have_text("–")  # no shard listens on this stage

        async def placed(route: Route) -> None:
            answered = await (await route.fetch()).json()
            await route.fulfill(json=answered | {"at": {"tick": 77, "x": 12.25, "y": 3}})

        await page.route("**/players/*", placed)
        await page.click("text=Close")
        await page.click("text=bot-0002")
        await expect(page.locator(".facts")).to_contain_text("12.3, 3.0 at tick 77")
        await page.unroute("**/players/*")
        await page.click("text=Disconnect…")
        await page.click("[data-confirm]")
        await expect(page.locator("#dialog")).to_be_hidden()
        zones = [zone for zone, data in stage.store.data.zones.items() if any(entry[0] == 7 for entry in data.inbox)]
        assert len(zones) == 1, "a KICK waits in the player's zone"


async def test_in_production_the_page_asks_for_the_token_before_it_shows_anything(pages: Pages) -> None:
    token = "a-token-of-this-test-with-enough-characters"
    secret = "a-secret-of-this-test-with-enough-characters"
    async with dashboard(development=False, secret=secret, admin_token=token) as stage, pages.open(stage.url) as page:
        await expect(page.locator("#dialog-title")).to_have_text("Admin token")
        assert await page.locator(".zone").count() == 0
        await page.fill("#token", token)
        await page.press("#token", "Enter")
        await expect(page.locator(".zone")).to_have_count(16)
        await page.click(".shard >> nth=0")
        await expect(page.locator("text=Drain…")).to_be_visible()
        assert await page.locator("text=Kill…").count() == 0, "kill is for development"


async def test_hostile_names_stay_text(pages: Pages) -> None:
    async with dashboard(players=1) as stage, pages.open() as page:

        async def poison(route: Route) -> None:
            answered = await route.fetch()
            text = await answered.text()
            for name in ("shard-1", "gateway-1", "bot-0001", "main", "arena", "c0"):
                text = text.replace(f'"{name}"', json.dumps(HOSTILE))
            text = text.replace('"text":"', '"text":' + json.dumps(HOSTILE)[:-1])
            await route.fulfill(response=answered, body=text)

        await page.route("**/live", poison)
        await page.route("**/live/players*", poison)
        await page.route("**/players/*", lambda route: route.fulfill(status=404, json={"error": HOSTILE, "mend": HOSTILE}))
        await page.route("**/live/stream?*", lambda route: route.abort())
        pages.ignored += ["ERR_FAILED", "404"]
        await page.goto(stage.url)
        await expect(page.locator(".shard .name").first).to_have_text(HOSTILE)
        await expect(page.locator(".event").first).to_contain_text("<img")
        await expect(page.locator("#world")).to_contain_text("<script>")
        for kind in ("shards", "zones", "gateways", "coordinators", "players"):
            await page.click(f"[data-kind={kind}]")
            await expect(page.locator("#table")).to_contain_text("<img")
        await page.click("tbody tr")
        await expect(page.locator("#dialog [role=alert]")).to_contain_text("<img")
        assert await page.evaluate("window.broken") is None
        assert await page.locator("img, main script").count() == 0


async def test_a_page_goes_on_when_its_coordinator_was_away(pages: Pages) -> None:
    async with dashboard() as stage, pages.open() as page:
        pages.ignored += ["ERR_FAILED"]
        away = True

        async def stream(route: Route) -> None:
            await (route.abort() if away else route.continue_())

        await page.route("**/live/stream?*", stream)
        await page.goto(stage.url)
        await expect(page.locator("#connection")).to_contain_text("trying again")
        away = False
        await expect(page.locator("#connection")).to_contain_text("live")
        await stage.ledger.heartbeat(Member("shard-9", "shard", 999, "unix:/9", 1, {"state": "ready"}))
        await expect(page.locator("[data-shard='shard-9']")).to_be_visible()


@asynccontextmanager
async def launcher(cluster: LocalCluster, socket: Path) -> AsyncIterator[None]:
    """Answer the cluster's coordinators as `perdure up` does."""
    serving = Launcher(cluster, socket)
    await serving.start()
    try:
        yield
    finally:
        await serving.stop()


async def test_a_shard_is_added_and_another_killed_and_the_failover_is_seen(pages: Pages) -> None:
    started = LocalCluster(shards=3, gateways=1, coordinators=1, zones="2x2", game=ARENA)
    assert started.folder is not None
    socket = started.folder / LAUNCHER_SOCKET
    started.settings["launcher"] = str(socket)
    async with started as cluster, launcher(cluster, socket):
        async with pages.open(cluster.admin_urls["coordinator-1"]) as page:
            await expect(page.locator(".zone")).to_have_count(4)
            await become_operator(page, cluster.admin_token)
            victim = (await cluster.ledger.view()).zones[0].owner
            await page.click("#add-shard")
            await page.click("[data-confirm]")
            await expect(page.locator("[data-shard='shard-4']")).to_be_visible()
            await page.click(f"[data-shard='{victim}']")
            await page.click("text=Kill…")
            await page.click("[data-confirm]")
            await expect(page.locator(".arrow.failover").first).to_be_attached()
            await expect(page.locator(".event.lost")).to_contain_text(victim)
            await expect(page.locator(".event.recovered").first).to_contain_text("went on after")
            await expect(page.locator(".chart rect.bar").first).to_be_attached()
            await asyncio.wait_for(cluster.ended_of(victim), 30)
            owner_now = (await cluster.ledger.view()).zones[0].owner
            assert owner_now != victim
            await expect(page.locator("[data-zone='0']")).to_have_attribute("aria-label", re.compile(f"^Zone 0, {owner_now},"))
