"""The pace of a zone under load: the ladder of what is given up, one rung after the other, and the way back.

Rungs, in this order: far entities update less often; snapshots go out less often; the zone's own clock slows, down to a tenth
(time dilation: rules count ticks, so everything that they time slows alike). A zone climbs while its ticks cost more than its share of the
shard's processor time, and comes down once the rung below would cost clearly less.

Owns the table of rungs and where a zone stands on it. Never measures, reads no clock, ticks nothing: times come in from the tick loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FAR_EVERY = 4
"""From the first rung on, far entities (kernels.encode.FAR_SHARE) update with every so many ticks."""
BUDGET = 0.7
"""Share of a thread's time that the zones' ticks may take; the rest is for commits, sends and what else there is."""
EVALUATE_S = 0.25
CALM_S = 1.5
"""So long the rung below must have been affordable before a zone comes down to it."""
COMFORT = 0.8
"""A rung is affordable where it would cost at most this part of the share: a zone on the brink does not go up and down."""
FAR_COSTS = 1.6
"""What encoding is taken to cost more where far entities update at every tick."""
SMOOTH = 0.2
"""Weight of the newest tick in a zone's mean costs."""


@dataclass(frozen=True, slots=True)
class Rung:
    """`far_every`: far entities update every so many ticks. `snapshot_every`: a snapshot every so many ticks. `clock_percent`: of the
    game's tick rate."""

    name: str
    far_every: int
    snapshot_every: int
    clock_percent: int


RUNGS: tuple[Rung, ...] = (
    Rung("calm", 1, 1, 100),
    Rung("far", FAR_EVERY, 1, 100),
    Rung("snapshots", FAR_EVERY, 2, 100),
    Rung("snapshots", FAR_EVERY, 3, 100),
    Rung("dilation", FAR_EVERY, 3, 80),
    Rung("dilation", FAR_EVERY, 3, 65),
    Rung("dilation", FAR_EVERY, 3, 50),
    Rung("dilation", FAR_EVERY, 2, 30),  # with the clock so slow, snapshots would be too rare at every third tick
    Rung("dilation", FAR_EVERY, 2, 20),
    Rung("dilation", FAR_EVERY, 1, 10),
)
MOST_SNAPSHOT_EVERY = max(rung.snapshot_every for rung in RUNGS)


class Pace:
    """One zone's place on the ladder. `interval_s`: between two ticks at full rate."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._step_s = self._encode_s = 0.0
        self._known = False
        self._own = self._lowest = 0
        """The rung that the zone's own cost wants; the one that it may not be below (shard.relief)."""
        self._calm_since_s: float | None = None
        self._credit = 1.0

    @property
    def known(self) -> bool:
        """Is it known what a tick with a snapshot costs?"""
        return self._known

    @property
    def rung(self) -> Rung:
        return RUNGS[self.level]

    @property
    def level(self) -> int:
        """How many rungs up the zone is; 0 is calm."""
        return max(self._own, self._lowest)

    @property
    def relieves(self) -> bool:
        """Is the zone where it is because a gateway does not keep up?"""
        return self._lowest > self._own

    @property
    def interval_s(self) -> float:
        """Between two ticks, as it is now."""
        return self._interval_s * 100 / self.rung.clock_percent

    @property
    def cost_s(self) -> float:
        """What one tick costs with its snapshot, lately."""
        return self._step_s + self._encode_s

    def of_step_s(self) -> float:
        """Return what stepping costs of that."""
        return self._step_s

    def of_encode_s(self) -> float:
        """Return what a snapshot costs of that."""
        return self._encode_s

    def took(self, step_s: float, encode_s: float | None) -> None:
        """A tick has cost so much; `encode_s` None: it had no snapshot."""
        weight = SMOOTH if self._known else 1.0
        self._step_s += weight * (step_s - self._step_s)
        if encode_s is not None:
            self._encode_s += weight * (encode_s - self._encode_s)
            self._known = True

    def ticks_now(self) -> bool:
        """Asked at every tick of the shard: is this zone to tick with it? At 50 % it is every other time."""
        self._credit += self.rung.clock_percent / 100
        if self._credit < 1.0:
            return False
        self._credit = min(self._credit - 1.0, 1.0)
        return True

    def _cost(self, level: int) -> float:
        """Return what an interval of the full rate would cost on a rung."""
        rung = RUNGS[level]
        encode_s = self._encode_s
        if rung.far_every == 1 and self.rung.far_every > 1:
            encode_s *= FAR_COSTS
        return (self._step_s + encode_s / rung.snapshot_every) * rung.clock_percent / 100

    def calm(self) -> None:
        """Come down at once: nobody is there any more who could notice."""
        self._own, self._lowest, self._calm_since_s = 0, 0, None

    def weigh(self, now_s: float, share_s: float, lowest: int = 0) -> bool:
        """Compare with the zone's share of an interval, once in EVALUATE_S; return whether it went up or down the ladder.

        `lowest`: the rung that it may not be below, whatever it costs (shard.relief).
        """
        before, self._lowest = self.level, lowest
        self._weigh(now_s, share_s)
        return self.level != before

    def _weigh(self, now_s: float, share_s: float) -> None:
        if self._cost(self._own) > share_s:
            self._calm_since_s = None
            self._own = min(self._own + 1, len(RUNGS) - 1)
        elif self._own == 0 or self._cost(self._own - 1) > COMFORT * share_s:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        elif now_s - self._calm_since_s >= CALM_S:
            self._calm_since_s = now_s
            self._own -= 1


def share_of(costs_s: Sequence[float], interval_s: float, threads: int) -> float:
    """Return how much of an interval a zone may take, where zones want `costs_s` each: the most that, given to all who want more, fits.

    (Max-min fairness.) One thread's budget at most, since one zone ticks in one thread.
    """
    left_s, most_s = threads * BUDGET * interval_s, BUDGET * interval_s
    wanting = sorted(costs_s)
    for at, cost_s in enumerate(wanting):
        even_s = left_s / (len(wanting) - at)
        if cost_s > even_s:
            return min(even_s, most_s)
        left_s -= cost_s
    return most_s
