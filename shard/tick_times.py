"""How long the last ticks took, as a shard tells it in its heartbeat: `perdure status`, dashboards and benches read it from the view.

Owns a window of the last ticks. The histograms of shard.metrics have all ticks, but not the longest. Called by tick_loop.
"""

from __future__ import annotations

from collections import deque

WINDOW = 256
"""Ticks that are remembered: some 13 s at 20 Hz."""
AGAIN = 16
"""What is told is worked out anew after so many ticks: heartbeats ask more often."""


class TickTimes:
    """The durations of the last ticks, or of a part of each, in seconds."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._told: dict[str, float] = {}
        self._since = AGAIN
        """Ticks since that was worked out."""

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        self._since += 1

    def told(self) -> dict[str, float]:
        """Return {"mean", "p50", "p99", "longest"} of the last ticks but AGAIN at most, in milliseconds; {} before the first."""
        if self._last and self._since >= AGAIN:
            self._told, self._since = self._work_out(), 0
        return self._told

    def _work_out(self) -> dict[str, float]:
        taken = sorted(self._last)
        found = {"mean": sum(taken) / len(taken), "p50": _quantile(taken, 0.5), "p99": _quantile(taken, 0.99), "longest": taken[-1]}
        return {name: round(value * 1e3, 3) for name, value in found.items()}


def _quantile(ordered: list[float], share: float) -> float:
    """Return a quantile, linear between two values. (NumPy's takes ten times as long for so few, several times a second.)"""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
