"""The network between simulated processes: connections that deliver in order, late, or not at all.

A connection is two `Pipe`s, one a direction. A direction between two hosts may be cut (`cut`): what is sent waits, as TCP makes
it wait, and arrives after `mend`; a dial hangs. `reset` breaks the connections between two hosts. A killed process's
connections are reset, and its port refuses. Knows nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from tests.simulation.clock import Machines, Process

HIGH_WATER, LOW_WATER = 65_536, 16_384
KERNEL_BYTES = 256
"""Of what is written and not read, so much is no reason for a transport that is closed to wait. (Snapshots of six players are small.)"""


class Network:
    """All connections and listeners. `latency_s` is the usual one-way time; `jitter_s` what may come on top of it."""

    def __init__(self, machines: Machines, latency_s: float = 0.0005, jitter_s: float = 0.002) -> None:
        self.machines = machines
        self.latency_s, self.jitter_s = latency_s, jitter_s
        self.slow: dict[str, float] = {}
        """host -> seconds that everything from and to it takes longer"""
        self.slow_ways: dict[tuple[str, str], float] = {}
        """(source, target) -> seconds that everything takes longer on this way alone"""
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.pipes: dict[Pipe, None] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        self._waiting: list[tuple[str, str, Callable[[], None]]] = []

    # --- faults ---------------------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Nothing from host `source` reaches `target` any more."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        count = self._cuts.get((source, target), 0) - 1
        if count > 0:
            self._cuts[source, target] = count
            return
        self._cuts.pop((source, target), None)
        waiting, self._waiting = self._waiting, []
        for from_, to, go in waiting:
            if (from_, to) == (source, target):
                go()
            else:
                self._waiting.append((from_, to, go))

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    def reset(self, one: str, other: str) -> int:
        """Break the connections between two hosts; return how many there were."""
        found = [pipe for pipe in self.pipes if {pipe.process.host, pipe.peer.process.host} == {one, other}]
        for pipe in found:
            pipe.break_off(ConnectionResetError("the connection was reset"))
        return len(found) // 2

    def when_reachable(self, source: str, target: str, go: Callable[[], None]) -> None:
        """Call `go` now, or once the cut from `source` to `target` is mended."""
        if self.is_cut(source, target):
            self._waiting.append((source, target, go))
        else:
            go()

    def delay_s(self, source: str, target: str) -> float:
        chance = self.machines.random
        delay = self.latency_s + chance.random() * self.jitter_s
        return delay + self.slow.get(source, 0.0) + self.slow.get(target, 0.0) + self.slow_ways.get((source, target), 0.0)

    # --- sockets --------------------------------------------------------------------------------------------------

    def listen(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> Listener:
        at = (host, port or 49_152 + len(self.listeners))
        if at in self.listeners:
            raise OSError(98, "Address already in use")
        listener = self.listeners[at] = Listener(self, process, factory, at)
        process.at_end.append(listener.close)
        return listener

    async def connect(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        done: asyncio.Future[tuple[Any, Any]] = process.loop.create_future()

        def arrive() -> None:
            listener = self.listeners.get((host, port))
            if listener is None or not listener.process.alive:
                self.send(host, process.host, refused)
                return
            if done.done():
                return
            self.machines.later(0, accept, listener, process=listener.process)

        def accept(listener: Listener) -> None:
            near, far = Pipe(self, process), Pipe(self, listener.process)
            near.peer, far.peer = far, near
            for pipe in (near, far):
                self.pipes[pipe] = None
                pipe.process.at_end.append(pipe.reset_by_kernel)

            def tell() -> None:  # before anything that the listener says, and on the same way
                far.last_arrival = self.machines.now + self.delay_s(host, process.host)
                self.machines.later(far.last_arrival - self.machines.now, accepted, near)

            self.when_reachable(host, process.host, tell)
            far.open(listener.factory())

        def refused() -> None:
            self.machines.later(0, give_up, process=process)

        def give_up() -> None:
            if not done.done():
                done.set_exception(ConnectionRefusedError(111, f"nobody listens at {host}:{port}"))

        def accepted(near: Pipe) -> None:
            self.machines.later(0, up, near, process=process)

        def up(near: Pipe) -> None:
            if done.done():  # whoever dialled has given up
                near.break_off(ConnectionResetError("given up"))
                return
            protocol = factory()
            near.open(protocol)
            done.set_result((near, protocol))

        self.send(process.host, host, arrive)
        return await done

    def send(self, source: str, target: str, go: Callable[..., None], *args: Any, process: Process | None = None) -> None:
        """Call `go` when a packet would have come from one host to another."""
        if (source, target) in self._cuts:
            self._waiting.append((source, target, lambda: self.send(source, target, go, *args, process=process)))
        else:
            self.machines.later(self.delay_s(source, target), go, *args, process=process)


class Listener:
    """What loop.create_server returns: the part of asyncio.Server that is used."""

    def __init__(self, network: Network, process: Process, factory: Callable[[], Any], at: tuple[str, int]) -> None:
        self.network, self.process, self.factory, self.at = network, process, factory, at
        self.sockets = [self]

    family = socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        return self.at

    def get_loop(self) -> Any:
        return self.process.loop

    def is_serving(self) -> bool:
        return self.network.listeners.get(self.at) is self

    async def start_serving(self) -> None:
        return

    def close(self) -> None:
        if self.is_serving():
            del self.network.listeners[self.at]

    def close_clients(self) -> None:
        return

    async def wait_closed(self) -> None:
        return


class Pipe(asyncio.Transport):
    """One end of a connection: an asyncio transport. What is written arrives at `peer`."""

    peer: Pipe

    def __init__(self, network: Network, process: Process) -> None:
        super().__init__()
        self.network, self.process = network, process
        self.protocol: Any = None
        self._closing = self._lost = self._paused = self._reading_paused = False
        self._said_end = self._silent = False
        self._in_flight = 0
        self.last_arrival = 0.0
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._held: list[bytes | None] = []

    # --- opening --------------------------------------------------------------------------------------------------

    def open(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    # --- asyncio.Transport ----------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._said_end and not self._lost:
            raise RuntimeError("Cannot call write() after write_eof()")  # as uvloop does
        if self._closing or self._lost or self._silent or not data:
            return
        sent = bytes(data)
        self._in_flight += len(sent)
        self._post(sent)
        if self._in_flight > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not (self._said_end or self._closing or self._lost):
            self._said_end = True
            self._post(None)

    def close(self) -> None:
        """Close once all but what the kernel takes is sent: a peer that does not read holds it up."""
        if self._closing or self._lost:
            return
        self._closing = True
        if not self._said_end:
            self._post(None)
        self._close_if_sent()

    def _close_if_sent(self) -> None:
        if self._in_flight <= KERNEL_BYTES:
            self.network.machines.later(0, self._lose, None, process=self.process)

    def half_close(self) -> None:
        """This end says that it sends nothing more, and reads nothing either: a client that hangs."""
        if not (self._closing or self._lost or self._silent):
            self._silent = self._reading_paused = True
            self._post(None)

    def abort(self) -> None:
        if self._lost:
            return
        self._closing = True
        self._post(None)
        self.network.machines.later(0, self._lose, None, process=self.process)

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def get_write_buffer_size(self) -> int:
        return self._in_flight

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        held, self._held = self._held, []
        for data in held:
            self.network.machines.later(0, self._receive, data, process=self.process)

    def is_reading(self) -> bool:
        return not self._reading_paused

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (self.peer.process.host, 1), "sockname": (self.process.host, 1)}.get(name, default)

    # --- on the way -----------------------------------------------------------------------------------------------

    def _post(self, data: bytes | None) -> None:
        """Send bytes, or (None) the end, in order behind what is on its way."""
        network, source, target = self.network, self.process.host, self.peer.process.host
        if (source, target) in network._cuts:
            network._waiting.append((source, target, lambda: self._dispatch(data)))
        else:
            self._dispatch(data)

    def _dispatch(self, data: bytes | None) -> None:
        network, machines = self.network, self.network.machines
        when = max(self.last_arrival, machines.now + network.delay_s(self.process.host, self.peer.process.host))
        self.last_arrival = when
        machines.later(when - machines.now, self._arrived, data)

    def _arrived(self, data: bytes | None) -> None:
        peer = self.peer
        if not peer.process.alive:
            if data is not None and self.process.alive:
                self.break_off(ConnectionResetError("nobody is there any more"))
            return
        self.network.machines.later(0, peer._receive, data, process=peer.process)

    def _receive(self, data: bytes | None) -> None:
        """In the receiving process: data has come. The sender's buffer is free again only now."""
        if self.protocol is None:
            return  # whoever dialled had given up before
        if self._reading_paused and not self._lost:
            self._held.append(data)
            return
        if data is None:
            if self._closing:
                self._lose(None)
            elif not self._lost:
                self.protocol.eof_received()
                self.close()
            return
        self.network.machines.later(0, self.peer._read_by_peer, len(data), process=self.peer.process)
        if not self._lost and not self._closing:
            self.protocol.data_received(data)

    def _read_by_peer(self, count: int) -> None:
        self._in_flight -= count
        if self._closing and not self._lost:
            self._close_if_sent()
        if self._paused and self._in_flight <= self._low and not self._lost:
            self._paused = False
            self.protocol.resume_writing()

    # --- ends -----------------------------------------------------------------------------------------------------

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self.network.pipes.pop(self, None)
        held, self._held = self._held, []
        for data in held:  # nobody reads it any more
            self.network.machines.later(0, self._receive, data, process=self.process)
        if self.protocol is not None:
            self.protocol.connection_lost(error)

    def break_off(self, error: Exception) -> None:
        """Reset this end now and the other as soon as it can hear of it."""
        machines = self.network.machines
        machines.later(0, self._lose, error, process=self.process)
        peer = self.peer
        self.network.send(self.process.host, peer.process.host, lambda: machines.later(0, peer._lose, error, process=peer.process) and None)

    def reset_by_kernel(self) -> None:
        """This end's process is gone."""
        if self._lost:
            return
        self._lost = self._closing = True
        self.network.pipes.pop(self, None)
        peer, machines = self.peer, self.network.machines
        error = ConnectionResetError("the process at the other end is gone")
        self.network.send(self.process.host, peer.process.host, lambda: machines.later(0, peer._lose, error, process=peer.process) and None)
