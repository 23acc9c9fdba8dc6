"""What an operator may ask of a cluster: the checks of `perdure migrate` and `perdure drain`, and of the admin API alike. Pure.

They read a view and say what speaks against it. They protect nobody: the ledger and the leading coordinator decide anew, by newer views.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from perdure.ledger.values import ClusterView

MOST_MIGRATIONS = 8
"""Where the leading coordinator has not published its own `max_migrations`."""


class Objection(Enum):
    """What kind of no it is."""

    UNKNOWN = "unknown"  # there is no such member or zone
    NOT_SO = "not so"  # things are not as they would have to be
    NOBODY = "nobody"  # there is nobody who could do it
    BUSY = "busy"  # later


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a wish is not passed on: `error` (what) and `mend` (how)."""

    kind: Objection
    error: str
    mend: str

    def __str__(self) -> str:
        return f"{self.error}: {self.mend}"


def migration_fault(view: ClusterView, zone: int, shard: str) -> Refusal | None:
    """Return why a zone is not to be moved to a shard by hand, or None."""
    member, route = view.members.get(shard), view.zones.get(zone)
    if member is None or member.kind != "shard":
        shards = sorted(m.name for m in view.members.values() if m.kind == "shard")
        return Refusal(Objection.UNKNOWN, f"no shard is called {shard!r}", f"there are {', '.join(shards) or 'none'}")
    if route is None and view.zones and not 0 <= zone <= max(view.zones):
        return Refusal(Objection.UNKNOWN, f"there is no zone {zone}", f"the world has zones 0 to {max(view.zones)}")
    if route is None or route.owner not in view.members:
        return Refusal(Objection.NOT_SO, f"zone {zone} is run by nobody: there is nothing to migrate", "wait until it is assigned")
    if route.owner == shard:
        return Refusal(Objection.NOT_SO, f"zone {zone} is run by {shard} already", "nothing is to be done")
    if member.info.get("state") != "ready" or shard in view.draining:
        return Refusal(Objection.NOT_SO, f"{shard} is not ready for zones, or is draining", "choose another shard, or undrain it")
    if not view.leader:
        return Refusal(Objection.NOBODY, "no coordinator leads at the moment", "ask again in a second")
    if route.successor:
        return Refusal(Objection.NOT_SO, f"zone {zone} is on its way to {route.successor}", "wait for it; see the status")
    moving = sum(1 for other in view.zones.values() if other.successor)
    if moving >= _most_migrations(view):
        return Refusal(Objection.BUSY, f"{moving} zones are on their way already", "wait for them, or raise max_migrations")
    return None


def drain_fault(view: ClusterView, name: str) -> Refusal | None:
    """Return why a member is not to be drained, or None. Any member may be: a coordinator resigns and ends."""
    if name not in view.members:
        return Refusal(Objection.UNKNOWN, f"no member is called {name}", f"there are {', '.join(sorted(view.members)) or 'none'}")
    return None


def _most_migrations(view: ClusterView) -> int:
    leader = view.members.get(view.leader)
    most = leader.info.get("max_migrations") if leader is not None else None
    return most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else MOST_MIGRATIONS
