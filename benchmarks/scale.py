"""Scale: what a player costs as shards and busy zones get more while players stay as many, and what a zone costs that nobody is in.

Processor time of all server processes. Players stay around the middles of the busy zones (benchmarks/_plots.py), 10 commands and 20
snapshots a second each, in a square that is the smaller the fewer a zone has, so that each sees as many in every world. What the swarm
saw is told, and judged: snapshots, commands, players in the world, faults, how many each saw. The cost of an idle zone is what a world
with many more zones takes beyond one of busy zones alone, for each zone more. Worlds are compared within a round, since a machine is not
as fast at all times, every second round in the opposite order; medians of rounds.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._crowded import COMMANDS_HZ, Crowded, amiss, rates
from benchmarks._playing import audit_findings, console
from benchmarks._swarm import Measured, Swarm
from benchmarks._tick_parts import free_port
from perdure.cli.bench import BadOption
from perdure.cli.local_cluster import Launch, LocalCluster

BAR_FLAT, BAR_IDLE = 1.25, 0.01
SEEN_FLAT = 1.15
"""So much more each may see in one world than in another, on average: those who decode are a twentieth."""
PLAYERS_A_ZONE, SPREAD, INTEREST = 120, 80.0, 20.0
"""So many players in a zone come in within a square of this side (benchmarks/_plots.py), and see so far."""
ROAM = 1.1
"""The square in which they are to be found later is so much wider."""
ENTER_DEADLINE_S, SETTLE_S = 120.0, 2.0
PLOTS = Path(__file__).parent / "_plots.py"


@dataclass(frozen=True)
class World:
    """One cluster that is measured: `busy` of `columns` x `rows` zones have players."""

    shards: int
    busy: int
    columns: int
    rows: int


def run(
    players: int = 1920, seconds: float = 8.0, rounds: int = 5, shards: str = "1,2,4,8", zones: str = "16,32,64", idle: str = "16x16"
) -> dict[str, Any]:
    """Measure worlds with so many shards, and with so many busy zones on the first number of them, `rounds` times; medians.

    1,920 players are 120 in each of 16 zones, or 30 in each of 64: fewer would not make a zone busy.
    """
    import uvloop

    return uvloop.run(_run(players, seconds, rounds, _numbers(shards, "shards"), _numbers(zones, "zones"), _grid(idle)))


def _numbers(text: str, option: str) -> list[int]:
    found = [int(part) for part in text.split(",") if part.isdigit() and int(part) > 0]
    if not found or any(option == "zones" and n & (n - 1) for n in found):
        raise BadOption(f"--{option} {text}: numbers by commas, of zones powers of two, such as 16,32,64")
    return found


def _grid(text: str) -> tuple[int, int]:
    columns, _, rows = text.partition("x")
    if not (columns.isdigit() and rows.isdigit()):
        raise BadOption(f"--idle {text}: columns x rows, such as 16x16")
    return int(columns), int(rows)


def square(zones: int) -> tuple[int, int]:
    """Return columns and rows of so many zones (a power of two), as near to a square as they can be."""
    columns = 1 << math.ceil(math.log2(zones) / 2)
    return columns, zones // columns


async def _run(players: int, seconds: float, rounds: int, shards: list[int], zones: list[int], idle: tuple[int, int]) -> dict[str, Any]:
    spread_of(players // max(zones))  # which says so where there are too few
    of_shards = [World(count, zones[0], *square(zones[0])) for count in shards]
    of_zones = [of_shards[0], *(World(shards[0], count, *square(count)) for count in zones[1:])]
    wide = World(shards[0], zones[0], *idle)
    worlds = list(dict.fromkeys([*of_shards, *of_zones, wide]))
    found: dict[World, list[float]] = {world: [] for world in worlds}
    seen: dict[World, list[Measured]] = {world: [] for world in worlds}
    findings = 0
    for number in range(rounds):
        for world in worlds if number % 2 == 0 else reversed(worlds):
            spent, watched, bad = await _cost(world, players, seconds, f"round {number + 1} of {rounds}")
            found[world].append(spent)
            seen[world].append(watched)
            findings += bad
    base = of_shards[0]
    more = idle[0] * idle[1] - zones[0]
    part = median((w - b) / max(more, 1) / (b / zones[0]) for w, b in zip(found[wide], found[base], strict=True))
    flat_shards, flat_zones = (flatness(found, row) for row in (of_shards, of_zones))
    wrong = [f"{world}: {what}" for world, rows in seen.items() for one in rows for what in amiss(one, players)]
    by_each = {world: median(one.entities_seen for one in rows) for world, rows in seen.items()}
    alike = max(by_each.values()) <= SEEN_FLAT * min(by_each.values())
    each = [rates(one, players) for rows in seen.values() for one in rows]
    cost = {world: median(spent) for world, spent in found.items()}
    by_shards, by_zones = ({world: cost[world] / players * 1e6 for world in row} for row in (of_shards, of_zones))
    return {
        "shards_ratio": round(flat_shards, 3), "zones_ratio": round(flat_zones, 3), "bar_ratio": BAR_FLAT,
        "idle_zone_part": round(part, 4), "bar_idle_zone_part": BAR_IDLE, "zones_most_idle": idle[0] * idle[1],
        "us_a_player_second_by_shards": {str(world.shards): round(us, 1) for world, us in by_shards.items()},
        "us_a_player_second_by_zones": {str(world.busy): round(us, 1) for world, us in by_zones.items()},
        "shard_more_cores": round((cost[of_shards[-1]] - cost[base]) / max(of_shards[-1].shards - base.shards, 1), 4),
        **{f"{name}_least": round(min(one[name] for one in each), 2) for name in each[0]}, "amiss": wrong,
        "seen_by_each_by_shards": {str(world.shards): round(by_each[world], 1) for world in of_shards},
        "seen_by_each_by_zones": {str(world.busy): round(by_each[world], 1) for world in of_zones},
        "cores_busy_zones_alone": round(cost[base], 3), "cores_with_idle_zones": round(cost[wide], 3), "players": players, "rounds": rounds,
        "audit_findings": findings,
        "passed": flat_shards <= BAR_FLAT and flat_zones <= BAR_FLAT and part <= BAR_IDLE and not wrong and alike and findings == 0,
    }  # fmt: skip


def flatness(found: dict[World, list[float]], row: list[World]) -> float:
    """Return how much more the dearest world of a row costs than the cheapest; each is held against the row's first one in its round."""
    against_first = [median(a / b for a, b in zip(found[world], found[row[0]], strict=True)) for world in row]
    return max(against_first) / min(against_first)


async def _cost(world: World, players: int, seconds: float, which: str) -> tuple[float, Measured, int]:
    """Return how many cores the servers take, what the players saw meanwhile, and how much the audit found wrong in the end."""
    what = f"{which}: {world.shards} shards, {world.busy} of {world.columns * world.rows} zones busy"
    with tempfile.TemporaryDirectory(prefix="perdure-plots-") as folder:
        game = plots(Path(folder), world.busy, spread_of(players // world.busy))
        settings, port = {"threads": "1"}, free_port()
        cluster = LocalCluster(
            shards=world.shards,
            gateways=1,
            coordinators=1,
            zones=f"{world.columns}x{world.rows}",
            game=str(game),
            settings=settings,
            launches={"shard-1": Launch(settings={"health_port": str(port)})},
        )
        swarm: Swarm | None = None
        try:
            with console.status(f"{what}: a cluster"):
                await cluster.start()
            assert cluster.folder is not None
            urls = list(cluster.gateway_urls.values())
            swarm = Swarm(cluster.folder, urls, cluster.secret, players, choices=[(heading,) for heading in range(8)])
            with console.status(f"{what}: {players} players come"):
                entered = await swarm.start(ENTER_DEADLINE_S)
            if entered["in"] != players:
                raise RuntimeError(f"of {players} players: {entered}")
            await swarm.steer(COMMANDS_HZ)
            await _spread(cluster, world)
            await swarm.measure(SETTLE_S)
            with console.status(f"{what}: measuring"):
                seen, cores = await Crowded(cluster, swarm, port).measure(seconds)
            parts = {role: round(part, 3) for role, part in cores.items()}
            console.print(f"{what}: {sum(cores.values()):.3f} cores {parts}, {seen.entities_seen:.1f} in sight")
            for wrong in amiss(seen, players):
                console.print(f"{what}: {wrong}", highlight=False)
            await swarm.kill()
            return sum(cores.values()), seen, await audit_findings(cluster, str(game))
        finally:
            if swarm is not None:
                await swarm.kill()
            await cluster.stop()


async def _spread(cluster: LocalCluster, world: World) -> None:
    """Wait until everybody is in a busy zone: most come into another one, and are sent on by the game."""
    step = world.columns * world.rows // world.busy
    async with asyncio.timeout(ENTER_DEADLINE_S):
        while any(seen.place % step for seen in await cluster.ledger.online()):
            await asyncio.sleep(0.1)


def others_in_sight(players: int, spread: float) -> float:
    """Return how many others each of so many sees in a zone: how likely two points of a square are as near, which at its edges is less."""
    t = min(INTEREST / (ROAM * spread), 1.0)
    return (players - 1) * (math.pi * t**2 - 8 / 3 * t**3 + t**4 / 2)


def spread_of(players: int) -> float:
    """Return the side of the square in which so many players in a zone see as many others as PLAYERS_A_ZONE do in SPREAD."""
    wanted = others_in_sight(PLAYERS_A_ZONE, SPREAD)
    low, high = INTEREST / ROAM, SPREAD * players
    if others_in_sight(players, low) < wanted:
        raise BadOption(f"{players} players in a zone cannot see {wanted:.0f} others each: say more --players, or fewer --zones")
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if others_in_sight(players, middle) > wanted else (low, middle)
    return low


def plots(folder: Path, busy: int, spread: float = SPREAD) -> Path:
    """Write the game with so many busy zones, and players who come in within a square of that side; return the file."""
    text = PLOTS.read_text()
    for name, old, new in (("BUSY", "16", str(busy)), ("SPREAD", "80.0", repr(spread))):
        assert f"\n{name} = {old}\n" in text, "the game has the constant that is to be another one"
        text = text.replace(f"\n{name} = {old}\n", f"\n{name} = {new}\n")
    file = folder / "plots.py"
    file.write_text(text)
    return file
