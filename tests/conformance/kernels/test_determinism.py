"""One script gives one sequence of state hashes: compiled, as plain Python, and on a processor without FMA and AVX2."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@functools.cache
def hashes(game: str, ticks: int, *environment: tuple[str, str]) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.conformance.kernels.state_hashes", game, str(ticks)],
        cwd=ROOT, env={**os.environ, **dict(environment)}, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.splitlines()


@pytest.mark.parametrize(("game", "ticks"), [("arena", 100), ("tag", 200)])
def test_plain_python_gives_the_same_states(game: str, ticks: int) -> None:
    compiled = hashes(game, 400)
    assert len(set(compiled)) == len(compiled) == 80
    assert hashes(game, ticks, ("NUMBA_DISABLE_JIT", "1")) == compiled[: ticks // 5]


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="GLIBC_TUNABLES names x86 features of glibc")
def test_a_plainer_processor_gives_the_same_states() -> None:
    assert hashes("arena", 400, ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-FMA,-AVX2")) == hashes("arena", 400)


def test_another_process_gives_the_same_states() -> None:
    assert hashes("arena", 400, ("PYTHONHASHSEED", "77")) == hashes("arena", 400)
