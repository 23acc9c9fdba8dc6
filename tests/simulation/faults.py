"""What goes wrong in a simulated run: faults of every kind, at times and places that the seed chooses, alone and together."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from perdure.ledger.ledger import CHECKPOINTS_KEPT
from perdure.ledger.memory_store import StoredData
from perdure.ledger.record import blob_digest
from perdure.ledger.values import LoggedRecord
from tests.simulation.clock import Process
from tests.simulation.cluster import TIGHT, Cluster
from tests.simulation.late_owner import plan_late_owner
from tests.simulation.ledger_server import HOST
from tests.simulation.namesake import plan_namesake
from tests.simulation.older_in_migration import plan_older_in_migration
from tests.simulation.players import Player
from tests.simulation.unaware_owner import plan_unaware_owner


def kinds_of(text: str) -> tuple[str, ...]:
    """Read kinds of faults, by commas; raises ValueError for one that there is not."""
    wanted = tuple(part.strip().replace(" ", "_") for part in text.split(",") if part.strip())
    known = [name.removeprefix("_do_") for name in sorted(dir(Faults)) if name.startswith("_do_")]
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(known)}")
    return wanted


CORNERS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
BENIGN = ("crowd", "reconnect_storm", "second_device", "clock_jump", "lost_replies")
"""Faults that no process dies of, and that cut none off."""
MIGRATION_STEPS = ("intend", "successor_ready", "view", "assign")
"""Calls of the ledger that a migration goes through."""
QUIET = frozenset(["crowd", "gateway_change", "reconnect_storm", "second_device"])
"""Faults in which no member is silent: nobody may be put out for them."""
BY_NAME = frozenset(["late_owner", "namesake", "unaware_owner"])
"""Faults that take half a run: few have them beside others, where they are not asked for."""
ASKED_FOR = frozenset(["cut_off", "late_owner_silent", "late_owner_unseen", "older_in_migration"])
"""Faults that no run has which does not ask for them: they bring about a meeting of events that is rare with the others."""
CUT_OFF_EVERY_S = 5.0
TIGHTLY = frozenset(["crowd"])
"""Faults of runs in which zones have room for few (`is_tight`)."""
FEW = 0.06
TIGHT_RUNS = 0.1
CALM_S, MENDED_S = 7.0, 4.0
"""How long before and after the ledger forgets no other fault begins: owners must live to tell it."""


def is_tight(seed: int, kinds: tuple[str, ...]) -> bool:
    """Has a run zones in which not everybody finds room? By a chance of its own, so that other runs are what they were."""
    return bool(TIGHTLY.intersection(kinds)) if kinds else random.Random(seed ^ 0xF019).random() < TIGHT_RUNS


def _forget(slow_ways: dict[tuple[str, str], float], ways: Iterable[tuple[str, str]]) -> None:
    for way in ways:
        slow_ways.pop(way, None)


class Faults:
    """Plans faults between `first_s` and `last_s`; every one of them is over by `last_s`. `kinds`: only these.

    `cut_offs`: beside all others, players are cut off now and then.
    """

    def __init__(
        self, cluster: Cluster, crowd: list[Player], seed: int, first_s: float, last_s: float, kinds: tuple[str, ...] = (),
        cut_offs: bool = False,
    ) -> None:  # fmt: skip
        self.cluster, self.crowd = cluster, crowd
        self.random = random.Random(seed ^ 0xFA)
        self.last_s = last_s
        self.scaling = False
        self.tight = cluster.capacity == TIGHT
        self.counts: Counter[str] = Counter()
        self.happened: list[tuple[float, str]] = []
        every: dict[str, Callable[[], None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in sorted(dir(type(self))) if name.startswith("_do_")
        }
        self.spare_until_s = 0.0
        names = list(kinds or sorted(every.keys() - BY_NAME - ASKED_FOR - TIGHTLY))
        if not kinds:  # a run has a few kinds of faults, many times each, so that unusual combinations come up
            names = self.random.sample(names, self.random.randint(2, 6))
            apart = random.Random(seed ^ 0x1A7E)  # so that what other runs choose does not hang on it
            names += [name for name in sorted(BY_NAME) if apart.random() < FEW and not self.tight]
            names += TIGHTLY if self.tight else ()
        chosen = [self._guarded(name, every[name]) for name in names]
        if QUIET.issuperset(names):
            cluster.server.on_call.append(self._nobody_is_put_out)
        at = first_s
        while True:
            at += self.random.expovariate(1 / self.random.choice((0.3, 2.0, 5.0)))
            if at >= last_s:
                break
            cluster.machines.later(at - cluster.machines.now, self.random.choice(chosen))
        if cut_offs:
            self._plan_cut_offs(random.Random(seed ^ 0xC07), first_s)
        cluster.machines.later(last_s - cluster.machines.now, self._all_back)

    def _plan_cut_offs(self, chance: random.Random, at: float) -> None:
        while (at := at + chance.expovariate(1 / CUT_OFF_EVERY_S)) < self.last_s:
            self._then(at - self.cluster.machines.now, partial(self._cut_off, chance))

    def _cut_off(self, chance: random.Random) -> None:
        player, for_s = chance.choice(self.crowd), chance.uniform(0.5, 5.0)
        if self.cluster.machines.now + for_s < self.last_s and not player.process.stopped:
            self.say("cut off", f"{player.name} for {for_s:.2f} s")
            player.cut_off(for_s)

    def _do_cut_off(self) -> None:
        """A player with commands in flight is away for about as long as a short grace time."""
        self._cut_off(self.random)

    def _guarded(self, name: str, fault: Callable[[], None]) -> Callable[[], None]:
        def strike() -> None:
            if self.cluster.machines.now >= self.spare_until_s or name in BENIGN:
                fault()

        return strike

    def _nobody_is_put_out(self, process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
        if name == "evict" and arguments[1] in self.cluster.machines.processes:  # the run's end kills the shards
            self.cluster.checks.fail(f"leases: {process.name} has put out {arguments[1]}, which was never silent")

    def say(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.happened.append((self.cluster.machines.now, f"{kind}: {what}"))

    def _for(self, longest_s: float) -> float:
        """Return how long a fault lasts; none outlives the last moment."""
        left = self.last_s - self.cluster.machines.now
        return max(0.01, min(self.random.uniform(0.02, longest_s), left))

    def _then(self, delay_s: float, undo: Callable[[], None]) -> None:
        self.cluster.machines.later(delay_s, undo)

    def _one(self, *kinds: str) -> str | None:
        found = [name for kind in kinds for name in self.cluster.alive(kind)]
        return self.random.choice(found) if found else None

    def _all_back(self) -> None:
        """Every process that was ever there runs again. Wrong wall clocks stay, but for gateways', which tell by them how old a
        token is: nobody else's work may hang on them."""
        for process in list(self.cluster.machines.processes.values()):
            if process.name.startswith("gateway"):
                process.wall_skew_s = 0.0
            process.go_on()
        for name in list(self.cluster.hosts):
            if not name.startswith("player-"):
                self.cluster.start_if_gone(name)
        if self.tight:
            for number, player in enumerate(self.crowd):
                player.heading = CORNERS[number % len(CORNERS)]  # there is room for everybody, but not everywhere
        for wait_s in (0.0, 3.0):  # who was leaving then has left
            self._then(wait_s, self._needed_build_back)

    # --- processes ------------------------------------------------------------------------------------------------

    def _kill(self, *kinds: str) -> None:
        name = self._one(*kinds)
        if name is None:
            return
        back_s = self._for(4.0)
        self.say(f"kill {name.split('-')[0]}", f"{name}, back after {back_s:.2f} s")
        self.cluster.machines.processes[name].kill()
        self._then(back_s, lambda: self.cluster.start_if_gone(name))

    def _do_kill_shard(self) -> None:
        self._kill("shard")

    def _do_kill_gateway(self) -> None:
        self._kill("gateway")

    def _do_kill_coordinator(self) -> None:
        self._kill("coordinator")

    def _do_kill_two_shards(self) -> None:
        self._kill("shard")
        self._kill("shard")

    def _do_power_cut(self) -> None:
        """Every process ends at once, the ledger's server too; all come back under their names, in any order."""
        cluster, server = self.cluster, self.cluster.server
        if not server.up:
            return
        names = [name for kind in ("coordinator", "gateway", "shard") for name in cluster.alive(kind)]
        away_s = self._for(2.0)
        self.say("power cut", f"{len(names)} processes and the ledger, away for {away_s:.2f} s")
        for name in names:
            cluster.machines.processes[name].kill()
        server.crash()
        self._then(away_s, server.start)
        latest_s = max(away_s, self.last_s - cluster.machines.now)
        for name in names:
            self._then(min(away_s + self.random.uniform(0.0, 1.0), latest_s), partial(cluster.start_if_gone, name))

    def _do_stop(self) -> None:
        """A process hangs and goes on: a zombie, where it is taken for dead meanwhile."""
        name = self._one("shard", "shard", "gateway", "coordinator")
        if name is None:
            return
        process = self.cluster.machines.processes[name]
        if process.stopped:
            return
        for_s = self._for(5.0)
        self.say(f"stop {name.split('-')[0]}", f"{name} for {for_s:.2f} s")
        process.stop()
        self._then(for_s, process.go_on)

    def _do_drain_shard(self) -> None:
        """A rolling restart: SIGTERM, and a new process once it has left."""
        name = self._one("shard")
        if name is None:
            return
        self.say("drain shard", name)
        self.cluster.machines.processes[name].signal(15)
        self._then(self._for(6.0), lambda: self.cluster.start_if_gone(name))

    def _do_restart_gateway(self) -> None:
        name = self._one("gateway")
        if name is None:
            return
        self.say("restart gateway", name)
        machines = self.cluster.machines
        process = machines.processes[name]
        process.signal(15)

        def back() -> None:
            if machines.processes.get(name) is process:  # it takes its time to stop
                self._then(0.2, back)
            else:
                self.cluster.start_if_gone(name)

        self._then(self._for(6.0), back)

    def _do_scale(self) -> None:
        """One more shard; it is drained later, if it lives so long."""
        name = f"shard-{10 + self.random.randrange(3)}"
        if name in self.cluster.machines.processes:
            self.say("scale", f"{name} is to leave")
            self.cluster.machines.processes[name].signal(15)
            return
        self.say("scale", f"{name} comes")
        self.cluster.start_if_gone(name)

    def _do_upgrade(self) -> None:
        """A step of a rolling upgrade: a shard of another build comes, one of the present is drained, and in the middle one may die.

        When all are of the next build it goes back again.
        """
        cluster, machines = self.cluster, self.cluster.machines
        alive = cluster.alive("shard")
        there = {cluster.build_of(name) for name in alive}
        later = cluster.program if there == {cluster.next_program.build} else cluster.next_program
        new = f"shard-{20 if later is cluster.next_program else 30}{self.random.randrange(3)}"
        cluster.programs[new] = later
        cluster.start_if_gone(new)
        old = [name for name in alive if cluster.build_of(name) != later.build]
        if not old:
            self.say("upgrade", f"{new} comes")
            return
        name, drain_s, back_s = self.random.choice(old), self._for(3.0), self._for(9.0)
        victim = self.random.choice((name, new, "", "", ""))
        kill_s = min(drain_s + self.random.uniform(0.0, 1.0), max(drain_s, self.last_s - machines.now))
        self.say(
            "upgrade", f"{new} comes, {name} is drained after {drain_s:.2f} s{f', {victim} killed at {kill_s:.2f} s' if victim else ''}"
        )
        self._then(drain_s, lambda: machines.processes[name].signal(15) if name in machines.processes else None)
        if victim:
            self._then(kill_s, lambda: machines.processes[victim].kill() if victim in machines.processes else None)

        def back() -> None:
            if name not in machines.processes:
                cluster.programs[name] = later
                cluster.start(name)

        if self.random.random() < 0.5:
            self._then(max(drain_s, back_s), back)

    def _needed_build_back(self) -> None:
        """What an operator does where a log ends with records that no living shard can replay: start one that can."""
        cluster = self.cluster
        alive = {cluster.build_of(name) for name in cluster.alive("shard")}
        for truth in cluster.checks.zones:
            if truth.replica.program.build not in alive:
                cluster.programs["shard-19"] = truth.replica.program
                cluster.start_if_gone("shard-19")
                return

    def _do_scale_1_6_2(self) -> None:
        """The cluster shrinks to one shard, grows to six and shrinks to two, while all play."""
        cluster, machines = self.cluster, self.cluster.machines
        pause_s = min((self.last_s - machines.now) / 4, 8.0)
        if pause_s < 1.5 or self.scaling:
            return
        self.scaling = True
        self.say("scale 1 6 2", f"a step every {pause_s:.2f} s")

        def shrink(count: int) -> None:
            for name in self.random.sample(names := cluster.alive("shard"), max(len(names) - count, 0)):
                machines.processes[name].signal(15)

        def grow() -> None:
            for number in range(6 - len(cluster.alive("shard"))):
                cluster.start_if_gone(f"shard-4{number}")

        shrink(1)
        self._then(pause_s, grow)
        self._then(2 * pause_s, lambda: shrink(2))
        self._then(3 * pause_s, lambda: setattr(self, "scaling", False))

    def _do_leader_in_migration(self) -> None:
        """The leading coordinator is killed, paused or cut off at a step of a migration; a shard that is drained brings one about."""
        cluster, machines, server = self.cluster, self.cluster.machines, self.cluster.server
        step = self.random.choice(MIGRATION_STEPS)
        harm = self.random.choice(("kill", "stop", "cut"))
        until_s = min(machines.now + 6.0, self.last_s)
        begun: dict[int, str] = {number: "intend" for number, zone in server.store.data.zones.items() if zone.successor}

        def reached(process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> bool:
            """Note where each zone's migration stands; is this call the step?"""
            if name == "intend":
                _, zone, successor = arguments
                begun.pop(zone, None)
                if not successor:
                    return False
                begun[zone] = name
            elif name == "successor_ready":
                if arguments[0] not in begun:
                    return False
                begun[arguments[0]] = name
            elif name == "assign":
                if begun.pop(arguments[1], "") != "successor_ready":
                    return False
            elif name == "view":  # the leader reads that a successor is ready: what it decides by it comes next
                return step == name and process.name == server.store.data.leader and "successor_ready" in begun.values()
            return name == step

        def heard(process: Process, name: str, arguments: tuple[Any, ...], answer: Any) -> None:
            if machines.now >= until_s or machines.now < self.spare_until_s:
                server.on_call.remove(heard)
            elif reached(process, name, arguments, answer):
                server.on_call.remove(heard)
                strike()

        def strike() -> None:
            name = server.store.data.leader
            leader = machines.processes.get(name)
            if leader is None or leader.stopped:
                return
            for_s = self._for(5.0)
            self.say("leader in migration", f"{name}: {harm} at {step} for {for_s:.2f} s")
            if harm == "kill":
                leader.kill()
                self._then(for_s, lambda: cluster.start_if_gone(name))
            elif harm == "stop":
                leader.stop()
                self._then(for_s, leader.go_on)
            else:
                self._cut(leader.host, HOST, for_s, True)

        server.on_call.append(heard)
        drained = self._one("shard")
        if drained is not None and len(cluster.alive("shard")) > 1:
            machines.processes[drained].signal(15)
            self._then(self._for(6.0), lambda: cluster.start_if_gone(drained))

    # --- the network ----------------------------------------------------------------------------------------------

    def _two(self) -> tuple[str, str, str]:
        """Two hosts that speak with each other, and a word for the pair."""
        what = self.random.choice(
            ("shard-ledger", "gateway-ledger", "coordinator-ledger", "shard-gateway", "player-gateway", "shard-shard")
        )
        kinds = what.split("-")
        names = [HOST if kind == "ledger" else self._one(kind) for kind in kinds]
        if None in names or names[0] == names[1]:
            return "", "", ""
        hosts = [name if name == HOST else self.cluster.host_of(str(name)) for name in names]
        return str(hosts[0]), str(hosts[1]), f"{names[0]} - {names[1]}"

    def _cut(self, one: str, other: str, for_s: float, both: bool) -> None:
        network = self.cluster.network
        ways = [(one, other), (other, one)] if both else [(one, other)]
        for source, target in ways:
            network.cut(source, target)
            self._then(for_s, lambda s=source, t=target: network.mend(s, t))

    def _do_partition(self) -> None:
        one, other, what = self._two()
        if what:
            for_s = self._for(4.0)
            self.say("partition", f"{what} for {for_s:.2f} s")
            self._cut(one, other, for_s, True)

    def _do_one_way(self) -> None:
        one, other, what = self._two()
        if what:
            for_s = self._for(4.0)
            if self.random.random() < 0.5:
                one, other = other, one
            self.say("one way", f"{what} ({one} is not heard) for {for_s:.2f} s")
            self._cut(one, other, for_s, False)

    def _do_flapping(self) -> None:
        one, other, what = self._two()
        if not what:
            return
        self.say("flapping", what)
        at = 0.0
        for _ in range(self.random.randint(3, 10)):
            at += self.random.uniform(0.05, 0.5)
            if self.cluster.machines.now + at >= self.last_s - 0.5:
                break
            self._then(at, lambda: self._cut(one, other, self._for(0.4), True))

    def _do_reset(self) -> None:
        one, other, what = self._two()
        if not what:
            return
        if other == HOST:  # calls that are on their way may take effect, or not; nobody hears which
            broken = [client for client in self.cluster.server.clients if client.process.host == one and client.process.alive]
            for client in broken:
                client.disconnected()
            self.say("reset", f"{what}: {len(broken)} connections")
        else:
            self.say("reset", f"{what}: {self.cluster.network.reset(one, other)} connections")

    def _do_half_close(self) -> None:
        """A client that reads no more and says that it sends no more, with snapshots on their way to it."""
        player = self.random.choice(self.crowd)
        pipes = [pipe for pipe in self.cluster.network.pipes if pipe.process is player.process and pipe.protocol is not None]
        if pipes and player.client is not None:
            for_s, client = self._for(8.0), player.client
            self.say("half close", f"{player.name} for {for_s:.2f} s")
            for pipe in pipes:
                pipe.pause_reading()
                self._then(for_s / 2, pipe.half_close)
            self._then(for_s, lambda: player.process.loop.call_soon(client.drop_socket) and None)

    def _do_slow_host(self) -> None:
        name = self._one("shard", "gateway", "coordinator", "player")
        if name is None:
            return
        host, network, for_s = self.cluster.host_of(name), self.cluster.network, self._for(5.0)
        self.say("slow host", f"{name} for {for_s:.2f} s")
        network.slow[host] = self.random.uniform(0.01, 0.3)
        self._then(for_s, lambda: network.slow.__delitem__(host) if host in network.slow else None)

    # --- the ledger -----------------------------------------------------------------------------------------------

    def _do_ledger_restart(self) -> None:
        server = self.cluster.server
        if not server.up:
            return
        for_s = self._for(3.0)
        self.say("ledger restart", f"away for {for_s:.2f} s, with all that it held")
        server.crash()
        self._then(for_s, server.start)

    def _forget(self, kind: str, what: Callable[[float], object]) -> None:
        """Once the cluster is calm, the ledger comes back with less than it had; `what` returns it, given an age."""
        machines, server = self.cluster.machines, self.cluster.server
        age_s = self.random.choice((self.random.uniform(0.0, 0.2), self.random.uniform(0.0, 3.0)))
        away_s = self.random.choice((0.0, self.random.uniform(0.0, 2.0)))
        storms = self.random.random() < 0.5
        moves = self.random.random() < 0.3
        if machines.now + CALM_S + age_s + away_s + MENDED_S > self.last_s:
            return
        self.spare_until_s = machines.now + CALM_S + age_s + away_s + MENDED_S

        def keep() -> None:
            kept = what(age_s)
            machines.later(age_s, strike, kept)
            if moves and len(self.cluster.alive("shard")) > 1:  # zones change hands in the time that is forgotten
                self._do_drain_shard()

        def strike(kept: object) -> None:
            if not server.up or not self.cluster.zones_run():
                return
            self.say(kind, f"what it held {age_s:.3f} s ago, after {away_s:.2f} s")
            server.crash()
            machines.later(away_s, server.start, kept)
            if storms:  # those who break off come back to a server that knows little yet
                machines.later(max(away_s + self.random.uniform(-0.3, 0.1), 0.0), self._do_reconnect_storm)

        machines.later(CALM_S, keep)

    def _do_ledger_older(self) -> None:
        self._forget("ledger older", lambda age_s: self.cluster.server.store.snapshot())

    def _do_ledger_empty(self) -> None:
        self._forget("ledger empty", lambda age_s: StoredData())

    def _do_older_in_migration(self) -> None:
        plan_older_in_migration(self, self._do_drain_shard)

    def _do_late_owner(self) -> None:
        plan_late_owner(self)

    def _do_namesake(self) -> None:
        plan_namesake(self)

    def _do_unaware_owner(self) -> None:
        plan_unaware_owner(self)

    def _do_late_owner_silent(self) -> None:
        plan_late_owner(self, silent=True)

    def _do_late_owner_unseen(self) -> None:
        plan_late_owner(self, unseen=True)

    def _do_ledger_hangs(self) -> None:
        server, for_s = self.cluster.server, self._for(4.0)
        self.say("ledger hangs", f"for {for_s:.2f} s")
        server.hang()
        self._then(for_s, server.go_on)

    def _do_ledger_slow(self) -> None:
        server, for_s = self.cluster.server, self._for(5.0)
        server.slow_s = self.random.uniform(0.005, 0.2)
        self.say("ledger slow", f"{server.slow_s:.3f} s a call for {for_s:.2f} s")
        self._then(for_s, lambda: setattr(server, "slow_s", 0.0))

    def _do_ledger_refuses(self) -> None:
        server, for_s = self.cluster.server, self._for(3.0)
        self.say("ledger refuses", f"writes for {for_s:.2f} s")
        server.refuses = "OOM command not allowed when used memory > 'maxmemory'"
        self._then(for_s, lambda: setattr(server, "refuses", ""))

    def _do_lost_replies(self) -> None:
        server, for_s = self.cluster.server, self._for(3.0)
        server.lost_replies = self.random.choice((0.02, 0.2))
        self.say("lost replies", f"{server.lost_replies:.0%} for {for_s:.2f} s")
        self._then(for_s, lambda: setattr(server, "lost_replies", 0.0))

    def _damage_log(self, kind: str, damaged: Callable[[LoggedRecord], LoggedRecord | None]) -> None:
        """A record that the next owner needs is damaged as the owner dies; an operator puts it back after a while."""
        cluster, server = self.cluster, self.cluster.server
        damages = cluster.checks.damages
        for number, zone in sorted(server.store.data.zones.items()):
            first = zone.checkpoints[0].tick if zone.checkpoints else 0
            ticks = [tick for tick in sorted(zone.log) if tick > first]
            owner = cluster.machines.processes.get(zone.owner or "")
            if not ticks or owner is None or zone.successor or number in damages or not server.up:
                continue
            if number not in cluster.shards[owner.name].ticks.zones:
                continue  # it has not begun: another may have the zone in hand
            tick, for_s = self.random.choice(ticks), self._for(5.0)
            whole = zone.log.pop(tick)
            changed = damaged(whole)
            if changed is not None:
                zone.log[tick] = changed
            self.say(kind, f"tick {tick} of zone {number} for {for_s:.2f} s; {owner.name} dies")
            damages[number] = tick
            owner.kill()
            self._then(for_s, lambda number=number, whole=whole: self._mend_log(number, whole))
            self._then(min(2.0, for_s), lambda name=owner.name: cluster.start_if_gone(name))
            return

    def _mend_log(self, number: int, whole: LoggedRecord) -> None:
        self.cluster.checks.log_mended(number, self.cluster.shards_alive())
        zone = self.cluster.server.store.data.zones[number]
        oldest = zone.checkpoints[-1].tick if len(zone.checkpoints) == CHECKPOINTS_KEPT else 0
        if zone.head is not None and oldest <= whole.tick <= zone.head.tick:
            # else it was trimmed meanwhile, behind a checkpoint that the dead owner had asked for, or the ledger went back
            zone.log[whole.tick] = whole

    def _do_log_bit_flip(self) -> None:
        def flipped(whole: LoggedRecord) -> LoggedRecord:
            data = bytearray(whole.record)
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            return dataclasses.replace(whole, record=bytes(data))

        self._damage_log("log bit flip", flipped)

    def _do_log_gap(self) -> None:
        self._damage_log("log gap", lambda whole: None)

    def _do_corrupt_checkpoint(self) -> None:
        """Bytes of a zone's newest checkpoint change, where the older one is whole (two bad ones are more than is promised)."""
        for number, zone in sorted(self.cluster.server.store.data.zones.items()):
            if len(zone.checkpoints) == 2 and self.random.random() < 0.7:
                newest, older = zone.checkpoints
                if any(blob_digest(zone.blobs[c.tick, c.epoch]) != c.digest for c in (newest, older)):
                    continue
                blob = bytearray(zone.blobs[newest.tick, newest.epoch])
                blob[self.random.randrange(len(blob))] ^= 1 << self.random.randrange(8)
                zone.blobs[newest.tick, newest.epoch] = bytes(blob)
                self.say("corrupt checkpoint", f"zone {number} at tick {newest.tick}")

    # --- clocks and players ---------------------------------------------------------------------------------------

    def _do_clock_jump(self) -> None:
        """One process's wall clock, or, half of the time, those of all coordinators, which tell the dead from the living: then a
        gateway may die, for them to notice."""
        skew = self.random.choice((-3600.0, 3600.0, -30.0, 1.0))
        name = self._one("shard", "gateway", "coordinator")
        if self.random.random() < 0.5:
            for coordinator in self.cluster.alive("coordinator"):
                self.cluster.machines.processes[coordinator].wall_skew_s += skew
            self.say("clock jump", f"coordinators by {skew:+.0f} s")
            if self.random.random() < 0.5 and self.cluster.machines.now >= self.spare_until_s:
                self._kill("gateway")
        elif name is not None:
            self.say("clock jump", f"{name} by {skew:+.0f} s")
            self.cluster.machines.processes[name].wall_skew_s += skew

    def _do_second_device(self) -> None:
        """Half of the time commands are slow between gateways and shards: those of the first device come when the second one is in."""
        player, late = self.random.choice(self.crowd), self.random.random() < 0.5
        self.say("second device", player.name + (", commands are late" if late else ""))
        if late:
            ways: dict[tuple[str, str], float] = {}
            for_s, network = self._for(1.5), self.cluster.network
            for gateway in self.cluster.alive("gateway"):
                for shard in self.cluster.alive("shard"):
                    ways[self.cluster.host_of(gateway), self.cluster.host_of(shard)] = self.random.uniform(0.1, 0.4)
            network.slow_ways.update(ways)
            self._then(for_s, partial(_forget, network.slow_ways, ways))
        player.log_in_elsewhere(self._for(3.0))

    def _do_poison(self) -> None:
        player = self.random.choice(self.crowd)
        self.say("poison", f"{player.name} sends a command that the rules fail on")
        player.send_poison()

    def _do_gateway_change(self) -> None:
        """Some players' sockets break with commands in flight; they come back at another gateway."""
        some = self.random.sample(self.crowd, self.random.randint(1, len(self.crowd)))
        self.say("gateway change", ", ".join(player.name for player in some))
        for player in some:
            player.change_gateway()

    def _do_crowd(self) -> None:
        """Everybody walks to one corner of the world, whose zone has no room for all; some are on their way back and forth meanwhile."""
        if self.cluster.capacity != TIGHT or any(player.heading for player in self.crowd):
            return
        corner, for_s = self.random.choice(CORNERS), self._for(8.0)
        self.say("crowd", f"everybody goes to {corner} for {for_s:.2f} s")
        for player in self.crowd:
            player.heading = corner
        self._then(for_s, self._disperse)

    def _disperse(self) -> None:
        if self.cluster.machines.now >= self.last_s - 0.02:
            return  # `_all_back` says where everybody goes
        for player in self.crowd:
            player.heading = None

    def _do_reconnect_storm(self) -> None:
        self.say("reconnect storm", "every player's socket breaks")
        for player in self.crowd:
            if player.client is not None:
                for gateway in self.cluster.alive("gateway"):
                    self.cluster.network.reset(player.process.host, self.cluster.host_of(gateway))
