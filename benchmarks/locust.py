"""Locust: how many players of the load test one core carries, and what one costs, against the kernel's floor for the same messages.

Each player decodes all that it is sent, 20 snapshots a second with some 30 others in sight, steers ten times a second and is measured
(loadtest/). Locust is pinned to one core, all servers to another; its processor time is read from /proc, kernel included, and what was
sent meanwhile from the gateway's counters. The floor is a loop of bare receives and sends (benchmarks/_receive_floor.py).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._crowded import COMMANDS_HZ, cores, cpu_ns
from benchmarks._playing import audit_findings, console
from benchmarks._tick_parts import free_port
from benchmarks.endtoend import COMMAND_BYTES, HZ
from perdure.cli.children import die_with_parent
from perdure.cli.load import LOCUSTFILE
from perdure.cli.local_cluster import Launch, LocalCluster

BAR_PLAYERS = 2000
FIELD = str(Path(__file__).with_name("_field.py"))
FIELD_SIDE, FIELD_INTEREST = 1024.0, 160.0
ENTER_DEADLINE_S = 90.0
END_DEADLINE_S = 40.0
SETTLE_S = 2.0


def run(players: int = 400, rounds: int = 5, seconds: float = 4.0, decode: float = 1.0) -> dict[str, Any]:
    """Measure `rounds` times `seconds` each; medians. `decode`: the load test's share of players who decode all that they see."""
    return asyncio.run(_run(players, rounds, seconds, decode))


async def _run(players: int, rounds: int, seconds: float, decode: float) -> dict[str, Any]:
    mine, (server_core, players_core), port = os.sched_getaffinity(0), cores(), free_port()
    cluster = LocalCluster(shards=1, coordinators=1, zones="1x1", game=FIELD,
                           launches={"gateway-1": Launch(settings={"health_port": str(port)})})  # fmt: skip
    os.sched_setaffinity(0, {server_core})  # who is started now inherits it
    try:
        with console.status("a cluster"):
            await cluster.start()
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
            locust = _locust(cluster, players, decode, players_core, said, complaints)
            try:
                with console.status(f"{players} players come"):
                    await _entered(cluster, players, locust)
                await asyncio.sleep(SETTLE_S)
                found = []
                for number in range(rounds):
                    with console.status(f"round {number + 1} of {rounds}"):
                        found.append(await _round(locust.pid, port, seconds))
                locust.send_signal(signal.SIGTERM)
                await asyncio.to_thread(locust.wait, END_DEADLINE_S)
            finally:
                if locust.poll() is None:
                    locust.kill()
                    locust.wait()
            said.seek(0)
            failures = _failures(said.read().decode())
        findings = await audit_findings(cluster, FIELD)
    finally:
        os.sched_setaffinity(0, mine)
        await cluster.stop()
    cost_us, sizes, rates = (
        median(column) for column in zip(*((us / players, size, rate / players) for us, size, rate in found), strict=True)
    )
    with console.status("the floor"):
        floor_us = median(_floor(players, round(sizes), rounds, seconds)) / 1e3
    carried = int(1e6 / cost_us)
    return {
        "players_a_core": carried, "bar_players": BAR_PLAYERS, "us_a_player_second": round(cost_us, 1), "floor_us": round(floor_us, 1),
        "ratio": round(cost_us / floor_us, 2), "locust_cores": round(cost_us * players / 1e6, 3), "players": players, "decode": decode,
        "snapshots_a_second_each": round(rates, 2), "snapshot_bytes": round(sizes, 1), "commands_a_second_each": COMMANDS_HZ,
        "in_sight": round(players * math.pi * FIELD_INTEREST**2 / FIELD_SIDE**2, 1), "failures": failures, "rounds": rounds,
        "audit_findings": findings, "passed": carried >= BAR_PLAYERS and not failures and findings == 0,
    }  # fmt: skip


def _locust(cluster: LocalCluster, players: int, decode: float, core: int, said: Any, complaints: Any) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        die_with_parent()
        os.sched_setaffinity(0, {core})

    words = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--json", "--users", str(players),
        "--spawn-rate", "50", "--stop-timeout", "10", "--decode", str(decode), "--commands-hz", str(COMMANDS_HZ),
    ]  # fmt: skip
    for url in cluster.gateway_urls.values():
        words += ["--gateway", url]
    return subprocess.Popen(
        words, env={**cluster.environment(), "PYTHONPATH": str(LOCUSTFILE.parents[1])}, stdout=said, stderr=complaints,
        start_new_session=True, preexec_fn=prepare,
    )  # fmt: skip


async def _entered(cluster: LocalCluster, players: int, locust: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + ENTER_DEADLINE_S
    while (there := len(await cluster.ledger.online())) < players:
        if time.monotonic() > deadline_s or locust.poll() is not None:
            raise RuntimeError(f"{there} of {players} players came" + (", and Locust has ended" if locust.poll() is not None else ""))
        await asyncio.sleep(0.1)


async def _round(pid: int, port: int, seconds: float) -> tuple[float, float, float]:
    """Return the microseconds of processor time a second, the bytes of a snapshot, and the snapshots a second."""
    before, spent, began_s = await asyncio.to_thread(_sent, port), cpu_ns(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    after, spent, took_s = await asyncio.to_thread(_sent, port), cpu_ns(pid) - spent, time.perf_counter() - began_s
    snapshots, size = after[0] - before[0], after[1] - before[1]
    if not snapshots:
        raise RuntimeError("no snapshot was sent")
    return spent / 1e3 / took_s, size / snapshots, snapshots / took_s


def _sent(port: int) -> tuple[float, float]:
    """Return the snapshots and the bytes that the gateway has sent so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return float(lines["perdure_gateway_frames_out_total"]), float(lines["perdure_gateway_frames_out_bytes_total"])


def _failures(said: str) -> dict[str, int]:
    rows = json.JSONDecoder().raw_decode(said, said.index("[\n"))[0]
    return {row["name"]: row["num_failures"] for row in rows if row["num_failures"]}


def _floor(sockets: int, size: int, rounds: int, seconds: float) -> list[float]:
    server_core, peer_core = cores()
    order = {"sockets": sockets, "bytes": size, "hz": HZ, "command_bytes": COMMAND_BYTES, "command_hz": COMMANDS_HZ, "seconds": seconds,
             "rounds": rounds, "server_core": server_core, "peer_core": peer_core}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._receive_floor"], input=json.dumps(order) + "\n", capture_output=True, text=True, check=False,
        timeout=60.0 + seconds * (rounds + 1), preexec_fn=die_with_parent,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the floor could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return list(json.loads(done.stdout))
