"""Encode: the kernel that makes every player's frame, against copying the same bytes in the same pattern.

The floor is a compiled loop that copies, for each viewer, the update record of each entity in sight from where the encoder keeps it to
where the frame has it: the same pieces, of the same lengths, in the same order, and nothing else. No interest, no comparison with what
was sent, no headers. Medians over the rounds, both within each round.
"""

from __future__ import annotations

import gc
import time
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._arena_zone import ArenaZone, arena
from benchmarks._playing import console
from perdure.game.jit import kernel
from shard.kernels import layout
from shard.kernels.encode import put_bytes, visible_from

BAR = 6.0


@kernel
def copy_pieces(pieces: Any, count: Any, source: Any, out: Any) -> Any:
    """Copy `count` pieces (int64[n, 2]: start, length) of `source`, one behind the other; return the place behind the last."""
    at = 0
    for k in range(count):
        at = put_bytes(out, at, source, pieces[k, 0], pieces[k, 1])
    return at


@kernel
def list_pieces(
    state: Any, cell_start: Any, ordered: Any, flat: Any, sights: Any, viewers: Any, visible: Any, pieces: Any, area: Any
) -> Any:
    """Fill `pieces` with what the frames of a tick copy of the update records; area: x0, y0 and radius. Return how many."""
    count = 0
    for v in range(state[layout.ENC_VIEWERS]):
        who = viewers[v]
        own = np.int64(flat[sights[who.place].flat].sorted)
        found = visible_from(state, cell_start, ordered, visible, own, who.x, who.y, area[2], area[0], area[1], area[2])
        for k in range(found):
            index = np.int64(ordered[visible[k]].flat)
            if flat[index].update_length > 0:
                pieces[count, 0] = index * state[layout.ENC_UPDATE_STRIDE]
                pieces[count, 1] = flat[index].update_length
                count += 1
    return count


def run(players: int = 2000, rounds: int = 9, repeats: int = 5) -> dict[str, Any]:
    """Time both for `rounds` ticks of an arena zone, `repeats` times the floor for each."""
    with console.status("kernels"):
        program = arena()
    with console.status(f"{players} players come"):
        zone = ArenaZone(program, players)
    pieces = np.zeros((players * program.game.max_visible, 2), np.int64)
    out = np.zeros(len(pieces) * int(zone.encoder.state[layout.ENC_UPDATE_STRIDE]), np.uint8)
    visible = np.zeros(program.game.max_visible, np.int32)
    kernel_s, floor_s, ratios, copied = [], [], [], 0
    gc.disable()
    try:
        for number in range(rounds + 1):
            took_s = _encoded_in(zone)
            count = _pieces(zone, visible, pieces)
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                copied = int(copy_pieces(pieces, count, zone.encoder.update_bytes, out))
                times.append(time.perf_counter() - began)
            if number:  # the first compiles
                kernel_s.append(took_s)
                floor_s.append(median(times))
                ratios.append(took_s / median(times))
    finally:
        gc.enable()
    return {
        "ratio": round(median(ratios), 2), "bar": BAR, "kernel_ms": round(median(kernel_s) * 1e3, 3),
        "floor_ms": round(median(floor_s) * 1e3, 3),
        "update_bytes": copied, "frame_bytes": int(zone.encoder.entries["length"][:players].sum()), "players": players, "rounds": rounds,
        "passed": median(ratios) <= BAR,
    }  # fmt: skip


def _encoded_in(zone: ArenaZone) -> float:
    """Run a tick; return the seconds of the encoding kernel alone."""
    zone.before()
    zone.step()
    zone.encoder.state[layout.ENC_EPOCH] = zone.zone.epoch
    began = time.perf_counter()
    zone.program.encode(zone.zone.arrays, zone.encoder)
    took_s = time.perf_counter() - began
    assert zone.state(layout.ENC_NEXT_VIEWER) == zone.state(layout.ENC_VIEWERS), "all frames fit into the buffer"
    zone.after()
    return took_s


def _pieces(zone: ArenaZone, visible: npt.NDArray[np.int32], pieces: npt.NDArray[np.int64]) -> int:
    e, floats = zone.encoder, zone.zone.arrays.floats
    radius = floats[layout.FLOAT_INTEREST]
    area = np.array([floats[layout.FLOAT_X0] - radius, floats[layout.FLOAT_Y0] - radius, radius])
    return int(list_pieces(e.state, e.cell_start, e.ordered, e.flat, e.sights, e.viewers, visible, pieces, area))
