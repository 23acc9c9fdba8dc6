"""When gateways are told at which time a shard reads (shard.reading), so that what they send is there in time and comes in one piece.

A schedule of ticks is even: who knows one time knows all. So it is told when somebody asks, when it has changed, a few times after that,
since whoever hears of it may be busy at that moment, and then now and then, since clocks differ.

Owns what was told. Never sends. Called by shard.link_server.
"""

from __future__ import annotations

from perdure.wire.link import AT_ONCE_US

OFF_S = 0.001
"""A schedule is another one where it is so much off what was told."""
AGAIN_TICKS = 8
"""So many ticks in a row tell of a change."""
AGAIN_S = 2.0


class ReadSchedule:
    """As gateways know it."""

    def __init__(self) -> None:
        self._next_s: float | None = None
        self._known = False
        """Is anybody told?"""
        self._again, self._told_s = 0, 0.0

    def asked(self) -> None:
        """Somebody asks who does not know it."""
        self._known, self._again = True, AGAIN_TICKS

    def told(self, now_s: float, next_s: float | None, interval_s: float) -> tuple[int, int] | None:
        """Return what is to be told now (wire.link.READS_STRUCT), if anything. next_s: when this shard reads, None: as things come."""
        if not self._known:
            return None
        changed = self._is_off(next_s, interval_s)
        if changed:
            self._next_s, self._again = next_s, AGAIN_TICKS
        elif not self._again and now_s - self._told_s < AGAIN_S:
            return None
        self._again, self._told_s = max(self._again - 1, 0), now_s
        return (AT_ONCE_US if next_s is None else round((next_s - now_s) % interval_s * 1e6)), int(changed)

    def _is_off(self, next_s: float | None, interval_s: float) -> bool:
        if next_s is None or self._next_s is None:
            return next_s is not self._next_s
        off = (next_s - self._next_s) / interval_s
        return abs(off - round(off)) * interval_s > OFF_S
