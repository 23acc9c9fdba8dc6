"""How fast a count rises, as a member tells it in its heartbeat. Owns a short window of (time, count). Called by shard and gateway."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 2.0
MOST_POINTS = 128
"""Of a window; a member that beats faster has a shorter one."""


class Rate:
    """Of one count that only rises."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._points: deque[tuple[float, int]] = deque(maxlen=MOST_POINTS)

    def of(self, count: int) -> int:
        """Take the count as it is now; return its rise a second over the last WINDOW_S or so; 0 at first."""
        now_s, points = self._now_s(), self._points
        points.append((now_s, count))
        while len(points) > 2 and points[1][0] <= now_s - WINDOW_S:
            points.popleft()
        began_s, first = points[0]
        return round((count - first) / (now_s - began_s)) if now_s > began_s else 0
