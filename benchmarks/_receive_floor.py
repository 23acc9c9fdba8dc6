"""The kernel's floor for a player's messages: bare receives and sends of as many bytes, as often, on as many sockets, and nothing else.

Run as a module: one JSON object on standard input ({"sockets", "bytes", "hz", "command_bytes", "command_hz", "seconds", "rounds",
"server_core", "peer_core"}), one on standard output: for each round the nanoseconds of processor time that one socket costs the players'
side in a second. That side is a loop over `socket.recv` (by epoll) and `socket.send`, on `peer_core`; the servers' side, another process,
sends and reads. The same as _message_floor, seen from the other end. Both end by themselves.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from typing import Any

from benchmarks._message_floor import tell
from perdure.cli.children import die_with_parent

CONNECT_DEADLINE_S = 30.0


def _serve(order: dict[str, Any], accepted: list[socket.socket]) -> None:
    """Send a snapshot to each socket at the rate wanted, read what comes, until the other side ends."""
    poll = select.epoll()
    by_number = {one.fileno(): one for one in accepted}
    for one in accepted:
        poll.register(one, select.EPOLLIN)
    snapshot, due_s = os.urandom(int(order["bytes"])), time.perf_counter()
    while True:
        for one in accepted:
            try:
                one.send(snapshot)
            except BlockingIOError:
                continue
            except OSError:
                return
        due_s = max(due_s + 1.0 / order["hz"], time.perf_counter())
        while (left_s := due_s - time.perf_counter()) > 0:
            for number, _ in poll.poll(left_s):
                try:
                    if not by_number[number].recv(4096):
                        return
                except OSError:
                    return


def _play(order: dict[str, Any], sockets: list[socket.socket]) -> list[float]:
    """Read what comes, and send commands evenly over each second."""
    poll = select.epoll()
    by_number = {one.fileno(): one for one in sockets}
    for one in sockets:
        poll.register(one, select.EPOLLIN)
    command, found = os.urandom(order["command_bytes"]), []
    for _ in range(order["rounds"] + 1):
        began_s, cpu_ns, taken, sent = time.perf_counter(), time.process_time_ns(), 0, 0
        while (passed_s := time.perf_counter() - began_s) < order["seconds"]:
            due = int(passed_s * order["command_hz"] * len(sockets))
            while sent < due:
                sockets[sent % len(sockets)].send(command)
                sent += 1
            for number, _ in poll.poll(0.005):
                by_number[number].recv(65_536)
                taken += 1
        took_s = time.perf_counter() - began_s
        if taken < 0.5 * took_s * order["hz"] * len(sockets):  # several snapshots in one read are cheaper than they would be one by one
            raise RuntimeError(
                f"{taken} reads for {took_s * order['hz'] * len(sockets):.0f} snapshots: this machine is too busy for a floor"
            )
        found.append((time.process_time_ns() - cpu_ns) / took_s / len(sockets))
    return found[1:]


def main() -> int:
    order = json.loads(sys.stdin.readline())
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        try:
            os.sched_setaffinity(0, {order["server_core"]})
            listener.settimeout(CONNECT_DEADLINE_S)
            _serve(order, [_ready(listener.accept()[0]) for _ in range(order["sockets"])])
        finally:
            os._exit(0)
    listener.close()
    os.sched_setaffinity(0, {order["peer_core"]})
    sockets = [_ready(socket.create_connection(("127.0.0.1", port))) for _ in range(order["sockets"])]
    return tell(_play, order, sockets, pid)


def _ready(one: socket.socket) -> socket.socket:
    one.setblocking(False)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


if __name__ == "__main__":
    sys.exit(main())
