"""Gateways that do not keep up with what they are sent, and what is given up for them: fewer snapshots of the zones that they show.

What a gateway costs is sends, one for each player and snapshot. One that gets too little of a processor would show its players an ever
older world, until its link is cut for what piles up; so zones whose snapshots it has not taken in time go up to a rung of fewer ones
(shard.pace), and come down when it has kept up for a while. One that takes nothing at all is another matter (it hangs, or is cut off):
nobody else is given less for it.

Owns which gateways these are. Never reads a clock or a link: what shard.link_server says of them comes in from the tick loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

LEVELS = (0, 2, 3)
"""Rungs of shard.pace.RUNGS: no relief; every second snapshot; every third. (Smaller snapshots, the first rung, cost as many sends.)"""
LOOKS = 4
"""So often in a row a gateway must be found behind (once in pace.EVALUATE_S): a burst of full snapshots is no overload."""
HOLD_S, MOST_HOLD_S = 1.5, 24.0
"""So long a gateway must have kept up before it is sent more again; twice as long each time that this was too early, and half as long
where it has kept up with more already: who needs no relief any more is not kept waiting for each rung."""
CATCHES_UP, FADES = 0.75, 0.95
"""A gateway that is behind by less than this part of what it was of late catches up: it is sent little enough. What was of late fades, with
each look, to this part."""
HOPELESS_S, RENEW_EVERY_S = 3.0, 10.0
"""A gateway that is so far behind gets a new link, and full snapshots on it; no more often, since that costs it something too."""
REGRET_S = 10.0
"""It was too early where the gateway has fallen behind again so soon."""


@dataclass(slots=True)
class _Relief:
    at: int = 0
    """Place in LEVELS."""
    looks: int = 0
    worst_s: float = 0.0
    """How far it was behind of late."""
    kept_up_since_s: float = 0.0
    lowered_s: float = float("-inf")
    hold_s: float = HOLD_S
    comes_down: bool = False
    """It is where it is because it has kept up, not because it fell behind."""
    linked_s: float = 0.0
    renewed_s: float = float("-inf")


class Relief:
    """What each gateway is spared."""

    def __init__(self) -> None:
        self._gateways: dict[int, _Relief] = {}

    def rung(self, gateway: int) -> int:
        """Return the lowest rung on which zones may be that this gateway shows."""
        one = self._gateways.get(gateway)
        return 0 if one is None else LEVELS[one.at]

    @property
    def rungs(self) -> dict[int, int]:
        """Gateways that are spared something, and their rungs."""
        return {gateway: LEVELS[one.at] for gateway, one in self._gateways.items() if one.at}

    def look(self, now_s: float, behind: Mapping[int, float], silent: Collection[int], linked: Collection[int]) -> list[int]:
        """Weigh who is behind by how many seconds; return the gateways whose rung has changed.

        Of who is `silent`, or not `linked` just now, nothing is known: what was found before stands. Who is not linked for long is
        forgotten.
        """
        changed: list[int] = []
        for gateway in linked:
            if gateway in self._gateways:
                self._gateways[gateway].linked_s = now_s
        self._gateways = {gateway: one for gateway, one in self._gateways.items() if now_s - one.linked_s < REGRET_S}
        for gateway, behind_s in behind.items():
            one = self._gateways.setdefault(gateway, _Relief(linked_s=now_s))
            one.looks = one.looks + 1 if behind_s >= CATCHES_UP * one.worst_s else 0
            one.worst_s, one.kept_up_since_s = max(behind_s, FADES * one.worst_s), now_s
            if one.looks >= LOOKS and one.at + 1 < len(LEVELS):
                if now_s - one.lowered_s < REGRET_S:
                    one.hold_s = min(2 * one.hold_s, MOST_HOLD_S)
                one.at, one.looks, one.worst_s, one.comes_down = one.at + 1, 0, behind_s, False
                changed.append(gateway)
        for gateway, one in list(self._gateways.items()):
            if gateway in silent or gateway not in linked:
                one.kept_up_since_s = now_s
            elif gateway not in behind:
                self._kept_up(gateway, one, now_s, changed)
        return changed

    def _kept_up(self, gateway: int, one: _Relief, now_s: float, changed: list[int]) -> None:
        one.looks, one.worst_s = 0, 0.0
        hold_s = max(HOLD_S, one.hold_s / 2) if one.comes_down else one.hold_s
        if one.at and now_s - one.kept_up_since_s >= hold_s:
            one.at, one.kept_up_since_s, one.lowered_s, one.comes_down = one.at - 1, now_s, now_s, True
            changed.append(gateway)
        elif not one.at and now_s - one.lowered_s >= REGRET_S:
            del self._gateways[gateway]

    def is_hopeless(self, gateway: int, now_s: float, behind_s: float) -> bool:
        """Is this gateway so far behind that it is to begin anew, with a link on which nothing waits? So it is now and then, at most."""
        one = self._gateways.get(gateway)
        if one is None or behind_s < HOPELESS_S or now_s - one.renewed_s < RENEW_EVERY_S:
            return False
        one.renewed_s = now_s
        return True
