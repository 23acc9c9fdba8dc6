"""The borders of all zones of a shard: who is told what, and where it goes, within the shard and to others.

Owns who wants to be told (zones here, and those that other shards subscribed for), and the feeds that came for zones which are still
on their way here. Never touches a socket (shard.link_server and shard.border_links do) nor a row. Called by shard.tick_loop, and with
what arrives by the links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from perdure.wire.identifiers import WorldGrid
from perdure.wire.link import LinkType, pack_frame
from shard.border import Border, Feed, FeedError, Words, check_feed
from shard.program import Program
from shard.zone import Phase, Zone

log = structlog.get_logger("shard.borders")


class Subscriber(Protocol):
    """Another shard that wants feeds (link_server.Link)."""

    def send_feed(self, frame: bytes) -> bool:
        """Send it; False where it was dropped, since the other side does not keep up."""
        ...


@dataclass(slots=True)
class FeedCounts:
    """What went over links to other shards, and came from them. A dropped feed was not sent."""

    sent: int = 0
    sent_bytes: int = 0
    dropped: int = 0
    received: int = 0
    received_bytes: int = 0


class Borders:
    """`zones` are those that run here, by number. `tell_stale(zone, zones)` tells gateways whose ghosts are stale in a zone.
    `feeds_every_s(zone)`: how long after a feed of this zone the next is to be expected, by the pace that it has."""

    def __init__(
        self,
        zones: dict[int, Zone],
        interval_s: float,
        tell_stale: Callable[[int, tuple[int, ...]], None],
        feeds_every_s: Callable[[Zone], float],
    ) -> None:
        self._zones, self._interval_s, self._tell_stale, self._feeds_every_s = zones, interval_s, tell_stale, feeds_every_s
        self._expected: dict[int, Border] = {}
        self._wanted: dict[Subscriber, frozenset[tuple[int, int]]] = {}
        self._remote: dict[tuple[int, int], list[Subscriber]] = {}
        self._told: dict[int, tuple[int, ...]] = {}
        self._version = 0
        self._watched: dict[int, int] = {}
        self.counts = FeedCounts()

    # --- who wants to be told -------------------------------------------------------------------------------------
    def expect(self, program: Program, grid: WorldGrid, numbers: set[int]) -> dict[int, list[int]]:
        """These zones, and no others, are on their way here: keep what comes for them. Return what is near each zone, here or coming."""
        for number in set(self._expected) - numbers:
            del self._expected[number]
        for number in numbers - set(self._expected) - set(self._zones):
            self._expected[number] = Border(program, number, grid)
        coming = {number: border.near for number, border in self._expected.items()}
        return coming | {number: zone.border.near for number, zone in self._zones.items()}

    def added(self, zone: Zone) -> None:
        """A zone runs here from now on."""
        border = self._expected.pop(zone.zone, None)
        if border is not None:
            zone.border = border
        for number in zone.border.near:  # what its neighbours have told it elsewhere is told here too
            if number in self._zones:
                self._zones[number].border.tell_anew()
        self._version += 1

    def removed(self, number: int) -> None:
        """A zone does not run here any more."""
        self._told.pop(number, None)
        self._watched.pop(number, None)
        self._version += 1

    def subscribe(self, subscriber: Subscriber, pairs: Iterable[tuple[int, int]]) -> None:
        """Another shard wants the feeds of these (source, viewer) pairs of zones, and of no others."""
        self._wanted[subscriber] = frozenset(pairs)
        self._list_remote()
        for source in {source for source, _ in self._wanted[subscriber]} & self._zones.keys():
            self._zones[source].border.tell_anew()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """A link ended."""
        if self._wanted.pop(subscriber, None) is not None:
            self._list_remote()

    def _list_remote(self) -> None:
        self._remote = {}
        for subscriber, pairs in self._wanted.items():
            for pair in pairs:
                self._remote.setdefault(pair, []).append(subscriber)
        self._version += 1

    # --- the tick -------------------------------------------------------------------------------------------------
    def turn(self, zones: list[Zone], now_s: float) -> None:
        """These zones begin a tick: what was received becomes what they see; who is new is told what there is."""
        for zone in zones:
            self._watch(zone)
        for zone in zones:
            zone.border.turn(now_s, self._interval_s)
            stale = zone.border.stale()
            if stale != self._told.get(zone.zone):
                self._told[zone.zone] = stale
                self._tell_stale(zone.zone, stale)

    def _watch(self, zone: Zone) -> None:
        if self._watched.get(zone.zone) == self._version:
            return
        self._watched[zone.zone] = self._version
        near, before = zone.border.near, zone.border.viewers
        viewers = tuple(n for n in near if n in self._zones or (zone.zone, n) in self._remote)
        new = tuple(n for n in viewers if n not in before)
        if new and zone.phase is Phase.READY and zone.tick > 0:  # what it has committed last, so that nobody has to wait for its next tick
            zone.border.watch(new)
            self.release(zone.publish(self._feeds_every_s(zone)))
        zone.border.watch(viewers)

    def release(self, feeds: list[Feed]) -> None:
        """A tick is committed: its feeds go to whom they are for."""
        for feed in feeds:
            viewer = self._zones.get(feed.viewer)
            if viewer is not None:
                viewer.border.receive(feed)
            subscribers = self._remote.get((feed.source, feed.viewer))
            if subscribers:
                frame = pack_frame(LinkType.BORDER, feed.words.tobytes())
                for subscriber in subscribers:
                    if subscriber.send_feed(frame):
                        self.counts.sent += 1
                        self.counts.sent_bytes += len(frame)
                    else:
                        self.counts.dropped += 1
                        source = self._zones.get(feed.source)
                        if source is not None:  # that there is nothing more to tell, too, is to be told until it is taken
                            source.border.tell_anew()

    # --- from other shards ----------------------------------------------------------------------------------------
    def receive(self, program: Program, words: Words) -> None:
        """Take a feed that came over a link. Raises FeedError where it is none."""
        feed = check_feed(program, words)
        self.counts.received += 1
        self.counts.received_bytes += words.nbytes
        zone = self._zones.get(feed.viewer)
        border = zone.border if zone is not None else self._expected.get(feed.viewer)
        if border is None:
            return  # the zone has moved on; whoever runs it has subscribed
        if feed.source not in border.near:
            raise FeedError(f"a border feed of zone {feed.source} for zone {feed.viewer}, which are not near each other")
        border.receive(feed)

    def cut(self, source: int) -> None:
        """Nobody tells of a zone any more: its ghosts are stale."""
        for zone in self._zones.values():
            zone.border.cut(source)

    # --- for the operator -----------------------------------------------------------------------------------------
    @property
    def feeds_wanted(self) -> int:
        """How many feeds other shards have subscribed for here."""
        return sum(len(pairs) for pairs in self._wanted.values())

    def zones_here(self) -> list[Zone]:
        return list(self._zones.values())

    def stale_zones(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return what clients of each zone here are to know: for a gateway that is new."""
        return sorted(self._told.items())
