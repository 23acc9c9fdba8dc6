"""`perdure log ZONE` (records, readable), `perdure replay ZONE|all` (every state hash compared), `perdure audit` (everything)."""

from __future__ import annotations

import argparse
import sys

import orjson
from rich.console import Console

from perdure.cli.cluster_access import ClusterAddress, parser, with_ledger
from perdure.ledger.ledger import Ledger


def main(arguments: list[str]) -> int:
    verb = arguments[0]
    if verb == "log":
        made = parser(verb, "Show a zone's records: commands, inbox entries, state hashes.")
        made.add_argument("zone", type=int, help="number of the zone")
        made.add_argument("--first", type=int, default=0, help="first tick; 0: the newest records")
        made.add_argument("--limit", type=int, default=20, help="how many records at most")
        made.add_argument("--json", action="store_true", help="one JSON object a line")
        return with_ledger(options := made.parse_args(arguments[1:]), lambda ledger, _: _log(options, ledger))
    if verb == "audit":
        made = parser(verb, "Check that all is there, once: checkpoints, logs, replays, players, entities, presence. Writes nothing.")
        made.add_argument("--game", default="", help="the game's file or folder; empty: the cluster's")
        made.add_argument("--json", action="store_true", help="one JSON object")
        options = made.parse_args(arguments[1:])
        return with_ledger(options, lambda ledger, address: _audit(options, ledger, address))
    made = parser(verb, "Restore a zone's checkpoint, run the log behind it again, compare every state hash. Writes nothing.")
    made.add_argument("zone", help="number of the zone, or all")
    made.add_argument("--game", default="", help="the game's file or folder; empty: the cluster's")
    options = made.parse_args(arguments[1:])
    return with_ledger(options, lambda ledger, address: _replay(options, ledger, address))


async def _log(options: argparse.Namespace, ledger: Ledger) -> int:
    from coordinator.readable import logged_json, world_commands

    world = await ledger.world()
    if world is None or not 0 <= options.zone < world.columns * world.rows:
        zones = f"zones 0 to {world.columns * world.rows - 1}" if world else "no world yet"
        print(f"perdure log: there is no zone {options.zone}; the ledger has {zones}", file=sys.stderr)
        return 1
    head = await ledger.zone_head(options.zone)
    first = options.first or max(1, head.tick - options.limit + 1)
    commands = world_commands(world)
    for logged in await ledger.read_log(options.zone, first, options.limit):
        one = logged_json(logged, commands)
        if options.json:
            print(orjson.dumps(one).decode())
            continue
        print(f"tick {one['tick']}  epoch {one.get('epoch')}  state {one.get('state_hash')}  {one.get('fault', '')}")
        for command in one.get("commands", []):
            print(f"    command {command}")
        for entry in one["inbox"]:
            print(f"    inbox   {entry}")
    return 0


async def _audit(options: argparse.Namespace, ledger: Ledger, address: ClusterAddress) -> int:
    from perdure.game.contract import GameError
    from perdure.game.loading import load_game
    from shard.audit import audit
    from shard.program import compile_program
    from shard.zone import ZoneError

    try:
        with Console(stderr=True).status("loading the game") as status:
            program = compile_program(load_game(options.game or address.game))
            report = await audit(ledger, program, status.update)
    except (GameError, ZoneError) as error:
        print(f"perdure audit: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(orjson.dumps(report).decode())
    else:
        for fault in report.faults:
            print(f"FAULT {fault}")
        for note in report.notes:
            print(f"note: {note}")
        verdict = f"{len(report.faults)} faults" if report.faults else "all is there, once"
        print(f"{report.zones} zones, {report.checkpoints} checkpoints, {report.records} records replayed, {report.players} players, "
              f"{report.entities} entities: {verdict}")  # fmt: skip
    return 1 if report.faults else 0


async def _replay(options: argparse.Namespace, ledger: Ledger, address: ClusterAddress) -> int:
    from perdure.game.contract import GameError
    from perdure.game.loading import load_game
    from shard.program import compile_program
    from shard.replay import replay_zone
    from shard.zone import ZoneError

    console = Console(stderr=True)
    try:
        with console.status("loading the game"):
            program = compile_program(load_game(options.game or address.game))
        world = await ledger.world()
        if options.zone != "all" and not options.zone.isdigit():
            raise ZoneError(f"{options.zone!r} is neither a zone's number nor all")
        if world is None:
            raise ZoneError("the ledger holds no world yet")
        zones = range(world.columns * world.rows) if options.zone == "all" else [int(options.zone)]
        bad = 0
        for zone in zones:
            with console.status(f"zone {zone}"):
                report, _ = await replay_zone(ledger, program, zone)
            bad += bool(report.fault)
            verdict = f"FAULT: {report.fault}" if report.fault else f"every state hash as logged, now {report.state_hash:016x}"
            print(f"zone {zone}: ticks {report.first_tick} to {report.last_tick}, {report.records} records, {verdict}")
        return 1 if bad else 0
    except (GameError, ZoneError) as error:
        print(f"perdure replay: {error}", file=sys.stderr)
        return 2
