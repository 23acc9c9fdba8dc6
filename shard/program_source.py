"""The source of a game's program: the text of `step`, and with it of the tuples and functions that depend on the game.

Owns every word of the generated file but those of the encoder, of borders, of effects, and of who comes and goes, which are
shard.program_encoder_source's, shard.program_border_source's and so on. Returns text: never writes, compiles or runs it, and makes no
arrays. The same game gives the same bytes, since the build stamp is made of them. Called by shard.program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perdure.game.contract import Game
from perdure.game.schema import FieldSchema
from shard.kernels import layout
from shard.program_border_source import border_fields, border_source
from shard.program_effects_source import (
    EFFECTS_FIELDS,
    EffectParts,
    across_source,
    apply_effects,
    effect_tuples,
    effects_of_world,
    effects_source,
    post_replies,
)
from shard.program_encoder_source import ENCODER_FIELDS, encoder_source
from shard.program_passage_source import avatar_of, emigrate_source, inputs_source, logouts_source, refuse_source


class TableParts(NamedTuple):
    """Where the parts of a table end in its one array."""

    owned: int
    ghosts: int
    spawned: int
    """Its last row is for overflow."""
    arrivals: int


ENTRIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "step": (("Zone",), ()),
    "across": (("Zone",), ()),
    "state_hash": (("Zone",), ()),
    "gather_commands": (("Zone",), ("pending", "count", "best")),
    "encode": (("Zone", "Encoder"), ()),
    "keep_events": (("Zone", "Encoder"), ()),
    "more_frames": (("Zone", "Encoder"), ()),
    "note_passages": (("Zone", "Border"), ("keep_ticks", "linger_ticks")),
    "publish": (("Zone", "Border"), ("viewers", "near", "sight", "ends_at", "out")),
    "fill_ghosts": (("Zone", "Border"), ("store", "starts", "current", "fresh")),
}
"""What Python calls: name -> the tuples of arrays that it works on, and its other arguments."""
HEADER = '''"""Generated from game {name!r}; do not edit. See shard/program.py."""

import sys
from typing import Any, NamedTuple

import numpy as np

from perdure.game.jit import kernel, part_of_program
from shard.kernels.layout import *
from shard.kernels.state import *
from shard.kernels.put import *
from shard.kernels.encode import *
from shard.kernels.border import *
from shard.kernels.tables import view_at

_game = getattr(sys.modules[{module!r}], {variable!r})
'''


def generate(game: Game, module_name: str, variable: str, tables: Sequence[TableParts], effects: Sequence[EffectParts]) -> str:
    """Return the source of the program of a game that `variable` of a module holds; `tables`, `effects`: of its own, in their order."""
    parts = [HEADER.format(name=game.name, module=module_name, variable=variable)]
    parts += [f"game_{hook} = _game.hooks[{hook!r}]\n" for hook in sorted(game.hooks)]
    parts += [_tuples(game), refuse_source(game, tables), effects_source(game, effects), inputs_source(game, tables), _apply_commands(game)]
    parts += [emigrate_source(game), logouts_source(game, tables), _hash(game), _step(game, tables, effects)]
    parts += [across_source(game, _world(game, tables, effects, ghosts_too=True)), encoder_source(game), border_source(game, tables)]
    parts += [_entries(game)]
    return "\n".join(parts)


def _tuple(name: str, fields: list[str]) -> str:
    return f"\nclass {name}(NamedTuple):\n" + "".join(f"    {f}: Any\n" for f in fields)


def _array_fields(game: Game) -> dict[str, list[str]]:
    """Return the fields of each tuple of arrays, but for its table."""
    zone = [
        "meta", "floats", "counters", "players", "players_words", "player_index", "inputs", "commands", "out", "totals", "totals_words",
        "scratch", "ghost_keys", "heard",
    ]  # fmt: skip
    zone += [f"{e.name}_{part}" for e in game.entities for part in ("rows", "words")]
    zone += [f"{c.name}_given" for c in game.commands]
    zone += [f"{v.name}_{part}" for v in game.events for part in ("rows", "heard")]
    return {"Zone": [*zone, *effect_tuples(game)], "Encoder": ENCODER_FIELDS, "Border": border_fields(game)}


def _view(kind: str, field: str) -> str:
    """Return the name of the function that finds an array of a tuple by the tuple's table."""
    return f"{kind.lower()}_{field}"


def _tuples(game: Game) -> str:
    text = ""
    world = ["tick", "dt", "seed", "zone", "id_base", "x0", "y0", "x1", "y1", "width", "height", "counters", "totals"]
    for e in game.entities:
        text += _tuple(f"Table_{e.name}", ["rows", "ghosts", "spawned", "spawned_words", "count", "capacity"])
    for v in game.events:
        text += _tuple(f"Events_{v.name}", ["rows", "count"])
    for effect in game.effects:
        text += _tuple(f"Effects_{effect.name}", EFFECTS_FIELDS)
    world += [one.name for one in (*game.entities, *game.commands, *game.events, *game.effects)]
    text += _tuple("World", world)
    for kind, fields in _array_fields(game).items():
        text += _tuple(kind, [*fields, "table"])
        text += f"\n{kind.upper()}_TYPES = []\n"
        text += "".join(f"{_view(kind, field)} = view_at({kind.upper()}_TYPES, {k})\n" for k, field in enumerate(fields))
    return text


def _entries(game: Game) -> str:
    """Return the functions that Python calls: of tables of arrays (shard.kernels.tables), they call the function of their name."""
    text, fields = "", _array_fields(game)
    for name, (kinds, others) in ENTRIES.items():
        if name == "across" and name not in game.hooks:
            continue
        tables = [kind[0].lower() for kind in kinds]
        arrays = [
            f"{kind}({', '.join(f'{_view(kind, field)}({table})' for field in fields[kind])}, {table})"
            for kind, table in zip(kinds, tables, strict=True)
        ]
        text += f"\n\n@kernel\ndef {name}_at({', '.join([*tables, *others])}):\n    return {name}(\n"
        text += "".join(f"        {argument},\n" for argument in (*arrays, *others)) + "    )\n"
    return text


def _world(game: Game, tables: Sequence[TableParts], effects: Sequence[EffectParts], ghosts_too: bool = False) -> str:
    """Return the expression of the world that rules see; inline, since Numba cannot return a tuple that holds a record.

    Ghosts are no part of the state, so to rules that run from the log there are none.
    """
    lines = ["World("]
    lines.append("        meta[META_TICK], z.floats[FLOAT_DT], meta[META_SEED], meta[META_ZONE], meta[META_ID_BASE],")
    lines.append("        z.floats[FLOAT_X0], z.floats[FLOAT_Y0], z.floats[FLOAT_X1], z.floats[FLOAT_Y1], z.floats[FLOAT_WIDTH],")
    lines.append("        z.floats[FLOAT_HEIGHT], z.counters, z.totals[0],")
    index, _ = avatar_of(game)
    counts = layout.META_COUNTS
    for t, e in enumerate(game.entities):
        n, (owned, ghosts, spawned, _) = e.name, tables[t]
        at = counts + 2 * t
        shown = f" + meta[META_TABLE_GHOSTS + {t}]" if ghosts_too else ""
        lines.append(
            f"        Table_{n}(z.{n}_rows[: meta[META_TABLE_ROWS + {t}]], z.{n}_rows[{owned} : {owned}{shown}], "
            f"z.{n}_rows[{ghosts} : {spawned}], z.{n}_words[{ghosts} : {spawned}], meta[{at} : {at + 2}], {owned}),"
        )
    lines += [f"        z.{c.name}_given[: meta[META_TABLE_ROWS + {index}]]," for c in game.commands]
    for k, v in enumerate(game.events):
        at = counts + 2 * (len(game.entities) + k)
        lines.append(f"        Events_{v.name}(z.{v.name}_rows, meta[{at} : {at + 2}]),")
    lines += effects_of_world(game, effects)
    lines.append("    )")
    return "\n".join(lines)


def _apply_commands(game: Game) -> str:
    index, _ = avatar_of(game)
    clear, apply = "", ""
    for c in game.commands:
        names = "".join(f"\n        c_{c.name}.{f.name} = 0" for f in c.fields)
        clear += f"        c_{c.name} = z.{c.name}_given[i]\n        c_{c.name}.given = 0{names}\n"
    schema = game.schema()
    for c in schema.commands:
        offsets = {f.name: place[1] for f, place in zip(c.fields, (c.payload.fields or {}).values(), strict=True)}
        apply += f"        if kind == {c.kind}:\n            c_{c.name} = z.{c.name}_given[i]\n            c_{c.name}.given = 1\n"
        for f in c.fields:
            offset = layout.COMMAND_PAYLOAD_BYTE + offsets[f.name]
            apply += _read_field(f"c_{c.name}.{f.name}", f, offset)
    return f"""
@part_of_program
def apply_commands(z):
    meta = z.meta
    for i in range(meta[META_TABLE_ROWS + {index}]):
{clear or "        pass"}
    for k in range(meta[META_COMMANDS]):
        p = find_player(z.players, z.player_index, read_i64(z.commands, k, 0))
        if p < 0:
            continue
        player = z.players[p]
        player.last_seq = read_bits(z.commands, k, COMMAND_SEQ_BYTE, 4)
        i = player.row
        if i < 0:
            continue
        kind = z.commands[k, COMMAND_KIND_BYTE]
{apply}
"""


def _read_field(target: str, f: FieldSchema, offset: int) -> str:
    pad = " " * 12
    size = np.dtype(f.dtype).itemsize
    if f.dtype == "f4":
        return f"{pad}z.scratch[0] = read_bits(z.commands, k, {offset}, 4)\n{pad}{target} = z.scratch.view(np.float32)[0]\n"
    if f.dtype == "f8":
        return f"{pad}{target} = z.commands[k, {offset} : {offset + 8}].copy().view(np.float64)[0]\n"
    if f.dtype == "i8":
        return f"{pad}{target} = read_i64(z.commands, k, {offset})\n"
    reader = "read_signed" if f.dtype[0] == "i" else "read_bits"
    return f"{pad}{target} = {reader}(z.commands, k, {offset}, {size})\n"


def _hash(game: Game) -> str:
    lines = ["", "@part_of_program", "def state_hash(z):", "    meta = z.meta", "    h = hash_start(meta[META_TICK])"]
    lines.append("    for k in range(len(z.counters)):\n        h = hash_value(h, np.uint64(z.counters[k]))")
    lines.append("    h = hash_words(h, z.totals_words, 1)")
    lines.append("    h = hash_words(h, z.players_words, meta[META_PLAYERS_HIGH])")
    lines += [f"    h = hash_words(h, z.{e.name}_words, meta[META_TABLE_ROWS + {t}])" for t, e in enumerate(game.entities)]
    if game.effects:
        lines.append("    h = hash_words(h, z.departures_words, min(z.counters[COUNTER_DEPARTURES], len(z.departures_words)))")
    return "\n".join([*lines, "    return h\n"])


def _step(game: Game, tables: Sequence[TableParts], effects: Sequence[EffectParts]) -> str:
    index, a = avatar_of(game)
    purge = "".join(f"    meta[META_TABLE_ROWS + {t}] = purge(z.{e.name}_words, meta[META_TABLE_ROWS + {t}])\n"
                    for t, e in enumerate(game.entities))  # fmt: skip
    start = "    if meta[META_TICK] == 1:\n        game_start(w)\n" if "start" in game.hooks else ""
    merge = "".join(
        f"    for k in range(meta[META_COUNTS + {2 * t}]):\n"
        f"        n = meta[META_TABLE_ROWS + {t}]\n"
        f"        n = append_row(z.{e.name}_words[: {tables[t].owned}], n, z.{e.name}_words, {tables[t].ghosts} + k)\n"
        f"        meta[META_TABLE_ROWS + {t}] = n\n"
        for t, e in enumerate(game.entities)
    )
    emigrate = "".join(f"    emigrate_{e.name}(z)\n" for e in game.entities)
    return f'''
@part_of_program
def step(z):
    """One tick: free what departed, apply inbox entries and commands, run the rules, see who leaves; return the state's hash."""
    meta = z.meta
    meta[META_TICK] += 1
    meta[META_OUT] = 0
{purge}    meta[META_COUNTS:] = 0
{"    z.effect_counts[:, EFFECT_REPLIES:] = 0" + chr(10) if game.effects else ""}\
    meta[META_PLAYERS_HIGH] = free_departed(z.players, z.players_words, meta[META_PLAYERS_HIGH])
    for i in range(meta[META_TABLE_ROWS + {index}]):
        if z.{a}_rows[i].player >= 0:
            z.players[z.{a}_rows[i].player].row = i
    index_players(z.players, meta[META_PLAYERS_HIGH], z.player_index)
    w = {_world(game, tables, effects)}
    apply_inputs(z, w)
{post_replies(game, effects)}{apply_effects(game)}    apply_commands(z)
    w = {_world(game, tables, effects)}
{start}    game_tick(w)
{merge}    logouts(z, w)
{emigrate}    return state_hash(z)


@part_of_program
def gather_commands(z, pending, count, best):
    """Choose this tick's commands out of the pending rows into z.commands; return (chosen, still pending)."""
    meta = z.meta
    index_players(z.players, meta[META_PLAYERS_HIGH], z.player_index)
    chosen, kept = gather(z.players, z.player_index, pending, count, best[: meta[META_PLAYERS_HIGH]], z.commands)
    meta[META_COMMANDS] = chosen
    return chosen, kept
'''
