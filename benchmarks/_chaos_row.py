"""The list of the chaos rows: each row's name, what is expected, how its cluster looks, and what it does.

Owns the table alone; the rows are in _chaos_rows_*.py, one module a kind, and enter themselves by `row`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._stage import RowBody, Setup

DEADLINE_S = 180.0
AGAIN_S = 60.0
"""What each further run on the same stage may take."""
REPEATS = 5


@dataclass(frozen=True)
class Row:
    """`missing` returns why the row cannot be done on this machine, or nothing. `repeats`: so often it may run on one stage."""

    name: str
    expected: str
    body: RowBody
    setup: Setup
    missing: Callable[[], str]
    deadline_s: float
    repeats: int

    def deadline_of(self, repeats: int) -> float:
        return self.deadline_s + (repeats - 1) * AGAIN_S


ROWS: dict[str, Row] = {}


def row(
    name: str,
    expected: str,
    setup: Setup = Setup(),
    *,
    missing: Callable[[], str] = str,
    deadline_s: float = DEADLINE_S,
    repeats: int = REPEATS,
) -> Callable[[RowBody], RowBody]:
    """Enter a function into the table. `expected` is the outcome that the function asserts, in one line.

    A function that leaves the cluster as it found it may run on the same stage again (`repeats`); one that does not has 1 there.
    """

    def enter(body: RowBody) -> RowBody:
        assert name not in ROWS, f"two rows are called {name}"
        ROWS[name] = Row(name, expected, body, setup, missing, deadline_s, repeats)
        return body

    return enter
