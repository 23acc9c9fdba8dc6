"""What players measure, as rows of Locust's statistics, and how long each may take.

Owns the rows' names and bounds. Imports nothing of Locust's, which patches Python's sockets when it is imported. Called by player
(names) and locustfile (`Report`, `bounds_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

BOUNDS_MS = {
    "connect": 5000.0, "hello to first snapshot": 5000.0, "command to effect": 500.0, "snapshot jitter": 500.0, "crossing gap": 500.0,
    "blackout (failover)": 1000.0, "blackout (socket broke)": 10_000.0,
}  # fmt: skip
"""Row -> milliseconds that it may take. `--bound "ROW=MS"` changes one."""


class Measures(Protocol):
    """What a player tells of: times in seconds, sizes in bytes. `name` is a row of the report."""

    def took(self, name: str, seconds: float, size: int = 0) -> None: ...

    def broke(self, name: str, why: str, seconds: float = 0.0) -> None: ...


class BoundBroken(Exception):
    """A row took longer than it may."""


class Broken(Exception):
    """A socket ended, or a command was refused, without the player's asking."""


def bounds_of(given: Iterable[str]) -> dict[str, float]:
    """Return the bounds, with those given ("ROW=MS") changed. Raises ValueError that names the wrong one."""
    bounds = dict(BOUNDS_MS)
    for one in given:
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

    def took(self, name: str, seconds: float, size: int = 0) -> None:
        ms = seconds * 1000.0
        over = ms > self._bounds.get(name, float("inf"))
        self._fire(name, ms, size, BoundBroken(f"over its bound of {self._bounds[name]:g} ms") if over else None)

    def broke(self, name: str, why: str, seconds: float = 0.0) -> None:
        self._fire(name, seconds * 1000.0, 0, Broken(why))

    def _fire(self, name: str, ms: float, size: int, fault: Exception | None) -> None:
        self._fire_event(request_type="player", name=name, response_time=ms, response_length=size, exception=fault, context={})
