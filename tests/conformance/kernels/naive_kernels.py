"""The twins: what every kernel of shard.kernels does, said as plainly as Python can. Slow on purpose."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack

_MASK = (1 << 64) - 1

# --- state --------------------------------------------------------------------------------------------------------


def purge(rows: list[list[int]]) -> list[list[int]]:
    """`dead` is byte 4 of word 1."""
    return [row for row in rows if row[1].to_bytes(8, "little")[4] == 0]


def find_row(rows: list[list[int]], entity: int) -> int:
    return next((at for at, row in enumerate(rows) if row in purge([row]) and row[0] == entity), -1)


def departed_to(departures: list[tuple[int, int]], kept: int, entity: int) -> int:
    """`departures`: all that ever were, of which the last `kept` are remembered."""
    return next((zone for left, zone in reversed(departures[-kept:]) if left == entity), -1)


def hash_value(state: int, value: int) -> int:
    state = ((state ^ value) * 0x9FB21C651E98DF25) & _MASK
    return state ^ (state >> 28)


def hash_rows(state: int, rows: list[list[int]]) -> int:
    for value in [len(rows), *(word for row in rows for word in row)]:
        state = hash_value(state, value)
    return state


def hash_start(tick: int) -> int:
    return hash_value(0x9E3779B97F4A7C15, tick)


def cut_at(place: float, count: int) -> int:
    if math.isnan(place):
        return 0
    return math.floor(min(max(place, 0.0), float(count - 1))) if math.isfinite(place) else (count - 1 if place > 0 else 0)


@dataclass
class Table:
    """The player table: which key has which place."""

    capacity: int
    places: dict[int, int] = field(default_factory=dict)

    @property
    def high(self) -> int:
        return max(self.places.values(), default=-1) + 1

    def add(self, key: int) -> int:
        free = [place for place in range(self.capacity) if place not in self.places.values()]
        if not free:
            return -1
        self.places[key] = free[0]
        return free[0]

    def free(self, keys: Sequence[int]) -> None:
        for key in keys:
            del self.places[key]


def gather(
    players: Sequence[tuple[int, int, bool, int]], sent: Sequence[tuple[int, int, int, int]]
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]]:
    """players: (key, last_seq, departed, session) in order of the table; sent: (key, seq, session's low half, number).

    Returns (chosen, still pending)."""
    chosen, kept = [], []
    sessions = {key: session % 65536 for key, _, _, session in players}
    pending = [row for row in sent if sessions.get(row[0]) == row[2]]
    for key, last_seq, departed, _ in players:
        following = [row for row in pending if row[0] == key and row[1] == last_seq + 1 and not departed]
        chosen.extend(following[:1])  # of several with one number: the first
    taken = {(row[0], row[1]) for row in chosen}
    here = {key: last_seq for key, last_seq, departed, _ in players if not departed}
    for row in pending:
        if row[0] in here and row[1] > here[row[0]] and (row[0], row[1]) not in taken:
            kept.append(row)
    return chosen, kept


# --- encode -------------------------------------------------------------------------------------------------------


class Handles:
    """Which entity has which handle; free ones wait in a queue."""

    def __init__(self, count: int) -> None:
        self.free = deque(range(count))
        self.of: dict[int, int] = {}
        self.failed = 0

    def tick(self, entities: Sequence[int]) -> list[tuple[int, bool]]:
        """Return (handle, fresh) of each entity that is there now; those that are gone give theirs back at the end."""
        answers, now = [], {}
        for entity in entities:
            fresh = entity not in self.of
            if not fresh:
                now[entity] = self.of[entity]
            elif self.free:
                now[entity] = self.free.popleft()
            else:
                self.failed += 1
                answers.append((-1, True))
                continue
            answers.append((now[entity], fresh))
        self.gone = {handle for entity, handle in self.of.items() if entity not in now}
        self.of = now
        return answers

    def returned(self, handles: Sequence[int]) -> None:
        """Handles of one tick come back in no particular order: take the kernel's, after checking that it is the same set."""
        assert set(handles) == self.gone
        self.free.extend(handles)


def level_of(value: float, lo: float, step: float, top: int) -> int:
    scaled = (value - lo) / step + 0.5
    if math.isnan(scaled):
        return 0
    if math.isinf(scaled):
        return top if scaled > 0 else 0
    return min(max(math.floor(scaled), 0), top)


def visible(points: Sequence[tuple[float, float]], x: float, y: float, radius: float) -> set[int]:
    found = set()
    for index, (px, py) in enumerate(points):
        dx, dy = px - x, py - y
        if dx * dx + dy * dy <= radius * radius:
            found.add(index)
    return found


def compare(
    seen: Sequence[int],
    had: Sequence[int],
    handle: Sequence[int],
    changed: Sequence[bool],
    new: Sequence[bool],
    near: Sequence[bool] | None = None,
) -> tuple[list[int], list[int], list[int]]:
    """seen: flat indices; had: handles. Returns (entering flat indices, updated flat indices, leaving handles)."""
    enters = [k for k in seen if handle[k] not in had or new[k]]
    updates = [k for k in seen if k not in enters and changed[k] and (near is None or near[k])]
    leaves = [h for h in had if h not in [handle[k] for k in seen]]
    return enters, updates, leaves


def websocket_frame(payload: bytes) -> bytes:
    """RFC 6455 section 5.2: final, binary, not masked."""
    n = len(payload)
    size = bytes((n,)) if n < 126 else b"\x7e" + n.to_bytes(2, "big") if n < 65_536 else b"\x7f" + n.to_bytes(8, "big")
    return b"\x82" + size + payload


def snapshot(zone: int, epoch: int, tick: int, flags: int, ack: int, me: int, parts: Sequence[bytes], wide: bool) -> bytes:
    """The message of docs/PROTOCOL.md; byte strings as bin 8 where empty, bin 32 where `wide`, else bin 16."""
    text = b"\x9c\x02" + b"".join(cast(bytes, msgpack.packb(number)) for number in (zone, epoch, tick, flags, ack, me))
    for part in parts:
        head = b"\xc6" + len(part).to_bytes(4, "big") if wide else b"\xc5" + len(part).to_bytes(2, "big")
        text += head + part if part else b"\xc4\x00"
    return text


def viewers(players: Sequence[dict[str, Any]], sights: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """players: rows of the table; sights: what each place was last sent. Returns who is sent a frame, in order of gateways."""
    listed = []
    for place, player in enumerate(players):
        if player["key"] and player["gateway"] and player["row"] >= 0:
            seen = sights[place]
            known = all(seen[name] == player[name] for name in ("key", "session", "gateway", "hop"))
            flags = 0 if known and not seen["force"] else 1
            if player["departed"]:
                flags |= 2 if player["leaving"] == 1 else 4
            listed.append({"place": place, "flags": flags, **{n: player[n] for n in ("gateway", "slot", "hop")}, "ack": player["last_seq"]})
    return sorted(listed, key=lambda viewer: viewer["gateway"])
