"""The library of Redis functions: put together from functions/*.lua, and loaded where the server has not got it.

Owns the library's name, version and build stamp. The library is `_shared.lua` and then every other file, each in its own
block; names and numbers that Python owns go in front (keys.lua_constants). Never calls a function of the library but its
build stamp. Called by redis_ledger on connecting, and whenever the server answers that it knows no such function.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import NoPermissionError, ResponseError

from perdure.ledger.keys import lua_constants

LIBRARY_VERSION = 1
"""Rises with each incompatible change; it is in the library's and every function's name, so two can live side by side."""
LIBRARY_NAME = f"perdure_v{LIBRARY_VERSION}"
LIBRARY_REVISION = 4
"""Rises with each compatible change (a test holds it against the text). A server that holds a later revision is left alone, so that in a
rolling upgrade a process of the older build does not put the older library back."""


class LibraryAwaited(Exception):
    """The server lacks the library, and this user may not load it: somebody else has to. The message says what the server holds."""


_FUNCTIONS = Path(__file__).parent / "functions"


@cache
def library_source() -> str:
    """Return the text for FUNCTION LOAD."""
    body = [lua_constants(), (_FUNCTIONS / "_shared.lua").read_text()]
    body += [f"do\n{path.read_text()}end\n" for path in sorted(_FUNCTIONS.glob("[a-z]*.lua"))]
    text = "\n".join(body)
    build = f"{LIBRARY_REVISION}:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    stamp = (
        f"redis.register_function({{ function_name = '{LIBRARY_NAME}_build', "
        f"callback = function() return '{build}' end, flags = {{ 'no-writes' }} }})\n"
    )
    return f"#!lua name={LIBRARY_NAME}\n{text}\n{stamp}"


@cache
def library_build() -> str:
    """Return the build stamp, '<revision>:<hash>', that the loaded library answers."""
    found = re.search(r"return '(\d+:[0-9a-f]+)' end", library_source())
    if found is None:
        raise RuntimeError("the function library has no build stamp")
    return found[1]


async def ensure_library(client: redis.asyncio.Redis) -> bool:
    """Load the library unless the server has this build or a later revision; return whether it was loaded.

    A user that may not load goes on with any build of this revision, and else raises LibraryAwaited. Raises what redis-py raises
    besides; the caller turns it into a LedgerError.
    """
    has = ""
    try:
        answer: Any = await client.execute_command("FCALL_RO", f"{LIBRARY_NAME}_build", 0)
    except ResponseError as error:
        if "Function not found" not in str(error):
            raise
    else:
        has = answer.decode()
        if has == library_build() or int(has.split(":")[0]) > LIBRARY_REVISION:
            return False
    try:
        await client.execute_command("FUNCTION", "LOAD", "REPLACE", library_source())
    except NoPermissionError as error:
        if has and int(has.split(":")[0]) == LIBRARY_REVISION:
            return False
        held = f"holds revision {has.split(':')[0]} of the functions, not {LIBRARY_REVISION}" if has else "holds no functions yet"
        raise LibraryAwaited(held) from error
    return True
