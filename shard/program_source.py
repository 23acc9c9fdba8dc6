"""The source of a game's program: the text of `step`, and with it of the tuples and functions that depend on the game.

Owns every word of the generated file but those of the encoder, which are shard.program_encoder_source's, and those of effects, which
are shard.program_effects_source's. Returns text: never writes, compiles or runs it, and makes no arrays. The same game gives the same
bytes, since the build stamp is made of them. Called by shard.program.
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


class TableParts(NamedTuple):
    """Where the parts of a table end in its one array."""

    owned: int
    ghosts: int
    spawned: int
    """Its last row is for overflow."""
    arrivals: int


STAY_S = 0.5
"""Who is back from a zone that had no room goes there again after so many seconds of ticks. It takes part in the game meanwhile, and can
turn round: on the way there and back, two ticks or more, it is nowhere, and none of its commands is applied."""

FEWEST_STAYED = 3
"""Ticks, however slow they are: commands that were on their way meanwhile come for the second."""

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
    parts += [_tuples(game), _refuse(game, tables), effects_source(game, effects), _apply_inputs(game, tables), _apply_commands(game)]
    parts += [_emigrate(game), _logouts(game, tables), _hash(game), _step(game, tables, effects)]
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


def _avatar(game: Game) -> tuple[int, str]:
    return next((i, e.name) for i, e in enumerate(game.entities) if e.options["avatar"])


def _world(game: Game, tables: Sequence[TableParts], effects: Sequence[EffectParts], ghosts_too: bool = False) -> str:
    """Return the expression of the world that rules see; inline, since Numba cannot return a tuple that holds a record.

    Ghosts are no part of the state, so to rules that run from the log there are none.
    """
    lines = ["World("]
    lines.append("        meta[META_TICK], z.floats[FLOAT_DT], meta[META_SEED], meta[META_ZONE], meta[META_ID_BASE],")
    lines.append("        z.floats[FLOAT_X0], z.floats[FLOAT_Y0], z.floats[FLOAT_X1], z.floats[FLOAT_Y1], z.floats[FLOAT_WIDTH],")
    lines.append("        z.floats[FLOAT_HEIGHT], z.counters, z.totals[0],")
    index, _ = _avatar(game)
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


def _targets(game: Game) -> set[str]:
    """Return the names of the entities that effects may have for their targets."""
    return {e.options["target"] for e in game.effects}


def _note_departure(entity: str, target: str) -> str:
    count = "z.counters[COUNTER_DEPARTURES]"
    return f"{count} = note_departure(z.departures, {count}, {entity}, {target})\n"


def _on_the_way(game: Game, tables: Sequence[TableParts], hook: str, entry: str, indent: int) -> str:
    """Return the call of a hook for the row of a player who has arrived, with `entry`, and finds no room."""
    index, avatar = _avatar(game)
    if hook not in game.hooks:
        return ""
    lines = [
        f"if {entry}.kind == KIND_ARRIVE:",
        f"    row = z.{avatar}_rows[{tables[index].spawned} + {entry}.arrival]",
        "    row.dead = 0",
        f"    game_{hook}(w, row)",
        "    row.dead = DEAD_DEPARTED",
    ]
    return "".join(f"{' ' * indent}{line}\n" for line in lines)


def _refuse(game: Game, tables: Sequence[TableParts]) -> str:
    noted = "".join(
        f"    if target >= 0 and z.inputs[k].type == {t} and z.inputs[k].arrival >= 0:\n"
        f"        {_note_departure(f'z.{e.name}_rows[{tables[t].spawned} + z.inputs[k].arrival].id', 'target')}"
        for t, e in enumerate(game.entities) if e.name in _targets(game)
    )  # fmt: skip
    resume = _on_the_way(game, tables, "resume", "back", 8)
    return f'''
@part_of_program
def refuse(z, k, target):
    """Inbox entry k finds no room: send it back to `target` (its origin, or the lobby)."""
    meta = z.meta
{noted}    at = meta[META_OUT]
    out = z.out[at]
    out.kind = OUT_REFUSED
    out.target = target
    out.type = z.inputs[k].type
    out.row = -1
    out.player = -1
    out.entry = k
    meta[META_OUT] = at + 1


@part_of_program
def refused(z, player):
    """Return the out row of a player whom this page brings and who finds no room, or -1."""
    for at in range(z.meta[META_OUT]):
        if z.out[at].kind == OUT_REFUSED and z.inputs[z.out[at].entry].player == player:
            return at
    return -1


@part_of_program
def mark_resumed_on_the_way(back, e):
    back.session = e.session
    back.gateway = e.gateway
    back.slot = e.slot
    back.leaving = 0


@part_of_program
def refuse_player(z, k):
    """Inbox entry k brings a player who finds no room. Of two that the page brings of one player, the later move goes back."""
    e = z.inputs[k]
    target = e.origin if e.kind == KIND_ARRIVE else LOBBY
    at = refused(z, e.player)
    if at < 0:
        refuse(z, k, target)
    elif e.hop > z.inputs[z.out[at].entry].hop:
        z.inputs[z.out[at].entry].kind = 0  # as if it had not come
        z.out[at].entry = k
        z.out[at].target = target
    else:
        if e.session > z.inputs[z.out[at].entry].session:
            mark_resumed_on_the_way(z.inputs[z.out[at].entry], e)
        z.inputs[k].kind = 0


@part_of_program
def tell_refused(z, w, k):
    """Inbox entry k is for a player who is not here. Who found no room goes back as the entries behind it in the page leave it."""
    e = z.inputs[k]
    at = refused(z, e.player) if e.player != 0 else -1
    if at < 0:
        return
    back = z.inputs[z.out[at].entry]
    if e.kind == KIND_ATTACH and e.session > back.session:
        mark_resumed_on_the_way(back, e)
{resume}    if e.kind == KIND_DETACH and e.session == back.session:
        back.gateway = 0
    if e.kind == KIND_KICK or (e.kind == KIND_LEAVE and e.session == back.session):
        back.leaving = 1


@part_of_program
def detach_refused(z, gateway):
    """A gateway is lost: who found no room in this tick, and was attached to it, goes back without a socket."""
    for at in range(z.meta[META_OUT]):
        if z.out[at].kind == OUT_REFUSED:
            back = z.inputs[z.out[at].entry]
            if back.player != 0 and back.gateway == gateway:
                back.gateway = 0


@part_of_program
def mark_resumed(player, e):
    player.session = e.session
    player.gateway = e.gateway
    player.slot = e.slot
    player.detached_at = 0
    player.leaving = 0  # who comes back in the very tick in which they go, stays
'''


def _apply_inputs(game: Game, tables: Sequence[TableParts]) -> str:
    index, avatar = _avatar(game)
    a = avatar
    resume = f"                if player.row >= 0:\n                    game_resume(w, z.{a}_rows[player.row])\n"
    resume = resume if "resume" in game.hooks else ""
    join = "        game_join(w, row, e.arrival >= 0)\n" if "join" in game.hooks else ""
    owned, _, arrivals, _ = tables[index]
    stay = max(round(STAY_S * game.tick_hz), FEWEST_STAYED)
    others = ""
    for t, e in enumerate(game.entities):
        owned_e, _, arrivals_e, _ = tables[t]
        others += f"""
        if e.kind == KIND_ARRIVE and e.player == 0 and e.type == {t}:
            n = meta[META_TABLE_ROWS + {t}]
            if n >= {owned_e}:
                refuse(z, k, e.origin)
            else:
                meta[META_TABLE_ROWS + {t}] = append_row(z.{e.name}_words[:{owned_e}], n, z.{e.name}_words, {arrivals_e} + e.arrival)
                z.{e.name}_rows[n].dead = 0
                z.{e.name}_rows[n].player = -1"""
    for k, effect in enumerate(game.effects):
        others += f"\n        if e.kind == KIND_EFFECT and e.type == {k}:\n            take_{effect.name}(z, w, k)"
    return f'''
@part_of_program
def enter_player(z, w, k):
    """A player joins from the lobby or arrives over a border: a place in the player table, and its avatar's row."""
    meta, e = z.meta, z.inputs[k]
    n = meta[META_TABLE_ROWS + {index}]
    place = np.int64(find_player(z.players, z.player_index, e.player))
    if place >= 0:  # here already, since the ledger went back in time: one player has one body
        player = z.players[place]
        if e.hop <= player.hop:  # the entry came twice
            if e.session > player.session:
                mark_resumed(player, e)
            return
        mark_resumed(player, e)  # the player has been elsewhere, unknown to who ran this zone: what it brings from there holds
        if e.gateway == 0:
            player.detached_at = meta[META_TICK]
        player.hop = e.hop
        if e.kind == KIND_JOIN and e.last_seq > player.last_seq:
            player.last_seq = e.last_seq  # applied elsewhere: the body here stays, but no number is used twice
        if e.kind == KIND_ARRIVE and e.arrival >= 0 and player.row >= 0:
            player.last_seq = e.last_seq
            append_row(z.{a}_words[: player.row + 1], player.row, z.{a}_words, {arrivals} + e.arrival)
            z.{a}_rows[player.row].player = place
            z.{a}_rows[player.row].dead = 0
        return
    if n < {owned}:
        place = np.int64(add_player(z.players, meta[META_PLAYERS_HIGH], z.player_index, e.player))
    if place < 0:
        refuse_player(z, k)
        return
    if place >= meta[META_PLAYERS_HIGH]:
        meta[META_PLAYERS_HIGH] = place + 1
    if e.arrival >= 0:
        meta[META_TABLE_ROWS + {index}] = append_row(z.{a}_words[:{owned}], n, z.{a}_words, {arrivals} + e.arrival)
    else:
        clear_row(z.{a}_words, n)
        meta[META_TABLE_ROWS + {index}] = n + 1
    row = z.{a}_rows[n]
    row.player = place
    row.dead = 0
    player = z.players[place]
    player.session = e.session
    player.gateway = e.gateway
    player.slot = e.slot
    player.hop = e.hop
    player.last_seq = e.last_seq
    player.row = n
    player.detached_at = 0
    if e.gateway == 0:
        player.detached_at = meta[META_TICK]
    if e.kind == KIND_ARRIVE and zone_at(z, row.x, row.y) != meta[META_ZONE]:
        player.stay = {stay}  # the zone that holds its place had no room for it
    if e.kind == KIND_JOIN:
        z.counters[0] += 1
        row.id = meta[META_ID_BASE] + z.counters[0]
        if e.arrival < 0:
            row.x = (z.floats[FLOAT_X0] + z.floats[FLOAT_X1]) * 0.5
            row.y = (z.floats[FLOAT_Y0] + z.floats[FLOAT_Y1]) * 0.5
{join}

@part_of_program
def apply_inputs(z, w):
    meta = z.meta
    for k in range(meta[META_INPUTS]):
        e = z.inputs[k]
        if e.kind == KIND_JOIN or (e.kind == KIND_ARRIVE and e.player != 0):
            enter_player(z, w, k)
        if e.kind == KIND_ATTACH or e.kind == KIND_DETACH or e.kind == KIND_LEAVE or e.kind == KIND_KICK:
            p = find_player(z.players, z.player_index, e.player)
            if p < 0:
                tell_refused(z, w, k)
                continue
            player = z.players[p]
            if e.kind == KIND_ATTACH and e.session > player.session:
                mark_resumed(player, e)
{resume}            if e.kind == KIND_DETACH and e.session == player.session and player.gateway != 0:
                player.gateway = 0
                player.detached_at = meta[META_TICK]
            if e.kind == KIND_KICK and e.hop > 0:
                player.leaving = LEAVING_COPY
            elif player.leaving == 0 and (e.kind == KIND_KICK or (e.kind == KIND_LEAVE and e.session == player.session)):
                player.leaving = 1
        if e.kind == KIND_GATEWAY_LOST:
            detach_refused(z, e.gateway)
            for p in range(meta[META_PLAYERS_HIGH]):
                player = z.players[p]
                if player.key != 0 and player.gateway == e.gateway:
                    player.gateway = 0
                    player.detached_at = meta[META_TICK]
{others}
'''


def _apply_commands(game: Game) -> str:
    index, _ = _avatar(game)
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


def _emigrate(game: Game) -> str:
    text = """
@part_of_program
def zone_at(z, x, y):
    meta, f = z.meta, z.floats
    column = cut_at(x * meta[META_COLUMNS] / f[FLOAT_WIDTH], meta[META_COLUMNS])
    return cut_at(y * meta[META_ROWS] / f[FLOAT_HEIGHT], meta[META_ROWS]) * meta[META_COLUMNS] + column


@part_of_program
def depart(z, kind, target, table, i, place):
    meta = z.meta
    at = meta[META_OUT]
    out = z.out[at]
    out.kind = kind
    out.target = target
    out.type = table
    out.row = i
    out.player = place
    out.entry = -1
    meta[META_OUT] = at + 1
    if place >= 0:
        z.players[place].departed = 1

"""
    stay = """\
        if row.player >= 0 and z.players[row.player].stay > 0:
            z.players[row.player].stay -= 1 if z.players[row.player].gateway != 0 else 0  # its grace time would begin anew there
            continue
"""
    inside = """\
            if row.player >= 0 and z.players[row.player].stay > 0:
                z.players[row.player].stay = 0
"""
    for t, e in enumerate(game.entities):
        avatar = t == _avatar(game)[0]
        text += f'''
@part_of_program
def emigrate_{e.name}(z):
    """Entities that are beyond a border go to the zone that holds their place; where the out buffer is full, next tick."""
    meta, f = z.meta, z.floats
    h = f[FLOAT_HYSTERESIS]
    for i in range(meta[META_TABLE_ROWS + {t}]):
        row = z.{e.name}_rows[i]
        if row.dead == DEAD_DESPAWNED and row.player >= 0:
            row.dead = 0  # an avatar with a player is not despawned: its player would have no body
        if row.dead != 0:
            continue
        beyond = row.x < f[FLOAT_X0] - h or row.x >= f[FLOAT_X1] + h or row.y < f[FLOAT_Y0] - h or row.y >= f[FLOAT_Y1] + h
        if not beyond:  # a place that is no number is beyond nothing
{inside if avatar else ""}            continue
{stay if avatar else ""}\
        target = zone_at(z, row.x, row.y)
        if target != meta[META_ZONE] and meta[META_OUT] < len(z.out):
            row.dead = DEAD_DEPARTED
            row.crossings = (row.crossings + 1) & 0xFFFF
            depart(z, OUT_CROSS, target, {t}, i, np.int64(row.player))
'''
        if e.name in _targets(game):
            text += f"            {_note_departure('row.id', 'target')}"
    return text


def _logouts(game: Game, tables: Sequence[TableParts]) -> str:
    index, a = _avatar(game)
    refused = _on_the_way(game, tables, "leave", "z.inputs[z.out[at].entry]", 12)
    leave = "        if player.leaving != LEAVING_COPY:\n            game_leave(w, row)\n" if "leave" in game.hooks else ""
    return f'''
@part_of_program
def logouts(z, w):
    """Players who asked to leave, or whose grace is over, go to the lobby; before anything crosses a border."""
    meta = z.meta
    for at in range(meta[META_OUT]):
        if z.out[at].kind == OUT_REFUSED and z.inputs[z.out[at].entry].leaving != 0:
            z.out[at].target = LOBBY
{refused}    for p in range(meta[META_PLAYERS_HIGH]):
        player = z.players[p]
        if player.key == 0 or player.departed != 0 or meta[META_OUT] >= len(z.out):
            continue
        if player.leaving == 0 and (player.detached_at == 0 or meta[META_TICK] - player.detached_at < meta[META_GRACE_TICKS]):
            continue
        row = z.{a}_rows[player.row]
{leave}        row.dead = DEAD_DEPARTED
        depart(z, OUT_LOBBY, LOBBY, {index}, np.int64(player.row), p)
'''


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
    index, a = _avatar(game)
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
