"""How processes that we start are tied to us, so that none is left behind, whatever ends us."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process `number` when its parent ends (Linux; elsewhere the parent's orderly stop must do)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() == 1:  # it ended before we asked
        os.kill(os.getpid(), number)


def end_like_ctrl_c() -> None:
    """Have SIGTERM end this process as Ctrl-C does: with the processes that it started. In the background of a script, too, whose shell has
    such jobs ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
