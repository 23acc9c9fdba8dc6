"""Checks of a game's functions before they compile: misspelled fields and tables, and writes to ghosts, by file and line.

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
_TABLE_PARTS = {"rows", "ghosts", "spawned", "spawned_words", "count", "capacity"}


@dataclass(frozen=True)
class _Kind:
    """What a name is known to be: world, table, rows, ghosts, row, ghost, events, commands, command, event, totals."""

    what: str
    of: str = ""


def check_functions(game: Game) -> None:
    """Raise GameError at the first attribute that no row or table has, and at the first write to a ghost."""
    avatar = next(e for e in game.entities if e.options["avatar"])
    for function in game.hook_sources:
        roles: list[_Kind] = []
        hooks = {name: f for name, f in game.hooks.items() if getattr(f, "py_func", f) is function}
        if hooks:
            roles = [_Kind("world"), _Kind("row", avatar.name)]
        _check(game, function, roles)


def _check(game: Game, function: Callable[..., Any], roles: list[_Kind]) -> None:
    source, start = inspect.getsourcelines(function)
    file = inspect.getsourcefile(function) or "?"
    tree = ast.parse(textwrap.dedent("".join(source))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        return
    checker = _Checker(game, file, start - 1, _names_in_reach(function, tree))
    for index, argument in enumerate(tree.args.args):
        if index < len(roles):
            checker.names[argument.arg] = roles[index]
        elif argument.arg == "w":
            checker.names["w"] = _Kind("world")
        elif isinstance(argument.annotation, ast.Name) and argument.annotation.id.lower() in checker.entities:
            checker.names[argument.arg] = _Kind("row", argument.annotation.id.lower())
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
    def __init__(self, game: Game, file: str, offset: int, reach: set[str]) -> None:
        self.game, self.file, self.offset, self.reach = game, file, offset, reach
        self.entities = {e.name: e for e in game.entities}
        self.commands = {c.name: c for c in game.commands}
        self.events = {v.name: v for v in game.events}
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
                for table, what in ((self.entities, "table"), (self.commands, "commands"), (self.events, "events")):
                    if node.attr in table:
                        return _Kind(what, node.attr)
                return _Kind("totals") if node.attr == "totals" else None
            if of and of.what == "table" and node.attr in ("rows", "ghosts"):
                return _Kind(node.attr, of.of)
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
            of = self.kind(node.value)
            element = {"rows": "row", "ghosts": "ghost", "commands": "command"}.get(of.what) if of else None
            return _Kind(element, of.of) if of and element else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("spawn", "emit") and len(node.args) > 1:
            of = self.kind(node.args[1])
            return _Kind("row" if node.func.id == "spawn" else "event", of.of) if of else None
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        of = self.kind(node.value)
        if of:
            allowed = self.allowed(of)
            if allowed is not None and node.attr not in allowed:
                near = difflib.get_close_matches(node.attr, sorted(allowed), 1)
                mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(allowed - _TABLE_PARTS)[:12]) or 'none'}"
                thing = {"world": "w", "totals": "w.totals"}.get(of.what, of.of)
                self.fail(node, f"{thing} has no {node.attr!r}; {mend}")
            if of.what == "ghost" and isinstance(node.ctx, ast.Store):
                self.fail(node, f"{node.attr!r} of a ghost is written; ghosts are read-only copies of a neighbour's rows")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "despawn" and node.args:
            of = self.kind(node.args[0])
            if of and of.what == "ghost":
                self.fail(node, "a ghost is despawned; ghosts are read-only copies of a neighbour's rows")
        self.generic_visit(node)

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
        if of.what == "totals":
            declared = self.game.totals_declared
            return {f.name for f in declared.fields} if declared else set()
        if of.what == "table":
            return set(_TABLE_PARTS)
        if of.what == "world":
            return RESERVED | set(self.entities) | set(self.commands) | set(self.events)
        return None

    def fail(self, node: ast.AST, text: str) -> None:
        from perdure.game.contract import GameError

        raise GameError(f"{self.file}:{self.offset + getattr(node, 'lineno', 1)}: {text}")
