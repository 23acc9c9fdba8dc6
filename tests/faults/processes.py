"""Which processes a test has started, directly or not, and which of them are left. Found by the folder that they work in."""

from __future__ import annotations

import os
import time
from pathlib import Path

ENDING_S = 15.0


def processes_of(folder: str) -> list[int]:
    """Return the processes that were started for the cluster whose files are below `folder`: their environment names it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            about = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        if folder.encode() in about and state != "Z":
            found.append(int(entry.name))
    return found


def left_of(folder: str, within_s: float = ENDING_S) -> dict[int, str]:
    """Wait until no process of `folder` is left; return those that stay longer: pid -> command line."""
    deadline = time.monotonic() + within_s
    while (found := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in found}
