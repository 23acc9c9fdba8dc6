"""A cluster of real processes with a crowd of bots in it, for test_faults.py. See conftest.py for players who look closer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from perdure.cli.local_cluster import LocalCluster
from perdure.client.bots import Bot, BotsReport, run_bots
from perdure.client.connection import Client
from perdure.ledger.values import ClusterView
from perdure.wire.tokens import make_token

ALIVE_TICKS = 10


class Arena:
    """A cluster that runs the arena, and what tests do with it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster

    @property
    def urls(self) -> list[str]:
        return [url for _, url in sorted(self.cluster.gateway_urls.items())]

    def client(self, name: str, *urls: str) -> Client:
        return Client(list(urls) or self.urls, lambda: make_token(self.cluster.secret, name, 60.0), connect_timeout_s=30.0)

    async def until(self, what: str, condition: Callable[[ClusterView], bool], deadline_s: float = 30.0) -> ClusterView:
        """Wait until the cluster's view meets a condition."""
        deadline = time.monotonic() + deadline_s
        while True:
            view = await self.cluster.ledger.view()
            if condition(view):
                return view
            assert time.monotonic() < deadline, f"after {deadline_s:.0f} s still not: {what}"
            await asyncio.sleep(0.02)

    async def zones_run_by(self, names: set[str]) -> ClusterView:
        return await self.until(f"all zones run on {sorted(names)}", lambda v: {r.owner for r in v.zones.values()} <= names)

    async def shards_with_zones(self, count: int) -> ClusterView:
        def spread(view: ClusterView) -> bool:
            owners = {route.owner for route in view.zones.values()}
            return len(owners) == count and "" not in owners and not any(route.successor for route in view.zones.values())

        return await self.until(f"{count} shards share the zones", spread, 60.0)


class Crowd:
    """Bots that play while a test breaks something; `check` says that they noticed nothing but a pause."""

    def __init__(self, arena: Arena, count: int, prefix: str) -> None:
        self.arena = arena
        self.stop, self.entered = asyncio.Event(), asyncio.Event()
        self.bots: list[Bot] = []
        bots = self.bots

        class Seen(Bot):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                bots.append(self)

        self.task = asyncio.ensure_future(
            run_bots(arena.urls, arena.cluster.secret, count, prefix, stop=self.stop, all_entered=self.entered, make=Seen)
        )

    async def all_in(self) -> Crowd:
        async with asyncio.timeout(30):
            await self.entered.wait()
        return self

    async def check(self, longest_gap_s: float) -> BotsReport:
        """Once every zone has ticked on for a while and takes every bot's commands, stop the bots, and look at what they saw.

        Whose zone died twice has to wait for the second: the gateway holds a suspect's commands back for two of its sweeps.
        """
        before = (await self.arena.cluster.ledger.view()).ticks
        await self.arena.until("every zone ticks on", lambda v: all(v.ticks[z] >= t + ALIVE_TICKS for z, t in before.items()))
        acknowledged = [len(bot.report.acknowledged) for bot in self.bots]
        deadline = time.monotonic() + 30.0
        while idle := [b.report.name for b, n in zip(self.bots, acknowledged, strict=True) if len(b.report.acknowledged) <= n]:
            assert time.monotonic() < deadline and not self.task.done(), f"commands of {idle} are not acknowledged any more"
            await asyncio.sleep(0.02)
        self.stop.set()
        async with asyncio.timeout(30):
            report = await self.task
        assert all(bot.entered for bot in report.bots), [bot.error for bot in report.bots]
        assert report.socket_drops == 0
        assert report.acknowledged_lost == 0
        assert all(bot.backward_ticks == 0 for bot in report.bots)
        assert report.longest_gap_s < longest_gap_s
        for bot in report.bots:
            assert bot.acknowledged == list(range(1, len(bot.acknowledged) + 1)), f"{bot.name}: a number is missing or came twice"
        return report
