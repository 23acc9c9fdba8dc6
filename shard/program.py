"""From a game's declaration to its compiled program: the generated source of `step` and `encode`, its arrays, its cache.

A real .py file is generated, named by the hash of all sources, since Numba caches neither closures over dispatchers nor
code from `exec`. The file is plain to read: it calls the game's hooks and the generic kernels of shard.kernels, and spells
out what depends on the game's fields. `python -m shard.warmup GAME --source` prints it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from perdure.game.contract import Declared, Game, row_dtype
from perdure.game.jit import JIT_DISABLED, cache_in, cache_root, perdure_sources, sources_digest
from perdure.game.loading import LoadedGame
from perdure.game.schema import FieldSchema, Schema
from perdure.wire.link import RELEASE_ENTRY
from shard.kernels import encode, layout, state

KERNELS = (encode, state)
"""Imported here, before any program: so they are compiled into the cache that all programs share."""
SPAWN_BUFFER = 512
OUT_CAPACITY = 512
INPUT_CAPACITY = 256
"""At least perdure.ledger.ledger.INBOX_PAGE_ENTRIES, and at most half of OUT_CAPACITY: each entry may be refused."""
ARRIVALS_CAPACITY = INPUT_CAPACITY
GATEWAYS = 64
FRAME_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Program:
    """A game, compiled: what a zone needs to run it."""

    game: Game
    schema: Schema
    build: int
    module: ModuleType
    source: str

    @property
    def step(self) -> Any:
        """step(zone arrays) -> uint64 state hash."""
        return self.module.step

    @property
    def encode(self) -> Any:
        """encode(zone arrays, encoder arrays) -> None: fills flat arrays, then makes frames."""
        return self.module.encode

    @property
    def more_frames(self) -> Any:
        """more_frames(zone arrays, encoder arrays): go on making frames after the buffer has grown."""
        return self.module.more_frames


def compile_program(loaded: LoadedGame) -> Program:
    """Generate, write and import the program of a loaded game. Nothing is compiled before its first call."""
    game = loaded.game
    source = generate(game, loaded.module_name, loaded.variable)
    build = sources_digest([*perdure_sources(), *loaded.files], source)
    name = f"perdure_program_{game.name}_{build:016x}"
    folder = cache_root() / "programs" / f"{build:016x}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w") as out:
            out.write(source)
        os.replace(temporary, path)
    with cache_in(folder):
        module = sys.modules.get(name) or _import(name, path)
    return Program(game, game.schema(), build, module, source)


def _import(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"cannot import the generated program {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# --- arrays -------------------------------------------------------------------------------------------------------


class PlainRow(np.record):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A row where the rules run as plain Python: its fields are attributes there too, and numbers are Python's.

    NumPy's own small integers would wrap around (u8 0 - 1 is 255) where compiled code widens them first.
    """

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return value.item() if isinstance(value, np.generic) else value


def _rows(count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return zeroed rows."""
    return np.zeros(count, np.dtype((PlainRow, dtype)) if JIT_DISABLED else dtype)


def words_of(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return rows seen as uint64[count, words]."""
    plain = np.asarray(rows).view(np.ndarray)
    return plain.view(np.uint64).reshape(len(plain), plain.dtype.itemsize // 8)


def zone_arrays(program: Program) -> Any:
    """Return a zone's arrays, all zero, as the program's `Zone` tuple."""
    game, module = program.game, program.module
    values: dict[str, Any] = {
        "meta": np.zeros(layout.META_COUNTS + 2 * (len(game.entities) + len(game.events)), np.int64),
        "floats": np.zeros(layout.FLOATS_LENGTH, np.float64),
        "counters": np.zeros(layout.COUNTERS_LENGTH, np.int64),
        "players": _rows(_avatar_capacity(game), layout.PLAYER),
        "player_index": np.full(_power_of_two(2 * _avatar_capacity(game)), -1, np.int32),
        "inputs": _rows(INPUT_CAPACITY, layout.INPUT),
        "commands": np.zeros((_avatar_capacity(game), layout.COMMAND_PAYLOAD_BYTE + program.schema.command_payload_bytes), np.uint8),
        "out": _rows(OUT_CAPACITY, layout.OUT),
        "totals": _rows(1, totals_dtype(game)),
        "scratch": np.zeros(1, np.uint32),
    }
    values["players_words"] = words_of(values["players"])
    values["totals_words"] = words_of(values["totals"])
    for entity in game.entities:
        rows = _rows(table_parts(entity)[-1], row_dtype(entity))
        values[f"{entity.name}_rows"], values[f"{entity.name}_words"] = rows, words_of(rows)
    for command in game.commands:
        dtype = np.dtype([("given", "u1"), *((f.name, f.dtype) for f in command.fields)], align=True)
        values[f"{command.name}_given"] = _rows(_avatar_capacity(game), dtype)
    for event in game.events:
        dtype = np.dtype([("at_x", "f8"), ("at_y", "f8"), *((f.name, f.dtype) for f in event.fields)], align=True)
        values[f"{event.name}_rows"] = _rows(event.options["capacity"] + 1, dtype)
    return module.Zone(**{name: values[name] for name in module.Zone._fields})


def table_parts(entity: Declared) -> tuple[int, int, int, int]:
    """Return where a table's parts end in its one array: owned rows, ghosts, spawn buffer (one row for overflow), arrivals."""
    owned = entity.options["capacity"]
    ghosts = owned + entity.options["ghosts"]
    spawned = ghosts + min(SPAWN_BUFFER, owned) + 1
    return owned, ghosts, spawned, spawned + ARRIVALS_CAPACITY


def totals_dtype(game: Game) -> np.dtype[Any]:
    """Return the dtype of the totals row (a game without totals has one unused word)."""
    fields = [(f.name, f.dtype) for f in game.totals_declared.fields] if game.totals_declared else []
    size = np.dtype(fields, align=True).itemsize if fields else 0
    pad = [("perdure_pad", "<i8")] if size % 8 or not fields else []
    dtype = np.dtype([*fields, *pad], align=True)
    return dtype


def _avatar_capacity(game: Game) -> int:
    return next(e.options["capacity"] for e in game.entities if e.options["avatar"])


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, 1).bit_length()


def encoder_arrays(program: Program, width: float, height: float) -> Any:
    """Return the encoder's arrays for a zone of width x height: what viewers were sent is no part of a zone's state."""
    game, module, schema = program.game, program.module, program.schema
    players = _avatar_capacity(game)
    total = sum(e.options["capacity"] + e.options["ghosts"] for e in game.entities)
    handles = min(total + total // 4 + 64, 65_535)
    events = sum(v.options["capacity"] for v in game.events)
    columns, rows = grid_shape(game, width, height)
    enter = max(9 + e.public_bytes for e in schema.entities)
    update = max(2 + e.mask_bytes + e.public_bytes for e in schema.entities)
    event = max([1 + v.wire_bytes for v in schema.events], default=1)
    fields = max(len(e.public) for e in schema.entities)
    visible = game.max_visible
    i8, i4 = np.int64, np.int32
    owner = max(schema.avatar.owner_bytes, 1)
    values: dict[str, Any] = {
        "state": np.zeros(layout.ENC_LENGTH, i8),
        "mapped": _rows(2 * _power_of_two(2 * total), layout.MAPPED).reshape(2, -1),
        "ring": np.arange(handles, dtype=i4), "handles": _rows(handles, layout.HANDLE), "mark": np.zeros(handles, np.uint8),
        "levels": np.zeros((handles + 1, fields), i8),  # the last row is scratch
        "flat": _rows(total, layout.FLAT), "ordered": _rows(total, layout.SORTED), "cell_start": np.zeros(columns * rows + 1, i4),
        "enter_bytes": np.zeros(total * enter, np.uint8), "update_bytes": np.zeros(total * update, np.uint8),
        "scratch": np.zeros((4, visible), i4),
        "views": np.zeros((players, visible), np.uint16), "sights": _rows(players, layout.VIEW), "viewers": _rows(players, layout.VIEWER),
        "owner_bytes": np.zeros(players * owner, np.uint8), "owner_sent": np.zeros((players, max(len(schema.avatar.owner), 1)), i8),
        "events": _rows(events + 1, layout.HAPPENED), "event_bytes": np.zeros((events + 1) * event, np.uint8),
        "entries": _rows(players, RELEASE_ENTRY), "groups": _rows(GATEWAYS, layout.GROUP),
        "out": np.zeros(FRAME_BUFFER_BYTES, np.uint8),
    }  # fmt: skip
    state = values["state"]
    state[layout.ENC_RING_COUNT] = handles
    state[layout.ENC_COLUMNS], state[layout.ENC_ROWS] = columns, rows
    state[layout.ENC_ENTER_STRIDE], state[layout.ENC_UPDATE_STRIDE] = enter, update
    state[layout.ENC_EVENT_STRIDE], state[layout.ENC_OWNER_STRIDE] = event, owner
    return module.Encoder(**{name: values[name] for name in module.Encoder._fields})


def grid_shape(game: Game, width: float, height: float) -> tuple[int, int]:
    """Return (columns, rows) of the interest grid of a zone: cells of one interest radius, with a margin for ghosts."""
    return tuple(max(1, int(np.ceil((side + 2 * game.interest) / game.interest))) for side in (width, height))  # type: ignore[return-value]


# --- source -------------------------------------------------------------------------------------------------------

ENCODER_FIELDS = [
    "state", "mapped", "ring", "handles", "mark", "levels", "flat", "ordered", "cell_start", "enter_bytes", "update_bytes", "scratch",
    "views", "sights", "viewers", "owner_bytes", "owner_sent", "events", "event_bytes", "entries", "groups", "out",
]  # fmt: skip

HEADER = '''"""Generated from game {name!r}; do not edit. See shard/program.py."""

import sys
from typing import Any, NamedTuple

import numpy as np

from perdure.game.jit import kernel
from shard.kernels.layout import *
from shard.kernels.state import *
from shard.kernels.encode import *

_game = getattr(sys.modules[{module!r}], {variable!r})
'''


def generate(game: Game, module_name: str, variable: str) -> str:
    """Return the source of a game's program."""
    parts = [HEADER.format(name=game.name, module=module_name, variable=variable)]
    parts += [f"game_{hook} = _game.hooks[{hook!r}]\n" for hook in sorted(game.hooks)]
    parts += [_tuples(game), _refuse(game), _apply_inputs(game), _apply_commands(game), _emigrate(game), _logouts(game), _hash(game)]
    parts += [_step(game), _encode(game)]
    return "\n".join(parts)


def _tuple(name: str, fields: list[str]) -> str:
    return f"\nclass {name}(NamedTuple):\n" + "".join(f"    {f}: Any\n" for f in fields)


def _tuples(game: Game) -> str:
    text = ""
    zone = [
        "meta", "floats", "counters", "players", "players_words", "player_index", "inputs", "commands", "out", "totals", "totals_words",
        "scratch",
    ]  # fmt: skip
    world = ["tick", "dt", "seed", "zone", "id_base", "x0", "y0", "x1", "y1", "width", "height", "counters", "totals"]
    for e in game.entities:
        text += _tuple(f"Table_{e.name}", ["rows", "ghosts", "spawned", "spawned_words", "count", "capacity"])
        zone += [f"{e.name}_rows", f"{e.name}_words"]
        world.append(e.name)
    for c in game.commands:
        zone.append(f"{c.name}_given")
        world.append(c.name)
    for v in game.events:
        text += _tuple(f"Events_{v.name}", ["rows", "count"])
        zone.append(f"{v.name}_rows")
        world.append(v.name)
    return text + _tuple("World", world) + _tuple("Zone", zone) + _tuple("Encoder", list(ENCODER_FIELDS))


def _avatar(game: Game) -> tuple[int, str]:
    return next((i, e.name) for i, e in enumerate(game.entities) if e.options["avatar"])


def _world(game: Game) -> str:
    """Return the expression of the world that rules see; inline, since Numba cannot return a tuple that holds a record."""
    lines = ["World("]
    lines.append("        meta[META_TICK], z.floats[FLOAT_DT], meta[META_SEED], meta[META_ZONE], meta[META_ID_BASE],")
    lines.append("        z.floats[FLOAT_X0], z.floats[FLOAT_Y0], z.floats[FLOAT_X1], z.floats[FLOAT_Y1], z.floats[FLOAT_WIDTH],")
    lines.append("        z.floats[FLOAT_HEIGHT], z.counters, z.totals[0],")
    index, _ = _avatar(game)
    counts = layout.META_COUNTS
    for t, e in enumerate(game.entities):
        n, (owned, ghosts, spawned, _) = e.name, table_parts(e)
        at = counts + 2 * t
        lines.append(
            f"        Table_{n}(z.{n}_rows[: meta[META_TABLE_ROWS + {t}]], z.{n}_rows[{owned} : {owned} + meta[META_TABLE_GHOSTS + {t}]], "
            f"z.{n}_rows[{ghosts} : {spawned}], z.{n}_words[{ghosts} : {spawned}], meta[{at} : {at + 2}], {owned}),"
        )
    lines += [f"        z.{c.name}_given[: meta[META_TABLE_ROWS + {index}]]," for c in game.commands]
    for k, v in enumerate(game.events):
        at = counts + 2 * (len(game.entities) + k)
        lines.append(f"        Events_{v.name}(z.{v.name}_rows, meta[{at} : {at + 2}]),")
    lines.append("    )")
    return "\n".join(lines)


def _refuse(game: Game) -> str:
    return '''
@kernel
def refuse(z, k, target):
    """Inbox entry k finds no room: send it back to `target` (its origin, or the lobby)."""
    meta = z.meta
    at = meta[META_OUT]
    out = z.out[at]
    out.kind = OUT_REFUSED
    out.target = target
    out.type = z.inputs[k].type
    out.row = -1
    out.player = -1
    out.entry = k
    meta[META_OUT] = at + 1


@kernel
def mark_resumed(player, e):
    player.session = e.session
    player.gateway = e.gateway
    player.slot = e.slot
    player.detached_at = 0
    player.leaving = 0  # who comes back in the very tick in which they go, stays
'''


def _apply_inputs(game: Game) -> str:
    index, avatar = _avatar(game)
    a = avatar
    resume = f"                if player.row >= 0:\n                    game_resume(w, z.{a}_rows[player.row])\n"
    resume = resume if "resume" in game.hooks else ""
    join = "        game_join(w, row, e.arrival >= 0)\n" if "join" in game.hooks else ""
    owned, _, arrivals, _ = table_parts(game.entities[index])
    others = ""
    for t, e in enumerate(game.entities):
        owned_e, _, arrivals_e, _ = table_parts(e)
        others += f"""
        if e.kind == KIND_ARRIVE and e.player == 0 and e.type == {t}:
            n = meta[META_TABLE_ROWS + {t}]
            if n >= {owned_e}:
                refuse(z, k, e.origin)
            else:
                meta[META_TABLE_ROWS + {t}] = append_row(z.{e.name}_words[:{owned_e}], n, z.{e.name}_words, {arrivals_e} + e.arrival)
                z.{e.name}_rows[n].dead = 0
                z.{e.name}_rows[n].player = -1"""
    return f'''
@kernel
def enter_player(z, w, k):
    """A player joins from the lobby or arrives over a border: a place in the player table, and its avatar's row."""
    meta, e = z.meta, z.inputs[k]
    n = meta[META_TABLE_ROWS + {index}]
    place = np.int64(find_player(z.players, z.player_index, e.player))
    if place >= 0:  # here already (the ledger went back in time and gave the entry twice): one player has one body
        if e.session > z.players[place].session:
            mark_resumed(z.players[place], e)
        return
    if n < {owned}:
        place = np.int64(add_player(z.players, meta[META_PLAYERS_HIGH], z.player_index, e.player))
    if place < 0:
        refuse(z, k, e.origin if e.kind == KIND_ARRIVE else LOBBY)
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
    if e.kind == KIND_JOIN:
        z.counters[0] += 1
        row.id = meta[META_ID_BASE] + z.counters[0]
        if e.arrival < 0:
            row.x = (z.floats[FLOAT_X0] + z.floats[FLOAT_X1]) * 0.5
            row.y = (z.floats[FLOAT_Y0] + z.floats[FLOAT_Y1]) * 0.5
{join}

@kernel
def apply_inputs(z, w):
    meta = z.meta
    for k in range(meta[META_INPUTS]):
        e = z.inputs[k]
        if e.kind == KIND_JOIN or (e.kind == KIND_ARRIVE and e.player != 0):
            enter_player(z, w, k)
        if e.kind == KIND_ATTACH or e.kind == KIND_DETACH or e.kind == KIND_LEAVE or e.kind == KIND_KICK:
            p = find_player(z.players, z.player_index, e.player)
            if p < 0:
                continue
            player = z.players[p]
            if e.kind == KIND_ATTACH and e.session > player.session:
                mark_resumed(player, e)
{resume}            if e.kind == KIND_DETACH and e.session == player.session and player.gateway != 0:
                player.gateway = 0
                player.detached_at = meta[META_TICK]
            if e.kind == KIND_KICK or (e.kind == KIND_LEAVE and e.session == player.session):
                player.leaving = 1
        if e.kind == KIND_GATEWAY_LOST:
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
@kernel
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
@kernel
def zone_at(z, x, y):
    meta, f = z.meta, z.floats
    column = cut_at(x * meta[META_COLUMNS] / f[FLOAT_WIDTH], meta[META_COLUMNS])
    return cut_at(y * meta[META_ROWS] / f[FLOAT_HEIGHT], meta[META_ROWS]) * meta[META_COLUMNS] + column


@kernel
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
    for t, e in enumerate(game.entities):
        text += f'''
@kernel
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
            continue
        target = zone_at(z, row.x, row.y)
        if target != meta[META_ZONE] and meta[META_OUT] < len(z.out):
            row.dead = DEAD_DEPARTED
            depart(z, OUT_CROSS, target, {t}, i, np.int64(row.player))
'''
    return text


def _logouts(game: Game) -> str:
    index, a = _avatar(game)
    leave = "        game_leave(w, row)\n" if "leave" in game.hooks else ""
    return f'''
@kernel
def logouts(z, w):
    """Players who asked to leave, or whose grace is over, go to the lobby; before anything crosses a border."""
    meta = z.meta
    for p in range(meta[META_PLAYERS_HIGH]):
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
    lines = ["", "@kernel", "def state_hash(z):", "    meta = z.meta", "    h = hash_start(meta[META_TICK])"]
    lines.append("    for k in range(len(z.counters)):\n        h = hash_value(h, np.uint64(z.counters[k]))")
    lines.append("    h = hash_words(h, z.totals_words, 1)")
    lines.append("    h = hash_words(h, z.players_words, meta[META_PLAYERS_HIGH])")
    lines += [f"    h = hash_words(h, z.{e.name}_words, meta[META_TABLE_ROWS + {t}])" for t, e in enumerate(game.entities)]
    return "\n".join([*lines, "    return h\n"])


def _step(game: Game) -> str:
    index, a = _avatar(game)
    purge = "".join(f"    meta[META_TABLE_ROWS + {t}] = purge(z.{e.name}_words, meta[META_TABLE_ROWS + {t}])\n"
                    for t, e in enumerate(game.entities))  # fmt: skip
    start = "    if meta[META_TICK] == 1:\n        game_start(w)\n" if "start" in game.hooks else ""
    merge = "".join(
        f"    for k in range(meta[META_COUNTS + {2 * t}]):\n"
        f"        n = meta[META_TABLE_ROWS + {t}]\n"
        f"        n = append_row(z.{e.name}_words[: {table_parts(e)[0]}], n, z.{e.name}_words, {table_parts(e)[1]} + k)\n"
        f"        meta[META_TABLE_ROWS + {t}] = n\n"
        for t, e in enumerate(game.entities)
    )
    emigrate = "".join(f"    emigrate_{e.name}(z)\n" for e in game.entities)
    return f'''
@kernel
def step(z):
    """One tick: free what departed, apply inbox entries and commands, run the rules, see who leaves; return the state's hash."""
    meta = z.meta
    meta[META_TICK] += 1
    meta[META_OUT] = 0
{purge}    meta[META_COUNTS:] = 0
    meta[META_PLAYERS_HIGH] = free_departed(z.players, z.players_words, meta[META_PLAYERS_HIGH])
    for i in range(meta[META_TABLE_ROWS + {index}]):
        if z.{a}_rows[i].player >= 0:
            z.players[z.{a}_rows[i].player].row = i
    index_players(z.players, meta[META_PLAYERS_HIGH], z.player_index)
    w = {_world(game)}
    apply_inputs(z, w)
    apply_commands(z)
    w = {_world(game)}
{start}    game_tick(w)
{merge}    logouts(z, w)
{emigrate}    return state_hash(z)


@kernel
def gather_commands(z, pending, count, best):
    """Choose this tick's commands out of the pending rows into z.commands; return (chosen, still pending)."""
    meta = z.meta
    index_players(z.players, meta[META_PLAYERS_HIGH], z.player_index)
    chosen, kept = gather(z.players, z.player_index, pending, count, best, z.commands)
    meta[META_COMMANDS] = chosen
    return chosen, kept
'''


def _encode(game: Game) -> str:
    schema = game.schema()
    _, a = _avatar(game)
    text = ""
    for e in schema.entities:
        text += _encode_entity(e.name, e.index, e.public, e.mask_bytes, e.avatar)
    text += _encode_events(schema, len(game.entities))
    event_rows = "".join(f", z.{v.name}_rows" for v in game.events)
    text += _encode_owner(schema.avatar.owner)
    flatten = ""
    for t, e in enumerate(game.entities):
        arrays = "e.state, e.mapped, e.ring, e.handles, e.levels, e.flat, e.enter_bytes, e.update_bytes"
        owned, _, _, _ = table_parts(e)
        own = ", e.sights" if e.options["avatar"] else ""
        for first, count in ((0, f"meta[META_TABLE_ROWS + {t}]"), (owned, f"meta[META_TABLE_GHOSTS + {t}]")):
            flatten += f"    n = flatten_{e.name}({arrays}, meta[META_TICK], z.{e.name}_rows, {first}, {count}, n{own})\n"
    return (
        text
        + f'''
@kernel
def encode(z, e):
    """Encode every entity once, find what each viewer sees, and make the frames (see shard.kernels.encode)."""
    meta, f = z.meta, z.floats
    begin_handles(e.state, e.mapped)
    for p in range(meta[META_PLAYERS_HIGH]):
        e.sights[p].flat = -1
    n = 0
{flatten}    e.state[ENC_FLAT] = n
    end_handles(e.state, e.mapped, e.ring, e.handles, meta[META_TICK])
    list_viewers(e.state, e.sights, e.viewers, z.players, meta[META_PLAYERS_HIGH])
    owners(e.state, e.viewers, e.owner_bytes, e.owner_sent, z.players, z.{a}_rows)
    flatten_events(e.state, e.events, e.event_bytes, meta{event_rows})
    radius = f[FLOAT_INTEREST]
    sort_into_cells(e.state, e.flat, e.cell_start, e.ordered, f[FLOAT_X0] - radius, f[FLOAT_Y0] - radius, radius)
    more_frames(z, e)


@kernel
def more_frames(z, e):
    meta, f = z.meta, z.floats
    radius = f[FLOAT_INTEREST]
    make_frames(e, meta[META_ZONE], meta[META_TICK], f[FLOAT_X0] - radius, f[FLOAT_Y0] - radius, radius, radius)
'''
    )


def _encode_entity(name: str, index: int, public: tuple[FieldSchema, ...], mask_bytes: int, avatar: bool) -> str:
    sights = ", sights" if avatar else ""
    own = "        if row.player >= 0 and first == 0:\n            sights[row.player].flat = n\n" if avatar else ""
    levels = "".join(f"        now[{k}] = {_level(f, 'row')}\n" for k, f in enumerate(public))
    enter = "".join(f"        at = put_level(enter_bytes, at, now[{k}], {f.wire_bytes})\n" for k, f in enumerate(public))
    update = "".join(
        f"        if fresh or levels[handle, {k}] != now[{k}]:\n"
        f"            update_bytes[start + 2 + {k // 8}] |= np.uint8({1 << (k % 8)})\n"
        f"            levels[handle, {k}] = now[{k}]\n"
        f"            at = put_level(update_bytes, at, now[{k}], {f.wire_bytes})\n"
        for k, f in enumerate(public)
    )
    clear = "".join(f"        update_bytes[start + 2 + {k}] = np.uint8(0)\n" for k in range(mask_bytes))
    return f"""
@kernel
def flatten_{name}(state, mapped, ring, handles, levels, flat, enter_bytes, update_bytes, tick, rows, first, count, n{sights}):
    now = levels[len(levels) - 1]
    for i in range(first, first + count):
        row = rows[i]
        if row.dead == DEAD_DESPAWNED:
            continue
        handle, fresh = handle_of(state, mapped, ring, handles, row.id, tick)
        if handle < 0:
            continue
        one = flat[n]
        one.x = row.x
        one.y = row.y
        one.handle = handle
{own}{levels}        start = n * state[ENC_ENTER_STRIDE]
        at = put_enter_header(enter_bytes, start, handle, {index}, row.id)
{enter}        one.enter_length = at - start
        start = n * state[ENC_UPDATE_STRIDE]
        at = put_level(update_bytes, start, handle, 2)
{clear}        at = start + {2 + mask_bytes}
{update}        one.update_length = at - start if at > start + {2 + mask_bytes} else 0
        n += 1
    return n
"""


def _level(f: FieldSchema, row: str) -> str:
    return f"level_of(np.float64({row}.{f.name}), {float(f.lo)!r}, {float(f.step)!r}, {f.levels - 1})"


def _encode_events(schema: Schema, tables: int) -> str:
    arguments = "".join(f", {v.name}_rows" for v in schema.events)
    text = f"\n@kernel\ndef flatten_events(state, events, event_bytes, meta{arguments}):\n    n = 0\n"
    for v in schema.events:
        text += f"""    for k in range(meta[META_COUNTS + {2 * (tables + v.index)}]):
        row, one = {v.name}_rows[k], events[n]
        one.x = row.at_x
        one.y = row.at_y
        one.reach = {v.radius * v.radius!r}
        start = n * state[ENC_EVENT_STRIDE]
        event_bytes[start] = np.uint8({v.index})
        at = start + 1
"""
        text += "".join(f"        at = put_level(event_bytes, at, {_level(f, 'row')}, {f.wire_bytes})\n" for f in v.fields)
        text += "        one.length = at - start\n        n += 1\n"
    return text + "    state[ENC_EVENTS] = n\n"


def _encode_owner(owner: tuple[FieldSchema, ...]) -> str:
    body = ""
    for k, f in enumerate(owner):
        body += f"        level = {_level(f, 'row')}\n        changed = changed or owner_sent[who.place, {k}] != level\n"
        body += f"        owner_sent[who.place, {k}] = level\n        at = put_level(owner_bytes, at, level, {f.wire_bytes})\n"
    return f"""
@kernel
def owners(state, viewers, owner_bytes, owner_sent, players, rows):
    for k in range(state[ENC_VIEWERS]):
        who = viewers[k]
        row = rows[players[who.place].row]
        who.x = row.x
        who.y = row.y
        who.me = row.id
        start = k * state[ENC_OWNER_STRIDE]
        at = start
        changed = who.flags & FLAG_KEYFRAME != 0
{body}        who.owner_length = at - start if changed else 0
"""
