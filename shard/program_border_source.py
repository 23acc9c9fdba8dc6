"""The source of a game's border: the part of its program that tells neighbours of rows, and takes what they tell for ghosts.

Owns what the text says of tables and events; the loops are shard.kernels.border's. Returns text: never compiles or runs it, makes no
arrays. Called by shard.program_source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.game.contract import Game

if TYPE_CHECKING:
    from shard.program_source import TableParts


def border_fields(game: Game) -> list[str]:
    """Return the fields of the tuple of a zone's border arrays."""
    tables = [f"{e.name}_{part}" for e in game.entities for part in ("frozen", "looks", "times")]
    events = [f"{v.name}_{part}" for v in game.events for part in ("told_words", "heard_words")]
    return ["state", "mapped", "settled", "settled_times", *tables, *events]


def border_source(game: Game, tables: Sequence[TableParts]) -> str:
    """Return the source of `note_passages`, `publish` and `fill_ghosts`."""
    return _note(game, tables) + _publish(game) + _fill(game, tables)


def _note(game: Game, tables: Sequence[TableParts]) -> str:
    drop = frozen = settled = ""
    for t, e in enumerate(game.entities):
        n, store = e.name, f"b.{e.name}_frozen, b.{e.name}_times, state[BORDER_FROZEN + {t}]"
        drop += f"    state[BORDER_FROZEN + {t}] = drop_frozen({store}, 1 + z.{n}_words.shape[1], tick, keep_ticks, linger_ticks)\n"
        frozen += f"""        if out.type == {t}:
            state[BORDER_FROZEN + {t}] = keep_frozen(z.{n}_words, np.int64(out.row), key, np.int64(out.target), {store}, tick)
"""
        settled += f"""        if e.type == {t}:
            row = {tables[t].spawned} + np.int64(e.arrival)
            keep_settled(state, b.settled, b.settled_times, z.{n}_words[row, 0], z.{n}_words[row, 1], tick)
"""
    return f'''
@part_of_program
def note_passages(z, b, keep_ticks, linger_ticks):
    """Remember the last look of what left over a border in the last tick, and who came; forget what is old. Once a tick."""
    meta, state = z.meta, b.state
    tick = meta[META_TICK]
    if state[BORDER_NOTED_TICK] == tick:
        return
    state[BORDER_NOTED_TICK] = tick
{drop}    drop_settled(state, b.settled, b.settled_times, tick, keep_ticks)
    for k in range(meta[META_OUT]):
        out = z.out[k]
        if out.kind != OUT_CROSS:
            continue
        key = np.int64(0)
        if out.player >= 0:
            key = np.int64(z.players[out.player].key)
{frozen}    for k in range(meta[META_INPUTS]):
        e = z.inputs[k]
        if e.kind != KIND_ARRIVE or e.arrival < 0 or is_refused(z.out, meta[META_OUT], k):
            continue
{settled}'''


def _publish(game: Game) -> str:
    tables, events = len(game.entities), len(game.events)
    live = frozen = told = ""
    for t, e in enumerate(game.entities):
        live += f"""        out[ends + {1 + t}] = np.uint64(max(at - start, 0))
        count = meta[META_TABLE_ROWS + {t}]
        at = put_live(out, at, meta[META_ZONE], z.{e.name}_rows, z.{e.name}_words, count, z.players, near[k], {e.options["ghosts"]})
"""
        frozen += f"""        out[ends + {1 + tables + t}] = np.uint64(max(at - start, 0))
        at = put_frozen(out, at, b.{e.name}_looks, b.{e.name}_frozen, state[BORDER_FROZEN + {t}], near[k])
"""
    for v, event in enumerate(game.events):
        count = f"meta[META_COUNTS + {2 * (tables + v)}]"
        told += f"""        out[ends + {1 + 2 * tables + v}] = np.uint64(max(at - start, 0))
        at = put_told(out, at, z.{event.name}_rows, b.{event.name}_told_words, {count}, near[k], {event.options["radius"]!r} - sight)
"""
    sections = 1 + 2 * tables + events
    return f'''
@part_of_program
def publish(z, b, viewers, near, sight, ends_at, out):
    """Write the feed of the last tick for each of `viewers` (zones) into `out`, one behind the other; note where each ends.

    near: float64[viewers, 5]: the viewer's rectangle, and how far from it rows are told; sight: of that, how far players see.
    Return whether all found room in `out`.
    """
    meta, state = z.meta, b.state
    at = np.int64(0)
    for k in range(len(viewers)):
        start = at
        ends = at + FEED_SECTIONS
        if at < 0 or ends + {sections + 1} > len(out):
            return False
        out[at + FEED_DIGEST] = np.uint64(state[BORDER_DIGEST])
        out[at + FEED_SOURCE] = np.uint64(meta[META_ZONE])
        out[at + FEED_VIEWER] = np.uint64(viewers[k])
        out[at + FEED_GENERATION] = np.uint64(state[BORDER_GENERATION])
        out[at + FEED_EPOCH] = np.uint64(state[BORDER_EPOCH])
        out[at + FEED_TICK] = np.uint64(meta[META_TICK])
        out[at + FEED_INTERVAL_US] = np.uint64(state[BORDER_INTERVAL_US])
        at = ends + {sections + 1}
        out[ends] = np.uint64(at - start)
        at = put_words(out, at, b.settled, 2 * state[BORDER_SETTLED])
{live}{frozen}{told}        if at < 0:
            return False
        out[ends + {sections}] = np.uint64(at - start)
        ends_at[k] = at
    return True
'''


def _fill(game: Game, tables: Sequence[TableParts]) -> str:
    count = len(game.entities)
    live = frozen = own = heard = shown = ""
    for t, e in enumerate(game.entities):
        keys = "z.ghost_keys" if e.options["avatar"] else "z.ghost_keys[:0]"
        ghosts = f"z.{e.name}_words[{tables[t].owned} : {tables[t].ghosts}]"
        shown += f"    meta[META_TABLE_GHOSTS + {t}] = 0\n"
        for name, section in (("live", 1 + t), ("frozen", 1 + count + t)):
            text = f"""            first, last = start + np.int64(store[ends + {section}]), start + np.int64(store[ends + {section + 1}])
            n = show_rows(state, b.mapped, {ghosts}, meta[META_TABLE_GHOSTS + {t}], {keys}, store, first, last, {int(name == "live")})
            meta[META_TABLE_GHOSTS + {t}] = n
"""
            live, frozen = (live + text, frozen) if name == "live" else (live, frozen + text)
        own += f"""    n = show_frozen(
        state, b.mapped, {ghosts}, meta[META_TABLE_GHOSTS + {t}], {keys}, b.{e.name}_frozen, b.{e.name}_times,
        state[BORDER_FROZEN + {t}], meta[META_TICK],
    )
    meta[META_TABLE_GHOSTS + {t}] = n
"""
    for v, event in enumerate(game.events):
        at = f"start + np.int64(store[ends + {1 + 2 * count + v}]), start + np.int64(store[ends + {2 + 2 * count + v}])"
        heard += f"            z.heard[{v}] = hear(b.{event.name}_heard_words, z.heard[{v}], store, {at})\n"
    return f'''
@part_of_program
def fill_ghosts(z, b, store, starts, current, fresh):
    """Fill the ghost rows with the best copies of `current` feeds and of what left here; hear the events of those that are `fresh`.

    store: the feeds, one behind the other, of which `starts` says where each begins.
    """
    meta, state = z.meta, b.state
    state[BORDER_STAMP] += 1
    state[BORDER_MAPPED] = 0
{shown}    for v in range(len(z.heard)):
        z.heard[v] = 0
    note_settled(state, b.mapped, b.settled, 0, 2 * state[BORDER_SETTLED])
    for k in range(len(starts)):
        start, ends = starts[k], starts[k] + FEED_SECTIONS
        if current[k]:
            note_settled(state, b.mapped, store, start + np.int64(store[ends]), start + np.int64(store[ends + 1]))
    for k in range(len(starts)):
        start, ends = starts[k], starts[k] + FEED_SECTIONS
        if current[k]:
{live or "            pass"}    for k in range(len(starts)):
        start, ends = starts[k], starts[k] + FEED_SECTIONS
        if current[k]:
{frozen or "            pass"}{own}    for k in range(len(starts)):
        start, ends = starts[k], starts[k] + FEED_SECTIONS
        if fresh[k]:
{heard or "            pass"}'''
