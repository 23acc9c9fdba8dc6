"""Two rows of the chaos bench, with few bots: the bench itself works from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.faults.processes import left_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)


def test_two_rows_pass_and_leave_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="perdure-ch-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "perdure", "bench", "chaos", "--json", "--rows", "two-shards-kill,reply-lost", "--bots", "20"],
            cwd=ROOT, env=os.environ | {"TMPDIR": folder}, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["passed"]
        assert sorted(row["row"] for row in found["rows"]) == ["reply-lost", "two-shards-kill"]
        assert all(row["bots_entered"] == 20 and row["commands_acknowledged"] > 0 for row in found["rows"])
        assert f"seed {found['seed']}" in done.stderr
        assert left_of(folder) == {}
        assert list(Path(folder).iterdir()) == []
