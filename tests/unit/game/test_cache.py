"""Compiled once: a second process loads what the first one compiled; an edited game compiles anew, beside the old one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, sys
from perdure.game.loading import load_game
from shard.program import compile_program
from perdure.wire.identifiers import WorldGrid
from shard.zone import Zone
program = compile_program(load_game(sys.argv[1]))
zone = Zone(program, 0, WorldGrid(64, 64, 1, 1), 1)
zone.recovered(1, 1)
zone.step()
stats = program.module.step_at.stats
print(json.dumps([f"{program.build:016x}", sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


def compile_in_a_process(game: Path, cache: Path) -> tuple[str, int, int]:
    """Return (build, cache hits, cache misses) of `step`."""
    environment = {**os.environ, "PERDURE_CACHE_DIR": str(cache)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(game)], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=240, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    build, hits, misses = json.loads(done.stdout.splitlines()[-1])
    return build, hits, misses


TINY = """
from perdure import Game, emit, f64, q, rand, spawn, u32

game = Game("tiny", world=(64, 64), interest=32)


@game.entity(capacity=4, avatar=True)
class Man:
    x: f64 = q(0, 64, step=1 / 16)
    y: f64 = q(0, 64, step=1 / 16)


@game.event(radius=9)
class Hop:
    who: u32


@game.tick
def tick(w):
    for man in w.man.rows:
        man.x = rand(w, man.id, 1) * 64.0
        emit(w, w.hop, man.x, man.y)
"""


@pytest.mark.timeout(300)
def test_a_second_process_compiles_nothing_and_an_edited_game_compiles_anew(tmp_path: Path) -> None:
    game, cache = tmp_path / "tiny.py", tmp_path / "cache"
    game.write_text(TINY)
    first = compile_in_a_process(game, cache)
    assert first[1:] == (0, 1)
    assert compile_in_a_process(game, cache) == (first[0], 1, 0)
    game.write_text(TINY.replace("64.0", "63.0"))
    edited = compile_in_a_process(game, cache)
    assert edited[0] != first[0]
    assert edited[1:] == (0, 1), "the older program's cache does not get in the way"
    game.write_text(TINY)
    assert compile_in_a_process(game, cache) == (first[0], 1, 0)


def test_numba_that_was_imported_first_is_refused() -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    done = subprocess.run([sys.executable, "-c", "import numba\nimport perdure.game.jit"], cwd=ROOT, env=clean, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "import perdure before numba" in done.stderr.splitlines()[-1]
