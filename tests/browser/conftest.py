"""A real browser: Debian's Chromium, driven by Playwright. What its console says against a page fails the test.

Run by `make browser-test`. CHROMIUM names another executable.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000
"""How long a page may take to show something: the machine may be busy, and a condition is waited for anyway."""


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start a browser, and end it."""
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield found
        finally:
            await found.close()


class Pages:
    """Opens pages, and keeps what their consoles complain of. `ignored`: parts of complaints that a test brings about on purpose."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.complaints: list[str] = []
        self.ignored: list[str] = []

    @asynccontextmanager
    async def open(self, url: str = "", width: int = 1440, height: int = 900, *, touch: bool = False) -> AsyncIterator[Page]:
        """Open a page (empty without a URL), on a phone where `touch`; it is closed at the end, before the server behind it is."""
        page = await self.browser.new_page(viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch)
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        try:
            if url:
                await page.goto(url)
            yield page
        finally:
            await page.close()

    def unexpected(self) -> list[str]:
        return [text for text in self.complaints if not any(part in text for part in self.ignored)]


@pytest_asyncio.fixture
async def pages() -> AsyncIterator[Pages]:
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(f"there is no Chromium at {CHROMIUM}: install the package chromium, or name another by CHROMIUM")
    async with open_browser() as browser:
        found = Pages(browser)
        yield found
        assert not found.unexpected(), "the console of a page complains"


async def is_within_width(page: Page) -> bool:
    """Does the page fit its width, without a scroll bar below?"""
    return await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
