"""What the zone tests work with: compiled programs (once a process), a world of zones over the ledger in memory, and players
whose frames are decoded by the real client. No event loop, no clock, no sockets."""

from __future__ import annotations

import functools
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import numpy as np
import numpy.typing as npt

from perdure.client.protocol import ClientProtocol
from perdure.client.world_view import Snapshot
from perdure.game.contract import row_dtype
from perdure.game.loading import load_game
from perdure.game.portable import unpack_rows
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.record import blob_digest
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, EnterRequest
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import WorldGrid, player_key
from perdure.wire.link import FrameReader, LinkType, unpack_release
from perdure.wire.opcodes import SnapshotFlag
from shard.border import Feed
from shard.kernels import layout
from shard.program import Program, compile_program
from shard.warmup import warm
from shard.zone import Zone

T = TypeVar("T")
GAMES = Path(__file__).resolve().parents[3] / "games"


@functools.cache
def program(game: str = "tag") -> Program:
    """Return a game's program; `game` is a name in games/, or a path."""
    path = GAMES / game
    return compile_program(load_game(path if path.exists() or path.with_suffix(".py").exists() else game))


@functools.cache
def warm_program(game: str) -> Program:
    """As `program`, with everything compiled: for tests that wait with a deadline."""
    warm(program(game))
    return program(game)


def now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits (those of MemoryLedger) to its end."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise AssertionError("the ledger in memory waited")


def command_row(game: Program, key: int, seq: int, name: str, *, session: int = 1, **fields: int | float) -> npt.NDArray[np.uint8]:
    """Return one command row, as a gateway makes it."""
    schema = next(c for c in game.schema.commands if c.name == name)
    payload = schema.pack([fields.get(f.name, 0) for f in schema.fields])
    head = key.to_bytes(8, "little") + seq.to_bytes(4, "little") + (session & 0xFFFF).to_bytes(2, "little") + bytes((schema.kind, 0))
    return np.frombuffer((head + payload).ljust(16 + game.schema.command_payload_bytes, b"\0"), np.uint8).reshape(1, -1)


def payload_of(frame: bytes) -> bytes:
    """Return what a server's websocket frame carries (RFC 6455 section 5.2), after checking its header."""
    assert frame[0] == 0x82, "a final, binary frame"
    length, start = frame[1], 2
    if length == 126:
        length, start = int.from_bytes(frame[2:4], "big"), 4
        assert length >= 126
    elif length == 127:
        length, start = int.from_bytes(frame[2:10], "big"), 10
        assert length >= 65_536
    assert len(frame) == start + length
    return frame[start:]


@dataclass
class Player:
    """A player at gateway 1: its commands, and what its client has seen."""

    name: str
    slot: int
    gateway: int
    session: int
    client: ClientProtocol
    seq: int = 0
    unacked: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    flags: int = 0
    hop: int = 0

    @property
    def key(self) -> int:
        return player_key(self.name)


class World:
    """A grid of zones, all run here, tick by tick, over one ledger in memory."""

    def __init__(self, game: Program, columns: int = 1, rows: int = 1, seed: int = 7, ghosts: bool = False) -> None:
        self.program, self.seed, self.ghosts = game, seed, ghosts
        self.feeds: list[Feed] = []
        self.grid = WorldGrid(*game.game.world_size, columns, rows)
        self.store = MemoryStore()
        self.ledger = MemoryLedger(self.store)
        self.term = now(self.ledger.elect("test")).term
        self.zones: dict[int, Zone] = {}
        self.players: dict[str, Player] = {}
        self.commits: list[Commit] = []
        self.answers: list[CommitAnswer] = []
        for number in range(self.grid.zones):
            epoch = now(self.ledger.assign(self.term, number, "shard", 0))
            zone = Zone(game, number, self.grid, seed)
            zone.recovered(1, epoch)
            self.zones[number] = zone

    # --- players --------------------------------------------------------------------------------------------------
    def join(self, name: str, zone: int = 0, gateway: int = 1, slot: int = -1) -> Player:
        """Log a player in, or in again: what was not acknowledged is sent again, unless it had left. Numbers go on in any case."""
        known, record = self.players.get(name), now(self.ledger.player(player_key(name)))
        here = self.place(name) >= 0
        slot = slot if slot >= 0 else len(self.players) + 100
        answer = now(self.ledger.enter(EnterRequest(player_key(name), name, gateway, slot, zone, 0, "")))
        client = known.client if known else ClientProtocol(max_pending=1_000_000)
        welcome: dict[str, Any] = {
            "session": answer.session, "player": name, "key": player_key(name), "resume": f"{name}.x", "tick_hz": 20, "zone": zone,
            "schema": self.program.schema.to_wire(), "schema_hash": self.program.schema.hash, "gateway": "g",
        }  # fmt: skip
        client.receive(msgpack.packb([1, welcome]) or b"")
        player = Player(name, slot, gateway, answer.session, client, record.seq if record else 0)
        if known and here:
            player.seq = known.seq
            for seq, row in known.unacked.items():
                player.unacked[seq] = row.copy()
                player.unacked[seq][0, 12:14] = np.frombuffer((player.session & 0xFFFF).to_bytes(2, "little"), np.uint8)
        self.players[name] = player
        return player

    def place(self, name: str) -> int:
        record = now(self.ledger.player(player_key(name)))
        return record.presence.place if record else -1

    def command(self, name: str, kind: str, **fields: int | float) -> int:
        """Number a command; it is sent (again and again) until a frame acknowledges it."""
        player = self.players[name]
        player.seq += 1
        player.unacked[player.seq] = command_row(self.program, player.key, player.seq, kind, session=player.session, **fields)
        return player.seq

    def row(self, name: str) -> Any:
        """Return a player's avatar row and its zone, or None while it is in no zone."""
        avatar = self.program.schema.avatar.name
        for zone in self.zones.values():
            for player in zone.players:
                if player["key"] == player_key(name) and player["departed"] == 0:
                    return zone.rows(avatar)[player["row"]]
        return None

    def holder(self, name: str) -> list[int]:
        """Return every zone whose player table holds a player who has not departed from it."""
        key = player_key(name)
        return [z.zone for z in self.zones.values() for p in z.players if p["key"] == key and p["departed"] == 0]

    # --- ticks ----------------------------------------------------------------------------------------------------
    @staticmethod
    def _counts_are_true(zone: Zone) -> None:
        """What a zone keeps of who is here, and whether anybody looks, is what its table says."""
        players = zone.players
        assert zone.player_count() == np.count_nonzero((players["key"] != 0) & (players["departed"] == 0))
        assert zone.is_watched == bool(np.any(players["gateway"]))

    def tick(self, encode: bool = False, order: Iterable[int] = ()) -> None:
        """Step and commit every zone; with `encode`, hand every frame to its player's client."""
        for player in self.players.values():
            if player.unacked and self.place(player.name) >= 0:
                zone = self.zones[self.place(player.name)]
                for seq in sorted(player.unacked):
                    assert zone.add_commands(player.unacked[seq])
        numbers = list(order) or sorted(self.zones)
        for zone in self.zones.values() if self.ghosts else ():
            zone.border.watch(tuple(zone.border.near))
            zone.border.turn(zone.tick / 20, 0.05)
            zone.fill_ghosts()
        self.commits = [self.zones[number].step() for number in numbers]
        self.answers = now(self.ledger.commit(self.commits))
        for number, answer in zip(numbers, self.answers, strict=True):
            assert answer.status is CommitStatus.OK, answer
            frames = self.zones[number].encode() if encode else []
            self.feeds = self.zones[number].publish(0.05) if self.ghosts else []
            self.zones[number].committed(answer)
            self._counts_are_true(self.zones[number])
            for feed in self.feeds:
                if feed.viewer in self.zones and self.deliver(feed):
                    self.zones[feed.viewer].border.receive(feed)
            for gateway, frame in frames:
                self._deliver(gateway, frame)
        for player in self.players.values():
            row = next((p for z in self.zones.values() for p in z.players if p["key"] == player.key), None)
            if row is not None:
                for seq in [s for s in player.unacked if s <= row["last_seq"]]:
                    del player.unacked[seq]

    def deliver(self, feed: Feed) -> bool:
        """Whether a feed arrives; tests replace it."""
        return True

    def _deliver(self, gateway: int, frame: bytes) -> None:
        for kind, body in FrameReader().feed(frame):
            assert kind is LinkType.RELEASE
            release = unpack_release(body)
            end = 0
            for slot, hop, ack, flags, offset, length in release.entries.tolist():
                assert offset == end, "a gateway's part has no gaps"
                end = offset + length
                player = next((p for p in self.players.values() if (p.gateway, p.slot) == (gateway, slot)), None)
                if player is None:
                    continue  # that socket is closed
                snapshot = player.client.receive(payload_of(bytes(release.blob[offset:end])))
                assert isinstance(snapshot, Snapshot)
                assert (snapshot.zone, snapshot.tick, snapshot.ack, snapshot.flags) == (release.zone, release.tick, ack, flags)
                assert snapshot.epoch == release.epoch
                assert hop >= player.hop
                player.hop, player.flags = hop, flags
                player.snapshots.append(snapshot)
            assert end == len(release.blob)

    # --- truth ----------------------------------------------------------------------------------------------------
    def check_view(self, name: str, *, events: bool = True, within: float = 1.0) -> None:
        """Compare what a player's client shows after this tick with what the zone's rows say, by brute force.

        `within`: for entities further away than this part of the radius of interest, only that they are there.
        """
        player, schema = self.players[name], self.program.schema
        zone = self.zones[player.snapshots[-1].zone]
        place = next(p for p in zone.players if p["key"] == player.key)
        me = zone.rows(schema.avatar.name)[place["row"]]
        world = player.client.world
        assert world is not None
        assert world.me_id == me["id"]
        expected, far = {}, set()
        for entity in schema.entities:
            for row in zone.rows(entity.name):
                dx, dy = float(row["x"]) - float(me["x"]), float(row["y"]) - float(me["y"])
                if row["dead"] != 1 and dx * dx + dy * dy <= schema.interest**2:
                    expected[int(row["id"])] = (entity.name, [f.level(float(row[f.name])) for f in entity.public])
                    if dx * dx + dy * dy > (within * schema.interest) ** 2:
                        far.add(int(row["id"]))
        assert {e.id for e in world.entities.values()} == expected.keys()
        assert {e.id: (e.type, e.levels) for e in world.entities.values() if e.id not in far} == {
            key: value for key, value in expected.items() if key not in far
        }
        assert world.me is not None
        assert list(world.me.owner_levels) == [f.level(float(me[f.name])) for f in schema.avatar.owner]
        if events:
            assert [(e.name, dict(e.fields)) for e in player.snapshots[-1].events] == self.events_near(name)

    def events_near(self, name: str) -> list[tuple[str, dict[str, float]]]:
        """Return the events of the last tick that reach a player, in the zone that it was in."""
        player, schema, told = self.players[name], self.program.schema, []
        for zone in self.zones.values():
            place = next((p for p in zone.players if p["key"] == player.key), None)
            if place is None:
                continue
            me = zone.rows(schema.avatar.name)[place["row"]]
            for event in schema.events:
                count = zone.arrays.meta[layout.META_COUNTS + 2 * (len(schema.entities) + event.index)]
                for row in np.asarray(getattr(zone.arrays, f"{event.name}_rows")[:count]):
                    if (float(row["at_x"]) - float(me["x"])) ** 2 + (float(row["at_y"]) - float(me["y"])) ** 2 <= event.radius**2:
                        told.append((event.name, {f.name: f.value(f.level(float(row[f.name]))) for f in event.fields}))
        return told

    def saved(self, name: str) -> Any:
        """Return the row that was saved of a player in the lobby, or None."""
        record = now(self.ledger.player(player_key(name)))
        avatar = next(e for e in self.program.game.entities if e.options["avatar"])
        return unpack_rows(record.saved, row_dtype(avatar))[0] if record and record.saved else None

    def in_transit(self) -> list[tuple[str, Any]]:
        """Return (type, row) of everything that waits in an inbox or in a page that the next tick applies."""
        found = []
        for zone in self.zones.values():
            for data in [*now(self.ledger.read_inbox(zone.zone)), *zone.page]:
                entry = unpack_entry(data)
                if entry.payload and entry.kind in (EntryKind.ARRIVE, EntryKind.JOIN):
                    entity = self.program.game.entities[entry.type]
                    found.append((entity.name, unpack_rows(entry.payload, row_dtype(entity))[0]))
        return found

    # --- durability -----------------------------------------------------------------------------------------------
    def put_checkpoint(self, number: int) -> bytes:
        zone = self.zones[number]
        blob = zone.checkpoint()
        now(self.ledger.put_checkpoint(number, zone.tick, zone.epoch, blob))
        status = now(self.ledger.flip_checkpoint(number, zone.generation, zone.epoch, zone.tick, blob_digest(blob)))
        assert status is CommitStatus.OK
        return blob


KEYFRAME, GONE, MOVED = int(SnapshotFlag.KEYFRAME), int(SnapshotFlag.GONE), int(SnapshotFlag.MOVED)
