"""Tables of addresses: compiled code finds the very arrays that were put in, of every shape and dtype that programs have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perdure.game.jit import JIT_DISABLED, kernel
from shard.kernels import layout
from shard.kernels.tables import table_of, types_of, view_at

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="where nothing is compiled, there are no tables")
ARRAYS = [
    np.arange(5, dtype=np.int64), np.array([[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]), np.zeros(3, layout.SORTED), np.zeros((2, 4), layout.MAPPED),
    np.zeros(0, np.uint8), np.array([7, 8], np.uint16),
]  # fmt: skip
KNOWN = types_of(ARRAYS)
whole, plane, rows, maps, nothing, last = (view_at(KNOWN, index) for index in range(len(ARRAYS)))


@kernel
def look(table: Any) -> Any:
    """Write through each view, and return what it says of itself."""
    whole(table)[4] = 44
    plane(table)[1, 2] = 99.0
    rows(table)[2].handle = 12
    maps(table)[1, 3].entity = 1 << 40
    return (
        len(whole(table)), plane(table).shape, plane(table)[1, 0], len(rows(table)), maps(table).shape, len(nothing(table)), last(table)[1],
    )  # fmt: skip


def test_compiled_code_finds_the_arrays_by_their_table() -> None:
    assert look(table_of(ARRAYS)) == (5, (2, 3), 4.5, 3, (2, 4), 0, 8)
    assert (ARRAYS[0][4], ARRAYS[1][1, 2], ARRAYS[2][2]["handle"], ARRAYS[3][1, 3]["entity"]) == (44, 99.0, 12, 1 << 40)


def test_another_table_is_other_arrays() -> None:
    others = [array.copy() for array in ARRAYS]
    others[0] = np.arange(7, dtype=np.int64)
    assert look(table_of(others))[0] == 7
    assert others[0].tolist() == [0, 1, 2, 3, 44, 5, 6]


def test_an_array_with_gaps_has_no_place_in_a_table() -> None:
    with pytest.raises(AssertionError):
        table_of([np.zeros((4, 4))[:, :2]])
