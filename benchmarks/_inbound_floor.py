"""The floor of taking commands: a websocket listener of picows that only receives, and as many clients as the bench has.

Run as a module: one JSON object on standard input ({"sockets", "command_bytes", "command_hz", "slices", "seconds", "rounds",
"server_core", "peer_core"}), one on standard output: nanoseconds of the listener's processor time for each frame, round by round. The
clients send in as many slices of each second as the swarm does; 0: one message after the other, each at its time. Both processes end
by themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import time
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from perdure.cli.children import die_with_parent

CONNECT_DEADLINE_S = 30.0
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: floor\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class _Counts:
    def __init__(self) -> None:
        self.connected = 0
        self.frames = 0


class _Receiver(WSListener):
    def __init__(self, counts: _Counts) -> None:
        super().__init__()
        self._counts = counts

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._counts.connected += 1

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            self._counts.frames += 1


async def _listen(order: dict[str, Any], listener: socket.socket) -> list[float]:
    counts = _Counts()

    def made(request: WSUpgradeRequest) -> WSListener:
        return _Receiver(counts)

    server = await ws_create_server(made, sock=listener)
    async with asyncio.timeout(CONNECT_DEADLINE_S):
        while counts.connected < order["sockets"]:
            await asyncio.sleep(0.01)
    found: list[float] = []
    for _ in range(order["rounds"] + 1):
        frames, cpu_ns = counts.frames, time.process_time_ns()
        await asyncio.sleep(order["seconds"])
        found.append((time.process_time_ns() - cpu_ns) / max(counts.frames - frames, 1))
        wanted = order["seconds"] * order["command_hz"] * order["sockets"]
        if counts.frames - frames < 0.8 * wanted:
            raise RuntimeError(f"{counts.frames - frames} frames for {wanted:.0f}: this machine is too busy for a floor")
    server.close()
    return found[1:]


def _send(order: dict[str, Any], port: int) -> None:
    """Connect, and send masked frames until the other side ends."""
    sockets = []
    for _ in range(order["sockets"]):
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(UPGRADE)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += one.recv(1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.append(one)
    payload = secrets.token_bytes(order["command_bytes"] - 6)
    frame = bytes((0x82, 0x80 | len(payload))) + bytes(4) + payload
    began_s, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - began_s) * order["command_hz"] * len(sockets))
        while sent < due:
            try:
                sockets[sent % len(sockets)].send(frame)
            except OSError:
                return
            sent += 1
        if order["slices"]:
            time.sleep(1.0 / order["slices"])


def main() -> int:
    order = json.loads(sys.stdin.readline())
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    pid = os.fork()
    if pid == 0:
        listener.close()
        die_with_parent()
        try:
            os.sched_setaffinity(0, {order["peer_core"]})
            _send(order, port)
        finally:
            os._exit(0)
    os.sched_setaffinity(0, {order["server_core"]})
    try:
        found = uvloop.run(_listen(order, listener))
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
