"""The admin API: what an operator sees of the cluster and may do to it, over HTTP with a bearer token; and the dashboard on top of it.

Served by the leader and by standbys alike: it reads the view that its coordinator polls, and writes to the ledger, where whoever
leads finds it. A migration is asked for by an intent in the ledger, in the leader's term; the leader carries it on. Owns the
paths and the shape of the answers; decides nothing. Called by `service` (over `admin_server`) and by tests (over ASGI).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import msgspec
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from coordinator.admin_answers import AdminError, Endpoints, answer, http_error, integer, read_body
from coordinator.dashboard_files import dashboard_routes
from coordinator.live_api import LiveApi
from coordinator.metrics import CoordinatorMetrics
from coordinator.migration import phase
from coordinator.presence_feed import PresenceFeed
from coordinator.readable import logged_json, world_commands, world_json
from coordinator.settings import CoordinatorSettings
from coordinator.steering import Steering
from coordinator.whereabouts import whereabouts
from perdure.ledger.ledger import Ledger
from perdure.ledger.steering_checks import Objection, Refusal, drain_fault, migration_fault
from perdure.ledger.values import ClusterView, Member, Presence, WorldSettings
from perdure.placement.presence import PresenceChange
from perdure.wire.identifiers import name_fault, player_key

STALE_VIEW_MS = 3000.0
STREAM_KEEPALIVE_S = 15.0
MAX_PAUSE_MS = 600_000
MAX_LOG_RECORDS = 1000
MAX_TICK = 1 << 53


class _MigrateBody(msgspec.Struct, forbid_unknown_fields=True):
    shard: str


STATUS_OF = {Objection.UNKNOWN: 404, Objection.NOT_SO: 409, Objection.NOBODY: 503, Objection.BUSY: 429}


def _object(fault: Refusal | None) -> None:
    if fault is not None:
        raise AdminError(STATUS_OF[fault.kind], fault.error, fault.mend)


class AdminApi:
    """The endpoints of one coordinator."""

    def __init__(
        self, settings: CoordinatorSettings, ledger: Ledger, steering: Steering, feed: PresenceFeed, metrics: CoordinatorMetrics
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._steering = steering
        self._feed = feed
        self._metrics = metrics
        self._streams = 0
        self.live = LiveApi(settings, steering, feed)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        wrap = Endpoints(self._settings.admin_token, self._settings.anyone_may_read)
        read, change = ["GET"], ["POST"]
        routes = [
            Route("/healthz", wrap.open(self.healthz), methods=read),
            Route("/readyz", wrap.open(self.readyz), methods=read),
            Route("/metrics", wrap.open(self.metrics), methods=read),
            Route("/status", wrap.reading(self.status), methods=read),
            Route("/world", wrap.reading(self.world), methods=read),
            Route("/players", wrap.reading(self.players), methods=read),
            Route("/players/{name}", wrap.reading(self.player), methods=read),
            Route("/presence/changes", wrap.reading(self.changes), methods=read),
            Route("/presence/stream", wrap.reading(self.stream), methods=read),
            Route("/zones/{zone}/log", wrap.reading(self.zone_log), methods=read),
            Route("/zones/{zone}/migrate", wrap.changing(self.migrate), methods=change),
            Route("/players/{name}/kick", wrap.changing(self.kick), methods=change),
            Route("/members/{name}/kill", wrap.changing(self.kill), methods=change),
            Route("/members/{name}/pause", wrap.changing(self.pause), methods=change),
            Route("/members/{name}/drain", wrap.changing(self.drain), methods=change),
            Route("/members/{name}/undrain", wrap.changing(self.undrain), methods=change),
            *self.live.routes(wrap),
            *dashboard_routes(wrap),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: http_error, Exception: http_error})

    # --- is it well -----------------------------------------------------------------------------------------------

    async def healthz(self, request: Request) -> Response:
        """Alive: the event loop turns."""
        return answer({"status": "ok", "coordinator": self._steering.name})

    async def readyz(self, request: Request) -> Response:
        """Ready: it reads the ledger, so that it can lead, or take over."""
        age_ms = self._steering.view_age_ms()
        if age_ms is None or age_ms > STALE_VIEW_MS:
            raise AdminError(503, "the ledger was not read lately", "see why Redis is away; running zones wait, nobody is put out")
        return answer({"status": "ready", "leading": self._steering.leading, "view_age_ms": round(age_ms)})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # --- what there is ----------------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """The whole cluster, as of the last view that this coordinator read (its age stands in it)."""
        view = self._last_view()
        zones = self._zones_json(view)
        by_gateway = Counter(sighting.gateway for sighting in self._feed.book.online())
        kinds: dict[str, list[dict[str, Any]]] = {"shard": [], "gateway": [], "coordinator": []}
        for member in view.members.values():
            found = _member_json(member, view)
            if member.kind == "shard":
                found["zones"] = [zone["zone"] for zone in zones if zone["owner"] == member.name]
                found["players"] = sum(zone["players"] for zone in zones if zone["owner"] == member.name)
            elif member.kind == "gateway":
                found["players"] = by_gateway[member.number]
            kinds.setdefault(member.kind, []).append(found)
        return answer(
            {
                "world": self._settings.world,
                "leader": view.leader,
                "term": view.term,
                "answered_by": self._steering.name,
                "leading": self._steering.leading,
                "view_age_ms": round(self._steering.view_age_ms() or 0.0),
                "version": view.version,
                "generation": view.generation,
                "ledger_run_id": view.run_id,
                "players": len(self._feed.book.online()),
                "zones_unassigned": sum(1 for zone in zones if zone["owner"] not in view.members),
                "shards": kinds["shard"],
                "gateways": kinds["gateway"],
                "coordinators": kinds["coordinator"],
                "zones": zones,
            }
        )

    async def world(self, request: Request) -> Response:
        return answer(world_json(await self._world()))

    async def players(self, request: Request) -> Response:
        text = request.query_params.get("zone")
        zone = None if text is None else await self._zone(text)
        names = self._gateway_names()
        found = [_presence_json(presence, names) for presence in await self._ledger.online(zone)]
        return answer({"count": len(found), "players": found})

    async def player(self, request: Request) -> Response:
        name = _player_name(request)
        record = await self._ledger.player(player_key(name))
        if record is None or record.presence.name != name:
            raise AdminError(404, f"no player is called {name}", "GET /players lists who is online")
        found = _presence_json(record.presence, self._gateway_names()) | {"at": await self._at(record.presence)}
        return answer(found | {"online": record.presence.place >= 0, "home_zone": record.home_zone, "saved_bytes": len(record.saved)})

    async def _at(self, presence: Presence) -> dict[str, Any] | None:
        """Return where in its zone a player is; the shard that runs the zone is asked."""
        view = self._steering.view
        route = None if view is None else view.zones.get(presence.place)
        owner = None if view is None or route is None else view.members.get(route.owner)
        if owner is None:
            return None
        found = await whereabouts(owner, self._settings.secret.encode(), presence.place, presence.player)
        return None if found is None else dict(zip(("tick", "x", "y"), found, strict=True))

    async def zone_log(self, request: Request) -> Response:
        zone = await self._zone(request.path_params["zone"])
        limit = integer(request, "limit", 100, 1, MAX_LOG_RECORDS)
        head = await self._ledger.zone_head(zone)
        first = integer(request, "from", max(head.tick - limit + 1, 0), 0, MAX_TICK)
        records = await self._ledger.read_log(zone, first, limit)
        commands = world_commands(await self._world())
        return answer({"head": asdict(head), "from": first, "records": [logged_json(logged, commands) for logged in records]})

    # --- presence -------------------------------------------------------------------------------------------------

    async def changes(self, request: Request) -> Response:
        """Changes above `since`, of those that this coordinator saw and keeps."""
        since = integer(request, "since", 0, 0, MAX_TICK)
        found = self._feed.book.since(since)
        names = self._gateway_names()
        return answer({"number": self._feed.book.number, "changes": [_change_json(change, names) for change in found]})

    async def stream(self, request: Request) -> Response:
        """Changes as server-sent events, from `since` (or Last-Event-ID) on; without either, from now on."""
        last_id = request.headers.get("last-event-id", "")
        default = int(last_id) if last_id.isascii() and last_id.isdecimal() and len(last_id) < 16 else self._feed.book.number
        since = integer(request, "since", default, 0, MAX_TICK)
        if self._streams >= self._settings.max_streams:
            raise AdminError(429, f"{self._streams} presence streams are served already", "close one, or raise max_streams")
        return StreamingResponse(self._events(since), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _events(self, since: int) -> AsyncIterator[bytes]:
        self._streams += 1  # here and not before: a client that left at once never gets this far
        try:
            yield f": changes above {since}\n\n".encode()
            while not self._feed.closed:
                if not await self._feed.wait_above(since, STREAM_KEEPALIVE_S):
                    yield b": still here\n\n"
                    continue
                names = self._gateway_names()
                for change in self._feed.book.since(since):
                    if change.number != since + 1:
                        yield b"event: missed\ndata: {}\n\n"
                    since = change.number
                    yield b"id: %d\nevent: presence\ndata: %s\n\n" % (since, orjson.dumps(_change_json(change, names)))
        finally:
            self._streams -= 1

    # --- what to do -----------------------------------------------------------------------------------------------

    async def migrate(self, request: Request) -> Response:
        zone = await self._zone(request.path_params["zone"])
        try:
            body = msgspec.json.decode(await read_body(request), type=_MigrateBody)
        except msgspec.MsgspecError as error:
            raise AdminError(400, f"the body is not the wanted JSON: {error}", 'send {"shard": "<name of a shard>"}') from error
        view = await self._ledger.view()
        _object(migration_fault(view, zone, body.shard))
        await self._ledger.intend(view.term, zone, body.shard)
        return answer({"zone": zone, "from": view.zones[zone].owner, "to": body.shard, "state": "prefetching"}, 202)

    async def kick(self, request: Request) -> Response:
        name = _player_name(request)
        if not await self._ledger.leave(player_key(name), -1, kick=True):
            raise AdminError(404, f"no player called {name} is online", "GET /players lists who is online")
        return answer({"player": name, "state": "is being put out"}, 202)

    async def kill(self, request: Request) -> Response:
        self._development_only("kill")
        return await self._order(request, "die")

    async def pause(self, request: Request) -> Response:
        self._development_only("pause")
        return await self._order(request, f"pause {integer(request, 'ms', 1000, 1, MAX_PAUSE_MS)}")

    async def drain(self, request: Request) -> Response:
        """Let a member leave: a shard gives its zones away live and goes when it has none; a gateway closes its sockets and goes.

        A shard finds the mark in its view; it is not ordered too, since one that is told twice leaves at once.
        """
        name = request.path_params["name"]
        view = await self._ledger.view()
        _object(drain_fault(view, name))
        if view.members[name].kind == "shard":
            await self._ledger.set_draining(name, True)
        else:
            await self._ledger.order(name, "drain")
        return answer({"member": name, "state": "draining"}, 202)

    async def undrain(self, request: Request) -> Response:
        """Take the mark back. A shard that has seen it (its state is "draining") leaves all the same."""
        member = await self._member(request, "shard")
        await self._ledger.set_draining(member.name, False)
        return answer({"member": member.name, "state": member.info.get("state", "")})

    async def _order(self, request: Request, order: str) -> Response:
        member = await self._member(request, "shard", "gateway", "coordinator")
        await self._ledger.order(member.name, order)
        return answer({"member": member.name, "order": order}, 202)

    def _development_only(self, what: str) -> None:
        if not self._settings.development:
            raise AdminError(403, f"{what} is for development", "start the cluster with --development, never in production")

    # --- what is asked about --------------------------------------------------------------------------------------

    def _last_view(self) -> ClusterView:
        if self._steering.view is None:
            raise AdminError(503, "the ledger was not read yet", "see why Redis is away, then ask again")
        return self._steering.view

    async def _world(self) -> WorldSettings:
        world = self._steering.world or await self._ledger.world()
        if world is None:
            raise AdminError(404, "there is no world yet", "start a shard: the first one makes it")
        return world

    async def _zone(self, text: str) -> int:
        world = await self._world()
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < world.columns * world.rows):
            raise AdminError(404, f"there is no zone {text!r}", f"zones are 0 to {world.columns * world.rows - 1}")
        return int(text)

    async def _member(self, request: Request, *kinds: str) -> Member:
        name = request.path_params["name"]
        member = (await self._ledger.view()).members.get(name)
        if member is None:
            raise AdminError(404, f"no member is called {name!r}", "GET /status lists the members")
        if member.kind not in kinds:
            raise AdminError(409, f"{name} is a {member.kind}, not a {' or '.join(kinds)}", "GET /status lists the members by kind")
        return member

    def _gateway_names(self) -> dict[int, str]:
        view = self._steering.view
        return {} if view is None else {m.number: m.name for m in view.members.values() if m.kind == "gateway"}

    def _zones_json(self, view: ClusterView) -> list[dict[str, Any]]:
        players = Counter(sighting.place for sighting in self._feed.book.online())
        loads = self._steering.state.loads()
        found: list[dict[str, Any]] = []
        for zone in range(self._steering.zones):
            route = view.zones.get(zone)
            row: dict[str, Any] = {"zone": zone, "owner": "", "epoch": 0, "generation": 0, "tick": view.ticks.get(zone, 0)}
            if route is not None:
                row |= {"owner": route.owner, "epoch": route.epoch, "generation": route.generation}
            row |= {"players": players[zone], "load": round(loads.get(zone, 0.0), 4)}
            row |= {"migration": phase(route) if route else "settled", "successor": route.successor if route else ""}
            found.append(row)
        return found


def _member_json(member: Member, view: ClusterView) -> dict[str, Any]:
    found: dict[str, Any] = {"name": member.name, "number": member.number, "address": member.address, "beat": member.beat}
    found |= {"draining": member.name in view.draining, "suspects": view.suspects.get(member.name, 0)}
    return found | {"state": member.info.get("state", ""), "info": member.info}


def _presence_json(presence: Presence, gateways: dict[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": presence.name, "zone": presence.place, "gateway": gateways.get(presence.gateway, "")}
    return found | {"attached": presence.gateway >= 0, "session": presence.session, "since_ms": presence.since_ms}


def _change_json(change: PresenceChange, gateways: dict[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"number": change.number, "change": change.kind.value, "name": change.name, "zone": change.zone}
    return found | {"gateway": gateways.get(change.gateway, ""), "session": change.session}


def _player_name(request: Request) -> str:
    name = request.path_params["name"]
    fault = name_fault(name)
    if fault:
        raise AdminError(404, f"{name!r} is no player's name", fault)
    return name
