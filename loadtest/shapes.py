"""How many players there are at each moment of a load test, and which scenario they play: what Locust calls a load shape.

Pure: no clock, nothing of Locust's. The classes that Locust takes stand in locustfile, one for each of these. Called by locustfile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

STEPS = 20
"""A ramp has so many steps: Locust waits until all players of one have come."""
EBB_SHARE = 0.5
"""So great a part of the players goes, and comes back, in each wave of a churn."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What whoever runs the test has asked for: Locust's --users, --spawn-rate and --run-time (0: none), and --every."""

    users: int
    spawn_rate: float
    run_time_s: float
    every_s: float


Wanted = tuple[int, float]
"""Players that there shall be, and how many of them come or go a second."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`players_at(seconds since the start, what was asked for)`."""

    about: str
    scenario: str
    players_at: Callable[[float, Asked], Wanted]

    def tick(self, passed_s: float, asked: Asked) -> Wanted | None:
        """As `players_at`; None once the run time is over."""
        return None if asked.run_time_s and passed_s >= asked.run_time_s else self.players_at(passed_s, asked)


def _all(_: float, asked: Asked) -> Wanted:
    return asked.users, asked.spawn_rate


def _ramp(passed_s: float, asked: Asked) -> Wanted:
    """Evenly over the first three quarters of the run; without a run time at the spawn rate."""
    ramp_s = asked.run_time_s * 0.75 if asked.run_time_s else asked.users / asked.spawn_rate
    step = min(math.floor(passed_s / ramp_s * STEPS) + 1, STEPS)
    return math.ceil(asked.users * step / STEPS), max(asked.spawn_rate, asked.users / STEPS)


def _waves(passed_s: float, asked: Asked) -> Wanted:
    ebb = int(passed_s / asked.every_s) % 2
    return max(1, math.ceil(asked.users * (1.0 - EBB_SHARE * ebb))), asked.spawn_rate


RAMP = Shape("players come in twenty even steps over the run's first three quarters; the last quarter has all of them", "steady", _ramp)
HOTSPOT = Shape("all come and walk to one point", "hotspot", _all)
PATROL = Shape("all come and walk to and fro over every border", "patrol", _all)
CHURN = Shape("players log out and come again; and every --every seconds half of all go, or come again", "churn", _waves)
STORM = Shape("all come, and all their sockets break at one moment, every --every seconds", "storm", _all)
KILLS = Shape("all come, and a shard is killed every --every seconds", "kill", _all)

SHAPES = {"ramp": RAMP, "hotspot": HOTSPOT, "patrol": PATROL, "churn": CHURN, "storm": STORM, "kill": KILLS}
