"""What a shard counts; served at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ShardMetrics:
    """One registry a process, so that tests may run several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reg = self.registry
        self.tick = Histogram("perdure_tick_seconds", "time of a shard's whole tick", buckets=_BUCKETS, registry=reg)
        self.step = Histogram("perdure_step_seconds", "time to step all zones", buckets=_BUCKETS, registry=reg)
        self.encode = Histogram("perdure_encode_seconds", "time to encode all zones' snapshots", buckets=_BUCKETS, registry=reg)
        self.commit = Histogram("perdure_commit_seconds", "time until a commit was answered", buckets=_BUCKETS, registry=reg)
        self.late = Counter("perdure_ticks_late_total", "ticks that began more than half a tick after their time", registry=reg)
        self.zones = Gauge("perdure_zones", "zones that run here", registry=reg)
        self.players = Gauge("perdure_players", "players in the zones that run here", registry=reg)
        self.ticks = Counter("perdure_zone_ticks_total", "zone ticks that were committed", registry=reg)
        self.released = Counter("perdure_released_bytes_total", "snapshot bytes sent to gateways", registry=reg)
        self.unlinked = Counter("perdure_unlinked_releases_total", "releases for a gateway that is not linked", registry=reg)
        self.resends = Counter("perdure_commit_resends_total", "commits sent again, for want of an answer", registry=reg)
        self.answers = Counter("perdure_commit_answers_total", "commit answers by status", ["status"], registry=reg)
        self.recoveries = Counter("perdure_recoveries_total", "zones taken over", registry=reg)
        self.recovery = Histogram("perdure_recovery_seconds", "time from assignment to the first tick", buckets=_BUCKETS, registry=reg)
        self.replayed = Counter("perdure_replayed_records_total", "records replayed", registry=reg)
        self.checkpoints = Counter("perdure_checkpoints_total", "checkpoints made", registry=reg)
        self.dropped_commands = Counter("perdure_commands_elsewhere_total", "commands for zones that do not run here", registry=reg)
