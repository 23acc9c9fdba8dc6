"""What the ledger in memory keeps, and who listens to it: it stands for the server and its disk.

Owns the stored rows, the store that the clients of one ledger share, and its subscribers. Never decides whether a call is
allowed: those rules are memory_ledger's and memory_commit's, which call this. Tests, fakes and the simulator make stores, and
send them back in time.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import deque
from dataclasses import dataclass, field

from perdure.ledger.chat import CHAT_KEPT, ChatLine
from perdure.ledger.ledger import PRESENCE_CHANNEL, PRESENCE_LOG_LENGTH
from perdure.ledger.values import LoggedRecord, Member, Order, WorldSettings
from perdure.wire.identifiers import LOBBY, key_hex

SUBSCRIPTION_LIMIT = 1024
"""Hints that wait for one subscriber; past it they are dropped and a resync stands in their place."""


@dataclass(slots=True)
class StoredHead:
    """Where a zone's log stands, and who may append to it."""

    generation: int
    epoch: int
    tick: int = 0
    digest: str = ""


@dataclass(slots=True)
class StoredCheckpoint:
    """Which blob is a zone's image at a tick."""

    tick: int
    epoch: int
    digest: str


@dataclass(slots=True)
class StoredZone:
    """All that is kept under one zone's number. `head` is None, and `owner` too, until the zone is first assigned."""

    head: StoredHead | None = None
    owner: str | None = None
    log: dict[int, LoggedRecord] = field(default_factory=dict)
    inbox: list[bytes] = field(default_factory=list)
    blobs: dict[tuple[int, int], bytes] = field(default_factory=dict)
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)
    successor: str = ""
    ready: bool = False
    image: int = -1


@dataclass(slots=True)
class StoredPlayer:
    """All that is kept of a player: where they are, by which gateway, and what they take along from the lobby."""

    name: str
    session: int = 0
    place: int = LOBBY
    gateway: int = -1
    slot: int = -1
    since_ms: int = 0
    saved: bytes = b""
    home: int = LOBBY
    resume: str = ""
    moves: int = 0
    seq: int = 0
    """The number of the last command that was applied when the player last left for the lobby."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """For which run a zone was put back, by the owner of which (generation, epoch); the tick that there was before the first who did so for
    that run, and the (generation, epoch) that that one got: whoever is below it ran the zone before the ledger forgot."""

    run: str
    by: tuple[int, int]
    at: int
    first: tuple[int, int]


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscriber's hints. `wake` is set when there is something to read, or when it was closed."""

    channels: frozenset[str]
    waiting: deque[tuple[str, bytes]]
    wake: asyncio.Event
    closed: bool = False

    def offer(self, channel: str, message: bytes) -> None:
        """Keep a hint for the subscriber, if it listens there; past the limit a resync replaces all that waits."""
        if channel not in self.channels:
            return
        if len(self.waiting) >= SUBSCRIPTION_LIMIT:
            self.resync()
        else:
            self.waiting.append((channel, message))
        self.wake.set()

    def resync(self) -> None:
        """Replace what waits by the word to read everything anew."""
        self.waiting.clear()
        self.waiting.extend((channel, b"resync") for channel in sorted(self.channels))
        self.wake.set()


@dataclass(slots=True)
class StoredData:
    """What a real server would keep on its disk."""

    world: WorldSettings | None = None
    zones: dict[int, StoredZone] = field(default_factory=dict)
    players: dict[int, StoredPlayer] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    evicted: dict[tuple[str, int], None] = field(default_factory=dict)
    suspects: dict[str, int] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    orders: dict[str, list[Order]] = field(default_factory=dict)
    orders_given: int = 0
    presence_log: deque[str] = field(default_factory=lambda: deque(maxlen=PRESENCE_LOG_LENGTH))
    chat: deque[tuple[int, ChatLine]] = field(default_factory=lambda: deque(maxlen=CHAT_KEPT))
    """Lines by their number."""
    leader: str = ""
    term: int = 0
    beat: int = 0
    version: int = 0
    generation: int = 1
    restored: dict[int, PutBack] = field(default_factory=dict)
    """By zone, the last time that it was put back."""
    opened_for: str = "memory-1"
    """The run that the world was opened for; a new store is open for its first, so that tests of one part need no coordinator."""

    def zone(self, zone: int) -> StoredZone:
        """Return what is kept of a zone; makes it where there is nothing yet."""
        found = self.zones.get(zone)
        if found is None:
            found = self.zones[zone] = StoredZone()
        return found


class MemoryStore:
    """What the clients of one ledger share. `snapshot` and `restore` let a test send it back in time."""

    def __init__(self) -> None:
        self.data = StoredData()
        self.run = 1
        self.subscriptions: list[Subscription] = []

    @property
    def run_id(self) -> str:
        return f"memory-{self.run}"

    def put_back_by(self, zone: int) -> PutBack | None:
        """Return who has put a zone back for this run of the server, while the world is not open."""
        found = self.data.restored.get(zone)
        return found if found is not None and found.run == self.run_id != self.data.opened_for else None

    def put_back_too_early(self, zone: int, owner: tuple[int, int]) -> bool:
        """Was it an earlier owner than (generation, epoch), who had not heard that the zone was given away?"""
        found = self.put_back_by(zone)
        return found is not None and found.by < owner < found.first

    def snapshot(self) -> object:
        """Return a copy of all that is kept, for `restore`."""
        return copy.deepcopy(self.data)

    def restore(self, kept: object) -> None:
        """Go back to `kept`, as a server does that restarts from an older file: `run_id` changes, subscribers resync."""
        if not isinstance(kept, StoredData):
            raise TypeError("restore wants what snapshot returned")
        self.data = copy.deepcopy(kept)
        self.run += 1
        for subscription in self.subscriptions:
            subscription.resync()

    def publish(self, channel: str, message: str) -> None:
        """Offer a hint to every subscriber."""
        for subscription in self.subscriptions:
            subscription.offer(channel, message.encode())

    def announce(self, change: str, key: int, player: StoredPlayer) -> None:
        """Tell subscribers, and the log of presence, where a player is now."""
        text = json.dumps(
            {
                "change": change,
                "player": key_hex(key),
                "name": player.name,
                "place": player.place,
                "gateway": player.gateway,
                "slot": player.slot,
                "session": player.session,
                "since_ms": player.since_ms,
            },
            separators=(",", ":"),
        )
        self.publish(PRESENCE_CHANNEL, text)
        self.data.presence_log.append(text)
