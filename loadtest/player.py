"""One player of the load test: a real client over a real websocket, on gevent's loop.

The game protocol (numbers, resending, resuming) is `perdure.client`'s; what is here is a clock, and one greenlet that waits for the
socket's end. The snapshots are cut and decoded by compiled code of the load test's own (`reader`), where there is any. All
players of a process send from one greenlet (`Conductor`), each at a moment of its own. One core carries some two thousand of them. Owns
its socket and what it measures (`Measures`); never decides what to play: that is its `steer`. Called by locustfile.
"""

from __future__ import annotations

import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import Timeout

from loadtest.reader import CompiledProtocol, Reader
from loadtest.report import Measures
from loadtest.waits import Wait
from loadtest.websocket import Websocket
from perdure.client.frames import frame_head
from perdure.client.protocol import ClientProtocol, NoticeReceived, NotReady, ProtocolError, Queued, Refused, Welcome
from perdure.client.reconnect import Reconnecting
from perdure.client.world_view import Snapshot
from perdure.game.schema import CommandSchema
from perdure.wire.client_messages import encode_command_parts
from perdure.wire.opcodes import Notice

OPEN_DEADLINE_S = 15.0
SILENCE_S = 60.0
"""A socket on which nothing comes for so long is given up, as a player would."""
BYTES_EVERY_S = 5.0
"""So often a player tells how many bytes came."""
MOVED_S = 5.0
"""A gap that ends within so long a time after a notice of a failover is one."""
FAILOVER, BROKE, EFFECT = "blackout (failover)", "blackout (socket broke)", "command to effect"
SLOTS = 20
"""Moments within the interval of commands at which players send."""

Values = tuple[CommandSchema, list[float | int]]


class Player:
    """`play` returns when the player is told to stop, or is sent away for good. `urls`: gateways, tried in turn; `tls`: how those
    of wss:// are known."""

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        fetch_token: Callable[[], str],
        steer: Callable[[Player], Values | None],
        measures: Measures,
        *,
        conductor: Conductor,
        seed: int,
        protocol: type[ClientProtocol] = ClientProtocol,
        tls: ssl.SSLContext | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.name = name
        self.random = random.Random(seed)
        self._protocol = protocol
        self.protocol = protocol()
        self.stopping = False
        self.ended = ""
        self.entered = False
        """Whether it has ever been in the world."""
        self.moved_at_s = 0.0
        """When the last notice of a failover, and the last change of zone, came (monotonic)."""
        self._urls, self._fetch_token, self._steer, self._measures = list(urls), fetch_token, steer, measures
        self._reconnecting = Reconnecting(self.protocol, may_log_in=True)
        self._conductor = conductor
        self._tls, self._reader = tls, reader
        self._armed = False
        """Whether the reader's row is what holds: when, where and what was heard last."""
        self._number = self._ints_at = self._floats_at = self._ack_at = self._heard_at = -1
        self._prepared: Values | None = None
        self._head = self._tail = b""
        self._websocket: Websocket | None = None
        self._tries = 0
        self._dropped = False
        self._began_s = self._hello_s = 0.0
        self._heard_s = self._queued_s = 0.0
        """When the last snapshot, and the last word of the queue of logins, came."""
        self._connecting, self._entering = Wait(measures, "connect"), Wait(measures, "hello to first snapshot")
        self._queue = Wait(measures, "queue")
        self._failover_s, self._broke_s, self._effect_s = map(measures.bound_s, (FAILOVER, BROKE, EFFECT))
        self._gap_row = ""
        """The row in which the gap that goes on has failed."""
        self._fresh = True
        self._zone = -1
        self._tick = -1
        self._sample: tuple[int, float] | None = None
        """A command that is watched: its number, and when it was sent."""
        self._late_samples: deque[tuple[int, float]] = deque()
        """Those that have failed, and are not acknowledged yet."""
        self._sample_due_s = 0.0
        self._second_s = self._bytes_s = 0.0
        self._bytes = 0
        self._worst_s = 0.0
        self._tick_s = 0.05

    # --- life -----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Log in, play, and connect again after every break, until `stop` or a close that is for good (`ended` says which)."""
        reader = self._reader
        if reader is None:
            self.protocol = self._protocol()
        else:
            self._number = reader.add(self, full=self._protocol is ClientProtocol)
            self._ints_at, self._floats_at = self._number * reader.kernels.INTS, self._number * reader.kernels.FLOATS
            self._ack_at, self._heard_at = self._ints_at + reader.kernels.ACK, self._floats_at + reader.kernels.HEARD
            self.protocol = CompiledProtocol(reader, self._number)
        self._reconnecting = Reconnecting(self.protocol, may_log_in=True)
        self.stopping, self.ended = False, ""
        leave = self._conductor.joins(self)
        try:
            while not self.stopping:
                code, why = self._one_socket()
                if self.stopping or self.ended:
                    return
                if not self._dropped:
                    self._measures.broke("drop", f"{code if code is not None else 'socket'}: {why}"[:120])
                self._dropped = False
                if self._reconnecting.is_final(code):
                    self.ended = f"{code}: {why}"
                    return
                gevent.sleep(self._reconnecting.backoff_s())
        finally:
            leave()
            self._end("this player is over")
            if self._gap_row:
                self._measures.took(self._gap_row, time.monotonic() - self._heard_s, judged=True)
            self._zone, self._gap_row = -1, ""
            if reader is not None:
                reader.remove(self._number)

    def stop(self) -> None:
        """Leave the world, as someone does who logs out; the socket ends once the zone has let the player go."""
        self.judge(time.monotonic())
        self.stopping = True
        self._write(self.protocol.leave())

    def drop(self) -> None:
        """Break the socket without a word, as a network would. What comes of it is measured; the break itself is no failure."""
        if self._websocket is not None:
            self._dropped = True
            self._end("dropped")

    def _one_socket(self) -> tuple[int | None, str]:
        url = self._urls[self._tries % len(self._urls)]
        self._tries += 1
        self._began_s = time.monotonic()
        websocket = Websocket(self._received, self._tls, on_quiet=self._arm, on_close=self._release)
        self._connecting.begin(self._began_s)
        try:
            with Timeout(OPEN_DEADLINE_S):
                token = None if self.protocol.resume else self._fetch_token()
                websocket.open(url)
            if self.stopping:
                return None, "stopped while connecting"
            self._websocket = websocket
            self._hello_s = time.monotonic()
            self._connecting.over(self._hello_s)
            self._entering.begin(self._hello_s)
            self._fresh = True
            websocket.start()
            self._write(self.protocol.hello(token=token))
            return websocket.ended.get() or (None, "")
        except Timeout:
            return None, f"{url} did not answer within {OPEN_DEADLINE_S:g} s"
        except (OSError, ValueError) as error:
            return None, f"cannot connect to {url}: {error}"
        finally:
            websocket.end(None, "over")
            self._websocket = None
            now_s = time.monotonic()
            self._connecting.end(now_s)
            self._entering.end(now_s)
            self._queue.over(now_s)
            self._forget_samples(now_s)

    def _end(self, why: str) -> None:
        if self._websocket is not None:
            self._websocket.end(None, why)

    # --- out ------------------------------------------------------------------------------------------------------

    def _write(self, message: bytes) -> None:
        """Send a message; without a socket nothing is lost: commands are kept by the protocol."""
        if self._websocket is not None:
            self._websocket.send(message)

    def turn(self, now_s: float) -> None:
        """It is this player's turn: to say what takes too long, and to send a command."""
        self.judge(now_s)
        websocket, protocol = self._websocket, self.protocol
        if websocket is None or self.stopping:
            return
        if now_s - max(self._heard_s, self._queued_s) > SILENCE_S and now_s - self._began_s > SILENCE_S:
            self._end(f"nothing was heard for {SILENCE_S:g} s")
        elif protocol.ready:
            try:
                values = self._steer(self)
                if values is None:
                    return
                if values is not self._prepared:  # who steers holds on to what it gave: it is checked and encoded once
                    self._prepare(values)
                seq = protocol.number(values[0].kind, values[1])
            except NotReady:
                return  # the zone is paused or has just moved: a player's client would skip this one too
            except ValueError as error:  # this game is none for this way of steering
                self.ended = str(error)
                self._measures.broke("command", self.ended[:120])
                self._end(self.ended)
                return
            if now_s >= self._sample_due_s and self._sample is None:  # one a second is enough
                self._sample, self._sample_due_s = (seq, now_s), now_s + 1.0
                if self._armed and (reader := self._reader) is not None:
                    reader.ints[self._ints_at + reader.kernels.SAMPLE] = self._watched
            websocket.send_bytes(self._head + seq.to_bytes(4, "big") + self._tail)

    def judge(self, now_s: float) -> None:
        """What goes on for longer than it may has failed; each thing once. Who leaves is not asked any more."""
        if self.stopping:
            return
        if self._armed and (reader := self._reader) is not None:
            self._heard_s = reader.floats[self._heard_at]
            ack = reader.ints[self._ack_at]
            if ack != self.protocol.acked:
                self.protocol.applied(ack)
        gap_s = now_s - self._heard_s
        if self._websocket is not None and not self._fresh:
            if gap_s > self._failover_s + self._tick_s and not self._gap_row:
                self._gap_fails(FAILOVER)
            if self._sample is not None and now_s - self._sample[1] > self._effect_s:
                self._late_samples.append(self._sample)
                self._sample = None
                self._measures.late(EFFECT)
            return
        if gap_s > self._broke_s and self._zone >= 0 and not self._gap_row:
            self._gap_fails(BROKE)
        for wait in (self._connecting, self._entering, self._queue):
            wait.look(now_s)

    def _gap_fails(self, row: str) -> None:
        self._gap_row = row
        self._measures.late(row)
        if self._armed and (reader := self._reader) is not None:
            reader.ints[self._ints_at + reader.kernels.WATCHED] = 1  # to be told what ends it

    def _prepare(self, values: Values) -> None:
        command, given = values
        fault = command.fault(given)
        if fault is not None:
            raise ValueError(fault)
        head, self._tail = encode_command_parts(command.kind, given)
        self._head = frame_head(len(head) + 4 + len(self._tail)) + head
        self._prepared = values

    # --- in -------------------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        try:
            received = self.protocol.receive(data)
        except ProtocolError as error:
            raise ValueError(str(error)) from error
        if self.protocol.outgoing:
            for message in self.protocol.outgoing:
                self._write(message)
            self.protocol.outgoing.clear()
        self._bytes += len(data)
        if isinstance(received, Snapshot):
            self._snapshot(received)
        elif isinstance(received, Welcome):
            if self._queue.since_s:
                now_s = time.monotonic()
                self._queue.over(now_s)
                self._entering.begin(now_s)
            self._reconnecting.welcomed()
            self._tick_s = 1.0 / received.tick_hz
        elif isinstance(received, NoticeReceived):
            if received.notice in (Notice.FAILED_OVER, Notice.PAUSED):
                self.moved_at_s = time.monotonic()
        elif isinstance(received, Queued):
            self._queued_s = time.monotonic()
            if not self._queue.since_s:
                self._queue.begin(self._hello_s)
                self._entering.end(self._queued_s)  # it begins when the queue is over
        elif isinstance(received, Refused):
            self._forget_samples(time.monotonic())
            self._measures.broke("command", f"refused: {received.text}"[:120])

    def _snapshot(self, snapshot: Snapshot) -> None:
        now_s = time.monotonic()
        self._conductor.snapshots += 1
        gap_s, self._heard_s = now_s - self._heard_s, now_s
        late, self._gap_row = self._gap_row != "", ""
        if self._fresh:
            self._fresh, self.entered = False, True
            if self.stopping:
                self._write(self.protocol.leave())  # what was sent before the world knew this player was for nobody
            self._entering.over(now_s)
            if self._zone >= 0:
                self._measures.took(BROKE, gap_s, judged=late)
            self._second_s, self._bytes_s, self._bytes, self._worst_s = now_s, now_s, 0, 0.0
        elif snapshot.zone != self._zone:
            self._measures.took("crossing gap", gap_s, judged=late)
        elif late or (self.moved_at_s and now_s - self.moved_at_s < MOVED_S):
            self._measures.took(FAILOVER, gap_s, judged=late)
            self.moved_at_s = 0.0
        else:
            self._worst_s = max(self._worst_s, abs(gap_s - self._tick_s))
            if snapshot.tick <= self._tick:
                self._measures.broke("snapshot", f"tick {snapshot.tick} of zone {snapshot.zone} after tick {self._tick}")
        self._zone, self._tick = snapshot.zone, snapshot.tick
        self._acknowledged(snapshot.ack, now_s)
        if now_s - self._second_s >= 1.0:  # one row a second: Locust's statistics cost more than a snapshot does
            self._measures.took("snapshot jitter", self._worst_s)
            self._second_s, self._worst_s = now_s, 0.0
            if self._tells_bytes(now_s, self._bytes):
                self._bytes = 0

    def _acknowledged(self, ack: int, now_s: float) -> None:
        while self._late_samples and self._late_samples[0][0] <= ack:
            self._measures.took(EFFECT, now_s - self._late_samples.popleft()[1], judged=True)
        if self._sample is not None and self._sample[0] <= ack:
            self._measures.took(EFFECT, now_s - self._sample[1])
            self._sample = None

    def _forget_samples(self, now_s: float) -> None:
        """Nobody will acknowledge what was watched, or under another number."""
        for _, sent_s in self._late_samples:
            self._measures.took(EFFECT, now_s - sent_s, judged=True)
        self._late_samples.clear()
        self._sample = None

    @property
    def _watched(self) -> int:
        """The number of the oldest command that is watched; 0: none."""
        return self._late_samples[0][0] if self._late_samples else self._sample[0] if self._sample is not None else 0

    def _tells_bytes(self, now_s: float, count: int) -> bool:
        if now_s - self._bytes_s < BYTES_EVERY_S:
            return False
        self._measures.counted("bytes per player and second", count / (now_s - self._bytes_s))
        self._bytes_s = now_s
        return True

    # --- in, by compiled code ---------------------------------------------------------------------------------------
    # The first snapshot of a socket, and whatever is none, comes through `_received`; then the reader takes over.

    def _arm(self) -> None:
        """All that came has been handled: if nothing but snapshots is to be expected, have compiled code read this socket."""
        reader, websocket = self._reader, self._websocket
        if reader is None or websocket is None or self._armed or self._fresh or websocket.descriptor < 0:
            return
        kernels, at = reader.kernels, self._ints_at
        for column, value in (
            (kernels.SAMPLE, self._watched), (kernels.WATCHED, self.moved_at_s > 0.0 or self._gap_row != ""),
            (kernels.BYTES, self._bytes), (kernels.SNAPSHOTS, 0), (kernels.ZONE, self._zone), (kernels.TICK, self._tick),
        ):  # fmt: skip
            reader.ints[at + column] = int(value)
        floats_at = self._floats_at
        for column, seconds in (
            (kernels.HEARD, self._heard_s), (kernels.WORST, self._worst_s), (kernels.SECOND, self._second_s), (kernels.TICK_S, self._tick_s)
        ):  # fmt: skip
            reader.floats[floats_at + column] = seconds
        websocket.pause()
        reader.arm(self._number, websocket.descriptor)
        self._armed = True

    def _disarm(self) -> None:
        """Take over what the reader has learnt."""
        if not self._armed or (reader := self._reader) is None:
            return
        kernels, ints, floats = reader.kernels, reader.ints, reader.floats
        self._armed = False
        at = self._ints_at
        self._bytes, self._zone, self._tick = ints[at + kernels.BYTES], ints[at + kernels.ZONE], ints[at + kernels.TICK]
        self._conductor.snapshots += ints[at + kernels.SNAPSHOTS]
        self.protocol.applied(ints[at + kernels.ACK])
        at = self._floats_at
        self._heard_s, self._worst_s, self._second_s = floats[at + kernels.HEARD], floats[at + kernels.WORST], floats[at + kernels.SECOND]

    def _release(self) -> None:
        """The socket is about to be closed."""
        if self._reader is not None and self._websocket is not None:
            self._disarm()
            self._reader.release(self._number, self._websocket.descriptor)

    def told(self, reasons: int, tick_before: int, now_s: float, gap_s: float, worst_s: float) -> None:
        """The reader has taken a snapshot that means something: as `_snapshot`."""
        if not self._armed or (reader := self._reader) is None:
            return
        kernels, at = reader.kernels, self._ints_at
        late, self._gap_row = self._gap_row != "", ""
        if reasons & kernels.CROSSED:
            self._measures.took("crossing gap", gap_s, judged=late)
            reader.ints[at + kernels.WATCHED] = int(self.moved_at_s > 0.0)
        elif reasons & kernels.WATCH:
            if late or now_s - self.moved_at_s < MOVED_S:
                self._measures.took(FAILOVER, gap_s, judged=late)
            self.moved_at_s = 0.0
            reader.ints[at + kernels.WATCHED] = 0
        elif reasons & kernels.BACKWARD:
            zone, tick = reader.ints[at + kernels.ZONE], reader.ints[at + kernels.TICK]
            self._measures.broke("snapshot", f"tick {tick} of zone {zone} after tick {tick_before}")
        if reasons & kernels.SAMPLED:
            self._acknowledged(reader.ints[self._ack_at], now_s)
            reader.ints[at + kernels.SAMPLE] = self._watched
        if reasons & kernels.OVER:
            self._measures.took("snapshot jitter", worst_s)
            if self._tells_bytes(now_s, reader.ints[at + kernels.BYTES]):
                reader.ints[at + kernels.BYTES] = 0

    def left(self, data: bytes) -> None:
        """The reader has read what is no snapshot, or a part of one, and reads no more until it is armed again."""
        websocket, reader = self._websocket, self._reader
        if not self._armed or websocket is None or reader is None:
            return
        self._disarm()
        if data:
            websocket.take(data)  # where that was all, it arms again
        if not self._armed and websocket.descriptor >= 0:
            reader.release(self._number, websocket.descriptor)
            websocket.resume()

    def unfit(self, why: str) -> None:
        """The reader was sent a snapshot that does not fit what it knows."""
        if self._armed:
            self._end(why)

    # --- for who steers -------------------------------------------------------------------------------------------

    @property
    def me(self) -> Any:
        """The player's own entity as the newest snapshot shows it, or None."""
        return self.protocol.world.me if self.protocol.world is not None else None


class Conductor:
    """Gives players their turns: each once in an interval, spread over it; one timer for all of them."""

    def __init__(self, commands_hz: float) -> None:
        self._step_s = 1.0 / commands_hz / SLOTS
        self._slots: list[set[Player]] = [set() for _ in range(SLOTS)]
        self.snapshots = 0
        """How many came to all players of this process."""
        self._began_s, self._began_cpu_s = time.monotonic(), time.process_time()
        self._greenlet: gevent.Greenlet | None = None

    def joins(self, player: Player) -> Callable[[], None]:
        """From now on this player has turns; return what ends that."""
        slot = min(self._slots, key=len)
        slot.add(player)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        return lambda: slot.discard(player)

    def cost(self) -> str:
        """Say what the players of this process have cost it, so that nobody takes its limit for the cluster's."""
        cpu_s = time.process_time() - self._began_cpu_s
        cores = cpu_s / (time.monotonic() - self._began_s)
        return f"{cores:.2f} of a core, {1e6 * cpu_s / max(self.snapshots, 1):.1f} us for each of {self.snapshots} snapshots"

    def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            for slot in self._slots:
                due_s = max(due_s + self._step_s, time.monotonic())
                gevent.sleep(due_s - time.monotonic())
                now_s = time.monotonic()
                for player in tuple(slot):
                    player.turn(now_s)
