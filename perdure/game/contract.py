"""The game contract: what a game's file declares, and the checks that name file, line and mend before anything compiles.

A game file makes one `Game` and decorates classes (entities, commands, events, effects, totals) and functions (tick, join, leave,
resume, start, across and the hooks of effects). Nothing here compiles or runs rules; `perdure.game.loading` turns a checked Game into
a program.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import linecache
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from perdure.game.jit import part_of_program
from perdure.game.schema import INTEGER_TYPES, MAX_WIRE_BYTES, CommandSchema, EntitySchema, EventSchema, FieldSchema, Schema
from perdure.wire.client_messages import MAX_COMMAND_FIELDS

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

MAX_CAPACITY = 32_768
MAX_ENTITY_TYPES = 32
MAX_COMMAND_BYTES = 240
MAX_COMMANDS, MAX_EVENTS = 250, 256
MAX_SHOWN = 65_535
"""Entities that a zone can show: its own, and ghosts."""
MAX_PROPOSALS = 128
"""Effects that a zone may propose in a tick, of all kinds together."""
MAX_EFFECT_BYTES = 240
SYSTEM_FIELDS: list[tuple[str, str]] = [("id", "<i8"), ("player", "<i4"), ("dead", "u1"), ("pad0", "u1"), ("crossings", "<u2")]
"""First 16 bytes of every entity row: id, index of its player in the zone's player table or -1, why it is going, and how often it has
left a zone for another (modulo 2^16), which tells the newer of two copies. A ghost's `player` is -2 - zone, where zone is the number of
the one that owns it: that is where effects on it are sent (rules.reach)."""
EFFECT_FIELDS: list[tuple[str, str]] = [
    ("source", "<i8"), ("target", "<i8"), ("source_zone", "<u2"), ("target_zone", "<u2"), ("hops", "u1"), ("replied", "u1"),
    ("returned", "u1"), ("pad0", "u1"),
]  # fmt: skip
"""First 24 bytes of every effect: the ids of the two entities, the zones to find them in, how often it was sent on, the runtime's marks."""
RESERVED = {"tick", "dt", "seed", "zone", "id_base", "x0", "y0", "x1", "y1", "width", "height", "counters", "totals"}
HOOKS = {"tick": 1, "join": 3, "leave": 2, "resume": 2, "start": 1, "across": 1}
EFFECT_HOOKS = {"sends": 3, "takes": 3, "returned": 3}


class GameError(Exception):
    """A game's declaration is wrong. The text says file, line, what and how to mend."""


class FieldType:
    """A field's storage type, such as `f64`; written as an annotation."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


f32, f64 = FieldType("f4"), FieldType("f8")
i8, i16, i32, i64 = FieldType("i1"), FieldType("i2"), FieldType("i4"), FieldType("i8")
u8, u16, u32 = FieldType("u1"), FieldType("u2"), FieldType("u4")
flag = FieldType("u1")
_FLAG = flag


@dataclass(frozen=True, slots=True)
class Quantised:
    """What `q` says of a field."""

    lo: float
    hi: float
    step: float
    to: str
    interpolate: bool


def q(lo: float, hi: float, step: float = 1, to: str = "all", interpolate: bool = False) -> Any:
    """Say how a field goes on the wire: range, step, and who may see it ("all" or "owner").

    Floats: the range is half open and the value is rounded to the nearest step. Without `q` a field never leaves the server.
    """
    return Quantised(lo, hi, step, to, interpolate)


@dataclass(slots=True)
class Declared:
    """A declared class: where it stands, its fields, and the line of each."""

    cls: type
    name: str
    file: str
    line: int
    fields: list[FieldSchema]
    lines: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)

    def fault(self, what: str, name: str | None = None) -> GameError:
        return GameError(f"{self.file}:{self.lines.get(name or '', self.line)}: {self.cls.__name__}{'.' + name if name else ''}: {what}")


@lru_cache(maxsize=8)
def _classes_of(source: str) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def _field_lines(cls: type) -> tuple[str, int, dict[str, int]]:
    """Return a class's file, its first line, and the line of each annotated name."""
    file = inspect.getsourcefile(cls) or "?"
    linecache.checkcache(file)
    named = [node for node in _classes_of("".join(linecache.getlines(file))) if node.name == cls.__name__]
    if len(named) == 1:
        tree, above = named[0], 0
    else:  # the long way: it reads and parses the whole file again for each class
        source, first = inspect.getsourcelines(cls)
        tree = next(node for node in ast.walk(ast.parse(textwrap.dedent("".join(source)))) if isinstance(node, ast.ClassDef))
        above = first - 1
    start = above + min(node.lineno for node in (tree, *tree.decorator_list))
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines.setdefault(node.target.id, above + node.lineno)
    return file, start, lines


def _declare(cls: type, purpose: str) -> Declared:
    """Read a class's annotations into fields; `purpose` is entity, command, event, effect or totals."""
    file, start, lines = _field_lines(cls)
    declared = Declared(cls, cls.__name__.lower(), file, start, [], lines)
    if (declared.name in RESERVED and purpose != "totals") or keyword.iskeyword(declared.name):
        raise declared.fault(f"the name {declared.name!r} is taken in `w`; choose another class name")
    for name, kind in inspect.get_annotations(cls, eval_str=True).items():
        if not isinstance(kind, FieldType):
            raise declared.fault("its type is not one of f32 f64 i8 i16 i32 i64 u8 u16 u32 flag", name)
        if name in {n for n, _ in SYSTEM_FIELDS + EFFECT_FIELDS * (purpose == "effect")} | {"given", "at_x", "at_y"}:
            raise declared.fault("this name is a field of every row already; choose another", name)
        said = cls.__dict__.get(name)
        if said is not None and not isinstance(said, Quantised):
            raise declared.fault(f"its default is {said!r}; write q(lo, hi, ...) or nothing", name)
        declared.fields.append(_field(declared, name, kind, said, purpose))
    if not declared.fields and purpose != "effect":
        raise declared.fault("it has no fields; write at least one, such as `x: f64 = q(0, 1000, step=1/16)`")
    return declared


def _field(declared: Declared, name: str, kind: FieldType, said: Quantised | None, purpose: str) -> FieldSchema:
    dtype = kind.dtype
    if said is None:
        if purpose in ("entity", "totals", "effect"):
            return FieldSchema(name, dtype)
        if dtype in ("f4", "f8"):
            raise declared.fault("a number with a fraction needs a range: q(lo, hi, step=...)", name)
        lo, hi = (0, 1) if kind is _FLAG else INTEGER_TYPES[dtype]
        said = Quantised(lo, hi, 1, "all", False)
    if purpose in ("totals", "effect"):
        raise declared.fault(f"{'totals' if purpose == 'totals' else 'effects'} never leave the server; leave q(...) out", name)
    if said.to not in ("all", "owner") or (said.to == "owner" and purpose != "entity"):
        raise declared.fault(f'to={said.to!r}; say to="all" or (for an entity) to="owner"', name)
    if not said.lo < said.hi or said.step <= 0:
        raise declared.fault(f"q({said.lo}, {said.hi}, step={said.step}): lo must be below hi, and the step above 0", name)
    schema = FieldSchema(name, dtype, said.to, said.lo, said.hi, said.step, said.interpolate)
    if dtype in INTEGER_TYPES:
        low, high = INTEGER_TYPES[dtype]
        if said.step != int(said.step) or said.lo < low or said.hi > high:
            raise declared.fault(f"q({said.lo}, {said.hi}, step={said.step}) does not fit a whole number of type {dtype}", name)
    if schema.levels > 1 << (8 * MAX_WIRE_BYTES) and purpose != "command":
        raise declared.fault(f"{schema.levels} levels need more than {MAX_WIRE_BYTES} bytes; use a larger step", name)
    return schema


class Game:
    """One game's declaration. See docs/GAMES.md for the whole contract and games/ for two that use it.

    tick_hz: ticks a second. world: (width, height). interest: how far a player sees. hysteresis: how far beyond a zone's
    border an entity goes before it changes zones. grace_s: how long a player without a socket stays in the world.
    idle_hz: ticks a second of a zone with nobody in it, and nobody of another zone near it; 0: none, until somebody comes; None: as ever.
    max_visible: entities in one player's view at most (the rest are left out until there is room).
    """

    def __init__(
        self,
        name: str,
        *,
        tick_hz: int = 20,
        world: tuple[float, float] = (4096, 4096),
        interest: float = 400,
        hysteresis: float = 2.0,
        grace_s: float = 60,
        max_visible: int = 512,
        idle_hz: float | None = None,
    ) -> None:
        if not name.isidentifier():
            raise GameError(f"Game({name!r}): the name must be a word of letters, digits and _")
        if not 1 <= tick_hz <= 120 or interest <= 0 or min(world) <= 0 or not 1 <= max_visible <= 2048:
            raise GameError(f"Game({name!r}): tick_hz is 1 to 120, interest and world above 0, max_visible 1 to 2048")
        if idle_hz is not None and not 0 <= idle_hz <= 120:
            raise GameError(f"Game({name!r}): idle_hz is 0 to 120")
        self.idle_hz = float(tick_hz if idle_hz is None else idle_hz)
        self.name, self.tick_hz, self.interest, self.hysteresis = name, tick_hz, float(interest), float(hysteresis)
        self.world_size = (float(world[0]), float(world[1]))
        self.grace_ticks, self.max_visible = round(grace_s * tick_hz), max_visible
        self.entities: list[Declared] = []
        self.commands: list[Declared] = []
        self.events: list[Declared] = []
        self.effects: list[Declared] = []
        self.totals_declared: Declared | None = None
        self.hooks: dict[str, Callable[..., Any]] = {}
        self.effect_hooks: dict[tuple[str, str], Callable[..., Any]] = {}
        """(sends, takes or returned; name of the effect) -> hook"""
        self.hook_sources: list[Callable[..., Any]] = []

    # --- declarations ---------------------------------------------------------------------------------------------
    def entity(self, *, capacity: int, avatar: bool = False, ghosts: int = 0) -> Callable[[type[T]], type[T]]:
        """Declare an entity type. `capacity`: rows per zone at most. `avatar`: each player is one row of it. `ghosts`: see docs."""

        def declare(cls: type[T]) -> type[T]:
            declared = self._add(self.entities, cls, "entity", capacity=capacity, avatar=avatar, ghosts=ghosts or capacity)
            if not 1 <= capacity <= MAX_CAPACITY:
                raise declared.fault(f"capacity={capacity}; 1 to {MAX_CAPACITY} rows a zone are possible")
            by_name = {f.name: f for f in declared.fields}
            for axis in ("x", "y"):
                if axis not in by_name or by_name[axis].to != "all" or not by_name[axis].is_float:
                    raise declared.fault(f"an entity needs its place: `{axis}: f64 = q(0, size, step=...)`")
            if avatar and any(e.options["avatar"] for e in self.entities[:-1]):
                raise declared.fault("there is an avatar type already; only one may say avatar=True")
            return cls

        return declare

    def command(self, cls: type[T]) -> type[T]:
        """Declare a kind of command; its fields' ranges are enforced before a command reaches a zone."""
        declared = self._add(self.commands, cls, "command")
        size = np.dtype([(f.name, f.dtype) for f in declared.fields], align=True).itemsize
        if size > MAX_COMMAND_BYTES:
            raise declared.fault(f"a command of {size} bytes; {MAX_COMMAND_BYTES} are possible")
        if len(declared.fields) > MAX_COMMAND_FIELDS:
            raise declared.fault(f"a command of {len(declared.fields)} fields; {MAX_COMMAND_FIELDS} are possible")
        return cls

    def event(self, *, radius: float, capacity: int = 256) -> Callable[[type[T]], type[T]]:
        """Declare a kind of event, seen once by every player within `radius` of it; at most `capacity` a tick and zone."""

        def declare(cls: type[T]) -> type[T]:
            declared = self._add(self.events, cls, "event", radius=float(radius), capacity=capacity)
            if radius <= 0 or not 1 <= capacity <= 4096:
                raise declared.fault("radius must be above 0 and capacity 1 to 4096")
            return cls

        return declare

    def effect(self, *, source: type, target: type, capacity: int = 32) -> Callable[[type[T]], type[T]]:
        """Declare a message from a `source` entity to a `target` entity in another zone; `capacity`: proposed a tick and zone at most."""

        def declare(cls: type[T]) -> type[T]:
            ends = {"source": source.__name__.lower(), "target": target.__name__.lower()}
            declared = self._add(self.effects, cls, "effect", capacity=capacity, **ends)
            for end, name in ends.items():
                if name not in {e.name for e in self.entities}:
                    raise declared.fault(
                        f"{end}={name!r} is no entity of this game; name a class that is decorated with @game.entity above"
                    )
            if capacity < 0 or sum(e.options["capacity"] for e in self.effects) > MAX_PROPOSALS:
                raise declared.fault(
                    f"capacity={capacity}; at least 1, and {MAX_PROPOSALS} for all effects of a game together, are possible"
                )
            if effect_dtype(declared).itemsize > MAX_EFFECT_BYTES:
                raise declared.fault(f"an effect of {effect_dtype(declared).itemsize} bytes; {MAX_EFFECT_BYTES} are possible")
            return cls

        return declare

    def totals(self, cls: type[T]) -> type[T]:
        """Declare a zone's own counters (one row, `w.totals`); part of its state."""
        if self.totals_declared is not None:
            raise GameError(f"{_where(cls)}: totals are declared twice")
        self.totals_declared = _declare(cls, "totals")
        return cls

    def _add(self, where: list[Declared], cls: type, purpose: str, **options: Any) -> Declared:
        declared = _declare(cls, purpose)
        declared.options = options
        if declared.name in {d.name for d in [*self.entities, *self.commands, *self.events, *self.effects]}:
            raise declared.fault(f"{declared.name!r} is declared already; names are shared by entities, commands, events and effects")
        where.append(declared)
        return declared

    # --- hooks ----------------------------------------------------------------------------------------------------
    def _hook(self, name: str, function: F) -> F:
        arguments = len(inspect.signature(function).parameters)
        if name in self.hooks:
            raise GameError(f"{_where(function)}: @game.{name} stands twice; one function may carry it")
        if arguments != HOOKS[name]:
            raise GameError(f"{_where(function)}: @game.{name} takes {HOOKS[name]} arguments, this function has {arguments}")
        self.hook_sources.append(function)
        compiled = part_of_program(function)
        self.hooks[name] = compiled
        return compiled

    def _effect_hook(self, name: str, effect: type) -> Callable[[F], F]:
        def take(function: F) -> F:
            key, arguments = (name, effect.__name__.lower()), len(inspect.signature(function).parameters)
            if key[1] not in {e.name for e in self.effects}:
                raise GameError(
                    f"{_where(function)}: @game.{name}({effect.__name__}) names no effect; decorate the class with @game.effect"
                )
            if key in self.effect_hooks:
                raise GameError(f"{_where(function)}: @game.{name}({effect.__name__}) stands twice; one function may carry it")
            if arguments != EFFECT_HOOKS[name]:
                wanted = EFFECT_HOOKS[name]
                raise GameError(f"{_where(function)}: @game.{name} takes {wanted} arguments, this function has {arguments}")
            self.hook_sources.append(function)
            compiled = self.effect_hooks[key] = part_of_program(function)
            return compiled

        return take

    def function(self, function: F) -> F:
        """Compile a function of the game's own that its hooks call."""
        self.hook_sources.append(function)
        return part_of_program(function)

    def tick(self, function: F) -> F:
        """The rules: `tick(w)`, once a tick and zone. Owned rows only may be written; ghosts are read-only."""
        return self._hook("tick", function)

    def join(self, function: F) -> F:
        """`join(w, row, returning)`: a player's avatar enters the world; `returning` where its row was saved before."""
        return self._hook("join", function)

    def leave(self, function: F) -> F:
        """`leave(w, row)`: a player logs out; what the row holds afterwards is saved."""
        return self._hook("leave", function)

    def resume(self, function: F) -> F:
        """`resume(w, row)`: a player who had lost its connection is back (it may deserve a moment's protection)."""
        return self._hook("resume", function)

    def start(self, function: F) -> F:
        """`start(w)`: first tick of a zone that never ran."""
        return self._hook("start", function)

    def across(self, function: F) -> F:
        """`across(w)`: outside of the log, between two ticks: sees own rows and ghosts, writes nothing, and proposes effects by `reach`."""
        return self._hook("across", function)

    def sends(self, effect: type) -> Callable[[F], F]:
        """`sent(w, source, effect) -> bool`: a proposed effect is about to leave, in its source's zone; False: it does not."""
        return self._effect_hook("sends", effect)

    def takes(self, effect: type) -> Callable[[F], F]:
        """`taken(w, target, effect)`: an effect has come to its target, in the target's zone; once, whatever fails."""
        return self._effect_hook("takes", effect)

    def returned(self, effect: type) -> Callable[[F], F]:
        """`back(w, source, effect)`: an effect's target is gone, so it came back to its source (None where that is gone too)."""
        return self._effect_hook("returned", effect)

    # --- what comes of it -----------------------------------------------------------------------------------------
    def check(self) -> None:
        """Raise GameError where the declaration as a whole cannot be a game."""
        if "tick" not in self.hooks:
            raise GameError(f"game {self.name!r} has no rules; decorate a function tick(w) with @game.tick")
        if len([e for e in self.entities if e.options["avatar"]]) != 1:
            raise GameError(f"game {self.name!r} needs exactly one entity with avatar=True: what a player is in the world")
        if len(self.entities) > MAX_ENTITY_TYPES or len(self.commands) > MAX_COMMANDS or len(self.events) > MAX_EVENTS:
            raise GameError(f"game {self.name!r}: at most {MAX_ENTITY_TYPES} entity types, {MAX_COMMANDS} commands and {MAX_EVENTS} events")
        shown = sum(e.options["capacity"] + e.options["ghosts"] for e in self.entities)
        if shown > MAX_SHOWN:
            raise GameError(
                f"game {self.name!r}: capacity and ghosts of all entities come to {shown}, and a zone can show {MAX_SHOWN}; lower ghosts="
            )
        for effect in self.effects:
            if ("takes", effect.name) not in self.effect_hooks:
                what = effect.cls.__name__
                raise effect.fault(
                    f"nobody takes it; write @game.takes({what}) and a function taken(w, {effect.options['target']}, effect)"
                )
        if "across" in self.hooks and not self.effects:
            where = _where(getattr(self.hooks["across"], "py_func", self.hooks["across"]))
            raise GameError(f"{where}: @game.across has nothing to propose; declare what reaches over borders with @game.effect")
        from perdure.game.checking import check_functions

        check_functions(self)

    def schema(self) -> Schema:
        """Return the schema that clients see (server-only fields included here, left out on the wire)."""
        return Schema(
            self.name, self.tick_hz, *self.world_size, self.interest,
            tuple(
                EntitySchema(e.name, i, e.options["capacity"], e.options["avatar"], tuple(e.fields)) for i, e in enumerate(self.entities)
            ),
            tuple(CommandSchema(c.name, i + 1, tuple(c.fields)) for i, c in enumerate(self.commands)),
            tuple(EventSchema(v.name, i, v.options["radius"], tuple(v.fields)) for i, v in enumerate(self.events)),
        )  # fmt: skip


def row_dtype(declared: Declared) -> np.dtype[np.void]:
    """Return the dtype of an entity's row: 16 system bytes, then its fields, aligned, a multiple of 8 bytes."""
    return aligned_dtype(*SYSTEM_FIELDS, *((f.name, f.dtype) for f in declared.fields))


def effect_dtype(declared: Declared) -> np.dtype[np.void]:
    """Return the dtype of an effect: 24 system bytes, then its fields, aligned, a multiple of 8 bytes."""
    return aligned_dtype(*EFFECT_FIELDS, *((f.name, f.dtype) for f in declared.fields))


@lru_cache(maxsize=512)
def aligned_dtype(*fields: tuple[str, str]) -> np.dtype[np.void]:
    """Return the aligned dtype of these (name, format) fields: the same object each time, so that nobody compares two, field by field,
    to find that they are equal (Numba does at every call, with every array)."""
    return np.dtype(list(fields), align=True)


def _where(thing: Any) -> str:
    file = Path(inspect.getsourcefile(thing) or "?")
    return f"{file}:{inspect.getsourcelines(thing)[1]}"
