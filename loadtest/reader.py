"""Reads the sockets of all players of a process, and keeps what they are shown, by compiled code (loadtest.kernels).

Owns a row for each player: what the kernel must know of it and learns, and its table of entities. A row is armed while nothing but plain
snapshots is expected on the player's socket; whatever else comes disarms it and is handed to Python. All armed sockets are looked at
together, by one timer. Without compiled code there is no reader, and the SDK's protocol does all, at several times the cost. A process
plays in one world: another schema is refused. Called by player and locustfile.
"""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import numpy as np
from gevent import monkey

from perdure.client.protocol import ClientProtocol, ProtocolError, Received
from perdure.client.world_view import EntityView, Snapshot, SnapshotError, WorldView
from perdure.game.schema import Schema
from perdure.wire.opcodes import ServerOp

_READABLE = 1
_SNAPSHOT = int(ServerOp.SNAPSHOT)
READ_EVERY_S = 0.002
"""Sockets are looked at so often. To be woken for each snapshot by itself costs more than all that is then done with it; what is measured
is a millisecond late in the mean, two at most."""
READY = 1024
"""So many sockets are read in one turn of the loop."""
READ_BYTES = 1 << 16
REST_BYTES = 1 << 20
FIRST_PLAYERS = 64
FIRST_ENTITIES = 128
"""Rows of a player's table to begin with; half of them are used at most."""
MOST_ENTITIES = 1 << 17


class Reads(Protocol):
    """A player as its reader knows it."""

    def told(self, reasons: int, tick_before: int, now_s: float, gap_s: float, worst_s: float) -> None: ...

    def left(self, data: bytes) -> None: ...

    def unfit(self, why: str) -> None: ...


class Reader:
    """All players of this process. Raises ImportError, OSError or RuntimeError where nothing can be compiled (`compile_reader`)."""

    def __init__(self) -> None:
        from loadtest.kernels import receive as kernels
        from perdure.game.jit import JIT_DISABLED

        if JIT_DISABLED:
            raise RuntimeError("NUMBA_DISABLE_JIT is set")
        self.kernels = kernels
        self.schema: Schema | None = None
        self._players: list[Reads | None] = []
        self._free: list[int] = []
        self._ints = np.zeros((FIRST_PLAYERS, kernels.INTS), np.int64)
        self._floats = np.zeros((FIRST_PLAYERS, kernels.FLOATS), np.float64)
        self.ints: memoryview[int] = self._ints.reshape(-1).data
        self.floats: memoryview[float] = self._floats.reshape(-1).data  # type: ignore[assignment]
        """All rows, flat: a player's begins at its number times the number of columns."""
        self._tables = np.zeros((FIRST_PLAYERS, FIRST_ENTITIES, kernels.LEVELS + 1), np.uint32)
        self._owned = np.zeros((FIRST_PLAYERS, 1), np.uint32)
        self._kinds = np.zeros((1, 3), np.int64)
        self._widths = np.zeros((1, 1), np.uint8)
        self._owner_widths = np.zeros(0, np.uint8)
        self._event_bytes = np.zeros(0, np.int64)
        self._owners = np.full(1024, -1, np.int32)
        self._ready_row = 12 if platform.machine() in ("x86_64", "AMD64") else 16  # struct epoll_event is packed there alone
        self._ready = np.zeros(READY * self._ready_row, np.uint8)
        self._buffer, self._rest = np.zeros(READ_BYTES, np.uint8), np.zeros(REST_BYTES, np.uint8)
        self._clock = np.zeros(2, np.int64)
        self._told, self._told_s = np.zeros((2 * READY, 4), np.int64), np.zeros((2 * READY, 3), np.float64)
        self._poll = monkey.get_original("select", "epoll")()  # gevent takes it away where it patches
        self._watcher: Any = None
        self._compile()

    def _compile(self) -> None:
        """Compile all there is, or load what was compiled before: nothing may be left for when players wait for it."""
        self._receive()
        self._apply(0, b"\x9c\x02")
        self.kernels.regrow(self._tables[:0], self._tables[:0])
        self.kernels.has_avatar(self._ints[0], self._tables[0], self._ints[0, self.kernels.ME])
        self.kernels.find(self._tables[0], self._ints[0, self.kernels.ME_HANDLE])

    # --- players ----------------------------------------------------------------------------------------------------

    def add(self, player: Reads, *, full: bool) -> int:
        """Give a player a row; return its number. `full`: it decodes all that it is sent, not headers alone."""
        if not self._free:
            have = len(self._players)
            if have == len(self._ints):
                self._more_players()
            self._free = [have]
            self._players.append(None)
        number = self._free.pop()
        self._players[number] = player
        self._ints[number] = 0
        self._ints[number, self.kernels.FULL] = full
        self._tables[number] = 0
        return number

    def remove(self, number: int) -> None:
        self._players[number] = None
        self._ints[number] = 0
        self._free.append(number)

    def _more_players(self) -> None:
        self._ints, self._floats, self._tables, self._owned = (
            np.concatenate([one, np.zeros_like(one)]) for one in (self._ints, self._floats, self._tables, self._owned)
        )
        self.ints = self._ints.reshape(-1).data
        self.floats = self._floats.reshape(-1).data  # type: ignore[assignment]

    def play(self, schema: Schema) -> None:
        """Learn the world's schema. Raises ProtocolError where another one was learnt before."""
        if self.schema is not None:
            if self.schema.hash != schema.hash:
                raise ProtocolError("the world has another schema than when this process began")
            return
        avatar = next(entity for entity in schema.entities if entity.avatar)
        most = max(len(entity.public) for entity in schema.entities)
        self._kinds = np.array([(len(entity.public), entity.enter_bytes, entity.public_bytes) for entity in schema.entities], np.int64)
        self._widths = np.zeros((len(schema.entities), max(most, 1)), np.uint8)
        for entity in schema.entities:
            self._widths[entity.index, : len(entity.public)] = [field.wire_bytes for field in entity.public]
        self._owner_widths = np.array([field.wire_bytes for field in avatar.owner], np.uint8)
        self._event_bytes = np.array([sum(field.wire_bytes for field in event.fields) for event in schema.events], np.int64)
        self._tables = np.zeros((len(self._ints), FIRST_ENTITIES, self.kernels.LEVELS + max(most, 1)), np.uint32)
        self._owned = np.zeros((len(self._ints), max(len(avatar.owner), 1)), np.uint32)
        self.schema = schema

    def apply(self, number: int, message: bytes) -> Snapshot:
        """Apply a snapshot that Python has read. Raises SnapshotError."""
        while (why := self._apply(number, message)) == self.kernels.GROW:
            self._more_entities()
        if why != self.kernels.FITS:
            raise SnapshotError(self.why(why))
        kernels, row = self.kernels, self._ints[number].tolist()
        return Snapshot(
            row[kernels.ZONE], row[kernels.EPOCH], row[kernels.TICK], row[kernels.FLAGS], row[kernels.ACK], row[kernels.ME]
        )  # fmt: skip

    def _apply(self, number: int, message: bytes) -> int:
        data = np.frombuffer(bytearray(message), np.uint8)  # can be written, as the kernel's buffer: another type were compiled for
        return self.kernels.apply(
            data, 0, len(data), self._ints[number], self._tables[number], self._owned[number], self._kinds, self._widths,
            self._owner_widths, self._event_bytes,
        )  # fmt: skip

    def _more_entities(self) -> None:
        players, rows, columns = self._tables.shape
        if rows >= MOST_ENTITIES:
            raise SnapshotError(f"more than {MOST_ENTITIES // 2} entities are in sight")
        tables = np.zeros((players, 2 * rows, columns), np.uint32)
        self.kernels.regrow(self._tables, tables)
        self._tables = tables

    def why(self, fault: int) -> str:
        """Say what is wrong with a snapshot."""
        kernels = self.kernels
        return {
            kernels.UNKNOWN_HANDLE: "a handle is named that is not in use", kernels.UNKNOWN_KIND: "an event that the schema has not",
            kernels.NO_AVATAR: "owner fields came, but one's own avatar is not in sight",
        }.get(fault, "a snapshot does not fit the schema")  # fmt: skip

    def entities(self, number: int, view: WorldView) -> list[EntityView]:
        """Return what a player sees, as the SDK shows it (without keys)."""
        return [self._shown(number, row, view) for row in self._tables[number].tolist() if row[self.kernels.HANDLE]]

    def me(self, number: int, view: WorldView) -> EntityView | None:
        """Return the player's own entity as its newest snapshot shows it."""
        ints, table = self._ints[number], self._tables[number]
        if not ints[self.kernels.ME] or not self.kernels.has_avatar(ints, table, ints[self.kernels.ME]):
            return None
        row = table[self.kernels.find(table, ints[self.kernels.ME_HANDLE])].tolist()
        return self._shown(number, row, view)

    def _shown(self, number: int, row: list[int], view: WorldView) -> EntityView:
        kernels = self.kernels
        shown = view.entity(row[kernels.KIND], row[kernels.HIGH] << 32 | row[kernels.LOW], row[kernels.HANDLE] - 1, row[kernels.LEVELS :])
        if shown.id == int(self._ints[number, kernels.ME]):
            shown.owner_levels = self._owned[number, : len(self._owner_widths)].tolist()
        return shown

    # --- sockets ----------------------------------------------------------------------------------------------------

    def arm(self, number: int, descriptor: int) -> None:
        """From now on the kernel reads this socket, until it comes on something that is not plain, or `release`."""
        if descriptor >= len(self._owners):
            self._owners = np.concatenate([self._owners, np.full(max(len(self._owners), descriptor), -1, np.int32)])
        if self._owners[descriptor] != number:
            self._owners[descriptor] = number
            self._poll.register(descriptor, _READABLE)
        self._ints[number, self.kernels.ARMED] = 1
        if self._watcher is None:
            self._watcher = gevent.get_hub().loop.timer(READ_EVERY_S, READ_EVERY_S)
            self._watcher.start(self.turn)

    def release(self, number: int, descriptor: int) -> None:
        """The kernel is to leave this socket alone: before it is closed, or while Python reads it."""
        if descriptor < len(self._owners) and self._owners[descriptor] == number:
            self._owners[descriptor] = -1
            self._poll.unregister(descriptor)
        self._ints[number, self.kernels.ARMED] = 0

    def _receive(self) -> int:
        return self.kernels.receive(
            self._poll.fileno(), self._ready, self._ready_row, self._owners, self._buffer, self._clock, self._ints, self._floats,
            self._tables, self._owned, self._kinds, self._widths, self._owner_widths, self._event_bytes, self._rest, self._told,
            self._told_s,
        )  # fmt: skip

    def turn(self) -> None:
        """Take what has come. Runs within gevent's loop."""
        count = self._receive()
        if not count:
            return
        kernels, players = self.kernels, self._players
        seconds = self._told_s[:count].tolist()
        for (what, number, first, end), (now_s, gap_s, worst_s) in zip(self._told[:count].tolist(), seconds, strict=True):
            player = players[number]
            if player is None:
                continue
            if what == kernels.TOLD:
                player.told(first, end, now_s, gap_s, worst_s)
            elif what == kernels.LEFT:
                player.left(self._rest[first:end].tobytes())
            else:
                player.unfit(self.why(first))

    def close(self) -> None:
        """Stop reading; for tests."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        self._poll.close()


class CompiledView(WorldView):
    """What a player sees, where the reader keeps it."""

    def __init__(self, schema: Schema, reader: Reader, number: int) -> None:
        super().__init__(schema)
        reader.play(schema)
        self._reader, self._number = reader, number

    @property
    def me(self) -> EntityView | None:
        return self._reader.me(self._number, self)


class CompiledProtocol(ClientProtocol):
    """The SDK's protocol, whose snapshots the reader applies."""

    def __init__(self, reader: Reader, number: int) -> None:
        super().__init__()
        self._reader, self._number = reader, number
        self.view_of = lambda schema: CompiledView(schema, reader, number)

    def receive(self, data: bytes) -> Received:
        # Twelve elements: a fixarray, then the opcode.
        if len(data) < 2 or data[1] != _SNAPSHOT or data[0] != 0x9C:
            return super().receive(data)
        if self.world is None:
            raise ProtocolError("a snapshot came before the welcome")
        snapshot = self._reader.apply(self._number, data)
        self.applied(snapshot.ack)
        return snapshot


def compile_reader(say: Callable[[str], None]) -> Reader | None:
    """Return a reader, or None where nothing can be compiled, and say why."""
    try:
        if platform.system() != "Linux":
            raise OSError(errno.ENOSYS, "sockets are read by compiled code on Linux alone")
        return Reader()
    except Exception as error:  # noqa: BLE001 (whatever keeps a compiler from its work, players play without)
        say(f"players are read without compiled code and cost several times as much: {' '.join(str(error).split())[:200]}")
        return None
