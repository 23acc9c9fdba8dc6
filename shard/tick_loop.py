"""The ticks of a shard: step zones, commit them in one call, encode meanwhile, release after. Drift-free, and at each zone's own pace.

Once an interval, in this shard's turn (shard.turns), all zones that are due tick together: those that are awake (shard.sleepers), as
often as their clocks say (shard.pacing). A zone whose tick takes so long that the others would wait for it ticks in a lane: a task, a
thread and commits of its own.

Owns the running zones and their order in time. Never decides which zones run here (shard.service does), never speaks to a socket itself
(shard.link_server does), never sends a commit again (shard.committing does). Kernels run in threads without the GIL; a zone that is in a
tick (`_busy`) belongs to that.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from perdure.ledger.ledger import Ledger, LedgerError
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus
from perdure.wire.link import pack_stale, pack_zone_notice
from perdure.wire.opcodes import Notice
from shard.arrivals import Arrivals, Cut
from shard.border import Feed
from shard.borders import Borders
from shard.checkpoints import Checkpoints
from shard.committing import Committing
from shard.handover import Handovers
from shard.link_server import Link, LinkServer
from shard.lookups import Lookups
from shard.mending import Mending
from shard.metrics import ShardMetrics
from shard.pace import Pace
from shard.pacing import Pacing
from shard.reading import Reading
from shard.sleepers import Sleepers
from shard.tick_times import TickTimes
from shard.turns import Turns
from shard.zone import Phase, Zone

log = structlog.get_logger("shard.tick")

COLLECT_EVERY_S = 10.0
LOOK_AROUND_S = 0.5
PEEK_EVERY_S = 0.09
"""Of the inboxes of sleeping zones. Who logs in is not kept waiting: the gateway says so (keyframes_wanted)."""
LANE_FROM, LANE_UNTIL = 0.5, 0.3
"""A zone gets a lane where its tick takes more than this part of an interval, and leaves it below that."""
HANDING_OVER_S = 0.001
"""Work that is this short is done on the loop's own thread: to hand it to others, and wait for them, would cost more than it saves."""
ALONE_S = 0.004
"""The same where only one thread would do it; meanwhile nothing that arrives is read."""
MAX_LANES = 16
"""Zones that tick in lanes; further ones tick with the others, who wait for them."""


class TickLoop:
    """Runs every zone in `zones` at `tick_hz`."""

    def __init__(
        self,
        ledger: Ledger,
        links: LinkServer,
        metrics: ShardMetrics,
        *,
        tick_hz: int,
        threads: int,
        checkpoint_s: float,
        paused_after_s: float,
        lease_s: float,
        idle_hz: float,
        owner: str = "",
        development: bool = False,
    ) -> None:
        self._ledger, self._links, self._metrics = ledger, links, metrics
        self._interval_s = 1.0 / tick_hz
        self._threads = threads
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="zones")
        self._lane_executor = ThreadPoolExecutor(MAX_LANES, thread_name_prefix="lanes")
        self.recovery_executor = ThreadPoolExecutor(threads, thread_name_prefix="recovery")
        """Replays of logs: zones that run must not wait for those of zones that come."""
        self._development = development
        self._across_told: dict[int, str] = {}
        self.times, self.commit_times = TickTimes(), TickTimes()
        self.own_times = TickTimes()
        """Without the wait for the commit, once all that goes on beside it is done."""
        self.released_bytes = 0
        self.mending = Mending(ledger, self.recovery_executor, self._replace, self._give_up, self._queue)
        self.zones: dict[int, Zone] = {}
        self.checkpoints = Checkpoints(ledger, metrics, self.zones, self.remove, owner=owner, tick_hz=tick_hz, every_s=checkpoint_s)
        self.handovers = Handovers(self.checkpoints.last)
        self.sleepers = Sleepers(idle_hz, tick_hz)
        self.pacing = Pacing(self.zones, self.sleepers, links, metrics, interval_s=self._interval_s, threads=threads)
        self.borders = Borders(self.zones, self._interval_s, self._tell_stale, self.pacing.feeds_every_s)
        self.turns = Turns(self._interval_s)
        self.arrivals = Arrivals(links.row_bytes)
        self.reading = Reading()
        self.reading.add(links.read)
        self._commits = Committing(
            ledger,
            metrics,
            self.reading,
            notify=self._notify,
            unanswered=self._doubt_sleepers,
            paused_after_s=paused_after_s,
            lease_s=lease_s,
        )
        self._runs = np.zeros(1 << 16, np.bool_)
        """By number of the zone, whether it is in `zones`."""
        self._lanes: dict[int, asyncio.Task[None]] = {}
        self._lane_fault: BaseException | None = None
        self._busy: set[int] = set()
        self._lookups = Lookups(self.zones, self._busy)
        self._peeking: asyncio.Task[None] | None = None
        self._server = ""
        self._looked_s = self._peeked_s = 0.0
        self._next_s = 0.0
        """When the next tick begins."""
        self._fresh: list[Zone] = []
        self._sleeper: asyncio.Future[None] | None = None
        self.stopping = False
        self.committing: Callable[[], bool] = lambda: False
        """Called as a commit goes to the ledger: what has to go there anyway may go along. Does anything?"""
        self.gave_up: Callable[[Zone, str], None] = lambda zone, why: None
        """Called with a zone that runs here no more, though it is this shard's, and why."""
        self.ticked = 0

    # --- what arrives between ticks (link_server.LinkHost) --------------------------------------------------------
    def frames_arrived(self, data: bytes, at: int, *, commands: bool) -> Cut:
        """Keep the commands in a link's bytes for the next ticks of their zones. Raises Overflow where too much may be waiting then."""
        cut = self.arrivals.cut(data, at, self._runs, commands=commands)
        if cut.elsewhere:  # the gateway sends them again to whoever shows the zone's next frame
            self._metrics.dropped_commands.inc(cut.elsewhere)
        if cut.kept and len(self.sleepers):  # whoever sent them has left, or is about to come: either way the zone ticks
            self.sleepers.wake(self.arrivals.newest_zones(cut.kept))
        return cut

    def keyframes_wanted(self, zone: int, players: list[int]) -> None:
        """Give these players full snapshots with the next tick. One who is on the way to a zone that sleeps wakes it."""
        if zone in self.sleepers:
            self.wake([zone])
        elif zone in self.zones:
            self.arrivals.want_keyframes(zone, players)

    def gateway_linked(self, gateway: int) -> None:
        """Give all players of a gateway full snapshots with the next tick, and tell it which zones are slowed."""
        for number in self.zones:
            if number not in self.sleepers:
                self.arrivals.link(number, gateway)
        self.pacing.gateway_linked(gateway)
        for zone, stale in self.borders.stale_zones():
            self._links.send(gateway, pack_stale(zone, stale))

    def look(self, zone: int, player: int, tell: Callable[[bytes], None]) -> None:
        """A coordinator asks where a player is."""
        self._lookups.ask(zone, player, tell)

    def subscribed(self, link: Link, pairs: list[tuple[int, int]]) -> None:
        """Another shard wants these feeds, and no others."""
        self.borders.subscribe(link, pairs)
        self.wake(source for source, _ in pairs)  # each tells what there is with its next tick

    def unsubscribed(self, link: Link) -> None:
        """Another shard's link ended."""
        self.borders.unsubscribe(link)

    def _take_arrivals(self, zones: list[Zone]) -> None:
        """Hand over what came for these zones, none of which is in a tick."""
        here = {zone.zone: zone for zone in zones}
        numbers = list(here)
        for number, rows in self.arrivals.rows_of(numbers):
            self._queue(here[number], self.mending.let_in(number, rows))
        for number, wanted in self.arrivals.wanted_of(numbers):
            if wanted.keyframes:
                here[number].force_keyframe(sorted(wanted.keyframes))
            for gateway in wanted.gateways:
                here[number].force_keyframes_of(gateway)
        for number, rows in self.mending.held_back(here):
            self._queue(here[number], self.mending.let_in(number, rows))

    def _queue(self, zone: Zone, rows: npt.NDArray[np.uint8]) -> None:
        """Queue commands for a zone's next tick; where it holds all that it can, gateways send all of them again, with new links."""
        if not zone.add_commands(rows):
            log.error("commands_overflow", zone=zone.zone, mend="there are more commands than the zone can hold; links are renewed")
            self._links.end_all(f"zone {zone.zone} holds all the commands it can")

    @property
    def paused(self) -> bool:
        """Does a commit wait for its answer for so long that clients were told?"""
        return self._commits.paused

    # --- which zones ----------------------------------------------------------------------------------------------
    def add(self, zone: Zone) -> None:
        """Run a recovered zone: its first tick comes at once, since its players see nothing until then; the next with the others'."""
        zone.compare_across = self._development
        self.zones[zone.zone] = zone
        self._runs[zone.zone] = True
        self.borders.added(zone)
        self.pacing.added(zone)
        self.wake(zone.border.near)  # each tells it what there is with its next tick
        self._begin([zone])
        self._metrics.zones.set(len(self.zones))

    def _begin(self, zones: Iterable[Zone]) -> None:
        """Let these zones tick at once."""
        self._fresh.extend(zones)
        if self._fresh and self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def remove(self, number: int) -> None:
        """Stop running a zone: it belongs to another owner. In the middle of a tick it is left to its thread; nothing of it is released."""
        self.handovers.withdraw(number)
        self.mending.forget(number)
        self.sleepers.forget(number)
        self.arrivals.forget(number)
        self.pacing.removed(number)
        zone = self.zones.pop(number, None)
        self._runs[number] = False
        self.borders.removed(number)
        if zone is not None and number not in self._busy and zone.phase is not Phase.DROPPED:
            zone.drop()
        self._metrics.zones.set(len(self.zones))

    def wake(self, numbers: Iterable[int]) -> None:
        """Let those of these zones that sleep tick, from now on."""
        self._begin([self.zones[number] for number in self.sleepers.wake(numbers) if number in self.zones])

    def _doubt_sleepers(self) -> None:
        """Let sleeping zones commit: whoever answers next may have forgotten what they committed."""
        self.wake(self.sleepers.numbers())

    def seen_from_elsewhere(self, numbers: Iterable[int]) -> None:
        """Players of other shards' zones see into these zones; take the place of what was said before."""
        self._begin([self.zones[number] for number in self.sleepers.others_see(numbers) if number in self.zones])

    # --- the schedule ---------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Tick until `stopping`. A tick that is late by a whole interval moves the schedule; it is never made up in a burst."""
        due = self._next_s = time.monotonic()
        collected = due
        while not self.stopping:
            if self._lane_fault is not None:
                raise self._lane_fault
            now = time.monotonic()
            await (self._sleep(due - now) if now < due else asyncio.sleep(0))  # a tick may be through without a turn of the event loop
            self.reading.take_in()
            now = time.monotonic()
            fresh, self._fresh = dict.fromkeys(self._fresh), []
            if due - now > self._interval_s / 10:
                await self._tick(self._running(fresh))
                continue
            if now - due > self._interval_s / 2:
                self._metrics.late.inc()
            if now - due > self._interval_s:
                due = now
            due = self._next_s = due + self._interval_s + self.turns.slew_s(due)
            self.ticked += 1
            self._look(now)
            if self._lanes:
                self._links.tell_when(now, None, self._interval_s)
            awake = [zone for zone in self.sleepers.due(self.zones, now) if self._ticks_now(zone.zone)]
            await self._tick(awake + [zone for zone in self._running(fresh) if zone not in awake])
            if now - collected > COLLECT_EVERY_S and due - time.monotonic() > 0.010:
                gc.collect(1)  # the collector is off during ticks; what little garbage has cycles goes here
                collected = now
        await asyncio.gather(*self._lanes.values())

    def _ticks_now(self, number: int) -> bool:
        return number not in self._lanes and self.pacing.paces[number].ticks_now()

    def _running(self, fresh: Iterable[Zone]) -> list[Zone]:
        """Return those of these zones that run here, in no lane."""
        return [zone for zone in fresh if self.zones.get(zone.zone) is zone and zone.zone not in self._lanes]

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a zone is to begin."""
        loop = asyncio.get_running_loop()
        sleeper = self._sleeper = loop.create_future()
        timer = loop.call_later(seconds, lambda: sleeper.done() or sleeper.set_result(None))
        try:
            if not self._fresh:
                await sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    def _look(self, now: float) -> None:
        """What is looked at now and then: who waits for sleeping zones, who is near them, what zones cost."""
        if len(self.sleepers) and now - self._peeked_s >= PEEK_EVERY_S and (self._peeking is None or self._peeking.done()):
            self._peeked_s = now
            self._peeking = asyncio.get_running_loop().create_task(self._peek())
        if now - self._looked_s >= LOOK_AROUND_S:
            self._looked_s = now
            self._look_around([zone for number, zone in self.zones.items() if number not in self.sleepers and number not in self._busy])
            self._metrics.asleep.set(len(self.sleepers))
            self._metrics.players.set(sum(zone.player_count() for zone in self.zones.values()))
        if self.pacing.look(now):
            for number, pace in self.pacing.paces.items():
                if pace.cost_s > LANE_FROM * self._interval_s and number not in self.sleepers:
                    self._open_lane(number)

    def _look_around(self, zones: list[Zone]) -> None:
        self._begin([self.zones[number] for number in self.sleepers.look_around(zones) if number in self.zones])

    async def _peek(self) -> None:
        """Wake sleeping zones that have something in their inbox; all of them where the ledger may have forgotten what they committed."""
        try:
            told = await self._ledger.waiting(self.sleepers.numbers())
        except LedgerError as error:
            log.debug("inboxes_unknown", why=str(error))
            self.wake(self.sleepers.numbers())
            return
        same, self._server = self._server in ("", told.server), told.server
        if same:  # another server may have forgotten who replaced this shard
            self._commits.answered_s = time.monotonic()
        self.wake(told.zones if same else self.sleepers.numbers())

    # --- zones too dear for the others --------------------------------------------------------------------------------
    def _open_lane(self, number: int) -> None:
        if number in self._lanes or len(self._lanes) >= MAX_LANES:
            return
        self.reading.always("lanes")
        lane = self._lanes[number] = asyncio.get_running_loop().create_task(self._lane(number), name=f"lane {number}")
        lane.add_done_callback(lambda done: self._close_lane(number, done))

    def _close_lane(self, number: int, lane: asyncio.Task[None]) -> None:
        del self._lanes[number]
        if not self._lanes:
            self.reading.in_time("lanes")
        if not lane.cancelled() and lane.exception() is not None:
            self._lane_fault = lane.exception()

    async def _lane(self, number: int) -> None:
        """Tick one zone at its own pace, as long as the others would have to wait for it."""
        while number in self._busy:  # the tick that it is in with the others
            await asyncio.sleep(self._interval_s / 10)
        due = time.monotonic()
        looked_s = 0.0
        while self._stays_in_lane(number):
            due = max(due + self.pacing.paces[number].interval_s, time.monotonic())
            await self._tick([self.zones[number]], self._lane_executor)
            if due - looked_s >= LOOK_AROUND_S and number in self.zones and number not in self.sleepers:
                looked_s = due
                self._look_around([self.zones[number]])  # the others are looked at between two ticks; this one is in a tick then
            await asyncio.sleep(max(due - time.monotonic(), 0.0))

    def _stays_in_lane(self, number: int) -> bool:
        """A zone that has fallen asleep is a matter of `sleepers` again, however dear its ticks are."""
        if self.stopping or number not in self.zones or number in self.sleepers:
            return False
        return self.pacing.paces[number].cost_s > LANE_UNTIL * self._interval_s

    # --- a tick -----------------------------------------------------------------------------------------------------
    async def _tick(self, zones: list[Zone], executor: Executor | None = None) -> None:
        """Give those of `zones` that can go on one tick, in threads of `executor`."""
        zones = [zone for zone in zones if zone.zone not in self._busy]
        self._take_arrivals(zones)
        ready = [zone for zone in zones if zone.phase is Phase.READY]
        if ready:
            numbers = {zone.zone for zone in ready}
            self._busy |= numbers
            try:
                await self._tick_ready(ready, executor or self.executor)
            finally:
                self._busy -= numbers
                self._lookups.ticked()
        if self.handovers.asked:
            self.handovers.begin({number: zone for number, zone in self.zones.items() if number not in self._busy})

    async def _tick_ready(self, zones: list[Zone], executor: Executor) -> None:
        started = time.monotonic()
        self.borders.turn(zones, started)
        stepped = await self._in_threads(_step, zones, executor, Pace.of_step_s)
        self._tell_across(zones)
        commits = [commit for (commit, _), _ in stepped if commit is not None]
        costs = {zone.zone: cost_s for zone, (_, cost_s) in zip(zones, stepped, strict=True)}
        zones = [zone for zone, ((commit, fault), _) in zip(zones, stepped, strict=True) if self._sound(zone, commit, fault)]
        after_step = time.monotonic()
        along = self.committing()
        going = self._commits.begin(commits, at_once=not along and executor is self.executor and not self._lanes)
        if along or not going.left:
            await asyncio.sleep(0)
        # the ledger is at work on it while frames are made, in whatever thread
        try:
            made = await self._in_threads(self._encode, zones, executor, Pace.of_encode_s)
        except BaseException:
            self._commits.forget(going)  # it is this shard that ends
            raise
        after_encode = time.monotonic()
        answers = await self._commits.answers(going)
        after_answer = time.monotonic()
        commit_s = after_answer - after_step
        self._metrics.commit.observe(commit_s)
        self.commit_times.add(commit_s)
        outgoing: dict[int, list[bytes]] = {}
        committed: list[Zone] = []
        for zone, answer, ((frames, feeds), cost_s) in zip(zones, answers, made, strict=True):
            pace = self.pacing.paces.get(zone.zone)
            if pace is not None:
                pace.took(costs[zone.zone], cost_s if zone.encoded else None)
            if self._answered(zone, answer):
                committed.append(zone)
                for gateway, frame in frames:
                    outgoing.setdefault(gateway, []).append(frame)
                self.borders.release(feeds)
        if executor is self.executor and not self._lanes:  # ahead of the frames, which will keep a gateway busy
            self._links.tell_when(time.monotonic(), self._next_s, self._interval_s)
        self._release(outgoing)
        for zone in committed:
            self.checkpoints.in_time(zone)
        others = [answer.status for answer in answers if answer.status is not CommitStatus.OK]
        self._metrics.committed(len(answers) - len(others))
        for status in others:
            self._metrics.answers.labels(status).inc()
        self._metrics.step.observe(after_step - started)
        self._metrics.encode.observe(after_encode - after_step)
        took_s = time.monotonic() - started
        self._metrics.tick.observe(took_s)
        self.times.add(took_s)
        own_s = took_s - (after_answer - after_encode)
        self._metrics.own.observe(own_s)
        self.own_times.add(own_s)

    def _encode(self, zone: Zone) -> tuple[list[tuple[int, bytes]], list[Feed]]:
        frames = zone.encode()
        return frames, zone.publish(self.pacing.feeds_every_s(zone))

    async def _in_threads(
        self, function: Callable[[Zone], Any], zones: list[Zone], executor: Executor, cost_s: Callable[[Pace], float]
    ) -> list[tuple[Any, float]]:
        """Apply `function` to every zone, in one task a thread (a task a zone would cost more than most zones' work).

        `cost_s` says what it cost a zone lately. Return what it gave, and what it cost (cost_clock).
        """
        if not zones:
            return []
        enough_s = ALONE_S if min(self._threads, len(zones)) == 1 else HANDING_OVER_S
        if executor is self.executor and self.pacing.expected_s(zones, cost_s) <= enough_s:
            return _each(function, zones)
        loop = asyncio.get_running_loop()
        share = -(-len(zones) // self._threads)
        parts = [zones[at : at + share] for at in range(0, len(zones), share)]
        done = await asyncio.gather(*(loop.run_in_executor(executor, _each, function, part) for part in parts))
        return [result for part in done for result in part]

    def _tell_across(self, zones: list[Zone]) -> None:
        """Say once what is wrong with the hook that looks over the borders; the zone goes on without its proposals."""
        for zone in zones:
            if zone.across_fault != self._across_told.get(zone.zone, ""):
                self._across_told[zone.zone] = zone.across_fault
                if zone.across_fault:
                    log.error("across_failed", zone=zone.zone, tick=zone.tick, why=zone.across_fault, mend="mend the game")

    def _sound(self, zone: Zone, commit: Commit | None, fault: Exception | None) -> bool:
        if commit is not None:
            return True
        log.error("zone_stopped", zone=zone.zone, tick=zone.tick, why=str(fault), commands=len(zone.commanding()),
                  mend="the rules failed: the tick is tried without the command that they fail on; mend the game")  # fmt: skip
        if self.zones.get(zone.zone) is zone:
            self.mending.begin(zone)
        return False

    def _replace(self, old: Zone, new: Zone) -> bool:
        """Go on with a zone that was mended, unless it was taken away meanwhile."""
        if self.zones.get(old.zone) is not old:
            return False
        new.border = old.border  # what neighbours told of goes on
        self.add(new)
        return True

    def _give_up(self, zone: Zone, why: str = "its rules fail, whatever command is left out") -> None:
        """A zone that cannot be mended begins anew at the next poll of the routes: at once it would only fail again."""
        if self.zones.get(zone.zone) is not zone:
            return
        self.remove(zone.zone)
        self.gave_up(zone, why)
        # What waited here, and what was in the tick that never happened, must come again: gateways send it with new links.
        self._links.end_all(f"zone {zone.zone} begins anew")

    # --- commit and release ---------------------------------------------------------------------------------------
    def unconfirmed(self) -> dict[str, tuple[int, int, int]]:
        """Return how far (generation, epoch, tick) zones are committed whose newest commit waits for long or was refused.

        Of these the ledger may know less.
        """
        waiting = self._commits.waiting_long()
        told = [z for n, z in self.zones.items() if z.phase in (Phase.FROZEN, Phase.HELD) or (n in waiting and z.phase is Phase.COMMITTING)]
        return {str(z.zone): (z.generation, z.epoch, z.tick if z.phase is Phase.HELD else z.tick - 1) for z in told}

    def _tell_stale(self, zone: int, stale: tuple[int, ...]) -> None:
        self._links.send_all(pack_stale(zone, stale))

    def _notify(self, notice: Notice) -> None:
        for number in self.zones:
            self._links.send_all(pack_zone_notice(number, notice))

    def _release(self, outgoing: dict[int, list[bytes]]) -> None:
        """Send what was committed: one write a gateway, whatever the number of zones."""
        for gateway, frames in outgoing.items():
            sent = self._links.release(gateway, frames)
            if sent:
                self._metrics.released.inc(sent)
                self.released_bytes += sent
            else:
                self._metrics.unlinked.inc(len(frames))

    def _answered(self, zone: Zone, answer: CommitAnswer) -> bool:
        """Go on after the answer to a commit; return whether what it made may leave."""
        if self.zones.get(zone.zone) is not zone:
            return False  # it was taken away meanwhile: its new owner replays what was committed, and releases that
        zone.committed(answer)
        if answer.status is CommitStatus.OK:
            self.sleepers.ticked(zone, time.monotonic())
        elif answer.status is CommitStatus.FENCED:
            log.info("fenced", zone=zone.zone, tick=zone.tick, detail=answer.detail)
            self.remove(zone.zone)
        elif answer.status is CommitStatus.BROKEN:
            log.error("zone_broken", zone=zone.zone, tick=zone.tick, detail=answer.detail, mend="run perdure audit; the zone begins anew")
            self._give_up(zone, f"the ledger refuses its tick {zone.tick}: {answer.detail}")
        else:
            log.error("ledger_went_back", zone=zone.zone, tick=zone.tick, detail=answer.detail, mend="the zone is restored from memory")
            self.checkpoints.restore(zone)
        return answer.status is CommitStatus.OK

    async def close(self) -> None:
        self.stopping = True
        await self.handovers.close()
        await self.mending.close()
        peeking = [self._peeking] if self._peeking is not None else []
        for task in [*self._lanes.values(), *peeking]:
            task.cancel()
        self.checkpoints.close()
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.recovery_executor.shutdown(wait=False, cancel_futures=True)
        self._lane_executor.shutdown(wait=False, cancel_futures=True)


def cost_clock() -> float:
    """Return the processor time of this thread, in seconds: what a zone costs, whoever else is busy on the machine."""
    return time.thread_time()


def _each(function: Callable[[Zone], Any], zones: list[Zone]) -> list[tuple[Any, float]]:
    results, before_s = [], cost_clock()
    for zone in zones:
        result, after_s = function(zone), cost_clock()
        results.append((result, after_s - before_s))
        before_s = after_s
    return results


def _step(zone: Zone) -> tuple[Commit | None, Exception | None]:
    zone.fill_ghosts()
    try:
        return zone.step(), None
    except MemoryError:
        raise  # it is the process that cannot go on: its zones do, elsewhere
    except Exception as error:  # noqa: BLE001 - whatever the rules raise (an assertion, say): the tick never happened
        return None, error
