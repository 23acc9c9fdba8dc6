"""Encode: the kernel that makes every player's frame, against copying the same bytes in the same pattern.

The floor is a compiled loop that makes the same frames, byte for byte, out of ready pieces: for each viewer what stands before the update
records, each record from where the encoder keeps it, and what stands behind them; nothing else is done. No interest, no comparison with
what was sent, no headers. Two of them: `memcpy` for each piece, which a compiled program would call, and whole words (`copy_words`, which
the encoder copies records with, and may since room is kept behind them: faster for pieces of seven bytes). `ratio`, with the bar, is to
`memcpy`; `words_ratio` is to the other.
Both are warm, the kernel finds its caches as a tick leaves them. Processor time; medians over the rounds, all within each round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks._arena_zone import ArenaZone, arena
from benchmarks._copies import copied_by_memcpy, copied_by_words
from benchmarks._playing import console
from perdure.game.jit import kernel
from shard.kernels import layout
from shard.kernels.encode import visible_from

BAR = 6.0


@kernel
def list_pieces(e: Any, views: Any, counts: Any, mark: Any, visible: Any, edges: Any, records_at: Any, pieces: Any, area: Any) -> Any:
    """Fill `pieces` with what a tick's frames consist of: places in the frames, with the update records behind them at `records_at`.

    views, counts: what viewers had before the tick. edges: int64[viewers, 3], the length of a frame, and of what stands in it before and
    behind its update records. area: x0, y0 and radius. Return how many.
    """
    count, begin = 0, np.int64(0)
    for v in range(e.state[layout.ENC_VIEWERS]):
        who = e.viewers[v]
        had = 0 if who.flags & layout.FLAG_KEYFRAME else counts[who.place]
        for k in range(had):
            mark[views[who.place, k]] = 1
        pieces[count, 0], pieces[count, 1] = begin, edges[v, 1]
        count += 1
        own = np.int64(e.flat[e.sights[who.place].flat].sorted)
        found = visible_from(e.state, e.cell_start, e.ordered, visible, own, who.x, who.y, area[2], area[0], area[1], area[2])
        for k in range(found):
            one = e.ordered[visible[k]]
            if one.update_length > 0 and mark[one.handle] != 0:
                pieces[count, 0] = records_at + np.int64(one.flat) * e.state[layout.ENC_UPDATE_STRIDE]
                pieces[count, 1] = one.update_length
                count += 1
        for k in range(had):
            mark[views[who.place, k]] = 0
        begin += edges[v, 0]
        pieces[count, 0], pieces[count, 1] = begin - edges[v, 2], edges[v, 2]
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick's encoding: its processor time, and the frames as pieces to copy."""

    took_s: float
    pieces: npt.NDArray[np.int64]
    source: npt.NDArray[np.uint8]
    frames: npt.NDArray[np.uint8]


def run(players: int = 2000, rounds: int = 9, repeats: int = 5) -> dict[str, Any]:
    """Time both for `rounds` ticks of an arena zone, `repeats` times each floor for each."""
    with console.status("kernels"):
        program = arena()
    with console.status(f"{players} players come"):
        zone = ArenaZone(program, players)
    floors: dict[str, Callable[..., Any]] = {"memcpy": copied_by_memcpy, "words": copied_by_words}
    kernel_s: list[float] = []
    floor_s: dict[str, list[float]] = {name: [] for name in floors}
    gc.disable()
    try:
        tick = _tick(zone)
        for copy in floors.values():
            _copied_in(copy, tick, 1)  # which compiles it
        for _ in range(rounds):
            tick = _tick(zone)
            kernel_s.append(tick.took_s)
            for name, copy in floors.items():
                floor_s[name].append(_copied_in(copy, tick, repeats))
    finally:
        gc.enable()
    ratios = {name: median(a / b for a, b in zip(kernel_s, found, strict=True)) for name, found in floor_s.items()}
    ratio, length = ratios["memcpy"], len(tick.frames)
    return {
        "ratio": round(ratio, 2), "bar": BAR, "words_ratio": round(ratios["words"], 2), "kernel_ms": round(median(kernel_s) * 1e3, 3),
        **{f"floor_{name}_ms": round(median(found) * 1e3, 3) for name, found in floor_s.items()},
        "update_bytes": length - int(tick.pieces[tick.pieces[:, 0] < length, 1].sum()), "frame_bytes": length, "pieces": len(tick.pieces),
        "players": players, "rounds": rounds, "passed": ratio <= BAR,
    }  # fmt: skip


def _copied_in(copy: Callable[..., Any], tick: Tick, repeats: int) -> float:
    """Return the seconds of one floor, and make sure that what it makes are the frames."""
    out = np.zeros(len(tick.frames) + layout.WORD, np.uint8)
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        copy(tick.pieces, len(tick.pieces), tick.source, out)
        times.append(time.thread_time() - began)
    assert np.array_equal(out[: len(tick.frames)], tick.frames), "the floor copies the very bytes that the kernel made"
    return median(times)


def _tick(zone: ArenaZone) -> Tick:
    """Run a tick; time the encoding kernel alone."""
    views, counts = zone.encoder.views.copy(), zone.encoder.sights["count"].astype(np.int64)
    zone.before()
    zone.step()
    zone.encoder.state[layout.ENC_EPOCH] = zone.zone.epoch
    began = time.thread_time()
    zone.program.encode(zone.zone.arrays, zone.encoder)
    took_s = time.thread_time() - began
    assert zone.state(layout.ENC_NEXT_VIEWER) == zone.state(layout.ENC_VIEWERS), "all frames fit into the buffer"
    zone.after()
    frames = zone.encoder.out[: zone.state(layout.ENC_OUT_USED)].copy()
    source = np.concatenate([frames, zone.encoder.update_bytes, np.zeros(layout.WORD, np.uint8)])
    return Tick(took_s, _pieces(zone, views, counts, frames), source, frames)


def _pieces(
    zone: ArenaZone, views: npt.NDArray[np.uint16], counts: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    e, floats = zone.encoder, zone.zone.arrays.floats
    radius = floats[layout.FLOAT_INTEREST]
    area = np.array([floats[layout.FLOAT_X0] - radius, floats[layout.FLOAT_Y0] - radius, radius])
    limit = zone.program.game.max_visible
    edges = _edges(frames, e.entries["length"][: zone.state(layout.ENC_VIEWERS)])
    pieces = np.zeros((len(edges) * (limit + 2), 2), np.int64)
    count = list_pieces(e, views, counts, np.zeros_like(e.mark), np.zeros(limit, np.int32), edges, len(frames), pieces, area)
    return pieces[: int(count)].copy()


def _edges(frames: npt.NDArray[np.uint8], lengths: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Return for each frame its length, and how much of it stands before its update records, and behind them (docs/PROTOCOL.md)."""
    data, at, edges = frames.tobytes(), 0, []
    for length in lengths.tolist():
        header = 4 if data[at + 1] == 126 else 2
        *_, updates, leaves, events, owner = msgspec.msgpack.decode(data[at + header : at + length])
        behind = sum(len(part) + (3 if part else 2) for part in (leaves, events, owner))  # with the head of each byte string
        edges.append((length, length - behind - len(updates), behind))
        at += length
    return np.array(edges, np.int64)
