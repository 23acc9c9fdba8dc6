"""The part of the admin API that the dashboard lives on: the live picture, its stream, the event log, players page by page.

Owns the paths and the bound on streams. Reads what the coordinator has in memory (view, presence book, chronicle) and asks the ledger
nothing, so that who looks on does not slow who steers. Called by `admin_api`, which mounts `routes`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from coordinator.admin_answers import AdminError, Endpoints, answer, integer
from coordinator.chronicle import EVENTS_KEPT
from coordinator.launcher import LauncherError, add_shard
from coordinator.live_feed import LiveFeed
from coordinator.live_picture import picture
from coordinator.presence_feed import PresenceFeed
from coordinator.settings import CoordinatorSettings
from coordinator.steering import Steering
from perdure.placement.presence import Sighting

MAX_PLAYERS_A_PAGE = 200
MAX_FIND_LENGTH = 64
EVENTS_AT_FIRST = 100
MAX_NUMBER = 1 << 53
SORTS = ("name", "zone", "gateway", "session")


class LiveApi:
    """The endpoints of one coordinator."""

    def __init__(self, settings: CoordinatorSettings, steering: Steering, presence: PresenceFeed) -> None:
        self._settings = settings
        self._steering = steering
        self._presence = presence
        self._streams = 0
        self._wrap: Endpoints | None = None
        self.feed = LiveFeed(self._picture)

    def routes(self, wrap: Endpoints) -> list[Route]:
        self._wrap = wrap
        return [
            Route("/access", wrap.open(self.access), methods=["GET"]),
            Route("/live", wrap.reading(self.live), methods=["GET"]),
            Route("/live/stream", wrap.reading(self.stream), methods=["GET"]),
            Route("/live/players", wrap.reading(self.players), methods=["GET"]),
            Route("/events", wrap.reading(self.events), methods=["GET"]),
            Route("/shards", wrap.changing(self.add_shard), methods=["POST"]),
        ]

    async def access(self, request: Request) -> Response:
        """What the asker may do here: a page shows what fits."""
        assert self._wrap is not None
        may = {"read": self._wrap.may_read(request), "token": self._wrap.has_token(request)}
        return answer(may | {"development": self._settings.development, "add_shard": self._can_launch})

    async def live(self, request: Request) -> Response:
        """The picture, with what a page needs to begin: the trend of the last minutes and the newest events."""
        self._fault()
        trend = self._steering.trends.to_json(self._steering.now_ms())
        blackouts = [event.to_json() for event in self._steering.chronicle.blackouts()]
        events = [event.to_json() for event in self._steering.chronicle.since(0, EVENTS_AT_FIRST)]
        told = self._steering.chronicle.number
        return answer(self._picture() | {"trend": trend, "blackouts": blackouts, "events": events, "told": told})

    async def stream(self, request: Request) -> Response:
        """The picture as server-sent events, whenever there is a new one: at most two a second; and what happened above `since`."""
        self._fault()
        if self._streams >= self._settings.max_live_streams:
            raise AdminError(429, f"{self._streams} dashboards are open already", "close one, or raise max_live_streams")
        newest = self._steering.chronicle.number
        since = min(integer(request, "since", newest, 0, MAX_NUMBER), newest)
        return StreamingResponse(self._pictures(since), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _pictures(self, told: int) -> AsyncIterator[bytes]:
        self._streams += 1  # here and not before: a client that left at once never gets this far
        try:
            number, body = self.feed.newest()
            while True:
                yield b"event: picture\ndata: %s\n\n" % body
                events = self._steering.chronicle.since(told)
                if events:
                    told = events[-1].number
                    yield b"event: log\ndata: %s\n\n" % orjson.dumps([event.to_json() for event in events])
                if self._presence.closed:
                    return
                number, body = await self.feed.after(number)
        finally:
            self._streams -= 1

    async def add_shard(self, request: Request) -> Response:
        """Ask whoever started this cluster for one more shard; zones then move to it."""
        if not self._can_launch:
            raise AdminError(403, "nobody here can be asked for a shard", "start one yourself; `perdure up` can be asked, in development")
        try:
            name = await add_shard(self._settings.launcher)
        except LauncherError as error:
            raise AdminError(503, str(error), "see what `perdure up` prints, or start a shard yourself") from error
        return answer({"shard": name, "state": "starting"}, 202)

    async def events(self, request: Request) -> Response:
        """What happened above `since`, of what this coordinator saw and keeps."""
        since = integer(request, "since", 0, 0, MAX_NUMBER)
        limit = integer(request, "limit", 100, 1, EVENTS_KEPT)
        chronicle = self._steering.chronicle
        return answer({"number": chronicle.number, "events": [event.to_json() for event in chronicle.since(since, limit)]})

    async def players(self, request: Request) -> Response:
        """One page of who is online, as the presence book has it: filtered, sorted."""
        offset = integer(request, "offset", 0, 0, MAX_NUMBER)
        limit = integer(request, "limit", 50, 1, MAX_PLAYERS_A_PAGE)
        zone = integer(request, "zone", -1, 0, MAX_NUMBER)
        find = request.query_params.get("find", "")[:MAX_FIND_LENGTH].lower()
        sort, backwards = request.query_params.get("sort", "name"), request.query_params.get("order") == "down"
        if sort not in SORTS:
            raise AdminError(400, f"sort is {sort!r}", f"sort is one of {', '.join(SORTS)}")
        gateways = self._gateway_names()
        seen = [s for s in self._presence.book.sightings() if (zone < 0 or s.place == zone) and find in s.name.lower()]
        seen.sort(key=lambda s: s.name, reverse=backwards and sort == "name")
        if sort != "name":
            keys = {"zone": lambda s: s.place, "session": lambda s: s.session, "gateway": lambda s: gateways.get(s.gateway, "")}
            seen.sort(key=keys[sort], reverse=backwards)
        rows = [_player(s, gateways) for s in seen[offset : offset + limit]]
        return answer({"count": len(seen), "offset": offset, "players": rows})

    # --- within -----------------------------------------------------------------------------------------------------

    @property
    def _can_launch(self) -> bool:
        return self._settings.development and bool(self._settings.launcher)

    def _fault(self) -> None:
        if self._steering.view is None:
            raise AdminError(503, "the ledger was not read yet", "see why Redis is away, then ask again")

    def _picture(self) -> dict[str, Any]:
        view = self._steering.view
        assert view is not None, "asked for only once there is one"
        sightings = list(self._presence.book.sightings())
        places = Counter(map(attrgetter("place"), sightings))
        sessions = Counter(map(attrgetter("gateway"), sightings))
        return picture(view, self._steering.world, places, sessions) | {
            "at_ms": round(time.time() * 1000),
            "view_age_ms": round(self._steering.view_age_ms() or 0.0),
            "answered_by": self._steering.name,
            "leading": self._steering.leading,
            "development": self._settings.development,
            "number": self._steering.chronicle.number,
        }

    def _gateway_names(self) -> dict[int, str]:
        view = self._steering.view
        return {} if view is None else {m.number: m.name for m in view.members.values() if m.kind == "gateway"}


def _player(seen: Sighting, gateways: dict[int, str]) -> dict[str, Any]:
    found = {"name": seen.name, "zone": seen.place, "gateway": gateways.get(seen.gateway, ""), "attached": seen.gateway >= 0}
    return found | {"session": seen.session}
