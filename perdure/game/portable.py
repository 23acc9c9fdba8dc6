"""Rows that describe themselves, so that they outlive a change of their fields: saved players, crossings, checkpoints.

Layout: u16 length of the description, the description (JSON of numpy's `dtype.descr`, or [names, formats, offsets, itemsize]),
then the rows. Fields match by name; a field that is new is zero, one that is gone is dropped.
"""

from __future__ import annotations

import functools
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

_LENGTH = struct.Struct("<H")


@functools.cache
def describe(dtype: np.dtype[Any]) -> bytes:
    """Return a dtype's description as bytes: names, formats, offsets and item size, as JSON."""
    fields: Any = dtype.fields or {}
    names = list(dtype.names or ())
    text = json.dumps([names, [fields[n][0].str for n in names], [fields[n][1] for n in names], dtype.itemsize], separators=(",", ":"))
    return text.encode()


@functools.cache
def described(description: bytes) -> np.dtype[Any]:
    """Return the dtype that `describe` wrote; raises ValueError where it is none."""
    try:
        names, formats, offsets, itemsize = json.loads(description)
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"not the description of a row: {description[:80]!r}") from error


def pack_rows(rows: npt.NDArray[Any]) -> bytes:
    """Return rows (a structured array) with their description."""
    description = describe(rows.dtype)
    return _LENGTH.pack(len(description)) + description + np.asarray(rows).tobytes()


def unpack_rows(data: bytes, into: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the rows as `into`: as they are where the description is the same, else field by field, by name."""
    if len(data) < 2:
        raise ValueError("described rows are at least 2 bytes long")
    (length,) = _LENGTH.unpack_from(data)
    description, body = data[2 : 2 + length], data[2 + length :]
    if description == describe(into):
        return np.frombuffer(body, into)
    old = np.frombuffer(body, described(description))
    rows = np.zeros(len(old), into)
    for name in set(old.dtype.names or ()) & set(into.names or ()):
        rows[name] = old[name]
    return rows
