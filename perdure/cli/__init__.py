"""The command `perdure`: one verb a module, each imported only when it is called.

Every verb's module has `main(arguments: list[str]) -> int`, which returns the process's exit code: 0 done, 1 the answer is no,
2 it could not be done (one line on standard error says why, and how to mend it).
"""

from __future__ import annotations

import importlib
import sys

VERBS: dict[str, tuple[str, str]] = {
    "up": ("perdure.cli.up", "run a whole world on this machine: ledger, coordinators, gateway, shards, bots"),
    "gateway": ("perdure.cli.roles", "run one gateway"),
    "shard": ("perdure.cli.roles", "run one shard"),
    "coordinator": ("perdure.cli.roles", "run one coordinator"),
    "status": ("perdure.cli.status", "show shards, gateways, zones and players"),
    "top": ("perdure.cli.top", "show the cluster live in the terminal; q ends it"),
    "players": ("perdure.cli.status", "show who is online, where, and since when"),
    "bots": ("perdure.cli.bots", "let N bots play"),
    "load": ("perdure.cli.load", "let Locust play: thousands of players, and a table of what they felt"),
    "token": ("perdure.cli.token", "make a login token for a player"),
    "kill": ("perdure.cli.steer", "end a member's process at once (development)"),
    "pause": ("perdure.cli.steer", "stop a member's process for a while, as if it hung (development)"),
    "drain": ("perdure.cli.steer", "move a shard's zones away, then let it leave"),
    "migrate": ("perdure.cli.steer", "move a zone to another shard, live"),
    "kick": ("perdure.cli.steer", "put a player out"),
    "log": ("perdure.cli.zone_log", "show a zone's records"),
    "replay": ("perdure.cli.zone_log", "run a zone's log again and compare every state hash"),
    "audit": ("perdure.cli.zone_log", "check that everything is there, once: logs, checkpoints, players, entities"),
    "healthcheck": ("perdure.cli.healthcheck", "ask a member whether it is ready"),
    "bench": ("perdure.cli.bench", "measure, and print the figures"),
    "report": ("perdure.cli.report", "make one page, with plots, of the results that benches have kept"),
    "sim": ("perdure.cli.sim", "run the whole cluster in one process, on a virtual clock, with faults (a checkout)"),
}


def usage() -> str:
    """Return the list of verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "usage: perdure VERB [options]\n\n" + "\n".join(lines) + "\n\n`perdure VERB --help` shows a verb's options and their defaults.\n"


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from perdure import __version__

        print(f"perdure {__version__}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        print(f"perdure: there is no verb {verb!r}; `perdure help` lists them", file=sys.stderr)
        return 2
    module = importlib.import_module(VERBS[verb][0])
    try:
        return module.main([verb, *arguments[1:]])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
