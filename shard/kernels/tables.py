"""A program's arrays by their addresses: what an entry is called with, and how it finds the arrays again.

A program works on some forty arrays. Taking a tuple of them apart costs half a microsecond an array, at each call, and much code;
so an entry gets one small table of addresses and lengths instead, and builds the arrays that it needs in machine code. Whoever
holds the table holds the arrays (they are fields of one tuple). Called by shard.program and by generated programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import typeof, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

WORDS = 3
"""Words of a table for each array: its address, and two lengths."""


def table_of(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return the table of these arrays, int64[WORDS * count]. Each has one or two dimensions, without gaps."""
    words: list[int] = []
    for array in arrays:
        assert array.flags.c_contiguous and array.ndim in (1, 2)
        words += (array.__array_interface__["data"][0], array.shape[0], array.shape[1] if array.ndim == 2 else 0)
    return np.array(words, np.int64)


def types_of(arrays: Sequence[npt.NDArray[Any]]) -> list[Any]:
    """Return what compiled code takes these arrays for."""
    return [typeof(array) for array in arrays]


def view_at(known: Sequence[Any], index: int) -> Any:
    """Return a function for compiled code: table -> the array that stands at `index` there. `known`: its type is in it by then."""

    def view(typing: Any, table: Any) -> Any:
        kind = known[index]

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def word(k: int) -> Any:
                return builder.load(builder.gep(words, [context.get_constant(types.intp, WORDS * index + k)]))

            words = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            made = context.make_array(kind)(context, builder)
            lengths = [word(1 + dimension) for dimension in range(kind.ndim)]
            itemsize = context.get_constant(types.intp, arrayobj.get_itemsize(context, kind))
            strides = [itemsize] if kind.ndim == 1 else [builder.mul(lengths[1], itemsize), itemsize]
            arrayobj.populate_array(
                made,
                data=builder.inttoptr(word(0), made.data.type),
                shape=cgutils.pack_array(builder, lengths),
                strides=cgutils.pack_array(builder, strides),
                itemsize=itemsize,
                meminfo=None,
            )
            return made._getvalue()

        return kind(table), generate

    return intrinsic(view)
