"""Kernels that put numbers and bytes into a buffer: levels, msgpack's integers, copies by bytes and by words.

They know nothing of zones or frames; shard.kernels.encode makes frames with them. Naive twins: tests/conformance/kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from perdure.game.jit import JIT_DISABLED, kernel
from shard.kernels.layout import WORD


@kernel
def level_of(value: Any, lo: Any, step: Any, top: Any) -> Any:
    """Return the level floor((value - lo) / step + 1/2), clamped to 0 .. top; NaN is 0."""
    scaled = (value - lo) / step + 0.5
    if not scaled > 0.0:
        return np.int64(0)
    if scaled >= top:
        return np.int64(top)
    return np.int64(scaled)  # which is the floor of what is above 0, without a call


@kernel
def put_level(data: Any, at: Any, level: Any, size: Any) -> Any:
    """Write `size` little-endian bytes of a level at `at`; return the place behind."""
    for k in range(size):
        data[np.uint64(at + k)] = np.uint8((level >> np.int64(8 * k)) & np.int64(0xFF))
    return at + size


@kernel
def put_big(out: Any, at: Any, value: Any, size: Any) -> Any:
    """Write a big-endian unsigned number of `size` bytes; return the place behind."""
    for k in range(size):
        out[np.uint64(at + k)] = np.uint8((value >> np.int64(8 * (size - 1 - k))) & np.int64(0xFF))
    return at + size


@kernel
def put_bytes(out: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    """Copy bytes; return the place behind."""
    for k in range(size):
        out[np.uint64(at + k)] = source[np.uint64(start + k)]
    return at + size


def _copy_slice(out: Any, at: Any, source: Any, start: Any) -> None:
    """As `copy_word`, where nothing is compiled."""
    out[at : at + WORD] = source[start : start + WORD]


def _load_and_store(typing: Any, out: Any, at: Any, source: Any, start: Any) -> Any:
    """Copy a word of bytes, wherever it stands: one load, one store. Both arrays are uint8 and have the word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(8 * WORD).as_pointer()
        target, put, origin, take = (
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        loaded = builder.load(builder.bitcast(builder.gep(origin, [take]), word), align=1)
        builder.store(loaded, builder.bitcast(builder.gep(target, [put]), word), align=1)
        return context.get_dummy_value()

    return types.void(out, types.intp, source, types.intp), generate


copy_word: Any = _copy_slice if JIT_DISABLED else intrinsic(_load_and_store)


@kernel
def copy_words(out: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    """Copy bytes by words; return the place behind. What stands behind the bytes in `source` may come to stand there for a while.

    The first word without a loop: most records are one, and a counted loop takes thrice the time of it.
    """
    if size > 0:
        copy_word(out, at, source, start)
        done = np.int64(WORD)
        while done < size:
            copy_word(out, at + done, source, start + done)
            done += WORD
    return at + size


@kernel
def put_tagged(out: Any, at: Any, tag: Any, value: Any, size: Any) -> Any:
    """Write a msgpack tag byte and a big-endian number; return the place behind."""
    out[at] = np.uint8(tag)
    return put_big(out, at + 1, value, size)


@kernel
def put_int(out: Any, at: Any, value: Any) -> Any:
    """Write a non-negative int64 as msgpack has it, in as few bytes as there are; return where it ends."""
    if value < 128:
        out[at] = np.uint8(value)
        return at + 1
    if value < 256:
        return put_tagged(out, at, 0xCC, value, 1)
    if value < 65536:
        return put_tagged(out, at, 0xCD, value, 2)
    if value < 4294967296:
        return put_tagged(out, at, 0xCE, value, 4)
    return put_tagged(out, at, 0xCF, value, 8)
