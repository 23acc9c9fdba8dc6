"""How everything that must be deterministic is compiled: one decorator, and the environment that it needs.

Must be imported before numba is, and says so where it is not. No fastmath, no parallel reductions, a generic CPU, no SVML (it
loads itself where it is found and changes results). The cache folder is keyed by the hash of all sources, since Numba's own
cache does not notice an edit in another file (see docs/decisions/0002).
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")
os.environ.setdefault("NUMBA_CPU_NAME", "generic")

import numba
import numpy as np
from numba.core import config as _numba_config

F = TypeVar("F", bound=Callable[..., Any])

config: Any = _numba_config  # its attributes are made at run time
JIT_DISABLED = bool(config.DISABLE_JIT)
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
if not JIT_DISABLED and (config.CPU_NAME, config.CPU_FEATURES, bool(config.DISABLE_INTEL_SVML)) != ("generic", "", True):
    raise ImportError(
        "Numba compiles for this very CPU here, so zones would not come to the same state on another: import perdure before numba, "
        "and leave NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_DISABLE_INTEL_SVML as they are"
    )


def cache_root() -> Path:
    """Return the folder for compiled kernels: PERDURE_CACHE_DIR, or the user's cache folder, or a temporary one."""
    chosen = os.environ.get("PERDURE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for base in (home, os.path.join(tempfile.gettempdir(), f"perdure-cache-{os.getuid()}")):
        try:
            path = Path(base) / "perdure"
            path.mkdir(parents=True, exist_ok=True)
            if os.access(path, os.W_OK):
                return path
        except OSError:
            continue  # a read-only home is common in containers; the next place is tried
    raise RuntimeError("no writable folder for compiled kernels; set PERDURE_CACHE_DIR to one")


def sources_digest(files: Iterable[Path], *texts: str) -> int:
    """Return a 64-bit digest of source files, of generated source, and of the compiler's version: the build stamp."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{numba.__version__} {np.__version__} {sys.version_info[:2]}".encode())
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for text in texts:
        digest.update(text.encode() + b"\0")
    return int.from_bytes(digest.digest(), "little")


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Direct Numba's cache to `folder` for every function that is decorated meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def perdure_sources() -> list[Path]:
    """Return every file of ours that compiled code comes from (what is generated is hashed as text)."""
    shard = PACKAGE_ROOT.parent / "shard"
    return [PACKAGE_ROOT / "game" / "jit.py", PACKAGE_ROOT / "game" / "rules.py", *(shard / "kernels").glob("*.py")]


def generator_sources() -> list[Path]:
    """Return every file of ours that has a say in what a game's functions are compiled for: `perdure_sources` and the generator.

    The cache of a game's functions is keyed by these: its entries name the generated module, whose name is the build stamp.
    """
    shard = PACKAGE_ROOT.parent / "shard"
    return [*{*perdure_sources(), *(PACKAGE_ROOT / "game").glob("*.py"), *shard.glob("program*.py")}]


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def kernel(function: F) -> F:
    """Compile a function the deterministic way (njit, nogil, cached)."""
    return cast(F, numba.njit(cache=True, **_OPTIONS)(function))


def part_of_program(function: F) -> F:
    """As `kernel`, without a cache of its own: for what takes a program's tuples (the world, the encoder's arrays).

    Their types name the generated module, so a cache that several programs share could not be read once one of them is gone.
    The compiled code is in the cache of the program that calls it.
    """
    return cast(F, numba.njit(**_OPTIONS)(function))


if not config.CACHE_DIR:
    _kernels = cache_root() / "kernels" / f"{sources_digest(perdure_sources()):016x}"
    _kernels.mkdir(parents=True, exist_ok=True)
    config.CACHE_DIR = str(_kernels)
