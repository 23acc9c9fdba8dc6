"""`perdure gateway | shard | coordinator`: one process of a cluster. Settings: command line > environment > file."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from perdure.runtime.settings import has_password


def main(arguments: list[str]) -> int:
    """Parse a role's settings and run it."""
    role = arguments[0]
    settings = parse_settings(_settings_class(role), role, arguments[1:])
    if settings is None:
        return 2
    # Until the role listens for signals itself: the first process of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, _end)
    if role == "gateway":
        from gateway.service import run
    elif role == "shard":
        from shard.service import run
    else:
        from coordinator.service import run
    return run(settings)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _settings_class(role: str) -> Any:
    if role == "gateway":
        from gateway.settings import GatewaySettings

        return GatewaySettings
    if role == "shard":
        from shard.settings import ShardSettings

        return ShardSettings
    from coordinator.settings import CoordinatorSettings

    return CoordinatorSettings


def parse_settings(cls: Any, role: str, arguments: list[str]) -> Any:
    """Return the settings, or None after one line for each that is wrong."""
    fault = secret_in_arguments(cls, arguments)
    if fault:
        print(f"perdure {role}: {fault}", file=sys.stderr)
        return None
    try:
        return cls(_cli_parse_args=arguments, _cli_prog_name=f"perdure {role}", _cli_avoid_json=True)
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(map(str, fault["loc"]))
            what = fault["msg"].removeprefix("Value error, ")
            print(f"perdure {role}: {f'{name}: ' if name else ''}{what}", file=sys.stderr)
    except (SettingsError, OSError, ValueError) as error:
        print(f"perdure {role}: {' '.join(str(error).split())}", file=sys.stderr)
    return None


def secret_in_arguments(cls: Any, arguments: list[str]) -> str:
    """Return why the arguments are refused, or "": every user of a machine may read another's command line.

    A secret is a setting that has a twin for a file. The line never repeats its value.
    """
    given = {argument.partition("=")[0].lower().replace("_", "-") for argument in arguments if argument.startswith("--")}
    for name in cls.model_fields:
        option = "--" + name.replace("_", "-")
        if f"{name}_file" in cls.model_fields and option in given:
            variable = f"PERDURE_{name.upper()}"
            return f"{option} is not taken from the command line, which others can read: set {variable} or {variable}_FILE"
    return ledger_password_in(arguments)


def ledger_password_in(arguments: list[str]) -> str:
    """Return why the URL of the ledger in these arguments is refused, or "": it may hold a password."""
    for at, argument in enumerate(arguments):
        option, given, value = argument.partition("=")
        meant = len(option) > 3 and "--redis-url".startswith(option.lower().replace("_", "-"))
        if meant and has_password(value if given else "".join(arguments[at + 1 : at + 2])):
            return "--redis-url with a password is not taken from the command line, which others can read: set PERDURE_REDIS_URL"
    return ""
