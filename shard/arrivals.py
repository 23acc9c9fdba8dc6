"""What came over the links for zones since their last ticks: command rows, and who wants a full snapshot.

Owns these until the zone is between two ticks, since a zone that is in a tick belongs to its thread; and the buffers in which compiled
code (shard.kernels.commands) keeps rows as it cuts frames, and sorts them once a tick: every frame, and every array, that Python has to
do with costs more than all else that is done with most commands. Never looks into a row. Called by shard.tick_loop. Rows are bounded in
all zones together; requests for snapshots are a set of players, and of gateways, a zone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shard.kernels.commands import BAD_COMMANDS, BAD_LENGTH, SOUND, cut_frames, sort_rows

MAX_INCOMING_BYTES = 32 << 20
FIRST_ROWS, KEPT_ROWS = 1 << 10, 1 << 14
"""Rows that there is room for to begin with; room for more than so many is given back when all have gone."""
OTHER_FRAMES = 64
"""Frames of another kind that are cut in one go."""
_FAULTS = {BAD_LENGTH: "a frame of a length that is none", BAD_COMMANDS: "commands whose bytes do not add up"}

Rows = npt.NDArray[np.uint8]


class Overflow(Exception):
    """More commands wait than may."""


class Cut(NamedTuple):
    """What was in the bytes of a link, as far as they were cut: up to `end`, where a frame is not complete, or one more is than was wanted.

    `others` are the frames without commands (begin, end), and there may be `more` behind `end`. Of the commands, `kept` rows are kept;
    `elsewhere` were for zones that do not run here. `fault` says what is wrong with the frame at `end`.
    """

    end: int
    others: list[list[int]]
    more: bool
    kept: int
    elsewhere: int
    fault: str


@dataclass(slots=True)
class Wanted:
    """Whom a zone is to give full snapshots: players, and all players of gateways."""

    keyframes: set[int] = field(default_factory=set)
    gateways: set[int] = field(default_factory=set)


class Arrivals:
    """Command rows are `row_bytes` long."""

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._wanted: dict[int, Wanted] = {}
        self._place = np.full(1 << 16, -1, np.int32)
        self._others = np.zeros((OTHER_FRAMES, 2), np.int64)
        self._count = 0
        self._make_room(FIRST_ROWS)
        # Compiled, or loaded, here: gateways link while a shard still compiles its game, and then its event loop must not wait for that.
        self.cut(bytes(1), 0, np.zeros(1 << 16, np.bool_), commands=True)
        self._sort([])

    def _make_room(self, rows: int) -> None:
        zones, kept = np.zeros(rows, np.uint16), np.zeros((rows, self._row_bytes), np.uint8)
        if self._count:
            zones[: self._count], kept[: self._count] = self._zones[: self._count], self._rows[: self._count]
        self._zones, self._rows, self._taken = zones, kept, np.zeros_like(kept)

    @property
    def bytes_waiting(self) -> int:
        """The size of all command rows."""
        return self._count * self._row_bytes

    def cut(self, data: bytes, at: int, runs: npt.NDArray[np.bool_], *, commands: bool) -> Cut:
        """Cut link frames from `at` on, and keep the rows of COMMANDS frames for zones of which `runs` (by number) is True.

        Without `commands` one frame is cut, and any is another one. Raises Overflow where so many bytes may hold more than may wait.
        """
        most = len(data) // (self._row_bytes + 2) if commands else 0
        if (self._count + most) * self._row_bytes > MAX_INCOMING_BYTES:
            raise Overflow
        if self._count + most > len(self._zones):
            self._make_room(1 << (self._count + most - 1).bit_length())
        others, before = self._others if commands else self._others[:1], self._count
        end, self._count, elsewhere, found, fault = cut_frames(
            np.frombuffer(data, np.uint8), at, commands, runs, self._zones, self._rows, before, others
        )
        cut = others[:found].tolist() if found else []
        return Cut(end, cut, found == len(others), self._count - before, elsewhere, _FAULTS[fault] if fault != SOUND else "")

    def newest_zones(self, count: int) -> list[int]:
        """Return which zones the rows that came last are for."""
        return np.unique(self._zones[self._count - count : self._count]).tolist()

    def want_keyframes(self, zone: int, players: list[int]) -> None:
        self._wanted.setdefault(zone, Wanted()).keyframes.update(players)

    def link(self, zone: int, gateway: int) -> None:
        """Players of this gateway want full snapshots: its link is new."""
        self._wanted.setdefault(zone, Wanted()).gateways.add(gateway)

    def rows_of(self, numbers: list[int]) -> list[tuple[int, Rows]]:
        """Take the rows that came for these zones: (zone, rows in the order in which they came). They are good until the next call."""
        if not self._count:
            return []
        ends = self._sort(numbers)
        taken, begin, found = self._taken, 0, []
        for number, end in zip(numbers, ends, strict=True):
            if end > begin:
                found.append((number, taken[begin:end]))
            begin = end
        if not self._count and len(self._zones) > KEPT_ROWS:
            self._make_room(FIRST_ROWS)
        return found

    def _sort(self, numbers: list[int]) -> list[int]:
        """Move the rows of these zones to `_taken`; return where each one's end."""
        ends = np.zeros(len(numbers), np.int64)
        self._count = sort_rows(self._zones, self._rows, self._count, np.array(numbers, np.int64), self._place, self._taken, ends)
        return ends.tolist()

    def wanted_of(self, numbers: list[int]) -> list[tuple[int, Wanted]]:
        """Take what is wanted of these zones."""
        return [(number, self._wanted.pop(number)) for number in numbers if number in self._wanted] if self._wanted else []

    def forget(self, zone: int) -> None:
        """The zone does not run here any more; its commands are sent again to whoever runs it."""
        self.rows_of([zone])
        self._wanted.pop(zone, None)
