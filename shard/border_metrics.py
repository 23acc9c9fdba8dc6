"""What a shard tells its operator of border feeds: which there are, what goes over them, and how old is what is shown of neighbours.

Reads counters and states at scrape time, so that a feed costs nothing more. Registered by shard.service.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shard.border_links import BorderLinks
from shard.borders import Borders


class BorderCollector(Collector):
    """See the module docstring. `in`: from other shards; `out`: to them. What zones of one shard hand over to each other is not counted."""

    def __init__(self, borders: Borders, links: BorderLinks) -> None:
        self._borders, self._links = borders, links

    def collect(self) -> Iterator[Metric]:
        borders, links, counts = self._borders, self._links, self._borders.counts
        yield _both(GaugeMetricFamily, "perdure_feeds", "feeds between zones that are subscribed for", links.feeds, borders.feeds_wanted)
        yield _both(CounterMetricFamily, "perdure_feed_frames", "feeds of one tick", counts.received, counts.sent)
        yield _both(CounterMetricFamily, "perdure_feed_bytes", "bytes of feeds", counts.received_bytes, counts.sent_bytes)
        yield CounterMetricFamily("perdure_feed_frames_dropped", "feeds not sent, since the other shard does not keep up", counts.dropped)
        yield CounterMetricFamily("perdure_feed_frames_refused", "feeds that cannot be read: of another layout of rows", links.refused)
        yield GaugeMetricFamily("perdure_feed_links", "shards whose feeds are wanted here", links.wanted)
        yield GaugeMetricFamily("perdure_feed_links_up", "shards whose feeds are wanted here, and which are linked", links.up)
        heard = [heard for zone in borders.zones_here() for heard in zone.border.heard()]
        frozen = [one for one in heard if one.stale]
        yield GaugeMetricFamily("perdure_feeds_stale", "neighbours of zones that are shown as they were last seen", len(frozen))
        yield GaugeMetricFamily("perdure_ghosts_stale", "entities in the newest feeds of those neighbours", sum(one.rows for one in frozen))
        age_s = max((one.age_s for one in heard), default=0.0)
        yield GaugeMetricFamily("perdure_feed_age_seconds", "age of the newest feed of the neighbour that was not heard longest", age_s)


def _both(kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, text: str, came: float, went: float) -> Metric:
    family = kind(name, text, labels=["direction"])
    family.add_metric(["in"], came)
    family.add_metric(["out"], went)
    return family
