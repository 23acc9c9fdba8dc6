"""Serves the dashboard: the part of web/ that is the coordinator's, and the look that all pages share.

Owns which files those are. The pages hold no data, so they need no token; what they ask for does (`admin_answers`). Called by `admin_api`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.admin_answers import Endpoints
from perdure.runtime.web_files import answer, read_web_files

PAGE = "/dashboard/index.html"
SHARED = ("/style.css", "/colours.js", "/favicon.svg")


def dashboard_routes(wrap: Endpoints) -> list[Route]:
    """Return a route for each file; the page itself is at /."""
    found = {path: file for path, file in read_web_files().items() if path.startswith("/dashboard") or path in SHARED}
    if PAGE in found:
        found["/"] = found[PAGE]

    async def serve(request: Request) -> Response:
        made = answer(found, request.method, request.url.path, request.headers.get("if-none-match", ""))
        assert made is not None, "there is a route for each file alone"
        response = Response(made.body, made.status, dict(made.headers))
        if request.method == "HEAD":
            response.headers["content-length"] = str(made.length)
        return response

    return [Route(path, wrap.open(serve), methods=["GET"]) for path in found]
