"""A lean swarm of which each player's snapshots are kept apart: when they came, from where, and what they acknowledged.

For benches that break a cluster under a crowd: of every player it can be said how long it was shown nothing, where it crossed borders,
whether an old snapshot came again, and which of its commands are acknowledged. Run as a module, this is the swarm's process. Orders
beside those of _swarm: `crossings` (its answer: those since the last such order), `report FILE` (pickles a BotReport for each player).
Called by _playing.py.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from array import array
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._light_clients import serve
from benchmarks._swarm import NUMBER_BYTES, Gaps, Steering, Swarm, SwarmPlayers, number_at
from perdure.client.bots import BotReport
from perdure.client.connection import SocketEnd

REPORT_DEADLINE_S = 60.0


class Crossing(NamedTuple):
    """A player's first snapshot of another zone. `gap_s`: since the last one of the zone before."""

    old: int
    new: int
    gap_s: float


class WatchedSwarm(Swarm):
    """The runner's side."""

    module = "benchmarks._watched_swarm"

    async def crossings(self) -> list[Crossing]:
        """Return the crossings since this was last asked."""
        return [Crossing(*one) for one in (await self.ask("crossings", 10.0))["crossings"]]

    async def report(self) -> tuple[list[BotReport], int]:
        """Have them stop steering; return what each saw, and how many snapshots the sample could not decode."""
        path = self._log.with_suffix(".report")
        answer = await self.ask(f"report {path}", REPORT_DEADLINE_S)
        return pickle.loads(path.read_bytes()), int(answer["faults"])


class Watched(Steering):
    """One player, and what it saw."""

    def __init__(self, herd: WatchedPlayers, name: str, number: int) -> None:
        super().__init__(herd, name, number)
        self._crossings = herd.crossings
        self.times: array[float] = array("d")
        self.backward = self.acknowledged_lost = self.snapshots = 0
        self._zone, self._tick = -1, 0
        self._first_ack: int | None = None

    def entered(self, snapshot: list[Any]) -> None:
        ack = snapshot[5]
        if self._first_ack is None:
            self._first_ack = ack
        elif ack < self.acked:
            self.acknowledged_lost += 1
        super().entered(snapshot)
        self._shown(snapshot[1], snapshot[3])

    def _seen(self, data: bytes, at: int) -> None:
        super()._seen(data, at)
        epoch_at = at + 2 + NUMBER_BYTES[data[at + 2]]
        self._shown(number_at(data, at + 2), number_at(data, epoch_at + NUMBER_BYTES[data[epoch_at]]))

    def _shown(self, zone: int, tick: int) -> None:
        now_s = time.monotonic()
        if zone != self._zone:
            if self._zone >= 0:
                self._crossings.append(Crossing(self._zone, zone, now_s - self.times[-1]))
        elif tick <= self._tick:
            self.backward += 1
        self._zone, self._tick = zone, tick
        self.snapshots += 1
        self.times.append(now_s)

    def report(self) -> BotReport:
        first = self._first_ack if self._first_ack is not None else self.acked
        drops = [SocketEnd(0.0, None, "the socket ended")] * (self.sockets - 1)
        return BotReport(
            self.name, entered=self.snapshots > 0, sent=self.seq - first, refused=self.refused,
            acknowledged=list(range(first + 1, self.acked + 1)), unacknowledged=list(range(self.acked + 1, self.seq + 1)),
            acknowledged_lost=self.acknowledged_lost, snapshots=self.snapshots, bytes=self.bytes, reconnects=len(drops),
            gaps=Gaps(self.times), socket_drops=drops, backward_ticks=self.backward,
        )  # fmt: skip


class WatchedPlayers(SwarmPlayers):
    """All of them, in this process."""

    player = Watched

    def __init__(self, order: dict[str, Any]) -> None:
        self.crossings: list[Crossing] = []
        super().__init__(order)

    async def command(self, order: str) -> dict[str, Any] | None:
        what, _, path = order.partition(" ")
        if what == "crossings":
            taken = self.crossings[:]
            self.crossings.clear()
            return {"crossings": taken}
        if what == "report":
            await super().command("steer 0")
            Path(path).write_bytes(pickle.dumps([one.report() for one in self.clients if isinstance(one, Watched)]))
            return {"faults": self.faults}
        return await super().command(order)


if __name__ == "__main__":
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(WatchedPlayers))
