"""Whose command makes a zone's rules fail? Pure; called by shard.tick_loop.

A tick that fails never happened: its zone is rebuilt from the log, and the gateways send its commands again, poison and all.
So whoever had a command in every failed tick on end is suspect, and whoever had one in a tick that was committed is not.
"""

from __future__ import annotations

from collections.abc import Iterable

FAILURES_FOR_ONE = 2
FAILURES_FOR_SEVERAL = 3


class Suspects:
    """Suspects of each zone (players' keys), and how many failures on end they were seen at."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[frozenset[int], int]] = {}

    def failed(self, zone: int, players: Iterable[int]) -> frozenset[int]:
        """A tick with commands of `players` failed. Return who must be put out: one at the second failure, several at the third."""
        present = frozenset(players)
        known, failures = self._of.get(zone, (present, 0))
        left = known & present
        if not left:  # nobody was at both: another cause, or the rules fail without any command
            left, failures = present, 0
        failures += 1
        if left and failures >= (FAILURES_FOR_ONE if len(left) == 1 else FAILURES_FOR_SEVERAL):
            self._of.pop(zone, None)
            return left
        self._of[zone] = left, failures
        return frozenset()

    def __contains__(self, zone: int) -> bool:
        return zone in self._of

    def passed(self, zone: int, players: Iterable[int]) -> None:
        """A tick with commands of `players` was committed: it was none of these."""
        left, failures = self._of[zone]
        left -= frozenset(players)
        if left:
            self._of[zone] = left, failures
        else:
            del self._of[zone]
