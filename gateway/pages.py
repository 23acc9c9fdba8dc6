"""What a gateway answers to plain HTTP: health, the files of web/, and in development a login token for whoever asks.

Owns the table of files and the rules of the token endpoint. No sockets and no websockets here: websocket_server hands requests in
and makes responses of the answers. Never gives a token outside development, nor for a name that somebody plays under.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from gateway.settings import GatewaySettings
from perdure.ledger.ledger import LedgerError
from perdure.runtime.web_files import Answer, answer, read_web_files, text_answer
from perdure.wire.identifiers import name_fault
from perdure.wire.tokens import make_token

TOKEN_PATH = "/dev/token"
TOKEN_TTL_S = 60.0
COORDINATORS_PART = ("dashboard",)
JSON = "application/json"


class Pages:
    """`ready` says why this gateway is not (empty: it is); `is_playing` whether somebody is connected under a name (LedgerError)."""

    def __init__(self, settings: GatewaySettings, ready: Callable[[], str], is_playing: Callable[[str], Awaitable[bool]]) -> None:
        self._settings = settings
        self._ready = ready
        self._is_playing = is_playing
        self._files = read_web_files(without=COORDINATORS_PART) if settings.web_pages else {}

    def answer(self, method: str, path: str, query: str, headers: dict[str, str]) -> Answer | Awaitable[Answer]:
        """Return the answer to a request that is no websocket's; `headers` by lower-case name."""
        if method not in ("GET", "HEAD"):
            return text_answer(405, "only GET and HEAD are answered here\n")
        if path == "/healthz":
            return text_answer(200, "ok\n")
        if path == "/readyz":
            fault = self._ready()
            return text_answer(503 if fault else 200, (fault or "ready") + "\n")
        if path == "/client.json":  # how the page logs in; always there, so that it need not try what may be refused
            return text_answer(200, json.dumps({"login": "name" if self._settings.token_endpoint else "token"}), JSON)
        if path == TOKEN_PATH and self._settings.token_endpoint:
            return self._token(query, headers)
        found = answer(self._files, method, path, headers.get("if-none-match", ""))
        return found if found is not None else text_answer(404, "there is nothing here\n")

    async def _token(self, query: str, headers: dict[str, str]) -> Answer:
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return text_answer(403, "tokens are for this gateway's own page\n")
        try:
            asked = parse_qs(query, max_num_fields=8) if len(query) < 256 else {}
        except ValueError:
            return text_answer(400, json.dumps({"error": "too many fields; ask with ?name=NAME and nothing else"}), JSON)
        name = asked.get("name", [""])[0]
        fault = name_fault(name)
        if fault is not None:
            return text_answer(400, json.dumps({"error": fault}), JSON)
        try:
            playing = await self._is_playing(name)
        except LedgerError:
            return text_answer(503, json.dumps({"error": "the ledger does not answer; try again"}), JSON)
        if playing:
            return text_answer(409, json.dumps({"error": f"somebody plays as {name} now; take another name"}), JSON)
        token = make_token(self._settings.secret, name, TOKEN_TTL_S)
        return text_answer(200, json.dumps({"name": name, "token": token, "expires_s": TOKEN_TTL_S}), JSON)
