"""What a gateway counts: plain integers on the hot paths, turned into Prometheus samples when somebody asks.

Owns the counters and the names under which they are exported. Never blocks, never allocates on a hot path. Written by
session, fanout, shard_links, admission and websocket_server; read by GET /metrics and by tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class GatewayCounters:
    """Counts since the start of the process. `refused` and `closes` are by reason and by close code."""

    __slots__ = (
        "chat_lines",
        "closes",
        "commands",
        "fast_frames_in",
        "frames_in",
        "frames_left_over",
        "frames_out",
        "frames_out_bytes",
        "frames_slow",
        "frames_stale",
        "frames_unknown",
        "keyframes_asked",
        "link_losses",
        "logins",
        "put_away",
        "refused",
        "releases",
        "releases_stale",
        "resends",
        "resent_commands",
        "rests",
        "sockets",
        "suspicions",
        "takeovers",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)
        self.refused: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.chat_lines: int
        self.commands: int
        self.fast_frames_in: int
        self.frames_in: int
        self.frames_left_over: int
        self.frames_out: int
        self.frames_out_bytes: int
        self.frames_slow: int
        self.frames_stale: int
        self.frames_unknown: int
        self.keyframes_asked: int
        self.link_losses: int
        self.logins: int
        self.put_away: int
        self.releases: int
        self.releases_stale: int
        self.resends: int
        self.resent_commands: int
        self.rests: int
        self.sockets: int
        self.suspicions: int
        self.takeovers: int


DESCRIPTIONS = {
    "chat_lines": "lines of chat written to sockets",
    "commands": "commands accepted and kept until the zone acknowledges them",
    "fast_frames_in": "client messages that took the fast path past the websocket library",
    "frames_in": "client messages received",
    "frames_left_over": "snapshots that compiled code left to the ordinary path (not plain, or the socket was full)",
    "frames_out": "snapshots written to sockets",
    "frames_out_bytes": "bytes of snapshots written to sockets",
    "frames_slow": "snapshots dropped because the client reads too slowly",
    "frames_stale": "snapshots dropped because they were of an older owner or an older place",
    "frames_unknown": "snapshots for sessions that are not here any more",
    "keyframes_asked": "full snapshots asked of shards",
    "link_losses": "links to shards that broke",
    "logins": "sessions that entered the world",
    "put_away": "sockets that asked for nothing, ended to keep room for others",
    "releases": "batches of snapshots received",
    "releases_stale": "batches dropped whole because a newer one of the zone was seen",
    "resends": "times that a session's unacknowledged commands were sent again to a new owner",
    "resent_commands": "commands sent again to a new owner",
    "rests": "times that the event loop stood still for a moment, since many messages come, so that they are taken in together",
    "sockets": "websockets opened",
    "suspicions": "shards reported to the ledger because their port refused",
    "takeovers": "sessions closed because their player logged in elsewhere",
}


class GatewayCollector:
    """Reads the counters, and the gauges by callables, at scrape time."""

    def __init__(self, counters: GatewayCounters, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, text in DESCRIPTIONS.items():
            yield CounterMetricFamily(f"perdure_gateway_{name}", text, value=getattr(self._counters, name))
        refused = CounterMetricFamily("perdure_gateway_commands_refused", "commands refused, by reason", labels=["reason"])
        for reason, count in self._counters.refused.items():
            refused.add_metric([reason], count)
        yield refused
        closes = CounterMetricFamily("perdure_gateway_closes", "connections that this gateway closed, by code", labels=["code"])
        for code, count in self._counters.closes.items():
            closes.add_metric([str(int(code))], count)
        yield closes
        for name, (text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"perdure_gateway_{name}", text, value=read())
