"""What an operator is told of border feeds: two shards side by side over a real link, and one of them dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.values import ClusterView, Member, ZoneRoute
from shard.border_links import BorderLinks
from shard.border_metrics import BorderCollector
from shard.service import ShardService
from tests.unit.shard.shard_lab import SECRET, Shard, playing, shard_in, until
from tests.unit.shard.test_service import SMALL, settings
from tests.unit.shard.zone_lab import program

OWNERS = {0: "shard-1", 1: "viewer"}


def view(shard_1: Shard, owners: dict[int, str]) -> ClusterView:
    zones = {zone: ZoneRoute(zone, owner, 1, 1, "", False) for zone, owner in owners.items()}
    members = {"shard-1": Member("shard-1", "shard", 5, shard_1.address)}
    return ClusterView(1, 1, "", 1, zones, members, {}, {}, frozenset(), "run")


def reader(shard: Shard, links: BorderLinks) -> Callable[..., float]:
    """Return what reads a metric of a shard, as a scrape does."""
    registry = CollectorRegistry()
    registry.register(BorderCollector(shard.ticks.borders, links))

    def read(name: str, direction: str = "") -> float:
        value = registry.get_sample_value(f"perdure_{name}", {"direction": direction} if direction else {})
        assert value is not None, name
        return value

    return read


async def test_feeds_between_shards_are_counted_and_a_silent_neighbour_shows(tmp_path: Path) -> None:
    """shard-1 owns zone 0 and has a player there; the viewer owns zone 1, and wants to be told."""
    there, here = tmp_path / "1", tmp_path / "2"
    there.mkdir()
    here.mkdir()
    async with shard_in(there) as shard_1, shard_in(here) as viewer:
        borders = viewer.ticks.borders
        links = BorderLinks("viewer", SECRET, lambda words: borders.receive(viewer.program, words), borders.cut)
        nobody = BorderLinks("shard-1", SECRET, lambda _: None, lambda _: None)
        told, hears = reader(shard_1, nobody), reader(viewer, links)
        try:
            assert [hears(name) for name in ("feed_links", "feed_links_up", "feeds_stale", "feed_age_seconds")] == [0, 0, 0, 0]
            await playing(shard_1, 0)
            shard_1.ticks.zones[0].rows("man")["x"][0] = 49.0  # the border is at 50
            await viewer.run(1)
            links.follow(view(shard_1, OWNERS), {1: [0]})
            await until(lambda: hears("feed_frames_total", "in") > 3)
            assert (hears("feed_links"), hears("feed_links_up"), hears("feeds", "in"), hears("feeds", "out")) == (1, 1, 1, 0)
            assert (told("feeds", "out"), told("feed_frames_total", "in"), told("feed_frames_dropped_total")) == (1, 0, 0)
            assert told("feed_frames_total", "out") >= hears("feed_frames_total", "in")
            assert told("feed_bytes_total", "out") > 8 * told("feed_frames_total", "out")
            assert hears("feed_bytes_total", "in") <= told("feed_bytes_total", "out")
            assert (hears("feeds_stale"), hears("ghosts_stale")) == (0, 0)

            links.follow(view(shard_1, {**OWNERS, 0: ""}), {1: [0]})  # nobody runs zone 0 now
            await until(lambda: hears("feeds_stale") == 1)
            assert (hears("ghosts_stale"), hears("feed_links")) == (1, 0)
            await until(lambda: hears("feed_age_seconds") > 0.1)
            await until(lambda: told("feeds", "out") == 0)

            links.follow(view(shard_1, OWNERS), {1: [0]})
            await until(lambda: hears("feeds_stale") == 0)
            assert hears("ghosts_stale") == 0
        finally:
            await links.close()


async def test_they_are_among_a_shards_metrics(tmp_path: Path) -> None:
    service = ShardService(settings(tmp_path), program(SMALL), MemoryLedger())
    assert service.metrics.registry.get_sample_value("perdure_feed_links") == 0
    await service.ticks.close()
