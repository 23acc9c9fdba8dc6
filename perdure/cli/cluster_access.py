"""How a verb finds the cluster that it is about: options, environment, or the state file that `perdure up` leaves."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perdure.cli.roles import ledger_password_in
from perdure.ledger.ledger import LedgerError
from perdure.ledger.redis_ledger import RedisLedger
from perdure.runtime.settings import secret_of_environment


@dataclass(frozen=True)
class ClusterAddress:
    """What a verb needs to reach a cluster. The file that holds it is readable by its owner alone."""

    redis_url: str
    world: str
    secret: str
    game: str = "games/arena"
    gateway_url: str = ""


def state_file() -> Path:
    """Return where `perdure up` records the cluster that it runs."""
    base = os.environ.get("XDG_RUNTIME_DIR") or os.path.join(tempfile.gettempdir(), f"perdure-{os.getuid()}")
    return Path(base) / "perdure-local.json"


def write_state(address: ClusterAddress) -> None:
    path = state_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(asdict(address), out)


def remove_state(address: ClusterAddress) -> None:
    """Remove the state file, if it is still ours."""
    if read_state() == address:
        state_file().unlink(missing_ok=True)


def read_state() -> ClusterAddress | None:
    try:
        return ClusterAddress(**json.loads(state_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None


class _LedgerUrl(argparse.Action):
    """Takes the URL of the ledger from the command line, unless it holds a password."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        fault = ledger_password_in(["--redis-url", str(values)])
        if fault:
            print(f"{parser.prog}: {fault}", file=sys.stderr)
            raise SystemExit(2)
        setattr(namespace, self.dest, values)


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options by which every verb finds its cluster."""
    made = argparse.ArgumentParser(prog=f"perdure {verb}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument(
        "--redis-url", action=_LedgerUrl, default=os.environ.get("PERDURE_REDIS_URL", ""), help="ledger; empty: the cluster of `perdure up`"
    )
    made.add_argument("--world", default=os.environ.get("PERDURE_WORLD", ""), help="name of the world; empty: main")
    return made


def find(options: argparse.Namespace) -> ClusterAddress:
    """Return the cluster meant by options, environment or state file; SystemExit(2) with one line where there is none."""
    known = None if options.redis_url else read_state()
    if not options.redis_url and known is None:
        print("perdure: no cluster is known here; start one with `perdure up`, or give --redis-url (PERDURE_REDIS_URL)", file=sys.stderr)
        raise SystemExit(2)
    try:
        secret = secret_of_environment()
    except ValueError as error:
        print(f"perdure: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    game = os.environ.get("PERDURE_GAME", known.game if known else "games/arena")
    return ClusterAddress(
        options.redis_url or (known.redis_url if known else ""), options.world or (known.world if known else "main"),
        secret or (known.secret if known else ""), game, known.gateway_url if known else "",
    )  # fmt: skip


def with_ledger(options: argparse.Namespace, work: Callable[[RedisLedger, ClusterAddress], Awaitable[int]]) -> int:
    """Run `work` with a connected ledger; ledger errors become one line and exit code 2."""
    address = find(options)

    async def go() -> int:
        ledger = await RedisLedger.connect(address.redis_url, address.world)
        try:
            return await work(ledger, address)
        finally:
            await ledger.close()

    try:
        return asyncio.run(go())
    except LedgerError as error:
        print(f"perdure: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
