"""docs/LIMITS.md says what the code does."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

LIMITS = Path(__file__).resolve().parents[2] / "docs" / "LIMITS.md"
ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<bound>\d+) \| `(?P<module>[\w.]+):(?P<name>[\w.]+)` \| (?P<behaviour>[^|]+) \|$")


def _rows() -> list[re.Match[str]]:
    return [match for line in LIMITS.read_text().splitlines() if (match := ROW.match(line))]


def _bound(module: str, name: str) -> Any:
    head, _, setting = name.partition(".")
    found = getattr(importlib.import_module(module), head)
    return found.model_fields[setting].default if setting else found


def test_the_table_is_read_whole() -> None:
    table = [line for line in LIMITS.read_text().splitlines() if line.startswith("|")]
    assert len(_rows()) == len(table) - 2, "a row of the table does not have the form that this test reads"
    assert len(_rows()) > 20


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row["what"])
def test_a_bound_is_what_the_table_says(row: re.Match[str]) -> None:
    assert _bound(row["module"], row["name"]) == int(row["bound"])
