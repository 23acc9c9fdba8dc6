"""Whose command makes a zone's rules fail? Pure; called by shard.mending.

A tick that fails never happened, so it may be tried again with fewer commands, as often as it takes. What fails with a player's command
and not without it is proven; nobody is put out for having been there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

TOGETHER_TIMES = 3
"""At so many failures that took several players' commands together, who had a part in all of them is put out."""


def culprits(players: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> list[int] | None:
    """Return players whose commands make the tick fail together, and without any one of whom they do not; None where there are none.

    `fails` tells whether a tick with the commands of some players fails; it does with all `players`, and does not with none. One player is
    found in log2(n) + 1 tries: in the order given, there is a first one with whom the tick fails. If it takes others of those before
    him, they are found in the same way, with him always there.
    """
    found: list[int] = []
    left = list(players)
    while not (found and fails(found)):
        passing, failing = 0, len(left)  # with found + left[:passing] the tick does not fail, with found + left[:failing] it does
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if fails([*left[:middle], *found]):
                failing = middle
            else:
                passing = middle
        if failing == 0:
            return None  # the rules do not fail in the same way each time
        found.insert(0, left[failing - 1])
        left = left[: failing - 1]
    return found


class Suspects:
    """Counts, for each zone, at how many failures that took several a player had a part."""

    def __init__(self) -> None:
        self._of: dict[int, Counter[int]] = {}

    def proven(self, zone: int, found: Sequence[int]) -> frozenset[int]:
        """A tick failed on the commands of these together. Return who must be put out: one alone at once, several when they do it again
        and again, since each of them alone may mean no harm."""
        if len(found) == 1:
            return frozenset(found)
        counts = self._of.setdefault(zone, Counter())
        counts.update(found)
        guilty = frozenset(player for player in found if counts[player] >= TOGETHER_TIMES)
        for player in guilty:
            del counts[player]
        return guilty

    def forget(self, zone: int) -> None:
        """The zone does not run here any more."""
        self._of.pop(zone, None)
