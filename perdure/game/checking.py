"""Checks of a game's functions before they compile: misspelled fields and tables, writes to ghosts, and ghosts where none may be read.

Reads the source as a syntax tree and follows what is plainly a row, a table or the world; what it cannot follow it
leaves alone (the compiler has the last word). Called by `Game.check`.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.game.contract import Game

_ROW_SYSTEM = {"id", "player", "dead"}
_MAKES = {"spawn": "row", "emit": "event", "reach": "effect", "reply": "effect"}
_PLACES = {"reach": "across", "reply": "takes"}
_WRITES = {"spawn", "despawn", "emit"}
_TABLE_PARTS = {"rows", "ghosts", "spawned", "spawned_words", "count", "capacity"}


@dataclass(frozen=True)
class _Kind:
    """What a name is known to be: world, table, rows, ghosts, row, ghost, events, commands, command, event, effects, effect, totals."""

    what: str
    of: str = ""


def check_functions(game: Game) -> None:
    """Raise GameError at the first attribute that no row or table has, at the first write to a ghost, and at the first use of ghosts or
    effects in a function from where the state of a zone would come to depend on what is in no log.
    """
    avatar = next(e for e in game.entities if e.options["avatar"])
    uses = functions_of_hooks(game)
    for function in game.hook_sources:
        roles: list[_Kind] = []
        hooks = {name: f for name, f in game.hooks.items() if getattr(f, "py_func", f) is function}
        if hooks:
            roles = [_Kind("world"), _Kind("row", avatar.name)]
        for (hook, name), f in game.effect_hooks.items():
            if getattr(f, "py_func", f) is function:
                effect = next(e for e in game.effects if e.name == name)
                end = effect.options["target" if hook == "takes" else "source"]
                roles = [_Kind("world"), _Kind("row", end), _Kind("effect", name)]
                if hook == "sends":
                    _check_answers(function)
        _check(game, function, roles, uses[function])


def functions_of_hooks(game: Game) -> dict[Callable[..., Any], set[str]]:
    """Return, for each function of a game, the names of the hooks that it is or that call it, however deep."""
    calls = {function: _called(function) & set(game.hook_sources) for function in game.hook_sources}
    uses: dict[Callable[..., Any], set[str]] = {function: set() for function in game.hook_sources}
    named = [*game.hooks.items(), *((hook, f) for (hook, _), f in game.effect_hooks.items())]
    for hook, compiled in named:
        waiting = [getattr(compiled, "py_func", compiled)]
        while waiting:
            function = waiting.pop()
            if hook not in uses[function]:
                uses[function].add(hook)
                waiting += calls[function]
    return uses


def _called(function: Callable[..., Any]) -> set[Callable[..., Any]]:
    """Return what a function's names call; not those of attributes, such as the tick of `w.tick`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    named = [function.__globals__.get(node.id) for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {getattr(f, "py_func", f) for f in named if callable(f)}


def _check_answers(function: Callable[..., Any]) -> None:
    from perdure.game.contract import GameError

    source, start = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(source)))
    if not any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(tree)):
        place = f"{inspect.getsourcefile(function)}:{start}"
        raise GameError(f"{place}: @game.sends returns nothing; return True where the effect is to leave, False where it is not")


def _check(game: Game, function: Callable[..., Any], roles: list[_Kind], hooks: set[str]) -> None:
    source, start = inspect.getsourcelines(function)
    file = inspect.getsourcefile(function) or "?"
    tree = ast.parse(textwrap.dedent("".join(source))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        return
    checker = _Checker(game, file, start - 1, _names_in_reach(function, tree), hooks)
    for index, argument in enumerate(tree.args.args):
        named = argument.annotation.id.lower() if isinstance(argument.annotation, ast.Name) else ""
        if index < len(roles):
            checker.names[argument.arg] = roles[index]
        elif argument.arg == "w":
            checker.names["w"] = _Kind("world")
        elif named in checker.entities:
            checker.names[argument.arg] = _Kind("row", named)
        elif named in checker.effects:
            checker.names[argument.arg] = _Kind("effect", named)
    checker.learn(tree)
    checker.visit(tree)


def _names_in_reach(function: Callable[..., Any], tree: ast.AST) -> set[str]:
    """Return every name that could mean something in a function: its own, those of its module, and Python's."""
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    code = function.__code__
    return own | {*code.co_varnames, *code.co_freevars, *function.__globals__, *dir(builtins)}


class _Checker(ast.NodeVisitor):
    def __init__(self, game: Game, file: str, offset: int, reach: set[str], hooks: set[str]) -> None:
        self.game, self.file, self.offset, self.reach, self.hooks = game, file, offset, reach, hooks
        self.entities = {e.name: e for e in game.entities}
        self.commands = {c.name: c for c in game.commands}
        self.events = {v.name: v for v in game.events}
        self.effects = {e.name: e for e in game.effects}
        self.names: dict[str, _Kind | None] = {}

    def learn(self, tree: ast.AST) -> None:
        """Find what each local name is; a name that is two things is not followed."""
        for node in ast.walk(tree):
            pairs: list[tuple[ast.expr, _Kind | None]] = []
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                pairs = [(node.targets[0], self.kind(node.value))]
            elif isinstance(node, ast.For):
                over = self.kind(node.iter)
                element = {"rows": "row", "ghosts": "ghost", "commands": "command"}.get(over.what) if over else None
                pairs = [(node.target, _Kind(element, over.of) if over and element else None)]
            for target, kind in pairs:
                for part in ast.walk(target) if isinstance(target, ast.Tuple | ast.List) else ():
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                        self.names[part.id] = None
                if isinstance(target, ast.Name):
                    known = self.names.get(target.id, kind)
                    self.names[target.id] = kind if known == kind else None

    def kind(self, node: ast.expr) -> _Kind | None:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            of = self.kind(node.value)
            if of and of.what == "world":
                named = {"table": self.entities, "commands": self.commands, "events": self.events, "effects": self.effects}
                for what, table in named.items():
                    if node.attr in table:
                        return _Kind(what, node.attr)
                return _Kind("totals") if node.attr == "totals" else None
            if of and of.what == "table" and node.attr in ("rows", "ghosts"):
                return _Kind(node.attr, of.of)
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
            of = self.kind(node.value)
            element = {"rows": "row", "ghosts": "ghost", "commands": "command"}.get(of.what) if of else None
            return _Kind(element, of.of) if of and element else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MAKES and len(node.args) > 1:
            of = self.kind(node.args[1])
            return _Kind(_MAKES[node.func.id], of.of) if of else None
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        of = self.kind(node.value)
        writes = isinstance(node.ctx, ast.Store)
        if writes and "across" in self.hooks and (of is None or of.what not in ("effect", "ghost")):
            self.fail(node, f"{node.attr!r} is written in @game.across, which may fill in what reach() returns and nothing else; write it "
                            "in the hooks of the effect")  # fmt: skip
        if of:
            allowed = self.allowed(of)
            if allowed is not None and node.attr not in allowed:
                near = difflib.get_close_matches(node.attr, sorted(allowed), 1)
                mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(allowed - _TABLE_PARTS)[:12]) or 'none'}"
                thing = {"world": "w", "totals": "w.totals"}.get(of.what, of.of)
                self.fail(node, f"{thing} has no {node.attr!r}; {mend}")
            if of.what == "effect" and writes and node.attr in ("source", "target"):
                self.fail(node, f"{node.attr!r} of an effect is written; it says between whom it is, and reach() and reply() set it")
            if of.what == "ghost" and writes:
                self.fail(node, f"{node.attr!r} of a ghost is written; ghosts are read-only copies of a neighbour's rows")
            outside = sorted(self.hooks - {"across"})
            if of.what == "table" and node.attr == "ghosts" and outside:
                self.fail(node, f"ghosts are read in @game.{outside[0]}; they are in no log, so only @game.across may read them; what it "
                                "proposes by reach() comes to the hooks of the effect")  # fmt: skip
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store) and "across" in self.hooks:
            self.fail(node, "@game.across writes to an array; it may fill in what reach() returns, and nothing else")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self.check_place(node, node.func.id)
        if isinstance(node.func, ast.Name) and node.func.id == "despawn" and node.args:
            of = self.kind(node.args[0])
            if of and of.what == "ghost":
                self.fail(node, "a ghost is despawned; ghosts are read-only copies of a neighbour's rows")
        self.generic_visit(node)

    def check_place(self, node: ast.Call, called: str) -> None:
        """Is this a place from where `called` may be called, and with this effect?"""
        if called in _WRITES and "across" in self.hooks:
            self.fail(
                node, f"{called}() in @game.across, which writes nothing; propose an effect by reach(), and do it in the effect's hooks"
            )
        place = _PLACES.get(called)
        if place is None:
            return
        elsewhere = sorted(self.hooks - {place})
        if elsewhere:
            self.fail(node, f"{called}() in @game.{elsewhere[0]}; only @game.{place} may call it, and functions that only it calls")
        named = self.kind(node.args[1]) if len(node.args) > 1 else None
        if named is not None and named.what != "effects":
            self.fail(node, f"{called}() is given w.{named.of or named.what}, which is no effect; declare one with @game.effect")
        effect = self.effects.get(named.of) if named is not None else None
        given = [self.kind(argument) for argument in node.args[2:]]
        if effect is None:
            return
        wanted = [effect.options["source"], effect.options["target"]]
        if called == "reach":
            for end, kind, name in zip(("source", "target"), given, wanted, strict=False):
                if kind is not None and kind.of != name:
                    self.fail(node, f"the {end} of {effect.name} is given as {kind.of}; it was declared to be {name}")
        elif given and given[0] is not None and given[0].of in self.effects:
            asked = self.effects[given[0].of].options
            if [asked["target"], asked["source"]] != wanted:
                self.fail(node, f"{effect.name} goes from {wanted[0]} to {wanted[1]}, an answer to {given[0].of} from {asked['target']} to "
                                f"{asked['source']}; declare it so")  # fmt: skip

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id not in self.reach:
            near = difflib.get_close_matches(node.id, sorted(self.reach - set(dir(builtins))), 1)
            self.fail(node, f"the name {node.id!r} is not defined{f'; did you mean {near[0]!r}?' if near else ''}")

    def allowed(self, of: _Kind) -> set[str] | None:
        from perdure.game.contract import RESERVED

        if of.what in ("row", "ghost"):
            return _ROW_SYSTEM | {f.name for f in self.entities[of.of].fields} if of.of in self.entities else None
        if of.what == "command":
            return {"given"} | {f.name for f in self.commands[of.of].fields}
        if of.what == "event":
            return {"at_x", "at_y"} | {f.name for f in self.events[of.of].fields} if of.of in self.events else None
        if of.what == "effect":
            return {"source", "target"} | {f.name for f in self.effects[of.of].fields} if of.of in self.effects else None
        if of.what == "totals":
            declared = self.game.totals_declared
            return {f.name for f in declared.fields} if declared else set()
        if of.what == "table":
            return set(_TABLE_PARTS)
        if of.what == "world":
            return RESERVED | set(self.entities) | set(self.commands) | set(self.events) | set(self.effects)
        return None

    def fail(self, node: ast.AST, text: str) -> None:
        from perdure.game.contract import GameError

        raise GameError(f"{self.file}:{self.offset + getattr(node, 'lineno', 1)}: {text}")
