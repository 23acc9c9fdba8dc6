"""When a client tries again, and when it gives up: without I/O or a clock, for every driver of the protocol.

Owns the backoff and what each close code asks for (docs/PROTOCOL.md, "Close codes"). Called by the asyncio client and by the load
test's players.
"""

from __future__ import annotations

import random

from perdure.client.protocol import ClientProtocol
from perdure.wire.opcodes import CLOSE_REASONS, Close

BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
STAGGER_S = 0.05


class Reconnecting:
    """The tries of one client since it was last let in. `may_log_in`: it has a login token, or can fetch one."""

    def __init__(self, protocol: ClientProtocol, *, may_log_in: bool) -> None:
        self._protocol, self._may_log_in = protocol, may_log_in
        self._tries = 0

    def welcomed(self) -> None:
        """The server let the client in: the next break is a new one."""
        self._tries = 0

    def is_final(self, code: int | None) -> bool:
        """Is there nothing left to try after a close with `code` (None: the socket broke)?

        A used-up resume token is forgotten, and the login comes at once: that the welcome was lost is no sign of a server in trouble.
        """
        if code == Close.BAD_RESUME and self._may_log_in:
            self._protocol.resume = ""
            self._tries = 0
            return False
        return code is not None and code in CLOSE_REASONS and not CLOSE_REASONS[Close(code)].resumable

    def backoff_s(self) -> float:
        """Return how long to wait before the next try. The first comes almost at once, staggered: a gateway's clients all come together."""
        self._tries += 1
        if self._tries == 1:
            return random.uniform(0, STAGGER_S)
        return random.uniform(0.5, 1.0) * min(BACKOFF_FIRST_S * 2 ** (self._tries - 2), BACKOFF_MOST_S)
