"""`perdure up`: a playable world on this machine, on an embedded Valkey, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from perdure.cli.children import die_with_parent
from perdure.cli.cluster_access import ClusterAddress, make_state_folder, remove_state, write_state
from perdure.cli.launcher import LAUNCHER_SOCKET, Launcher
from perdure.cli.local_cluster import ClusterFault, LocalCluster
from perdure.ledger.ledger import LedgerError


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(
        prog="perdure up", description="Run a whole world on this machine: embedded Valkey, two coordinators, gateways, shards, bots.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    made.add_argument("--shards", type=int, default=4, help="shard processes")
    made.add_argument("--gateways", type=int, default=1, help="gateway processes")
    made.add_argument("--zones", default="4x4", help="columns x rows of the world")
    made.add_argument("--game", default="games/arena", help="the game: a .py file or a folder")
    made.add_argument("--bots", type=int, default=40, help="wandering bots")
    made.add_argument("--port", type=int, default=8080, help="port of the first gateway; a free one is taken where it is busy")
    made.add_argument("--seed", type=int, default=1, help="seed of the world's random numbers")
    made.add_argument("--data", default="", help="folder that keeps the world between runs; empty: a new world, gone afterwards")
    made.add_argument("--restart", action=argparse.BooleanOptionalAction, default=True, help="start shards anew that were killed")
    options = made.parse_args(arguments[1:])
    fault = _fault(options)
    if fault:
        print(f"perdure up: {fault}", file=sys.stderr)
        return 2
    try:
        make_state_folder()  # before minutes of starting
        return asyncio.run(_Up(options).run())
    except (ClusterFault, LedgerError, OSError) as error:
        print(f"perdure up: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _fault(options: argparse.Namespace) -> str:
    columns, _, rows = options.zones.partition("x")
    if not (columns.isdigit() and rows.isdigit() and 1 <= int(columns) * int(rows) <= 4096):
        return f"--zones {options.zones}: columns x rows, such as 4x4"
    if not (1 <= options.shards <= 64 and 1 <= options.gateways <= 16 and 0 <= options.bots <= 10_000):
        return "1 to 64 shards, 1 to 16 gateways and up to 10000 bots are possible"
    if not 0 <= options.port <= 65_536 - options.gateways:
        return f"--port {options.port}: 0 for any free one, or up to {65_536 - options.gateways}; each further gateway takes the next one"
    return ""


def _free_port(wanted: int, count: int) -> int:
    """Return `wanted` where it and the ports behind it are free, else 0 (any)."""
    for port in range(wanted, wanted + count):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return 0
    return wanted


class _Up:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.console = Console()
        self.stop = asyncio.Event()
        self._again: dict[str, float] = {}

    async def run(self) -> int:
        options, loop = self.options, asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop.set)
        port = _free_port(options.port, options.gateways)
        if port != options.port:
            self.console.print(f"port {options.port} is busy; taking free ones")
        with self.console.status("starting") as status:
            cluster = LocalCluster(
                shards=options.shards, gateways=options.gateways, zones=options.zones, game=options.game, port=port, seed=options.seed,
                folder=Path(options.data).absolute() if options.data else None, progress=status.update, standby_later=True,
            )  # fmt: skip
            assert cluster.folder is not None
            launcher = Launcher(cluster, cluster.folder / LAUNCHER_SOCKET)
            cluster.settings["launcher"] = str(cluster.folder / LAUNCHER_SOCKET)
            starting = asyncio.ensure_future(cluster.start())
            stopping = asyncio.ensure_future(self.stop.wait())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return 130
            stopping.cancel()
            await starting
        url = next(iter(sorted(cluster.gateway_urls.items())))[1]
        address = ClusterAddress(cluster.redis_url, cluster.world, cluster.secret, options.game, url)
        write_state(address)
        bots = None
        try:
            await launcher.start()
            if options.bots:
                bots = self._bots(cluster)
            self._greet(cluster)
            await self._watch(cluster)
        finally:
            with self.console.status("stopping"):
                remove_state(address)
                await launcher.stop()
                if bots is not None:
                    bots.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        await asyncio.to_thread(bots.wait, 5)
                    bots.kill()
                await cluster.stop()
        self.console.print("stopped; no process is left")
        return 0

    def _bots(self, cluster: LocalCluster) -> subprocess.Popen[bytes]:
        urls = [part for url in cluster.gateway_urls.values() for part in ("--url", url)]
        with open(cluster.log_of("bots"), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "perdure", "bots", str(self.options.bots), *urls], env=cluster.environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    def _greet(self, cluster: LocalCluster) -> None:
        say = self.console.print
        pages = [url.replace("ws://", "http://").removesuffix("/ws") for url in cluster.gateway_urls.values()]
        say(f"\n[bold green]The world runs[/]: {self.options.shards} shards, zones {self.options.zones}, {self.options.bots} bots.\n")
        for page, url in zip(pages, cluster.gateway_urls.values(), strict=True):
            say(f"  [bold]play at       [cyan]{page}/[/][/]   (players: {url})", soft_wrap=True)
        for page in list(cluster.admin_urls.values())[:1]:
            say(f"  dashboard     [bold]{page}[/]   (steer with the admin token {cluster.admin_token})", soft_wrap=True)
        say(f"  logs          {cluster.folder}")
        say("\n  [bold]perdure status[/]            who runs what")
        say("  [bold]perdure kill shard-2[/]      and watch the players go on")
        say("  [bold]perdure drain shard-3[/]     move its zones away, live")
        say("  [bold]perdure migrate 5 shard-1[/] move one zone, live")
        say("  [bold]perdure replay all[/]        run the log again, compare every state hash")
        say("  [bold]perdure bots 100 --prefix more[/]   more players\n")
        say("Ctrl-C ends everything.\n")

    async def _watch(self, cluster: LocalCluster) -> None:
        """Show one line of life, and start killed shards anew, until told to stop."""
        live = self.console.is_terminal
        with self.console.status("") if live else contextlib.nullcontext() as status:
            while not self.stop.is_set():
                try:
                    view = await cluster.ledger.view()
                    online = len(await cluster.ledger.online())
                except LedgerError as error:
                    line = f"the ledger does not answer: {error}"
                else:
                    shards = [m for m in view.members.values() if m.kind == "shard" and m.info.get("state") == "ready"]
                    owned = sum(bool(route.owner) for route in view.zones.values())
                    line = f"{time.strftime('%H:%M:%S')}  {online} players, {len(shards)} shards ready, "
                    line += f"{owned} of {len(view.zones)} zones owned, term {view.term}"
                if status is not None:
                    status.update(line)
                if self.options.restart:
                    await self._restart(cluster)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), 0.5)

    async def _restart(self, cluster: LocalCluster) -> None:
        """Start killed shards again; one that ends again and again waits longer and longer. A drained one (code 0) stays away."""
        for name, code in list(cluster.ended.items()):
            if code == 0 or time.monotonic() < self._again.get(name, 0.0):
                continue
            self._again[name] = time.monotonic() + 3.0
            self.console.print(f"{name} ended with code {code}; starting it again")
            await cluster.start_shard(name)


if os.name != "posix":
    raise RuntimeError("perdure up needs a POSIX system; use docker compose instead")
