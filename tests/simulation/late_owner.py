"""A fault of the simulation: the ledger comes back as it was before some players logged in, and one owner of zones, which lives and
says so, gets no commit and no reseed through until a while after the world was opened. Its zones are put back late, and by then those
players have logged in again (docs/decisions/0012). Called by faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.ledger.memory_store import StoredData
from perdure.wire.identifiers import LOBBY, player_key
from tests.simulation.clock import Process

if TYPE_CHECKING:
    from tests.simulation.faults import Faults

CALM_S, MENDED_S = 5.0, 4.0
STEP_OUT_S = 2.0
OPENED_S, LATE_S = 6.0, 3.0
"""How long the opening may take (coordinator.settings: five leases), and how much later the owner may come."""
SILENT_S = (1.5, LATE_S)
"""So long an owner is silent that is late and silent: longer than a lease, shorter than it is waited for."""
LOST = frozenset(("commit", "reseed"))
SILENT = LOST | {"heartbeat"}
UNSEEN = frozenset(("view",))


def plan_late_owner(faults: Faults, unseen: bool = False, silent: bool = False) -> None:
    """Plan it from now on; nothing where there is no time for all of it.

    `unseen`: coordinators have no view of what is forgotten, and the late owner is told to leave as soon as the world is open. `silent`:
    from then on, until it is through, its heartbeats are lost too.
    """
    machines, server, chance = faults.cluster.machines, faults.cluster.server, faults.random
    age_s, away_s, late_s = chance.uniform(1.5, 5.0), chance.choice((0.0, chance.uniform(0.0, 1.0))), chance.uniform(0.0, LATE_S)
    late_s = chance.uniform(*SILENT_S) if silent else late_s
    back_s = chance.uniform(0.02, 0.4)
    loggers_in = [player for player in faults.crowd if chance.random() < 0.7]
    walkers = [player for player in loggers_in if chance.random() < 0.7]  # out of the zone that they come in to
    over_s = machines.now + CALM_S + age_s + away_s + OPENED_S + LATE_S + MENDED_S
    if over_s > faults.last_s or faults.spare_until_s > machines.now:
        return
    faults.spare_until_s = over_s
    holdings = faults.cluster.checks.holdings

    def step_out() -> None:
        for player in loggers_in:
            player.out_until_s = machines.now + STEP_OUT_S + back_s

        for player in walkers:
            player.heading = chance.choice(((1, 0), (-1, 0), (0, 1), (0, -1)))

    def keep() -> None:
        machines.later(age_s, strike, server.store.snapshot())
        if unseen:
            server.deaf_to |= dict.fromkeys(faults.cluster.alive("coordinator"), UNSEEN)

    def strike(kept: StoredData) -> None:
        server.deaf_to.clear()
        for player in walkers:
            player.heading = None
        if not server.up or not faults.cluster.zones_run():
            return
        owners = sorted({zone.owner for zone in kept.zones.values() if zone.owner in faults.cluster.shards_alive()})
        if not owners:
            return
        strayed = _owners_of_strayed(faults, kept)
        late = chance.choice(strayed if strayed and chance.random() < 0.8 else owners)
        faults.say("late owner", f"{late}; the ledger has what it held {age_s:.2f} s ago, after {away_s:.2f} s; {late_s:.2f} s late")
        server.deaf_to[late] = LOST
        holdings.forking = True
        server.on_call.append(heard)
        server.crash()
        machines.later(away_s, server.start, kept)
        machines.later(away_s + OPENED_S + LATE_S, through, late)

    def heard(process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
        if name == "open_world" and server.store.data.opened_for == server.store.run_id:
            server.on_call.remove(heard)
            for late in list(server.deaf_to):
                machines.later(late_s, through, late)
                if silent:
                    server.deaf_to[late] = SILENT
                if unseen:
                    machines.processes[late].signal(15)

    def through(late: str) -> None:
        server.deaf_to.pop(late, None)
        machines.later(MENDED_S, lambda: setattr(holdings, "forking", False))

    machines.later(CALM_S - STEP_OUT_S, step_out)
    machines.later(CALM_S, keep)


def _owners_of_strayed(faults: Faults, kept: StoredData) -> list[str]:
    """Return the owners of zones that somebody has walked into who will log in to another owner's zone again."""
    found: set[str] = set()
    for player in faults.crowd:
        before, now = (data.players.get(player_key(player.name)) for data in (kept, faults.cluster.server.store.data))
        if before is None or now is None or before.place != LOBBY or LOBBY in (now.place, before.home):
            continue
        here, home = (kept.zones[zone].owner if zone in kept.zones else None for zone in (now.place, before.home))
        if here and here != home and here in faults.cluster.shards_alive():
            found.add(here)
    return sorted(found)
