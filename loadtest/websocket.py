"""A player's websocket on gevent's loop: what comes is handled in the loop's own callback, without a greenlet to switch to.

Owns one socket. `open` blocks the calling greenlet alone; after that nothing here blocks: a socket that takes no more is ended. What
comes is read in one `recv` a wake-up, in frames cut by perdure.client.frames. Knows nothing of the game. Called by player.
"""

from __future__ import annotations

import socket as sockets
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent import monkey
from gevent import socket as gsocket
from gevent.event import AsyncResult

from perdure.client.frames import BINARY, CLOSE, PING, PONG, Frames, close_code, frame, upgrade_request

RECEIVE_BYTES = 65536
_READABLE = 1

End = tuple[int | None, str]
"""How a socket ended: the close code (None: it broke) and why."""


def gateway_url(text: str) -> str:
    """Return a gateway's URL for what names it: http:// means ws://, https:// means wss://, and a bare host has its websocket at /ws.

    Raises ValueError where it names none.
    """
    parts = urlsplit(text)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{text!r} names no gateway: it is ws://host:port/ws, or wss://, http://, https://")
    path = "/ws" if parts.path in ("", "/") and scheme != parts.scheme else parts.path
    return parts._replace(scheme=scheme, path=path).geturl()


def tls_context(ca_file: str = "", insecure: bool = False) -> ssl.SSLContext:
    """Return how servers are known: by the authorities of this system, or of `ca_file` alone; `insecure`: whoever answers is taken.

    One for all sockets of a process: reading the authorities takes longer than the rest of a handshake. Raises OSError where the file is
    not there or holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Websocket:
    """`on_message` takes each message, within the loop: it must not block. What it raises as a ValueError ends the socket.

    `tls`: how servers of wss:// are known (`tls_context`); without one as this system knows them. `ended`: an AsyncResult of `End`, for
    whoever waits.
    """

    def __init__(
        self,
        on_message: Callable[[bytes], None],
        tls: ssl.SSLContext | None = None,
        *,
        on_quiet: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_message, self._on_quiet, self._on_close = on_message, on_quiet, on_close
        self._tls_context = tls
        self._frames = Frames()
        self._socket: Any = None
        self._tls: _Tls | None = None
        self._watcher: Any = None
        self.ended: AsyncResult[End] = AsyncResult()

    def open(self, url: str) -> None:
        """Connect and upgrade. Raises OSError, or ValueError that says what is wrong. `start` begins reading."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL of a websocket")
        opened = gsocket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)))
        opened.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        # Taken out of gevent's hands: its sockets belong to greenlets, and this one is read by the loop itself.
        self._socket = monkey.get_original("socket", "socket")(fileno=opened.detach())
        self._socket.setblocking(False)
        if parts.scheme == "wss":
            self._tls = _Tls(self._socket, parts.hostname, self._tls_context or tls_context())
        self.send_bytes(upgrade_request(url))
        while not self._frames.upgraded:
            self._feed(self._receive())

    def start(self) -> None:
        self.resume()
        if self._tls is not None:
            self._readable()  # what the handshake has read beyond its end

    @property
    def descriptor(self) -> int:
        """The socket's, for who reads or writes it past this object; -1 where that cannot be: it is closed, or speaks TLS."""
        return -1 if self._socket is None or self._tls is not None else self._socket.fileno()

    def resume(self) -> None:
        """Read what comes, until `pause`."""
        if self._socket is not None and self._watcher is None:
            self._watcher = gevent.get_hub().loop.io(self._socket.fileno(), _READABLE)
            self._watcher.start(self._readable)

    def pause(self) -> None:
        """Leave what comes to somebody else, who hands over by `take` what is none of his business."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def take(self, data: bytes) -> None:
        """Handle bytes that somebody else has read from this socket. Never raises: what is wrong ends the socket."""
        try:
            self._feed(data)
            if self._frames.empty:
                self._on_quiet()
        except (OSError, ValueError) as error:
            self.end(None, str(error))

    def _receive(self) -> bytes:
        """Wait for bytes, as a greenlet."""
        while True:
            data = self._read()
            if data:
                return data
            if data is not None:
                raise OSError("closed during the handshake")
            gsocket.wait_read(self._socket.fileno())

    def _read(self) -> bytes | None:
        """Return what has come, None where nothing has, nothing where the other side has closed."""
        try:
            return self._socket.recv(RECEIVE_BYTES) if self._tls is None else self._tls.receive()
        except BlockingIOError:
            return None

    def _readable(self) -> None:
        try:
            data = self._read()
            while data:
                self._feed(data)
                data = self._read() if self._tls is not None and self._socket is not None else None
            if data == b"":
                self.end(None, "the socket broke")
            elif self._frames.empty:
                self._on_quiet()
        except (OSError, ValueError) as error:
            self.end(None, str(error))

    def _feed(self, data: bytes) -> None:
        for opcode, message in self._frames.feed(data):
            if opcode == BINARY:
                self._on_message(message)
            elif opcode == PING:
                self.send_bytes(frame(message, PONG))
            elif opcode == CLOSE:
                self.send_bytes(frame(message[:2], CLOSE))
                self.end(*close_code(message))

    def send(self, message: bytes) -> None:
        """Send a message. Without a socket nothing is sent."""
        self.send_bytes(frame(message))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes that are frames already. Without a socket nothing is sent."""
        if self._socket is None:
            return
        try:
            sent = self._socket.send(data) if self._tls is None else self._tls.send(data)
        except OSError as error:
            self.end(None, str(error))
            return
        if sent < len(data):
            self.end(None, "the server does not read what it is sent")

    def end(self, code: int | None, why: str) -> None:
        """End it, if it has not ended yet."""
        self.pause()
        if self._socket is not None:
            self._on_close()
            self._socket.close()
            self._socket = None
        if not self.ended.ready():
            self.ended.set((code, why))


class _Tls:
    """TLS over a socket that does not block. The handshake blocks the calling greenlet."""

    def __init__(self, socket: Any, host: str, context: ssl.SSLContext) -> None:
        self._socket, self._in, self._out = socket, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_hostname=host)
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                gsocket.wait_read(socket.fileno())
                self._in.write(socket.recv(RECEIVE_BYTES) or _closed())
        self._flush()

    def _flush(self) -> None:
        data = self._out.read()
        if data and self._socket.send(data) < len(data):
            raise OSError("the server does not read what it is sent")

    def receive(self) -> bytes:
        """As a socket's recv: raises BlockingIOError where nothing has come."""
        while True:
            try:
                return self._ssl.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    return b""
                self._in.write(data)
            except ssl.SSLZeroReturnError:
                return b""

    def send(self, data: bytes) -> int:
        self._ssl.write(data)
        self._flush()
        return len(data)


def _closed() -> bytes:
    raise OSError("closed during the TLS handshake")
