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
GATEWAYS = ("gateway-1", "gateway-2")
SLOW = 50
"""A fifth of all, beside 200 bots."""
SMALL_BUFFERS = {"send_buffer_bytes": "4096", "slow_reader_bytes": "8192", "slow_reader_resume_bytes": "2048"}
"""With the defaults the kernel alone keeps what one client is sent in half a minute: nobody would be slow in the time of a row."""
SETTLES_S, CALM_S, SLOW_S = 3.0, 15.0, 30.0
"""Whoever reads nothing is over the limit after some seconds, and put out ten seconds later."""
LOST_EACH = 20


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


@row("thousand-reconnect", "1,000 clients lose their sockets at once: 90 % are back within 10 s, no other socket breaks",
     Setup(shards=2, zones="4x2", settings={"max_unauthenticated": "2000"}), repeats=1)  # fmt: skip
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


@row("slow-readers", "20 % of the clients read nothing, or in gulps: they lose snapshots, those are put out and come back; "
     "the others' p99 between snapshots stays", Setup(measured=GATEWAYS, settings=SMALL_BUFFERS), repeats=1)  # fmt: skip
async def slow_readers(stage: Stage) -> None:
    herd = Herd(stage.folder, _urls(stage), stage.cluster.secret, SLOW, prefix="slow", small_buffers=True)
    stage.names.extend(herd.names)
    try:
        await herd.start(60.0)
        await asyncio.sleep(SETTLES_S)
        calm_from = time.monotonic()
        await asyncio.sleep(CALM_S)  # so long all read
        before, slow_from = await _counted(stage), time.monotonic()
        slow = await herd.ask("slow", 10.0)
        async with stage.blackout():
            await asyncio.sleep(SLOW_S)  # so long they do not
        during, slow_to = await _counted(stage), time.monotonic()
        back = await herd.ask("quick", 60.0)
    finally:
        await herd.kill()
    count = {name: int(during[name] - before[name]) for name in during}
    stage.figures |= {f"slow_{name}": value for name, value in count.items()}
    stage.expect(count["frames_slow"] >= SLOW * LOST_EACH, f"the slow readers lose {LOST_EACH} snapshots each, all in all", count)
    stage.expect(count["keyframes_asked"] >= slow["in_turns"], "who reads again is brought up to date by a full snapshot", count)
    stage.expect(count["put_out"] == slow["silent"], f"the {slow['silent']} who read nothing are put out, nobody else", count)
    stage.expect("away" not in back, "all of them play again once they read", back)

    def unharmed(report: BotsReport) -> None:
        """Compare the gaps between all snapshots of all bots."""

        def p99_ms(start: float, end: float) -> float:
            return percentiles([gap for bot in report.bots for at, gap in bot.gaps if start <= at < end], "gaps between snapshots")["p99"]

        calm_ms, slow_ms = p99_ms(calm_from, slow_from), p99_ms(slow_from, slow_to)
        stage.figures |= {"gap_p99_ms_before": calm_ms, "gap_p99_ms_during": slow_ms}
        most_ms = max(1.25 * calm_ms, calm_ms + 25.0)
        stage.expect(slow_ms <= most_ms, f"p99 between snapshots as before ({calm_ms:g} ms; {most_ms:g} at most)", f"{slow_ms:g} ms")

    stage.afterwards.append(unharmed)


async def _counted(stage: Stage) -> dict[str, float]:
    """Return what both gateways together have counted of slow readers."""
    found = [await stage.metrics(name) for name in GATEWAYS]
    samples = {name: f"perdure_gateway_{name}_total" for name in ("frames_slow", "keyframes_asked")}
    samples["put_out"] = f'perdure_gateway_closes_total{{code="{int(Close.SLOW_READER)}"}}'
    return {name: sum(of.get(sample, 0.0) for of in found) for name, sample in samples.items()}
