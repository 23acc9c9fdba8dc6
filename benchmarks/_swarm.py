"""A lean swarm: players who steer, and whose every snapshot is counted and timed; one of twenty decodes and checks all it is sent.

`Swarm` is the runner's side: one process of its own with all the players, on a core of its own where it is given one. Run as a module,
this is that process. Orders beside those of _light_clients: `steer HZ` (commands a second of each player from now on; or
`steer HZ evenly`), `measure SECONDS` (its answer: a `Measured` as JSON). Times are those at which a snapshot is read: what the swarm itself
is late counts as the cluster's. A player who is shown nothing any more is seen too: by the interval that is still open as the measuring
ends, and by `fewest`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks._light_clients import Herd, LightPlayer, Players, serve
from perdure.client.frames import BINARY, CLOSE
from perdure.client.protocol import ClientProtocol, ProtocolError
from perdure.client.world_view import Snapshot, SnapshotError
from perdure.wire.client_messages import encode_command
from perdure.wire.opcodes import ServerOp

SAMPLE_EVERY = 20
SLICES = 100
"""Sends of one second are spread over so many moments: the swarm must not be what bounds a bench. Those of real players come one by one,
which costs a gateway more (`evenly`), and the swarm a core: it waits for the time of each."""
WINDOW = 48
"""Commands that may wait for their acknowledgement; a gateway holds 64. A player over it leaves a turn out."""
OVERDUE = 2.0
"""An interval that is still open counts once it is longer than so many usual ones (the median): the others tell when they end."""


NUMBER_BYTES = bytes({0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}.get(head, 1) for head in range(256))
"""How many bytes a non-negative number takes in msgpack, by its first."""


def number_at(data: bytes, at: int) -> int:
    """Return the number that begins at `at`. (A decoder would make an object of each of the message's parts.)"""
    head = data[at]
    return head if head < 0x80 else int.from_bytes(data[at + 1 : at + NUMBER_BYTES[head]], "big")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a swarm saw in `seconds`. Intervals: milliseconds between two snapshots of one player. `fewest`: snapshots of the player who was
    shown the fewest. `entities_seen`: in the mean of all snapshots that were decoded, the player itself included."""

    seconds: float
    snapshots: int
    fewest: int
    bytes: int
    commands: int
    commands_left_out: int
    acknowledged: int
    interval_ms_p50: float
    interval_ms_p99: float
    interval_ms_p999: float
    interval_ms_max: float
    decoded: int
    entities_seen: float
    faults: int
    playing: int
    cpu_s: float


class Gaps(Sequence[tuple[float, float]]):
    """The times at which snapshots came, as a BotReport has them: (monotonic time, seconds since the one before)."""

    def __init__(self, times: array[float]) -> None:
        self._times = times

    def __len__(self) -> int:
        return max(len(self._times) - 1, 0)

    @overload
    def __getitem__(self, index: int) -> tuple[float, float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[float, float]]: ...
    def __getitem__(self, index: int | slice) -> tuple[float, float] | list[tuple[float, float]]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._times[index + 1], self._times[index + 1] - self._times[index]


class Swarm(Herd):
    """So many players in a process of their own; `core`: the only one it may run on.

    Each sends commands of `kind` with one of `choices` for its fields, another every second.
    """

    module = "benchmarks._swarm"

    def __init__(self, folder: Path, urls: list[str], secret: str, count: int, *, prefix: str = "player", core: int | None = None,
                 kind: int = 1, choices: Sequence[Sequence[Any]] = ((0,), (1,), (2,), (3,))) -> None:  # fmt: skip
        super().__init__(folder, urls, secret, count, prefix=prefix)
        self.order |= {"core": core, "kind": kind, "choices": [list(values) for values in choices]}

    async def steer(self, hz: float, *, evenly: bool = False) -> None:
        """Have every player send so many commands a second from now on; `evenly`: each at a moment of its own."""
        await self.ask(f"steer {hz}{' evenly' if evenly else ''}", 10.0)

    async def measure(self, seconds: float) -> Measured:
        return Measured(**await self.ask(f"measure {seconds}", seconds + 30.0))


class Steering(LightPlayer):
    """One player. Its commands are numbered on from what its first snapshot acknowledges."""

    herd: SwarmPlayers

    def __init__(self, herd: SwarmPlayers, name: str, number: int) -> None:
        super().__init__(herd, name, number)
        self.seq = self.acked = self.refused = self.refusals_due = self.shown = 0
        self.last_s = 0.0
        self.sample = ClientProtocol() if number % SAMPLE_EVERY == 0 else None

    def entered(self, snapshot: list[Any]) -> None:
        self.seq = self.acked = snapshot[5]
        self.refusals_due = 0
        self.last_s = 0.0

    def steer(self) -> None:
        """Send one command, its number and its tail."""
        transport = self.transport
        if transport is None or not self.playing:
            return
        if self.seq - self.acked >= WINDOW or self.refusals_due:
            self.herd.left_out += 1
            return
        self.seq = seq = self.seq + 1
        head, tails = self.herd.parts
        message = head + seq.to_bytes(4, "big") + tails[(seq // 10 + self.number) % len(tails)]
        transport.write(bytes((0x82, 0x80 | len(message))) + b"\0\0\0\0" + message)
        self.herd.commands += 1

    def data_received(self, data: bytes) -> None:
        if not self.playing:
            super().data_received(data)
            return
        size = len(data)
        self.bytes += size
        # One snapshot in one piece is what nearly always comes.
        whole = size > 40 and data[0] == 0x82 and data[1] == 126 and (data[2] << 8 | data[3]) == size - 4 and data[5] == 2
        if whole and self.sample is None and self.frames.empty:
            self._seen(data, 4)
            return
        self._pieces(data)

    def _pieces(self, data: bytes) -> None:
        for opcode, message in self.frames.feed(data):
            if opcode != BINARY:
                if opcode == CLOSE:
                    print(f"{self.name}: closed: {message[2:].decode(errors='replace')}", file=sys.stderr, flush=True)
                super().message(opcode, message)
                continue
            if self.sample is not None:
                self._decode(message)
            if message[1] == ServerOp.SNAPSHOT and message[0] == 0x9C:
                self._seen(message, 0)
            elif message[1] == ServerOp.REFUSED:
                self._refused(msgspec.msgpack.decode(message)[1])

    def message(self, opcode: int, body: bytes) -> None:
        if self.sample is not None and opcode == BINARY:
            self._decode(body)
        super().message(opcode, body)

    def _decode(self, message: bytes) -> None:
        assert self.sample is not None
        try:
            received = self.sample.receive(message)
            self.herd.decoded += 1
            if isinstance(received, Snapshot) and self.sample.world is not None:
                self.herd.views += 1
                self.herd.in_sight += len(self.sample.world.entities)
        except (ProtocolError, SnapshotError, ValueError) as error:
            self.herd.faults += 1
            print(f"{self.name}: {error}", file=sys.stderr, flush=True)

    def _refused(self, seq: int) -> None:
        """This command was not taken, and none of those that were sent after it: each is refused too, in order."""
        self.refused += 1
        if self.refusals_due:
            self.refusals_due -= 1
        else:
            self.refusals_due, self.seq = self.seq - seq, seq - 1

    def _seen(self, data: bytes, at: int) -> None:
        """A snapshot begins at `at`: zone, epoch, tick, flags (one byte), acknowledgement."""
        at += 2
        at += NUMBER_BYTES[data[at]]
        at += NUMBER_BYTES[data[at]]
        ack = number_at(data, at + NUMBER_BYTES[data[at]] + 1)
        now = time.perf_counter()
        herd = self.herd
        if self.last_s:
            herd.intervals.append(now - self.last_s)
        self.last_s = now
        self.shown += 1
        if ack != self.acked:
            herd.acknowledged += ack - self.acked
            self.acked = ack


class SwarmPlayers(Players):
    """All of them, in this process."""

    player = Steering

    def __init__(self, order: dict[str, Any]) -> None:
        if order["core"] is not None:
            os.sched_setaffinity(0, {order["core"]})
        self.intervals: array[float] = array("d")
        self.commands = self.left_out = self.acknowledged = self.decoded = self.faults = self.views = self.in_sight = 0
        whole = [encode_command(1, order["kind"], values) for values in order["choices"]]
        self.parts = whole[0][:2] + b"\xce", [message[3:] for message in whole]
        self._task: asyncio.Task[None] | None = None
        super().__init__(order)
        self.steering = [one for one in self.clients if isinstance(one, Steering)]

    async def command(self, order: str) -> dict[str, Any] | None:
        what, _, value = order.partition(" ")
        if what == "steer":
            if self._task is not None:
                self._task.cancel()
            hz, _, how = value.partition(" ")
            pause_s = 0.0 if how == "evenly" else 1.0 / SLICES
            self._task = asyncio.create_task(self._steer(float(hz), pause_s)) if float(hz) else None
            return {}
        if what == "measure":
            return await self._measure(float(value))
        return await super().command(order)

    async def _steer(self, hz: float, pause_s: float) -> None:
        at, began_s = 0, time.perf_counter()
        while True:
            due = (time.perf_counter() - began_s) * hz * len(self.clients)
            for _ in range(int(due) - at):
                self.steering[at % len(self.steering)].steer()
                at += 1
            await asyncio.sleep(pause_s)

    async def _measure(self, seconds: float) -> dict[str, Any]:
        del self.intervals[:]
        self.commands = self.left_out = self.acknowledged = self.decoded = self.views = self.in_sight = 0
        for one in self.steering:
            one.shown = 0
        taken, cpu_s, began_s = self.count()["bytes"], time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        now = time.perf_counter()
        still_open = [now - one.last_s for one in self.steering if one.playing and one.last_s]
        found = with_overdue(np.asarray(self.intervals), np.asarray(still_open)) * 1e3
        cuts = np.percentile(found, [50, 99, 99.9, 100]) if len(found) else np.full(4, np.inf)
        shown = [one.shown for one in self.steering]
        return {
            "seconds": now - began_s, "snapshots": sum(shown), "fewest": min(shown, default=0), "bytes": self.count()["bytes"] - taken,
            "commands": self.commands, "commands_left_out": self.left_out, "acknowledged": self.acknowledged,
            "interval_ms_p50": float(cuts[0]), "interval_ms_p99": float(cuts[1]), "interval_ms_p999": float(cuts[2]),
            "interval_ms_max": float(cuts[3]), "decoded": self.decoded, "entities_seen": self.in_sight / self.views if self.views else 0.0,
            "faults": self.faults, "playing": self.count()["playing"], "cpu_s": time.process_time() - cpu_s,
        }  # fmt: skip


def with_overdue(intervals: npt.NDArray[np.float64], still_open: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the intervals, and those of the open ones that are overdue: all of them where no interval has ended."""
    usual = float(np.median(intervals)) if len(intervals) else 0.0
    return np.concatenate([intervals, still_open[still_open > OVERDUE * usual]])


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(SwarmPlayers))
