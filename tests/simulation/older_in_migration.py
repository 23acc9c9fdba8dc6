"""A fault of the simulation: the ledger goes back by a moment while an assignment is on its way to it, after the view by which the leader
decided it. The older data know the zone at the epoch that the assignment expects, but not what its owner committed since
(docs/decisions/0012). Called by faults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.clock import Process

if TYPE_CHECKING:
    from tests.simulation.faults import Faults

CALM_S, MIGRATION_S, MENDED_S = 7.0, 6.0, 4.0
"""How long no other fault begins: before, while somebody is to be asked for, and after."""
KEEP_EVERY_S = 0.05
ON_ITS_WAY_S = 0.004


def plan_older_in_migration(faults: Faults, drain: Callable[[], None]) -> None:
    """Plan it from now on, `drain` bringing a migration about; nothing where there is no time for all of it."""
    machines, server, chance = faults.cluster.machines, faults.cluster.server, faults.random
    age_s, on_its_way_s = chance.uniform(0.05, 0.4), chance.uniform(0.0, ON_ITS_WAY_S)
    until_s = machines.now + CALM_S + MIGRATION_S
    if until_s + MENDED_S > faults.last_s or faults.spare_until_s > machines.now:
        return
    faults.spare_until_s = until_s + MENDED_S
    kept: deque[tuple[float, object]] = deque()

    def begin() -> None:
        server.on_call.append(heard)
        keep()
        drain()

    def keep() -> None:
        kept.append((machines.now, server.store.snapshot()))
        while len(kept) > 1 and kept[1][0] <= machines.now - age_s:
            kept.popleft()
        if heard in server.on_call:
            machines.later(KEEP_EVERY_S, keep)

    def heard(process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
        data = server.store.data
        if machines.now >= until_s:
            server.on_call.remove(heard)
        elif name == "view" and process.name == data.leader and any(zone.ready for zone in data.zones.values()):
            server.on_call.remove(heard)
            machines.later(on_its_way_s, strike, *kept[0])

    def strike(then_s: float, older: object) -> None:
        if server.up and faults.cluster.zones_run():
            faults.say("older in migration", f"what it held {machines.now - then_s:.3f} s ago")
            server.crash()
            server.start(older)

    machines.later(CALM_S, begin)
