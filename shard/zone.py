"""Zone: one zone's state and its tick, a deterministic function of its log. No I/O, no clock, no asyncio.

The owner (shard.tick_loop) feeds commands and committed inbox pages, calls `step`, commits what comes out, then calls
`committed` and releases what `encode` made. Recovery (shard.recovery) feeds records instead. Lifecycle: see TRANSITIONS.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from zlib import crc32

import msgpack
import numpy as np
import numpy.typing as npt

from perdure.game.contract import effect_dtype, row_dtype
from perdure.game.portable import pack_rows, unpack_rows
from perdure.ledger.record import GENESIS_DIGEST, Record, RecordKind, chain_digest, unpack_record
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, PlayerInZone, Transfer
from perdure.wire.entries import ENTRY_HEADER, ENTRY_STRUCT, Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY, WorldGrid
from perdure.wire.link import RELEASE_STRUCT, LinkType, pack_frame
from shard.border import Border, Feed
from shard.kernels import layout
from shard.pace import RUNGS, Rung
from shard.passages import Passages
from shard.program import Program, effect_parts, encoder_arrays, table_parts, with_arrays, words_of, zone_arrays
from shard.proposals import pack_proposals, propose, unpack_proposals

PENDING_PER_PLAYER = 64
CHECKPOINT_MAGIC = b"PRDC\x02"
"""Then the CRC-32 of the rest (4 bytes, little endian), then the image as msgpack."""


class Phase(StrEnum):
    """Where a zone stands between its ticks."""

    RECOVERING = "recovering"  # records are replayed
    READY = "ready"  # the last tick is committed; the next one may be stepped
    HELD = "held"  # as READY, but no tick is stepped: a shard of another build is to go on from its checkpoint
    COMMITTING = "committing"  # stepped, not yet committed: nothing of it may leave
    FROZEN = "frozen"  # the ledger went back in time: nothing moves until the zone is reseeded
    DROPPED = "dropped"  # another owner has it, or it is broken


TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.RECOVERING, "recovered"): Phase.READY,
    (Phase.READY, "step"): Phase.COMMITTING,
    (Phase.READY, "hold"): Phase.HELD,
    (Phase.HELD, "go on"): Phase.READY,
    (Phase.COMMITTING, CommitStatus.OK): Phase.READY,
    (Phase.COMMITTING, CommitStatus.FENCED): Phase.DROPPED,
    (Phase.COMMITTING, CommitStatus.BROKEN): Phase.DROPPED,
    (Phase.COMMITTING, CommitStatus.GAP): Phase.FROZEN,
    (Phase.FROZEN, "reseeded"): Phase.READY,
    **{(phase, "drop"): Phase.DROPPED for phase in Phase},
}


class ZoneError(Exception):
    """A zone cannot go on; the message says at which tick, why, and what to do."""


class Zone:
    """One zone. Not thread-safe: one thread at a time may step or encode it; commands are added between ticks."""

    def __init__(self, program: Program, zone: int, grid: WorldGrid, seed: int) -> None:
        game = program.game
        if (grid.width, grid.height) != game.world_size:
            raise ZoneError(f"the grid is {grid.width}x{grid.height} but the game's world is {game.world_size}")
        self.program, self.zone, self.grid, self.seed = program, zone, grid, seed
        self.phase = Phase.RECOVERING
        self.image_build = 0
        self.generation, self.epoch = 1, 0
        self.digest, self.state_hash = GENESIS_DIGEST, 0
        self.page: tuple[bytes, ...] = ()
        self.arrays = zone_arrays(program)
        self.encoder: Any = None
        self.pace: Rung = RUNGS[0]
        self._ticks_unsent = self._ticks_far = 0
        self.encoded = True
        self.bad_entries = 0
        self.compare_across = False
        """See that @game.across writes nothing (in development: it costs a copy of the tables)."""
        self.across_fault = ""
        self.proposes_from = 0
        """First tick for which proposals are asked for: whose rules have just failed goes on without for a while, in case it was on one."""
        self._owed: tuple[Transfer, ...] = ()
        self._sent: tuple[Transfer, ...] = ()
        self.passages = Passages()
        self._copies: dict[int, int] = {}
        self._count: int | None = None
        self.is_watched = self._comes_or_goes = True
        self.border = Border(program, zone, grid)
        self._avatar = next(i for i, e in enumerate(game.entities) if e.options["avatar"])
        capacity = self._most_avatars = game.entities[self._avatar].options["capacity"]
        self._pending = np.zeros((0, self.arrays.commands.shape[1]), np.uint8)
        self._pending_limit = PENDING_PER_PLAYER * capacity
        self._pending_count = 0
        self._best = np.zeros(capacity, np.int32)
        self._entries: list[bytes] = []
        self._entries_kept: list[int] = []
        self._fill_constants(grid)

    def _fill_constants(self, grid: WorldGrid) -> None:
        game, meta, floats = self.program.game, self.arrays.meta, self.arrays.floats
        meta[layout.META_ZONE], meta[layout.META_SEED] = self.zone, self.seed
        meta[layout.META_GRACE_TICKS] = game.grace_ticks
        meta[layout.META_COLUMNS], meta[layout.META_ROWS] = grid.columns, grid.rows
        meta[layout.META_ID_BASE] = self.zone << 32
        x0, y0, x1, y1 = grid.bounds(self.zone)
        floats[layout.FLOAT_DT] = 1.0 / game.tick_hz
        floats[layout.FLOAT_X0], floats[layout.FLOAT_Y0] = x0, y0
        floats[layout.FLOAT_X1], floats[layout.FLOAT_Y1] = x1, y1
        floats[layout.FLOAT_WIDTH], floats[layout.FLOAT_HEIGHT] = game.world_size
        floats[layout.FLOAT_HYSTERESIS], floats[layout.FLOAT_INTEREST] = game.hysteresis, game.interest

    # --- reading --------------------------------------------------------------------------------------------------
    @property
    def tick(self) -> int:
        """Number of the last tick that was stepped (0: none)."""
        return int(self.arrays.meta[layout.META_TICK])

    @property
    def players(self) -> npt.NDArray[Any]:
        """The player table's used part (dtype layout.PLAYER); rows with key 0 are free."""
        return np.asarray(self.arrays.players[: self.arrays.meta[layout.META_PLAYERS_HIGH]])

    def is_full(self) -> bool:
        """Is there no row for one more avatar?"""
        return bool(self.arrays.meta[layout.META_TABLE_ROWS + self._avatar] >= self._most_avatars)

    def player_count(self) -> int:
        """Return how many players are here. What is counted while a tick is stepped is not kept: only who steps knows when that is over."""
        return self._counted() if self._count is None else self._count

    def _counted(self) -> int:
        players = self.players
        return int(np.count_nonzero((players["key"] != 0) & (players["departed"] == 0)))

    def rows(self, name: str) -> npt.NDArray[Any]:
        """Return the owned rows of a table (a view; dtype contract.row_dtype)."""
        index = [e.name for e in self.program.game.entities].index(name)
        return np.asarray(getattr(self.arrays, f"{name}_rows")[: self.arrays.meta[layout.META_TABLE_ROWS + index]])

    def avatars(self) -> npt.NDArray[Any]:
        """Return the owned rows of the avatars' table (a view)."""
        return self.rows(self.program.game.entities[self._avatar].name)

    @property
    def totals(self) -> npt.NDArray[Any]:
        """The totals row, as an array of one."""
        return np.asarray(self.arrays.totals)

    def commanding(self) -> list[int]:
        """Return the keys of the players who had a command in the last step."""
        rows = np.ascontiguousarray(self.arrays.commands[: self.arrays.meta[layout.META_COMMANDS], :8])
        return rows.view("<i8").ravel().tolist()

    # --- lifecycle ------------------------------------------------------------------------------------------------
    def _move(self, event: str) -> None:
        target = TRANSITIONS.get((self.phase, event))
        if target is None:
            raise ZoneError(f"zone {self.zone} at tick {self.tick}: {str(event)!r} is not possible while {self.phase}")
        self.phase = target

    def _must_be(self, phase: Phase, event: str) -> None:
        if self.phase is not phase:
            raise ZoneError(f"zone {self.zone} at tick {self.tick}: {event!r} is not possible while {self.phase}")

    def recovered(self, generation: int, epoch: int) -> None:
        """The log is replayed to its end: this owner runs on, at (generation, epoch)."""
        self._move("recovered")
        self.generation, self.epoch = generation, epoch

    def drop(self) -> None:
        """Another owner has the zone."""
        self._move("drop")

    def hold(self) -> None:
        """Stand still after the last committed tick, so that its checkpoint is where the log ends."""
        self._move("hold")

    def go_on(self) -> None:
        """Nobody has taken the zone over: tick on."""
        self._move("go on")

    # --- inputs ---------------------------------------------------------------------------------------------------
    def add_commands(self, rows: npt.NDArray[np.uint8]) -> bool:
        """Queue validated command rows (uint8[n, row bytes]); False where the queue is full, and holds the first of them alone.

        The caller ends the link that they came by, so that its gateway sends again in order.
        """
        fits = len(rows) <= self._pending_limit - self._pending_count
        rows = rows[: self._pending_limit - self._pending_count]
        count = self._pending_count + len(rows)
        if count > len(self._pending):
            grown = np.zeros((min(max(2 * count, 256), self._pending_limit), self._pending.shape[1]), np.uint8)
            grown[: self._pending_count] = self._pending[: self._pending_count]
            self._pending = grown
        self._pending[self._pending_count : count] = rows
        self._pending_count = count
        return fits

    def queued(self) -> npt.NDArray[np.uint8]:
        """Return the rows that wait for a tick."""
        return self._pending[: self._pending_count]

    def force_keyframe(self, players: Sequence[int]) -> None:
        """Send these players (by key) a full snapshot next."""
        wanted = np.isin(self.players["key"], np.array(players, np.int64))
        if not wanted.any():
            return  # they are on their way, or gone
        self._encoder().sights["force"][: len(wanted)][wanted] = 1

    def force_keyframes_of(self, gateway: int) -> None:
        """Send every player of a gateway a full snapshot next (its link is new)."""
        wanted = self.players["gateway"] == gateway
        self._encoder().sights["force"][: len(wanted)][wanted] = 1

    # --- the tick -------------------------------------------------------------------------------------------------
    def step(self) -> Commit:
        """Run one tick on the queued commands and the committed page; return what must be committed for it."""
        self._move("step")
        if self.program.across is not None and self.tick >= self.proposes_from:
            self.across_fault = propose(self.program, self.arrays, compare=self.compare_across)
        effects = pack_proposals(self.program, self.arrays)
        chosen = 0
        if self._pending_count:
            chosen, self._pending_count = self.program.gather_commands(self.arrays, self._pending, self._pending_count, self._best)
        commands = self.arrays.commands[:chosen].tobytes()
        self.arrays.meta[layout.META_COMMANDS] = chosen
        self._run()
        record = Record(
            RecordKind.TICK, self.zone, self.generation, self.epoch, self.tick, self.state_hash, self.program.build,
            self.arrays.commands.shape[1], chosen, commands, effects,
        ).pack()  # fmt: skip
        previous, self.digest = self.digest, chain_digest(self.digest, record)
        sent = self._transfers()
        self.passages.leave(self.tick, sent)
        self._sent = self._owed + sent
        return Commit(self.zone, self.generation, self.epoch, self.tick, previous, self.digest, record, self._sent)

    def try_tick(self, rows: npt.NDArray[np.uint8]) -> None:
        """Run the next tick with these commands, and keep nothing of it; the caller puts `arrays` back. Raises what the rules raise."""
        self._must_be(Phase.READY, "try a tick")
        kept, taken = (self.page, self.state_hash, self._entries, self.bad_entries), self.passages.taken()
        try:
            self.arrays.commands[: len(rows)] = rows
            self.arrays.meta[layout.META_COMMANDS] = len(rows)
            self._run()
            self._transfers()
        finally:
            self.page, self.state_hash, self._entries, self.bad_entries = kept
            self._count = None
            self.passages.take_back(taken)

    def committed(self, answer: CommitAnswer) -> None:
        """Take the ledger's answer to the last `step`."""
        self._move(answer.status)
        if answer.status is CommitStatus.OK:
            self.page = answer.page
            self._owed = ()

    def reseeded(self, generation: int, epoch: int) -> None:
        """The zone was restored in the ledger out of this memory; what the refused tick sent away goes with the next one."""
        self._move("reseeded")
        self.generation, self.epoch = generation, epoch
        self._owed = self._sent
        self.border.tell_anew()  # the refused tick's feeds were never released
        self.encoder = None  # the refused tick's frames were never released: everyone gets a full snapshot

    def replay(self, data: bytes, page: tuple[bytes, ...]) -> None:
        """Run a logged record again; `page` is what its commit returned, for the tick after. Raises ZoneError on any difference."""
        self._must_be(Phase.RECOVERING, "replay")
        record = unpack_record(data)
        if record.tick != self.tick + 1:
            raise ZoneError(f"zone {self.zone}: the log goes from tick {self.tick} to {record.tick}; a record is missing")
        if record.row_bytes != self.arrays.commands.shape[1]:
            raise ZoneError(f"zone {self.zone} tick {record.tick}: its commands have {record.row_bytes} bytes each; this build's have "
                            f"{self.arrays.commands.shape[1]}: replay with the build that wrote it ({record.build:016x})")  # fmt: skip
        rows = np.frombuffer(record.commands, np.uint8).reshape(record.rows, record.row_bytes)
        self.arrays.commands[: record.rows] = rows
        self.arrays.meta[layout.META_COMMANDS] = record.rows
        try:
            unpack_proposals(self.program, self.arrays, record.effects)
        except ValueError as error:
            raise ZoneError(
                f"zone {self.zone} tick {record.tick}: {error}: replay with the build that wrote it ({record.build:016x})"
            ) from error
        self.generation = record.generation
        self._run()
        if self.state_hash != record.state_hash:
            raise ZoneError(
                f"zone {self.zone} tick {record.tick}: replay gives state {self.state_hash:016x}, the log says {record.state_hash:016x}; "
                f"the record was written by build {record.build:016x}, this is {self.program.build:016x}"
            )
        self.passages.leave(self.tick, self._transfers())
        self.digest = chain_digest(self.digest, data)
        self.page = page
        self._owed = ()  # this record's commit took along what a checkpoint between a refused tick and it still owed

    def _run(self) -> None:
        self._read_page()
        count, self._count = self._count, None
        self.state_hash = int(self.program.step(self.arrays))
        self.page = ()
        # Nobody comes in, or goes, but by an entry or a transfer; who goes is in the table until the tick after.
        before, meta = self._comes_or_goes, self.arrays.meta
        self._comes_or_goes = bool(meta[layout.META_INPUTS] or meta[layout.META_OUT])
        if count is None or before or self._comes_or_goes:
            count, self.is_watched = self._counted(), bool(self.players["gateway"].any())
        self._count = count

    def _read_page(self) -> None:
        """Decode the inbox page into input rows and arrivals; an entry that cannot be read is counted and has no effect."""
        if not self.page:
            self._entries, self.arrays.meta[layout.META_INPUTS] = [], 0
            return
        inputs, entities, count = self.arrays.inputs, self.program.game.entities, 0
        self._entries, arrivals = [], dict.fromkeys(range(len(entities)), 0)
        effects = dict.fromkeys(range(len(self.program.game.effects)), 0)
        elsewhere = self._elsewhere()
        for data in self.page:
            try:
                entry = unpack_entry(data)
                if entry.kind in (EntryKind.JOIN, EntryKind.ARRIVE, EntryKind.EFFECT) and (
                    self.passages.is_known(entry) or (entry.player and entry.hop <= elsewhere.get(entry.player, -1))
                ):
                    continue
                told = entry.kind
                if told is EntryKind.MOVED:
                    if not self._has_moved_less(entry):
                        continue
                    told = EntryKind.KICK  # its row goes to the lobby; the ledger has the player further on, and passes it over
                    self._copies[entry.player] = entry.hop
                kind = self._avatar if entry.kind is EntryKind.JOIN else entry.type
                arrival = -1
                if entry.payload and entry.kind in (EntryKind.JOIN, EntryKind.ARRIVE):
                    entity = entities[kind]
                    row = unpack_rows(entry.payload, row_dtype(entity))
                    arrival = arrivals[kind]
                    at = table_parts(entity)[2] + arrival
                    getattr(self.arrays, f"{entity.name}_words")[at] = words_of(np.ascontiguousarray(row[:1]))[0]
                    arrivals[kind] += 1
                elif entry.kind is EntryKind.EFFECT:
                    arrival = effects[entry.type]
                    self._read_effect(entry, arrival)
                    effects[entry.type] += 1
                elif entry.kind is EntryKind.ARRIVE:
                    raise ValueError("it brings no row")
            except (ValueError, IndexError, KeyError):
                self.bad_entries += 1
                continue
            inputs[count] = (
                entry.player, told, kind, entry.session, entry.gateway, entry.slot, entry.hop, entry.last_seq, arrival,
                entry.origin, 0,
            )  # fmt: skip
            self._entries.append(data)
            count += 1
        self.arrays.meta[layout.META_INPUTS] = count

    def _read_effect(self, entry: Entry, arrival: int) -> None:
        effect = self.program.game.effects[entry.type]
        row = np.ascontiguousarray(unpack_rows(entry.payload, effect_dtype(effect))[:1])
        getattr(self.arrays, f"{effect.name}_effects_words")[effect_parts(effect).proposed + arrival] = words_of(row)[0]

    def _elsewhere(self) -> dict[int, int]:
        """Return who is elsewhere by the word of this page, and since which move: a copy that comes with the same page is none too."""
        moved = [unpack_entry(data) for data in self.page if data[:1] == bytes((EntryKind.MOVED,)) and len(data) >= ENTRY_HEADER]
        return {entry.player: entry.hop for entry in moved}

    def _has_moved_less(self, entry: Entry) -> bool:
        here = self.players
        return bool(np.any((here["key"] == entry.player) & (here["departed"] == 0) & (here["hop"] <= entry.hop)))

    def _transfers(self) -> tuple[Transfer, ...]:
        """Return what the last tick sends away, as transfers."""
        count = int(self.arrays.meta[layout.META_OUT])
        if not count:
            return ()
        return tuple(self._transfer(out, index) for index, out in enumerate(np.asarray(self.arrays.out[:count]).tolist()))

    def _transfer(self, out: tuple[int, ...], index: int) -> Transfer:
        kind, target, table, row, place, entry_index = out
        if kind == layout.OUT_REFUSED:
            entry = unpack_entry(self._entries[entry_index])
            if not entry.player:
                return self._stamped(target, index, entry.kind, entry.type, entry.payload)
            session, gateway, slot, arrival = self.arrays.inputs[entry_index][["session", "gateway", "slot", "arrival"]].item()
            payload = self._arrived(table, arrival) if entry.kind is EntryKind.ARRIVE else entry.payload
            if target == LOBBY:
                back = Entry(EntryKind.LEAVE, entry.player, session, hop=entry.hop + 1, last_seq=entry.last_seq, origin=self.zone,
                             payload=payload)  # fmt: skip
            else:
                back = Entry(entry.kind, entry.player, session, gateway, slot, entry.hop + 1, entry.last_seq, entry.type,
                             self.zone, payload)  # fmt: skip
            return Transfer(target, entry.player, back.pack())
        if kind == layout.OUT_EFFECT:
            rows = getattr(self.arrays, f"{self.program.game.effects[table].name}_effects")
            return self._stamped(target, index, EntryKind.EFFECT, table, pack_rows(np.asarray(rows[row : row + 1])))
        entity = self.program.game.entities[table]
        payload = pack_rows(np.asarray(getattr(self.arrays, f"{entity.name}_rows")[row : row + 1]))
        if place < 0:
            return self._stamped(target, index, EntryKind.ARRIVE, table, payload)
        key, session, gateway, slot, hop, last_seq, *_ = self.players[place].tolist()
        if kind == layout.OUT_LOBBY:
            # A copy goes by a number that the record has reached: it is no move of the player's.
            number = hop + 1 if self.players[place]["leaving"] != layout.LEAVING_COPY else self._copies.pop(key, hop)
            header = ENTRY_STRUCT.pack(EntryKind.LEAVE, table, self.zone, session, key, 0, 0, number, last_seq)
            return Transfer(LOBBY, key, header + payload)
        header = ENTRY_STRUCT.pack(EntryKind.ARRIVE, table, self.zone, session, key, gateway, slot, hop + 1, last_seq)
        assert len(header) == ENTRY_HEADER
        return Transfer(target, key, header + payload)

    def _arrived(self, table: int, arrival: int) -> bytes:
        """Return the row of one who arrived and found no room, as the hooks have left it."""
        entity = self.program.game.entities[table]
        at = table_parts(entity)[2] + arrival
        return pack_rows(np.asarray(getattr(self.arrays, f"{entity.name}_rows")[at : at + 1]))

    def _stamped(self, target: int, index: int, kind: EntryKind, table: int, payload: bytes) -> Transfer:
        """Return the crossing of an entity without a player, or an effect, with a stamp (passages.stamp_of) that says which it is."""
        entry = Entry(kind, 0, self.tick & 0xFFFFFFFF, self.generation, index, type=table, origin=self.zone, payload=payload)
        return Transfer(target, 0, entry.pack())

    def in_zone(self) -> tuple[PlayerInZone, ...]:
        """Return who is here for a ledger that forgot it: those in the table, and those whom a refused tick sent away."""
        here = self.players[["key", "session", "gateway", "slot", "hop"]][(self.players["key"] != 0) & (self.players["departed"] == 0)]
        found = [PlayerInZone(*row) for row in here.tolist()]
        for transfer in self._sent if self.phase is Phase.FROZEN else self._owed:
            if transfer.player:
                entry = unpack_entry(transfer.entry)
                found.append(PlayerInZone(entry.player, entry.session, entry.gateway, entry.slot, entry.hop - 1))
        return tuple(found)

    def highest_move(self) -> int:
        """Return the highest number of moves that this zone remembers of anybody."""
        here = self.players["hop"][self.players["key"] != 0]
        return max(int(here.max(initial=0)), self.passages.highest_move())

    # --- what clients are sent ------------------------------------------------------------------------------------
    def _encoder(self) -> Any:
        if self.encoder is None:
            x0, y0, x1, y1 = self.grid.bounds(self.zone)
            self.encoder = encoder_arrays(self.program, x1 - x0, y1 - y0)
        return self.encoder

    def encode(self) -> list[tuple[int, bytes]]:
        """Make the frames of the last tick: (gateway number, RELEASE link frame) per gateway. Release after commit only.

        None, and `encoded` is False, where this tick has no snapshot (`pace`): the next one tells what happened in it. A tick in which
        somebody leaves the zone always has one, since it is the leaver's last.
        """
        e = self._encoder()
        self._ticks_unsent += 1
        if self._ticks_unsent < self.pace.snapshot_every and not np.any(self.players["departed"]):
            self.program.keep_events(self.arrays, e)
            self.encoded = False
            return []
        self.encoded = True
        state = e.state
        if not self.is_watched:
            self._ticks_unsent, state[layout.ENC_EVENTS_KEPT] = 0, 0
            return []  # nobody looks
        self._ticks_far += self._ticks_unsent
        whole = self._ticks_far >= self.pace.far_every
        state[layout.ENC_BASELINE], state[layout.ENC_EPOCH] = whole, self.epoch
        self.program.encode(self.arrays, e)
        while state[layout.ENC_NEXT_VIEWER] < state[layout.ENC_VIEWERS]:
            grown = np.zeros(2 * len(e.out), np.uint8)
            grown[: len(e.out)] = e.out
            e = self.encoder = with_arrays(e, out=grown)
            self.program.more_frames(self.arrays, e)
        self._ticks_unsent = 0
        if whole:
            self._ticks_far = 0
        frames, tick, made = [], self.tick, memoryview(e.out)
        for gateway, first, count, start, end in np.asarray(e.groups[: state[layout.ENC_GROUPS]]).tolist():
            head = RELEASE_STRUCT.pack(self.zone, 0, self.epoch, tick, self.generation, count, end - start)
            frames.append((gateway, pack_frame(LinkType.RELEASE, head, e.entries[first : first + count].tobytes(), made[start:end])))
        return frames

    # --- what neighbours see, and what is seen of them --------------------------------------------------------------
    def fill_ghosts(self) -> None:
        """Fill the ghost rows with what neighbours told, before a tick. They are no part of the state: `step` does not see them."""
        self.border.fill(self.arrays)

    def publish(self, interval_s: float) -> list[Feed]:
        """Return what the last tick has for neighbours. Release after commit only. interval_s: how long until the next tick's."""
        return self.border.publish(self.arrays, self.generation, self.epoch, interval_s)

    # --- the durable image ----------------------------------------------------------------------------------------
    def _sections(self) -> dict[str, npt.NDArray[Any]]:
        meta = self.arrays.meta
        sections = {"players": self.players, "totals": self.totals}
        for index, entity in enumerate(self.program.game.entities):
            rows = getattr(self.arrays, f"{entity.name}_rows")
            sections[f"rows:{entity.name}"] = np.asarray(rows[: meta[layout.META_TABLE_ROWS + index]])
        if self.program.game.effects:
            noted = int(self.arrays.counters[layout.COUNTER_DEPARTURES])
            sections["departures"] = np.asarray(self.arrays.departures[: min(noted, layout.DEPARTURES_KEPT)])
        return sections

    def checkpoint(self) -> bytes:
        """Return the zone's durable image after its last committed tick, pending inbox page included."""
        if self.phase not in (Phase.READY, Phase.HELD, Phase.FROZEN):
            raise ZoneError(f"zone {self.zone} at tick {self.tick}: no checkpoint while {self.phase}")
        image = {
            "zone": self.zone, "tick": self.tick, "digest": self.digest, "hash": self.state_hash, "build": self.program.build,
            "schema": self.program.schema.hash, "counters": self.arrays.counters.tolist(), "page": list(self.page),
            "sections": {name: pack_rows(rows) for name, rows in self._sections().items()},
            "passages": self.passages.image(),
            "owed": [(t.target, t.player, t.entry) for t in (self._sent if self.phase is Phase.FROZEN else self._owed)],
        }  # fmt: skip
        body = bytes(msgpack.packb(image) or b"")
        return CHECKPOINT_MAGIC + crc32(body).to_bytes(4, "little") + body

    def restore(self, blob: bytes) -> None:
        """Become what `checkpoint` wrote, by whatever build (`image_build`, 0 for none), where its fields are the same.

        Raises ZoneError where the blob is damaged, another zone's, or does not hash to its hash (which only its own build can say).
        A zone that has raised is half restored: make a new one for the older checkpoint.
        """
        self._must_be(Phase.RECOVERING, "restore")
        if blob[: len(CHECKPOINT_MAGIC)] != CHECKPOINT_MAGIC:
            raise ZoneError(f"zone {self.zone}: its checkpoint is no checkpoint of this version: it starts with {blob[:5]!r}")
        body = blob[len(CHECKPOINT_MAGIC) + 4 :]
        try:
            if int.from_bytes(blob[len(CHECKPOINT_MAGIC) : len(CHECKPOINT_MAGIC) + 4], "little") != crc32(body):
                raise ValueError(f"{len(body)} bytes that do not have their checksum")
            image = msgpack.unpackb(body)
            self._restore_sections(image)
            self.digest, self.page, self.image_build = image["digest"], tuple(image["page"]), int(image["build"])
            self._owed = tuple(Transfer(target, player, entry) for target, player, entry in image["owed"])
            self.passages.restore(image.get("passages", {"sent": [], "taken": []}))
        except (ValueError, KeyError, TypeError) as error:
            raise ZoneError(f"zone {self.zone}: its checkpoint is damaged ({error}); the older one is used if there is one") from error
        self.state_hash = int(self.program.state_hash(self.arrays))
        same_build = image["schema"] == self.program.schema.hash and image["build"] == self.program.build
        if same_build and self.tick > 0 and self.state_hash != image["hash"]:
            raise ZoneError(
                f"zone {self.zone} tick {image['tick']}: its checkpoint hashes to {self.state_hash:016x}, not {image['hash']:016x}"
            )

    def _restore_sections(self, image: dict[str, Any]) -> None:
        if image["zone"] != self.zone:
            raise ValueError(f"it is of zone {image['zone']}")
        meta, self._count = self.arrays.meta, None
        meta[layout.META_TICK] = image["tick"]
        self.arrays.counters[: len(image["counters"])] = image["counters"]
        sections = image["sections"]
        players = unpack_rows(sections["players"], layout.PLAYER)
        np.asarray(self.arrays.players)[: len(players)] = players
        meta[layout.META_PLAYERS_HIGH] = len(players)
        np.asarray(self.arrays.totals)[:] = unpack_rows(sections["totals"], np.asarray(self.arrays.totals).dtype)
        for index, entity in enumerate(self.program.game.entities):
            data = sections.get(f"rows:{entity.name}")
            rows = unpack_rows(data, row_dtype(entity)) if data is not None else np.zeros(0, row_dtype(entity))
            if len(rows) > entity.options["capacity"]:
                raise ValueError(f"{len(rows)} rows of {entity.name}, but its capacity is {entity.options['capacity']}")
            words = words_of(np.ascontiguousarray(rows)) if len(rows) else np.zeros((0, row_dtype(entity).itemsize // 8), np.uint64)
            getattr(self.arrays, f"{entity.name}_words")[: len(rows)] = words
            meta[layout.META_TABLE_ROWS + index] = len(rows)
        self._restore_departures(sections.get("departures"))

    def _restore_departures(self, data: bytes | None) -> None:
        """Older images have none: effects then find only who is here."""
        if not self.program.game.effects or data is None:
            self.arrays.counters[layout.COUNTER_DEPARTURES] = 0
            return
        departures = unpack_rows(data, layout.DEPARTURE)[-layout.DEPARTURES_KEPT :]
        if len(departures) != min(int(self.arrays.counters[layout.COUNTER_DEPARTURES]), layout.DEPARTURES_KEPT):
            self.arrays.counters[layout.COUNTER_DEPARTURES] = len(departures)  # of a build that keeps more or fewer
        np.asarray(self.arrays.departures)[: len(departures)] = departures
