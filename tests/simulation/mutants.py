"""Planted bugs: what the simulator must find. Each is a patch of production code, or of the ledger's model, that takes one
protection away. `find` runs seeds until one fails.

Every mutant stands for a mistake that someone could make, or for one that other systems are known to have made.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from websockets.asyncio.server import ServerConnection

import perdure.ledger.memory_commit as model
import perdure.ledger.memory_ledger
import shard.recovery
import shard.service
from coordinator.allocation import Survey
from coordinator.steering import Steering
from gateway.fanout import Fanout
from gateway.routing import Route
from gateway.session import Session
from gateway.websocket_server import GameConnection
from perdure.client.protocol import ClientProtocol
from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.record import chain_digest
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, EnterAnswer, EnterRequest, LoggedRecord, Reseed, Transfer
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY
from shard.committing import Committing, OnTheirWay
from shard.kernels import layout
from shard.tick_loop import TickLoop
from shard.zone import Zone, ZoneError
from tests.simulation.clock import Patch, patched
from tests.simulation.cluster import ROOMY, TIGHT, next_program
from tests.simulation.faults import ASKED_FOR, TIGHTLY
from tests.simulation.run import Outcome, simulate

MUTANTS: dict[str, Callable[[], list[Patch]]] = {}
KINDS: dict[str, tuple[str, ...]] = {}
"""Faults that bring a mutant out soon, where the seed's own choice seldom does."""
SEEDS: dict[str, int] = {}
"""The first seed that found a mutant with those faults, when it was last looked for: there a test begins."""


def mutant(*kinds: str, seed: int = 1) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    def keep(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        MUTANTS[make.__name__] = make
        KINDS[make.__name__] = kinds
        SEEDS[make.__name__] = seed
        return make

    return keep


def planted(name: str) -> AbstractContextManager[None]:
    """While this holds, the bug is in the code."""
    return patched(MUTANTS[name]())


def find(name: str, seeds: Iterable[int], simulated_s: float = 60.0, kinds: tuple[str, ...] = ()) -> Outcome | None:
    """Return the first seed's outcome that shows the bug, or None. `kinds` of faults, instead of the seed's choice."""
    with planted(name):
        for seed in seeds:
            outcome = simulate(seed, simulated_s, kinds=kinds)
            if outcome.violations:
                return outcome
    return None


# --- the ledger ---------------------------------------------------------------------------------------------------


@mutant("drain_shard", "scale", "slow_host", seed=3)
def no_epoch_check() -> list[Patch]:
    """A commit needs the right tick and digest, but may come from an owner of before."""

    def follows(head: Any, commit: Commit) -> bool:
        return (head.tick, head.digest) == (commit.tick - 1, commit.previous)

    return [(model, "_follows", follows)]


@mutant(seed=3)
def page_not_logged() -> list[Patch]:
    """The inbox page is answered, but the log does not hold it."""
    real = model.commit_one

    def commit_one(store: MemoryStore, commit: Commit) -> CommitAnswer:
        answer = real(store, commit)
        if answer.status is CommitStatus.OK:
            log = store.data.zones[commit.zone].log
            log[commit.tick] = dataclasses.replace(log[commit.tick], page=())
        return answer

    return [(perdure.ledger.memory_ledger, "commit_one", commit_one)]


@mutant("lost_replies", seed=7)
def resend_not_recognised() -> list[Patch]:
    """A commit that is there already is answered as a gap."""
    real = model._not_next

    def not_next(store: MemoryStore, zone: Any, head: Any, commit: Commit) -> CommitAnswer:
        answer = real(store, zone, head, commit)
        return CommitAnswer(CommitStatus.GAP, detail="as if it were not there") if answer.status is CommitStatus.OK else answer

    return [(model, "_not_next", not_next)]


@mutant("reconnect_storm", seed=16)
def entries_do_not_follow_movers() -> list[Patch]:
    """What waits in an inbox for a player who crosses a border stays in that inbox."""
    return [(model, "_follow_movers", lambda inbox, movers: inbox)]


@mutant()
def logout_saves_nothing() -> list[Patch]:
    """A player who goes to the lobby leaves what it has behind."""
    real = model._move

    def move(store: MemoryStore, mover: Any, zone: int) -> None:
        real(store, mover, zone)
        if mover.transfer.target == -1:
            mover.record.saved = b""

    return [(model, "_move", move)]


@mutant("corrupt_checkpoint", "kill_shard")
def log_trimmed_to_the_newest_checkpoint() -> list[Patch]:
    """The log does not reach back to the older checkpoint, which is there for when the newest is bad."""
    real = MemoryLedger.flip_checkpoint

    async def flip_checkpoint(self: MemoryLedger, zone: int, generation: int, epoch: int, tick: int, digest: str) -> CommitStatus:
        status = await real(self, zone, generation, epoch, tick, digest)
        found = self.store.data.zones.get(zone)
        if status is CommitStatus.OK and found is not None:
            for trimmed in [logged for logged in found.log if logged < tick]:
                del found.log[trimmed]
        return status

    return [(MemoryLedger, "flip_checkpoint", flip_checkpoint)]


@mutant("ledger_slow", "kill_shard")
def trimmed_before_the_checkpoint_is_verified() -> list[Patch]:
    """The log is cut as soon as an image is put, before anyone has compared it with its digest and named it a checkpoint."""
    real = MemoryLedger.put_checkpoint

    async def put_checkpoint(self: MemoryLedger, zone: int, tick: int, epoch: int, blob: bytes) -> None:
        await real(self, zone, tick, epoch, blob)
        log = self.store.data.zone(zone).log
        for trimmed in [logged for logged in log if logged <= tick]:
            del log[trimmed]

    return [(MemoryLedger, "put_checkpoint", put_checkpoint)]


@mutant("drain_shard")
def log_never_trimmed() -> list[Patch]:
    """A queue without a bound: records that no checkpoint needs stay in the log."""
    real = MemoryLedger.flip_checkpoint

    async def flip_checkpoint(self: MemoryLedger, zone: int, generation: int, epoch: int, tick: int, digest: str) -> CommitStatus:
        found = self.store.data.zones.get(zone)
        kept = dict(found.log) if found is not None else {}
        status = await real(self, zone, generation, epoch, tick, digest)
        if found is not None:
            found.log.update(kept)
        return status

    return [(MemoryLedger, "flip_checkpoint", flip_checkpoint)]


@mutant("reconnect_storm", "second_device")
def two_joins() -> list[Patch]:
    """A login sends a player into the world who is in it already."""
    real = MemoryLedger.enter

    async def enter(self: MemoryLedger, request: EnterRequest) -> EnterAnswer:
        record = self.store.data.players.get(request.player)
        if record is not None and record.place != LOBBY and not request.resume_presented:
            record.place = LOBBY
        return await real(self, request)

    return [(MemoryLedger, "enter", enter)]


@mutant("reconnect_storm", "second_device", "drain_shard")
def presence_stays_behind() -> list[Patch]:
    """A player who crosses a border is still told to be in the zone that it left."""
    real = model._move

    def move(store: MemoryStore, mover: Any, zone: int) -> None:
        place = mover.record.place
        real(store, mover, zone)
        if mover.transfer.target != LOBBY:
            mover.record.place = place

    return [(model, "_move", move)]


# --- the shard ----------------------------------------------------------------------------------------------------


@mutant()
def release_before_commit() -> list[Patch]:
    """Frames leave when they are encoded, whatever the ledger says later."""
    real = TickLoop._in_threads

    async def in_threads(self: TickLoop, function: Any, zones: list[Zone], executor: Any, cost_s: Any) -> list[Any]:
        done = await real(self, function, zones, executor, cost_s)
        if function.__name__ == "_encode":
            for (frames, _), _ in done:
                for gateway, frame in frames:
                    self._links.send(gateway, frame)
        return done

    return [(TickLoop, "_in_threads", in_threads)]


@mutant("lost_replies")
def resend_recomputed() -> list[Patch]:
    """A commit without an answer is not sent again as it was, but made anew."""

    async def until_answered(self: Committing, going: OnTheirWay) -> list[CommitAnswer]:
        commits = going.commits
        zones: dict[int, Zone] = self._notify.__self__.zones  # type: ignore[attr-defined]  # it is a method of the tick loop
        while True:
            try:
                first, going.sent = going.sent, None
                answers = await (first.answers() if first is not None else self._ledger.commit(commits))
                self._arrived(going)
                return answers
            except (LedgerUnavailable, LedgerRefused):
                anew = []
                for one in commits:
                    record = bytearray(one.record)
                    record[36] ^= 1  # in the build stamp: the same tick, made again, by other code
                    digest = chain_digest(one.previous, bytes(record))
                    zones[one.zone].digest = digest
                    anew.append(dataclasses.replace(one, record=bytes(record), digest=digest))
                commits = anew

    return [(Committing, "_until_answered", until_answered)]


@mutant("drain_shard", "scale", seed=7)
def fenced_ignored() -> list[Patch]:
    """An owner that is told of a newer one shows its players the tick all the same."""
    real = TickLoop._answered

    def answered(self: TickLoop, zone: Zone, answer: CommitAnswer) -> bool:
        return real(self, zone, answer) or answer.status is CommitStatus.FENCED

    return [(TickLoop, "_answered", answered)]


@mutant(seed=3)
def takeover_without_the_tail() -> list[Patch]:
    """A new owner takes the zone as the checkpoint has it."""

    async def take_over(follower: Any, generation: int, epoch: int) -> Zone:
        zone: Zone = follower.zone if follower.zone is not None else await follower.load()
        zone.recovered(generation, epoch)
        return zone

    return [(shard.recovery, "take_over", take_over), (shard.service, "take_over", take_over)]


@mutant(seed=6)
def checkpoint_without_its_page() -> list[Patch]:
    """A checkpoint does not hold the inbox page that the next tick applies."""
    real = Zone.checkpoint

    def checkpoint(self: Zone) -> bytes:
        page, self.page = self.page, ()
        try:
            return real(self)
        finally:
            self.page = page

    return [(Zone, "checkpoint", checkpoint)]


@mutant("corrupt_checkpoint", "kill_shard")
def damaged_checkpoints_are_taken() -> list[Patch]:
    """A new owner does not compare a checkpoint with its digest, and dies of what it finds."""

    real = shard.recovery.Follower.load

    async def load(self: Any) -> Zone:
        head = await self._ledger.zone_head(self.number)
        if not head.checkpoints:
            return await real(self)
        zone = Zone(self._program, self.number, self._grid, self._seed)
        blob = await self._ledger.read_checkpoint(self.number, head.checkpoints[0][0])
        zone.restore(blob or b"")
        self.zone = zone
        return zone

    return [(shard.recovery.Follower, "load", load)]


@mutant("log_bit_flip")
def chain_not_checked_at_replay() -> list[Patch]:
    """A record is run whether or not it is the one that was committed: only the state that it gives is compared."""

    def replay(self: Any, zone: Zone, records: list[LoggedRecord]) -> None:
        for logged in records:
            zone.replay(logged.record, logged.page)
            zone.digest = logged.digest

    return [(shard.recovery.Follower, "_replay", replay)]


@mutant("log_gap")
def missing_records_not_noticed() -> list[Patch]:
    """A new owner takes the zone where its log ends, whatever was committed behind; what is missing in the middle ends it too. And the
    ledger, which would not have it, lets it put back another tick of the number of the last one."""
    not_next, reseed = model._not_next, MemoryLedger.reseed

    def no_fence(store: MemoryStore, zone: Any, head: Any, commit: Commit) -> CommitAnswer:
        answer = not_next(store, zone, head, commit)
        another = answer.status is CommitStatus.FENCED and "another process" in answer.detail
        return dataclasses.replace(answer, status=CommitStatus.GAP) if another else answer

    async def overwrites(self: MemoryLedger, seed: Reseed) -> Any:
        head = self.store.data.zones[seed.zone].head if seed.zone in self.store.data.zones else None
        if head is not None and (head.generation, head.epoch, head.tick) == (seed.generation, seed.epoch, seed.tick):
            head.digest = seed.digest
        return await reseed(self, seed)

    async def take_over(follower: Any, generation: int, epoch: int) -> Zone:
        try:
            zone = await follower.catch_up()
        except ZoneError:
            zone = await follower.load()
        zone.recovered(generation, epoch)
        return zone

    return [
        (shard.recovery, "take_over", take_over), (shard.service, "take_over", take_over),
        (model, "_not_next", no_fence), (MemoryLedger, "reseed", overwrites),
    ]  # fmt: skip


@mutant("second_device")
def commands_of_any_session() -> list[Patch]:
    """A zone applies what an older session of the player has sent."""
    real = Zone.add_commands

    def add_commands(self: Zone, rows: Any) -> bool:
        rows = rows.copy()
        sessions = {int(p["key"]): int(p["session"]) for p in self.players}
        for row in rows:
            session = sessions.get(int.from_bytes(row[:8].tobytes(), "little", signed=True), 0)
            row[12:14] = np.frombuffer((session & 0xFFFF).to_bytes(2, "little"), np.uint8)
        return real(self, rows)

    return [(Zone, "add_commands", add_commands)]


@mutant("crowd", "reconnect_storm", "gateway_change", seed=7)
def entries_behind_a_refused_arrival_are_dropped() -> list[Patch]:
    """Who finds no room in a full zone goes back as it came, whatever the entries behind its arrival have said since."""
    real = Zone._transfer

    def transfer(self: Zone, out: tuple[int, ...], index: int) -> Transfer:
        kind, entry_index = out[0], out[-1]
        entry = unpack_entry(self._entries[entry_index]) if kind == layout.OUT_REFUSED else None
        if entry is None or entry.kind is not EntryKind.ARRIVE or not entry.player:
            return real(self, out, index)
        back = dataclasses.replace(entry, hop=entry.hop + 1, origin=self.zone)
        return Transfer(entry.origin, entry.player, back.pack())

    return [(Zone, "_transfer", transfer)]


@mutant("upgrade", "drain_shard")
def handover_without_checkpoint() -> list[Patch]:
    """A shard of another build gets a zone without its owner's last checkpoint, and replays with its own rules what comes behind one."""

    def replay(self: Any, zone: Zone, records: list[LoggedRecord]) -> None:
        for logged in records:
            try:
                zone.replay(logged.record, logged.page)
            except ZoneError:
                zone.digest, zone.page = logged.digest, logged.page

    return [(Survey, "crosses", lambda self, route: False), (shard.recovery.Follower, "_replay", replay)]


@mutant("slow_host", "kill_shard")
def acknowledged_before_applied() -> list[Patch]:
    """Frames acknowledge what waits for the next tick."""
    real = Zone.encode

    def encode(self: Zone) -> list[tuple[int, bytes]]:
        players, queued = self.players, self.queued()
        kept = players["last_seq"].copy()
        for row in queued:
            seq, key = int.from_bytes(row[8:12].tobytes(), "little"), int.from_bytes(row[:8].tobytes(), "little", signed=True)
            at = players["key"] == key
            players["last_seq"][at] = np.maximum(players["last_seq"][at], seq)
        try:
            return real(self)
        finally:
            players["last_seq"] = kept

    return [(Zone, "encode", encode)]


@mutant("clock_jump", seed=2)
def lease_by_wall_clock() -> list[Patch]:
    """The coordinator counts the silence of members by a clock that people set."""
    return [(Steering, "now_ms", lambda self: time.time() * 1000.0)]


# --- the gateway and the client -----------------------------------------------------------------------------------


@mutant("slow_host", "drain_shard", seed=12)
def stale_frames_accepted() -> list[Patch]:
    """Frames of an owner of before are shown."""
    real = Session.reroute

    def reroute(self: Session, route: Route, hop: int, ack: int, flags: int) -> bool:
        if self.route is not None and hop == self.hop and route.stamp < self.route.stamp:
            return True
        return real(self, route, hop, ack, flags)

    def any_route(self: Fanout, link: Any, zone: int, generation: int, epoch: int, tick: int) -> Route:
        route = self.routes.get(zone)
        if route is None or (route.link, route.generation, route.epoch) != (link, generation, epoch):
            route = self.routes[zone] = Route(link, zone, generation, epoch, tick)
        route.tick = tick
        return route

    return [(Session, "reroute", reroute), (Fanout, "_route", any_route)]


@mutant("kill_shard")
def pending_not_sent_again() -> list[Patch]:
    """A new owner does not get the commands that the one before had not applied."""
    real = Session.reroute

    def reroute(self: Session, route: Route, hop: int, ack: int, flags: int) -> bool:
        kept = list(self.pending)
        self.pending.clear()
        try:
            return real(self, route, hop, ack, flags)
        finally:
            self.pending.extend(kept)

    return [(Session, "reroute", reroute)]


@mutant()
def sent_is_acknowledged() -> list[Patch]:
    """The client takes every number up to the newest that it has sent for applied, once anything is acknowledged."""
    real = ClientProtocol._snapshot

    def snapshot(self: ClientProtocol, message: list[Any]) -> Any:
        if self._synchronised and self._pending:
            message[5] = max(message[5], self._pending[-1].seq) if isinstance(message[5], int) else message[5]
        return real(self, message)

    return [(ClientProtocol, "_snapshot", snapshot)]


@mutant("second_device", "kill_gateway", "reset", seed=3)
def another_sessions_acknowledgements() -> list[Patch]:
    """The client takes what another session of its player was acknowledged for its own."""
    return [(ClientProtocol, "_begin_anew", lambda self, ack: None)]


@mutant("cut_off")
def numbers_begin_anew_after_the_lobby() -> list[Patch]:
    """Who comes in from the lobby counts commands from 1, and a client numbers anew what it cannot find acknowledged."""

    def forgotten(self: ClientProtocol, ack: int) -> None:
        self.acked = ack

    return [*_joins_with_0(), (ClientProtocol, "_forgotten", forgotten)]


@mutant("cut_off")
def a_join_carries_no_number() -> list[Patch]:
    """Who comes in from the lobby counts commands from 1; clients see that what they were told is forgotten, and send nothing again."""
    return _joins_with_0()


def _joins_with_0() -> list[Patch]:
    real = MemoryLedger.enter

    async def enter(self: MemoryLedger, request: EnterRequest) -> EnterAnswer:
        record = self.store.data.players.get(request.player)
        if record is not None:
            record.seq = 0
        return await real(self, request)

    return [(MemoryLedger, "enter", enter)]


@mutant("half_close", "kill_shard", seed=1)
def a_half_closed_socket_stays() -> list[Patch]:
    """A client that says that it sends nothing more, and reads nothing, keeps its session until its last snapshot is out."""
    return [(GameConnection, "eof_received", ServerConnection.eof_received), (GameConnection, "write", _plain_write)]


def _plain_write(self: GameConnection, data: bytes) -> None:
    self.transport.write(data)


def search(seeds: int, first: int = 1, jobs: int = 0) -> dict[str, tuple[int, str]]:
    """Look for every mutant in up to `seeds` seeds; return name -> (seeds that it took, the violation), 0 seeds where it lives.

    What no seed shows by its own choice of faults is looked for in as many seeds with those that bring it about; that is said.
    """
    for capacity in (ROOMY, TIGHT):
        next_program(capacity)
    found: dict[str, tuple[int, str]] = {}
    work = [(name, first, seeds) for name in sorted(MUTANTS)]
    context = multiprocessing.get_context("fork")
    with Progress(console=Console(stderr=True), transient=True) as progress, context.Pool(jobs or os.cpu_count() or 1) as pool:
        task = progress.add_task("mutants", total=len(work))
        for name, count, kinds, violation in pool.imap_unordered(_search_one, work):
            found[name] = count, violation
            progress.update(task, advance=1)
            by = f"seed {first + count - 1}" + (f" of {', '.join(kinds)}" if kinds else "")
            progress.console.print(f"{name}: " + (f"found by {by}: {violation}" if count else "NOT FOUND"), markup=False)
    return found


def _search_one(work: tuple[str, int, int]) -> tuple[str, int, tuple[str, ...], str]:
    name, first, seeds = work
    asked = bool((ASKED_FOR | TIGHTLY).intersection(KINDS[name]))  # for faults that no seed, or one in ten, chooses by itself
    for kinds in [*([] if asked else [()]), *([KINDS[name]] if KINDS[name] else [])]:
        outcome = find(name, range(first, first + seeds), kinds=kinds)
        if outcome is not None:
            return name, outcome.seed - first + 1, kinds, outcome.violations[0]
    return name, 0, (), ""


for _more in ("mutants_borders", "mutants_effects", "mutants_forgetting", "mutants_pace"):
    import_module(f"tests.simulation.{_more}")  # which adds its own to MUTANTS
