"""Crossing: players go to and fro over borders between shards. The gap is the time between the last snapshot of the old zone
and the first of the new one, at the client. Without crossings nothing is measured, and the bench fails."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from benchmarks._playing import COMMANDS_HZ, Playing, console, histogram, nothing_lost, percentiles, playing
from benchmarks._watched_swarm import Crossing
from perdure.client.bots import Bot, BotsReport
from perdure.client.connection import ClientClosed
from perdure.client.protocol import NotReady, Received
from perdure.client.world_view import Snapshot

BAR_P99_MS = 100
TURN_AFTER = 40.0
"""How far beyond a border a patrol goes before it turns, in world units."""


class Patrol(Bot):
    """A bot that goes to and fro over the nearest vertical border, and notes every change of zone."""

    def __init__(self, url: list[str], secret: str, name: str, seed: int) -> None:
        super().__init__(url, secret, name, commands_hz=COMMANDS_HZ, hold_s=1.0, seed=seed)
        self.crossings: list[Crossing] = []
        self._last: tuple[int, float] | None = None
        self._heading = 1

    def _message(self, received: Received) -> None:
        super()._message(received)
        if isinstance(received, Snapshot):
            now = asyncio.get_running_loop().time()
            if self._last is not None and self._last[0] != received.zone:
                self.crossings.append(Crossing(self._last[0], received.zone, now - self._last[1]))
            self._last = received.zone, now

    async def patrol(self, stop: asyncio.Event, zone_width: float, zones: int) -> None:
        """Play until `stop` is set."""
        client = self.client
        while not stop.is_set():
            if client.ended is not None:
                raise client.ended
            me = client.world.me
            if me is not None:
                border = zone_width * min(max(round(me.x / zone_width), 1), zones - 1)
                if me.x > border + TURN_AFTER:
                    self._heading = -1
                elif me.x < border - TURN_AFTER:
                    self._heading = 1
            try:
                self._sent.append(client.send_command("steer", mx=self._heading, my=0, fire=False))
                self.report.sent += 1
            except NotReady:
                self._heading *= 1  # the zone is paused or has just moved: the next command will do
            await asyncio.sleep(1.0 / COMMANDS_HZ)

    async def play(self, stop: asyncio.Event) -> Any:
        self._wander = lambda s: self.patrol(s, 1024.0, 4)  # type: ignore[method-assign]
        return await super().play(stop)


def run(crossings: int = 5000, players: int = 1000, bots: int = 50, shards: int = 4, seed: int = 1) -> dict[str, Any]:
    """Play until there were `crossings` between shards; `bots` of the players patrol, and decode all they see. The bars hold or not."""
    return asyncio.run(_run(crossings, players, bots, shards, seed))


async def _run(crossings: int, players: int, bots: int, shards: int, seed: int) -> dict[str, Any]:
    patrols: list[Patrol] = []
    swarms: list[Crossing] = []
    owner_of: dict[int, str] = {}

    async def drive(run: Playing, stop: asyncio.Event) -> BotsReport:
        urls = list(run.cluster.gateway_urls.values())
        start = random.Random(seed).randrange(1 << 30)
        patrols.extend(Patrol(urls, run.cluster.secret, f"patrol{k}", start + k) for k in range(min(bots, players)))
        return BotsReport(list(await asyncio.gather(*(patrol.play(stop) for patrol in patrols))))

    def every() -> list[Crossing]:
        return [*swarms, *(one for patrol in patrols for one in patrol.crossings)]

    def between_shards() -> list[float]:
        return [one.gap_s for one in every() if owner_of.get(one.old) != owner_of.get(one.new)]

    async with playing(players, bots=bots, shards=shards, settings={"rebalance": "0"}, drive=drive) as game:
        view = await game.cluster.ledger.view()
        owner_of.update({zone: route.owner for zone, route in view.zones.items()})
        with console.status("") as status:
            while (done := len(between_shards())) < crossings:
                status.update(f"{done} of {crossings} crossings between shards")
                if game.bots is not None and game.bots.done():
                    raise ClientClosed(None, "the bots ended before their time")
                if game.swarm is not None:
                    swarms.extend(await game.swarm.crossings())
                await asyncio.sleep(0.2)
    gap = percentiles(between_shards(), "crossings between shards")
    gaps = {f"gap_ms_{k}": v for k, v in gap.items()}
    figures = {"crossings": len(between_shards()), "crossings_in_all": len(every()), **gaps, **game.verdict(),
               "gap_ms_histogram": histogram(between_shards())}  # fmt: skip
    return {**figures, "bar_p99_ms": BAR_P99_MS, "passed": gap["p99"] <= BAR_P99_MS and nothing_lost(figures)}
