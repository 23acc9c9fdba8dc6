"""How a verb finds the cluster that it is about: options, environment, or the state file that `perdure up` leaves."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import stat
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


def state_fault() -> str:
    """Return why nothing may be read from the state file, nor written to it, or "".

    Without XDG_RUNTIME_DIR it stands among everybody's temporary files, where another user may have made a folder of our name first.
    """
    if os.environ.get("XDG_RUNTIME_DIR"):
        return ""
    folder = state_file().parent
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return f"{folder} is no folder of this user's, and is not trusted: remove it, or set XDG_RUNTIME_DIR to a folder of your own"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"{folder} is open to other users, and the cluster's secret stands there: chmod 700 {folder}"
    return ""


def make_state_folder() -> Path:
    """Make the folder of the state file and return it. Raises OSError, with one line, where it cannot be made or is not ours alone."""
    folder = state_file().parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fault = state_fault()
    if fault:
        raise PermissionError(fault)
    return folder


def write_state(address: ClusterAddress) -> None:
    """Write the state file. Raises OSError as `make_state_folder` does."""
    # A new file in the place of what is there: no link is followed, and nobody reads half of it.
    descriptor, path = tempfile.mkstemp(prefix=".perdure-", dir=make_state_folder())  # with mode 0600
    try:
        with os.fdopen(descriptor, "w") as out:
            json.dump(asdict(address), out)
        os.replace(path, state_file())
    except BaseException:
        os.unlink(path)
        raise


def remove_state(address: ClusterAddress) -> None:
    """Remove the state file, if it is still ours."""
    if read_state() == address:
        state_file().unlink(missing_ok=True)


def read_state() -> ClusterAddress | None:
    """Return the cluster that runs here, or None where none is known or what is said of it is not trusted (`state_fault`)."""
    if state_fault():
        return None
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
        unknown = "no cluster is known here; start one with `perdure up`, or give --redis-url (PERDURE_REDIS_URL)"
        print(f"perdure: {state_fault() or unknown}", file=sys.stderr)
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
