"""How everything that must be deterministic is compiled: one decorator, and the environment that it needs.

Must be imported before numba is, and says so where it is not. No fastmath, no parallel reductions, a generic CPU, no SVML (it
loads itself where it is found and changes results). The cache folder is keyed by the hash of all sources, since Numba's own
cache does not notice an edit in another file (see docs/decisions/0002).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")
os.environ.setdefault("NUMBA_CPU_NAME", "generic")

import numba
import numpy as np
from numba import _dynfunc  # pyright: ignore[reportAttributeAccessIssue]
from numba.core import config as _numba_config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

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


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def kernel(function: F) -> F:
    """Compile a function the deterministic way (njit, nogil, cached)."""
    return cast(F, numba.njit(cache=True, **_OPTIONS)(function))


def part_of_program(function: F) -> F:
    """As `kernel`, for what only compiled code calls: it is linked into its callers, and has no entry from Python and no cache of its own.

    A program's tuples are some four hundred machine words, so an entry that takes them apart costs as much to compile as a function of
    the rules, and machine code of each function as often as the optimiser's passes over all that it calls. Both are made for entries
    alone, and the caches of those hold everything.
    """
    return cast(F, numba.njit(**_OPTIONS) if JIT_DISABLED else numba.njit(pipeline_class=_PartCompiler, **_OPTIONS))(function)


class _PartLibrary(JITCodeLibrary):
    """Code that will be linked into other code, and optimised and made machine code of there."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Numba's lowering, up to the code that callers link."""

    _name = "perdure_part_lowering"

    def run_pass(self, state: Any) -> Literal[True]:
        context = state.targetctx
        state.library = _PartLibrary(context.codegen(), state.func_id.func_qualname)
        flags = state.flags
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # Callers know what they call by the object that Python would call, so there is one: it raises TypeError.
        refuses = ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value
        entry = _dynfunc.make_function(lowered.fndesc.lookup_module(), state.func_id.func_name, "", refuses, lowered.env, (state.library,))
        context.insert_user_function(entry, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry)
        return True


class _PartCompiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "perdure_part")
        passes.passes = [(_PartLowering, why) if one is NativeLowering else (one, why) for one, why in passes.passes]
        passes.finalize()
        return [passes]


if not config.CACHE_DIR:
    _kernels = cache_root() / "kernels" / f"{sources_digest(perdure_sources()):016x}"
    _kernels.mkdir(parents=True, exist_ok=True)
    config.CACHE_DIR = str(_kernels)
