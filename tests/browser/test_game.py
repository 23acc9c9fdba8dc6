"""The arena in a real browser, on a cluster of real processes: it is played, a shard is killed, and names are hostile."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.arena_stage import COLUMNS, HOSTILE, ROWS, arena, enter, holds, look, names_of_one_zone, playing, until
from tests.browser.conftest import Pages, is_within_width

pytestmark = [pytest.mark.asyncio, pytest.mark.browser]
FOLLOW = """([x, y]) => {  // what a mouse that is held there would ask for, each 30 ms
  clearInterval(window.pilot);
  window.pilot = setInterval(() => {
    const me = perdure.client.world?.me?.fields;
    if (me) perdure.game.input.pointed = [x - me.x, y - me.y].map((far) => (Math.abs(far) < 8 ? 0 : Math.sign(far)));
  }, 30);
}"""
COLLECT = """() => {  // the nearest coin, again and again
  clearInterval(window.pilot);
  window.pilot = setInterval(() => {
    const { world } = perdure.client, me = world?.me?.fields;
    if (!me) return;
    const far = (coin) => Math.hypot(coin.fields.x - me.x, coin.fields.y - me.y);
    const coins = [...world.entities.values()].filter(({ type }) => type === "coin").sort((a, b) => far(a) - far(b));
    const to = coins.length ? coins[0].fields : { x: 2048, y: 2048 };
    perdure.game.input.pointed = [to.x - me.x, to.y - me.y].map((off) => (Math.abs(off) < 8 ? 0 : Math.sign(off)));
  }, 30);
}"""


def centre(zone: int) -> list[float]:
    return [(zone % COLUMNS + 0.5) * 4096 / COLUMNS, (zone // COLUMNS + 0.5) * 4096 / ROWS]


async def test_it_is_played_with_keys_and_borders_of_shards_are_crossed(pages: Pages) -> None:
    async with arena() as (_, url), pages.open(url) as page:
        await enter(page, "ann")
        before = await look(page)
        await page.keyboard.down("KeyD" if before["me"]["x"] < 2048 else "KeyA")
        await until(page, "Math.abs(now.me.x - given.x) > 40", x=before["me"]["x"])
        await page.keyboard.down("Space")
        await until(page, "now.me.ammo < 50")
        await page.keyboard.up("Space")
        await page.keyboard.up("KeyD" if before["me"]["x"] < 2048 else "KeyA")
        await expect(page.locator("#shards li")).to_have_count(2)

        gold = (await look(page))["me"]["gold"]
        await page.evaluate(COLLECT)
        await until(page, "now.me.gold > given.gold", gold=gold)
        await expect(page.locator("#gold")).not_to_have_text("0")

        now = await look(page)
        others = [zone for zone, owner in enumerate(now["owners"]) if owner != now["owner"]]
        here = centre(now["zone"])
        nearest = min(others, key=lambda zone: abs(centre(zone)[0] - here[0]) + abs(centre(zone)[1] - here[1]))
        await page.evaluate(FOLLOW, centre(nearest))
        await until(page, "now.owner !== given.owner", owner=now["owner"])
        assert (await look(page))["connects"] == 1
        await expect(page.locator("#place")).to_contain_text("shard-")


async def test_two_who_see_each_other_go_on_when_their_shard_is_killed(pages: Pages) -> None:
    async with arena() as (cluster, url), pages.open(url, 720, 540) as one, pages.open(url, 390, 700) as other:
        for page, name in zip((one, other), names_of_one_zone(2), strict=True):
            await enter(page, name)
            await page.evaluate(FOLLOW, centre(1))
            await page.evaluate("window.sameDocument = true")
        ids = [(await look(page))["id"] for page in (one, other)]
        for page, seen in ((one, ids[1]), (other, ids[0])):
            await until(page, "now.ids.includes(given.seen) && now.zone === 1", seen=seen)
        owner = (await look(one))["owner"]
        await cluster.kill(owner)
        for page, seen in ((one, ids[1]), (other, ids[0])):
            await holds(page, "() => perdure.game.hud.told.some((line) => line.includes('zone 1'))")
            await until(page, "now.owner && now.owner !== given.owner && now.ids.includes(given.seen)", owner=owner, seen=seen)
            at = (await look(page))["snapshots"]
            await until(page, "now.snapshots > given.at + 5 && now.ids.includes(given.seen)", at=at, seen=seen)
            assert (await look(page))["connects"] == 1, "the socket was kept"
            assert await page.evaluate("window.sameDocument"), "the page was not loaded anew"


async def test_a_hostile_name_is_text_a_phone_has_room_and_the_menu_needs_no_mouse(pages: Pages) -> None:
    pages.ignored.append("Failed to load resource")  # the gateway refuses the name, as it shall
    async with arena() as (_, url), pages.open(width=390, height=844) as page:
        answered = await page.goto(url)
        assert answered is not None
        policy = (await answered.all_headers())["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy
        await page.evaluate("document.querySelector('#login').noValidate = true")
        await page.fill("#name", HOSTILE[:32])
        await page.press("#name", "Enter")
        await expect(page.locator("#menu-line")).to_contain_text("a player name is")
        await page.route("**/dev/token*", lambda route: route.fulfill(status=409, json={"error": HOSTILE}))
        await page.press("#name", "Enter")
        await expect(page.locator("#menu-line")).to_contain_text(HOSTILE)
        await page.unroute("**/dev/token*")
        assert await is_within_width(page)

        await enter(page, "phone")
        for given in ("names.set(perdure.client.world.meId + 0, given)", "hud.toast(given, given, 'bad')", "hud.say(given)"):
            await page.evaluate(f"(given) => perdure.game.{given}", HOSTILE)
        await expect(page.locator(".toast").first).to_contain_text(HOSTILE)
        assert await is_within_width(page)
        await page.keyboard.press("Escape")
        await expect(page.locator("#back")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.locator("#menu")).to_be_hidden()
        await page.reload()  # a player stays the same over a reload, by the resume token of the tab
        await playing(page)
        assert await page.evaluate("perdure.client.welcome.player") == "phone"
        assert await page.evaluate("window.broken === undefined"), "markup of a name was run"
        await page.click("#open-menu")
        await page.click("#leave")
        await expect(page.locator("#menu-line")).to_contain_text("You left the world")
