"""The tick of a shard: step all zones, commit them in one call, encode meanwhile, release after. One task, drift-free.

Owns the running zones and their order in time. Never decides which zones run here (shard.service does), never speaks to
a socket itself (shard.link_server does). Kernels run in threads without the GIL; only this task touches zones.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from perdure.ledger.ledger import Commit, CommitAnswer, CommitStatus, Ledger, LedgerError, LedgerRefused, LedgerUnavailable, Reseed
from perdure.ledger.record import blob_digest
from perdure.wire.link import pack_stale, pack_zone_notice
from perdure.wire.opcodes import Notice
from shard.border import Feed
from shard.borders import Borders
from shard.handover import Handovers
from shard.link_server import Link, LinkServer
from shard.mending import RULES_RAISE, Mending
from shard.metrics import ShardMetrics
from shard.tick_times import TickTimes
from shard.zone import Phase, Zone

log = structlog.get_logger("shard.tick")

MAX_INCOMING_BYTES = 32 << 20
RESEND_PAUSE_S = 0.02
COLLECT_EVERY_S = 10.0
RESEND_SENT_S = 10.0
"""How far back a zone that is restored in the ledger says what it has sent away: longer than anything is in transit."""


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
        owner: str = "",
        development: bool = False,
    ) -> None:
        self._ledger, self._links, self._metrics = ledger, links, metrics
        self._interval_s = 1.0 / tick_hz
        self._threads = threads
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="zones")
        self._checkpoint_ticks = max(1, round(checkpoint_s * tick_hz))
        self._paused_after_s = paused_after_s
        self._owner = owner
        self._development = development
        self._across_told: dict[int, str] = {}
        self._sent_ticks = round(RESEND_SENT_S * tick_hz)
        self.times, self.commit_times = TickTimes(), TickTimes()
        self.released_bytes = 0
        self.mending = Mending(ledger, self.executor, self._replace, self._give_up)
        self.handovers = Handovers(self._last_checkpoint)
        self.zones: dict[int, Zone] = {}
        self.borders = Borders(self.zones, self._interval_s, self._tell_stale)
        self._incoming: list[tuple[int, npt.NDArray[np.uint8]]] = []
        self._incoming_bytes = 0
        self._keyframes: list[tuple[int, list[int]]] = []
        self._linked: list[int] = []
        self._side_tasks: dict[int, asyncio.Task[None]] = {}
        self._ticking = False
        self._fresh: list[Zone] = []
        self._sleeper: asyncio.Future[None] | None = None
        self.stopping = False
        self.paused = False
        self.ticked = 0

    # --- what arrives between ticks (link_server.LinkHost) --------------------------------------------------------
    def commands_arrived(self, zone: int, rows: npt.NDArray[np.uint8]) -> bool:
        """Keep rows for the next tick; False where too much is waiting already."""
        if zone not in self.zones:
            self._metrics.dropped_commands.inc(len(rows))
            return True  # the gateway sends them again to whoever shows the zone's next frame
        if self._incoming_bytes + rows.nbytes > MAX_INCOMING_BYTES:
            return False
        self._incoming.append((zone, rows))
        self._incoming_bytes += rows.nbytes
        return True

    def keyframes_wanted(self, zone: int, players: list[int]) -> None:
        """Give these players full snapshots with the next tick."""
        self._keyframes.append((zone, players))

    def gateway_linked(self, gateway: int) -> None:
        """Give all players of a gateway full snapshots with the next tick."""
        self._linked.append(gateway)
        for zone, stale in self.borders.stale_zones():
            self._links.send(gateway, pack_stale(zone, stale))

    def subscribed(self, link: Link, pairs: list[tuple[int, int]]) -> None:
        """Another shard wants these feeds, and no others."""
        self.borders.subscribe(link, pairs)

    def unsubscribed(self, link: Link) -> None:
        """Another shard's link ended."""
        self.borders.unsubscribe(link)

    def _take_arrivals(self) -> None:
        incoming, self._incoming, self._incoming_bytes = self._incoming, [], 0
        for number, rows in incoming:
            zone = self.zones.get(number)
            if zone is not None and not zone.add_commands(self.mending.let_in(number, rows)):
                log.error("commands_overflow", zone=number, mend="the zone has more players' commands than it can hold; links are renewed")
                self._links.end_all(f"zone {number} holds all the commands it can")
        for number, rows in self.mending.held_back(self.zones):
            self.zones[number].add_commands(self.mending.let_in(number, rows))
        for number, players in self._keyframes:
            zone = self.zones.get(number)
            if zone is not None:
                zone.force_keyframe(players)
        for gateway in self._linked:
            for zone in self.zones.values():
                zone.force_keyframes_of(gateway)
        self._keyframes.clear()
        self._linked.clear()

    # --- which zones ----------------------------------------------------------------------------------------------
    def add(self, zone: Zone) -> None:
        """Run a recovered zone: its first tick comes at once, since its players see nothing until then; the next with the others'."""
        zone.compare_across = self._development
        self.zones[zone.zone] = zone
        self.borders.added(zone)
        self._fresh.append(zone)
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
        self._metrics.zones.set(len(self.zones))

    def remove(self, number: int) -> None:
        """Stop running a zone: it belongs to another owner. In the middle of a tick it is left to its thread; nothing of it is released."""
        self.handovers.withdraw(number)
        self.mending.forget(number)
        zone = self.zones.pop(number, None)
        self.borders.removed(number)
        if zone is not None and not self._ticking and zone.phase is not Phase.DROPPED:
            zone.drop()
        self._metrics.zones.set(len(self.zones))

    # --- the schedule ---------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Tick until `stopping`. A tick that is late by a whole interval moves the schedule; it is never made up in a burst."""
        due = time.monotonic()
        collected = due
        while not self.stopping:
            now = time.monotonic()
            if now < due:
                await self._sleep(due - now)
                now = time.monotonic()
            fresh, self._fresh = self._fresh, []
            if due - now > self._interval_s / 10:
                await self._tick([zone for zone in fresh if self.zones.get(zone.zone) is zone])
                continue
            if now - due > self._interval_s / 2:
                self._metrics.late.inc()
            if now - due > self._interval_s:
                due = now
            due += self._interval_s
            self.ticked += 1
            await self._tick(list(self.zones.values()))
            if now - collected > COLLECT_EVERY_S and due - time.monotonic() > 0.010:
                gc.collect(1)  # the collector is off during ticks; what little garbage has cycles goes here
                collected = now

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a zone is added."""
        loop = asyncio.get_running_loop()
        sleeper = self._sleeper = loop.create_future()
        timer = loop.call_later(seconds, lambda: sleeper.done() or sleeper.set_result(None))
        try:
            if not self._fresh:
                await sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    async def _tick(self, zones: list[Zone]) -> None:
        """Give those of `zones` that can go on one tick."""
        self._ticking = True
        try:
            self._take_arrivals()
            ready = [zone for zone in zones if zone.phase is Phase.READY]
            if ready:
                await self._tick_ready(ready)
        finally:
            self._ticking = False
        self.handovers.begin(self.zones)

    async def _tick_ready(self, zones: list[Zone]) -> None:
        started = time.monotonic()
        self.borders.turn(zones, started)
        stepped = await self._in_threads(_step, zones)
        self._tell_across(zones)
        commits = [commit for commit, _ in stepped if commit is not None]
        zones = [zone for zone, (commit, fault) in zip(zones, stepped, strict=True) if self._sound(zone, commit, fault)]
        after_step = time.monotonic()
        answering = asyncio.ensure_future(self._commit(commits))
        made = await self._in_threads(self._encode, zones)
        after_encode = time.monotonic()
        answers = await answering
        commit_s = time.monotonic() - after_step
        self._metrics.commit.observe(commit_s)
        self.commit_times.add(commit_s)
        for zone, answer, (frames, feeds) in zip(zones, answers, made, strict=True):
            self._answered(zone, answer, frames, feeds)
        self._metrics.step.observe(after_step - started)
        self._metrics.encode.observe(after_encode - after_step)
        took_s = time.monotonic() - started
        self._metrics.tick.observe(took_s)
        self.times.add(took_s)
        if self.ticked % 20 == 0:
            self._metrics.players.set(sum(zone.player_count() for zone in self.zones.values()))

    def _encode(self, zone: Zone) -> tuple[list[tuple[int, bytes]], list[Feed]]:
        return zone.encode(), zone.publish(self._interval_s)

    async def _in_threads(self, function: Callable[[Zone], Any], zones: list[Zone]) -> list[Any]:
        """Apply `function` to every zone, in one task a thread (a task a zone would cost more than most zones' work)."""
        if not zones:
            return []
        loop = asyncio.get_running_loop()
        share = -(-len(zones) // self._threads)
        parts = [zones[at : at + share] for at in range(0, len(zones), share)]
        done = await asyncio.gather(*(loop.run_in_executor(self.executor, _each, function, part) for part in parts))
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

    def _give_up(self, zone: Zone) -> None:
        """A zone that cannot be mended begins anew at the next poll of the routes: at once it would only fail again."""
        if self.zones.get(zone.zone) is not zone:
            return
        self.remove(zone.zone)
        # What waited here, and what was in the tick that never happened, must come again: gateways send it with new links.
        self._links.end_all(f"zone {zone.zone} begins anew")

    # --- commit and release ---------------------------------------------------------------------------------------
    async def _commit(self, commits: list[Commit]) -> list[CommitAnswer]:
        """Commit, and send identical commits again until there is an answer; nothing is released before."""
        waiting = asyncio.get_running_loop().call_later(self._paused_after_s, self._pause)
        tries = 0
        try:
            while True:
                try:
                    return await self._ledger.commit(commits)
                except (LedgerUnavailable, LedgerRefused) as error:
                    tries += 1
                    self._metrics.resends.inc()
                    if tries == 1 or tries % 100 == 0:
                        log.warning("commit_unanswered", zones=len(commits), tries=tries, why=str(error))
                    await asyncio.sleep(min(RESEND_PAUSE_S * tries, 0.25))
        finally:
            waiting.cancel()
            if self.paused:
                self.paused = False
                log.info("resumed", tries=tries)
                self._notify(Notice.RESUMED)

    def _pause(self) -> None:
        self.paused = True
        log.warning("paused", why="the ledger does not answer; nothing is lost, clients are told")
        self._notify(Notice.PAUSED)

    def _tell_stale(self, zone: int, stale: tuple[int, ...]) -> None:
        self._links.send_all(pack_stale(zone, stale))

    def _notify(self, notice: Notice) -> None:
        for number in self.zones:
            self._links.send_all(pack_zone_notice(number, notice))

    def _answered(self, zone: Zone, answer: CommitAnswer, frames: list[tuple[int, bytes]], feeds: list[Feed]) -> None:
        self._metrics.answers.labels(answer.status).inc()
        if self.zones.get(zone.zone) is not zone:
            return  # it was taken away meanwhile: its new owner replays what was committed, and releases that
        zone.committed(answer)
        if answer.status is CommitStatus.OK:
            self._metrics.ticks.inc()
            for gateway, frame in frames:
                if self._links.send(gateway, frame):
                    self._metrics.released.inc(len(frame))
                    self.released_bytes += len(frame)
                else:
                    self._metrics.unlinked.inc()
            self.borders.release(feeds)
            # Behind another build's checkpoint this one is wanted soon: a log with records of both can be replayed by neither.
            if (zone.tick + zone.zone * 7) % self._checkpoint_ticks == 0 or zone.image_build not in (0, zone.program.build):
                self._start_checkpoint(zone)
        elif answer.status is CommitStatus.FENCED:
            log.info("fenced", zone=zone.zone, tick=zone.tick, detail=answer.detail)
            self.remove(zone.zone)
        elif answer.status is CommitStatus.BROKEN:
            log.error("zone_broken", zone=zone.zone, tick=zone.tick, detail=answer.detail, mend="run perdure audit; the zone is stopped")
            self.remove(zone.zone)
        else:
            log.error("ledger_went_back", zone=zone.zone, tick=zone.tick, detail=answer.detail, mend="the zone is restored from memory")
            self._start(zone, self._reseed(zone))

    # --- checkpoints ----------------------------------------------------------------------------------------------
    def _start(self, zone: Zone, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._side_tasks[zone.zone] = task
        task.add_done_callback(lambda done: self._side_tasks.pop(zone.zone, None) if self._side_tasks.get(zone.zone) is done else None)

    def _start_checkpoint(self, zone: Zone) -> None:
        if zone.zone not in self._side_tasks:
            zone.image_build = zone.program.build
            self._start(zone, self._checkpoint(zone, zone.tick, zone.generation, zone.epoch, zone.checkpoint()))

    async def _checkpoint(self, zone: Zone, tick: int, generation: int, epoch: int, blob: bytes) -> bool:
        try:
            await self._ledger.put_checkpoint(zone.zone, tick, epoch, blob)
            status = await self._ledger.flip_checkpoint(zone.zone, generation, epoch, tick, blob_digest(blob))
        except LedgerError as error:
            log.warning("checkpoint_failed", zone=zone.zone, tick=tick, why=str(error))
            return False
        if status is CommitStatus.OK:
            self._metrics.checkpoints.inc()
        else:
            log.info("checkpoint_refused", zone=zone.zone, tick=tick, status=str(status))
        return status is CommitStatus.OK

    async def _last_checkpoint(self, zone: Zone) -> bool:
        """Checkpoint a zone that is held, once an earlier checkpoint of it is through."""
        earlier = self._side_tasks.get(zone.zone)
        if earlier is not None:
            await asyncio.wait([earlier])
        return await self._checkpoint(zone, zone.tick, zone.generation, zone.epoch, zone.checkpoint())

    async def checkpoint_all(self) -> None:
        """Checkpoint every zone now (a clean stop of the last shard)."""
        for zone in list(self.zones.values()):
            if zone.phase in (Phase.READY, Phase.HELD):
                await self._checkpoint(zone, zone.tick, zone.generation, zone.epoch, zone.checkpoint())

    async def _reseed(self, zone: Zone) -> None:
        """The ledger knows less than this owner: give it the zone anew, under a new generation."""
        blob = zone.checkpoint()
        seed = Reseed(
            zone.zone, self._owner, zone.generation, zone.epoch, zone.tick, zone.digest, blob, blob_digest(blob), zone.in_zone(),
            zone.passages.since(zone.tick - self._sent_ticks), zone.highest_move(),
        )  # fmt: skip
        while self.zones.get(zone.zone) is zone and zone.phase is Phase.FROZEN:
            try:
                head = await self._ledger.reseed(seed)
            except LedgerUnavailable:
                await asyncio.sleep(RESEND_PAUSE_S)
            except LedgerRefused as error:
                log.error("reseed_refused", zone=zone.zone, why=str(error))
                if self.zones.get(zone.zone) is zone:  # else it has been loaded anew meanwhile
                    self.remove(zone.zone)
                return
            else:
                zone.reseeded(head.generation, head.epoch)
                log.warning("reseeded", zone=zone.zone, tick=zone.tick, generation=head.generation, epoch=head.epoch)

    async def close(self) -> None:
        self.stopping = True
        await self.handovers.close()
        await self.mending.close()
        for task in list(self._side_tasks.values()):
            task.cancel()
        self.executor.shutdown(wait=False, cancel_futures=True)


def _each(function: Callable[[Zone], Any], zones: list[Zone]) -> list[Any]:
    return [function(zone) for zone in zones]


def _step(zone: Zone) -> tuple[Commit | None, Exception | None]:
    zone.fill_ghosts()
    try:
        return zone.step(), None
    except RULES_RAISE as error:
        return None, error
