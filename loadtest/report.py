"""What players measure, as rows of Locust's statistics, and how long each may take.

Owns the rows' names and bounds. Imports nothing of Locust's, which patches Python's sockets when it is imported. Called by player
(names) and locustfile (`Report`, `bounds_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

BOUNDS_MS = {
    "connect": 5000.0, "hello to first snapshot": 5000.0, "command to effect": 500.0, "snapshot jitter": 500.0, "crossing gap": 500.0,
    "blackout (failover)": 1000.0, "blackout (socket broke)": 10_000.0, "bytes per player and second": float("inf"),
    "queue": float("inf"),
}  # fmt: skip
"""Row -> milliseconds (or bytes) that it may take. `--bound "ROW=MS"` changes one."""


class Measures(Protocol):
    """What a player tells of: times in seconds, or a count of bytes. `name` is a row of the report.

    `late`: what is not over has failed already; it is told once more by `took`, as `judged`, when it is.
    """

    def bound_s(self, name: str) -> float: ...

    def took(self, name: str, seconds: float, *, judged: bool = False) -> None: ...

    def late(self, name: str) -> None: ...

    def counted(self, name: str, count: float) -> None: ...

    def broke(self, name: str, why: str, seconds: float = 0.0) -> None: ...


class BoundBroken(Exception):
    """A row took longer than it may."""


class Broken(Exception):
    """A socket ended, or a command was refused, without the player's asking."""


def bounds_of(given: Iterable[str]) -> dict[str, float]:
    """Return the bounds, with those given ("ROW=MS") changed. Raises ValueError that names the wrong one."""
    bounds = dict(BOUNDS_MS)
    for one in filter(None, given):  # Locust's page sends an empty one for none
        name, _, text = one.rpartition("=")
        try:
            bound = float(text)
        except ValueError:
            bound = -1.0
        if name not in bounds or not 0 < bound < float("inf"):
            raise ValueError(f"--bound {one!r}: it is ROW=MS, with one of the rows {', '.join(bounds)}")
        bounds[name] = bound
    return bounds


class Report:
    """Hands what players measure to `fire` (Locust's `events.request.fire`); over its bound, a row is a failure."""

    def __init__(self, fire: Callable[..., Any], bounds: dict[str, float]) -> None:
        self._fire_event, self._bounds = fire, bounds

    def bound_s(self, name: str) -> float:
        return self._bounds.get(name, float("inf")) / 1000.0

    def took(self, name: str, seconds: float, *, judged: bool = False) -> None:
        """`judged`: its failure has been counted (`late`), and the time is all that is missing."""
        if judged:
            self._fire(name, seconds * 1000.0, 0, None)
        else:
            self._bounded(name, seconds * 1000.0, 0, "ms")

    def late(self, name: str) -> None:
        """Count a failure of what goes on: without a time, which statistics get when it is over."""
        self._fire(name, None, 0, BoundBroken(f"not over within its bound of {self._bounds[name]:g} ms"))

    def counted(self, name: str, count: float) -> None:
        """A row of bytes, where the others have milliseconds: their columns are the only ones with percentiles."""
        self._bounded(name, count, round(count), "bytes")

    def broke(self, name: str, why: str, seconds: float = 0.0) -> None:
        self._fire(name, seconds * 1000.0, 0, Broken(why))

    def _bounded(self, name: str, value: float, size: int, unit: str) -> None:
        bound = self._bounds.get(name)
        over = bound is not None and value > bound
        self._fire(name, value, size, BoundBroken(f"over its bound of {bound:g} {unit}") if over else None)

    def _fire(self, name: str, value: float | None, size: int, fault: Exception | None) -> None:
        self._fire_event(request_type="player", name=name, response_time=value, response_length=size, exception=fault, context={})
