"""What a shard counts; served at /metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from perdure.ledger.values import CommitStatus
from shard.pace import Pace

_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Durations(Collector):
    """A histogram of times, for what is counted at every tick: the library's own goes through all its buckets at each."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name, self._documentation = name, documentation
        self._counts, self._sum_s = [0] * (len(_BUCKETS) + 1), 0.0
        registry.register(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum_s += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield it as it is scraped: how many took at most so long, for each bucket."""
        ends = (*map(str, _BUCKETS), "+Inf")
        buckets = [(end, float(count)) for end, count in zip(ends, accumulate(self._counts), strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum_s)


class ShardMetrics:
    """One registry a process, so that tests may run several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reg = self.registry
        self.tick = Durations("perdure_tick_seconds", "time of a shard's whole tick", reg)
        self.step = Durations("perdure_step_seconds", "time to step all zones", reg)
        self.encode = Durations("perdure_encode_seconds", "time to encode all zones' snapshots", reg)
        self.commit = Durations("perdure_commit_seconds", "time until the answer to a commit was read; frames are made meanwhile", reg)
        self.own = Durations(
            "perdure_tick_own_seconds", "time of a shard's whole tick but for the wait for its commit once frames are made", reg
        )
        self.late = Counter("perdure_ticks_late_total", "ticks that began more than half a tick after their time", registry=reg)
        self.zones = Gauge("perdure_zones", "zones that run here", registry=reg)
        self.asleep = Gauge("perdure_zones_asleep", "zones that tick at the idle rate: nobody is in or near them", registry=reg)
        self.zone_rung = Gauge("perdure_zone_rung", "rungs up the ladder of overload (0: none)", ["zone"], registry=reg)
        self.zone_clock = Gauge("perdure_zone_clock_percent", "how fast a zone's clock runs", ["zone"], registry=reg)
        self.zone_every = Gauge("perdure_zone_snapshot_every", "ticks from one snapshot of a zone to the next", ["zone"], registry=reg)
        self.gateways_behind = Gauge("perdure_gateways_behind", "gateways that do not take snapshots in time, and get fewer", registry=reg)
        self.players = Gauge("perdure_players", "players in the zones that run here", registry=reg)
        self.ticks = Counter("perdure_zone_ticks_total", "zone ticks that were committed", registry=reg)
        self.released = Counter("perdure_released_bytes_total", "snapshot bytes sent to gateways", registry=reg)
        self.unlinked = Counter("perdure_unlinked_releases_total", "releases for a gateway that is not linked", registry=reg)
        self.resends = Counter("perdure_commit_resends_total", "commits sent again, for want of an answer", registry=reg)
        self.answers = Counter("perdure_commit_answers_total", "commit answers by status", ["status"], registry=reg)
        self._answers_ok = self.answers.labels(CommitStatus.OK)
        self.recoveries = Counter("perdure_recoveries_total", "zones taken over", registry=reg)
        self.recovery = Histogram("perdure_recovery_seconds", "time from assignment to the first tick", buckets=_BUCKETS, registry=reg)
        self.replayed = Counter("perdure_replayed_records_total", "records replayed", registry=reg)
        self.checkpoints = Counter("perdure_checkpoints_total", "checkpoints made", registry=reg)
        self.dropped_commands = Counter("perdure_commands_elsewhere_total", "commands for zones that do not run here", registry=reg)

    def committed(self, zones: int) -> None:
        """So many zones' ticks are in the ledger."""
        self._answers_ok.inc(zones)
        self.ticks.inc(zones)

    def pace_of(self, zone: int, pace: Pace) -> None:
        """A zone runs at this pace from now on."""
        self.zone_rung.labels(zone).set(pace.level)
        self.zone_clock.labels(zone).set(pace.rung.clock_percent)
        self.zone_every.labels(zone).set(pace.rung.snapshot_every)

    def forget_zone(self, zone: int) -> None:
        """A zone does not run here any more."""
        for gauge in (self.zone_rung, self.zone_clock, self.zone_every):
            gauge.remove(zone)
