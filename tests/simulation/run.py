"""One simulated run: a seed gives a cluster, players, faults and what became of it."""

from __future__ import annotations

import gc
import hashlib
import random
import time as real_time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from perdure.wire.identifiers import player_key
from tests.simulation.clock import Machines, Patch, patched, simulated_time
from tests.simulation.cluster import ROOMY, TIGHT, Cluster, next_program, production_in_one_process, program, traced
from tests.simulation.faults import Faults, is_tight
from tests.simulation.players import Player
from tests.simulation.watch import Watch

SHORT_GRACE = 1 / 3
"""So many of the runs have a grace time that players outlive who are cut off, and come back from the lobby."""
FAULTS_FROM_S, REST_S, SETTLED_S = 4.0, 14.0, 3.0
CALM_AFTER_S = 10.0
"""So long after the last fault everybody has found everybody again."""
TRACE_LINES = 4000
PERF = real_time.perf_counter


@dataclass
class Outcome:
    """What a run came to. `violations` is empty where every invariant held."""

    seed: int
    simulated_s: float
    violations: list[str]
    faults: Counter[str]
    figures: dict[str, Any] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def fingerprint(self) -> str:
        """The same for the same seed, whatever the machine."""
        return hashlib.blake2b(repr((self.figures, self.violations)).encode(), digest_size=8).hexdigest()


def simulate(seed: int, simulated_s: float = 60.0, players: int = 6, faults: bool = True, kinds: tuple[str, ...] = ()) -> Outcome:
    """Run seed `seed` for so many virtual seconds, faults stopping in time for everybody to be well again at the end."""
    capacity = TIGHT if faults and is_tight(seed, kinds) else ROOMY
    next_program(capacity)
    collects = gc.isenabled()
    gc.disable()  # what a run leaves behind is small, and the compiler's objects are many
    try:
        return _simulate(seed, simulated_s, players, faults, kinds, capacity)
    finally:
        if collects:
            gc.enable()


def _simulate(seed: int, simulated_s: float, players: int, faults: bool, kinds: tuple[str, ...], capacity: int) -> Outcome:
    started = PERF()
    machines = Machines(seed)
    lines: deque[tuple[float, str, str, dict[str, Any]]] = deque(maxlen=TRACE_LINES)
    grace_s = _short_grace_s(seed, kinds)
    with simulated_time(machines, seed), production_in_one_process(), traced(machines, lines), patched(_with_grace(grace_s, capacity)):
        chance = random.Random(seed ^ 0xC1)
        cluster = Cluster(machines, seed, shards=chance.randint(2, 4), gateways=chance.randint(1, 2), capacity=capacity)
        crowd: list[Player] = []
        machines.run(2.0)
        for number in range(players):
            crowd.append(Player(cluster, number, seed))
        last_s, cut_offs = simulated_s - REST_S, grace_s > 0.0 and not kinds
        plan = Faults(cluster, crowd, seed, FAULTS_FROM_S, last_s, kinds, cut_offs) if faults else None
        checks, watch = cluster.checks, Watch(cluster)
        checks.sights.slowed = lambda: any(
            pace.level for one in cluster.shards_alive().values() for pace in one.ticks.pacing.paces.values()
        )
        checks.sights.strict_until_s = FAULTS_FROM_S if faults else simulated_s
        checks.sights.calm_from_s = simulated_s - REST_S + CALM_AFTER_S
        at = 2.0
        while at < simulated_s and not checks.violations and not machines.faults:
            at = min(at + 1.0, simulated_s)
            machines.run(at)
            watch.look()
        if not checks.violations and not machines.faults:
            _all_well(cluster, crowd, simulated_s)
            for player in crowd:
                player.resting = True
            machines.run(simulated_s + SETTLED_S)
            watch.at_rest(crowd)
            for name in cluster.alive("shard"):
                machines.processes[name].kill()
            machines.run(simulated_s + SETTLED_S + 0.1)
            checks.at_rest([player.name for player in crowd], checks.zones_opened())
        violations = [*checks.violations, *(f"{at:.3f} s: unhandled in {name}: {context}" for at, name, context in machines.faults)]
        figures = {
            "commits": checks.commits, "snapshots": checks.snapshots, "acknowledged": checks.acknowledged, "steps": machines.steps,
            "handovers": checks.handovers, "effects": checks.effects, "places": watch.places_looked_at, "refused": checks.arrivals_refused,
            "ghosts_seen": checks.sights.ghosts_seen, "owned_seen": checks.sights.owned_seen, "calm_seen": checks.sights.calm_seen,
            "closes": sum(len(player.closes) for player in crowd), "digests": [truth.replica.digest for truth in checks.zones],
        }  # fmt: skip
        trace = [_line(*line) for line in lines]
        happened = plan.happened if plan is not None else []
        machines.close()
    trace = sorted([*trace, *(f"{when:9.3f}  FAULT  {what}" for when, what in happened)], key=lambda line: float(line.split()[0]))
    counts = plan.counts if plan is not None else Counter()
    return Outcome(seed, machines.now, violations, counts, figures, trace, PERF() - started)


def _short_grace_s(seed: int, kinds: tuple[str, ...]) -> float:
    """Return a grace time of a run's own, or 0 for the game's. Drawn apart, so that no other choice hangs on it."""
    chance = random.Random(seed ^ 0x6ACE)
    short, grace_s = chance.random() < SHORT_GRACE, chance.uniform(1.0, 2.0)
    return grace_s if (short and not kinds) or "cut_off" in kinds else 0.0


def _with_grace(grace_s: float, capacity: int) -> list[Patch]:
    games = [program(capacity).game, next_program(capacity).game] if grace_s else []
    return [(game, "grace_ticks", round(grace_s * game.tick_hz)) for game in games]


def _all_well(cluster: Cluster, crowd: list[Player], now_s: float) -> None:
    """Faults have stopped REST_S ago: everybody plays, everything is run."""
    checks = cluster.checks
    if checks.sights.at_full_rate and not checks.sights.calm_seen and now_s > checks.sights.calm_from_s:
        checks.fail("relief: zones were on a rung of the ladder for as long as it was calm")
    for player in crowd:
        refused_s = checks.login_refused_s.get(player_key(player.name), 0.0)  # its zone is full: it asks again
        if now_s - max(player.last_heard_s + 3.0, refused_s + 6.0) > 0.0:
            checks.fail(f"liveness: {player.name} has seen nothing since {player.last_heard_s:.3f} s; closes {player.closes[-3:]}")
        elif now_s - max(player.last_ack_s, refused_s) > 6.0:
            checks.fail(f"liveness: no command of {player.name} was acknowledged since {player.last_ack_s:.3f} s")


def _line(at: float, process: str, method: str, event: dict[str, Any]) -> str:
    what = event.get("event", "")
    rest = " ".join(f"{key}={value!r}" for key, value in event.items() if key not in ("event", "exc_info"))
    return f"{at:9.3f}  {process:<14} {method:<8} {what} {rest}"
