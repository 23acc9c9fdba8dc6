"""A gateway that gets three quarters of the processor time that it needs: what its players notice, and how soon all is well again.

A crowd as in `endtoend`, with the gateway alone on one core and all else on the other. Busy loops share that core with it until it has
three quarters of what it took when it was calm. It must be sent fewer snapshots instead of showing an ever older world: commands must go on
being acknowledged, snapshots come in time and be young, nobody may be lost; and when the loops end, all must be as before. Links are TCP,
as between machines: it holds more than a Unix socket, so that a gateway may be further behind. Called by `overload`.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks._crowded import COMMANDS_HZ, HZ, RATE_SHARE, Crowded, cores, crowded, reach_of
from benchmarks._playing import console
from benchmarks._tick_parts import read_metrics
from benchmarks.endtoend import in_square
from perdure.client.connection import Client
from perdure.client.protocol import Received
from perdure.client.world_view import Snapshot
from perdure.wire.tokens import make_token

NEEDS = 1.3
"""Times what it gets."""
WINDOW_S = 4.0
ASK_EVERY_S = 0.1
SETTLES_S = 16.0
"""So long the ladder may take to its rung, and the gateway for what has piled up."""
BAR_P99_MS, BAR_ACKNOWLEDGED = 500.0, 0.9
"""Of the times between two snapshots; of the commands that players would send in that time."""
BAR_AGE_MS, BAR_AGE_P99_MS = 200.0, 1000.0
"""Of a snapshot when it comes. (Now and then the gateway is sent more again, to see whether it keeps up by now.)"""
BAR_RECOVERY_S = 40.0


async def starved_gateway(players: int, rounds: int, needs: float) -> dict[str, Any]:
    """Return what became of a crowd of so many, in `rounds` windows, where the gateway needs `needs` times what it gets."""
    gateways, others = cores()
    if gateways == others:
        return {"gateway_starved": "not measured: it takes two cores"}
    reach = reach_of(players, in_square(players))
    async with crowded(players, reach, settings={"listen": "tcp:127.0.0.1:0"}) as world, _probe(world, reach, others) as probe:
        _move(world, gateways, others)
        _, calm = await world.measure(WINDOW_S)
        calm_rung = await _rung(world)
        loops = [await _loop(gateways, nice) for nice in shares(needs / calm["gateway"] - 1.0)]
        try:
            with console.status("a gateway has three quarters of what it needs"):
                await asyncio.sleep(SETTLES_S)
                began_s = time.monotonic()
                probe.answers_ms.clear()
                seen, rung, behind = [], 0, False
                for _ in range(rounds):
                    seen.append(await world.measure(WINDOW_S))
                    rung = max(rung, await _rung(world))
                    behind = behind or (await read_metrics(world.health_port))["perdure_gateways_behind"] == 1
                ages_ms, answers_ms = probe.ages_ms(began_s, time.monotonic()), list(probe.answers_ms)
        finally:
            for loop in loops:
                loop.kill()
                await loop.wait()
        ended_s = time.monotonic()
        with console.status("and all of it again"):
            recovered = False
            while not recovered and time.monotonic() - ended_s < BAR_RECOVERY_S:
                after, _ = await world.measure(1.0)
                full = after.snapshots >= RATE_SHARE * HZ * after.seconds * players
                recovered = full and await _rung(world) == 0
        recovery_s = time.monotonic() - ended_s
    if not ages_ms or not answers_ms:
        raise RuntimeError("a player was shown nothing, or had nothing acknowledged, for as long as its gateway had too little")
    age_ms = float(np.percentile(ages_ms, 99))
    p99_ms = median(one.interval_ms_p99 for one, _ in seen)
    acknowledged = median(one.acknowledged / one.seconds for one, _ in seen) / players / COMMANDS_HZ
    kept = min(one.playing for one, _ in seen)
    return {
        "gateway_cores_calm": round(calm["gateway"], 3), "gateway_cores_starved": round(median(cpu["gateway"] for _, cpu in seen), 3),
        "gateway_interval_ms_p99": round(p99_ms, 1), "bar_gateway_interval_ms_p99": BAR_P99_MS,
        "gateway_snapshots_hz": round(median(one.snapshots / one.seconds for one, _ in seen) / players, 2),
        "gateway_acknowledged_share": round(acknowledged, 3), "bar_gateway_acknowledged_share": BAR_ACKNOWLEDGED,
        "gateway_age_ms_p50": round(median(ages_ms)), "gateway_age_ms_p99": round(age_ms), "bar_gateway_age_ms": BAR_AGE_MS,
        "bar_gateway_age_ms_p99": BAR_AGE_P99_MS,
        "gateway_answer_ms_p50": round(median(answers_ms)),
        "gateway_rung": rung, "gateway_told_behind": behind, "gateway_players_kept": kept,
        "gateway_recovery_s": round(recovery_s, 1), "gateway_players": players, "gateway_audit_findings": world.audit_findings,
        "gateway_as_it_should": p99_ms <= BAR_P99_MS and acknowledged >= BAR_ACKNOWLEDGED and rung >= 2 and calm_rung == 0
        and behind and age_ms <= BAR_AGE_P99_MS and median(ages_ms) <= BAR_AGE_MS and kept == players and recovered
        and world.audit_findings == 0,
    }  # fmt: skip


class Probe:
    """One more player, on another core than the gateway: how old is what it is shown, and how soon are its commands acknowledged?"""

    def __init__(self) -> None:
        self.shown: list[tuple[float, int]] = []
        """(when, the snapshot's tick)"""
        self.answers_ms: list[float] = []

    def message(self, received: Received) -> None:
        if isinstance(received, Snapshot):
            self.shown.append((time.monotonic(), received.tick))

    async def ask(self, client: Client, reach: int) -> None:
        while True:
            began_s = time.monotonic()
            await client.command("walk", heading=0, reach=reach)
            self.answers_ms.append(1000 * (time.monotonic() - began_s))
            await asyncio.sleep(ASK_EVERY_S)

    def ages_ms(self, from_s: float, until_s: float) -> list[float]:
        """Return how much older than the freshest of all each snapshot was when it came, by the zone's clock (at its full rate)."""
        freshest_s = min(at - tick / HZ for at, tick in self.shown)
        return [1000 * (at - tick / HZ - freshest_s) for at, tick in self.shown if from_s <= at < until_s]


@asynccontextmanager
async def _probe(world: Crowded, reach: int, core: int) -> AsyncIterator[Probe]:
    os.sched_setaffinity(0, {core})
    probe = Probe()
    token = partial(make_token, world.cluster.secret, "probe", 600.0)
    async with Client(list(world.cluster.gateway_urls.values()), token, on_message=probe.message) as client:
        asking = asyncio.ensure_future(probe.ask(client, reach))
        try:
            yield probe
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking


async def _rung(world: Crowded) -> int:
    """Return how far up the ladder the zone is."""
    metrics = await read_metrics(world.health_port)
    return round(max(value for name, value in metrics.items() if name.startswith("perdure_zone_rung")))


def _move(world: Crowded, gateways: int, others: int) -> None:
    """Leave one core to the gateway."""
    pids = {**world.cluster.pids, "valkey": world.cluster.server.pid or 0}
    for name, pid in pids.items():
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {gateways if name.startswith("gateway") else others})


def shares(weight: float) -> list[int]:
    """Return the nice values of loops that weigh so many times what the gateway does: 0 as much as it, each 1 more a fifth less."""
    rest = weight - int(weight)
    return [0] * int(weight) + ([round(math.log(1 / rest, 1.25))] if rest > 0.05 else [])


async def _loop(core: int, nice: int) -> Process:
    """Start a process that does nothing, as fast as it can, until it is killed, or its standard input ends with this process."""
    code = f"import os, threading, sys; os.sched_setaffinity(0, {{{core}}}); os.nice({nice})\n"
    code += "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\nwhile True: pass"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
