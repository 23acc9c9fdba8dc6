"""`perdure status [--json]` and `perdure players [--zone N] [--json]`."""

from __future__ import annotations

import argparse
import time
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from perdure.cli.cluster_access import ClusterAddress, parser, with_ledger
from perdure.ledger.ledger import Ledger


def main(arguments: list[str]) -> int:
    verb = arguments[0]
    made = parser(verb, "Show the cluster." if verb == "status" else "Show who is online, where, and since when.")
    made.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    if verb == "players":
        made.add_argument("--zone", type=int, default=None, help="only of this zone")
    options = made.parse_args(arguments[1:])

    async def show(ledger: Ledger, address: ClusterAddress) -> int:
        if verb == "players":
            _players(options, [_presence(p) for p in await ledger.online(options.zone)])
        else:
            _status(options, await status(ledger))
        return 0

    return with_ledger(options, show)


def _presence(presence: Any) -> dict[str, Any]:
    return {"player": presence.name, "zone": presence.place, "gateway": presence.gateway, "session": presence.session,
            "since_ms": presence.since_ms, "connected": presence.gateway != -1}  # fmt: skip


async def status(ledger: Ledger) -> dict[str, Any]:
    """Return the cluster as plain values: leader, members by kind, zones."""
    view, world, online = await ledger.view(), await ledger.world(), await ledger.online()
    members = [
        {"name": m.name, "kind": m.kind, "address": m.address, "draining": m.name in view.draining, **m.info,
         "zones": sorted(z for z, route in view.zones.items() if route.owner == m.name)}
        for m in sorted(view.members.values(), key=lambda m: m.name)
    ]  # fmt: skip
    zones = [
        {"zone": z, "owner": route.owner, "epoch": route.epoch, "generation": route.generation, "tick": view.ticks.get(z, 0),
         "successor": route.successor, "players": sum(p.place == z for p in online)}
        for z, route in sorted(view.zones.items())
    ]  # fmt: skip
    return {
        "world": world.name if world else "", "game": world.game if world else "", "leader": view.leader, "term": view.term,
        "generation": view.generation, "players": len(online), "members": members, "zones": zones,
    }  # fmt: skip


def _status(options: argparse.Namespace, found: dict[str, Any]) -> None:
    if options.json:
        print(orjson.dumps(found).decode())
        return
    console = Console()
    console.print(f"world [bold]{found['world'] or '(none yet)'}[/], game {found['game']}, leader {found['leader'] or 'nobody'} "
                  f"(term {found['term']}), {found['players']} players")  # fmt: skip
    table = Table("member", "kind", "state", "zones", "pid", "address")
    for m in found["members"]:
        state = "draining" if m["draining"] else str(m.get("state", ""))
        table.add_row(m["name"], m["kind"], state, " ".join(map(str, m["zones"])), str(m.get("pid", "")), m["address"])
    console.print(table)
    table = Table("zone", "owner", "epoch", "tick", "players", "moving to")
    for z in found["zones"]:
        table.add_row(*(str(z[k]) for k in ("zone", "owner", "epoch", "tick", "players", "successor")))
    console.print(table)


def _players(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    if options.json:
        print(orjson.dumps(found).decode())
        return
    table = Table("player", "zone", "gateway", "session", "since")
    for p in found:
        since = time.strftime("%H:%M:%S", time.localtime(p["since_ms"] / 1000))
        table.add_row(p["player"], str(p["zone"]), str(p["gateway"]) if p["connected"] else "(away)", str(p["session"]), since)
    Console().print(table)
