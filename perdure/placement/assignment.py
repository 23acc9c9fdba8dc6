"""Which shard should run which zone: the allocation strategy, as a pure function of counts, loads and the map.

Owns the interface `AllocationStrategy` and the default, `BalancedRegions`. Never does I/O, never looks at a clock, keeps
nothing between calls but the map's neighbour table. Called by the coordinator's cluster state.

Costs are in players: a zone costs about what its players cost, and `ZONE_BASE_COST` for its record, its commit and its frames
whoever is in it. So an idle world is balanced by the count of zones, a busy one by its players, and a handful of players
more here than there moves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from perdure.wire.identifiers import WorldGrid

ZONE_BASE_COST = 20.0
HEAVY_FACTOR = 2.0
"""A zone of more than this many times the mean cost is placed before the others, heaviest first."""
HYSTERESIS_ZONE_SHARE = 0.25
HYSTERESIS_SHARD_SHARE = 0.10
"""A move must better the gap between two shards by more than a quarter of a mean zone and a tenth of a mean shard."""
_EDGE_WEIGHT = 2
_CORNER_WEIGHT = 1

Holdings = Mapping[str, AbstractSet[int]]
"""Shard -> the zones that it runs, or is about to run. Only shards that may be given zones stand in it."""


@dataclass(frozen=True, slots=True)
class Move:
    """One zone that should go from `source` to `target`."""

    zone: int
    source: str
    target: str


class AllocationStrategy(ABC):
    """Where zones go. Implementations are deterministic: equal arguments give equal answers, whatever the dict order."""

    @abstractmethod
    def place(self, zones: Collection[int], holdings: Holdings, costs: Mapping[int, float]) -> dict[int, str]:
        """Return a shard for each of `zones`, none of which is in `holdings`. Empty where there is no shard."""

    @abstractmethod
    def rebalance(self, holdings: Holdings, costs: Mapping[int, float], movable: AbstractSet[int], limit: int) -> list[Move]:
        """Return at most `limit` moves of `movable` zones that level the load; empty where the gain is within the hysteresis."""


class BalancedRegions(AllocationStrategy):
    """Level the load first; among equals prefer the shard that already runs the zone's neighbours.

    Neighbours on one shard exchange their borders in memory, so regions are cheap; but a level load wins over a neat map.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        grid = WorldGrid(float(columns), float(rows), columns, rows)
        self._adjacent: list[list[tuple[int, int]]] = [
            [(other, _weight(zone, other, columns)) for other in grid.neighbours(zone)] for zone in range(grid.zones)
        ]

    def place(self, zones: Collection[int], holdings: Holdings, costs: Mapping[int, float]) -> dict[int, str]:
        if not holdings or not zones:
            return {}
        growth = _Growth(self._adjacent, self._columns, zones, holdings, costs)
        mean = sum(growth.cost(zone) for zone in zones) / len(zones)
        heavy = sorted((z for z in zones if growth.cost(z) > HEAVY_FACTOR * mean), key=lambda z: (-growth.cost(z), z))
        for zone in heavy:
            growth.give(zone, growth.poorest(zone))
        while growth.free:
            shard = growth.poorest()
            growth.give(growth.best_for(shard), shard)
        return growth.placed

    def rebalance(self, holdings: Holdings, costs: Mapping[int, float], movable: AbstractSet[int], limit: int) -> list[Move]:
        if len(holdings) < 2:
            return []
        held = {shard: set(zones) for shard, zones in holdings.items()}
        left = set(movable)
        moves: list[Move] = []
        while len(moves) < limit:
            move = self._best_move(held, costs, left)
            if move is None:
                break
            held[move.source].discard(move.zone)
            held[move.target].add(move.zone)
            left.discard(move.zone)
            moves.append(move)
        return moves

    def _best_move(self, held: Mapping[str, set[int]], costs: Mapping[int, float], movable: AbstractSet[int]) -> Move | None:
        loads = {shard: sum(costs.get(zone, ZONE_BASE_COST) for zone in zones) for shard, zones in held.items()}
        count = sum(len(zones) for zones in held.values())
        if not count:
            return None
        total = sum(loads.values())
        hysteresis = max(HYSTERESIS_ZONE_SHARE * total / count, HYSTERESIS_SHARD_SHARE * total / len(held))
        rich_first = sorted(held, key=lambda shard: (-round(loads[shard], 9), shard))
        poor_first = sorted(held, key=lambda shard: (round(loads[shard], 9), shard))
        for source in rich_first:
            for target in poor_first:
                gap = loads[source] - loads[target]
                if gap <= hysteresis:
                    break  # the targets after this one are richer still
                zone = self._zone_to_move(held[source], held[target], costs, movable, gap, hysteresis, total / count)
                if zone is not None:
                    return Move(zone, source, target)
        return None

    def _zone_to_move(
        self,
        source: AbstractSet[int],
        target: AbstractSet[int],
        costs: Mapping[int, float],
        movable: AbstractSet[int],
        gap: float,
        hysteresis: float,
        mean_cost: float,
    ) -> int | None:
        """Return the zone that levels the gap well and tears the regions least, or None if none is worth a move."""
        remains = {zone: abs(gap - 2 * costs.get(zone, ZONE_BASE_COST)) for zone in source if zone in movable}
        worth = {zone: rest for zone, rest in remains.items() if rest < gap - hysteresis}
        if not worth:
            return None
        best = min(worth.values())
        near = [zone for zone, rest in worth.items() if rest <= best + mean_cost / 2]

        def tear(zone: int) -> tuple[int, int]:
            pull = sum(w for other, w in self._adjacent[zone] if other in target)
            hold = sum(w for other, w in self._adjacent[zone] if other in source)
            return hold - pull, zone

        return min(near, key=tear)


class _Growth:
    """Regions that grow zone by zone: the poorest shard takes next, and takes what touches its region most."""

    def __init__(
        self,
        adjacent: list[list[tuple[int, int]]],
        columns: int,
        zones: Collection[int],
        holdings: Holdings,
        costs: Mapping[int, float],
    ) -> None:
        self._adjacent, self._columns, self._costs = adjacent, columns, costs
        self.free = set(zones)
        self.placed: dict[int, str] = {}
        self._loads = {shard: sum(self.cost(zone) for zone in held) for shard, held in sorted(holdings.items())}
        self._frontier: dict[str, dict[int, int]] = {shard: {} for shard in self._loads}
        self._taken = [zone for held in holdings.values() for zone in held]
        for shard, held in holdings.items():
            for zone in held:
                self._touch(zone, shard)

    def cost(self, zone: int) -> float:
        return self._costs.get(zone, ZONE_BASE_COST)

    def poorest(self, zone: int | None = None) -> str:
        """Return the shard with the least load; among equals the one that touches `zone` most, then the first by name."""

        def rank(shard: str) -> tuple[float, int, str]:
            touch = 0 if zone is None else self._frontier[shard].get(zone, 0)
            return round(self._loads[shard], 9), -touch, shard

        return min(self._loads, key=rank)

    def best_for(self, shard: str) -> int:
        """Return the free zone that touches the shard's region most (then: has fewest free neighbours), or a far seed."""
        frontier = self._frontier[shard]
        if not frontier:
            return self._seed()

        def rank(zone: int) -> tuple[int, int, int]:
            open_sides = sum(1 for other, _ in self._adjacent[zone] if other in self.free)
            return -frontier[zone], open_sides, zone

        return min(frontier, key=rank)

    def give(self, zone: int, shard: str) -> None:
        self.free.discard(zone)
        for frontier in self._frontier.values():
            frontier.pop(zone, None)
        self.placed[zone] = shard
        self._loads[shard] += self.cost(zone)
        self._taken.append(zone)
        self._touch(zone, shard)

    def _touch(self, zone: int, shard: str) -> None:
        frontier = self._frontier[shard]
        for other, weight in self._adjacent[zone]:
            if other in self.free:
                frontier[other] = frontier.get(other, 0) + weight

    def _seed(self) -> int:
        """Return the free zone farthest from all that is taken, so that regions have room to grow."""
        if not self._taken:
            return min(self.free)
        taken = [divmod(zone, self._columns) for zone in self._taken[-64:]]  # bounded: a seed need not be perfect

        def rank(zone: int) -> tuple[int, int]:
            row, column = divmod(zone, self._columns)
            return -min(max(abs(row - r), abs(column - c)) for r, c in taken), zone

        return min(self.free, key=rank)


def _weight(zone: int, other: int, columns: int) -> int:
    row, column = divmod(zone, columns)
    other_row, other_column = divmod(other, columns)
    return _EDGE_WEIGHT if row == other_row or column == other_column else _CORNER_WEIGHT
