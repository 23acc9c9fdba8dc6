"""What is looked at once a virtual second: that every queue keeps within its bound, and that everybody is where the ledger says.

`Watch` reads the ledger's store and the services of living processes; the logs are those that `Checks` has replayed. The bounds
are those of docs/LIMITS.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.session_states import SessionState
from perdure.ledger.ledger import (
    CHECKPOINTS_KEPT,
    EVICTED_REMEMBERED,
    INBOX_LIMIT_ENTRIES,
    INBOX_PAGE_BYTES,
    INBOX_PAGE_ENTRIES,
    ORDERS_LIMIT,
)
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus
from perdure.wire.entries import EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY, player_key
from shard.arrivals import MAX_INCOMING_BYTES
from shard.link_server import MAX_LINKS
from tests.simulation.clock import Process
from tests.simulation.cluster import Cluster

if TYPE_CHECKING:
    from gateway.service import GatewayService
    from tests.simulation.players import Player

BLOBS_BEING_WRITTEN = 2
"""Images of a zone that no checkpoint names: one that is being written, and one whose writer was replaced meanwhile."""


class Watch:
    """See the module docstring. What does not hold goes to the cluster's checks."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.checks = cluster, cluster.checks
        self.places_looked_at = 0
        cluster.server.on_commit.append(self._committed)

    def look(self) -> None:
        """Look at everything that can be told at any moment."""
        self._ledger_bounds()
        self._shard_bounds()
        self._gateway_bounds()
        if self._logs_are_the_ledgers():
            self._places()

    # --- bounds ---------------------------------------------------------------------------------------------------

    def _bound(self, where: str, what: str, there: int, most: int) -> None:
        if there > most:
            self.checks.fail(f"bounds: {where}: {there} {what}, at most {most} are meant to be there")

    def _committed(self, process: Process, commit: Commit, answer: CommitAnswer) -> None:
        if answer.status is CommitStatus.OK:
            self._log_reaches_back(commit.zone)
            self._bound(f"zone {commit.zone}", "entries in a page", len(answer.page), INBOX_PAGE_ENTRIES)
            if len(answer.page) > 1:
                self._bound(f"zone {commit.zone}", "bytes in a page", sum(map(len, answer.page)), INBOX_PAGE_BYTES)

    def _log_reaches_back(self, number: int) -> None:
        """The older checkpoint must do, if the newest is bad: the log begins at the record behind it."""
        zone = self.cluster.server.store.data.zones[number]
        oldest = zone.checkpoints[-1].tick if zone.checkpoints else 0
        if zone.head is not None and zone.head.tick > oldest and oldest + 1 not in zone.log and number not in self.checks.damages:
            self.checks.fail(f"log: zone {number} has a checkpoint of tick {oldest}, but record {oldest + 1} is gone")

    def _ledger_bounds(self) -> None:
        data = self.cluster.server.store.data
        self._bound("ledger", "evicted members", len(data.evicted), EVICTED_REMEMBERED)
        for member, waiting in data.orders.items():
            self._bound("ledger", f"orders for {member}", len(waiting), ORDERS_LIMIT)
        for number, zone in data.zones.items():
            where = f"zone {number}"
            self._bound(where, "inbox entries", len(zone.inbox), INBOX_LIMIT_ENTRIES)
            self._bound(where, "checkpoints", len(zone.checkpoints), CHECKPOINTS_KEPT)
            self._bound(where, "images", len(zone.blobs), CHECKPOINTS_KEPT + BLOBS_BEING_WRITTEN)
            if zone.head is not None and len(zone.checkpoints) == CHECKPOINTS_KEPT:
                self._bound(where, "records behind the older checkpoint", len(zone.log), zone.head.tick - zone.checkpoints[-1].tick + 1)

    def _shard_bounds(self) -> None:
        for name, service in self.cluster.shards_alive().items():
            ticks = service.ticks
            self._bound(name, "bytes of commands", ticks.arrivals.bytes_waiting, MAX_INCOMING_BYTES)
            self._bound(name, "links", len(service.links.open), MAX_LINKS)
            for number, zone in ticks.zones.items():
                self._bound(name, f"commands that wait in zone {number}", zone._pending_count, zone._pending_limit)

    def _gateways(self) -> list[tuple[str, GatewayService]]:
        found: list[tuple[str, Any]] = [(name, self.cluster.machines.processes[name].service) for name in self.cluster.alive("gateway")]
        return [(name, service) for name, service in found if service is not None]

    def _gateway_bounds(self) -> None:
        for name, service in self._gateways():
            settings = service.settings
            self._bound(name, "sessions", len(service.fanout), settings.max_sessions)
            self._bound(name, "departures", service.admission.departures_waiting, 2 * settings.max_sessions + 1000)
            for session in service.fanout.sessions():
                self._bound(name, f"commands of {session.name}", len(session.pending), settings.max_pending_commands)

    # --- places ---------------------------------------------------------------------------------------------------

    def _logs_are_the_ledgers(self) -> bool:
        """Is the ledger as far as the logs are? Where it forgot, it is not, until owners have put their zones back."""
        store = self.cluster.server.store
        if not self.cluster.server.up or store.data.opened_for != store.run_id:
            return False
        for number, truth in enumerate(self.checks.zones):
            kept = store.data.zones.get(number)
            at = (kept.head.tick, kept.head.digest) if kept is not None and kept.head is not None else (0, "")
            if at[0] != truth.replica.tick or (at[0] and at[1] != truth.replica.digest):
                return False
        return True

    def _places(self) -> None:
        """Everybody is where the record says, and nowhere else: in a zone, in its page, or in its inbox."""
        data = self.cluster.server.store.data
        places: dict[int, list[int]] = {}
        for number, truth in enumerate(self.checks.zones):
            here = truth.replica.players
            bodies = dict(here[["key", "hop"]][(here["key"] != 0) & (here["departed"] == 0)].tolist())
            kept = data.zones.get(number)
            coming = [unpack_entry(entry) for entry in (*truth.replica.page, *(kept.inbox if kept is not None else ()))]
            for entry in coming:  # what is left over of a player goes when the zone hears of its later move, here or elsewhere
                if entry.kind in (EntryKind.JOIN, EntryKind.ARRIVE, EntryKind.MOVED) and bodies.get(entry.player, entry.hop) < entry.hop:
                    del bodies[entry.player]
            moved = {entry.player: entry.hop for entry in coming if entry.kind is EntryKind.MOVED}
            for entry in coming:
                if entry.kind in (EntryKind.JOIN, EntryKind.ARRIVE) and entry.player and entry.hop > moved.get(entry.player, -1):
                    places.setdefault(entry.player, []).append(number)
            for key in bodies:
                places.setdefault(key, []).append(number)
        self.places_looked_at += 1
        for key, record in data.players.items():
            found, said = places.pop(key, []), [] if record.place == LOBBY else [record.place]
            if found != said:
                self.checks.fail(f"presence: {record.name or key} is in zones {found} by the logs, in {said} by its record")
        for key, found in places.items():
            self.checks.fail(f"presence: player {key:x} is in zones {found}, and has no record")

    # --- at rest --------------------------------------------------------------------------------------------------

    def at_rest(self, crowd: list[Player]) -> None:
        """Everybody has been left alone for a while: who is connected has a name in the ledger, and the session that it tells."""
        numbers = {service.membership.number: (name, service) for name, service in self._gateways()}
        data = self.cluster.server.store.data
        self.checks.leases.at_rest(data.members.values())
        for player in crowd:
            client = player.client
            if client is None or client.ended is not None or not client.connected:
                continue
            record = data.players.get(player_key(player.name))
            if record is None or record.name != player.name:
                self.checks.fail(
                    f"presence: {player.name} plays; the ledger has {'nobody' if record is None else repr(record.name)} of that key"
                )
                continue
            name, service = numbers.get(record.gateway, ("", None))
            session = service.fanout.session(record.slot) if service is not None else None
            if session is None or session.state is SessionState.CLOSED:
                self.checks.fail(f"presence: {player.name} plays; {name or record.gateway} of its record does not have it")
            elif (session.key, session.session) != (player_key(player.name), record.session):
                self.checks.fail(f"presence: {player.name} has session {record.session} in the ledger, {session.session} at {name}")
