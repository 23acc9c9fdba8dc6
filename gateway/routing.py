"""Routes: which link speaks for a zone, at which (generation, epoch), and who owns which zone by the ledger's view.

Owns two small tables and does no I/O. `Route` is what a session follows: it comes from the frames themselves, so it is
true whatever the view says. `RoutingTable` is the ledger's word: whom to dial, and where a new player may start. Called by
fanout (Route), session (Route), shard_links (RoutingTable) and admission (RoutingTable).
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from perdure.ledger.values import ClusterView, Member


FEWEST_SNAPSHOTS = 3
"""A zone whose snapshots come with every third tick only has its clock slowed next (shard.pace): nobody new starts there while there is
another."""


class CommandLink(Protocol):
    """What a session needs of a link: somewhere to put commands and keyframe requests. `name` is the shard's."""

    name: str

    def forward(self, route: Route, row: bytes) -> None: ...

    def ask_keyframe(self, route: Route, player: int) -> None: ...


_numbers = count(1)


class Route:
    """One link's claim on one zone at one (generation, epoch). Two routes are the same only if they are one object.

    `number` tells routes apart where there are no objects (32 bits). `tick` is the highest tick seen of it. `rows` and `keyframes` are
    what waits for the link's next write.
    """

    __slots__ = ("epoch", "generation", "keyframes", "link", "number", "rows", "tick", "zone")

    def __init__(self, link: CommandLink, zone: int, generation: int, epoch: int, tick: int = 0) -> None:
        self.link = link
        self.number = next(_numbers) & 0xFFFFFFFF
        self.zone = zone
        self.generation = generation
        self.epoch = epoch
        self.tick = tick
        self.rows: list[bytes] = []
        self.keyframes: list[int] = []

    @property
    def stamp(self) -> tuple[int, int, int]:
        """(generation, epoch, tick): what staleness is judged by."""
        return self.generation, self.epoch, self.tick

    def __repr__(self) -> str:
        return f"Route({self.link.name}, zone {self.zone}, generation {self.generation}, epoch {self.epoch}, tick {self.tick})"


class RoutingTable:
    """The newest cluster view, as far as a gateway cares."""

    def __init__(self) -> None:
        self.version = -1
        self.owners: dict[int, str] = {}
        self.shards: dict[str, Member] = {}
        self.players = 0
        """In the whole world, as far as the shards have told."""
        self.strained = False
        """Have all zones in which a new player could start too much to do, or no room? Who is in the world goes on; who comes waits."""
        self.behind: set[int] = set()
        """Numbers of gateways for which shards send as few snapshots as they may: they do not keep up."""
        self._spawn_zones: list[int] = []

    def update(self, view: ClusterView) -> None:
        """Take a newer view; an older one (by version, of the same server) changes nothing but is no error."""
        self.version = view.version
        self.owners = {zone: route.owner for zone, route in view.zones.items()}
        self.shards = {name: member for name, member in view.members.items() if member.kind == "shard"}
        zones = sorted(zone for zone, owner in self.owners.items() if owner in self.shards)
        self.players = sum({zone: count for shard in self.shards.values() for zone, count in _told(shard, "players").items()}.values())
        self.behind = {
            int(gateway)
            for shard in self.shards.values()
            for gateway, snapshot_every in _told(shard, "relieved").items()
            if snapshot_every >= FEWEST_SNAPSHOTS
        }
        full = {zone for shard in self.shards.values() for zone in (*_dear(shard), *_listed(shard, "full"))}
        self._spawn_zones = [zone for zone in zones if str(zone) not in full] or zones
        self.strained = bool(zones) and all(str(zone) in full for zone in zones)

    def map_owners(self, zones: int) -> list[str]:
        """Return for each zone of the world who runs it, by the ledger's word; "" for nobody."""
        return [self.owners.get(zone, "") for zone in range(zones)]

    def spawn_zone(self, player: int, zones: int) -> int:
        """Return where a player who was never here starts: spread evenly over the zones that have an owner.

        With no owner anywhere, over all `zones`: the entry waits in the zone's inbox until somebody runs it.
        """
        if self._spawn_zones:
            return self._spawn_zones[player % len(self._spawn_zones)]
        return player % max(zones, 1)


def _dear(shard: Member) -> list[str]:
    """Return the zones that cost so much that nobody new is to start there. Few snapshots for a gateway's sake are none of its reasons."""
    relieving = _listed(shard, "relieving")
    return [zone for zone, (_, *pace) in _told(shard, "pace").items() if _is_full(*pace) and zone not in relieving]


def _is_full(clock_percent: int, snapshot_every: int) -> bool:
    return clock_percent < 100 or snapshot_every >= FEWEST_SNAPSHOTS


def _listed(shard: Member, what: str) -> set[str]:
    found = shard.info.get(what)
    return {str(zone) for zone in found} if isinstance(found, list) else set()


def _told(shard: Member, what: str) -> dict[str, Any]:
    found = shard.info.get(what)
    return found if isinstance(found, dict) else {}
