"""Seam: how a border between shards looks from both of its sides, on a local cluster of real processes.

Part "age": pairs of players stand side by side, some with the border of two shards between them, some within one zone. Of each state of a
player that the other is shown, its age is how much earlier the player itself was shown it. Across the border it may be up to two
ticks older than within a zone (p99), and nobody may be missing from a neighbour's view. Without such states the bench fails.

Part "effects": players on both sides shoot at each other and race for coins over the border while shards are killed. Each coin is taken
once, and the damage that was sent is what was dealt, came back, or is on its way.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._playing import audit_findings, console, percentiles
from benchmarks._seam_effects import effects
from perdure.cli.local_cluster import LocalCluster
from perdure.client.connection import Client
from perdure.client.protocol import Received
from perdure.client.world_view import Snapshot
from perdure.wire.tokens import make_token

FIELD = str(Path(__file__).parent / "_seam_field.py")
TICK_MS = 50.0
BAR_TICKS = 2
SETTLE_S = 2.0
DEADLINE_S = 60.0
BORDER_X, WITHIN_X, APART = 512.0, 256.0, 12.0


@dataclass
class Watcher:
    """One player of a pair: when it was first shown each of its own states, and what it is shown of the other."""

    name: str
    x: float
    y: float
    client: Client
    own_at: dict[int, float] = field(default_factory=dict)
    shown: list[tuple[float, int]] = field(default_factory=list)
    """(when, the other's steps) of each snapshot"""
    other: Watcher | None = None
    watching: bool = False
    missing: int = 0
    """Snapshots that did not show the other."""

    def received(self, message: Received) -> None:
        if not isinstance(message, Snapshot):
            return
        now, world = time.monotonic(), self.client.world
        if world.me is not None:
            self.own_at.setdefault(int(world.me.steps), now)
        if not self.watching or self.other is None:
            return
        seen = world.entities.get(self.other.client.world.me_id)
        if seen is None:
            self.missing += 1
        else:
            self.shown.append((now, int(seen.steps)))

    def ages_s(self) -> list[float]:
        """Return for each state of the other that was shown how much earlier the other was shown it."""
        assert self.other is not None
        return [at - self.other.own_at[steps] for at, steps in self.shown if steps in self.other.own_at]


def run(
    pairs: int = 8, seconds: float = 20.0, shards: int = 2, duels: int = 16, shots: int = 10_000, kill_every_s: float = 5.0, seed: int = 1
) -> dict[str, Any]:
    """Watch `pairs` pairs across the border, and as many within a zone, for `seconds`; then let `duels` pairs fight over the border.

    They fight until `shots` are sent. pairs or duels 0: that part is left out.
    """
    return asyncio.run(_run(pairs, seconds, shards, (duels, shots, kill_every_s, seed)))


async def _run(pairs: int, seconds: float, shards: int, fight: tuple[int, int, float, int]) -> dict[str, Any]:
    age = await _watched(pairs, seconds, shards) if pairs else {"passed": True, "audit_findings": 0}
    fought = await effects(*fight) if fight[0] else {"effects_passed": True, "audit_findings": 0}
    findings = age["audit_findings"] + fought["audit_findings"]
    passed = age["passed"] and fought["effects_passed"] and findings == 0
    return {**age, **fought, "audit_findings": findings, "passed": passed}


async def _watched(pairs: int, seconds: float, shards: int) -> dict[str, Any]:
    cluster = LocalCluster(shards=shards, zones="2x1", game=FIELD, settings={"rebalance": "0"})
    try:
        with console.status("a cluster"):
            await cluster.start()
        found = await _age(cluster, pairs, seconds)
        return {**found, "audit_findings": await audit_findings(cluster, FIELD)}
    except BaseException:
        cluster.keep_folder()  # its logs tell what happened
        raise
    finally:
        await cluster.stop()


# --- age ------------------------------------------------------------------------------------------------------------


async def _age(cluster: LocalCluster, pairs: int, seconds: float) -> dict[str, Any]:
    across = _pairs(cluster, "across", pairs, BORDER_X)
    within = _pairs(cluster, "within", pairs, WITHIN_X)
    everybody = [*across, *within]
    try:
        with console.status(f"{len(everybody)} players come"):
            for watcher in everybody:
                await watcher.client.connect()
            for watcher in everybody:
                await watcher.client.command("stand", x=watcher.x, y=watcher.y)
            await asyncio.gather(*(_in_place(watcher) for watcher in everybody))
            await asyncio.sleep(SETTLE_S)
        owners = await _owners(cluster, across)
        with console.status(f"they watch each other for {seconds:.0f} s"):
            for watcher in everybody:
                watcher.watching = True
            await asyncio.sleep(seconds)
            for watcher in everybody:
                watcher.watching = False
    finally:
        await asyncio.gather(*(watcher.client.close() for watcher in everybody))
    over = percentiles([age for watcher in across for age in watcher.ages_s()], "states of a player across the border")
    inside = percentiles([age for watcher in within for age in watcher.ages_s()], "states of a player within the zone")
    missing = sum(watcher.missing for watcher in everybody)
    older_ms = round(over["p99"] - inside["p99"], 1)
    return {
        **{f"age_across_ms_{k}": v for k, v in over.items()}, **{f"age_within_ms_{k}": v for k, v in inside.items()},
        "older_across_ms_p99": older_ms, "bar_ms": BAR_TICKS * TICK_MS, "states_across": sum(len(w.shown) for w in across),
        "states_within": sum(len(w.shown) for w in within), "views_without_the_other": missing, "shards_of_the_pairs": len(owners),
        "pairs": pairs, "passed": older_ms <= BAR_TICKS * TICK_MS and missing == 0 and len(owners) == 2,
    }  # fmt: skip


def _pairs(cluster: LocalCluster, kind: str, pairs: int, x: float) -> list[Watcher]:
    """Make the players: two by two around `x`, the pairs one below the other, out of each other's way."""
    watchers: list[Watcher] = []
    for k in range(pairs):
        y = 40.0 + k * (940.0 / max(pairs, 1))
        two = [_watcher(cluster, f"{kind}{k}{side}", x + offset, y) for side, offset in (("a", -APART), ("b", APART))]
        two[0].other, two[1].other = two[1], two[0]
        watchers += two
    return watchers


def _watcher(cluster: LocalCluster, name: str, x: float, y: float) -> Watcher:
    made: list[Watcher] = []
    urls, secret = list(cluster.gateway_urls.values()), cluster.secret
    client = Client(urls, lambda: make_token(secret, name, 600.0), connect_timeout_s=DEADLINE_S, on_message=lambda m: made[0].received(m))
    made.append(Watcher(name, x, y, client))
    return made[0]


async def _in_place(watcher: Watcher) -> None:
    """Return when a player stands where it should, and is shown who stands beside it."""
    other = watcher.other
    assert other is not None

    def there() -> bool:
        me = watcher.client.world.me
        return me is not None and abs(me.x - watcher.x) < 1.0 and other.client.world.me_id in watcher.client.world.entities

    async with asyncio.timeout(DEADLINE_S):
        await watcher.client.wait_until(there)


async def _owners(cluster: LocalCluster, watchers: list[Watcher]) -> set[str]:
    view = await cluster.ledger.view()
    return {view.zones[watcher.client.world.zone].owner for watcher in watchers}
