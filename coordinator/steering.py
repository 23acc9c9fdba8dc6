"""One coordinator's turn at the wheel: election, reading the view, carrying out instructions. One `turn` is one round.

Owns the leadership and the last view. Holds no loop, no socket and no task, and reads no clock but the injected one, so tests
(and the simulator) call `turn` as they like. Called by `service`; read by `admin_api`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from enum import Enum

import structlog

from coordinator.chronicle import Chronicle
from coordinator.cluster_state import ClusterState
from coordinator.events import (
    Assign,
    Deposed,
    Elected,
    Evict,
    GatewayLost,
    GatewaysInUse,
    Instruction,
    Intend,
    OpenWorld,
    ReadTail,
    StepDown,
    SuspectAnswers,
    TailRead,
    ViewFailed,
    ViewRead,
    WorldRead,
)
from coordinator.knock import answers
from coordinator.metrics import CoordinatorMetrics
from coordinator.settings import CoordinatorSettings
from coordinator.trends import Trends
from perdure.ledger.ledger import Ledger, LedgerRefused, LedgerUnavailable
from perdure.ledger.record import unpack_record
from perdure.ledger.values import ClusterView, WorldSettings
from perdure.placement.lease import LeaseWatch

CONCURRENT_CALLS = 64
"""Calls to the ledger under way at once, when a lost shard's zones are assigned."""
TAIL_RECORDS = 64
"""How far before the end of a damaged log a record is looked for that tells its build."""
GONE = (
    "it came back with older data, and the shard that ran the zone is gone",
    "the zone goes on from what is left; look for a newer copy of the ledger's data if that is not enough",
)
AWAITED = (
    "it came back with older data, and the shard that runs the zone, though it lives, has not put it back in time",
    "nothing, if that shard reaches the ledger yet: the zone stays with it; if it ends before, the zone goes on from what is left",
)
"""Why ticks are lost, and what to do."""

log = structlog.get_logger("coordinator")


class Turn(Enum):
    """What a round came to: when the next should follow."""

    IDLE = "idle"  # nothing to do: wait for a hint or the poll time
    ACTED = "acted"  # the view has changed by our own doing: look again at once
    UNAVAILABLE = "unavailable"  # no answer from the ledger: back off


class Steering:
    """See the module docstring. `clock` returns monotonic seconds; `gateways_in_use` the gateways that players are attached to."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        ledger: Ledger,
        metrics: CoordinatorMetrics,
        clock: Callable[[], float],
        gateways_in_use: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._gateways_in_use = gateways_in_use
        self.name = settings.member_name("coordinator")
        self.state = ClusterState(settings.cluster())
        self.world: WorldSettings | None = None
        self.view: ClusterView | None = None
        self.view_read_ms = 0.0
        self.chronicle, self.trends = Chronicle(), Trends()
        self._renewed_ms = 0.0
        # A pause of this process does no harm: the leadership is taken from a leader only where the ledger, too, knows no later beat.
        self._lease: LeaseWatch[str] = LeaseWatch(settings.leader_lease_ms, math.inf, settings.outage_grace_ms)
        self._beat = -1
        self._heard: dict[tuple[str, int], int] = {}
        """Shards that have answered though they were suspected, and how often they have not since they did last."""
        self._outage_began_ms: float | None = None

    @property
    def leading(self) -> bool:
        return self.state.leading

    @property
    def zones(self) -> int:
        return 0 if self.world is None else self.world.columns * self.world.rows

    def now_ms(self) -> float:
        return self._clock() * 1000.0

    def view_age_ms(self) -> float | None:
        """Return how old the last view is; None before the first."""
        return None if self.view is None else self.now_ms() - self.view_read_ms

    async def turn(self) -> Turn:
        """Read the view, decide, carry out. Never raises a LedgerError."""
        try:
            if self.leading and self.now_ms() - self._renewed_ms >= self._settings.leader_lease_ms / 3:
                await self._stand()
            if self.world is None:
                await self._read_world()
            self.state.handle(GatewaysInUse(self._gateways_in_use()))
            view = await self._ledger.view()
            self._note_answer(view)
            if not self.leading:
                # Who stands by looks on: what the world was like is known to it when it leads, also over a ledger that has forgotten it.
                self.state.handle(ViewRead(self.view_read_ms, view))
            if not self.leading or view.leader != self.name:
                # Somebody else leads, or nobody does, or (the ledger went back in time) not who we took for the leader.
                return Turn.ACTED if await self._stand() else Turn.IDLE
            return await self._decide(view)
        except LedgerUnavailable as error:
            self._note_outage(error)
            return Turn.UNAVAILABLE
        except LedgerRefused as error:
            self._lease.interrupted()  # the leader is refused like us
            # A definite no to a reading or an election: the data set is not what it should be. People must look; the world goes on.
            log.error("the ledger refused", error=str(error), mend="see the message; check REDIS_URL, the ACL user and the world's name")
            return Turn.UNAVAILABLE

    async def resign(self) -> None:
        """Give the leadership up at a clean stop, so that a standby need not wait for the lease."""
        if self.leading:
            self._depose("it stops")
            await self._ledger.resign(self.name)

    # --- within ---------------------------------------------------------------------------------------------------

    async def _stand(self) -> bool:
        """Take or keep the leadership. It is taken from another whose beat has not risen for a lease's time, as seen from here."""
        asked_ms = self.now_ms()
        silent = self._beat if self._lease.expired(asked_ms) else -1
        answer = await self._ledger.elect(self.name, self.state.term or 0, silent)
        self._beat = answer.beat
        self._lease.observe(self.now_ms(), {} if answer.leading else {answer.leader: answer.beat})
        if not answer.leading:
            if self.leading:
                self._depose(f"{answer.leader} leads in term {answer.term}")
            return False
        self._renewed_ms = asked_ms
        if self.state.term != answer.term:
            log.info("leading", coordinator=self.name, term=answer.term)
            self.state.handle(Elected(asked_ms, answer.term))
            self._metrics.leader.set(1)
        return True

    def _depose(self, why: str) -> None:
        log.info("no longer leading", coordinator=self.name, term=self.state.term, why=why)
        self.state.handle(Deposed())
        self._metrics.leader.set(0)

    async def _read_world(self) -> None:
        self.world = await self._ledger.world()
        if self.world is not None:
            self.state.handle(WorldRead(self.world.columns, self.world.rows))

    async def _hear(self, view: ClusterView) -> None:
        """Look whether shards answer that gateways were refused at: who is, though the shard lives, is refused by what is between them."""
        suspects = self.state.suspects(view)
        for shard, answered in zip(suspects, await asyncio.gather(*map(answers, suspects)), strict=True):
            one = shard.name, shard.number
            doubted = not answered and self._heard.get(one, 0) == 0 and one in self._heard
            if answered or doubted:  # who has answered may be slow once: then the next report counts
                self.state.handle(SuspectAnswers(shard.name, shard.number, view.suspects[shard.name]))
                if one not in self._heard:
                    log.warning("suspect_answers", shard=shard.name, address=shard.address, reports=view.suspects[shard.name],
                                mend="a gateway is refused at its port (shard_refuses), we are not: look at firewalls")  # fmt: skip
                self._heard[one] = 0 if answered else self._heard[one] + 1
        living = {(member.name, member.number) for member in view.members.values()}
        self._heard = {one: failed for one, failed in self._heard.items() if one in living}

    async def _decide(self, view: ClusterView) -> Turn:
        began_ms = self.view_read_ms
        await self._hear(view)
        instructions = self.state.handle(ViewRead(began_ms, view))
        if not instructions:
            return Turn.IDLE
        for step_down in instructions:
            if isinstance(step_down, StepDown):
                self._depose(f"the ledger is at term {step_down.term}")
                return Turn.ACTED
        term = self.state.term
        assert term is not None, "only a leader gets instructions"
        for opening in instructions:
            if isinstance(opening, OpenWorld):
                return await self._open(term, opening)
        refused = await self._carry_out_zones(term, instructions, began_ms)
        refused += await self._carry_out_members(term, instructions)
        return Turn.IDLE if refused else Turn.ACTED

    async def _open(self, term: int, opening: OpenWorld) -> Turn:
        try:
            generation = await self._ledger.open_world(term, opening.generation)
        except LedgerRefused as error:
            self._note_refusal(opening, error)
            return Turn.IDLE
        log.info("the world is open", generation=generation, zones_lost=len(opening.lost))
        for lost in opening.lost:
            self._metrics.zone_losses.inc()
            why, mend = AWAITED if lost.awaited else GONE
            log.error("the ledger lost a zone's last ticks", zone=lost.zone, tick_known=lost.known, tick_left=lost.left, why=why, mend=mend)
        return Turn.ACTED

    async def _carry_out_zones(self, term: int, instructions: Sequence[Instruction], began_ms: float) -> int:
        """Assign and intend, many at a time. Return how many were refused; an outage ends the turn.

        What is refused was decided by an old view, or in an old term: the next view tells what is needed then.
        """
        zone_wise = [i for i in instructions if isinstance(i, Assign | Intend | ReadTail)]
        assigned: list[Assign] = []
        refused = 0
        try:
            for at in range(0, len(zone_wise), CONCURRENT_CALLS):
                batch = zone_wise[at : at + CONCURRENT_CALLS]
                answers = await asyncio.gather(*(self._carry_out_one(term, i) for i in batch), return_exceptions=True)
                assigned += [i for i, answer in zip(batch, answers, strict=True) if answer is None and isinstance(i, Assign)]
                refused += self._sort_failures(batch, answers)
        finally:
            if assigned:
                self._note_assigned(assigned, self.now_ms() - began_ms)
        return refused

    def _note_assigned(self, assigned: list[Assign], elapsed_ms: float) -> None:
        self._metrics.observe_assigned(assigned, elapsed_ms / 1000)
        log.info(
            "zones assigned",
            zones=[i.zone for i in assigned],
            shards=sorted({i.shard for i in assigned}),
            causes=sorted({i.cause.value for i in assigned}),
            elapsed_ms=round(elapsed_ms, 1),
        )

    async def _carry_out_one(self, term: int, instruction: Assign | Intend | ReadTail) -> None:
        if isinstance(instruction, ReadTail):
            self.state.handle(
                TailRead(instruction.zone, instruction.tick, await read_tail(self._ledger, instruction.zone, instruction.tick))
            )
            return
        if isinstance(instruction, Assign):
            await self._ledger.assign(term, instruction.zone, instruction.shard, instruction.expected_epoch, instruction.at_checkpoint)
            return
        await self._ledger.intend(term, instruction.zone, instruction.successor)
        log.info("migration", zone=instruction.zone, successor=instruction.successor, reason=instruction.reason)

    def _sort_failures(self, batch: Sequence[Instruction], answers: Sequence[BaseException | None]) -> int:
        """Return how many were refused; raise where one found no answer (or failed in another way)."""
        failures = [(i, answer) for i, answer in zip(batch, answers, strict=True) if answer is not None]
        for instruction, answer in failures:
            if isinstance(answer, LedgerRefused):
                self._note_refusal(instruction, answer)
        for _, answer in failures:
            if not isinstance(answer, LedgerRefused):
                raise answer
        return len(failures)

    async def _carry_out_members(self, term: int, instructions: Sequence[Instruction]) -> int:
        """Detach and evict, one after the other. Return how many were refused: 0, or 1 and the rest is left.

        A gateway is put out only after its players are detached, so that whoever leads next finds one or the other undone.
        """
        for instruction in instructions:
            try:
                if isinstance(instruction, GatewayLost):
                    await self._ledger.gateway_lost(term, instruction.number)
                    log.warning("gateway lost", gateway=instruction.name, number=instruction.number)
                elif isinstance(instruction, Evict):
                    await self._ledger.evict(term, instruction.member, instruction.number)
                    self._metrics.failovers.labels(instruction.kind).inc()
                    self.chronicle.put_out(instruction.member, instruction.number, instruction.reason)
                    log.warning("member lost", member=instruction.member, kind=instruction.kind, reason=instruction.reason)
            except LedgerRefused as error:
                self._note_refusal(instruction, error)
                return 1
        return 0

    def _note_refusal(self, instruction: Instruction, error: LedgerRefused) -> None:
        self._metrics.refusals.inc()
        log.info("refused", instruction=repr(instruction), why=str(error))

    def _note_answer(self, view: ClusterView) -> None:
        self.view, self.view_read_ms = view, self.now_ms()
        self._metrics.observe_view(view, self.zones)
        self.chronicle.observe(self.view_read_ms, view)
        self.trends.observe(self.view_read_ms, view)
        if self._outage_began_ms is not None:
            log.info("the ledger answers again", away_ms=round(self.view_read_ms - self._outage_began_ms))
            self._outage_began_ms = None

    def _note_outage(self, error: LedgerUnavailable) -> None:
        self._metrics.ledger_failures.inc()
        self._lease.interrupted()
        self.state.handle(ViewFailed(self.now_ms()))
        if self._outage_began_ms is None:
            self._outage_began_ms = self.now_ms()
            self.chronicle.no_view()
            log.warning("the ledger does not answer; running zones wait, nobody is put out", error=str(error))


async def read_tail(ledger: Ledger, zone: int, tick: int) -> str:
    """Return the build that wrote a record, or the newest one before it that is there and whole; "" where there is none."""
    for first in (tick, max(tick - TAIL_RECORDS, 1)):
        try:
            records = await ledger.read_log(zone, first, tick - first + 1)
        except LedgerRefused as error:
            log.warning("record_unreadable", zone=zone, tick=tick, why=str(error))
            return ""
        for logged in reversed(records):
            try:
                return f"{unpack_record(logged.record).build:016x}"
            except ValueError as error:
                log.warning("record_unreadable", zone=zone, tick=logged.tick, why=str(error))
    return ""
