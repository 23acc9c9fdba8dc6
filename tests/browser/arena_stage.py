"""The arena's page on a cluster of real processes, as tests play it: a cluster, who enters it, and what a page knows of the world."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from perdure.cli.local_cluster import LocalCluster
from perdure.wire.identifiers import player_key
from tests.browser.conftest import PATIENCE_MS

ARENA = str(Path(__file__).resolve().parents[2] / "games" / "arena")
HOSTILE = "<img src=x onerror=window.broken=1>\"'<script>window.broken=1</script>"
COLUMNS, ROWS = 4, 2
expect.set_options(timeout=PATIENCE_MS)

LOOK = """() => {
  const { client, game } = perdure, { world, map } = { world: client.world, map: client.protocol.map };
  return { me: world.me?.fields, id: world.meId, zone: world.zone, owner: map?.owners[world.zone], owners: map?.owners,
    ids: [...world.entities.keys()], connects: client.stats.connects, snapshots: client.stats.snapshots };
}"""


def names_of_one_zone(count: int) -> list[str]:
    """Names of players who begin in the same zone."""
    found = (name for k in itertools.count() if player_key(name := f"ann{k}") % (COLUMNS * ROWS) == 1)
    return list(itertools.islice(found, count))


@asynccontextmanager
async def arena() -> AsyncIterator[tuple[LocalCluster, str]]:
    async with LocalCluster(shards=2, coordinators=1, zones=f"{COLUMNS}x{ROWS}", game=ARENA) as cluster:
        yield cluster, cluster.gateway_urls["gateway-1"].replace("ws://", "http://").removesuffix("/ws")


async def holds(page: Page, function: str, given: object = None) -> None:
    """Wait until a function of the page says so. (Playwright's own waiting evaluates strings, which the page's policy refuses.)"""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not await page.evaluate(function, given):
            await asyncio.sleep(0.05)


async def playing(page: Page) -> None:
    await holds(page, "() => document.body.classList.contains('playing')")


async def enter(page: Page, name: str) -> None:
    await page.fill("#name", name)
    await page.press("#name", "Enter")
    await playing(page)


async def look(page: Page) -> dict[str, Any]:
    return await page.evaluate(LOOK)


async def until(page: Page, condition: str, **given: Any) -> None:
    """Wait for a condition over `look`'s answer, called `now`, and what is `given`."""
    await holds(page, f"(given) => {{ const now = ({LOOK})(); return {condition}; }}", given)
