"""How long the last ticks took, as a shard tells it in its heartbeat: `perdure status`, dashboards and benches read it from the view.

Owns a window of the last ticks. The histograms of shard.metrics have all ticks, but not the longest. Called by tick_loop.
"""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW = 256
"""Ticks that are remembered: some 13 s at 20 Hz."""


class TickTimes:
    """The durations of the last ticks, or of a part of each, in seconds."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def add(self, seconds: float) -> None:
        self._last.append(seconds)

    def told(self) -> dict[str, float]:
        """Return {"mean", "p50", "p99", "longest"} of the last ticks, in milliseconds; {} before the first."""
        if not self._last:
            return {}
        taken_ms = np.array(self._last) * 1e3
        p50, p99 = np.percentile(taken_ms, (50, 99)).tolist()
        found = {"mean": float(taken_ms.mean()), "p50": p50, "p99": p99, "longest": float(taken_ms.max())}
        return {name: round(value, 3) for name, value in found.items()}
