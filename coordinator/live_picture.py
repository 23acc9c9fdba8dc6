"""The cluster as one compact picture: what the dashboard and `perdure top` draw. Pure functions over a view.

Owns the picture's shape. Takes what members publish with a grain of salt: a value of the wrong type is left out. Reads no
ledger and no clock. Called by `live_api`, `trends` and `perdure.cli.top`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from perdure.ledger.values import ClusterView, Member, WorldSettings, ZoneRoute

Json = dict[str, Any]
ZONE_FIELDS = ("owner", "epoch", "generation", "tick", "players", "successor", "pace", "tick_ms")
"""A zone is a row of these: `owner` and `successor` are names, "" for none; `pace` is its clock's percent, null where it is not slowed;
`tick_ms` what a tick of it costs lately, in processor time with its snapshot, null where its owner does not say."""
DEFAULT_TICK_HZ = 20


def picture(view: ClusterView, world: WorldSettings | None, players: Mapping[int, int], sessions: Mapping[int, int]) -> Json:
    """Return the picture. `players`: by zone; `sessions`: players by their gateway's number."""
    zones = max(view.zones, default=-1) + 1 if world is None else world.columns * world.rows
    shards = sorted((m for m in view.members.values() if m.kind == "shard"), key=_by_name)
    owned: dict[str, list[int]] = {}
    for route in view.zones.values():
        owned.setdefault(route.owner, []).append(route.zone)
    return {
        "world": _world(world, zones),
        "leader": view.leader,
        "term": view.term,
        "generation": view.generation,
        "opened": view.opened,
        "players": sum(players.values()),
        "shards": [_shard(m, view, owned.get(m.name, []), players) for m in shards],
        "gateways": [_gateway(m, view, sessions) for m in sorted(view.members.values(), key=_by_name) if m.kind == "gateway"],
        "coordinators": [_coordinator(m, view) for m in sorted(view.members.values(), key=_by_name) if m.kind == "coordinator"],
        "zone_fields": list(ZONE_FIELDS),
        "zones": [_zone(zone, view, players) for zone in range(zones)],
        "totals": totals(view),
    }


def told_players(view: ClusterView) -> dict[int, int]:
    """Return players by zone as the zones' owners tell: where nobody follows presence."""
    found: dict[int, int] = {}
    for route in view.zones.values():
        owner = view.members.get(route.owner)
        count = None if owner is None else number(_part(owner, "players").get(str(route.zone)))
        found[route.zone] = 0 if count is None else int(count)
    return found


def told_sessions(view: ClusterView) -> dict[int, int]:
    """Return players by the number of their gateway, as the gateways tell."""
    return {m.number: int(number(m.info.get("load")) or 0) for m in view.members.values() if m.kind == "gateway"}


def totals(view: ClusterView) -> Json:
    """Return what a chart shows of this moment: p50 as the median over shards, p99 as the worst of them; null without any."""
    shards = [m for m in view.members.values() if m.kind == "shard"]
    found: Json = {}
    for name in ("tick_ms", "commit_ms"):
        middle = [value for m in shards if (value := number(_part(m, name).get("p50"))) is not None]
        worst = [value for m in shards if (value := number(_part(m, name).get("p99"))) is not None]
        found[f"{name}_p50"] = round(median(middle), 3) if middle else None
        found[f"{name}_p99"] = max(worst) if worst else None
    found["players"] = sum(told_sessions(view).values())
    found["bytes_s"] = round(sum(number(m.info.get("bytes_s")) or 0.0 for m in view.members.values() if m.kind == "gateway"))
    return found


def number(value: object) -> float | None:
    """Return a finite number of 0 or more, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return value


def _by_name(member: Member) -> tuple[str, int, str]:
    head = member.name.rstrip("0123456789")
    tail = member.name[len(head) :][:9]
    return head, int(tail) if tail.isascii() and tail.isdigit() else -1, member.name


def _world(world: WorldSettings | None, zones: int) -> Json:
    if world is None:
        return {"name": "", "game": "", "columns": zones, "rows": 1 if zones else 0, "tick_hz": DEFAULT_TICK_HZ}
    return {"name": world.name, "game": world.game, "columns": world.columns, "rows": world.rows, "tick_hz": world.tick_hz}


def _member(member: Member, view: ClusterView) -> Json:
    state = "draining" if member.name in view.draining else _text(member, "state")
    found: Json = {"name": member.name, "state": state, "host": _text(member, "host"), "pid": number(member.info.get("pid"))}
    return found | {"suspects": view.suspects.get(member.name, 0)}


def _shard(member: Member, view: ClusterView, owned: list[int], players: Mapping[int, int]) -> Json:
    found = _member(member, view) | {"zones": len(owned), "players": sum(players.get(zone, 0) for zone in owned)}
    for name in ("tick_ms", "commit_ms"):
        found[name] = {key: value for key, told in _part(member, name).items() if (value := number(told)) is not None}
    failed = _part(member, "failed")
    return found | {
        "bytes_s": number(member.info.get("bytes_s")),
        "paused": member.info.get("paused") is True,
        "build": _text(member, "build"),
        "failed": sorted(str(zone)[:8] for zone in failed)[:16],
    }


def _gateway(member: Member, view: ClusterView, sessions: Mapping[int, int]) -> Json:
    found = _member(member, view) | {"players": sessions.get(member.number, 0), "url": _text(member, "url")}
    return found | {name: number(member.info.get(name)) for name in ("links", "bytes_s", "frames_s", "commands_s")}


def _coordinator(member: Member, view: ClusterView) -> Json:
    return _member(member, view) | {"leading": member.name == view.leader, "admin": _text(member, "admin")}


def _zone(zone: int, view: ClusterView, players: Mapping[int, int]) -> list[Any]:
    route = view.zones.get(zone) or ZoneRoute(zone, "", 0, 0)
    owner = view.members.get(route.owner)
    told = None if owner is None else _part(owner, "pace").get(str(zone))
    pace = number(told[1]) if isinstance(told, list) and len(told) > 1 else None  # [name of the rung, clock's percent, ...]
    there = route.owner if owner is not None else ""
    tick_ms = None if owner is None else number(_part(owner, "zone_ms").get(str(zone)))
    return [there, route.epoch, route.generation, view.ticks.get(zone, 0), players.get(zone, 0), route.successor, pace, tick_ms]


def _part(member: Member, name: str) -> dict[Any, Any]:
    found = member.info.get(name)
    return found if isinstance(found, dict) else {}


def _text(member: Member, name: str) -> str:
    found = member.info.get(name, "")
    return found[:200] if isinstance(found, str) else ""
