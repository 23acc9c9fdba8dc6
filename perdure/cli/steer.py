"""`perdure kill | pause | drain NAME`, `perdure migrate ZONE SHARD`, `perdure kick PLAYER`: through the ledger, so for any cluster.

A member takes orders with its next heartbeat; kill and pause are obeyed by members in development mode only.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from perdure.cli.cluster_access import ClusterAddress, parser, with_ledger
from perdure.ledger.ledger import Ledger, LedgerRefused
from perdure.ledger.steering_checks import drain_fault, migration_fault
from perdure.wire.identifiers import player_key

MIGRATE_DEADLINE_S = 15.0
POLL_S = 0.05
_TEXT = {
    "kill": "End a member's process at once, by SIGKILL (development mode only).",
    "pause": "Stop a member's process for a while, by SIGSTOP (development mode only).",
    "drain": "Let a member leave with exit code 0: a shard once its zones have moved, a gateway once its sockets are closed.",
    "migrate": "Move a zone to another shard, live.",
    "kick": "Put a player out.",
}


def main(arguments: list[str]) -> int:
    verb = arguments[0]
    made = parser(verb, _TEXT[verb])
    if verb == "migrate":
        made.add_argument("zone", type=int, help="number of the zone")
        made.add_argument("shard", help="name of the shard that shall have it")
    elif verb == "kick":
        made.add_argument("player", help="name of the player")
    else:
        made.add_argument("name", help="name of the member; see `perdure status`")
    if verb == "pause":
        made.add_argument("--ms", type=int, default=5000, help="for how long")
    options = made.parse_args(arguments[1:])

    async def steer(ledger: Ledger, address: ClusterAddress) -> int:
        fault = await _steer(verb, options, ledger)
        if fault:
            print(f"perdure {verb}: {fault}", file=sys.stderr)
        return 1 if fault else 0

    return with_ledger(options, steer)


async def _steer(verb: str, options: argparse.Namespace, ledger: Ledger) -> str:
    """Do it; return what is wrong, or an empty string."""
    if verb == "kick":
        done = await ledger.leave(player_key(options.player), -1, kick=True)
        return "" if done else f"no player called {options.player} is online; see `perdure players`"
    view = await ledger.view()
    if verb == "migrate":
        return await _migrate(options, ledger)
    fault = drain_fault(view, options.name)  # no member may be killed or paused either where it is not there
    if fault is not None:
        return str(fault)
    try:
        if verb == "drain" and view.members[options.name].kind == "shard":
            await ledger.set_draining(options.name, True)
        elif verb == "drain":
            await ledger.order(options.name, "drain")
        else:
            await ledger.order(options.name, "die" if verb == "kill" else f"pause {options.ms}")
    except LedgerRefused as error:
        return str(error)
    print(f"{options.name}: {verb} ordered")
    return ""


async def _migrate(options: argparse.Namespace, ledger: Ledger) -> str:
    view = await ledger.view()
    fault = migration_fault(view, options.zone, options.shard)
    if fault is not None:
        return str(fault)
    route = view.zones[options.zone]
    await ledger.intend(view.term, options.zone, options.shard)
    print(f"zone {options.zone}: {route.owner or 'nobody'} -> {options.shard}, once that has caught up", flush=True)
    return await _moved(ledger, options.zone, options.shard)


async def _moved(ledger: Ledger, zone: int, shard: str) -> str:
    """Wait until a zone has moved; return why it has not, or an empty string."""
    why, deadline_s = "", time.monotonic() + MIGRATE_DEADLINE_S
    while time.monotonic() < deadline_s:
        view = await ledger.view()
        route, failed = view.zones[zone], view.members[shard].info.get("failed") if shard in view.members else None
        if route.owner == shard:
            return ""
        if isinstance(failed, dict) and str(zone) in failed:
            why = str(failed[str(zone)]).partition(": ")[2]
        if route.successor != shard:
            return f"zone {zone} stays with {route.owner or 'nobody'}: " + (
                f"{shard} cannot run it ({why})" if why else f"it is not to go to {shard} any more; the leading coordinator's log says why"
            )
        await asyncio.sleep(POLL_S)
    return f"zone {zone} has not moved after {MIGRATE_DEADLINE_S:g} s; does a coordinator lead? see `perdure status`"
