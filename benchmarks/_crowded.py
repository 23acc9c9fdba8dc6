"""A world with a crowd: a real cluster on one core, a lean swarm on another, and what each process spent meanwhile.

The stage of the benches that count players. All server processes (gateways, shards, coordinators, the ledger's server) are pinned to
one core together where `server_core` is given; processor time is read from /proc, kernel included, all threads of each process.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._playing import audit_findings, console
from benchmarks._swarm import Measured, Swarm
from benchmarks._tick_parts import free_port, parts_ms, read_parts
from perdure.cli.local_cluster import Launch, LocalCluster

MEADOW = str(Path(__file__).with_name("_meadow.py"))
HZ, COMMANDS_HZ = 20, 10
"""Of the meadow's ticks, and of the commands of each player."""
RATE_SHARE = 0.95
"""At least so much of these must be seen: a second of measuring may begin and end within a tick."""
FEWEST_SHARE = 0.5
"""At least so much of the snapshots that there should be must be shown to each player, too."""
SIGHT_SHARE, SIGHT_PLAYERS = 0.1, 1000
"""How many entities are in sight may be off by so much, of crowds of so many at least: a twentieth decodes, and fewer are no sample."""
INTEREST = 100.0
ENTER_DEADLINE_S = 120.0
SETTLE_S = 3.0


def cpu_ns(pid: int) -> int:
    """Return the nanoseconds that a process has run, all its threads together; 0 where it has ended."""
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def reach_of(players: int, visible: float) -> int:
    """Return the side of the square in which so many players have so many of each other within the radius of interest.

    At its sides one sees less; since they turn round there they stand closer together within, and with the player itself it is that
    number again, but for some hundredths.
    """
    return min(2047, round(math.sqrt(players * math.pi * INTEREST**2 / visible)))


def amiss(seen: Measured, players: int, *, sees: float = 0.0, commands_hz: float = COMMANDS_HZ) -> list[str]:
    """Return what a crowd saw that it should not have, in words: a cost of less than this is no cost of it.

    Everybody in the world, nothing decoded wrongly, and each second some 20 snapshots shown, 10 commands sent (or `commands_hz`) and as
    many acknowledged; nobody who is shown far fewer than the others. `sees`: how many entities should be in sight, if that is judged.
    """
    found = [f"{seen.playing} of {players} players are in the world"] if seen.playing != players else []
    if seen.faults:
        found.append(f"{seen.faults} faults in what was decoded")
    for what, value, hz in (("snapshots", seen.snapshots, HZ), ("commands", seen.commands, commands_hz),
                            ("acknowledged commands", seen.acknowledged, commands_hz)):  # fmt: skip
        if (each := value / seen.seconds / players) < RATE_SHARE * hz:
            found.append(f"{each:.2f} {what} a second for each player, not {hz:g}")
    if seen.fewest < FEWEST_SHARE * HZ * seen.seconds:
        found.append(f"a player was shown {seen.fewest} snapshots, not {HZ * seen.seconds:.0f}")
    return found + (sight_amiss(seen.entities_seen, sees) if sees and players >= SIGHT_PLAYERS else [])


def sight_amiss(seen: float, sees: float) -> list[str]:
    """Return in words that another number of entities is in sight than there should be, if it is."""
    return [f"{seen:.1f} entities are in sight, not {sees:.0f}"] if abs(seen - sees) > SIGHT_SHARE * sees else []


def rates(seen: Measured, players: int) -> dict[str, float]:
    """Return snapshots, commands sent and commands acknowledged, a second and player."""
    each = seen.seconds * players
    return {"snapshots_a_second_each": seen.snapshots / each, "commands_a_second_each": seen.commands / each,
            "acknowledged_a_second_each": seen.acknowledged / each}  # fmt: skip


def cores() -> tuple[int, int]:
    """Return the core of the servers and that of the swarm: two different ones where there are two."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


@dataclass
class Crowded:
    """A cluster and its swarm. Processes are named by their role: gateway, shard, coordinator, valkey."""

    cluster: LocalCluster
    swarm: Swarm
    health_port: int
    """Of the first shard."""
    parts_ms: dict[str, float] = field(default_factory=dict)
    """The mean tick of the first shard while it was measured last: step, encode, commit, release."""
    audit_findings: int = 0
    """How much was wrong in the end, by `perdure audit`."""

    def cpu_ns(self) -> dict[str, int]:
        """Return what each role has run so far."""
        spent = {"gateway": 0, "shard": 0, "coordinator": 0, "valkey": cpu_ns(self.cluster.server.pid or 0)}
        for name, pid in self.cluster.pids.items():
            spent[name.rsplit("-", 1)[0]] += cpu_ns(pid)
        return spent

    async def measure(self, seconds: float) -> tuple[Measured, dict[str, float]]:
        """Return what the swarm saw, and the cores that each role took meanwhile."""
        parts, before = await read_parts(self.health_port), self.cpu_ns()
        seen = await self.swarm.measure(seconds)
        after = self.cpu_ns()
        self.parts_ms = parts_ms(parts, await read_parts(self.health_port))
        return seen, {role: (after[role] - before[role]) / 1e9 / seen.seconds for role in before}


@asynccontextmanager
async def crowded(players: int, reach: int, *, shards: int = 1, gateways: int = 1, coordinators: int = 2, zones: str = "1x1",
                  pinned: bool = True, game: str = MEADOW, choices: Sequence[Sequence[int]] = (),
                  settings: dict[str, str] | None = None) -> AsyncIterator[Crowded]:  # fmt: skip
    """Start the meadow, have so many players come and steer; in the end, end everything and audit the world.

    With two coordinators, of which one stands by, as in production. `game`: another one, and `choices` of fields for its first command.
    """
    mine = os.sched_getaffinity(0)
    server_core, swarm_core = cores()
    port = free_port()
    cluster = LocalCluster(shards=shards, gateways=gateways, coordinators=coordinators, zones=zones, game=game, settings=settings or {},
                           launches={"shard-1": Launch(settings={"health_port": str(port)})})  # fmt: skip
    swarm: Swarm | None = None
    if pinned:
        os.sched_setaffinity(0, {server_core})  # who is started now inherits it
    try:
        with console.status("a cluster"):
            await cluster.start()
        assert cluster.folder is not None
        choices = choices or [(heading, reach) for heading in range(8)]
        urls = list(cluster.gateway_urls.values())
        swarm = Swarm(cluster.folder, urls, cluster.secret, players, core=swarm_core if pinned else None, choices=choices)
        with console.status(f"{players} players come"):
            entered = await swarm.start(ENTER_DEADLINE_S)
        if entered["in"] != players:
            raise RuntimeError(f"of {players} players: {entered}")
        await swarm.steer(COMMANDS_HZ)
        with console.status("they settle"):
            await swarm.measure(SETTLE_S)
        world = Crowded(cluster, swarm, port)
        yield world
        await swarm.kill()
        os.sched_setaffinity(0, mine)
        world.audit_findings = await audit_findings(cluster, game)
    finally:
        if swarm is not None:
            await swarm.kill()
        os.sched_setaffinity(0, mine)
        await cluster.stop()
