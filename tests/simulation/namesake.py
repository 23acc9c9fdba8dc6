"""A fault of the simulation: a shard hangs until it is put out, and a new process takes its name, on another host. Then the first goes on:
it lives, and what is given to its name is not given to it. Called by faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.faults import Faults

PUT_OUT_S = (1.5, 3.0)
"""How long the first hangs before the new one is started: longer than a lease, mostly."""
LIVES_S = (0.5, 4.0)


def plan_namesake(faults: Faults) -> None:
    """Begin it now; nothing where there is no time for all of it."""
    cluster, machines, chance = faults.cluster, faults.cluster.machines, faults.random
    names = [name for name in cluster.alive("shard") if not machines.processes[name].stopped]
    hangs_s, late_s, lives_s = chance.uniform(*PUT_OUT_S), chance.uniform(0.0, 1.5), chance.uniform(*LIVES_S)
    if not names or machines.now + hangs_s + late_s + lives_s > faults.last_s:
        return
    name = chance.choice(names)
    first = machines.processes[name]
    faults.say("namesake", f"{name} hangs for {hangs_s + late_s:.2f} s; after {hangs_s:.2f} s another is started by its name")
    host = f"10.1.0.{faults.counts['namesake']}"

    def replace() -> None:
        if machines.processes.get(name) is first and first.stopped:
            del machines.processes[name]
            cluster.hosts[name] = host
            cluster.start_shard(name)

    def end() -> None:
        if machines.processes.get(name) is not first:
            first.kill()

    first.stop()
    machines.later(hangs_s, replace)
    machines.later(hangs_s + late_s, first.go_on)
    machines.later(hangs_s + late_s + lives_s, end)
