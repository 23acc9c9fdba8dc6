"""What a player sees over the border of a zone whose shard is killed: it stays in sight, marked as stale, and goes on under its id."""

from __future__ import annotations

import signal

import pytest

from perdure.client.protocol import Received, Stale
from perdure.client.world_view import EntityView, Snapshot
from perdure.ledger.values import ClusterView
from perdure.wire.identifiers import player_key
from tests.faults.conftest import GRID, Lab, Player

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
NEAR = 15.0
"""How far from the border each of the two stands; they see each other up to 40."""


class Viewer(Player):
    """A player who notes of every snapshot from `looks_at` on how it is shown another one, and which neighbours were stale."""

    def __init__(self, lab: Lab, name: str) -> None:
        super().__init__(lab, name)
        self._seen_key, self._seen_id = 0, 0
        self.was_stale: set[int] = set()

    def looks_at(self, name: str) -> None:
        """From now on that player is in sight, or it is a fault."""
        self._seen_key = player_key(name)
        self._seen_id = self.sights(self._seen_key)[0].id

    def sights(self, key: int) -> list[EntityView]:
        return [entity for entity in self.client.world.entities.values() if entity.key == key]

    @property
    def seen_at(self) -> tuple[float, float]:
        entity = self.client.world.entities[self._seen_id]
        return float(entity.x), float(entity.y)

    @property
    def stale(self) -> frozenset[int]:
        return self.client.world.stale_zones

    def _saw(self, received: Received) -> None:
        super()._saw(received)
        if isinstance(received, Stale):
            self.was_stale.update(received.frozen)
        if isinstance(received, Snapshot) and self._seen_key:
            ids = [entity.id for entity in self.sights(self._seen_key)]
            if ids != [self._seen_id]:
                self.faults.append(f"tick {received.tick}: shown as {ids}, not as {self._seen_id} alone; stale: {sorted(self.stale)}")


def neighbours(view: ClusterView) -> list[tuple[int, int]]:
    """Return pairs of zones side by side, the left one first, that different shards run."""
    pairs = [(zone, zone + 1) for zone in range(GRID.zones) if zone % GRID.columns < GRID.columns - 1]
    return [(a, b) for a, b in pairs if view.zones[a].owner != view.zones[b].owner]


async def test_who_is_seen_over_a_border_whose_shard_is_killed_stays_in_sight_stale_and_then_goes_on(lab: Lab) -> None:
    here, there = neighbours(await lab.until("neighbours at different shards", lambda v: bool(neighbours(v))))[0]
    _, y0, border, y1 = GRID.bounds(here)
    y = (y0 + y1) / 2
    async with Viewer(lab, "viewer") as viewer, lab.player("seen") as seen:
        await seen.goes(border + NEAR, y)
        await viewer.goes(border - NEAR, y)
        key = player_key("seen")
        await viewer.until("the other over the border", lambda: len(viewer.sights(key)) == 1 and not viewer.stale)
        viewer.looks_at("seen")
        assert there not in viewer.was_stale
        await viewer.until("where it went", lambda: viewer.seen_at == (border + NEAR, y))

        before = (await lab.until("still different shards", lambda v: (here, there) in neighbours(v))).zones[there]
        # A successor may have the zone within a tick, so that nobody would see it stale: let there be none for a moment.
        coordinators = [name for name in lab.cluster.pids if name.startswith("coordinator")]
        for name in coordinators:
            lab.cluster.send_signal(name, signal.SIGSTOP)
        await lab.cluster.kill(before.owner)
        await viewer.until("that it is stale", lambda: there in viewer.was_stale)
        for name in coordinators:
            lab.cluster.send_signal(name, signal.SIGCONT)
        await viewer.until("that it is so no more", lambda: there not in viewer.stale)
        assert viewer.seen_at == (border + NEAR, y)
        route = (await lab.view()).zones[there]
        assert route.owner not in ("", before.owner)
        assert route.epoch > before.epoch

        await seen.goes(border + NEAR + 5, y + 5)
        await viewer.until("where it went then", lambda: viewer.seen_at == (border + NEAR + 5, y + 5))
        viewer.check()
        seen.check()
