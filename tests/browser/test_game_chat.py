"""Chat in the arena's page: two who talk, what is told of lines that nobody heard, hostile names and texts, a phone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Locator, Page, expect

from perdure.wire.identifiers import player_key
from tests.browser.arena_stage import HOSTILE, arena, enter, holds, look, names_of_one_zone, until
from tests.browser.conftest import Pages, is_within_width
from tests.unit.wire.naive_snapshot import packed

pytestmark = [pytest.mark.asyncio, pytest.mark.browser]
ONE, OTHER = names_of_one_zone(2)
CHAT, NAMES = 6, 7
"""Numbers of server messages."""
SENT = "() => perdure.client.stats.commands"
RECEIVE = "(bytes) => perdure.client.received(new Uint8Array(bytes))"


def lines(page: Page) -> Locator:
    return page.locator("#chat-lines li")


async def say(page: Page, text: str) -> None:
    """Press Enter, type, press Enter, as one who plays does."""
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-text")).to_be_focused()
    await page.keyboard.type(text)
    await page.keyboard.press("Enter")
    await expect(page.locator("#chat-text")).to_be_hidden()
    await expect(page.locator("#game")).to_be_focused()


async def test_two_pages_talk_in_their_zone_and_in_private_and_nothing_said_is_run(pages: Pages) -> None:
    async with arena() as (_, url), pages.open(url, 720, 540) as one, pages.open(url, 720, 540) as other:
        await enter(one, ONE)
        await enter(other, OTHER)

        await say(one, "hello there")
        for page in (one, other):
            await expect(lines(page).last).to_have_text(f"{ONE}: hello there")
        await expect(lines(one).last).to_have_class("zone own")
        await say(other, f"/w {ONE} psst")
        await expect(lines(other).last).to_have_text(f"to {ONE}: psst")
        await expect(lines(one).last).to_have_text(f"{OTHER} whispers: psst")
        await say(one, "/r heard you")
        await expect(lines(one).last).to_have_text(f"to {OTHER}: heard you")
        await expect(lines(other).last).to_have_text(f"{ONE} whispers: heard you")

        # what is typed does not steer, and does not close the page's menu or open it
        before = await one.evaluate(SENT)
        await one.keyboard.press("Enter")
        await one.keyboard.type("was sad  wasd", delay=20)
        assert await one.evaluate(SENT) == before
        await one.keyboard.press("Escape")
        await expect(one.locator("#chat-form")).to_be_hidden()
        await expect(one.locator("#menu")).to_be_hidden()
        await one.keyboard.press("Enter")
        await expect(one.locator("#chat-text")).to_have_value("")
        await one.keyboard.press("Enter")
        await one.keyboard.down("KeyD")
        await holds(one, f"(before) => ({SENT})() > before", before)  # the game has its keys again
        await one.keyboard.up("KeyD")
        await one.keyboard.press("Escape")
        await expect(one.locator("#menu")).to_be_visible()
        await one.keyboard.press("/")
        await expect(one.locator("#chat-form")).to_be_hidden()
        await one.keyboard.press("Escape")
        await expect(one.locator("#menu")).to_be_hidden()

        # what was not heard, and why
        await say(one, "/w nobody-of-this-name hello")
        await expect(lines(one).last).to_have_text("no player of that name is here")
        await one.keyboard.press("/")
        await one.keyboard.type("dance")
        await one.keyboard.press("Enter")
        await expect(lines(one).last).to_contain_text("There is no /dance: /w name text speaks to one player")
        await expect(one.locator("#chat-text")).to_have_value("/dance")  # to be mended
        await one.keyboard.press("Escape")
        await one.evaluate("() => { for (let k = 0; k < 8; k++) perdure.client.chat(`line ${k}`); }")
        await expect(one.locator("#chat-lines .server", has_text="slower: a line every")).not_to_have_count(0)

        # markup stays text, in what is typed ...
        await say(other, HOSTILE)
        for page in (one, other):
            await expect(lines(page).filter(has_text=f"{OTHER}: {HOSTILE}")).to_have_count(1)
        # ... and in a name, which no gateway lets in: the page does not rely on that
        chats = [[CHAT, HOSTILE, "", HOSTILE], [CHAT, HOSTILE, ONE, HOSTILE], [CHAT, "", ONE, HOSTILE]]
        for message in (*chats, [NAMES, [[player_key(OTHER), HOSTILE]]]):
            await one.evaluate(RECEIVE, list(packed(message)))
        await expect(lines(one).nth(-3)).to_have_text(f"{HOSTILE}: {HOSTILE}")
        await expect(lines(one).nth(-2)).to_have_text(f"{HOSTILE} whispers: {HOSTILE}")
        await expect(lines(one).nth(-1)).to_have_text(HOSTILE)
        await holds(one, "(name) => [...perdure.game.names.values()].includes(name)", HOSTILE)  # drawn over a ship
        for page in (one, other):
            assert await page.locator("#chat img, #chat script").count() == 0
            assert await page.evaluate("window.broken === undefined"), "markup of a name or a line was run"


@asynccontextmanager
async def finger(page: Page, *path: tuple[float, float]) -> AsyncIterator[None]:
    """Put a finger down at the first point and move it over the others; it lies there until the end."""
    session = await page.context.new_cdp_session(page)
    for at, (x, y) in enumerate(path):
        await session.send("Input.dispatchTouchEvent", {"type": "touchMove" if at else "touchStart", "touchPoints": [{"x": x, "y": y}]})
    yield
    await session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


async def test_a_small_phone_flies_fires_and_chats_by_touch(pages: Pages) -> None:
    async with arena() as (_, url), pages.open(url, 360, 640, touch=True) as page:
        await page.fill("#name", ONE)
        assert await is_within_width(page)
        await page.tap("#enter")
        await holds(page, "() => document.body.classList.contains('playing')")
        assert await is_within_width(page)
        parts = {name: await box_of(page, name) for name in ("#vitals", "#figures", "#world", "#fire", "#chat")}
        for name, (left, _, right, bottom) in parts.items():
            assert left >= 0 and right <= 360 and bottom <= 640, f"{name} is out of sight"
        for name, other in (("#vitals", "#figures"), ("#fire", "#world"), ("#chat", "#world"), ("#chat", "#fire")):
            assert not overlap(parts[name], parts[other]), f"{name} lies on {other}"

        before = await look(page)
        way = 1 if before["me"]["x"] < 2048 else -1
        async with finger(page, (120, 420), (120 + 20 * way, 420), (120 + 60 * way, 420)):
            await expect(page.locator("#stick")).to_be_visible()
            await until(page, "Math.abs(now.me.x - given.x) > 30", x=before["me"]["x"])
        await expect(page.locator("#stick")).to_be_hidden()
        ammo = (await look(page))["me"]["ammo"]
        left, top, right, bottom = parts["#fire"]
        async with finger(page, ((left + right) / 2, (top + bottom) / 2)):
            await until(page, "now.me.ammo < given.ammo", ammo=ammo)

        await page.tap("#open-chat")
        await expect(page.locator("#chat-text")).to_be_focused()
        left, top, right, bottom = await box_of(page, "#chat")
        assert left >= 0 and right <= 360 and bottom <= 320, "an on-screen keyboard would cover the field"
        assert await is_within_width(page)
        await page.keyboard.type("from a phone")
        await page.tap("#chat-form button")
        await expect(lines(page).last).to_have_text(f"{ONE}: from a phone")
        await page.tap("#open-chat")
        await page.tap("#chat-lines button")
        await expect(page.locator("#chat-text")).to_have_value(f"/w {ONE} ")
        await page.touchscreen.tap(100, 500)
        await expect(page.locator("#chat-form")).to_be_hidden()


async def box_of(page: Page, selector: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a part of the page."""
    box = await page.locator(selector).bounding_box()
    assert box is not None, f"{selector} is not shown"
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
