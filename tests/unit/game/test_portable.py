"""Rows that describe themselves outlive a change of their fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.game.portable import describe, pack_rows, unpack_rows

OLD = np.dtype([("id", "<i8"), ("x", "<f8"), ("gone", "<u4"), ("hp", "<i2")], align=True)
NEW = np.dtype([("hp", "<i4"), ("id", "<i8"), ("new", "u1"), ("x", "<f4")], align=True)


@given(st.lists(st.tuples(st.integers(-(1 << 60), 1 << 60), st.floats(-1e6, 1e6), st.integers(0, 99), st.integers(-9, 9)), max_size=5))
def test_rows_come_back_by_the_names_of_their_fields(values: list[tuple[Any, ...]]) -> None:
    rows = np.array(values, OLD)
    same = unpack_rows(pack_rows(rows), OLD)
    assert same.tobytes() == rows.tobytes()
    moved = unpack_rows(pack_rows(rows), NEW)
    assert moved["id"].tolist() == rows["id"].tolist()
    assert moved["hp"].tolist() == rows["hp"].tolist()
    assert moved["x"].tolist() == rows["x"].astype("<f4").tolist()
    assert moved["new"].tolist() == [0] * len(rows)
    assert unpack_rows(pack_rows(moved), OLD)["gone"].tolist() == [0] * len(rows)


@given(st.binary(max_size=200))
def test_what_is_no_rows_is_refused(data: bytes) -> None:
    try:
        rows = unpack_rows(data, OLD)
    except ValueError:
        return
    assert rows.dtype == OLD


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xff{}", b"\2\0[]", b"\4\0null", pack_rows(np.zeros(2, OLD))[:-1]])
def test_damaged_rows_raise_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_rows(data, OLD)


def test_a_description_is_the_same_for_the_same_layout() -> None:
    assert describe(OLD) == describe(np.dtype(OLD.descr) if not OLD.isalignedstruct else np.dtype(OLD))
    assert describe(OLD) != describe(NEW)
