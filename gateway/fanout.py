"""The fan-out: one release of one zone in, one write per player out. The hottest loop of a gateway.

Owns the table of sessions by slot and the newest route of every zone. Drops what is stale by zone (a whole batch) and by
session (one frame). Plain frames go out by compiled code (send_table); the loop here is for all others, and its reference.
Never decodes a snapshot, never waits. Called by shard_links for every RELEASE and ZONE_NOTICE frame, and when a link breaks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from gateway.metrics import GatewayCounters
from gateway.routing import CommandLink, Route
from gateway.send_table import SendTable
from gateway.session import FULL_PACE, Pace, Session
from gateway.session_states import SessionState
from perdure.wire.link import RELEASE_ENTRY, RELEASE_STRUCT, unpack_release
from perdure.wire.opcodes import Notice, SnapshotFlag

ENTRY_STRUCT = struct.Struct("<6I")
"""RELEASE_ENTRY as a struct: iterating it is three times as fast as numpy's tolist (84 against 235 ns an entry)."""
assert ENTRY_STRUCT.size == RELEASE_ENTRY.itemsize
MAX_SLOT = (1 << 32) - 1
MAX_PASSED_SLOTS = 64
"""Slots whose row in the table of sends is taken are passed over, so many on end; a session without a row is served all the same."""
FEW_LEFT_OVER = 8
"""Where at most one frame in so many is left over by compiled sends, these are copied one by one, and otherwise all at once."""

_DEPARTED = int(SnapshotFlag.MOVED | SnapshotFlag.GONE)
NOTICE_TEXT = {
    Notice.PAUSED: "the world is paused; nothing is lost",
    Notice.RESUMED: "the world goes on",
    Notice.FAILED_OVER: "the zone runs on another server now",
}


class Fanout:
    """`perform` carries out the instructions that a session left (see websocket_server)."""

    def __init__(self, counters: GatewayCounters, perform: Callable[[Session], None], sends: SendTable | None = None) -> None:
        self.sends = sends or SendTable(1)
        self._counters = counters
        self._perform = perform
        self._sessions: dict[int, Session] = {}
        self._by_player: dict[int, Session] = {}
        self._next_slot = 1
        self._paces: dict[int, tuple[CommandLink, Pace]] = {}
        self.routes: dict[int, Route] = {}
        self._stale: dict[int, tuple[int, ...]] = {}
        """Zone -> zones whose entities its players are shown as they were."""

    # --- sessions by slot -------------------------------------------------------------------------------------------

    def reserve_slot(self) -> int:
        """Return a slot number that no session of this process ever had (until 2^32 of them wrap round).

        Never reusing one means that a frame for a session that is gone cannot reach another player.
        """
        passed = 0
        while True:
            slot = self._next_slot
            self._next_slot = slot + 1 if slot < MAX_SLOT else 1
            passed += 1
            if slot not in self._sessions and (self.sends.is_free(slot) or passed > MAX_PASSED_SLOTS):
                return slot

    def add(self, session: Session) -> None:
        self._sessions[session.slot] = session
        self.sends.add(session)
        self._by_player[session.key] = session

    def remove(self, session: Session) -> None:
        if self._sessions.pop(session.slot, None) is not None:
            self.sends.remove(session)
        if self._by_player.get(session.key) is session:
            del self._by_player[session.key]

    def of_player(self, key: int) -> Session | None:
        """Return the player's session here, if it has one."""
        return self._by_player.get(key)

    def session(self, slot: int) -> Session | None:
        return self._sessions.get(slot)

    def sessions(self) -> Iterator[Session]:
        """Return an iterator over a copy, so that sessions may come and go meanwhile."""
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    # --- from the links ---------------------------------------------------------------------------------------------

    def _route(self, link: CommandLink, zone: int, generation: int, epoch: int, tick: int) -> Route | None:
        """Return the route of a batch, or None where the batch is stale."""
        route = self.routes.get(zone)
        if route is not None:
            if (generation, epoch, tick) < (route.generation, route.epoch, route.tick):
                return None
            if route.link is link and route.epoch == epoch and route.generation == generation:
                route.tick = tick
                return route
        route = self.routes[zone] = Route(link, zone, generation, epoch, tick)
        told = self._paces.get(zone)
        if told is not None and told[0] is not link:
            del self._paces[zone]  # another owner begins at full pace, or has said otherwise
        return route

    def release(self, link: CommandLink, body: memoryview) -> None:
        """Write one zone's frames to their sockets; raises ValueError on a malformed release (the link is then dropped)."""
        release = unpack_release(body)
        counters = self._counters
        counters.releases += 1
        count = len(release.entries)
        route = self._route(link, release.zone, release.generation, release.epoch, release.tick)
        if route is None:
            counters.releases_stale += 1
            counters.frames_stale += count
            return
        rows = body[RELEASE_STRUCT.size : RELEASE_STRUCT.size + count * ENTRY_STRUCT.size]
        left = self.sends.send(route.number, body, count)
        dropped = 0
        if left is None:
            dropped = self._deliver(route, bytes(release.blob), ENTRY_STRUCT.iter_unpack(rows))
        elif left:
            counters.frames_left_over += len(left)
            few = len(left) * FEW_LEFT_OVER <= count
            dropped = self._deliver(route, release.blob if few else bytes(release.blob), _left_over(rows, left))
        counters.frames_out += count - dropped
        counters.frames_out_bytes += len(release.blob)

    def _deliver(self, route: Route, blob: bytes | memoryview, entries: Iterable[tuple[int, ...]]) -> int:
        """Write the frames of `entries` one by one; return how many were dropped. Compiled sends must do as this does.

        Each frame is a copy of its own, so that a slow reader's buffer holds its few hundred bytes instead of the whole release. Where most
        of a release is written here, `blob` is one copy of the whole: slices of bytes are cheaper than of a memoryview.
        """
        counters, sends = self._counters, self.sends
        find = self._sessions.get
        dropped = 0
        for slot, hop, ack, flags, offset, length in entries:
            session = find(slot)
            if session is None:
                counters.frames_unknown += 1
                dropped += 1
                continue
            if session.acknowledged is not None:
                sends.disarm(session)  # an entry of the same release may have armed it
            if session.route is not route or session.hop != hop:
                if not session.reroute(route, hop, ack, flags):
                    counters.frames_stale += 1
                    dropped += 1
                    continue
                session.paced(route.zone, self.pace_of(route.zone))
                self._perform(session)  # resend first: nothing that the write below brings about may overtake it
                session.sees_stale(route.zone, self._stale.get(route.zone, ()))
            elif ack != session.acked:
                session.acknowledge(ack)
            session.fresh = True
            if flags or session.muted:
                if session.admit(flags):
                    session.write(bytes(blob[offset : offset + length]))
                else:
                    counters.frames_slow += 1
                    dropped += 1
                if flags & _DEPARTED:
                    session.departed(flags)
                    self._perform(session)
                    continue
            else:
                session.write(bytes(blob[offset : offset + length]))
            sends.arm(session)
        return dropped

    def zone_notice(self, zone: int, notice: int) -> None:
        """Relay a shard's notice to everyone in the zone."""
        known = Notice(notice)
        for session in self._sessions.values():
            if session.zone == zone:
                session.noticed(known, zone, NOTICE_TEXT[known])

    def zone_stale(self, zone: int, stale: tuple[int, ...]) -> None:
        """Tell everyone in a zone, now and when they come, whose entities they are shown as they were."""
        if stale:
            self._stale[zone] = stale
        else:
            self._stale.pop(zone, None)
        for session in self._sessions.values():
            if session.zone == zone and session.route is not None:
                session.sees_stale(zone, stale)

    def zone_pace(self, link: CommandLink, zone: int, pace: Pace) -> None:
        """A shard says how a zone's clock runs from now on; everyone in the zone hears it, and who comes into it later."""
        self._paces[zone] = link, pace
        for session in self._sessions.values():
            if session.zone == zone and session.route is not None:
                session.paced(zone, pace)

    def pace_of(self, zone: int) -> Pace:
        """Return how a zone's clock runs, as far as its shard has told."""
        told = self._paces.get(zone)
        return FULL_PACE if told is None else told[1]

    def link_lost(self, link: CommandLink) -> None:
        """Every session that was served by `link` waits for the next owner from now on."""
        for session in self._sessions.values():
            if session.route is not None and session.route.link is link:
                self.sends.disarm(session)
                session.link_lost(link)

    def shard_died(self, link: CommandLink) -> None:
        """The shard behind a link that was lost is known to be dead."""
        for session in list(self._sessions.values()):
            session.shard_died(link)
            if session.instructions:
                self._perform(session)

    def ask_stalled_keyframes(self) -> None:
        """Ask again for those who still wait for a full snapshot (the request, or its answer, was lost)."""
        for session in list(self._sessions.values()):
            if session.muted and not session.congested and session.state is SessionState.PLAYING:
                session.ask_keyframe()
                self._perform(session)


def _left_over(rows: memoryview, left: list[list[int]]) -> Iterator[tuple[int, ...]]:
    """Yield the entries that compiled code left over; of a frame that was sent in part, what is still to be written."""
    for entry, sent in left:
        slot, hop, ack, flags, offset, length = ENTRY_STRUCT.unpack_from(rows, entry * ENTRY_STRUCT.size)
        yield slot, hop, ack, flags, offset + sent, length - sent
