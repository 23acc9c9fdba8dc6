"""Chaos rows of what players do: poison, trade over borders, all come back at once, read too slowly."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks._chaos_row import row
from benchmarks._light_clients import Herd
from benchmarks._playing import percentiles
from benchmarks._stage import Setup, Stage
from perdure.client.bots import BotsReport
from perdure.client.connection import Client, ClientClosed
from perdure.client.protocol import NotReady
from perdure.wire.opcodes import Close
from perdure.wire.tokens import make_token

BAZAAR = Path(__file__).resolve().parents[1] / "tests" / "data" / "bazaar.py"
POISON = 65_535
"""The tag on which the bazaar's rules fail."""
RECONNECTING = 1000
BACK_90_S = 10.0


def no_bazaar() -> str:
    return "" if BAZAAR.is_file() else "needs the game tests/data/bazaar.py of the repository"


def _urls(stage: Stage) -> list[str]:
    return [url for _, url in sorted(stage.cluster.gateway_urls.items())]


@row("poison-command", "a command on which the rules fail: its zone goes on, its sender is put out (4015), the others see a pause",
     Setup(game=str(BAZAAR), zones="4x2"), missing=no_bazaar, repeats=1)  # fmt: skip
async def poison_command(stage: Stage) -> None:
    stage.names.append("poisoner")
    poisoner = Client(_urls(stage), lambda: make_token(stage.cluster.secret, "poisoner"), connect_timeout_s=30.0)
    try:
        await poisoner.connect()
        zone = poisoner.world.zone
        there = {p.name for p in await stage.cluster.ledger.online(zone)} - {"poisoner"}
        async with stage.blackout(there):
            while poisoner.ended is None:
                try:
                    poisoner.send_command("walk", dx=1, dy=0, tag=POISON)
                    break
                except NotReady:
                    await stage.pause()
            try:
                async with asyncio.timeout(30):
                    await poisoner.wait_until(lambda: False)
            except TimeoutError:
                stage.expect(False, "within 30 s the sender is put out", f"it plays on; closes: {poisoner.stats.closes}")
            except ClientClosed as end:
                stage.expect(end.code == Close.KICKED, "the sender is put out with 4015", end)
    finally:
        await poisoner.close()
    stage.expect("player_put_out" in stage.logs("shard"), "a shard's log says player_put_out", "it does not")


@row("border-trade-storm", "traders drop and pick up gold all over small zones while three shards die: each coin and relic is there once",
     Setup(game=str(BAZAAR), zones="4x2"), missing=no_bazaar)  # fmt: skip
async def border_trade_storm(stage: Stage) -> None:
    for _ in range(3):
        victim, players, number = await stage.victim()
        async with stage.blackout(players):
            await stage.cluster.kill(victim)
            await stage.off(victim)
        await stage.cluster.start_shard(victim)
        await stage.back(victim, number)


@row("thousand-reconnect", "1,000 clients lose their sockets at once: 90 % are back within 10 s, nobody else notices",
     Setup(bots=40, shards=2, zones="4x2", settings={"max_unauthenticated": "2000"}), repeats=1)  # fmt: skip
async def thousand_reconnect(stage: Stage) -> None:
    herd = Herd(stage.folder, _urls(stage), stage.cluster.secret, RECONNECTING, prefix="light")
    stage.names.extend(herd.names)
    try:
        stage.say(f"{RECONNECTING} clients enter")
        entered = await herd.start(90.0)
        stage.expect("away" not in entered, "all of them come in", entered)
        async with stage.blackout():
            found = await herd.ask("break", 60.0)
    finally:
        await herd.kill()
    stage.figures |= {name: found[name] for name in ("back_90_s", "back_all_s") if name in found}
    stage.expect("back_all_s" in found, "everybody is back in the end", found)
    stage.expect(found["back_90_s"] <= BACK_90_S, f"90 % are back within {BACK_90_S:g} s", found)


@row("slow-readers", "20 % of the clients read next to nothing for 12 s: the others' p99 between snapshots stays",
     Setup(bots=160), repeats=1)  # fmt: skip
async def slow_readers(stage: Stage) -> None:
    herd = Herd(stage.folder, _urls(stage), stage.cluster.secret, 40, prefix="slow", small_buffers=True)
    stage.names.extend(herd.names)
    try:
        await herd.start(60.0)
        await asyncio.sleep(5.0)  # so long all read
        before = time.monotonic()
        await herd.ask("slow", 10.0)
        async with stage.blackout():
            await asyncio.sleep(12.0)  # so long they do not
    finally:
        await herd.kill()
    after = time.monotonic()

    def unharmed(report: BotsReport) -> None:
        """Compare the gaps between all snapshots of all bots."""

        def p99_ms(start: float, end: float) -> float:
            return percentiles([gap for bot in report.bots for at, gap in bot.gaps if start <= at < end])["p99"]

        calm_ms, slow_ms = p99_ms(before - 5.0, before), p99_ms(before, after)
        stage.figures |= {"gap_p99_ms_before": calm_ms, "gap_p99_ms_during": slow_ms}
        stage.expect(slow_ms <= max(150.0, 1.5 * calm_ms), f"p99 between snapshots as before ({calm_ms:g} ms)", f"{slow_ms:g} ms")

    stage.afterwards.append(unharmed)
