"""The client's side of the protocol, without I/O: bytes in, what happened out; commands in, bytes out.

Owns the sequence numbers, the commands not yet acknowledged and the world view of one player, over any number of
connections. No asyncio, no sockets, no clock: the asyncio client (connection.py) and the gevent load tester drive it.

Numbers: a command's number is the last one + 1. The gateway takes them without a gap, so after a refusal every command
that was already on its way is refused too; the protocol then waits for the last of these refusals (they come in order, one
for each) before it numbers anything anew. See docs/PROTOCOL.md, "Sequence numbers".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perdure.client.world_view import Snapshot, SnapshotError, WorldView
from perdure.game.schema import CommandSchema, Schema
from perdure.wire.chat import encode_chat, encode_who
from perdure.wire.client_messages import encode_command, encode_hello, encode_leave, encode_ping
from perdure.wire.opcodes import Notice, ServerOp

MAX_PENDING = 64
_DECODER = msgspec.msgpack.Decoder(list[Any])
_SNAPSHOT = int(ServerOp.SNAPSHOT)


class ProtocolError(Exception):
    """The server sent something that this client does not understand, or the caller asked for what cannot be."""


class NotReady(ProtocolError):
    """No command can be sent now: no snapshot yet, or too many commands are unacknowledged."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's answer to hello."""

    player: str
    key: int
    session: int
    resume: str
    tick_hz: int
    zone: int
    gateway: str
    schema_hash: str


@dataclass(frozen=True, slots=True)
class NoticeReceived:
    """The server says something about a zone."""

    notice: Notice | int
    zone: int
    text: str


@dataclass(frozen=True, slots=True)
class Stale:
    """In one's `zone`, the entities of neighbouring `frozen` zones are shown as they were: their server is being replaced."""

    zone: int
    frozen: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `ping(number)`."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A command was not accepted. It is not sent again."""

    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class ChatReceived:
    """Somebody says something. `to` "": to the zone. `sender` "": the server, about a line of ours."""

    sender: str
    to: str
    text: str


@dataclass(frozen=True, slots=True)
class NamesReceived:
    """The answer to `who`: a name for each key that was asked for, "" for who is not online."""

    names: dict[int, str]


@dataclass(frozen=True, slots=True)
class WorldMap:
    """Who runs which zone: `owners[row * columns + column]` is the name of a shard, or "" for none."""

    columns: int
    rows: int
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message of a later version of the protocol."""

    op: int


@dataclass(frozen=True, slots=True)
class Paced:
    """The clock of `zone` runs at so many percent (load), a snapshot comes every so many ticks, and what is far at every so many."""

    zone: int
    clock_percent: int
    snapshot_every: int
    far_every: int


@dataclass(frozen=True, slots=True)
class Queued:
    """The world is full: this login waits. `position`: how many go before it, and itself; `estimate_s`: how long, by how it went so far."""

    position: int
    estimate_s: int


Received = Welcome | Snapshot | NoticeReceived | Pong | Refused | ChatReceived | NamesReceived | Paced | Queued | WorldMap | Stale | Ignored


@dataclass(slots=True)
class _Pending:
    seq: int
    kind: int
    values: list[Any] = field(default_factory=list)


class ClientProtocol:
    """See the module docstring. `world` is None until the first welcome; `outgoing` is drained by the driver."""

    def __init__(self, max_pending: int = MAX_PENDING) -> None:
        self.schema: Schema | None = None
        self.world: WorldView | None = None
        self.view_of: Callable[[Schema], WorldView] = WorldView
        """Makes the world view; who has no use for entities may give another."""
        self.resume = ""
        self.player = ""
        self.map: WorldMap | None = None
        """Who runs which zone, as the gateway told last."""
        self.acked = 0
        self.outgoing: list[bytes] = []
        """Messages that the driver must send, in order."""
        self.renumbered: dict[int, int] = {}
        """Commands that the last login gave other numbers: old to new. Empty unless some were refused, or another client played."""
        self.unknown: list[int] = []
        """Commands whose outcome the last login could not tell: another session of the player used their numbers meanwhile, or the
        world has forgotten some of what it had acknowledged."""
        self.acknowledged_lost = 0
        """How often a session began behind what was acknowledged before: data loss."""
        self.pace: Paced | None = None
        """What was last said of the clock of the zone that the player is in; None: it never was slowed."""
        self.queued: Queued | None = None
        """The place in the queue of logins, while this one waits."""
        self._commands: dict[str, CommandSchema] = {}
        self._max_pending = max_pending
        self._pending: deque[_Pending] = deque()
        self._next_seq = 1
        self._synchronised = False
        self._refusals_due = 0
        self._session = 0
        self._resuming, self._contiguous = False, True

    # --- out --------------------------------------------------------------------------------------------------------

    def hello(self, *, token: str | None = None, check_schema: bool = False) -> bytes:
        """Start a connection: by `token`, or with the resume token of the last welcome where `token` is None."""
        self._synchronised = False
        self._refusals_due = 0
        self.outgoing.clear()
        schema = self.schema.hash if check_schema and self.schema is not None else None
        self._resuming = token is None
        if token is not None:
            return encode_hello(token=token, schema=schema)
        if not self.resume:
            raise ProtocolError("there is no resume token yet: log in by token first")
        return encode_hello(resume=self.resume, schema=schema)

    @property
    def ready(self) -> bool:
        """Whether a command can be sent now."""
        return self._synchronised and not self._refusals_due and len(self._pending) < self._max_pending

    @property
    def commands(self) -> dict[str, CommandSchema]:
        """The game's commands by name; empty before the first welcome."""
        return self._commands

    @property
    def pending(self) -> list[int]:
        """Numbers of the commands that are not yet acknowledged."""
        return [command.seq for command in self._pending]

    def command(self, name: str, **fields: Any) -> tuple[int, bytes]:
        """Number and encode a command; return (number, message). Raises NotReady, or ProtocolError for wrong fields."""
        schema = self._commands.get(name)
        if schema is None:
            raise ProtocolError(f"there is no command {name!r}; there are {', '.join(self._commands) or 'none'}")
        unknown = fields.keys() - {f.name for f in schema.fields}
        if unknown:
            raise ProtocolError(f"{name} has no field {', '.join(sorted(unknown))}")
        values = [fields.get(f.name, 0) for f in schema.fields]
        return self.command_values(schema, values)

    def command_values(self, schema: CommandSchema, values: list[Any]) -> tuple[int, bytes]:
        """As `command`, with the values of all fields in order."""
        fault = schema.fault(values)
        if fault is not None:
            raise ProtocolError(fault)
        seq = self.number(schema.kind, values)
        return seq, encode_command(seq, schema.kind, values)

    def number(self, kind: int, values: list[Any]) -> int:
        """Return the number of a command that the caller sends now. Its values are known to be sound, and must not change any more.

        Raises NotReady.
        """
        if not self._synchronised:
            raise NotReady("wait for the first snapshot before sending commands")
        if self._refusals_due:
            raise NotReady("wait until the refusal of earlier commands is settled")
        if len(self._pending) >= self._max_pending:
            raise NotReady(f"{len(self._pending)} commands are not yet acknowledged")
        seq = self._next_seq
        self._next_seq = seq + 1
        self._pending.append(_Pending(seq, kind, values))
        return seq

    @staticmethod
    def ping(number: int) -> bytes:
        return encode_ping(number)

    @staticmethod
    def leave() -> bytes:
        return encode_leave()

    @staticmethod
    def chat(text: str, to: str = "") -> bytes:
        """Say something: to one's zone, or to the player called `to`."""
        return encode_chat(text, to)

    @staticmethod
    def who(keys: Iterable[int]) -> bytes:
        """Ask for the names of players by their keys, 64 at most."""
        return encode_who(keys)

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> Received:
        """Take one message of the server; may fill `outgoing`. Raises ProtocolError or SnapshotError."""
        try:
            message = _DECODER.decode(data)
            op = message[0]
        except (msgspec.MsgspecError, UnicodeDecodeError, IndexError) as error:
            raise ProtocolError(f"the server sent no msgpack array: {error}") from error
        if op == _SNAPSHOT:
            return self._snapshot(message)
        try:
            if op == ServerOp.WELCOME:
                return self._welcome(message[1])
            if op == ServerOp.NOTICE:
                known = message[1] in Notice.__members__.values()
                return NoticeReceived(Notice(message[1]) if known else message[1], message[2], message[3])
            if op == ServerOp.STALE:
                return self._stale(Stale(message[1], tuple(message[2])))
            if op == ServerOp.PONG:
                return Pong(message[1])
            if op == ServerOp.REFUSED:
                return self._refused(message[1], message[2])
            if op == ServerOp.CHAT:
                return ChatReceived(message[1], message[2], message[3])
            if op == ServerOp.NAMES:
                return NamesReceived(dict(message[1]))
            if op == ServerOp.MAP:
                self.map = WorldMap(int(message[1]), int(message[2]), tuple(message[3]))
                return self.map
            if op == ServerOp.PACE:
                self.pace = Paced(message[1], message[2], message[3], message[4] if len(message) > 4 else 1)
                return self.pace
            if op == ServerOp.QUEUED:
                self.queued = Queued(message[1], message[2])
                return self.queued
        except (LookupError, TypeError, ValueError) as error:
            raise ProtocolError(f"message {op} of the server has another shape: {error!r}") from error
        if type(op) is not int:
            raise ProtocolError("the server sent a message without a number")
        return Ignored(op)

    def _welcome(self, body: dict[str, Any]) -> Welcome:
        welcome = Welcome(
            body["player"],
            body["key"],
            body["session"],
            body["resume"],
            body["tick_hz"],
            body["zone"],
            body["gateway"],
            body["schema_hash"],
        )
        if self.schema is None or self.schema.hash != welcome.schema_hash:
            self.schema = Schema.from_wire(body["schema"])
            self.world = self.view_of(self.schema)
            self._commands = {command.name: command for command in self.schema.commands}
        # A resume token serves once, and a login makes it void: who may resume has had no other session in between.
        # What broke the chain once counts until a snapshot has told where we are.
        self._contiguous = self._contiguous and (self._resuming or welcome.session == self._session + 1)
        self._session = welcome.session
        if self.world is not None:
            self.world.stale_zones = frozenset()
        self.queued = self.pace = None
        self.resume, self.player = welcome.resume, welcome.player
        return welcome

    def _snapshot(self, message: list[Any]) -> Snapshot:
        if self.world is None:
            raise ProtocolError("a snapshot came before the welcome")
        snapshot = self.world.apply(message)
        self.applied(snapshot.ack)
        return snapshot

    def applied(self, ack: int) -> None:
        """A snapshot that acknowledges commands up to `ack` was applied: by `receive`, or by who decodes them by other means."""
        if not self._synchronised:
            self.unknown = []
            if ack < self.acked:
                self._forgotten(ack)
            elif not self._contiguous:
                self._begin_anew(ack)
        self._acknowledge(ack)
        if not self._synchronised:
            self._synchronise(ack)

    def _begin_anew(self, ack: int) -> None:
        """Another session of this player has used numbers: those up to `ack` say nothing about our commands."""
        self.unknown = [command.seq for command in self._pending if command.seq <= ack]
        while self._pending and self._pending[0].seq <= ack:
            self._pending.popleft()
        self.acked = ack

    def _forgotten(self, ack: int) -> None:
        """The world has forgotten some of what it told us. Of our other commands it may know none either, though it has applied them."""
        self.acknowledged_lost += 1
        self.unknown = self.pending
        self._pending.clear()
        self.acked = ack

    def _acknowledge(self, ack: int) -> None:
        if ack > self.acked:
            self.acked = ack
            pending = self._pending
            while pending and pending[0].seq <= ack:
                pending.popleft()

    def _synchronise(self, ack: int) -> None:
        """First snapshot of a connection: what is above its acknowledgement is sent again, before anything newer."""
        self._synchronised = self._contiguous = True
        self.renumbered = {}
        if self._pending and self._pending[0].seq != ack + 1:
            # The zone never heard of the ones in between, and never will: they were refused, or another client of the
            # same player used the numbers. Renumber what is left.
            self.renumbered = {command.seq: ack + 1 + offset for offset, command in enumerate(self._pending)}
            for command in self._pending:
                command.seq = self.renumbered[command.seq]
        self._next_seq = self._pending[-1].seq + 1 if self._pending else ack + 1
        self.outgoing.extend(encode_command(command.seq, command.kind, command.values) for command in self._pending)

    def _stale(self, stale: Stale) -> Stale:
        if self.world is not None:
            self.world.stale_zones = frozenset(stale.frozen)
        return stale

    def _refused(self, seq: int, text: str) -> Refused:
        if self._refusals_due:
            self._refusals_due -= 1
        else:
            # Everything numbered from here on was sent already, and is refused too, one by one.
            self._refusals_due = sum(1 for command in self._pending if command.seq > seq)
            self._next_seq = min(self._next_seq, seq)
            while self._pending and self._pending[-1].seq >= seq:
                self._pending.pop()
        return Refused(seq, text)


__all__ = [
    "ChatReceived", "ClientProtocol", "Ignored", "NamesReceived", "NotReady", "NoticeReceived", "Paced", "Pong", "ProtocolError", "Queued",
    "Received", "Refused", "Snapshot", "SnapshotError", "Stale", "Welcome", "WorldMap",
]  # fmt: skip
