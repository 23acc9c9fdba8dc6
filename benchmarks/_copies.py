"""Copying pieces of bytes one behind the other: the floors of `encode`.

Imported once perdure.game.jit is: it sets up Numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from perdure.game.jit import kernel
from shard.kernels.put import copy_words


def _memcpy(typing: Any, out: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    """Have the C library copy bytes: what LLVM makes of a copy whose length it does not know."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, put, origin, take, length = (
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        cgutils.raw_memcpy(builder, builder.gep(target, [put]), builder.gep(origin, [take]), length, 1)
        return context.get_dummy_value()

    return types.void(out, types.intp, source, types.intp, types.intp), generate


memcpy: Any = intrinsic(_memcpy)


@kernel
def copied_by_memcpy(pieces: Any, count: Any, source: Any, out: Any) -> Any:
    """Copy `count` pieces (int64[n, 2]: start, length) of `source`, one behind the other; return the place behind the last."""
    at = np.int64(0)
    for k in range(count):
        piece = pieces[np.uint64(k)]
        memcpy(out, at, source, piece[0], piece[1])
        at += piece[1]
    return at


@kernel
def copied_by_words(pieces: Any, count: Any, source: Any, out: Any) -> Any:
    """As `copied_by_memcpy`; `out` has room for a word behind the last piece."""
    at = np.int64(0)
    for k in range(count):
        piece = pieces[np.uint64(k)]
        at = copy_words(out, at, source, piece[0], piece[1])
    return at
