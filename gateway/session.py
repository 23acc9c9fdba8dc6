"""The session: one connected client, from its hello to its close, as a state machine without I/O.

Theory of operation. A session is told what happens (a message, a frame for it, a link that broke, a socket that is gone)
and answers with instructions for its driver (`instructions`, drained after each call) and with bytes for its client
(`write`, injected). Its lifecycle is the table session_states.TRANSITIONS, and nothing else moves `state`.

A session follows its player by the frames that arrive: the route of the newest accepted frame is where commands go.
Commands that the zone has not acknowledged are kept; when a frame arrives by a new route they are all sent again by
that route, in order, before any newer one. Between the loss of a route and that frame they are only kept. The zone
applies each number once, so a resend is harmless, and a missing resend is the only way to lose a command.

Two methods are hot, and return plain values instead of instructions: `message` (one inbound message) and, for all that
is not inlined in fanout.py, `admit` (one outbound frame). Never touches a socket, a clock, the ledger or asyncio; times
are handed in as seconds of a monotonic clock. Called by websocket_server, fanout, admission and service.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gateway.metrics import GatewayCounters
from gateway.routing import Route
from gateway.session_instructions import (
    Admit,
    AskKeyframe,
    CloseSocket,
    Detach,
    Forward,
    Instruction,
    Leave,
    Say,
    SessionDriver,
    Who,
    close_text,
)
from gateway.session_states import TRANSITIONS, SessionEvent, SessionState
from gateway.world_rules import ROW_START, WorldRules
from perdure.wire.chat import chat_frame, decode_chat, decode_who
from perdure.wire.client_messages import (
    BadMessage,
    client_op,
    decode_command,
    decode_hello,
    decode_ping,
    notice_frame,
    pace_frame,
    pong_frame,
    refused_frame,
    stale_frame,
    welcome_frame,
)
from perdure.wire.opcodes import PROTOCOL_VERSION, ClientOp, Close, Notice, SnapshotFlag

Pace = tuple[int, int, int]
"""How a zone's clock runs: percent of the full rate, a snapshot every so many ticks, and far entities at every so many."""
FULL_PACE: Pace = (100, 1, 1)
MAX_SEQ = (1 << 32) - 1
UNKNOWN_ACK = -1
NO_HOP = -1
HELD_SWEEPS = 2
"""Sweeps (of a second each) for which the commands of a suspect are held back from a new owner."""

_KEYFRAME = int(SnapshotFlag.KEYFRAME)
_GONE = int(SnapshotFlag.GONE)
_MOVED = int(SnapshotFlag.MOVED)
_COMMAND = int(ClientOp.COMMAND)

# Looking an enum's member up by its class costs as much as decoding a command does (Python 3.11): the hot path has these.
_AWAITING_HELLO, _PLAYING = SessionState.AWAITING_HELLO, SessionState.PLAYING
_LEAVING, _CLOSED = SessionState.LEAVING, SessionState.CLOSED


class Session:
    """See the module docstring. Attributes without underscore are read by the fan-out loop and by the driver."""

    __slots__ = (
        "_chat_due_s",
        "_command_due_s",
        "_counters",
        "_death_seq",
        "_deaths",
        "_held_sweeps",
        "_lost_link",
        "_lost_seq",
        "_other_due_s",
        "_owner",
        "_rules",
        "_strike_due_s",
        "acked",
        "acknowledged",
        "acknowledged_at",
        "attached",
        "closed_code",
        "congested",
        "driver",
        "fresh",
        "hop",
        "instructions",
        "key",
        "last_seq",
        "map_due",
        "muted",
        "name",
        "pace",
        "paused",
        "pending",
        "resume",
        "route",
        "session",
        "slot",
        "stale",
        "state",
        "write",
        "zone",
    )

    def __init__(self, rules: WorldRules | None, write: Callable[[bytes], None], counters: GatewayCounters) -> None:
        self.state = SessionState.AWAITING_HELLO
        self.write = write
        self.instructions: list[Instruction] = []
        self.name = ""
        self.resume = ""
        self.key = 0
        self.session = 0
        self.slot = 0
        self.attached = False
        """Whether the ledger holds this session as the player's newest, as far as is known here."""
        self.zone = -1
        self.route: Route | None = None
        self.hop = NO_HOP
        self.acked = UNKNOWN_ACK
        self.last_seq = UNKNOWN_ACK
        self.acknowledged: Sequence[int] | None = None
        """Where compiled code leaves acknowledgements, at `acknowledged_at` (gateway.send_table); see `catch_up`."""
        self.acknowledged_at = 0
        self.pending: deque[tuple[int, bytes]] = deque()
        self.muted = False
        """Snapshots are dropped until a keyframe comes."""
        self.paused = False
        """The client was told that its zone is paused, and not yet that it goes on."""
        self.stale: tuple[int, ...] = ()
        """The zones whose entities the client was told to be shown as they were."""
        self.pace = FULL_PACE
        """What the client was told of its zone's clock."""
        self.congested = False
        """The socket's buffer is over its limit: not even a keyframe is written."""
        self.map_due = False
        """The map of the world changed while the socket was congested."""
        self.fresh = False
        """A frame was accepted since the driver last cleared this."""
        self.closed_code: Close | None = None
        self.driver: SessionDriver | None = None
        """The socket's side; the session itself never calls it."""
        self._rules = rules
        self._counters = counters
        self._chat_due_s = 0.0
        self._command_due_s = 0.0
        self._strike_due_s = 0.0
        self._other_due_s = 0.0
        self._deaths = 0
        self._held_sweeps = 0
        self._death_seq = -1
        self._lost_seq = -1
        self._lost_link: object | None = None
        self._owner = ""

    def _go(self, event: SessionEvent) -> None:
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise RuntimeError(f"a session that is {self.state.name} cannot take {event.name}")
        self.state = following

    # --- from the client --------------------------------------------------------------------------------------------

    def message(self, now_s: float, data: bytes) -> bytes | None:
        """Take one message; return a command row that goes to `route` now, or None. May leave instructions."""
        if self.state is _CLOSED:
            return None
        try:
            op = data[1] if len(data) > 1 and 0x91 <= data[0] <= 0x9F else client_op(data)
            if op == _COMMAND and self.state is not _AWAITING_HELLO:
                return self._command(now_s, data)
            self._other(now_s, op, data)
        except BadMessage as error:
            if self.state is _AWAITING_HELLO:
                self.close(Close.BAD_HELLO, str(error))
            else:
                self.close(Close.BAD_MESSAGE, str(error))
        return None

    def control(self, now_s: float) -> None:
        """Count a websocket control frame or a fragment against the rate of messages other than commands."""
        rules = self._rules
        interval_s = 0.05 if rules is None else rules.other_interval_s
        due_s = max(self._other_due_s, now_s)
        if due_s - now_s > 2.0:
            self.close(Close.TOO_FAST, "too many pings, fragments or other messages")
            return
        self._other_due_s = due_s + interval_s

    def _command(self, now_s: float, data: bytes) -> bytes | None:
        rules = self._rules
        assert rules is not None  # a session without rules never got past hello
        # The number by hand, the rest by what was learned of the same bytes: players repeat themselves, and a table costs
        # a quarter of decoding, checking and packing. Whatever is not plain goes the long way.
        seq, at, tail = 0, 0, None
        if len(data) > 4:
            tag = data[2]
            if tag < 0x80:
                seq, at = tag, 3
            elif tag == 0xCD:
                seq, at = data[3] << 8 | data[4], 5
            elif tag == 0xCE:
                seq, at = int.from_bytes(data[3:7], "big"), 7
            if seq:
                tail = rules.learned.get(data[at:])
                if tail is not None and tail[0] != data[0]:  # another count of elements
                    tail = None
        values: list[int | float | bool] = []
        if tail is None:
            values = decode_command(data)
            seq, kind = values[1], values[2]
            if type(seq) is not int or type(kind) is not int or not 0 < seq <= MAX_SEQ:
                raise BadMessage("command: seq is a whole number from 1 to 2^32 - 1, and kind a whole number")
        due_s = self._command_due_s
        if due_s < now_s:  # max() costs a call
            due_s = now_s
        if due_s - now_s > rules.command_burst_s:
            return self._refuse_for_speed(now_s, seq)
        self._command_due_s = due_s + rules.command_interval_s

        acknowledged = self.acknowledged
        if acknowledged is not None and acknowledged[self.acknowledged_at] > self.acked:
            self.catch_up()
        if self.acked < 0:
            return self._refuse(seq, "early", "wait for the first snapshot before sending commands")
        if self.state is _LEAVING:
            return self._refuse(seq, "leaving", "this session is logging out")
        newest = self.last_seq
        if newest < self.acked:
            newest = self.acked
        if seq <= newest:
            return None  # already applied, or already waiting: a resend by the client
        if seq != newest + 1:
            return self._refuse(seq, "sequence", f"the next command's number is {newest + 1}")
        pending = self.pending
        if len(pending) >= rules.limits.max_pending:
            return self._refuse(seq, "window", f"{len(pending)} commands are not yet acknowledged; wait")
        if tail is None:
            tail = self._check(values, data, at)
            if tail is None:
                return None
        row = ROW_START.pack(self.key, seq, self.session & 0xFFFF) + tail[1]
        pending.append((seq, row))
        self.last_seq = seq
        self._counters.commands += 1
        return row if self.state is _PLAYING and not self._held_sweeps else None

    def _check(self, values: list[int | float | bool], data: bytes, at: int) -> tuple[int, bytes] | None:
        """Return the learned form of a decoded command, or close and return None where it breaks the schema."""
        rules = self._rules
        assert rules is not None
        kind = int(values[2])
        command = rules.commands.get(kind)
        if command is None:
            self.close(Close.BAD_COMMAND, f"there is no command of kind {kind}")
            return None
        fields = values[3:]
        fault = command.fault(fields)
        if fault is not None:
            self.close(Close.BAD_COMMAND, fault)
            return None
        return rules.learn(data, at, kind, command.pack(fields))

    def _refuse(self, seq: int, reason: str, text: str) -> None:
        self._counters.refused[reason] += 1
        self.write(refused_frame(seq, text))

    def _refuse_for_speed(self, now_s: float, seq: int) -> None:
        rules = self._rules
        assert rules is not None
        due_s = max(self._strike_due_s, now_s)
        rate = 1.0 / rules.command_interval_s
        if due_s - now_s > rules.strike_burst_s:
            self._counters.refused["rate"] += 1
            self.close(Close.TOO_FAST, f"more than {rate:g} commands a second, for too long")
            return
        self._strike_due_s = due_s + rules.strike_interval_s
        self._refuse(seq, "rate", f"more than {rate:g} commands a second")

    def _other(self, now_s: float, op: int, data: bytes) -> None:
        self.control(now_s)
        if self.state is SessionState.CLOSED:
            return
        if self.state is SessionState.AWAITING_HELLO:
            if op != ClientOp.HELLO:
                raise BadMessage("the first message must be hello")
            self._hello(data)
        elif op == ClientOp.PING:
            self.write(pong_frame(decode_ping(data)))
        elif op == ClientOp.LEAVE:
            if data != b"\x91\x04":
                raise BadMessage("leave is an array of one element")
            self._leave()
        elif op == ClientOp.CHAT:
            self._chat(now_s, *decode_chat(data))
        elif op == ClientOp.WHO:
            self.instructions.append(Who(tuple(decode_who(data))))
        elif op == ClientOp.HELLO:
            raise BadMessage("hello was said already")
        else:
            raise BadMessage(f"there is no message {op}")

    def _chat(self, now_s: float, to: str, text: str) -> None:
        rules = self._rules
        assert rules is not None
        due_s = max(self._chat_due_s, now_s)
        if not self.attached or self.state is _LEAVING:
            self.server_says("wait until you are in the world")
        elif not text:
            self.server_says("there is nothing in that line that can be shown")
        elif due_s - now_s > rules.chat_burst_s:
            self._counters.refused["chat"] += 1
            self.server_says(f"slower: a line every {rules.chat_interval_s:g} s")
        else:
            self._chat_due_s = due_s + rules.chat_interval_s
            self.instructions.append(Say(to, text))

    def server_says(self, text: str) -> None:
        """Answer a line of chat by a line that nobody else sees."""
        self.write(chat_frame("", self.name, text))

    def _hello(self, data: bytes) -> None:
        hello = decode_hello(data)
        if hello.protocol != PROTOCOL_VERSION:
            self.close(Close.WRONG_PROTOCOL, f"this gateway speaks protocol {PROTOCOL_VERSION}")
        elif self._rules is None:
            self.close(Close.UNAVAILABLE, "no shard has set up the world yet")
        elif hello.schema is not None and hello.schema != self._rules.schema_hash:
            self.close(Close.WRONG_SCHEMA, f"the world's schema is {self._rules.schema_hash}")
        else:
            self._go(SessionEvent.HELLO)
            self.instructions.append(Admit(hello))

    def _leave(self) -> None:
        if self.state is SessionState.ENTERING:
            self.close(Close.LOGGED_OUT, "left before entering")
            return
        if self.state is not SessionState.LEAVING:
            self._go(SessionEvent.LEAVE)
            self.instructions.append(Leave(self.key, self.session))

    # --- from the ledger --------------------------------------------------------------------------------------------

    def entered(self, *, name: str, key: int, session: int, slot: int, zone: int, resume: str, gateway: str) -> None:
        """The ledger took the player in: say welcome, and wait for the first frame."""
        rules = self._rules
        assert rules is not None
        self._go(SessionEvent.ENTERED)
        self.name, self.key, self.session, self.slot, self.zone = name, key, session, slot, zone
        self.resume = resume
        self.attached = True
        self._counters.logins += 1
        self.write(
            welcome_frame(
                {
                    "session": session,
                    "player": name,
                    "key": key,
                    "resume": resume,
                    "schema": rules.schema_wire,
                    "schema_hash": rules.schema_hash,
                    "tick_hz": rules.schema.tick_hz,
                    "zone": zone,
                    "gateway": gateway,
                }
            )
        )
        if rules.map_frame:
            self.write(rules.map_frame)

    def map_changed(self) -> None:
        """Zones have other owners: tell the client, or remember to where it reads too slowly."""
        self.map_due = self.congested
        if not self.congested and self._rules is not None and self.state in (SessionState.WAITING, SessionState.PLAYING):
            self.write(self._rules.map_frame)

    # --- from the shards --------------------------------------------------------------------------------------------

    def acknowledge(self, ack: int) -> None:
        """Forget commands up to `ack`; a lower one than before changes nothing."""
        if ack <= self.acked:
            return
        self.acked = ack
        pending = self.pending
        while pending and pending[0][0] <= ack:
            pending.popleft()

    def catch_up(self) -> None:
        """Take in what compiled code was told is acknowledged. Whoever looks at `acked` or `pending` calls this first.

        Before the first frame nothing is, whatever stands in the session's row.
        """
        if self.acknowledged is not None and self.acked != UNKNOWN_ACK:
            self.acknowledge(self.acknowledged[self.acknowledged_at])

    def reroute(self, route: Route, hop: int, ack: int, flags: int) -> bool:
        """A frame arrived that is not of the session's present route. Return False where it is stale: drop it.

        Else the session follows it: acknowledged commands are forgotten and all others are sent again, first thing.
        """
        if hop < self.hop or self.state is SessionState.CLOSED:
            return False
        old = self.route
        if old is not None and hop == self.hop:
            if old is route:
                return True
            if route.stamp < old.stamp:
                return False
        if self._owner and self._owner != route.link.name and hop == self.hop and route.zone == self.zone:
            lost = f"lost {self._owner}: {route.link.name} runs zone {route.zone} now"
            moved = f"zone {route.zone} moved from {self._owner} to {route.link.name}"
            self.write(notice_frame(Notice.FAILED_OVER, route.zone, lost if old is None else moved))
        if self.paused:
            # The zone that said so was left, or lost its owner, before it could say that it goes on.
            self.noticed(Notice.RESUMED, route.zone, "the world goes on")
        self._go(SessionEvent.ROUTED)
        self.route, self.hop, self.zone, self._owner = route, hop, route.zone, route.link.name
        self.acknowledge(ack)
        self._held_sweeps = HELD_SWEEPS if self._is_suspect() else 0
        self._send_again()
        if not flags & _KEYFRAME:
            # Its deltas have no baseline at this client: frames may have been lost with the old link.
            self.muted = True
            self.ask_keyframe()
        return True

    def _is_suspect(self) -> bool:
        """Would one more death put this session out, for the command that it would send first?"""
        rules = self._rules
        return (
            rules is not None and self._deaths > 0 and self._deaths + 1 >= rules.limits.poison_deaths
            and bool(self.pending) and self.pending[0][0] == self._death_seq
        )  # fmt: skip

    def _send_again(self) -> None:
        if self.route is not None and self.pending and not self._held_sweeps:
            self._counters.resends += 1
            self._counters.resent_commands += len(self.pending)
            self.instructions.append(Forward(self.route, tuple(row for _, row in self.pending)))

    def swept(self) -> None:
        """Time has passed: the commands of a suspect go to the new owner once it has lived for a while (decision 0009)."""
        if self._held_sweeps:
            self._held_sweeps -= 1
            self._send_again()

    def admit(self, flags: int) -> bool:
        """Return whether a frame with flags, or for a muted session, is written; called after `reroute`/`acknowledge`."""
        if flags & _GONE:
            return False
        if self.muted:
            if self.congested or not flags & _KEYFRAME:
                return False
            self.muted = False
        return True

    def noticed(self, notice: Notice, zone: int, text: str) -> None:
        """Tell the client what its zone says, and remember whether it stands paused."""
        self.paused = notice is Notice.PAUSED
        self.write(notice_frame(notice, zone, text))

    def sees_stale(self, zone: int, stale: tuple[int, ...]) -> None:
        """Tell the client whose entities it is shown as they were, where that is news."""
        if stale != self.stale:
            self.stale = stale
            self.write(stale_frame(zone, stale))

    def paced(self, zone: int, pace: Pace) -> None:
        """Tell the client how the clock of the zone that it is in runs, where that is news."""
        if pace != self.pace:
            self.pace = pace
            self.write(pace_frame(zone, *pace))

    def departed(self, flags: int) -> None:
        """The frame just handled said MOVED or GONE."""
        if flags & _GONE:
            self.attached = False
            if self.state is SessionState.LEAVING:
                self.close(Close.LOGGED_OUT)
            else:
                self.close(Close.KICKED, "the player was logged out by the server")
        elif flags & _MOVED:
            self._owner = ""
            self.hop += 1  # nothing more is taken from the zone it left
            self.route = None
            self._go(SessionEvent.ROUTE_LOST)

    def link_lost(self, link: object) -> None:
        """The link that the session's route goes by is gone: keep commands until the next frame."""
        route = self.route
        if route is None or route.link is not link:
            return
        self.catch_up()
        self._lost_link = None
        if self.pending and self.state is SessionState.PLAYING and not self._held_sweeps:
            self._lost_link, self._lost_seq = link, self.pending[0][0]
        self._held_sweeps = 0
        self.route = None
        self._go(SessionEvent.ROUTE_LOST)

    def shard_died(self, link: object) -> None:
        """It is known that the shard behind `link` died. A session that had the same command as its next in flight at too many
        such deaths on end is put out, since that command may be what kills. One applied in between speaks for it."""
        if self._lost_link is not link or self.state is SessionState.CLOSED:
            return
        self._lost_link = None
        rules = self._rules
        if rules is None or not self.pending:
            return
        self._deaths = self._deaths + 1 if self._lost_seq == self._death_seq else 1
        self._death_seq = self._lost_seq
        if self._deaths >= rules.limits.poison_deaths:
            self.instructions.append(Leave(self.key, self.session, kick=True))
            self.attached = False
            self.close(Close.KICKED, f"your command was in flight when {self._deaths} servers died")

    def ask_keyframe(self) -> None:
        """Ask for a full snapshot, if there is anyone to ask."""
        if self.route is not None:
            self._counters.keyframes_asked += 1
            self.instructions.append(AskKeyframe(self.route, self.key))

    # --- from the socket and the driver -----------------------------------------------------------------------------

    def buffer_full(self) -> None:
        """The socket's buffer went over its limit: drop snapshots."""
        self.congested = self.muted = True

    def buffer_drained(self) -> None:
        """The socket's buffer is low again: a keyframe brings the client up to date."""
        self.congested = False
        if self.map_due:
            self.map_changed()
        if self.muted and self.state in (SessionState.PLAYING, SessionState.LEAVING):
            self.ask_keyframe()

    def taken_over(self) -> None:
        """A newer session of the same player exists."""
        if self.state is not SessionState.CLOSED:
            self.attached = False
            self._counters.takeovers += 1
            self.close(Close.TAKEN_OVER)

    def socket_lost(self) -> None:
        """The socket is gone, whoever ended it."""
        if self.state is SessionState.CLOSED:
            return
        self._go(SessionEvent.CLOSE)
        self.pending.clear()
        self._detach()

    def close(self, code: Close, detail: str = "") -> None:
        """End the session with a code; the player stays in the world for its grace time unless it has left it."""
        if self.state is SessionState.CLOSED:
            return
        self._go(SessionEvent.CLOSE)
        self.closed_code = code
        self.pending.clear()
        self._counters.closes[int(code)] += 1
        self._detach()
        self.instructions.append(CloseSocket(code, close_text(code, detail)))

    def _detach(self) -> None:
        if self.attached:
            self.attached = False
            self.instructions.append(Detach(self.key, self.session))
