"""The values that go into the ledger and come out of it.

All are frozen: what is asked, what is answered, and what the ledger knows of zones, players and members. Owns no rule but those that a
value has of itself. Called by everybody who calls the ledger; perdure.ledger.ledger says what becomes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

# --- a zone's log -------------------------------------------------------------------------------------------------


class CommitStatus(StrEnum):
    OK = "OK"  # appended, or found there with the same digest (a lost reply): `page` is what the log holds
    FENCED = "FENCED"  # another (generation, epoch) owns the zone: drop it
    GAP = "GAP"  # the ledger's head is not the tick before this one: it went back in time
    BROKEN = "BROKEN"  # a transfer names a player who is not in this zone: stop the zone, loudly


@dataclass(frozen=True, slots=True)
class Transfer:
    """Something that leaves a zone with a commit. `target` is a zone, or LOBBY (-1) for a logout.

    `entry` is an inbox entry: for a zone, what its inbox gets; for the lobby, one whose payload (schema hash and row) and
    number of the last applied command (last_seq) are kept in the player's record. `player` is 0 for an entity without a
    player. The entry of a player carries the number of this move as its hop: one more than the move before. The commit
    checks that the player's place is the committing zone, then moves it; a move that the record has reached already (a
    ledger went back in time, and was told) is passed over.

    What waits in the committing zone's inbox for a player who leaves with this commit (ATTACH, DETACH, LEAVE, KICK, the
    loss of its gateway) follows it, after its own entry, into the zone that it goes to. One who goes to the lobby while an
    ATTACH waits is joined anew: that entry becomes a JOIN with what was just kept, and the player's place stays this zone.
    So no zone has to forward an entry, and no session waits for a player who has just left.
    """

    target: int
    player: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """One zone's tick. `previous` and `digest` are 32 hex digits: the chain of records."""

    zone: int
    generation: int
    epoch: int
    tick: int
    previous: str
    digest: str
    record: bytes
    transfers: Sequence[Transfer] = ()


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    """`page`: the inbox entries that the next tick must apply (status OK). `detail`: for people."""

    status: CommitStatus
    page: tuple[bytes, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ZoneHead:
    """Where a zone stands. tick 0, digest "" and no checkpoints: it was never run.

    `checkpoints`: (tick, hex BLAKE2b-16 of the blob), newest first, at most CHECKPOINTS_KEPT.
    """

    zone: int
    generation: int
    epoch: int
    owner: str
    tick: int
    digest: str
    checkpoints: tuple[tuple[int, str], ...] = ()
    inbox_length: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Which zones have entries in their inbox. `server` changes whenever another server may have answered, or one that has other data."""

    zones: frozenset[int]
    server: str


@dataclass(frozen=True, slots=True)
class LoggedRecord:
    """One record of a zone's log and the inbox page that its commit returned."""

    tick: int
    digest: str
    record: bytes
    page: tuple[bytes, ...]


# --- players ------------------------------------------------------------------------------------------------------


class EnterStatus(StrEnum):
    OK = "OK"
    BAD_RESUME = "BAD_RESUME"  # no such resume token for this player (used, rotated or never given)
    NAME_CLASH = "NAME_CLASH"  # another name has the same key


@dataclass(frozen=True, slots=True)
class EnterRequest:
    """A login (`resume_presented` empty) or a resume. Hashes are hex; secrets never reach the ledger.

    A player in the lobby is sent to `spawn_zone` (or to the zone it logged out from, where one is recorded) by a JOIN
    entry; one who is in a zone gets an ATTACH entry in that zone's inbox. Either way `session` rises, above all
    that were given under earlier generations, whatever a ledger that went back has forgotten of them, and the
    gateway that held the older session hears of it on its channel (`gateway_channel`).
    """

    player: int
    name: str
    gateway: int
    slot: int
    spawn_zone: int
    now_ms: int
    resume_issued: str
    resume_presented: str = ""


@dataclass(frozen=True, slots=True)
class EnterAnswer:
    """`session`: its number, rising per player. `place`: the zone. `old_gateway`/`old_slot`: whom it took over from, or -1."""

    status: EnterStatus
    session: int = 0
    place: int = -1
    old_gateway: int = -1
    old_slot: int = -1
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is online, and where. `gateway` and `slot` are -1 while the socket is gone; `since_ms` is wall time, for people."""

    player: int
    name: str
    place: int
    gateway: int
    slot: int
    session: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class LobbyRecord:
    """The whole of what the ledger keeps of a player: presence, and what was saved when it last left (schema hash, row).

    `moves`: how often it went from one place to another, lobby included. `resume`: the hash of the one resume token that counts, or "".
    `seq`: the number of the last command that was applied when it last left; 0 in a record of a build that did not keep it.
    """

    presence: Presence
    saved: bytes
    home_zone: int
    moves: int = 0
    resume: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PlayerInZone:
    """A player as the zone knows it that it is in, for a reseed. `gateway` 0: its socket is gone. `hop`: the number of its last move."""

    player: int
    session: int
    gateway: int
    slot: int
    hop: int


@dataclass(frozen=True, slots=True)
class Restated:
    """A session that lives, as its gateway knows it. `resume` is the hash of its resume token."""

    player: int
    session: int
    slot: int
    name: str
    resume: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A transfer that went with the commit of `tick`, for a reseed."""

    tick: int
    transfer: Transfer


# --- membership and assignment ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the cluster. `kind`: shard | gateway | coordinator. `number` is unique among live members (random u31).

    `beat` rises with every heartbeat: liveness is judged by an observer's own monotonic clock seeing it rise.
    `info` is JSON-able: build, pid, host, load, state ("starting" | "ready" | "draining").
    """

    name: str
    kind: str
    number: int
    address: str
    beat: int = 0
    info: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """What a member is to do. `number`: by it the member says that it has the order."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """`accepted` is False once this incarnation was evicted: drop every zone, register anew under a new number.

    `routes_version` rises with every change of assignment, membership or intents. `orders` come again until a heartbeat says that
    it has them.
    """

    accepted: bool
    routes_version: int
    orders: tuple[Order, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ZoneRoute:
    """`owner`: name of the shard, "" for nobody. `successor`: the shard asked to prefetch, "" for none; `ready`: it has.

    `image`: tick of the newest checkpoint that was made since the successor is ready, -1 for none. Where that is the zone's last
    tick, the log has no tail.
    """

    zone: int
    owner: str
    generation: int
    epoch: int
    successor: str = ""
    ready: bool = False
    image: int = -1


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All that coordinator, shards and gateways steer by, read in one atomic call.

    `zones` is the very object of the view before where no route has changed, and nobody writes to it. `suspects`: member name -> how
    many reports since it registered. `ticks`: zone -> last committed tick, so that an observer can tell slow from dead. `run_id`
    changes when the ledger's server is another process or data set; `opened`: a coordinator has opened the world since
    (`Ledger.open_world`).
    """

    version: int
    term: int
    leader: str
    generation: int
    zones: dict[int, ZoneRoute]
    members: dict[str, Member]
    suspects: dict[str, int]
    ticks: dict[int, int]
    draining: frozenset[str]
    run_id: str
    opened: bool = True


@dataclass(frozen=True, slots=True)
class Leadership:
    """Answer of `elect`. `term` only rises; every write of a coordinator carries the term that it was elected in.

    `beat` rises each time that a leader takes or keeps the leadership.
    """

    leading: bool
    term: int
    leader: str
    beat: int


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What a world is; set once by the first shard, and the same for all who join it.

    `schema` is the JSON of `perdure.game.schema.Schema.to_wire`, so that gateways and coordinators load no game code.
    """

    name: str
    game: str
    schema_hash: str
    schema: str
    columns: int
    rows: int
    seed: int
    tick_hz: int


@dataclass(frozen=True, slots=True)
class Reseed:
    """What a live owner knows of its zone: where it stands, its image, who is in it, and what it sent away lately, oldest first.

    `highest`: the highest number of moves that the zone remembers of anybody.
    """

    zone: int
    owner: str
    generation: int
    epoch: int
    tick: int
    digest: str
    blob: bytes
    blob_digest: str
    players: Sequence[PlayerInZone] = ()
    sent: Sequence[Sent] = ()
    highest: int = 0
