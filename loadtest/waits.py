"""Something that a player waits for, as one row of the report: it fails when its bound has passed, not when it is over.

So a run on a world in which nothing comes any more has failed. No clock. Called by player.
"""

from __future__ import annotations

from loadtest.report import Measures


class Wait:
    """One thing that is waited for, again and again; not begun, it does nothing.

    It fails once. How long it took is told when it is over, and of one that has failed also when nobody waits any more: a time at least.
    """

    __slots__ = ("_measures", "bound_s", "late", "row", "since_s")

    def __init__(self, measures: Measures, row: str) -> None:
        self._measures, self.row, self.bound_s = measures, row, measures.bound_s(row)
        self.since_s = 0.0
        """When it began (monotonic); 0: nothing is waited for."""
        self.late = False

    def begin(self, now_s: float) -> None:
        self.since_s, self.late = now_s, False

    def look(self, now_s: float) -> None:
        """Fail, if the bound has passed."""
        if self.since_s and not self.late and now_s - self.since_s > self.bound_s:
            self.late = True
            self._measures.late(self.row)

    def over(self, now_s: float) -> None:
        """What was waited for is there."""
        if self.since_s:
            self._measures.took(self.row, now_s - self.since_s, judged=self.late)
        self.since_s, self.late = 0.0, False

    def end(self, now_s: float) -> None:
        """It will not come."""
        if self.late:
            self.over(now_s)
        self.since_s = 0.0
