"""A process that loads the game once and forks shards from it: a cluster on one machine starts, and restarts, in little time.

Reads one JSON object a line on standard input: {"name", "settings", "log"} starts a shard. Writes one a line: {"ready": seconds}
once, then {"started": name, "pid"} and {"ended": name, "code"}. Ends, and its shards with it, when its input closes or its
parent dies. Run by perdure.cli.local_cluster alone; a shard that is its own process (`perdure shard`) never comes this way.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import sys
import time
from types import FrameType
from typing import Any

from perdure.cli.children import die_with_parent


def main(arguments: list[str]) -> int:
    """Serve until the input ends. arguments: [game path]."""
    die_with_parent(signal.SIGTERM)
    started = time.monotonic()
    # Imports first, so that forked shards share them; no thread may exist yet, and none is made before a fork.
    importlib.import_module("shard.service")
    from perdure.game.contract import GameError
    from perdure.game.loading import load_game
    from shard.program import compile_program
    from shard.warmup import warm

    try:
        program = compile_program(load_game(arguments[0]))
        warm(program, beside=True)
    except GameError as error:
        _say({"fault": str(error)})
        return 2
    # What exists now is the same in every shard: keep it out of their collectors' sight, or each copies all of its memory.
    gc.collect()
    gc.freeze()
    _say({"ready": round(time.monotonic() - started, 3)})
    return _Nursery(program).serve()


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class _Nursery:
    def __init__(self, program: Any) -> None:
        self._program = program
        self._children: dict[int, str] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        signal.signal(signal.SIGTERM, _noted)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def serve(self) -> int:
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        waiting = b""
        while True:
            for key, _ in selector.select():
                if key.fd == self._wake_read:
                    if signal.SIGTERM in os.read(self._wake_read, 4096):
                        return 0  # children get theirs by die_with_parent
                    self._reap()
                    continue
                data = os.read(0, 65536)
                if not data:
                    return 0
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    self._start(json.loads(line))

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _say({"ended": self._children.pop(pid, "?"), "code": os.waitstatus_to_exitcode(status)})

    def _start(self, order: dict[str, Any]) -> None:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become_shard(order, (self._wake_read, self._wake_write), self._program)
        self._children[pid] = order["name"]
        _say({"started": order["name"], "pid": pid})


def _noted(number: int, frame: FrameType | None) -> None:
    """The wakeup descriptor carries the signal; nothing is done inside the handler."""


def _become_shard(order: dict[str, Any], pipes: tuple[int, int], program: Any) -> None:
    """In the child: a shard process from here on; never returns."""
    code = 2
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        for descriptor in pipes:
            os.close(descriptor)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.setsid()
        from shard.service import run
        from shard.settings import ShardSettings

        code = run(ShardSettings(name=order["name"], **order["settings"]), program)  # not what the files have become since
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
