"""The ledger: the one place that outlives every process. The abstract class; what goes in and out is values.py's.

Owns the contract; `memory_ledger.MemoryLedger` and `redis_ledger.RedisLedger` are siblings that pass one suite
(tests/conformance/ledger). Every method is atomic: all checks come before the first write, and a refusal changes
nothing. Fencing: a zone's writes carry (generation, epoch); a coordinator's writes carry its term.

Called by the shard (log, checkpoints), the gateway (players), the coordinator (membership, assignment), the CLI.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from perdure.ledger.chat import ChatPage, SayStatus
from perdure.ledger.values import (
    ClusterView,
    Commit,
    CommitAnswer,
    CommitStatus,
    EnterAnswer,
    EnterRequest,
    HeartbeatAnswer,
    Leadership,
    LobbyRecord,
    LoggedRecord,
    Member,
    Presence,
    Reseed,
    Restated,
    Waiting,
    WorldSettings,
    ZoneHead,
)

INBOX_PAGE_ENTRIES = 256
INBOX_PAGE_BYTES = 256 * 1024
CHECKPOINTS_KEPT = 2
EPOCH_RESEED_STEP = 1 << 20
PRESENCE_LOG_LENGTH = 1000
INBOX_LIMIT_ENTRIES = 1 << 16
"""Entries waiting for one zone past which nobody may enter there any more (LedgerRefused)."""
RESUME_MS = 12 * 3600 * 1000
"""How long after a player came in its resume token brings it back from the lobby; in the world, and in its grace time, it counts anyway."""
ORDERS_LIMIT = 16
EVICTED_REMEMBERED = 4096
"""Incarnations that were evicted or left and are still known as such; the oldest are forgotten first."""


class LedgerError(Exception):
    """The ledger refused, or could not be asked. The message says what, why and how to mend.

    LedgerError
     +- LedgerUnavailable   no answer; whether the call took effect is unknown
     +- LedgerRefused       a definite no: wrong state, wrong type of key, read-only, out of memory
         +- LedgerAhead     the ledger knows more of a zone than who would put it back
    """


class LedgerUnavailable(LedgerError):
    """No answer came. The call may or may not have taken effect; commits are resent with identical bytes."""


class LedgerRefused(LedgerError):
    """The ledger said no, and nothing was written."""


class LedgerAhead(LedgerRefused):
    """A zone is further in the ledger than its owner has it: the owner is to drop it."""


class Sent(ABC):
    """Commits that were sent (Ledger.send_commits), and have no answer yet."""

    @abstractmethod
    def answered_within(self, seconds: float) -> list[CommitAnswer] | None:
        """Return the answers; wait for them so long, with the event loop standing still. None: not yet, or not so; await them."""

    @abstractmethod
    async def answers(self) -> list[CommitAnswer]:
        """Return them, or raise, as `commit` does."""


class Ledger(ABC):
    """See the module docstring. Methods raise LedgerUnavailable where no answer came and LedgerRefused for a definite no."""

    # world
    @abstractmethod
    async def init_world(self, world: WorldSettings) -> WorldSettings:
        """Record the world if there is none; return what is recorded. The caller compares."""

    @abstractmethod
    async def world(self) -> WorldSettings | None: ...

    # a zone's log
    @abstractmethod
    async def commit(self, commits: Sequence[Commit]) -> list[CommitAnswer]:
        """Commit one tick each of many zones, in one round trip; the answers stand in the same order.

        Per zone, in this order: the head's (generation, epoch) is above the commit's -> FENCED; below it, or no head at all ->
        GAP (the ledger went back in time). Head at the same tick with the same digest -> OK with the stored page (nothing
        is written). Head is further under the same generation and epoch, or as far with another digest -> FENCED (another process
        goes by the owner's name). Head is not (tick - 1, previous) -> GAP, as is a newer generation or epoch that an earlier owner
        than the caller got by putting the zone back (see `reseed`). A transfer whose player's place is not this zone, or who still
        waits in this zone's inbox -> BROKEN; so is a zone whose keys are damaged. Else: the record is appended,
        transfers are delivered and places moved, up to INBOX_PAGE_ENTRIES entries (or INBOX_PAGE_BYTES) move from the inbox
        into the log entry and are answered.
        Entries that this very commit delivers to other zones do not depend on the order of zones in `commits`; whether such
        a zone's page of this very call holds them already does: what counts is the page, which is on the log.
        Never retried by itself: LedgerUnavailable means that the caller resends identical commits.
        """

    def send_commits(self, commits: Sequence[Commit]) -> Sent | None:
        """As `commit`, in two parts: what goes out is on its way when this returns. None where that cannot be; nothing was sent then."""
        return None

    @abstractmethod
    async def zone_head(self, zone: int) -> ZoneHead: ...

    @abstractmethod
    async def read_log(self, zone: int, first_tick: int, limit: int = 1000) -> list[LoggedRecord]:
        """Return records from `first_tick` on, oldest first, at most `limit`."""

    @abstractmethod
    async def read_inbox(self, zone: int) -> list[bytes]:
        """Return the entries that wait in a zone's inbox, oldest first, and leave them there: for audits."""

    @abstractmethod
    async def waiting(self, zones: Sequence[int]) -> Waiting:
        """Say which of these zones have something in their inbox: how an owner that does not commit them at every tick learns of it.

        Cheap enough to be asked at every tick. It goes by the way that commits go, and nothing overtakes it there.
        """

    @abstractmethod
    async def put_checkpoint(self, zone: int, tick: int, epoch: int, blob: bytes) -> None:
        """Store a blob under (zone, tick, epoch). Nothing refers to it until `flip_checkpoint`.

        Blobs of the same epoch and earlier ticks that nothing refers to are deleted: their owner has had no answer, and does not come back.
        """

    @abstractmethod
    async def flip_checkpoint(self, zone: int, generation: int, epoch: int, tick: int, digest: str) -> CommitStatus:
        """Make the stored blob the zone's newest checkpoint (fenced); keep two, delete older blobs, trim the log.

        The log keeps the record of the older kept checkpoint's tick (its page is what the next tick applies) and every one
        after it; with a single checkpoint it is not trimmed. `digest` is hex BLAKE2b-16 of the blob. FENCED and GAP as for
        commit; BROKEN where no such blob is stored under this epoch, or the stored one has another hash; GAP where the head
        is behind `tick` or a newer checkpoint is kept. Where a successor is ready, the route's `image` becomes `tick`; if that is
        the head's, routes_version rises.
        """

    @abstractmethod
    async def read_checkpoint(self, zone: int, tick: int) -> bytes | None: ...

    @abstractmethod
    async def reseed(self, seed: Reseed) -> ZoneHead:
        """A live owner restores a zone that the ledger forgot.

        Accepted where the ledger's (generation, epoch, tick) of the zone is not above the caller's; the zone then stands at
        `tick` with `digest`, the blob as its only checkpoint, an empty log, generation + 1 and an epoch of max(both) +
        EPOCH_RESEED_STEP, with the caller as its owner. Refused (LedgerAhead) where the ledger is ahead, or as far under the same
        generation and epoch with another digest: then another process goes by the caller's name. The inbox is kept.

        While the world is not open, a zone that was put back by the owner of an earlier (generation, epoch) is taken from it: that one had
        not heard that the zone was given away, and the ledger had forgotten it.

        Then, for each of `players` whose record has not moved further: its place becomes this zone, its session the newer of both.
        Where the record's is newer, an ATTACH of it (or a DETACH, where the record has no gateway) goes to the inbox. A record
        that is made anew has no name and no resume token until `enter` brings them. Then, of `sent`, each transfer of a tick
        that the ledger did not know is delivered, unless its player's record has moved as far. One who went to the lobby, and whom a
        newer session has looked for here since, is joined anew with what was saved.

        A statement about a player whose record has moved further, or as far to another zone, leaves a copy in this zone: it gets an
        entry MOVED, unless the player is on the way into it. The world's generation rises so far that numbers given from then on are
        above `highest`.
        """

    @abstractmethod
    async def open_world(self, term: int, generation: int = 0) -> int:
        """Let players come and go: whoever runs zones had time to say what this server forgot (`reseed`). Return the generation.

        Before that, `enter`, `detach` and `leave` get no answer (LedgerUnavailable). A server that restarts, or is another, or has
        other data than before (ClusterView.run_id), begins closed. The world's generation rises to `generation`, and by one at
        least where this data set was open before: zones assigned from then on are newer than all that was forgotten. Nothing
        changes where the world is open. LedgerRefused where the term is over.
        """

    # players
    @abstractmethod
    async def enter(self, request: EnterRequest) -> EnterAnswer:
        """Log in, or resume: post JOIN or ATTACH to the player's place, under a session number of its own.

        A resume needs the very token of the record. There is none for who was put out or logged out, nor for who was put back by a reseed
        until a gateway says it again; and one that is older than RESUME_MS brings nobody in from the lobby. LedgerUnavailable while
        the world is not open; LedgerRefused where the zone's inbox is full.
        """
        ...

    @abstractmethod
    async def restate(self, gateway: int, sessions: Sequence[Restated], keep: Sequence[int] = (), now_ms: int = 0) -> list[bool]:
        """A gateway says which sessions it has, to a server that may have forgotten some of what it knew of them.

        A record of that very session, at this gateway, gets the name, the resume token and the time that it lacks: True. Anything
        else: False, that session is over. Players that the ledger has at this gateway and that are neither named nor in
        `keep` (somebody is just entering) are detached. LedgerUnavailable while the world is not open.
        """

    @abstractmethod
    async def detach(self, player: int, session: int) -> bool:
        """The socket is gone: post DETACH to the player's place if `session` is still its newest. False if it is not.

        False too for one who is in the lobby; True without a second entry for one who is detached already.
        """

    @abstractmethod
    async def leave(self, player: int, session: int, kick: bool = False) -> bool:
        """Log out: post LEAVE (or KICK) to the player's place if `session` is its newest (a kick may pass -1 for any).

        The resume token counts no more, at once.
        """

    @abstractmethod
    async def gateway_lost(self, term: int, gateway: int) -> None:
        """Post GATEWAY_LOST to every zone, and mark presence of its players as unattached.

        Players are marked in bounded batches, each atomic; it is safe to call again. LedgerRefused where the term is over.
        """

    @abstractmethod
    async def player(self, player: int) -> LobbyRecord | None: ...

    @abstractmethod
    async def online(self, zone: int | None = None) -> list[Presence]:
        """Return who is in a zone (of `zone`, or of the whole world), by name."""

    @abstractmethod
    async def names(self, players: Sequence[int]) -> dict[int, str]:
        """Return the names of those of `players` who are online."""

    # chat
    @abstractmethod
    async def say(self, player: int, session: int, to: str, text: str) -> SayStatus:
        """Put a line on the world's chat: to the player called `to`, or to the zone where the speaker is. Subscribers of CHAT_CHANNEL
        are told. LedgerUnavailable while the world is not open.
        """

    @abstractmethod
    async def chat(self, after: str) -> ChatPage:
        """Return the lines behind `after` (ChatPage.last), oldest first, CHAT_PAGE at most; for "" none, but where the newest is.

        None too where `after` is not in the past of this server, which went back.
        """

    # membership and assignment
    @abstractmethod
    async def heartbeat(self, member: Member, known: bool = False, taken: Sequence[int] = ()) -> HeartbeatAnswer:
        """Register or refresh. `taken`: numbers of orders that earlier answers have brought, and that need not come again.

        A name held by another `number` whose beat is recorded is refused unless that one was evicted.

        `known`: the ledger has accepted this number before. Where it has another under the name then, and the world is not
        open, it is the server that went back, to the time of an earlier process: the name goes to who asks.

        Registering drops the orders for who had the name before.

        Registering, and a change of kind, address or info["state"], raise routes_version; a plain beat does not.
        """

    @abstractmethod
    async def view(self) -> ClusterView: ...

    @abstractmethod
    async def routes_version(self) -> int: ...

    @abstractmethod
    async def elect(self, candidate: str, term: int = 0, silent: int = -1) -> Leadership:
        """Take or keep the leadership, or see how the leader's beat stands. A new leader gets term + 1.

        It is taken where nobody leads; where `candidate` leads by its name, but not in `term`, the one that it leads in (that was an
        earlier process); and from a leader whose beat is still `silent`. By that the caller says that it saw no other beat for a lease's
        time, on a monotonic clock of its own: the ledger judges no time.
        """

    @abstractmethod
    async def resign(self, candidate: str) -> None:
        """Give up the leadership at once, if held."""

    @abstractmethod
    async def assign(self, term: int, zone: int, shard: str, expected_epoch: int, at_checkpoint: bool = False) -> int:
        """Give the zone to `shard` ("" for nobody) at epoch + 1, clear its intent, raise routes_version, tell subscribers.

        Returns the new epoch. LedgerRefused where the term is old, the world not open (it was decided by what another server, or this
        one before it went back, had said), or the zone's epoch not `expected_epoch`; with `at_checkpoint` also where the log has
        records behind the newest checkpoint.
        """

    @abstractmethod
    async def intend(self, term: int, zone: int, successor: str) -> None:
        """Ask `successor` to prefetch the zone ("" withdraws)."""

    @abstractmethod
    async def successor_ready(self, zone: int, shard: str) -> None:
        """The successor reports that it follows the zone's log and may take over within a tick. Void if it is asked no more."""

    @abstractmethod
    async def suspect(self, member: str, number: int, reporter: str) -> None:
        """Report that a member's port refuses (tier one of failure detection); wakes the coordinator.

        The hint on SUSPECT_CHANNEL is b"<member> <number> <reporter>". Void where that incarnation is not registered.
        """

    @abstractmethod
    async def evict(self, term: int, member: str, number: int) -> None:
        """Remove a member's incarnation; its next heartbeat is told so."""

    @abstractmethod
    async def depart(self, member: str, number: int) -> None:
        """A member leaves by itself (after a drain, or a clean stop)."""

    @abstractmethod
    async def set_draining(self, member: str, draining: bool) -> None:
        """Mark a member as one that gets no zones. LedgerRefused where there is no such member; its eviction clears the mark."""

    @abstractmethod
    async def order(self, member: str, order: str) -> None:
        """Queue an order (at most ORDERS_LIMIT): "die", "pause 5000", "drain". Answers to the member's heartbeats bring it until it has it.

        LedgerRefused where there is no such member, or too many orders wait.
        """

    # hints
    @abstractmethod
    def subscribe(self, *channels: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yield (channel, message) hints: ROUTES_CHANNEL, PRESENCE_CHANNEL, gateway_channel(n), SUSPECT_CHANNEL, CHAT_CHANNEL.

        Hints get lost in an outage. After every (re)connect one (channel, b"resync") per channel is yielded: read the state anew.
        """

    @abstractmethod
    async def close(self) -> None: ...


ROUTES_CHANNEL = "routes"
SUSPECT_CHANNEL = "suspect"
PRESENCE_CHANNEL = "presence"


def gateway_channel(number: int) -> str:
    """Channel on which a gateway hears that a session of its was taken over: message b"<slot>" in decimal."""
    return f"gateway:{number}"
