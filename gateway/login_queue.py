"""The queue of logins: who waits for room, in which order, and how long it may take. Bounded and fair: first come, first served.

Resumes go before logins, since those players are in the world already, and their bodies stand there without them. Owns the order and
the estimate. Decides nothing about room, does no I/O, and reads no clock: admission does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from gateway.session import Session

SMOOTH = 0.2
"""Weight of the newest pause between two admissions in their mean."""
LONGEST_ESTIMATE_S = 3600


class LoginQueue:
    """Sessions that wait; at most `bound`, of either kind together."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._resumes: OrderedDict[Session, None] = OrderedDict()
        self._logins: OrderedDict[Session, None] = OrderedDict()
        self._pause_s = 0.0
        self._last_s = -1.0

    def __len__(self) -> int:
        return len(self._resumes) + len(self._logins)

    def __iter__(self) -> Iterator[Session]:
        """Yield who waits, who is next first."""
        yield from self._resumes
        yield from self._logins

    def join(self, session: Session, resumes: bool) -> bool:
        """Wait behind all others of its kind; False where too many wait already."""
        if len(self) >= self.bound:
            return False
        (self._resumes if resumes else self._logins)[session] = None
        return True

    def forget(self, session: Session) -> None:
        """It waits no more."""
        self._resumes.pop(session, None)
        self._logins.pop(session, None)

    def first(self, resumes: bool) -> Session | None:
        """Return who is next of a kind."""
        return next(iter(self._resumes if resumes else self._logins), None)

    def admitted(self, now_s: float) -> None:
        """Somebody who waited came in."""
        if self._last_s >= 0:
            self._pause_s += (SMOOTH if self._pause_s else 1.0) * (now_s - self._last_s - self._pause_s)
        self._last_s = now_s

    def estimate_s(self, position: int, now_s: float) -> int:
        """Return how long it may take, by how it went lately; nobody having come in yet, a second for each who goes before."""
        pause_s = max(self._pause_s, (now_s - self._last_s) / 2) if self._pause_s else 1.0
        return min(max(round(position * pause_s), 1), LONGEST_ESTIMATE_S)
