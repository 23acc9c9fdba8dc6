"""The playground in a real browser, over a real cluster that runs games/tag: it knows nothing of the game but its schema."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from perdure.cli.local_cluster import LocalCluster
from tests.browser.conftest import PATIENCE_MS, Pages, is_within_width

pytestmark = [pytest.mark.asyncio, pytest.mark.browser]
TAG = str(Path(__file__).resolve().parents[2] / "games" / "tag.py")
expect.set_options(timeout=PATIENCE_MS)


@asynccontextmanager
async def playground(pages: Pages, width: int = 1440, height: int = 900) -> AsyncIterator[tuple[LocalCluster, Page]]:
    async with LocalCluster(shards=1, gateways=1, coordinators=1, zones="1x1", game=TAG) as cluster:
        url = next(iter(cluster.gateway_urls.values())).replace("ws://", "http://").removesuffix("/ws")
        async with pages.open(f"{url}/playground", width, height) as page:
            yield cluster, page


async def join(page: Page, name: str) -> None:
    await page.fill("#name", name)
    await page.click("button:text-is('Join')")
    await expect(page.locator(f"#players [aria-selected=true] >> text={name}")).to_be_visible()


def figure(page: Page, name: str) -> str:
    return f"#figures div:has(dt:text-is('{name}')) dd"


async def test_an_author_joins_sends_and_sees_and_breaks_the_network(pages: Pages) -> None:
    pages.ignored.append("WebSocket connection")  # the line is cut on purpose
    async with playground(pages) as (_, page):
        await expect(page.locator("#name")).not_to_have_value("")
        await join(page, "ada")
        await expect(page.locator("#game")).to_contain_text("The game is tag")
        await expect(page.locator("#tables tr.me")).to_have_count(1)
        # a command by the form that the schema gave
        before = await page.locator("#tables tr.me").inner_text()
        await page.locator("#commands input").first.fill("1")
        await page.locator("#commands select").first.select_option("50")
        await expect(page.locator("#tables tr.me")).not_to_have_text(before)
        await expect(page.locator(figure(page, "applied command"))).not_to_have_text("0")
        await page.locator("#commands select").first.select_option("0")
        # what a second player says the first one hears, as text
        await join(page, "ben")
        await page.fill("#chat-text", "<b onmouseover=alert(1)>hi</b>")
        await page.click("button:text-is('Say')")
        await page.click("#players >> text=ada")
        await expect(page.locator("#log")).to_contain_text("ben: <b onmouseover=alert(1)>hi</b>")
        assert await page.locator("#log b").count() == 0
        # latency is felt, and a socket that breaks is made anew by its player
        await page.locator("#line-latencyMs").fill("300")
        await expect(page.locator(figure(page, "ping, ms"))).to_have_text(re.compile(r"^([5-9]\d\d|\d{4,})\.\d$"))
        await page.locator("#line-latencyMs").fill("0")
        await page.click("text=Drop the socket")
        await expect(page.locator(figure(page, "reconnects"))).to_have_text("1")
        await page.click("button:text-is('Cut')")
        await expect(page.locator(figure(page, "line"))).to_have_text("cut")
        await expect(page.locator(figure(page, "line"))).to_have_text("up")
        await page.click("button:text-is('Leave')")
        await expect(page.locator("#status")).to_contain_text("ada has left")
        await expect(page.locator("#players [aria-selected=true]")).to_have_text("ben")


async def test_it_fits_a_phone_and_goes_by_keyboard(pages: Pages) -> None:
    async with playground(pages, width=390, height=844) as (_, page):
        await expect(page.locator("#name")).not_to_have_value("")
        await page.focus("#name")
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_visible()
        await expect(page.locator("#tables tr.me")).to_have_count(1)
        assert await is_within_width(page)
        await page.focus("#commands button")
        await page.keyboard.press("Enter")
        await expect(page.locator(figure(page, "applied command"))).to_have_text("1")


async def test_a_name_that_is_none_is_refused_with_a_reason(pages: Pages) -> None:
    pages.ignored.append("400")
    async with playground(pages) as (_, page):
        await expect(page.locator("#name")).not_to_have_value("")
        await page.fill("#name", "<script>alert(1)</script>")
        await page.click("button:text-is('Join')")
        await expect(page.locator("#status")).to_contain_text("did not get in: a player name is 1 to 32 of")
        assert await page.locator("#status script").count() == 0
