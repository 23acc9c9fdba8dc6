"""The shim of clocks, fsync and memory (_shim.c), built on demand with the machine's C compiler, beside the control file of its process.

Owns one control file and the library beside it; both go with the folder that they are in. `missing` says why there is none here.
"""

from __future__ import annotations

import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("_shim.c")
LIBRARY = "shim.so"
_CONTROL = struct.Struct("<qqq")


def missing() -> str:
    """Return why there can be no shim here, in one line; empty where there can."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "the shim of clocks, fsync and memory needs Linux with glibc (LD_PRELOAD)"
    return "" if shutil.which("gcc") or shutil.which("cc") else "the shim of clocks, fsync and memory needs a C compiler (gcc)"


class Shim:
    """What one process is made to believe. `file` holds it, and is read by the process at every call."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._values = [0, 0, 0]
        self._write()
        self._library = file.with_name(LIBRARY)
        if not self._library.exists():
            compiler = shutil.which("gcc") or "cc"
            words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE), "-ldl"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            if done.returncode:
                raise OSError(f"the shim could not be built: {done.stderr.strip()[-300:]}")

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "PERDURE_SHIM_FILE": str(self._file)}

    def clock(self, offset_s: int) -> None:
        """Have its wall clock go wrong by so many seconds."""
        self._values[0] = offset_s
        self._write()

    def slow_disk(self, delay_ms: float) -> None:
        """Have each of its fsyncs take so much longer."""
        self._values[1] = round(delay_ms * 1000)
        self._write()

    def refuse_memory(self, of_bytes: int) -> None:
        """Have every allocation of so many bytes and more fail; 0 gives it memory again."""
        self._values[2] = of_bytes
        self._write()

    def _write(self) -> None:
        with open(self._file, "r+b" if self._file.exists() else "wb") as file:  # in place: it is mapped
            file.write(_CONTROL.pack(*self._values))
