"""A shard for gateway tests: real links, a real (in-memory) ledger, a made-up world.

`ZoneTruth` stands for a zone's log: it outlives the shard that runs it, so that another may take the zone over without
loss. Each tick commits to the ledger, applies the inbox page, then the commands, and releases a snapshot for everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perdure.game.schema import Schema
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.record import chain_digest
from perdure.ledger.values import Commit, CommitStatus, Member, Transfer, WorldSettings
from perdure.wire.entries import Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY
from perdure.wire.link import (
    RELEASE_ENTRY,
    RELEASE_STRUCT,
    FrameReader,
    LinkType,
    command_dtype,
    link_proof,
    pack_frame,
    pack_stale,
    pack_zone_notice,
    unpack_keyframes,
)
from perdure.wire.opcodes import SnapshotFlag
from tests.unit.wire.naive_snapshot import TOY, Parts

SECRET = "a secret of tests that is long enough to pass"


@dataclass
class PlayerTruth:
    """One player in a zone. `keyframe_due`: the next frame must be a full one."""

    key: int
    session: int
    gateway: int
    slot: int
    hop: int = 0
    last_seq: int = 0
    leaving: bool = False
    keyframe_due: bool = True
    applied: list[tuple[int, int, bytes]] = field(default_factory=list)


@dataclass
class ZoneTruth:
    """What the log of a zone holds."""

    zone: int
    tick: int = 0
    digest: str = ""
    page: tuple[bytes, ...] = ()
    players: dict[int, PlayerTruth] = field(default_factory=dict)


class ShardDouble:
    """Call `tick(zone)` by hand, or `run(hz)`."""

    def __init__(self, ledger: MemoryLedger, name: str, path: str, truths: dict[int, ZoneTruth], schema: Schema = TOY) -> None:
        self.ledger = ledger
        self.name = name
        self.path = path
        self.schema = schema
        self.truths = truths
        self.number = secrets.randbelow(1 << 30) + 1
        self.owned: dict[int, tuple[int, int]] = {}
        """zone -> (generation, epoch)"""
        self.links: dict[int, asyncio.StreamWriter] = {}
        self.received: list[tuple[int, Any]] = []
        """(zone, row) of every command row that came over a link"""
        self.keyframes: list[tuple[int, list[int]]] = []
        self.ignore_commands = False
        self.filler = 0
        """Bytes of ballast in each frame (unknown to no one: it is `events` that never decode in these tests)"""
        self.hellos = 0
        self._waiting: dict[int, list[Any]] = {}
        self._server: asyncio.Server | None = None
        self._runner: asyncio.Task[None] | None = None
        self._beat = 0
        self._row = command_dtype(schema.command_payload_bytes)

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._link, self.path)
        await self.beat()

    async def beat(self) -> None:
        self._beat += 1
        await self.ledger.heartbeat(Member(self.name, "shard", self.number, f"unix:{self.path}", self._beat, {"state": "ready"}))

    async def own(self, term: int, zone: int) -> None:
        head = await self.ledger.zone_head(zone)
        epoch = await self.ledger.assign(term, zone, self.name, head.epoch)
        head = await self.ledger.zone_head(zone)
        self.owned[zone] = (head.generation, epoch)
        for player in self.truths[zone].players.values():
            player.keyframe_due = True

    def run(self, hz: float) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._run(hz))

    async def _run(self, hz: float) -> None:
        while True:
            for zone in list(self.owned):
                await self.tick(zone)
            await asyncio.sleep(1 / hz)

    async def die(self) -> None:
        """As kill -9: links break at once, the socket file refuses."""
        if self._runner is not None:
            self._runner.cancel()
        if self._server is not None:
            self._server.close()
        for writer in self.links.values():
            writer.transport.abort()
        self.links.clear()
        await asyncio.sleep(0)

    # --- links ------------------------------------------------------------------------------------------------------

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonce = secrets.token_bytes(16)
        writer.write(pack_frame(LinkType.CHALLENGE, nonce, self.name.encode()))
        frames = FrameReader()
        gateway = -1
        try:
            # The gateway, or this double, is gone: nothing to tell anybody.
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                while data := await reader.read(65536):
                    for type_, body in frames.feed(data):
                        if type_ is LinkType.HELLO:
                            (gateway,) = struct.unpack_from("<I", body)
                            assert bytes(body[4:36]) == link_proof(SECRET.encode(), nonce, gateway)
                            self.links[gateway] = writer
                            self.hellos += 1
                            writer.write(pack_frame(LinkType.ACCEPT))
                        else:
                            self._arrived(type_, body)
        finally:
            if self.links.get(gateway) is writer:
                del self.links[gateway]
            writer.close()

    def _arrived(self, type_: LinkType, body: memoryview) -> None:
        if type_ is LinkType.COMMANDS:
            zones, rows = _unpack_commands(body, self._row.itemsize)
            for zone, row in zip(zones.tolist(), rows.copy().view(self._row).ravel(), strict=True):
                self.received.append((zone, row))
                if not self.ignore_commands:
                    self._waiting.setdefault(zone, []).append(row)
        elif type_ is LinkType.KEYFRAMES:
            zone, players = unpack_keyframes(body)
            self.keyframes.append((zone, players))
            for key in players:
                if key in self.truths[zone].players:
                    self.truths[zone].players[key].keyframe_due = True

    def notice(self, zone: int, notice: int) -> None:
        for writer in self.links.values():
            writer.write(pack_zone_notice(zone, notice))

    def stale(self, zone: int, frozen: tuple[int, ...]) -> None:
        """Say whose entities are shown as they were in a zone."""
        for writer in self.links.values():
            writer.write(pack_stale(zone, frozen))

    # --- the tick ---------------------------------------------------------------------------------------------------

    async def tick(self, zone: int, *, release: bool = True) -> None:
        """Apply the last page and what came, commit, release."""
        truth = self.truths[zone]
        generation, epoch = self.owned[zone]
        transfers: list[Transfer] = []
        gone: list[PlayerTruth] = []
        for data in truth.page:
            entry = unpack_entry(data)
            player = truth.players.get(entry.player)
            if entry.kind in (EntryKind.JOIN, EntryKind.ARRIVE):
                truth.players[entry.player] = PlayerTruth(entry.player, entry.session, entry.gateway, entry.slot, entry.hop, entry.last_seq)
            elif player is None:
                continue
            elif entry.kind is EntryKind.ATTACH:
                player.session, player.gateway, player.slot, player.keyframe_due = entry.session, entry.gateway, entry.slot, True
            elif entry.kind is EntryKind.DETACH and player.session == entry.session:
                player.gateway = -1
            elif entry.kind in (EntryKind.LEAVE, EntryKind.KICK):
                gone.append(truth.players.pop(entry.player))
                leave = Entry(EntryKind.LEAVE, entry.player, gone[-1].session, hop=gone[-1].hop + 1)
                transfers.append(Transfer(LOBBY, entry.player, leave.pack()))
        for row in sorted(self._waiting.pop(zone, []), key=lambda row: (int(row["player"]), int(row["seq"]))):
            player = truth.players.get(int(row["player"]))
            if player is not None and int(row["seq"]) > player.last_seq:
                player.last_seq = int(row["seq"])
                player.applied.append((int(row["seq"]), int(row["kind"]), bytes(row["payload"])))
        record = secrets.token_bytes(8)
        tick = truth.tick + 1
        digest = chain_digest(truth.digest, record)
        (answer,) = await self.ledger.commit([Commit(zone, generation, epoch, tick, truth.digest, digest, record, transfers)])
        if answer.status is CommitStatus.FENCED:
            del self.owned[zone]
            return
        assert answer.status is CommitStatus.OK, answer
        truth.tick, truth.digest, truth.page = tick, digest, answer.page
        if release:
            self.release(zone, gone)

    def release(self, zone: int, gone: list[PlayerTruth] = []) -> None:  # noqa: B006
        """Send every player in the zone a snapshot."""
        truth = self.truths[zone]
        for gateway in list(self.links):
            entries: list[tuple[int, int, int, int, bytes]] = []
            for player in truth.players.values():
                if player.gateway == gateway:
                    flags = int(SnapshotFlag.KEYFRAME) if player.keyframe_due else 0
                    player.keyframe_due = False
                    entries.append((player.slot, player.hop, player.last_seq, flags, self.frame(zone, player, flags)))
            entries.extend(
                (player.slot, player.hop, player.last_seq, int(SnapshotFlag.GONE), b"") for player in gone if player.gateway == gateway
            )
            self.send_release(gateway, zone, entries)

    def frame(self, zone: int, player: PlayerTruth, flags: int) -> bytes:
        """One ship, one's own: its x is the tick."""
        truth = self.truths[zone]
        parts = Parts(self.schema)
        x = truth.tick % 4096
        if flags & SnapshotFlag.KEYFRAME:
            values = {"x": x, "y": 1, "hp": 100, "score": 0, "serial": player.key & 0xFFFFFFFF, "turn": 0, "a": 1, "b": 2, "c": 3}
            parts.enter(1, 0, player.key & 0xFFFF_FFFF_FFFF, values).own(0, {"ammo": 7, "fuel": 12345})
        else:
            parts.update(1, 0, {"x": x})
        if self.filler:
            parts.events = parts.event(0, {"who": 1, "damage": 1}).events * (self.filler // 5)
        me = player.key & 0xFFFF_FFFF_FFFF
        return parts.frame(zone=zone, epoch=self.owned[zone][1], tick=truth.tick, flags=flags, ack=player.last_seq, me=me)

    def send_release(
        self,
        gateway: int,
        zone: int,
        entries: list[tuple[int, int, int, int, bytes]],
        *,
        epoch: int = 0,
        tick: int = 0,
        generation: int = 0,
    ) -> None:
        """Send (slot, hop, ack, flags, frame) entries; the stamp is the zone's own where it is not given."""
        truth = self.truths[zone]
        rows = np.zeros(len(entries), RELEASE_ENTRY)
        at = 0
        for k, (slot, hop, ack, flags, frame) in enumerate(entries):
            rows[k] = (slot, hop, ack, flags, at, len(frame))
            at += len(frame)
        own_generation, own_epoch = self.owned.get(zone, (0, 0))
        head = RELEASE_STRUCT.pack(zone, 0, epoch or own_epoch, tick or truth.tick, generation or own_generation, len(entries), at)
        self.links[gateway].write(pack_frame(LinkType.RELEASE, head, rows.tobytes(), b"".join(frame for *_, frame in entries)))


def world_of(schema: Schema = TOY, columns: int = 2, rows: int = 1) -> WorldSettings:
    return WorldSettings("main", schema.name, schema.hash, json.dumps(schema.to_wire()), columns, rows, 1, schema.tick_hz)


def _unpack_commands(body: memoryview, row_bytes: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Return zones (uint16[n]) and rows (uint8[n, row_bytes]) of a COMMANDS frame."""
    count = int.from_bytes(body[:2], "little")
    start = 2 + 2 * count
    assert count > 0 and len(body) == start + count * row_bytes
    return np.frombuffer(body[2:start], "<u2"), np.frombuffer(body[start:], np.uint8).reshape(-1, row_bytes)
