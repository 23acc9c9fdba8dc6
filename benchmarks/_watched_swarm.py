"""A lean swarm of which each player's snapshots are kept apart: when they came, from where, and what they acknowledged.

For benches that break a cluster under a crowd: of every player it can be said how long it was shown nothing, where it crossed borders,
whether an old snapshot came again, which of its commands are acknowledged in which session, and how its sockets ended. Run as a module,
this is the swarm's process. Orders beside those of _swarm: `crossings` (its answer: those since the last such order), `report FILE`
(pickles a BotReport for each player). Called by _playing.py.
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
from perdure.client.bots import BotReport, SessionPlayed

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
        self.acknowledged: list[int] = []
        self.played: list[SessionPlayed] = []
        self._zone, self._tick = -1, 0
        self._sent_before = 0

    def entered(self, snapshot: list[Any]) -> None:
        ack = snapshot[5]
        if self.played:
            self._sent_before += self.seq - self.played[-1].first_ack
            self._acknowledge(max(ack, self.acked))  # what this snapshot acknowledges, an earlier session has sent
            self.acknowledged_lost += ack < self.acked
        super().entered(snapshot)
        self.played.append(SessionPlayed(self.session, ack, len(self.acknowledged)))
        self._shown(snapshot[1], snapshot[3])

    def _acknowledge(self, ack: int) -> None:
        """Note what of the last session's commands is acknowledged, up to `ack`."""
        last = self.played[-1]
        at = self.acknowledged[-1] if len(self.acknowledged) > last.before else last.first_ack
        self.acknowledged.extend(range(at + 1, ack + 1))

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
        sent = self._sent_before
        if self.played:
            self._acknowledge(self.acked)
            sent += self.seq - self.played[-1].first_ack
        return BotReport(
            self.name, entered=self.snapshots > 0, sent=sent, refused=self.refused, acknowledged=self.acknowledged, sessions=self.played,
            unacknowledged=list(range(self.acked + 1, self.seq + 1)), acknowledged_lost=self.acknowledged_lost,
            snapshots=self.snapshots, bytes=self.bytes, reconnects=max(self.sockets - 1, 0), gaps=Gaps(self.times),
            socket_drops=self.ends, backward_ticks=self.backward,
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
