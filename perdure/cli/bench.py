"""`perdure bench NAME [--json] [--keep FOLDER]`: one benchmark; with --json its last line is one JSON object, also where it failed."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import inspect
import os
import pkgutil
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from perdure.cli.children import end_like_ctrl_c


class BadOption(ValueError):
    """A benchmark's option has a value that it cannot have. One line: what, and what there is."""


def names() -> list[str]:
    """Return the names of all benchmarks: the modules of `benchmarks` that have a `run`."""
    import benchmarks

    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_") and not m.ispkg)


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(prog="perdure bench", description="Measure. Benchmarks: " + ", ".join(names()))
    made.add_argument("name", help="which")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--keep", metavar="FOLDER", default="", help="keep the result there as NAME.json; `perdure report` draws it")
    options, rest = made.parse_known_args(arguments[1:])
    if options.name not in names():
        print(f"perdure bench: there is no benchmark {options.name!r}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    end_like_ctrl_c()
    module = importlib.import_module(f"benchmarks.{options.name}")
    try:
        wanted = _keywords(module.run, rest)
    except ValueError as error:
        print(f"perdure bench {options.name}: {error}", file=sys.stderr)
        return 2
    try:
        result: dict[str, Any] = module.run(**wanted)
    except BadOption as error:
        print(f"perdure bench {options.name}: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001 (who reads the last line is told what went wrong, whatever it was)
        traceback.print_exc()
        result = {"fault": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "passed": False}
    if options.keep:
        keep(Path(options.keep), options.name, result)
    if hasattr(module, "report") and "fault" not in result:
        print(module.report(result), file=sys.stderr if options.json else sys.stdout)
    else:
        table = Table("figure", "value", title=options.name)
        for key, value in result.items():
            table.add_row(key, str(value))
        Console(stderr=options.json).print(table)
    if options.json:
        print(orjson.dumps({"bench": options.name, **result}, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    return 0 if result.get("passed", True) else 1


def keep(folder: Path, name: str, result: dict[str, Any]) -> None:
    """Write a result that is none of a failure, with when and where it was measured; of the bench of all, each one's."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "cores": os.cpu_count(),
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip
    for one, found in result.get("benches", {name: result}).items():
        if "fault" not in found:
            document = {"bench": one, "measured": measured, **found}
            (folder / f"{one}.json").write_bytes(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2))


def _keywords(function: Any, rest: list[str]) -> dict[str, Any]:
    """Read `--key value` pairs, and `--key` alone where it is a yes or no, as keyword arguments of a benchmark's `run`."""
    parameters = inspect.signature(function).parameters
    found: dict[str, Any] = {}
    waiting = list(rest)
    while waiting:
        key = waiting.pop(0)
        name = key.removeprefix("--").replace("-", "_")
        if name not in parameters or not key.startswith("--"):
            raise ValueError(f"it has no option {key}; it has {', '.join('--' + p.replace('_', '-') for p in parameters) or 'none'}")
        kind = type(parameters[name].default)
        if kind is bool:
            found[name] = True
            continue
        if not waiting:
            raise ValueError(f"{key} stands alone; options come as --name value")
        value = waiting.pop(0)
        try:
            found[name] = kind(value)
        except ValueError:
            raise ValueError(f"{key} is {'a whole number' if kind is int else 'a number'}, not {value!r}") from None
    return found
