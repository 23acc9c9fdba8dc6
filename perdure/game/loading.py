"""Loading a game's file: a path becomes a checked Game, or one line that says what is wrong and where."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from perdure.game.contract import Game, GameError
from perdure.game.jit import sources_digest


@dataclass(frozen=True)
class LoadedGame:
    """A game and where it came from: all its source files, and under which module and variable it is found."""

    game: Game
    files: tuple[Path, ...]
    module_name: str
    variable: str


def load_game(path: str | Path) -> LoadedGame:
    """Load `path` (a .py file, or a folder with __init__.py, with or without .py at the end) and check its Game.

    Raises GameError, with file and line, for anything that is wrong with it.
    """
    file = _game_file(Path(path))
    files = tuple(sorted(file.parent.rglob("*.py"))) if file.name == "__init__.py" else (file,)
    name = f"perdure_games_{file.parent.name if file.name == '__init__.py' else file.stem}_{sources_digest(files):016x}"
    known = sys.modules.get(name)
    if known is None or not Path(known.__file__ or "").exists():  # one whose file is gone cannot be checked: that reads its source
        _run(name, file)
    module = sys.modules[name]
    games = [(variable, value) for variable, value in vars(module).items() if isinstance(value, Game)]
    if len(games) != 1:
        raise GameError(f"{file}: it makes {len(games)} Game objects; a game file makes exactly one, such as game = Game('arena')")
    variable, game = games[0]
    try:
        game.check()
    except GameError:
        del sys.modules[name]
        raise
    return LoadedGame(game, files, name, variable)


def _game_file(path: Path) -> Path:
    for candidate in (path / "__init__.py", path, path.with_suffix(".py")):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.resolve()
    raise GameError(f"{path}: no game there; name a .py file, or a folder with an __init__.py (such as games/arena)")


def _run(name: str, file: Path) -> None:
    folder = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
    if spec is None or spec.loader is None:
        raise GameError(f"{file}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except GameError:
        del sys.modules[name]
        raise
    except SyntaxError as error:
        del sys.modules[name]
        raise GameError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        del sys.modules[name]
        last = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == file]
        line = last[-1].lineno if last else 1
        raise GameError(f"{file}:{line}: {type(error).__name__}: {error}") from error
