"""`perdure bench NAME [--json]`: one benchmark; with --json its last line is one JSON object."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import signal
import sys
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table


def names() -> list[str]:
    """Return the names of all benchmarks: the modules of `benchmarks` that have a `run`."""
    import benchmarks

    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_") and not m.ispkg)


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(prog="perdure bench", description="Measure. Benchmarks: " + ", ".join(names()))
    made.add_argument("name", help="which")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options, rest = made.parse_known_args(arguments[1:])
    if options.name not in names():
        print(f"perdure bench: there is no benchmark {options.name!r}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ended like Ctrl-C: with the processes it started
    module = importlib.import_module(f"benchmarks.{options.name}")
    try:
        wanted = _keywords(module.run, rest)
    except ValueError as error:
        print(f"perdure bench {options.name}: {error}", file=sys.stderr)
        return 2
    result: dict[str, Any] = module.run(**wanted)
    table = Table("figure", "value", title=options.name)
    for key, value in result.items():
        table.add_row(key, str(value))
    Console(stderr=options.json).print(table)
    if options.json:
        print(orjson.dumps({"bench": options.name, **result}, option=orjson.OPT_SERIALIZE_NUMPY).decode())
    return 0 if result.get("passed", True) else 1


def _keywords(function: Any, rest: list[str]) -> dict[str, Any]:
    """Read `--key value` pairs as keyword arguments of a benchmark's `run`."""
    parameters = inspect.signature(function).parameters
    found: dict[str, Any] = {}
    for key, value in zip(rest[::2], rest[1::2], strict=False):
        name = key.removeprefix("--").replace("-", "_")
        if name not in parameters:
            raise ValueError(f"it has no option {key}; it has {', '.join('--' + p.replace('_', '-') for p in parameters) or 'none'}")
        kind = type(parameters[name].default)
        found[name] = kind(value)
    if len(rest) % 2:
        raise ValueError(f"{rest[-1]} stands alone; options come as --name value")
    return found
