"""The last minutes of the cluster as numbers for charts: one sample a second, out of the views that are read anyway.

Owns a bounded ring of samples. Pure. Called by `steering` and by `perdure top`; read by `live_feed`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from coordinator.live_picture import totals
from perdure.ledger.values import ClusterView

SAMPLES_KEPT = 180
SAMPLE_EVERY_MS = 1000.0
TREND_FIELDS = ("tick_ms_p50", "tick_ms_p99", "commit_ms_p50", "commit_ms_p99", "players", "bytes_s")


class Trends:
    """See the module docstring."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, list[Any]]] = deque(maxlen=SAMPLES_KEPT)

    def observe(self, now_ms: float, view: ClusterView) -> None:
        """Take a sample of this view, unless there is one of the same second."""
        if self._samples and now_ms - self._samples[-1][0] < SAMPLE_EVERY_MS:
            return
        found = totals(view)
        self._samples.append((now_ms, [found[name] for name in TREND_FIELDS]))

    def to_json(self, now_ms: float) -> dict[str, Any]:
        """Return {"fields", "samples"}: a sample is its age in ms and the values of `fields`, oldest first."""
        return {"fields": list(TREND_FIELDS), "samples": [[round(now_ms - at_ms), *values] for at_ms, values in self._samples]}
