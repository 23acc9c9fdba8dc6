"""A small disk of its own for the ledger: a tmpfs in a mount namespace, which goes with the processes that are in it.

Needs root on Linux. `fill` and `free` are a neighbour's file that takes the room. Called by _stage.py and the chaos rows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from perdure.cli.children import die_with_parent

SIZE_MB = 256
_DEADLINE_S = 10.0
_STEP_BYTES = 1 << 20


def missing() -> str:
    """Return why there can be no small disk here, in one line; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a small disk needs root on Linux (tmpfs in a mount namespace)"
    for tool in ("unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"a small disk needs the command {tool}"
    return ""


class SmallDisk:
    """A disk of `SIZE_MB` at `folder`, for processes that start with `prefix`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        mount = f'mount -t tmpfs -o size={SIZE_MB}m,mode=700 none "$1" && exec sleep 1000000'
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(folder)]
        self._holder = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)
        deadline = time.monotonic() + _DEADLINE_S
        while f" {folder} " not in self._mounts():
            if self._holder.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise OSError("no small disk could be mounted")
            time.sleep(0.01)

    @property
    def prefix(self) -> tuple[str, ...]:
        return "nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"

    @property
    def _inside(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self._folder}")

    def fill(self, leave_bytes: int) -> None:
        """Take all room but so many bytes."""
        with open(self._inside / "ballast", "wb") as file:
            size = 0
            while (more := min(self._room() - leave_bytes, _STEP_BYTES)) > 0:  # in steps: others write meanwhile
                os.posix_fallocate(file.fileno(), size, more)
                size += more

    def _room(self) -> int:
        room = os.statvfs(self._inside)
        return room.f_bavail * room.f_frsize

    def free(self) -> None:
        (self._inside / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def _mounts(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self._holder.pid}/mountinfo").read_text()
        return ""
