"""Who of the players came into the world: a run that most of them never came into has proved nothing, whatever the others felt.

Pure: no clock, nothing of Locust's. Each process counts its own; the one that leads adds them up. Called by locustfile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Counted(Protocol):
    """A player as the census knows it. `entered`: it has been in the world."""

    entered: bool

    def judge(self, now_s: float) -> None: ...


class Census:
    """`grace_s`: who is here for no longer than that need not have come yet."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._here: dict[Counted, float] = {}
        self._came = self._missed = 0

    def joins(self, player: Counted, now_s: float) -> None:
        """A player begins to try."""
        self._here[player] = now_s

    def leaves(self, player: Counted, now_s: float) -> None:
        """A player is told to go."""
        since_s = self._here.pop(player, None)
        if since_s is not None:
            self._came += player.entered
            self._missed += not player.entered and now_s - since_s > self._grace_s

    def here(self) -> list[Counted]:
        """Return who tries or plays now."""
        return list(self._here)

    def count(self, now_s: float) -> tuple[int, int]:
        """Return how many came, and how many never did though there was time."""
        came = sum(player.entered for player in self._here)
        missed = sum(not player.entered and now_s - since_s > self._grace_s for player, since_s in self._here.items())
        return self._came + came, self._missed + missed


def verdict(counts: Iterable[tuple[int, int]], share: float) -> str:
    """Return what is wrong with a run of which these are the counts, or an empty string. `share`: so many of the players must have come."""
    pairs = list(counts)
    came, missed = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    if not came:
        return "nobody came into the world: do gateways and workers run?"
    if came < share * (came + missed):
        return f"{missed} of {came + missed} players never came into the world: at least {100 * share:g} % are to (--entered)"
    return ""
