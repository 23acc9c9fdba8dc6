"""Compile (or load from the cache) everything that a tick calls, before the shard says that it is ready.

`python -m shard.warmup GAME` fills the cache, so that processes which start together do not all compile; with --source it
prints the generated program instead.
"""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import re
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

from perdure.game.contract import Game, GameError
from perdure.game.loading import load_game
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import WorldGrid
from shard.arrivals import Arrivals
from shard.program import Program, compile_program
from shard.zone import Zone


def warm(program: Program, *, beside: bool = False) -> float:
    """Run one zone of a throw-away world for a few ticks, every kernel included; return the seconds that it took.

    `beside`: where nothing is in the cache yet, what makes frames and feeds is compiled in a process of its own meanwhile (a fork, so
    only where no thread runs): it takes about as long as the tick. Whether that comes to its end or not, what is missing is compiled here.

    Raises GameError, with file, line and the compiler's reason, where the game's rules do not compile.
    """
    # Not at the top, where it would come before perdure.game.jit: that sets the environment that numba reads when it is imported,
    # and kernels compiled without it are for this very CPU, so no other process would find them in the cache.
    from numba.core.errors import NumbaError, UnsupportedBytecodeError

    started = time.monotonic()
    beside = beside and (os.cpu_count() or 1) > 1 and not any(Path(program.module.__file__ or "").parent.rglob("*.nbi"))
    other = multiprocessing.get_context("fork").Process(target=_run_frames, args=(program,)) if beside else None
    try:
        if other is not None:
            other.start()
            _run_tick(program)
            other.join()
        _run(program)
    except (NumbaError, UnsupportedBytecodeError, NotImplementedError, KeyError) as error:
        raise GameError(compile_fault(program.game, error)) from error
    finally:
        if other is not None:
            other.kill()
            other.join()
    return time.monotonic() - started


def _run(program: Program) -> None:
    grid = WorldGrid(*program.game.world_size, 2, 1)
    zone = Zone(program, 0, grid, 0)
    zone.border.watch((1,))
    zone.recovered(1, 1)
    zone.page = (Entry(EntryKind.JOIN, player=1, session=1, gateway=1, slot=1).pack(),)
    Arrivals(zone.arrays.commands.shape[1])  # compiles what takes commands in
    for seq in range(1, 3):
        row = np.zeros((1, zone.arrays.commands.shape[1]), np.uint8)
        row[0, 0], row[0, 8] = 1, seq
        zone.add_commands(row)
        zone.fill_ghosts()
        commit = zone.step()
        zone.encode()
        for feed in zone.publish(0.05):
            zone.border.receive(feed._replace(source=feed.viewer))
        zone.border.turn(0.0, 0.05)
        zone.phase = zone.phase.READY
        assert commit.tick == seq
    program.more_frames(zone.arrays, zone.encoder)
    program.keep_events(zone.arrays, zone.encoder)
    other = Zone(program, 0, grid, 0)
    other.restore(zone.checkpoint())


def _run_tick(program: Program) -> None:
    zone = Zone(program, 0, WorldGrid(*program.game.world_size, 2, 1), 0)
    zone.recovered(1, 1)
    zone.step()


def _run_frames(program: Program) -> None:
    zone = Zone(program, 0, WorldGrid(*program.game.world_size, 2, 1), 0)
    zone.border.watch((1,))
    zone.recovered(1, 1)
    encoder = zone._encoder()
    program.encode(zone.arrays, encoder)
    zone.publish(0.05)
    zone.fill_ghosts()
    program.more_frames(zone.arrays, encoder)
    program.keep_events(zone.arrays, encoder)


_PLACES = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)|(?:at|from) (?P<at>\S+) \((?P<number>\d+)\)')
_MAX_REASON = 240


def compile_fault(game: Game, error: Exception) -> str:
    """Return one line, "file:line: reason", for an error of the compiler in a game's rules.

    The place is the innermost one in the game's own files that the compiler names. A field that a row has not is a bare
    KeyError there: its place is the first mention of the field that the checks before compiling could not follow.
    """
    functions = [inspect.unwrap(function) for function in game.hook_sources]
    files = {Path(inspect.getsourcefile(function) or "?").resolve() for function in functions}
    if isinstance(error, KeyError):
        name = str(error.args[0]) if error.args else "?"
        for function in functions:
            source, start = inspect.getsourcelines(function)
            for node in ast.walk(ast.parse(textwrap.dedent("".join(source)))):
                if isinstance(node, ast.Attribute) and node.attr == name:
                    return f"{inspect.getsourcefile(function)}:{start + node.lineno - 1}: no row here has a field {name!r}"
    place = f"{inspect.getsourcefile(game.hook_sources[0])}:{inspect.getsourcelines(game.hook_sources[0])[1]}"
    for found in _PLACES.finditer(str(error)):
        path = Path(found["file"] or found["at"])
        if path.resolve() in files:
            place = f"{path.resolve()}:{found['line'] or found['number']}"
            break
    return f"{place}: the rules do not compile: {_reason(str(error))}"


def _reason(message: str) -> str:
    lines = [line.strip() for line in message.splitlines()]
    meant = [line for line in lines if line and not line.startswith(("Failed in ", "File ", "During: "))]
    text = meant[0] if meant else "the compiler gives no reason"
    signature = next((line.removeprefix(">>> ") for line in meant if line.startswith(">>> ")), "")
    if 'due to "' in text:  # a call with wrong arguments: the line before it holds every type of the world
        text = text.rpartition('due to "')[2].rstrip('".')
    text = re.sub(r" Raised from \S+( \(\d+\))?$", "", text)
    return (f"{text} {signature}" if signature else text)[:_MAX_REASON]


def main(arguments: list[str]) -> int:
    """Warm the cache for a game, or print its program."""
    paths = [a for a in arguments if not a.startswith("-")]
    try:
        program = compile_program(load_game(paths[0] if paths else "games/arena"))
        if "--source" in arguments:
            print(program.source)
            return 0
        took_s = warm(program, beside=True)
    except GameError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{program.game.name}: kernels ready after {took_s:.1f} s (build {program.build:016x})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
