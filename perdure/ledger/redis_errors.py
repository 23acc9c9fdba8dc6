"""What a Redis server's errors mean: whether the same call may succeed later, and one line that says what to do.

Knows no connection, and no library: errors come as they are. Called by redis_ledger.
"""

from __future__ import annotations

UNAVAILABLE = (
    "OOM",
    "READONLY",
    "LOADING",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "BUSY",
    "TRYAGAIN",
    "UNKILLABLE",
    "CLOSED",
)
"""Error codes of a server that refuses writes for now. The call had no effect, and the same call may succeed later."""
_MENDS = {
    "OOM": "it is out of memory: raise maxmemory",
    "READONLY": "it is a read-only replica: point the URL at the primary",
    "LOADING": "it is loading its data: wait",
    "MISCONF": "it cannot write its files: look at its disk",
    "NOREPLICAS": "it wants replicas that are not there",
    "BUSY": "another script keeps it busy",
    "NOAUTH": "it wants a password: put it into the URL",
    "WRONGPASS": "user or password are wrong",
    "NOPERM": "the users of the ledger are in deploy/users.acl; see docs/OPERATIONS.md",
}
_REFUSED_IN_FUNCTION = ("ACL failure in script", "The user executing the script can't")
"""How Valkey, and how Redis 7.0, say that the caller of a function may not do what the function does."""


def code_of(error: BaseException) -> str:
    """Return the first word of a server's error; redis-py strips some of them into exception classes."""
    text = str(error)
    if text.startswith("Authentication required"):
        return "NOAUTH"
    if any(refusal in text for refusal in _REFUSED_IN_FUNCTION):
        return "NOPERM"
    names = {
        "ReadOnlyError": "READONLY",
        "BusyLoadingError": "LOADING",
        "OutOfMemoryError": "OOM",
        "AuthenticationError": "WRONGPASS",
        "NoPermissionError": "NOPERM",
        "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
        "ClusterDownError": "CLUSTERDOWN",
        "MasterDownError": "MASTERDOWN",
        "TryAgainError": "TRYAGAIN",
    }
    return names.get(type(error).__name__, text.split(" ", 1)[0])


def explain(where: str, error: BaseException, user: str = "", doing: str = "") -> str:
    """Return one line on an error of the server; `user` and `doing` are named where the user may not do that."""
    code = code_of(error)
    text = str(error)
    if text.startswith(("PERDURE ", "CLOSED ")) or code == "NOPERM":
        # The server appends where in the script it was said; that helps nobody.
        text = text.removeprefix("PERDURE ").removeprefix("CLOSED ").removeprefix("ERR ").removeprefix("NOPERM ").partition(" script: ")[0]
    if code == "NOPERM" and doing:
        text = f"user {user} may not do {doing}: {text}"
    return f"{where}: {text}" + (f" ({_MENDS[code]})" if code in _MENDS else "")


def unknown_function(error: BaseException | None) -> bool:
    """Whether a call failed because the server does not (any longer) hold the function library."""
    return error is not None and "Function not found" in str(error)
