"""How the admin API answers: JSON, errors with their mend, the bearer token, the audit line.

Owns the wrapping that every endpoint goes through (`Endpoints.open`, `.reading`, `.changing`). Knows no endpoint. Called by `admin_api`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from perdure.ledger.ledger import LedgerRefused, LedgerUnavailable

MAX_BODY_BYTES = 4096

audit = structlog.get_logger("audit")

Handler = Callable[[Request], Awaitable[Response]]


class AdminError(Exception):
    """An answer that is not the wanted one: `status`, `error` (what) and `mend` (how)."""

    def __init__(self, status: int, error: str, mend: str) -> None:
        super().__init__(error)
        self.status, self.error, self.mend = status, error, mend


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; never cached, since it shows a moment."""
    body = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, media_type="application/json")


def refuse(error: AdminError) -> Response:
    headers = {"WWW-Authenticate": 'Bearer realm="perdure"'} if error.status == 401 else None
    return answer({"error": error.error, "mend": error.mend}, error.status, headers)


async def http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses (unknown path, wrong method) like every other error."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    mend = {404: "see docs/OPERATIONS.md for the paths", 405: "use the method that docs/OPERATIONS.md names"}.get(status, "see the log")
    return refuse(AdminError(status, f"{request.method} {request.url.path} is not served here", mend))


class Endpoints:
    """Wraps handlers for one token. The token itself is not kept, only its digest.

    `anyone_reads`: what changes nothing needs no token, unless the request names this server by a domain name: a page from elsewhere whose
    name was made to point here (DNS rebinding) would be answered too.
    """

    def __init__(self, token: str, anyone_reads: bool = False) -> None:
        if not token:
            raise ValueError("the admin API needs a token")
        self._digest = _digest(token)
        self._anyone_reads = anyone_reads

    def open(self, handler: Handler) -> Handler:
        """Wrap a handler that needs no token."""

        async def wrapped(request: Request) -> Response:
            return await _guarded(handler, request)

        return wrapped

    def reading(self, handler: Handler) -> Handler:
        """Wrap a handler that changes nothing; it needs the token unless anyone may read."""

        async def wrapped(request: Request) -> Response:
            fault = None if self.may_read(request) else self._token_fault(request)
            return refuse(fault) if fault else await _guarded(handler, request)

        return wrapped

    def changing(self, handler: Handler) -> Handler:
        """Wrap a handler that changes something: each call leaves a line in the audit log, refused ones too."""

        async def wrapped(request: Request) -> Response:
            fault = self._token_fault(request)
            response = refuse(fault) if fault else await _guarded(handler, request)
            audit.info(
                "admin",
                method=request.method,
                path=request.url.path,
                query=request.url.query,
                client=request.client.host if request.client else "",
                status=response.status_code,
            )
            return response

        return wrapped

    def may_read(self, request: Request) -> bool:
        """Would this request be answered if it only looked?"""
        return (self._anyone_reads and _is_plain_host(request.url.hostname or "")) or self.has_token(request)

    def has_token(self, request: Request) -> bool:
        return self._token_fault(request) is None

    def _token_fault(self, request: Request) -> AdminError | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(token.strip()), self._digest):
            return None
        return AdminError(401, "no admin token, or a wrong one", "send 'Authorization: Bearer <PERDURE_ADMIN_TOKEN of this coordinator>'")


async def read_body(request: Request) -> bytes:
    """Return the request's body, which may have MAX_BODY_BYTES."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise AdminError(413, f"the body is over {MAX_BODY_BYTES} bytes", "send only the fields that docs/OPERATIONS.md names")
    except ClientDisconnect as error:  # nobody is there to hear it, but it stands in the log
        raise AdminError(408, "the connection ended before the request was whole", "send it at once, with its whole body") from error
    return body


def integer(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number of the query."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and least <= int(text) <= most):
        raise AdminError(400, f"{name} is {text!r}", f"{name} is a whole number from {least} to {most}")
    return int(text)


def _is_plain_host(host: str) -> bool:
    """Is it an address, or a name without a domain (localhost, a container's name)?"""
    return "." not in host or host.replace(".", "").isdigit()


async def _guarded(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except AdminError as error:
        return refuse(error)
    except LedgerUnavailable as error:
        return refuse(AdminError(503, f"the ledger does not answer: {error}", "running zones wait; see why Redis is away, then ask again"))
    except LedgerRefused as error:
        return refuse(AdminError(409, f"the ledger refused: {error}", "look at /status, then ask again"))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
