"""One player of the load test: a real client over a real websocket, on a gevent socket.

The game protocol (numbers, resending, resuming, snapshots) is `perdure.client`'s, the websocket protocol is the library's without its
I/O; what is here is a socket, a clock and two greenlets. One core carries some two thousand of them. Owns its socket and what it
measures (`Measures`); never decides what to play: that is its `steer`. Called by locustfile.
"""

from __future__ import annotations

import random
import socket as sockets
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import Timeout
from gevent import socket as gsocket
from websockets.client import ClientProtocol as WebsocketProtocol
from websockets.exceptions import InvalidHandshake, InvalidMessage
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from loadtest.report import Measures
from perdure.client.protocol import ClientProtocol, NoticeReceived, NotReady, ProtocolError, Refused, Welcome
from perdure.client.reconnect import Reconnecting
from perdure.client.world_view import Snapshot, SnapshotError
from perdure.game.schema import CommandSchema
from perdure.wire.opcodes import Notice

OPEN_DEADLINE_S = 15.0
RECEIVE_BYTES = 65536
SILENCE_S = 60.0
"""A socket on which nothing comes for so long is given up, as a player would."""

Values = tuple[CommandSchema, list[float | int]]


class Player:
    """`play` returns when the player is told to stop, or is sent away for good. `urls`: gateways, tried in turn."""

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        fetch_token: Callable[[], str],
        steer: Callable[[Player], Values | None],
        measures: Measures,
        *,
        commands_hz: float,
        seed: int,
        protocol: type[ClientProtocol] = ClientProtocol,
    ) -> None:
        self.name = name
        self.random = random.Random(seed)
        self._protocol = protocol
        self.protocol = protocol()
        self.stopping = False
        self.ended = ""
        self.moved_at_s = 0.0
        """When the last notice of a failover, and the last change of zone, came (monotonic)."""
        self._urls, self._fetch_token, self._steer, self._measures = list(urls), fetch_token, steer, measures
        self._interval_s = 1.0 / commands_hz
        self._reconnecting = Reconnecting(self.protocol, may_log_in=True)
        self._socket: gsocket.socket | None = None
        self._websocket: WebsocketProtocol | None = None
        self._tries = 0
        self._dropped = False
        self._began_s = self._hello_s = 0.0
        self._heard_s = 0.0
        self._fresh = True
        self._zone = -1
        self._tick = -1
        self._sample: tuple[int, float] | None = None
        self._sample_due_s = 0.0
        self._second_s = 0.0
        self._bytes = self._snapshots = 0
        self._worst_s = 0.0
        self._tick_s = 0.05

    # --- life -----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Log in, play, and connect again after every break, until `stop` or a close that is for good (`ended` says which)."""
        self.protocol = self._protocol()
        self._reconnecting = Reconnecting(self.protocol, may_log_in=True)
        self.stopping, self.ended, self._zone = False, "", -1
        sender = gevent.spawn(self._send_commands)
        try:
            while not self.stopping:
                code, why = self._one_socket()
                if self.stopping:
                    return
                if not self._dropped:
                    self._measures.broke("drop", f"{code if code is not None else 'socket'}: {why}"[:120])
                self._dropped = False
                if self._reconnecting.is_final(code):
                    self.ended = f"{code}: {why}"
                    return
                gevent.sleep(self._reconnecting.backoff_s())
        finally:
            sender.kill()
            self._close()

    def stop(self) -> None:
        """Leave the world, as someone does who logs out; the socket ends once the zone has let the player go."""
        self.stopping = True
        self._write(self.protocol.leave())

    def drop(self) -> None:
        """Break the socket without a word, as a network would. What comes of it is measured; the break itself is no failure."""
        if self._socket is not None:
            self._dropped = True
            self._socket.close()

    def _one_socket(self) -> tuple[int | None, str]:
        url = self._urls[self._tries % len(self._urls)]
        self._tries += 1
        self._began_s = time.monotonic()
        try:
            with Timeout(OPEN_DEADLINE_S):
                token = None if self.protocol.resume else self._fetch_token()
                self._open(url)
        except Timeout:
            return None, f"{url} did not answer within {OPEN_DEADLINE_S:g} s"
        except (OSError, InvalidHandshake, InvalidMessage) as error:
            return None, f"cannot connect to {url}: {error}"
        self._hello_s = time.monotonic()
        self._measures.took("connect", self._hello_s - self._began_s)
        self._fresh = True
        self._write(self.protocol.hello(token=token))
        try:
            return self._read()
        except (ProtocolError, SnapshotError) as error:
            return None, str(error)
        finally:
            self._close()

    def _open(self, url: str) -> None:
        uri = parse_uri(url)
        self._socket = gsocket.create_connection((uri.host, uri.port))
        self._socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        websocket = self._websocket = WebsocketProtocol(uri, max_size=1 << 20)
        websocket.send_request(websocket.connect())
        self._flush()
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise OSError("closed during the handshake")
            websocket.receive_data(data)
            events = websocket.events_received()
            if websocket.handshake_exc is not None:
                raise websocket.handshake_exc
            for event in events:
                if isinstance(event, Response):
                    return

    def _read(self) -> tuple[int | None, str]:
        """Take messages until the socket ends; return the close code (None: it broke) and why."""
        websocket, socket = self._websocket, self._socket
        assert websocket is not None and socket is not None
        while True:
            try:
                data = socket.recv(RECEIVE_BYTES)  # without a timeout, which is a timer a call: who sends looks whether it is silent
            except OSError as error:
                return None, self._silence() or str(error)
            if not data:
                return websocket.close_code if websocket.close_code != 1006 else None, websocket.close_reason or "the socket broke"
            websocket.receive_data(data)
            for frame in websocket.events_received():
                if not isinstance(frame, Frame):
                    continue
                if frame.opcode is Opcode.BINARY:
                    self._received(bytes(frame.data))
                elif frame.opcode is Opcode.CLOSE:
                    self._flush()
                    code = websocket.close_rcvd.code if websocket.close_rcvd is not None else None
                    return code, websocket.close_rcvd.reason if websocket.close_rcvd is not None else ""
            if websocket.writes:
                self._flush()

    def _silence(self) -> str:
        """Return that nothing was heard for too long, or an empty string."""
        return f"nothing was heard for {SILENCE_S:g} s" if time.monotonic() - max(self._heard_s, self._began_s) > SILENCE_S else ""

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._websocket = None

    # --- out ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._websocket is None or self._socket is None:
            return
        for data in self._websocket.data_to_send():
            sent = self._socket.send(data) if data else 0
            if sent < len(data):
                self._socket.sendall(data[sent:])

    def _write(self, message: bytes) -> None:
        """Send a message; without a socket nothing is lost: commands are kept by the protocol."""
        if self._websocket is None or self._socket is None:
            return
        self._websocket.send_binary(message)
        try:
            self._flush()
        except OSError:
            self._socket.close()  # its reader finds out

    def _send_commands(self) -> None:
        gevent.sleep(self.random.uniform(0, self._interval_s))  # so that players do not send in step
        due_s = time.monotonic()
        while True:
            if self._socket is not None and self._websocket is not None and self._silence():
                self._socket.close()  # its reader finds out
            elif self.protocol.ready and self._socket is not None and not self.stopping:
                values = self._steer(self)
                if values is not None:
                    self._send(*values)
            due_s = max(due_s + self._interval_s, time.monotonic())
            gevent.sleep(due_s - time.monotonic())

    def _send(self, command: CommandSchema, values: list[float | int]) -> None:
        try:
            seq, message = self.protocol.command_values(command, values)
        except NotReady:
            return  # the zone is paused or has just moved: a player's client would skip this one too
        now_s = time.monotonic()
        if self._sample is None and now_s >= self._sample_due_s:  # one a second is enough
            self._sample, self._sample_due_s = (seq, now_s), now_s + 1.0
        self._write(message)

    # --- in -------------------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        received = self.protocol.receive(data)
        for message in self.protocol.outgoing:
            self._write(message)
        self.protocol.outgoing.clear()
        self._bytes += len(data)
        if isinstance(received, Snapshot):
            self._snapshot(received)
        elif isinstance(received, Welcome):
            self._reconnecting.welcomed()
            self._tick_s = 1.0 / received.tick_hz
        elif isinstance(received, NoticeReceived):
            if received.notice in (Notice.FAILED_OVER, Notice.PAUSED):
                self.moved_at_s = time.monotonic()
        elif isinstance(received, Refused):
            self._sample = None
            self._measures.broke("command", f"refused: {received.text}"[:120])

    def _snapshot(self, snapshot: Snapshot) -> None:
        now_s = time.monotonic()
        gap_s, self._heard_s = now_s - self._heard_s, now_s
        if self._fresh:
            self._fresh = False
            self._measures.took("hello to first snapshot", now_s - self._hello_s)
            if self._zone >= 0:
                self._measures.took("blackout (socket broke)", gap_s)
            self._second_s, self._bytes, self._snapshots, self._worst_s, self._sample = now_s, 0, 0, 0.0, None
        elif snapshot.zone != self._zone:
            self._measures.took("crossing gap", gap_s)
        elif self.moved_at_s and now_s - self.moved_at_s < 5.0:
            self._measures.took("blackout (failover)", gap_s)
            self.moved_at_s = 0.0
        else:
            self._worst_s = max(self._worst_s, abs(gap_s - self._tick_s))
            if snapshot.tick <= self._tick:
                self._measures.broke("snapshot", f"tick {snapshot.tick} of zone {snapshot.zone} after tick {self._tick}")
        self._zone, self._tick = snapshot.zone, snapshot.tick
        self._snapshots += 1
        if self._sample is not None and snapshot.ack >= self._sample[0]:
            self._measures.took("command to effect", now_s - self._sample[1])
            self._sample = None
        if now_s - self._second_s >= 1.0:  # one row a second: Locust's statistics cost more than a snapshot does
            self._measures.took("snapshot jitter", self._worst_s, self._bytes)
            self._second_s, self._bytes, self._snapshots, self._worst_s = now_s, 0, 0, 0.0

    # --- for who steers -------------------------------------------------------------------------------------------

    @property
    def me(self) -> Any:
        """The player's own entity as the newest snapshot shows it, or None."""
        return self.protocol.world.me if self.protocol.world is not None else None
