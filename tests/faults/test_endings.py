"""Whatever ends a command that runs a cluster, by whatever signal: no process of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults.processes import left_of, processes_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)
UP = ["up", "--bots", "2", "--shards", "2", "--zones", "2x1", "--port", "0"]
BENCH = ["bench", "failover", "--kills", "50", "--bots", "2", "--shards", "2", "--json"]
CHAOS = ["bench", "chaos", "--rows", "all-kill-in-turn", "--bots", "4"]


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (UP, signal.SIGKILL, -signal.SIGKILL),
        (UP, signal.SIGTERM, 130),
        (BENCH, signal.SIGTERM, 130),
        (BENCH, signal.SIGKILL, -signal.SIGKILL),
        (CHAOS, signal.SIGTERM, 130),
        (CHAOS, signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_process_is_left(command: list[str], number: int, code: int) -> None:
    with tempfile.TemporaryDirectory(prefix="perdure-end-") as folder:
        environment = os.environ | {"TMPDIR": folder, "XDG_RUNTIME_DIR": folder}
        with open(Path(folder) / "said", "wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "perdure", *command], cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 240
            while len(list(Path(folder).glob("*/shard-2.log"))) == 0:  # Valkey, coordinators, gateway and both shards have been started
                assert process.poll() is None, (Path(folder) / "said").read_text()
                assert time.monotonic() < deadline, (Path(folder) / "said").read_text()
                time.sleep(0.02)
            assert len(processes_of(folder)) >= 6
            process.send_signal(number)
            assert process.wait(60) == code
            assert left_of(folder) == {}
            assert "Traceback" not in (Path(folder) / "said").read_text()
        finally:
            process.kill()
            process.wait()
