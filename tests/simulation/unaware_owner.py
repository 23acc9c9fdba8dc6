"""A fault of the simulation: an owner is cut off from the ledger until another has taken its zones and gone on with them. Then the ledger
comes back as it was before, and the cut is over in the same moment: who was cut off does not know that it was replaced, and neither does
the ledger. Both live, and the later one has more. Now and then the ledger is restarted twice before that, with all that it held, so that
the later one's generation is two above. Called by faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.ledger_server import HOST

if TYPE_CHECKING:
    from tests.simulation.faults import Faults

CALM_S, MENDED_S = 5.0, 6.0
CUT_S, AWAY_S = (2.0, 4.0), 1.0
RESTARTS_FOR_S = 0.05


def plan_unaware_owner(faults: Faults) -> None:
    """Plan it from now on; nothing where there is no time for all of it."""
    cluster, machines, server, network = faults.cluster, faults.cluster.machines, faults.cluster.server, faults.cluster.network
    chance = faults.random
    cut_s, away_s, pick = chance.uniform(*CUT_S), chance.choice((0.0, chance.uniform(0.0, AWAY_S))), chance.random()
    restarts_s = chance.choice(((), (), (0.5, 2.5)))
    over_s = machines.now + CALM_S + cut_s + away_s + MENDED_S
    if over_s > faults.last_s or faults.spare_until_s > machines.now:
        return
    faults.spare_until_s = over_s

    def cut() -> None:
        owners = sorted({zone.owner for zone in server.store.data.zones.values() if zone.owner in cluster.shards_alive()})
        if len(cluster.alive("shard")) < 2 or not owners or not server.up or not cluster.zones_run():
            return
        name = owners[int(pick * len(owners))]
        host, kept = cluster.host_of(name), server.store.snapshot()
        for source, target in ((host, HOST), (HOST, host)):
            network.cut(source, target)
        machines.later(cut_s, strike, name, host, kept)

    def strike(name: str, host: str, kept: object) -> None:
        if server.up and cluster.zones_run():
            faults.say("unaware owner", f"{name}, cut off for {cut_s:.2f} s; the ledger has what it held then, after {away_s:.2f} s")
            server.crash()
            machines.later(away_s, server.start, kept)
            machines.later(away_s, mend, host)
        else:
            mend(host)

    def mend(host: str) -> None:
        for source, target in ((host, HOST), (HOST, host)):
            network.mend(source, target)

    def restart() -> None:
        if server.up:
            server.crash()
            machines.later(RESTARTS_FOR_S, server.start)

    for at_s in restarts_s:
        machines.later(at_s, restart)
    machines.later(CALM_S, cut)
