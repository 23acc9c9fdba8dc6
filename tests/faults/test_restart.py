"""The whole cluster ends, in order or all at once, and another one on the same folder goes on where it was."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cli.local_cluster import ClusterFault, LocalCluster
from perdure.wire.identifiers import LOBBY, player_key
from tests.faults.conftest import GRID, PACES, Lab

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="perdure-restart-") as name:
        yield Path(name)


def cluster_in(folder: Path, zones: str = "3x2") -> LocalCluster:
    return LocalCluster(shards=2, zones=zones, game=str(PACES), folder=folder)


async def test_a_world_outlives_its_whole_cluster(folder: Path) -> None:
    async with cluster_in(folder) as cluster:
        lab = Lab(cluster)
        async with lab.player("gone") as gone, lab.player("stays") as stays:
            await gone.goes(120, 150)
            await gone.client.leave()
            await stays.goes(250, 50)
            await stays.goes(20, 20)
        cluster.send_signal("shard-1", signal.SIGTERM)
        assert await cluster.ended_of("shard-1") == 0
        await lab.zones_run_by({"shard-2"})
        cluster.send_signal("shard-2", signal.SIGTERM)  # the last: nobody is there to take its zones
        assert await cluster.ended_of("shard-2") == 0
        for zone in range(GRID.zones):
            head = await cluster.ledger.zone_head(zone)
            assert head.checkpoints[0][0] == head.tick, "it left without a checkpoint of its last tick"
        saved = await cluster.ledger.player(player_key("gone"))
        assert saved is not None
        assert saved.presence.place == LOBBY
        ended = await lab.view()
        assert not [m for m in ended.members.values() if m.kind == "shard"]

    async with cluster_in(folder) as cluster:
        lab = Lab(cluster)
        view = await lab.view()
        assert all(view.ticks[zone] > tick for zone, tick in ended.ticks.items())
        assert all(view.zones[zone].epoch > route.epoch for zone, route in ended.zones.items())
        async with lab.player("gone") as gone, lab.player("stays") as stays:
            assert (gone.place, gone.steps) == ((120, 150), 1)
            assert (stays.place, stays.steps) == ((20, 20), 2)
            await asyncio.gather(gone.goes(20, 20), stays.goes(280, 180))
            # Then the machine loses its power, in the middle of a command.
            gone.go(150, 150)
            cluster.server.kill()
            for pid in list(cluster.pids.values()):
                os.kill(pid, signal.SIGKILL)
            applied = gone.steps

    with pytest.raises(ClusterFault, match="3x2"):
        await cluster_in(folder, zones="2x2").start()

    async with cluster_in(folder) as cluster:
        lab = Lab(cluster)
        async with lab.player("gone") as gone, lab.player("stays") as stays:
            assert gone.steps >= applied, "a snapshot had shown what the log has not"
            assert (stays.place, stays.steps) == ((280, 180), 3)
            await gone.goes(150, 50)
            await lab.one_body_each(["gone", "stays"])
