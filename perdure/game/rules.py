"""What a game's rules may call inside a tick: spawn, despawn, emit, reach, reply, random numbers. All compiled, all deterministic.

`w` is the world as a tick sees it (see contract.Game). Rows are records: `ship.x += 1` writes through.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel, part_of_program

COUNT_SPAWNED = 0
COUNT_SPAWN_FAILED = 1
COUNTER_NEXT_ID = 0
COUNT_PROPOSED, COUNT_NOT_PROPOSED, COUNT_REPLIES, COUNT_NOT_REPLIED = range(4)
GHOST_PLAYER = -2
"""A ghost's `player` is GHOST_PLAYER - the zone that owns it."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SALT = np.uint64(0xD6E8FEB86659FD93)
_TICK = np.uint64(0xA0761D6478BD642F)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_UNIT = 1.0 / 9007199254740992.0


@kernel
def mix64(value: Any) -> Any:
    """Return the splitmix64 finaliser of a uint64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)


@part_of_program
def rand(w: Any, who: Any, salt: Any) -> Any:
    """Return a float64 in [0, 1), a pure function of (seed, tick, who, salt).

    `who` is an entity's id (or any non-negative integer), `salt` tells several draws of one entity and tick apart.
    """
    state = np.uint64(w.seed) + np.uint64(w.tick) * _TICK
    state = mix64(state + np.uint64(who) * _GOLDEN)
    state = mix64(state + np.uint64(salt) * _SALT)
    return np.float64(state >> _S11) * _UNIT


@part_of_program
def rand_int(w: Any, who: Any, salt: Any, n: Any) -> Any:
    """Return an integer from 0 to n - 1 (see `rand`)."""
    return np.int64(rand(w, who, salt) * n)


@part_of_program
def spawn(w: Any, table: Any) -> Any:
    """Make a new entity and return its row, all zero but for its id; it joins the table when the tick is over.

    Where the table's spawn buffer is full the row goes nowhere, and `spawn_failed` counts it.
    """
    at = table.count[COUNT_SPAWNED]
    last = table.spawned.shape[0] - 1
    if at >= last:
        table.count[COUNT_SPAWN_FAILED] += 1
        at = last
    else:
        table.count[COUNT_SPAWNED] = at + 1
    for k in range(table.spawned_words.shape[1]):
        table.spawned_words[at, k] = np.uint64(0)
    row = table.spawned[at]
    w.counters[COUNTER_NEXT_ID] += 1
    row.id = w.id_base + w.counters[COUNTER_NEXT_ID]
    row.player = -1
    return row


@part_of_program
def room(table: Any) -> Any:
    """Return how many entities may still be spawned into a table in this tick."""
    free = table.capacity - len(table.rows) - table.count[COUNT_SPAWNED]
    buffer = table.spawned.shape[0] - 1 - table.count[COUNT_SPAWNED]
    return max(min(free, buffer), 0)


@part_of_program
def despawn(row: Any) -> None:
    """Remove an entity when the tick is over; until then it stays in its table with `row.dead` set."""
    row.dead = 1


@part_of_program
def emit(w: Any, events: Any, x: Any, y: Any) -> Any:
    """Tell everyone within the event's radius of (x, y); return the event's row to fill in. Past the buffer, dropped."""
    at = events.count[0]
    last = events.rows.shape[0] - 1
    if at >= last:
        events.count[1] += 1
        at = last
    else:
        events.count[0] = at + 1
    row = events.rows[at]
    row.at_x = x
    row.at_y = y
    return row


@kernel
def clear_effect(words: Any, at: Any) -> None:
    """Set an effect to zero."""
    for k in range(words.shape[1]):
        words[at, k] = np.uint64(0)


@part_of_program
def reach(w: Any, effects: Any, source: Any, target: Any) -> Any:
    """In `across`: propose an effect of an own row on a ghost, and return it to be filled in.

    Past the effect's capacity, or where the source is going, it goes nowhere; it may be proposed again after the next tick.
    """
    at = effects.count[COUNT_PROPOSED]
    last = effects.proposed.shape[0] - 1
    if at >= last or source.dead != 0:
        effects.count[COUNT_NOT_PROPOSED] += 1
        at = last
    else:
        effects.count[COUNT_PROPOSED] = at + 1
    clear_effect(effects.proposed_words, at)
    row = effects.proposed[at]
    row.source = source.id
    row.target = target.id
    row.source_zone = w.zone
    row.target_zone = w.zone if target.player > GHOST_PLAYER else GHOST_PLAYER - target.player
    return row


@part_of_program
def reply(w: Any, effects: Any, effect: Any) -> Any:
    """In the hook that takes an effect: answer its source with another one, and return that to be filled in.

    One answer to each; a second one goes nowhere.
    """
    at = effects.count[COUNT_REPLIES]
    last = effects.replies.shape[0] - 1
    if at >= last or effect.replied != 0:
        effects.count[COUNT_NOT_REPLIED] += 1
        at = last
    else:
        effects.count[COUNT_REPLIES] = at + 1
    effect.replied = 1
    clear_effect(effects.replies_words, at)
    row = effects.replies[at]
    row.source = effect.target
    row.target = effect.source
    row.source_zone = w.zone
    row.target_zone = effect.source_zone
    return row
