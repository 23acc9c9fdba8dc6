"""From a game's declaration to its compiled program: the generated file, its cache, and the arrays that it runs on.

A real .py file is generated, named by the hash of all sources, since Numba caches neither closures over dispatchers nor
code from `exec`. The file is plain to read: it calls the game's hooks and the generic kernels of shard.kernels, and spells
out what depends on the game's fields. `python -m shard.warmup GAME --source` prints it; its text is shard.program_source's.

Owns the file, the shapes of all arrays and their capacities. Never runs a tick and holds no zone's state. Called by whoever
runs, warms or replays a game, and by shard.zone for its arrays.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from perdure.game.contract import Declared, Game, aligned_dtype, effect_dtype, row_dtype
from perdure.game.jit import JIT_DISABLED, cache_in, cache_root, perdure_sources, sources_digest
from perdure.game.loading import LoadedGame
from perdure.game.portable import describe
from perdure.game.schema import Schema
from perdure.wire.link import RELEASE_ENTRY
from shard.kernels import border, encode, layout, state
from shard.kernels.tables import table_of, types_of
from shard.pace import MOST_SNAPSHOT_EVERY
from shard.program_effects_source import EffectParts
from shard.program_source import ENTRIES, TableParts, generate

KERNELS = (border, encode, state)
"""Imported here, before any program: so they are compiled into the cache that all programs share."""
SPAWN_BUFFER = 512
OUT_CAPACITY = 512
INPUT_CAPACITY = 256
"""At least perdure.ledger.ledger.INBOX_PAGE_ENTRIES. Each entry may be refused, or (an effect) answered or sent on: together with
perdure.game.contract.MAX_PROPOSALS they are less than OUT_CAPACITY."""
ARRIVALS_CAPACITY = INPUT_CAPACITY
GATEWAYS = 64
FROZEN_CAPACITY = 512
"""Entities a table and zone that have left over a border and are not yet told of by where they went."""
SETTLED_CAPACITY = 1024
"""Entities that came over a border lately, of which a zone tells its neighbours."""
FEED_BUFFER_WORDS = 1 << 14
FRAME_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Program:
    """A game, compiled: what a zone needs to run it."""

    game: Game
    schema: Schema
    build: int
    module: ModuleType
    source: str

    @cached_property
    def step(self) -> Any:
        """step(zone arrays) -> uint64 state hash."""
        return self._entry("step")

    @cached_property
    def state_hash(self) -> Any:
        """state_hash(zone arrays) -> uint64."""
        return self._entry("state_hash")

    @cached_property
    def gather_commands(self) -> Any:
        """gather_commands(zone arrays, pending, count, best) -> (chosen, still pending); see shard.kernels.state.gather."""
        return self._entry("gather_commands")

    @cached_property
    def across(self) -> Any:
        """across(zone arrays) -> None: fills what the game proposes over its borders; None where the game has no such hook."""
        return self._entry("across") if "across" in self.game.hooks else None

    @cached_property
    def encode(self) -> Any:
        """encode(zone arrays, encoder arrays) -> None: fills flat arrays, then makes frames."""
        return self._entry("encode")

    @cached_property
    def keep_events(self) -> Any:
        """keep_events(zone arrays, encoder arrays): instead of `encode`, after a tick that has no snapshot."""
        return self._entry("keep_events")

    @cached_property
    def more_frames(self) -> Any:
        """more_frames(zone arrays, encoder arrays): go on making frames after the buffer has grown."""
        return self._entry("more_frames")

    @cached_property
    def border(self) -> tuple[Any, Any, Any]:
        """(note_passages, publish, fill_ghosts); see shard.program_border_source."""
        return self._entry("note_passages"), self._entry("publish"), self._entry("fill_ghosts")

    def _entry(self, name: str) -> Any:
        """Return a function of the program, to be called with tuples of arrays; what is compiled gets their tables."""
        if JIT_DISABLED:
            return getattr(self.module, name)
        entry, tuples = getattr(self.module, f"{name}_at"), len(ENTRIES[name][0])
        if tuples == 1:
            return lambda zone, *others: entry(zone.table, *others)
        return lambda zone, arrays, *others: entry(zone.table, arrays.table, *others)

    @cached_property
    def feed_widths(self) -> tuple[int, ...]:
        """The words of one element of each section of a feed, in their order."""
        rows = [1 + row_dtype(entity).itemsize // 8 for entity in self.game.entities]
        return 2, *rows, *rows, *(event_dtype(event).itemsize // 8 for event in self.game.events)

    @cached_property
    def feed_digest(self) -> int:
        """63 bits that say how rows and events lie in a feed: shards of another layout cannot read it."""
        parts = [*(row_dtype(entity) for entity in self.game.entities), *(event_dtype(event) for event in self.game.events)]
        text = b"".join(describe(part) for part in parts)
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def compile_program(loaded: LoadedGame) -> Program:
    """Generate, write and import the program of a loaded game. Nothing is compiled before its first call."""
    game = loaded.game
    tables, effects = [table_parts(entity) for entity in game.entities], [effect_parts(effect) for effect in game.effects]
    source = generate(game, loaded.module_name, loaded.variable, tables, effects)
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


def _tuple_of(program: Program, kind: str, values: dict[str, npt.NDArray[Any]]) -> Any:
    """Return a tuple of the program that holds these arrays and their table; the first one of its kind tells the compiler their types."""
    made = getattr(program.module, kind)
    arrays = [values[field] for field in made._fields[:-1]]
    known = getattr(program.module, f"{kind.upper()}_TYPES")
    if not known and not JIT_DISABLED:
        known.extend(types_of(arrays))
    return made(*arrays, table_of(arrays))


def with_arrays(arrays: Any, **changed: npt.NDArray[Any]) -> Any:
    """Return a tuple of arrays with others in place of some; they have the types of those."""
    found = arrays._replace(**changed)
    return found._replace(table=table_of(found[:-1]))


def zone_arrays(program: Program) -> Any:
    """Return a zone's arrays, all zero, as the program's `Zone` tuple."""
    game = program.game
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
        "ghost_keys": np.zeros(_avatar_ghosts(game), np.int64),
        "heard": np.zeros(len(game.events), np.int64),
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
        for name, count in (("rows", event.options["capacity"] + 1), ("heard", event.options["capacity"])):
            values[f"{event.name}_{name}"] = _rows(count, event_dtype(event))
    for effect in game.effects:
        rows = _rows(effect_parts(effect)[-1], effect_dtype(effect))
        values[f"{effect.name}_effects"], values[f"{effect.name}_effects_words"] = rows, words_of(rows)
    values["effect_counts"] = np.zeros((len(game.effects), layout.EFFECT_COUNTS), np.int64)
    values["departures"] = _rows(layout.DEPARTURES_KEPT if game.effects else 0, layout.DEPARTURE)
    values["departures_words"] = words_of(values["departures"])
    return _tuple_of(program, "Zone", values)


def table_parts(entity: Declared) -> TableParts:
    """Return where a table's parts end in its one array: owned rows, ghosts, spawn buffer (one row for overflow), arrivals."""
    owned = entity.options["capacity"]
    ghosts = owned + entity.options["ghosts"]
    spawned = ghosts + min(SPAWN_BUFFER, owned) + 1
    return TableParts(owned, ghosts, spawned, spawned + ARRIVALS_CAPACITY)


def effect_parts(effect: Declared) -> EffectParts:
    """Return where the parts of an effect's rows end in their one array: proposals, arrivals, answers; see EffectParts."""
    proposed = effect.options["capacity"] + 1
    return EffectParts(proposed, proposed + INPUT_CAPACITY, proposed + 2 * INPUT_CAPACITY + 1)


def event_dtype(event: Declared) -> np.dtype[Any]:
    """Return the dtype of an event's row: where it happened, then its fields, a multiple of 8 bytes."""
    return aligned_dtype(("at_x", "f8"), ("at_y", "f8"), *((f.name, f.dtype) for f in event.fields))


def totals_dtype(game: Game) -> np.dtype[Any]:
    """Return the dtype of the totals row (a game without totals has one unused word)."""
    fields = [(f.name, f.dtype) for f in game.totals_declared.fields] if game.totals_declared else []
    size = np.dtype(fields, align=True).itemsize if fields else 0
    pad = [("perdure_pad", "<i8")] if size % 8 or not fields else []
    return aligned_dtype(*fields, *pad)


def _avatar_capacity(game: Game) -> int:
    return next(e.options["capacity"] for e in game.entities if e.options["avatar"])


def _avatar_ghosts(game: Game) -> int:
    return next(e.options["ghosts"] for e in game.entities if e.options["avatar"])


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, 1).bit_length()


def encoder_arrays(program: Program, width: float, height: float) -> Any:
    """Return the encoder's arrays for a zone of width x height: what viewers were sent is no part of a zone's state."""
    game, schema = program.game, program.schema
    players = _avatar_capacity(game)
    total = sum(e.options["capacity"] + e.options["ghosts"] for e in game.entities)
    handles = min(total + total // 4 + 64, 65_535)
    events = 2 * MOST_SNAPSHOT_EVERY * sum(v.options["capacity"] for v in game.events)  # own ones, and those that neighbours told of
    columns, rows = grid_shape(game, width, height)
    enter = max(e.enter_bytes for e in schema.entities)
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
        "touched": np.zeros((handles, fields), np.uint8),
        "flat": _rows(total, layout.FLAT), "ordered": _rows(total, layout.SORTED), "cell_start": np.zeros(columns * rows + 1, i4),
        "enter_bytes": np.zeros(total * enter + layout.WORD, np.uint8), "update_bytes": np.zeros(total * update + layout.WORD, np.uint8),
        "scratch": np.zeros((4, visible), i4),
        "views": np.zeros((players, visible), np.uint16), "sights": _rows(players, layout.VIEW), "viewers": _rows(players, layout.VIEWER),
        "owner_bytes": np.zeros(players * owner, np.uint8), "owner_sent": np.zeros((players, max(len(schema.avatar.owner), 1)), i8),
        "events": _rows(events + 1, layout.HAPPENED), "event_bytes": np.zeros((events + 1) * event, np.uint8),
        "entries": _rows(players, RELEASE_ENTRY), "groups": _rows(GATEWAYS, layout.GROUP),
        "out": np.zeros(FRAME_BUFFER_BYTES, np.uint8),
    }  # fmt: skip
    state = values["state"]
    state[layout.ENC_RING_COUNT] = handles
    state[layout.ENC_BASELINE] = 1
    state[layout.ENC_COLUMNS], state[layout.ENC_ROWS] = columns, rows
    state[layout.ENC_ENTER_STRIDE], state[layout.ENC_UPDATE_STRIDE] = enter, update
    state[layout.ENC_EVENT_STRIDE], state[layout.ENC_OWNER_STRIDE] = event, owner
    return _tuple_of(program, "Encoder", values)


def border_arrays(program: Program, zone: Any) -> Any:
    """Return the border arrays of a zone with these arrays: who went and who came, and the map of ghosts; no part of its state."""
    game = program.game
    ghosts = sum(e.options["ghosts"] for e in game.entities)
    values: dict[str, Any] = {
        "state": np.zeros(layout.BORDER_FROZEN + len(game.entities), np.int64),
        "mapped": _rows(_power_of_two(2 * (ghosts + SETTLED_CAPACITY)), layout.GHOST),
        "settled": np.zeros(2 * SETTLED_CAPACITY, np.uint64), "settled_times": np.zeros(SETTLED_CAPACITY, np.int64),
    }  # fmt: skip
    for entity in game.entities:
        looks = _rows(FROZEN_CAPACITY, _keyed(row_dtype(entity)))
        values[f"{entity.name}_looks"], values[f"{entity.name}_frozen"] = looks, words_of(looks).reshape(-1)
        values[f"{entity.name}_times"] = np.zeros((FROZEN_CAPACITY, 2), np.int64)
    values["state"][layout.BORDER_DIGEST] = program.feed_digest
    values.update(_event_words(program, zone))
    return _tuple_of(program, "Border", values)


def with_events_of(program: Program, arrays: Any, zone: Any) -> Any:
    """Return border arrays for another zone's arrays: those of the same zone, built anew from its log."""
    return with_arrays(arrays, **_event_words(program, zone))


def _event_words(program: Program, zone: Any) -> dict[str, Any]:
    """Return a zone's event rows, seen as words."""
    words: dict[str, Any] = {}
    for event in program.game.events:
        words[f"{event.name}_told_words"] = words_of(getattr(zone, f"{event.name}_rows"))
        words[f"{event.name}_heard_words"] = words_of(getattr(zone, f"{event.name}_heard"))
    return words


@lru_cache(maxsize=64)
def _keyed(row: np.dtype[Any]) -> np.dtype[Any]:
    """Return a row's dtype with a player's key ahead, as feeds hold it."""
    fields: Any = row.fields
    names = list(row.names or ())
    offsets = [0, *(8 + fields[name][1] for name in names)]
    return np.dtype({"names": ["key", *names], "formats": [np.dtype("<i8"), *(fields[name][0] for name in names)], "offsets": offsets,
                     "itemsize": 8 + row.itemsize})  # fmt: skip


def grid_shape(game: Game, width: float, height: float) -> tuple[int, int]:
    """Return (columns, rows) of the interest grid of a zone: cells of one interest radius, with a margin for ghosts."""
    return tuple(max(1, int(np.ceil((side + 2 * game.interest) / game.interest))) for side in (width, height))  # type: ignore[return-value]
