"""`perdure load`: Locust's players on the cluster that runs here, or on one started for it; then the table of what they felt."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console

import loadtest
from perdure.cli.children import die_with_parent
from perdure.cli.cluster_access import ClusterAddress, make_state_folder, parser, read_state, remove_state, write_state
from perdure.cli.local_cluster import ClusterFault, LocalCluster
from perdure.ledger.ledger import LedgerError
from perdure.runtime.settings import secret_of_environment

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"
FAULT = 2
RESTART_EVERY_S = 1.0
SPAWN_RATE, SPAWN_S = 50.0, 20.0
"""Players come at that rate a second, or as fast as all are there within so many seconds."""
MOST_OF_PROCESS, MOST_SPAWN_RATE = 100.0, 200.0
"""But no faster: a process of Locust's starts a hundred a second, and a gateway takes 256 sockets of an address that are logging in."""
FULL_S = 60
"""So long all are there."""
PLAYERS_A_PROCESS = 1500
"""More are near what one core carries."""


def main(arguments: list[str]) -> int:
    """Run Locust; return its exit code: 0 where every bound held, 1 where one was broken, 2 where it could not run."""
    options, rest = _parser().parse_known_args(arguments[1:])
    if importlib.util.find_spec("locust") is None:
        print("perdure load: Locust is not installed; `pip install 'perdure[loadtest]'` brings it", file=sys.stderr)
        return FAULT
    if not 1 <= options.users <= 100_000 or options.processes < 1 or options.shards < 1:
        print("perdure load: --users is 1 to 100000, --processes and --shards are at least 1", file=sys.stderr)
        return FAULT
    hint = processes_hint(options, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if hint:
        print(f"perdure load: {hint}", file=sys.stderr)
    try:
        return asyncio.run(_load(options, rest))
    except (ClusterFault, LedgerError, OSError, ValueError) as error:
        print(f"perdure load: {' '.join(str(error).split())}", file=sys.stderr)
        return FAULT


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "load",
        "Let Locust play: thousands of real players, and a table of what they felt. Options that are not listed are Locust's "
        "or the locustfile's (--scenario, --every, --decode, --bound, --csv, ...): see docs/LOADTEST.md and `locust --help`.",
    )
    made.add_argument("--users", "-u", type=int, default=200, help="players")
    made.add_argument(
        "--spawn-rate", "-r", type=float, default=0.0,
        help=f"players a second; 0: {SPAWN_RATE:g} or a twentieth of all, up to {MOST_OF_PROCESS:g} a process, {MOST_SPAWN_RATE:g}",
    )  # fmt: skip
    made.add_argument("--run-time", "-t", default="", help=f"how long, e.g. 90s, 10m; empty: until all have been there for {FULL_S} s")
    made.add_argument("--processes", type=int, default=1, help="processes that play; one core carries one")
    made.add_argument(
        "--gateway", "--host", "-H", action="append", default=[],
        help="ws://host:port/ws (or wss://, https://), once for each; empty: the cluster of `perdure up`",
    )  # fmt: skip
    made.add_argument("--shards", type=int, default=2, help="shards of the cluster that is started where none runs here")
    made.add_argument("--zones", default="4x4", help="zones of that cluster")
    made.add_argument("--game", default="games/arena", help="game of that cluster")
    made.add_argument("--html", default="", help="write Locust's report, with its plots, to this file")
    made.add_argument("--web", action="store_true", help="serve Locust's page instead (port 8089), and start there")
    return made


async def _load(options: argparse.Namespace, rest: list[str]) -> int:
    async with _cluster(options) as address:
        if not address.secret:
            print("perdure load: no secret; give the cluster's in PERDURE_SECRET, to sign players in", file=sys.stderr)
            return FAULT
        return await _locust(command(options, rest, address), address)


@contextlib.asynccontextmanager
async def _cluster(options: argparse.Namespace) -> AsyncIterator[ClusterAddress]:
    """The cluster that is meant: given by its gateways, running here, or started for this run and ended after it."""
    known = read_state()
    secret = secret_of_environment()
    if options.gateway:
        yield ClusterAddress(options.redis_url, options.world or "main", secret or (known.secret if known else ""))
    elif options.redis_url:
        raise ValueError("a ledger alone leads to no gateway: give --gateway too (PERDURE_REDIS_URL or --redis-url names a ledger)")
    elif known is not None:
        yield known
    else:
        make_state_folder()  # before a cluster is started in vain
        with Console(stderr=True).status("no cluster runs here: starting one") as status:
            cluster = LocalCluster(shards=options.shards, zones=options.zones, game=options.game, progress=status.update)
            await cluster.start()
        url = next(iter(cluster.gateway_urls.values()))
        address = ClusterAddress(cluster.redis_url, cluster.world, cluster.secret, options.game, url)
        write_state(address)  # for the verbs, by which a scenario kills shards, and for whoever wants to look
        keeper = asyncio.create_task(_keep_up(cluster))
        try:
            yield address
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            remove_state(address)
            await cluster.stop()


async def _keep_up(cluster: LocalCluster) -> None:
    """Start killed shards again, as a supervisor would; a drained one (code 0) stays away."""
    while True:
        for name, code in list(cluster.ended.items()):
            if code != 0:
                await cluster.start_shard(name)
        await asyncio.sleep(RESTART_EVERY_S)


def spawn_rate(options: argparse.Namespace) -> float:
    """Return how many players come a second: as asked, or so that all are there soon, as far as gateways let them in."""
    return options.spawn_rate or min(max(SPAWN_RATE, options.users / SPAWN_S), MOST_OF_PROCESS * options.processes, MOST_SPAWN_RATE)


def processes_hint(options: argparse.Namespace, cores: int) -> str:
    """Return what is to be said of so many players in one process, or an empty string."""
    if options.processes > 1 or options.users <= PLAYERS_A_PROCESS or cores < 2:
        return ""
    processes = min(cores, math.ceil(options.users / PLAYERS_A_PROCESS))
    return f"one process plays on one core, and {options.users} players are near what that carries, or past it: --processes {processes}"


def command(options: argparse.Namespace, rest: list[str], address: ClusterAddress) -> list[str]:
    """Return Locust's command line."""
    rate = spawn_rate(options)
    words = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--users", str(options.users), "--spawn-rate", f"{rate:g}"]
    if not options.web:
        run_time = options.run_time or f"{math.ceil(options.users / rate) + FULL_S}s"
        words += ["--headless", "--run-time", run_time, "--stop-timeout", "10", "--only-summary"]
    elif not any(word == "--shape" or word.startswith("--shape=") for word in rest):
        words.append("--class-picker")  # shapes are chosen on the page
    if options.processes > 1:
        words += ["--processes", str(options.processes)]
    if options.html:
        words += ["--html", options.html]
    for url in options.gateway or [address.gateway_url]:
        words += ["--gateway", url]
    return words + rest


async def _locust(words: list[str], address: ClusterAddress) -> int:
    environment = {**os.environ, "PERDURE_SECRET": address.secret, "PERDURE_WORLD": address.world}
    if address.redis_url:
        environment["PERDURE_REDIS_URL"] = address.redis_url
    # gevent and the locustfile import the project from where this process does.
    environment["PYTHONPATH"] = os.pathsep.join([str(LOCUSTFILE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    locust = await asyncio.create_subprocess_exec(*words, env=environment, start_new_session=True, preexec_fn=die_with_parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # Locust says what there was when it is asked to end
        asyncio.get_running_loop().add_signal_handler(number, locust.send_signal, signal.SIGTERM)
    return await locust.wait()
