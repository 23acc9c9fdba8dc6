"""A gateway that says what a test wants it to: it answers upgrades, and each socket is then played by a function of the test's."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from perdure.wire.client_messages import notice_frame, queued_frame, welcome_frame
from perdure.wire.opcodes import Notice
from tests.unit.wire.naive_snapshot import TOY, Parts

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
TICK_S = 1.0 / TOY.tick_hz


@dataclass
class Socket:
    """One socket, as the gateway has it. Where the player has gone, what is sent is lost."""

    taken: socket.socket
    number: int
    over: threading.Event
    tick: int = field(default=0, init=False)

    def send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):
            self.taken.sendall(frame)

    def welcome(self) -> None:
        self.send(
            welcome_frame(
                {
                    "session": 1, "player": "one", "key": 7, "resume": "token", "schema": TOY.to_wire(), "schema_hash": TOY.hash,
                    "tick_hz": TOY.tick_hz, "zone": 0, "gateway": "double",
                }
            )
        )  # fmt: skip

    def queued(self, position: int = 3) -> None:
        self.send(queued_frame(position, 9))

    def failed_over(self) -> None:
        self.send(notice_frame(Notice.FAILED_OVER, 0, "the zone runs on another server now"))

    def snapshot(self, *, zone: int = 0, ack: int = 0) -> None:
        self.tick += 1
        self.send(Parts().frame(zone=zone, tick=self.tick, ack=ack))

    def snapshots(self, until: Callable[[], bool], *, zone: int = 0, ack: int = 0) -> None:
        """Send one each tick until something is so."""
        while not until() and not self.over.is_set():
            self.snapshot(zone=zone, ack=ack)
            time.sleep(TICK_S)

    def wait(self, until: Callable[[], bool]) -> None:
        """Send nothing until something is so."""
        while not until() and not self.over.is_set():
            time.sleep(0.005)


@contextlib.contextmanager
def gateway(script: Callable[[Socket], None]) -> Iterator[str]:
    """Serve on a port of this test's own; yields the URL. Sockets stay open, and are read, until the end."""
    listener, over, threads = socket.create_server(("127.0.0.1", 0)), threading.Event(), list[threading.Thread]()

    def serve(taken: socket.socket, number: int) -> None:
        with taken, contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                got = taken.recv(1)
                if not got:
                    return
                head += got
            taken.sendall(SWITCHING)
            reading = threading.Thread(target=swallow, args=(taken,), daemon=True)
            reading.start()
            script(Socket(taken, number, over))
            over.wait()
            taken.shutdown(socket.SHUT_RDWR)
            reading.join()

    def swallow(taken: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while taken.recv(1 << 16):
                pass

    def accept() -> None:
        number = 0
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(taken, number)))
            threads[-1].start()
            number += 1

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join()
