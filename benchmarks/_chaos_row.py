"""The list of the chaos rows: each row's name, what is expected, how its cluster looks, and what it does.

Owns the table alone; the rows are in _chaos_rows_*.py, one module a kind, and enter themselves by `row`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._stage import RowBody, Setup

DEADLINE_S = 180.0


@dataclass(frozen=True)
class Row:
    """`missing` returns why the row cannot be done on this machine, or nothing."""

    name: str
    expected: str
    body: RowBody
    setup: Setup
    missing: Callable[[], str]
    deadline_s: float


ROWS: dict[str, Row] = {}


def row(
    name: str, expected: str, setup: Setup = Setup(), *, missing: Callable[[], str] = str, deadline_s: float = DEADLINE_S
) -> Callable[[RowBody], RowBody]:
    """Enter a function into the table. `expected` is the outcome that the function asserts, in one line."""

    def enter(body: RowBody) -> RowBody:
        assert name not in ROWS, f"two rows are called {name}"
        ROWS[name] = Row(name, expected, body, setup, missing, deadline_s)
        return body

    return enter
