"""What must hold at every moment of a simulated run, checked from outside of the product: at every commit, at every snapshot.

`Checks` hears of every commit that the ledger accepted and of everything that clients receive. It replays each record as soon
as it is committed, so that "replay equals live" is not a test of its own, and knows what every client may have been shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perdure.game.contract import effect_dtype, row_dtype
from perdure.game.portable import unpack_rows
from perdure.ledger.record import chain_digest, unpack_record
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, Reseed
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY, WorldGrid, player_key
from perdure.wire.link import command_dtype
from shard.kernels import layout
from shard.program import Program
from shard.zone import Zone, ZoneError
from tests.simulation.clock import Process
from tests.simulation.holdings import Holdings, hop_in
from tests.simulation.leases import Leases
from tests.simulation.ledger_server import LedgerServer
from tests.simulation.sights import Sights

REMEMBERED_TICKS = 400
RELICS = 2
"""What each zone of the game has when it opens (tests/data/bazaar.py)."""
STEP = 1 / 16


class Violation(Exception):
    """An invariant does not hold. The text says which, where and when."""


@dataclass
class ZoneTruth:
    """One zone as its log tells it: a replica that has replayed every committed record, and what it looked like lately."""

    replica: Zone
    writer: dict[tuple[int, int], str] = field(default_factory=dict)
    """(generation, epoch) -> the process that wrote under it"""
    stamp: tuple[int, int] = (0, 0)
    looks: dict[int, tuple[int, dict[int, tuple[float, float, int, int]]]] = field(default_factory=dict)
    """tick -> (epoch, player -> (x, y, gold, relic))"""
    run_id: str = ""
    """The run of the ledger's server that took the last commit."""


class Checks:
    """See the module docstring. Violations are raised where they are found, and kept."""

    def __init__(self, server: LedgerServer, program: Program, grid: WorldGrid, seed: int, *later: Program) -> None:
        self.server, self.program, self.grid = server, program, grid
        self.programs = {made.build: made for made in (program, *later)}
        self.zones = [ZoneTruth(Zone(program, number, grid, seed)) for number in range(grid.zones)]
        self.applied: dict[int, dict[int, int]] = {}
        """player -> seq -> tag"""
        self.tags: dict[int, dict[int, int]] = {}
        """player -> tag of a command that was applied -> the number that it had then"""
        self.senders: dict[int, dict[int, set[int]]] = {}
        """player -> tag of a command -> numbers of the sessions that the client had which sent it"""
        self.last_seq: Counter[int] = Counter()
        self.violations: list[str] = []
        self.sights = Sights(program.schema, self.fail, lambda: server.machines.now)
        self.commits = self.snapshots = self.acknowledged = self.handovers = self.effects = self.arrivals_refused = 0
        self._dtype = command_dtype(program.schema.command_payload_bytes)
        self._tag_at = {c.kind: (c.payload.fields or {})["tag"][1] for c in program.schema.commands}
        self.login_refused_s: dict[int, float] = {}
        """player -> when a login of its found no room last"""
        self.refused: dict[tuple[int, int], Commit] = {}
        """(zone, epoch) -> the last commit that a ledger which forgot the zone has refused."""
        self.reseeds = self.damages_told = 0
        self.damages: dict[int, int] = {}
        """zone -> tick of the record that is damaged now, behind which nobody can come who has not read it before."""
        self.holdings = Holdings(program, server.store)
        server.on_commit.append(self.committed)
        server.on_reseed.append(self.reseeded)
        self.leases = Leases(self.fail, lambda: server.machines.now)
        server.on_call.append(self.leases.called)

    def fail(self, what: str) -> None:
        self.violations.append(f"{self.server.machines.now:.3f} s: {what}")

    # --- commits --------------------------------------------------------------------------------------------------

    def committed(self, process: Process, commit: Commit, answer: CommitAnswer) -> None:
        if answer.status is CommitStatus.BROKEN:
            self.fail(f"log: zone {commit.zone} tick {commit.tick} was refused as broken: {answer.detail}")
        if answer.status is CommitStatus.GAP:
            self.refused[commit.zone, commit.epoch] = commit
        if answer.status is not CommitStatus.OK:
            return
        if process.alive and self._needs_damaged(commit.zone):
            self.fail(f"damaged log: {process.name} runs zone {commit.zone}, whose record of tick {self.damages[commit.zone]} is damaged")
        truth = self.zones[commit.zone]
        zone = truth.replica
        run_id, truth.run_id = truth.run_id, self.server.store.run_id
        if commit.tick == zone.tick and commit.digest == zone.digest:  # sent again, because the answer was lost
            if answer.page != zone.page:
                if run_id == truth.run_id or commit.tick <= self.server.began_at.get(commit.zone, 0):
                    self.fail(f"log: the commit of zone {commit.zone} tick {commit.tick} returned another page when it was sent again")
                zone.page = answer.page  # a server that forgot this commit has taken it anew, with the inbox that it has
            return
        self.commits += 1
        stamp = commit.generation, commit.epoch
        writer = truth.writer.setdefault(stamp, f"{process.name}/{id(process)}")
        if writer != f"{process.name}/{id(process)}":
            self.fail(f"single writer: zone {commit.zone} at {stamp} was written by {writer} and by {process.name}")
        if stamp < truth.stamp:
            self.fail(f"epochs: zone {commit.zone} went from {truth.stamp} back to {stamp}")
        truth.stamp = stamp
        kept = self.server.store.data.zones[commit.zone].head
        if kept is not None and stamp != (kept.generation, kept.epoch):
            self.fail(f"epochs: {process.name} of {stamp} committed zone {commit.zone}, given away at {(kept.generation, kept.epoch)}")
        if commit.tick != zone.tick + 1:
            self.fail(f"log: zone {commit.zone} goes from tick {zone.tick} to {commit.tick}")
            return
        if commit.previous != zone.digest or chain_digest(zone.digest, commit.record) != commit.digest:
            self.fail(f"log: the chain of zone {commit.zone} is broken at tick {commit.tick}")
            return
        self._new_stays(zone)
        self._count_commands(zone, commit)
        zone = self._of_build(truth, unpack_record(commit.record).build)
        self.holdings.coming(zone)
        try:
            zone.replay(commit.record, answer.page)
        except ZoneError as error:
            self.fail(f"replay: {error}")
            return
        self.holdings.sent(zone, tuple(commit.transfers))
        out = zone.arrays.out[: zone.arrays.meta[layout.META_OUT]]
        refused = zone.arrays.inputs[out["entry"][out["kind"] == layout.OUT_REFUSED]]
        self.arrivals_refused += len(refused)
        logins = refused["player"][refused["kind"] == layout.KIND_JOIN]
        self.login_refused_s |= dict.fromkeys(logins.tolist(), self.server.machines.now)
        truth.looks[commit.tick] = commit.epoch, self._look(zone)
        truth.looks.pop(commit.tick - REMEMBERED_TICKS, None)
        self.sights.committed(zone, commit.epoch)

    def reseeded(self, process: Process, seed: Reseed) -> None:
        """An owner has restored its zone in a ledger that forgot it: nothing that was committed may be missing from it.

        The tick that the ledger refused is on no log, but counts: it is the refused record that is replayed here. An earlier owner may
        come first, whom nobody told that the zone was given away: all is well if the later one comes before it has committed anything.
        """
        self.reseeds += 1
        truth = self.zones[seed.zone]
        zone, commit = truth.replica, self.refused.pop((seed.zone, seed.epoch), None)
        if (seed.generation, seed.epoch) < truth.stamp:
            return
        if seed.tick == zone.tick + 1 and commit is not None and commit.tick == seed.tick and commit.previous == zone.digest:
            zone = self._of_build(truth, unpack_record(commit.record).build)
            self._new_stays(zone)
            self._count_commands(zone, commit)
            self.holdings.coming(zone)
            zone.replay(commit.record, ())
            self.holdings.sent(zone, tuple(commit.transfers))
            zone.digest = commit.digest
            self.sights.committed(zone, commit.epoch)
        if (seed.tick, seed.digest) != (zone.tick, zone.digest):
            self.fail(f"reseed: {process.name} restored zone {seed.zone} at tick {seed.tick}; its log had come to tick {zone.tick}")
            return
        image = Zone(zone.program, seed.zone, self.grid, zone.seed)
        image.restore(seed.blob)
        if (image.state_hash, image.digest) != (zone.state_hash, zone.digest):
            self.fail(f"reseed: what {process.name} restored of zone {seed.zone} is not what its log gives at tick {seed.tick}")
        if image.page != zone.page:
            if image.page:
                self.fail(
                    f"reseed: {process.name} restored zone {seed.zone} with a page that the commit of tick {seed.tick} did not return"
                )
            zone.page = ()  # the commit's answer was lost with the server: its owner never had the page, and nobody else has it now

    def _needs_damaged(self, number: int) -> bool:
        """Is a record of the zone damaged that whoever starts it must replay? (A checkpoint that its dead owner had asked for may have
        come in since.)"""
        checkpoints = self.server.store.data.zones[number].checkpoints
        return number in self.damages and (not checkpoints or checkpoints[0].tick < self.damages[number])

    def log_mended(self, number: int, shards: Mapping[str, Any]) -> None:
        """A damaged record is put back: who could not start the zone because of it has said at which tick."""
        tick = self.damages.pop(number)
        head = self.server.store.data.zones[number].head
        epoch = head.epoch if head is not None else 0
        if epoch <= self.zones[number].stamp[1]:
            return  # nobody has been given it since
        for name, service in sorted(shards.items()):
            why = service.failed.get(number, "")
            if not why.startswith(f"{epoch}:"):
                continue  # nothing, or what it said of an earlier assignment
            if "was written by build" in why:
                continue  # it does not come as far as the damage: the tail is another build's
            said = [int(word) for word in re.findall(r"ticks? (\d+)|to (\d+)", why) for word in word if word]
            if f"zone {number}" not in why or not any(abs(one - tick) <= 1 for one in said):
                self.fail(f"damaged log: {name} cannot run zone {number} because of tick {tick}, but says: {why}")
            self.damages_told += 1

    def _of_build(self, truth: ZoneTruth, build: int) -> Zone:
        """Return the replica as the build has it that wrote the next record: a checkpoint of the last tick carries it over."""
        zone, program = truth.replica, self.programs.get(build)
        if program is None or zone.program is program:
            return zone
        zone.recovered(zone.generation, zone.epoch)
        truth.replica = Zone(program, zone.zone, self.grid, zone.seed)
        truth.replica.restore(zone.checkpoint())
        self.handovers += 1
        return truth.replica

    def _new_stays(self, zone: Zone) -> None:
        """Who comes in counts commands on from what the entry says."""
        if not zone.page:
            return
        for data in zone.page:
            entry = unpack_entry(data)
            if entry.kind not in (EntryKind.JOIN, EntryKind.ARRIVE) or not entry.player or zone.passages.is_known(entry):
                continue
            here = hop_in(zone, entry.player)
            if entry.kind is EntryKind.JOIN:  # the body that may be there stays, and what it has applied
                self.last_seq[entry.player] = max(entry.last_seq, self.last_seq[entry.player] if here is not None else 0)
            elif entry.kind is EntryKind.ARRIVE and here is not None and here < entry.hop:  # the body that is there is given up
                self.last_seq[entry.player] = entry.last_seq

    def _count_commands(self, zone: Zone, commit: Commit) -> None:
        record = unpack_record(commit.record)
        if not record.rows:
            return
        rows = np.frombuffer(record.commands, self._dtype)
        for row in rows:
            player, seq = int(row["player"]), int(row["seq"])
            payload = bytes(row["payload"])
            at = self._tag_at[int(row["kind"])]
            tag = int.from_bytes(payload[at : at + 2], "little")
            if self._is_given_up(zone, player):
                self.applied.setdefault(player, {}).setdefault(seq, tag)
                continue
            sender, session = self.senders.get(player, {}).get(tag), int(row["session"])
            if sender is not None and session not in sender:
                self.fail(f"sessions: player {player:x} command {seq} (tag {tag}) was applied as of session {session}; "
                          f"who sent it had {sorted(sender)} (zone {commit.zone})")  # fmt: skip
            if seq <= self.last_seq[player]:
                self.fail(f"exactly once: player {player:x} command {seq} was applied after {self.last_seq[player]} (zone {commit.zone})")
            self.last_seq[player] = seq
            self.applied.setdefault(player, {})[seq] = tag
            tags = self.tags.setdefault(player, {})
            if tag in tags and not self.holdings.forking:
                self.fail(f"exactly once: player {player:x} command {seq} (tag {tag}) was applied before, as command {tags[tag]} "
                          f"(zone {commit.zone})")  # fmt: skip
            tags[tag] = seq

    def _is_given_up(self, zone: Zone, player: int) -> bool:
        """Is what a late owner has of this player of a history that is given up, and the zone about to hear so?"""
        here, record = hop_in(zone, player), self.server.store.data.players.get(player)
        return self.holdings.forking and here is not None and record is not None and record.moves > here + 1

    @staticmethod
    def _look(zone: Zone) -> dict[int, tuple[float, float, int, int]]:
        traders = zone.rows("trader")
        return {
            key: (float(row["x"]), float(row["y"]), int(row["gold"]), int(row["relic"]))
            for key, row in ((int(p["key"]), traders[p["row"]]) for p in zone.players if p["key"] and p["row"] >= 0)
        }

    # --- what clients are shown -----------------------------------------------------------------------------------

    def shown(self, name: str, zone: int, epoch: int, tick: int, me: Any) -> None:
        """A client has received a snapshot: it must be of the log."""
        self.snapshots += 1
        truth = self.zones[zone]
        if tick > truth.replica.tick:
            self.fail(f"release: {name} was shown tick {tick} of zone {zone}, but the log ends at {truth.replica.tick}")
            return
        look = truth.looks.get(tick)
        if look is None:
            return
        if epoch < look[0]:
            self.fail(f"release: {name} was shown tick {tick} of zone {zone} by its owner of epoch {epoch}; the log has it of {look[0]}")
            return
        if me is None:
            return
        seen = look[1].get(player_key(name))
        if seen is None:
            self.fail(f"release: {name} was shown itself in zone {zone} at tick {tick}, where the log does not have it")
            return
        x, y, gold, relic = seen
        if abs(me.x - x) > STEP or abs(me.y - y) > STEP or (me.gold, me.relic) != (gold, relic):
            self.fail(
                f"release: {name} was shown ({me.x}, {me.y}, {me.gold}, {me.relic}) in zone {zone} at tick {tick}; the log has {seen}"
            )

    def sent(self, name: str, tag: int, sessions: set[int]) -> None:
        """A client sends a command. `sessions`: the numbers (of 16 bits) that it has had, and will have."""
        self.senders.setdefault(player_key(name), {})[tag] = sessions

    def began_behind(self, name: str, ack: int) -> None:
        """A client's session began behind what the client had been told is applied."""
        if not self.server.has_forgotten:
            self.fail(f"acknowledged: {name} was told that nothing above command {ack} is applied, though it had been told of later ones")

    def told_applied(self, name: str, seq: int, tag: int) -> None:
        """A client's command was acknowledged."""
        self.acknowledged += 1
        found = self.applied.get(player_key(name), {}).get(seq)
        if found != tag:
            self.fail(f"acknowledged: {name} was told that command {seq} (tag {tag}) is applied; the logs have {found}")

    # --- at rest --------------------------------------------------------------------------------------------------

    def at_rest(self, names: list[str], zones_opened: set[int]) -> None:
        """Nothing moves any more: everybody is in one place, and what there is adds up."""
        data = self.server.store.data
        places: Counter[int] = Counter()
        gold = minted = thrown = arrived = 0
        relics: Counter[int] = Counter()
        dtypes = [(e.name, row_dtype(e)) for e in self.program.game.entities]

        def count(rows: np.ndarray) -> None:
            nonlocal gold
            gold += int(rows["gold"].sum())
            relics.update(int(serial) for serial in rows["relic"] if serial)

        for number, truth in enumerate(self.zones):
            zone, kept = truth.replica, data.zones.get(number)
            if kept is None or kept.head is None:
                continue
            if kept.head.tick != zone.tick or kept.head.digest != zone.digest:
                self.fail(f"log: zone {number} stands at tick {kept.head.tick} in the ledger; its commits went to {zone.tick}")
            minted += int(zone.totals["minted"][0])
            thrown += int(zone.totals["thrown"][0])
            arrived += int(zone.totals["hit"][0]) + int(zone.totals["missed"][0])
            self.effects += int(zone.totals["hit"][0])
            here = zone.players
            places.update(here["key"][(here["key"] != 0) & (here["departed"] == 0)].tolist())
            for name, _ in dtypes:
                rows = zone.rows(name)
                count(rows[rows["dead"] == 0])
            for entry_data in [*zone.page, *kept.inbox]:
                entry = unpack_entry(entry_data)
                if entry.kind is EntryKind.EFFECT and not zone.passages.has(entry):
                    effect = self.program.game.effects[entry.type]
                    rows = unpack_rows(entry.payload, effect_dtype(effect))
                    gold += int(rows["gold"].sum()) if effect.name == "gain" else 0
                    arrived += int(rows["weight"].sum()) if effect.name == "stone" else 0
                if entry.kind in (EntryKind.JOIN, EntryKind.ARRIVE):
                    if entry.player:
                        places[entry.player] += 1
                    if entry.payload:
                        count(unpack_rows(entry.payload, dtypes[entry.type if entry.kind is EntryKind.ARRIVE else 0][1]))
        for name in names:
            record = data.players.get(player_key(name))
            if record is None:
                continue
            if record.place == LOBBY:
                places[player_key(name)] += 1
                if record.saved:
                    count(unpack_rows(record.saved, dtypes[0][1]))
            if places[player_key(name)] != 1:
                self.fail(f"one place: {name} is in {places[player_key(name)]} places")
        minted += self.holdings.gold
        if gold != minted:
            self.fail(f"conserved: there is {gold} gold, but {minted} was minted")
        if thrown != arrived:
            self.fail(f"effects: stones of weight {thrown} were thrown over borders, {arrived} have hit, missed or are on their way")
        wanted = Counter({(zone + 1) * 1000 + k: 1 for zone in zones_opened for k in range(RELICS)})
        wanted.update(self.holdings.relics)
        wanted = +wanted
        if relics != wanted:
            self.fail(f"conserved: relics missing {sorted((wanted - relics).elements())}, too many {sorted((relics - wanted).elements())}")

    def zones_opened(self) -> set[int]:
        return {number for number, truth in enumerate(self.zones) if truth.replica.totals["relics"][0]}
