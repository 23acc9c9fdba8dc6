"""`make screenshots`: the pictures in docs/images, made anew on a world of real processes. MAKERS names them; an argument picks some."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, expect

from perdure.cli.children import die_with_parent
from perdure.cli.local_cluster import LocalCluster
from tests.browser.conftest import Pages, open_browser

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
BOTS = 80
WARM_S = 25.0
PLAYED_S = 4.0


def _bots(cluster: LocalCluster) -> subprocess.Popen[bytes]:
    urls = [part for url in cluster.gateway_urls.values() for part in ("--url", url)]
    return subprocess.Popen(
        [sys.executable, "-m", "perdure", "bots", str(BOTS), "--quiet", *urls], env=cluster.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent,
    )  # fmt: skip


@asynccontextmanager
async def world() -> AsyncIterator[LocalCluster]:
    """Run a world of four shards with bots."""
    async with LocalCluster(shards=4, zones="4x4", game=str(ROOT / "games" / "arena")) as cluster:
        bots = _bots(cluster)
        try:
            yield cluster
        finally:
            bots.kill()
            await asyncio.to_thread(bots.wait)


async def _keep(page: Page, name: str, width: int = 0) -> None:
    """Take the picture `name`, with a palette of its own, at most `width` wide where that is given: a tenth of the bytes."""
    path = IMAGES / f"{name}.png"
    await page.screenshot(path=path, scale="css")
    with Image.open(path) as taken:
        picture = taken.convert("RGB")
    if width and picture.width > width:
        picture = picture.resize((width, picture.height * width // picture.width), Image.Resampling.LANCZOS)
    picture.quantize(255, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


async def dashboard(browser: Browser) -> None:
    """The dashboard a moment after a shard was killed."""
    async with world() as cluster, Pages(browser).open(cluster.admin_urls["coordinator-1"], 1360, 690) as page:
        await page.wait_for_selector(".chip.live")
        await asyncio.sleep(WARM_S)  # so that the charts have something to show
        cluster.send_signal("shard-2", signal.SIGKILL)
        await page.wait_for_selector(".arrow.failover", state="attached")
        await page.wait_for_selector(".event.recovered")
        await _keep(page, "dashboard")


FLIGHT = """() => {  // about in circles, firing, where the most is to be seen
  let turn = 0;
  setInterval(() => {
    const { input } = perdure.game;
    input.pointed = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]][Math.floor(turn++ / 9) % 8];
    input.firing.mouse = true;
  }, 50);
}"""
CROWDED = "() => [...perdure.client.world.entities.values()].filter((entity) => entity.type === 'ship').length >= 5"


async def game(browser: Browser) -> None:
    """The arena a moment after the shard of the zone was killed."""
    async with world() as cluster:
        url = cluster.gateway_urls["gateway-1"].replace("ws://", "http://").removesuffix("/ws")
        async with Pages(browser).open(url, 1280, 720) as page:
            await page.fill("#name", "ann")
            await page.press("#name", "Enter")
            await page.wait_for_selector("body.playing", state="attached")
            await page.evaluate(FLIGHT)
            for _ in range(300):
                if await page.evaluate(CROWDED):
                    break
                await asyncio.sleep(0.1)
            await cluster.kill(await page.evaluate("() => perdure.client.protocol.map.owners[perdure.client.world.zone]"))
            await page.wait_for_selector(".toast")
            await page.wait_for_timeout(900)
            await _keep(page, "game", 960)


async def playground(browser: Browser) -> None:
    """The playground: a player who is sent somewhere over a line that was made worse."""
    async with world() as cluster:
        url = cluster.gateway_urls["gateway-1"].replace("ws://", "http://").removesuffix("/ws")
        async with Pages(browser).open(f"{url}/playground", 1180, 1080) as page:
            await expect(page.locator("#name")).not_to_have_value("")  # the page knows how one logs in
            await page.fill("#name", "ann")
            await page.press("#name", "Enter")
            await page.wait_for_selector("#tables tr.me")
            await page.locator("#line-latencyMs").fill("40")
            await page.locator("#line-jitterMs").fill("15")
            await page.fill("#chat-text", "hello, zone")
            await page.press("#chat-text", "Enter")
            await page.wait_for_selector("#log >> text=hello, zone")
            await page.locator("#commands input").first.fill("1")
            await page.locator("#commands select").first.select_option("50")
            await page.fill(
                "#filter", (await page.locator("#tables tr.me td").first.inner_text())
            )  # so that the log below is in the picture
            await asyncio.sleep(PLAYED_S)
            await page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
            await _keep(page, "playground")


MAKERS: dict[str, Callable[[Browser], Awaitable[None]]] = {"dashboard": dashboard, "game": game, "playground": playground}


async def main(names: list[str]) -> None:
    """Make the named pictures, or all."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    async with open_browser() as browser:
        for name in names or MAKERS:
            await MAKERS[name](browser)
            print(f"docs/images/{name}.png: {(IMAGES / name).with_suffix('.png').stat().st_size // 1024} kB")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
