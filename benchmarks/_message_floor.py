"""The kernel's floor for a world's messages: bare sends and receives of as many bytes, as often, on as many sockets, and nothing else.

Run as a module: one JSON object on standard input ({"sockets", "bytes", "hz", "command_bytes", "command_hz", "seconds", "rounds",
"server_core", "peer_core"}), one on standard output: for each round the nanoseconds of processor time that one socket costs in a second.
The server side is a loop over `socket.send` and `socket.recv` (by epoll); its peer, another process, reads and sends. Both end by
themselves.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from perdure.cli.children import die_with_parent

CONNECT_DEADLINE_S = 30.0


def _pairs(order: dict[str, Any]) -> tuple[list[socket.socket], int]:
    """Fork the peer; return the accepted sockets and its process id."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    pid = os.fork()
    if pid == 0:
        listener.close()
        die_with_parent()
        try:
            os.sched_setaffinity(0, {order["peer_core"]})
            _peer(order, port)
        finally:
            os._exit(0)
    listener.settimeout(CONNECT_DEADLINE_S)
    accepted = []
    for _ in range(order["sockets"]):
        one, _address = listener.accept()
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.append(one)
    listener.close()
    return accepted, pid


def _peer(order: dict[str, Any], port: int) -> None:
    """Read what comes, and send commands evenly over each second, until the other side ends."""
    poll, by_number, all_of_them = select.epoll(), {}, []
    for number in range(order["sockets"]):
        one = socket.create_connection((f"127.0.0.{1 + number // 20000}", port))
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(one, select.EPOLLIN)
        by_number[one.fileno()] = one
        all_of_them.append(one)
    message, sent, began_s = os.urandom(order["command_bytes"]), 0, time.perf_counter()
    while True:
        for number, _ in poll.poll(0.005):
            try:
                if not by_number[number].recv(65_536):
                    return
            except OSError:
                return
        due = int((time.perf_counter() - began_s) * order["command_hz"] * len(all_of_them))
        while sent < due:
            try:
                all_of_them[sent % len(all_of_them)].send(message)
            except OSError:
                return
            sent += 1


def _serve(order: dict[str, Any], sockets: list[socket.socket]) -> list[float]:
    poll = select.epoll()
    by_number = {one.fileno(): one for one in sockets}
    for one in sockets:
        poll.register(one, select.EPOLLIN)
    size = int(order["bytes"])
    buffer = memoryview(os.urandom(size + len(sockets)))
    frames = [buffer[k : k + size] for k in range(len(sockets))]
    found = []
    for _ in range(order["rounds"] + 1):
        began_s, cpu_ns, taken = time.perf_counter(), time.process_time_ns(), 0
        for tick in range(int(order["seconds"] * order["hz"])):
            for one, frame in zip(sockets, frames, strict=True):
                one.send(frame)
            due_s = began_s + (tick + 1) / order["hz"]
            while (left_s := due_s - time.perf_counter()) > 0:
                for number, _ in poll.poll(left_s):
                    by_number[number].recv(4096)
                    taken += 1
        took_s = time.perf_counter() - began_s
        wanted = took_s * order["command_hz"] * len(sockets)
        if taken < 0.5 * wanted:  # several commands in one read are cheaper than they would be one by one
            raise RuntimeError(f"{taken} reads for {wanted:.0f} commands: this machine is too busy for a floor")
        found.append((time.process_time_ns() - cpu_ns) / took_s / len(sockets))
    return found[1:]


def main() -> int:
    order = json.loads(sys.stdin.readline())
    sockets, pid = _pairs(order)
    os.sched_setaffinity(0, {order["server_core"]})
    return tell(_serve, order, sockets, pid)


def tell(measured: Callable[..., list[float]], order: dict[str, Any], sockets: list[socket.socket], pid: int) -> int:
    """Print what is measured on these sockets; then close them, which ends the process `pid` at their other side."""
    try:
        found = measured(order, sockets)
    finally:
        for one in sockets:
            one.close()
        os.waitpid(pid, 0)
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
