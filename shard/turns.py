"""When within an interval this shard ticks: the shards of a cluster take turns, spread evenly over it.

Who crosses a border is in the new zone's inbox when the old zone has committed, and enters with the tick after the next commit of the
new one. Were two shards to tick at the same moment, it would be chance which commit comes first, and a crossing would take one interval or
two; and all commits would come to the ledger, all snapshots to the gateways, at once. Turns are told by wall clocks, which need to
agree to some milliseconds; where they do not, or jump, only the turns are off. A schedule moves by a hundredth of an interval a tick.

Owns this shard's turn. Never sleeps, ticks nothing. Called by shard.tick_loop and, with what the view says, by shard.service.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

SLEW = 0.01
"""At most this part of an interval is a tick earlier or later than the game's rate says."""


class Turns:
    """This shard's place among the shards of the cluster."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._part: float | None = None

    def among(self, name: str, shards: Iterable[str]) -> None:
        """Take the turn of `name` among the shards that there are, itself among them; none where it is alone."""
        names = sorted({name, *shards})
        self._part = names.index(name) / len(names) if len(names) > 1 else None

    def slew_s(self, due_s: float) -> float:
        """Return by how much the tick after the one due at `due_s` (monotonic) is to be later (or earlier) than an interval after it."""
        if self._part is None:
            return 0.0
        due_wall_s = time.time() + due_s - time.monotonic()
        off = (self._part - due_wall_s / self._interval_s) % 1.0  # as parts of an interval, how much later its turn is
        nearest = off if off <= 0.5 else off - 1.0
        return min(max(nearest, -SLEW), SLEW) * self._interval_s
