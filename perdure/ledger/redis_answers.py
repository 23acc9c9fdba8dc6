"""What the ledger's functions answer, as the types of ledger.py. Pure; called by redis_ledger.

An answer that cannot be read is LedgerRefused (`decoding`): keys of the world were damaged by somebody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import msgpack
import orjson

from perdure.ledger.ledger import LedgerRefused
from perdure.ledger.values import ClusterView, Member, Presence, WorldSettings, ZoneHead, ZoneRoute


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn the failure to read what the ledger answered into LedgerRefused: its keys were damaged by somebody else."""
    try:
        yield
    except (ValueError, TypeError, IndexError, KeyError, msgpack.UnpackException) as error:
        raise LedgerRefused(f"{what} is damaged in the ledger ({type(error).__name__}: {error})") from error


def pairs_of(flat: Sequence[Any]) -> dict[str, Any]:
    """Return {name: value} of a flat array of both."""
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def world_of(rows: dict[str, bytes]) -> WorldSettings:
    values = {row.name: rows[row.name].decode() for row in fields(WorldSettings)}
    return WorldSettings(
        values["name"], values["game"], values["schema_hash"], values["schema"],
        int(values["columns"]), int(values["rows"]), int(values["seed"]), int(values["tick_hz"]),
    )  # fmt: skip


def zone_head_of(zone: int, answer: Sequence[Any]) -> ZoneHead:
    generation, epoch, tick, digest, owner, kept, inbox_length = answer
    checkpoints = [part.split(" ") for part in kept.decode().split(";") if part]
    return ZoneHead(
        zone,
        int(generation),
        int(epoch),
        owner.decode(),
        int(tick),
        digest.decode(),
        tuple((int(at), blob) for at, _, blob in checkpoints),
        inbox_length,
    )


def run_id_of(answer: Sequence[Any]) -> str:
    """Return which server answered a reading of the view; "" where older functions did."""
    return answer[10].decode() if len(answer) > 10 else ""


class Routes:
    """The routes of the view before: most are the same for hours. `made`: by name of a zone, what its route was made of, and the route."""

    def __init__(self) -> None:
        self.made: dict[bytes, tuple[tuple[bytes, ...], ZoneRoute]] = {}
        self.stood: dict[bytes, tuple[bytes, bytes, ZoneRoute, int]] = {}
        """By name, a zone's owner and head as they came, its route and tick: a sleeping zone's are the same in most views."""
        self.zones: dict[int, ZoneRoute] = {}


def view_of(answer: Sequence[Any], known: Routes) -> ClusterView:
    """Return the view. Routes that are as in `known` are taken from there, and all of `zones` is that very dict where none has changed."""
    version, term, generation, leader, owners, heads, successors, members, suspects, draining, run_id, opened = answer
    asked = pairs_of(successors)
    zones, ticks = {}, {}
    if asked:
        known.stood.clear()
    for zone_text, owner, head in zip(owners[::2], owners[1::2], heads, strict=True):
        stood = known.stood.get(zone_text)
        if stood is not None and stood[1] == head and stood[0] == owner:
            zones[stood[2].zone], ticks[stood[2].zone] = stood[2:]
            continue
        zone_generation, epoch, tick, _ = head.split(b" ")
        successor, image = b"0 ", b"-1"
        if asked:
            name = zone_text.decode()
            successor, image = asked.get(name, successor), asked.get(f"{name}:image", image)
        made_of = owner, zone_generation, epoch, successor, image
        before = known.made.get(zone_text)
        if before is not None and before[0] == made_of:
            route = before[1]
        else:
            route = ZoneRoute(
                int(zone_text), owner.decode(), int(zone_generation), int(epoch), successor[2:].decode(), successor[:1] == b"1", int(image)
            )
            known.made[zone_text] = made_of, route
            known.zones = {}
        zones[route.zone] = route
        ticks[route.zone] = int(tick)
        if not asked:
            known.stood[zone_text] = owner, head, route, ticks[route.zone]
    if zones.keys() != known.zones.keys():
        known.zones = dict(sorted(zones.items()))
    return ClusterView(
        int(version),
        int(term),
        leader.decode(),
        int(generation),
        known.zones,
        {name: member_of(name, packed) for name, packed in sorted(pairs_of(members).items())},
        {name: int(reports) for name, reports in pairs_of(suspects).items()},
        ticks,
        frozenset(name.decode() for name in draining),
        run_id.decode(),
        opened == 1,
    )


def presence_of(player: str | bytes, row: bytes) -> Presence:
    place, gateway, slot, session, since, name = row.decode().split(" ", 5)
    return Presence(int(player, 16), name, int(place), int(gateway), int(slot), int(session), int(since))


def member_of(name: str, packed: bytes) -> Member:
    kind, number, address, beat, _, info = msgpack.unpackb(packed)
    return Member(name, kind, int(number), address, int(beat), orjson.loads(info))
