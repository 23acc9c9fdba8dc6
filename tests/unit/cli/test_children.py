"""Processes that are started, and end, with others."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

JOB = """
import asyncio, uvloop
from perdure.cli.children import end_like_ctrl_c
end_like_ctrl_c()
async def work():
    try:
        print("works", flush=True)
        await asyncio.sleep(600)
    finally:
        print("has ended what it started", flush=True)
uvloop.run(work())
"""


@pytest.mark.parametrize("ignores", [False, True], ids=["in front", "in the background of a script"])
def test_a_job_that_is_told_to_end_ends_with_what_it_started(ignores: bool) -> None:
    def before() -> None:
        if ignores:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    with subprocess.Popen([sys.executable, "-c", JOB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "works\n"
        job.terminate()
        out, err = job.communicate(timeout=20)
    assert out == "has ended what it started\n"
    assert "KeyboardInterrupt" in err
