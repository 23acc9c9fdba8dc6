"""The ledger in memory: the twin of `redis_ledger.RedisLedger`, for the simulator, unit tests and single-process worlds.

Owns the rules of every call but commit (memory_commit). What it keeps is a `MemoryStore`, which stands for the server: several
clients may share one. Its methods are coroutines, but only `subscribe` ever waits, so a simulator may drive them without an
event loop. Never does I/O, never reads a clock and never outlives its process. The statements stand in the same order as in
functions/*.lua; tests/conformance/ledger holds both against one suite. Called by tests, fakes and the simulator, through the
contract in ledger.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from perdure.ledger.chat import CHAT_CHANNEL, CHAT_PAGE, ChatLine, ChatPage, SayStatus
from perdure.ledger.generations import generation_above, moves_floor, sessions_floor
from perdure.ledger.ledger import (
    CHECKPOINTS_KEPT,
    EPOCH_RESEED_STEP,
    EVICTED_REMEMBERED,
    INBOX_LIMIT_ENTRIES,
    ORDERS_LIMIT,
    RESUME_MS,
    ROUTES_CHANNEL,
    SUSPECT_CHANNEL,
    Ledger,
    LedgerAhead,
    LedgerRefused,
    LedgerUnavailable,
    gateway_channel,
)
from perdure.ledger.memory_commit import commit_one
from perdure.ledger.memory_reseed import deliver_again, restore_player, without_known
from perdure.ledger.memory_store import MemoryStore, PutBack, StoredCheckpoint, StoredHead, StoredPlayer, StoredZone, Subscription
from perdure.ledger.record import blob_digest
from perdure.ledger.values import (
    ClusterView,
    Commit,
    CommitAnswer,
    CommitStatus,
    EnterAnswer,
    EnterRequest,
    EnterStatus,
    HeartbeatAnswer,
    Leadership,
    LobbyRecord,
    LoggedRecord,
    Member,
    Order,
    Presence,
    Reseed,
    Restated,
    Waiting,
    WorldSettings,
    ZoneHead,
    ZoneRoute,
)
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import LOBBY, key_hex, player_key


class MemoryLedger(Ledger):
    """One client of a MemoryStore. Not thread-safe."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store if store is not None else MemoryStore()
        self._subscriptions: list[Subscription] = []
        self._routes: dict[int, ZoneRoute] = {}

    # --- world ----------------------------------------------------------------------------------------------------

    async def init_world(self, world: WorldSettings) -> WorldSettings:
        data = self.store.data
        if data.world is None:
            data.world = world
        return data.world

    async def world(self) -> WorldSettings | None:
        return self.store.data.world

    # --- a zone's log ---------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> list[CommitAnswer]:
        return [commit_one(self.store, commit) for commit in commits]

    async def zone_head(self, zone: int) -> ZoneHead:
        found = self.store.data.zones.get(zone) or StoredZone()
        head = found.head or StoredHead(0, 0)
        checkpoints = tuple((kept.tick, kept.digest) for kept in found.checkpoints)
        owner = found.owner or ""
        return ZoneHead(zone, head.generation, head.epoch, owner, head.tick, head.digest, checkpoints, len(found.inbox))

    async def read_log(self, zone: int, first_tick: int, limit: int = 1000) -> list[LoggedRecord]:
        found = self.store.data.zones.get(zone)
        if found is None or limit <= 0:
            return []
        return [found.log[tick] for tick in sorted(found.log) if tick >= first_tick][:limit]

    async def read_inbox(self, zone: int) -> list[bytes]:
        found = self.store.data.zones.get(zone)
        return list(found.inbox) if found else []

    async def waiting(self, zones: Sequence[int]) -> Waiting:
        kept = self.store.data.zones
        return Waiting(frozenset(zone for zone in zones if zone in kept and kept[zone].inbox), self.store.run_id)

    async def put_checkpoint(self, zone: int, tick: int, epoch: int, blob: bytes) -> None:
        found = self.store.data.zone(zone)
        named = {(checkpoint.tick, checkpoint.epoch) for checkpoint in found.checkpoints}
        for stray in [at for at in found.blobs if at[1] == epoch and at[0] < tick and at not in named]:
            del found.blobs[stray]
        found.blobs[(tick, epoch)] = bytes(blob)

    async def flip_checkpoint(self, zone: int, generation: int, epoch: int, tick: int, digest: str) -> CommitStatus:
        found = self.store.data.zones.get(zone)
        head = found.head if found else None
        if found is None or head is None:
            return CommitStatus.GAP
        if (head.generation, head.epoch) != (generation, epoch):
            newer = (head.generation, head.epoch) > (generation, epoch)
            early = self.store.put_back_too_early(zone, (generation, epoch))
            return CommitStatus.FENCED if newer and not early else CommitStatus.GAP
        blob = found.blobs.get((tick, epoch))
        if blob is None or blob_digest(blob) != digest:
            return CommitStatus.BROKEN
        newest = found.checkpoints[0] if found.checkpoints else None
        if tick > head.tick or (newest is not None and tick < newest.tick):
            return CommitStatus.GAP
        older = found.checkpoints[1:] if newest is not None and newest.tick == tick else found.checkpoints
        found.checkpoints = [StoredCheckpoint(tick, epoch, digest), *older][:CHECKPOINTS_KEPT]
        kept = {(checkpoint.tick, checkpoint.epoch) for checkpoint in found.checkpoints}
        for at in [at for at in found.blobs if at not in kept and (at[1] < epoch or at[0] <= tick)]:
            del found.blobs[at]
        if len(found.checkpoints) == CHECKPOINTS_KEPT:
            oldest = found.checkpoints[-1].tick
            for trimmed in [logged for logged in found.log if logged < oldest]:
                del found.log[trimmed]
        if found.ready:
            found.image = tick
            if tick == head.tick:
                self._raise_version()
        return CommitStatus.OK

    async def read_checkpoint(self, zone: int, tick: int) -> bytes | None:
        found = self.store.data.zones.get(zone)
        for checkpoint in found.checkpoints if found else ():
            if found and checkpoint.tick == tick:
                return found.blobs.get((checkpoint.tick, checkpoint.epoch))
        return None

    async def reseed(self, seed: Reseed) -> ZoneHead:
        data = self.store.data
        head = (data.zones.get(seed.zone) or StoredZone()).head or StoredHead(0, 0)
        owner = (seed.generation, seed.epoch)
        before, early = self.store.put_back_by(seed.zone), self.store.put_back_too_early(seed.zone, owner)
        at = before.at if before is not None and before.by < owner else head.tick
        another = (head.generation, head.epoch, head.tick) == (*owner, seed.tick) and head.digest != seed.digest
        if not early and (another or (head.generation, head.epoch, head.tick) > (*owner, seed.tick)):
            raise LedgerAhead(
                f"zone {seed.zone} is at generation {head.generation}, epoch {head.epoch}, tick {head.tick} in the ledger, "
                f"ahead of {seed.generation}, {seed.epoch}, {seed.tick}: drop it and load it from there"
            )
        found = data.zone(seed.zone)
        new = StoredHead(seed.generation + 1, max(head.epoch, seed.epoch) + EPOCH_RESEED_STEP, seed.tick, seed.digest)
        found.head = new
        found.owner, found.successor, found.ready, found.image = seed.owner, "", False, -1
        found.log.clear()
        found.blobs = {(seed.tick, new.epoch): bytes(seed.blob)}
        found.checkpoints = [StoredCheckpoint(seed.tick, new.epoch, seed.blob_digest)]
        data.generation = max(data.generation, new.generation, generation_above(seed.highest))
        first = before.first if before is not None else (new.generation, new.epoch)
        data.restored[seed.zone] = PutBack(self.store.run_id, owner, at, first)
        found.inbox = without_known(found.inbox, seed)
        for player in seed.players:
            restore_player(self.store, seed.zone, player)
        for sent in seed.sent:
            if sent.tick > at:
                deliver_again(self.store, seed.zone, sent.transfer)
        self._raise_version()
        return await self.zone_head(seed.zone)

    async def open_world(self, term: int, generation: int = 0) -> int:
        data = self.store.data
        self._check_term(term)
        if data.opened_for != self.store.run_id:
            data.generation = max(data.generation + (1 if data.opened_for else 0), generation)
            data.opened_for = self.store.run_id
            self._raise_version()
        return data.generation

    # --- players --------------------------------------------------------------------------------------------------

    async def enter(self, request: EnterRequest) -> EnterAnswer:
        self._check_open()
        data = self.store.data
        player = data.players.get(request.player)
        if player is not None and player.name not in ("", request.name):
            return EnterAnswer(EnterStatus.NAME_CLASH, detail=f"{player.name} has the same key as {request.name}")
        if request.resume_presented:
            if player is None or player.resume != request.resume_presented:
                return EnterAnswer(EnterStatus.BAD_RESUME, detail="the resume token was used before, or never given")
            if player.place == LOBBY and request.now_ms - player.since_ms > RESUME_MS:
                return EnterAnswer(EnterStatus.BAD_RESUME, detail="the resume token is too old")
        known = player or StoredPlayer(request.name)
        joins = known.place == LOBBY
        place = (known.home if known.home >= 0 else request.spawn_zone) if joins else known.place
        waiting = len(data.zones[place].inbox) if place in data.zones else 0
        if waiting >= INBOX_LIMIT_ENTRIES:
            raise LedgerRefused(f"the inbox of zone {place} is full ({INBOX_LIMIT_ENTRIES} entries): nobody runs the zone")
        old_gateway, old_slot, known.name = known.gateway, known.slot, request.name
        data.players[request.player] = known
        known.session = max(known.session, sessions_floor(data.generation)) + 1
        known.place, known.gateway, known.slot, known.resume = place, request.gateway, request.slot, request.resume_issued
        if joins:
            known.since_ms = request.now_ms
            known.moves = max(known.moves, moves_floor(data.generation)) + 1
        entry = Entry(
            EntryKind.JOIN if joins else EntryKind.ATTACH,
            request.player,
            known.session,
            request.gateway,
            request.slot,
            hop=known.moves if joins else 0,
            last_seq=known.seq if joins else 0,
            payload=known.saved if joins else b"",
        )
        data.zone(place).inbox.append(entry.pack())
        self.store.announce("enter" if joins else "attach", request.player, known)
        if old_gateway >= 0:
            self.store.publish(gateway_channel(old_gateway), str(old_slot))
        return EnterAnswer(EnterStatus.OK, known.session, place, old_gateway, old_slot)

    async def restate(self, gateway: int, sessions: Sequence[Restated], keep: Sequence[int] = (), now_ms: int = 0) -> list[bool]:
        self._check_open()
        data = self.store.data
        known = []
        for said in sessions:
            record = data.players.get(said.player)
            theirs = None if record is None else (record.session, record.gateway, record.slot)
            known.append(theirs == (said.session, gateway, said.slot))
            if record is None or not known[-1]:
                continue
            if (record.name and record.resume and record.since_ms) or (record.name not in ("", said.name)):
                continue
            record.name, record.resume = said.name, record.resume or said.resume
            record.since_ms = record.since_ms or now_ms
            self.store.announce("restore", said.player, record)
        named = {said.player for said in sessions} | set(keep)
        for key, record in sorted(data.players.items(), key=lambda item: key_hex(item[0])):
            if record.gateway == gateway and key not in named:
                await self.detach(key, record.session)
        return known

    async def detach(self, player: int, session: int) -> bool:
        self._check_open()
        known = self.store.data.players.get(player)
        if known is None or known.session != session or known.place == LOBBY:
            return False
        if known.gateway < 0:
            return True
        known.gateway, known.slot = -1, -1
        self.store.data.zone(known.place).inbox.append(Entry(EntryKind.DETACH, player, session).pack())
        self.store.announce("detach", player, known)
        return True

    async def leave(self, player: int, session: int, kick: bool = False) -> bool:
        self._check_open()
        known = self.store.data.players.get(player)
        if known is None or known.place == LOBBY or (known.session != session and not (kick and session == -1)):
            return False
        kind = EntryKind.KICK if kick else EntryKind.LEAVE
        known.resume = "-"  # no hash; and unlike "", no gateway says it again
        self.store.data.zone(known.place).inbox.append(Entry(kind, player, known.session).pack())
        return True

    async def gateway_lost(self, term: int, gateway: int) -> None:
        data = self.store.data
        self._check_decided(term)
        for zone in data.zones.values():
            if zone.owner is not None:
                zone.inbox.append(Entry(EntryKind.GATEWAY_LOST, gateway=gateway).pack())
        for key, player in sorted(data.players.items(), key=lambda item: key_hex(item[0])):
            if player.gateway == gateway:
                player.gateway, player.slot = -1, -1
                self.store.announce("detach", key, player)

    async def player(self, player: int) -> LobbyRecord | None:
        known = self.store.data.players.get(player)
        if known is None:
            return None
        return LobbyRecord(_presence(player, known), known.saved, known.home, known.moves, known.resume, known.seq)

    async def online(self, zone: int | None = None) -> list[Presence]:
        players = self.store.data.players.items()
        here = [_presence(key, known) for key, known in players if known.place >= 0 and zone in (None, known.place)]
        return sorted(here, key=lambda presence: (presence.name, presence.player))

    async def names(self, players: Sequence[int]) -> dict[int, str]:
        known = self.store.data.players
        return {key: known[key].name for key in players if key in known and known[key].place >= 0}

    # --- chat -----------------------------------------------------------------------------------------------------

    async def say(self, player: int, session: int, to: str, text: str) -> SayStatus:
        self._check_open()
        data = self.store.data
        speaker = data.players.get(player)
        if speaker is None or speaker.session != session or speaker.place == LOBBY:
            return SayStatus.NOT_HERE
        if to:
            other = data.players.get(player_key(to))
            if other is None or other.place == LOBBY or other.name != to:
                return SayStatus.OFFLINE
        number = data.chat[-1][0] + 1 if data.chat else 1
        data.chat.append((number, ChatLine(speaker.name, to, speaker.place, text)))
        self.store.publish(CHAT_CHANNEL, str(speaker.place))
        return SayStatus.OK

    async def chat(self, after: str) -> ChatPage:
        lines = self.store.data.chat
        last = lines[-1][0] if lines else 0
        if not after or last <= int(after):
            return ChatPage(str(last))
        page = [row for row in lines if row[0] > int(after)][:CHAT_PAGE]
        return ChatPage(str(page[-1][0]), tuple(line for _, line in page))

    # --- membership and assignment --------------------------------------------------------------------------------

    async def heartbeat(self, member: Member, known: bool = False, taken: Sequence[int] = ()) -> HeartbeatAnswer:
        data = self.store.data
        if (member.name, member.number) in data.evicted:
            return HeartbeatAnswer(False, data.version, detail=f"{member.name} ({member.number}) was evicted or has left")
        held = data.members.get(member.name)
        if held is not None and held.number != member.number and known and data.opened_for != self.store.run_id:
            held = None  # of the two this server has the older: it went back
        if held is not None and held.number != member.number:
            detail = f"{member.name} is held by number {held.number}: wait until its lease is over, or take another name"
            return HeartbeatAnswer(False, data.version, detail=detail)
        data.members[member.name] = replace(member, info=json.loads(json.dumps(member.info)))
        if held is None:
            data.suspects.pop(member.name, None)
            data.orders.pop(member.name, None)
        if held is None or (held.kind, held.address, held.info.get("state")) != (member.kind, member.address, member.info.get("state")):
            self._raise_version()
        waiting = [order for order in data.orders.pop(member.name, []) if order.number not in taken]
        if waiting:
            data.orders[member.name] = waiting
        return HeartbeatAnswer(True, data.version, tuple(waiting))

    async def view(self) -> ClusterView:
        data = self.store.data
        zones: dict[int, ZoneRoute] = {}
        ticks: dict[int, int] = {}
        for number, zone in sorted(data.zones.items()):
            if zone.owner is not None and zone.head is not None:
                zones[number] = ZoneRoute(number, zone.owner, zone.head.generation, zone.head.epoch, zone.successor, zone.ready, zone.image)
                ticks[number] = zone.head.tick
        if zones != self._routes:
            self._routes = zones
        return ClusterView(
            data.version,
            data.term,
            data.leader,
            data.generation,
            self._routes,
            dict(sorted(data.members.items())),
            dict(data.suspects),
            ticks,
            frozenset(data.draining),
            self.store.run_id,
            data.opened_for == self.store.run_id,
        )

    async def routes_version(self) -> int:
        return self.store.data.version

    async def elect(self, candidate: str, term: int = 0, silent: int = -1) -> Leadership:
        data = self.store.data
        if data.leader not in ("", candidate) and data.beat != silent:
            return Leadership(False, data.term, data.leader, data.beat)
        if data.leader != candidate or data.term != term:
            data.term += 1
        data.beat += 1
        data.leader = candidate
        return Leadership(True, data.term, candidate, data.beat)

    async def resign(self, candidate: str) -> None:
        if self.store.data.leader == candidate:
            self.store.data.leader = ""

    async def assign(self, term: int, zone: int, shard: str, expected_epoch: int, at_checkpoint: bool = False) -> int:
        data = self.store.data
        self._check_decided(term)
        found = data.zones.get(zone)
        head = found.head if found else None
        epoch = head.epoch if head else 0
        if epoch != expected_epoch:
            raise LedgerRefused(f"zone {zone} is at epoch {epoch}, not {expected_epoch}: read the view anew")
        found = data.zone(zone)
        newest = found.checkpoints[0].tick if found.checkpoints else 0
        if at_checkpoint and head is not None and newest != head.tick:
            raise LedgerRefused(f"zone {zone} stands at tick {head.tick}, its checkpoint at {newest}: its owner has not handed it over")
        if head is None:
            found.head = StoredHead(data.generation, 1)
        else:
            head.generation, head.epoch = max(head.generation, data.generation), head.epoch + 1
        found.owner, found.successor, found.ready, found.image = shard, "", False, -1
        self._raise_version()
        return epoch + 1

    async def intend(self, term: int, zone: int, successor: str) -> None:
        self._check_term(term)
        found = self.store.data.zones.get(zone)
        if found is None or found.owner is None:
            raise LedgerRefused(f"zone {zone} was never assigned: assign it first")
        if found.successor != successor:
            found.successor, found.ready, found.image = successor, False, -1
            self._raise_version()

    async def successor_ready(self, zone: int, shard: str) -> None:
        found = self.store.data.zones.get(zone)
        if shard and found is not None and found.successor == shard and not found.ready:
            found.ready = True
            self._raise_version()

    async def suspect(self, member: str, number: int, reporter: str) -> None:
        data = self.store.data
        held = data.members.get(member)
        if held is not None and held.number == number:
            data.suspects[member] = data.suspects.get(member, 0) + 1
            self.store.publish(SUSPECT_CHANNEL, f"{member} {number} {reporter}")

    async def evict(self, term: int, member: str, number: int) -> None:
        self._check_decided(term)
        self._remove(member, number)

    async def depart(self, member: str, number: int) -> None:
        self._remove(member, number)

    async def set_draining(self, member: str, draining: bool) -> None:
        data = self.store.data
        if member not in data.members:
            raise LedgerRefused(f"no member is called {member}: see the view")
        if draining != (member in data.draining):
            if draining:
                data.draining.add(member)
            else:
                data.draining.discard(member)
            self._raise_version()

    async def order(self, member: str, order: str) -> None:
        data = self.store.data
        if member not in data.members:
            raise LedgerRefused(f"no member is called {member}: see the view")
        waiting = data.orders.setdefault(member, [])
        if len(waiting) >= ORDERS_LIMIT:
            raise LedgerRefused(f"{ORDERS_LIMIT} orders wait for {member} already: it does not beat")
        data.orders_given += 1
        waiting.append(Order(data.orders_given, order))

    # --- hints ----------------------------------------------------------------------------------------------------

    def subscribe(self, *channels: str) -> AsyncIterator[tuple[str, bytes]]:
        subscription = Subscription(frozenset(channels), deque(), asyncio.Event())
        subscription.resync()
        self.store.subscriptions.append(subscription)
        self._subscriptions.append(subscription)
        return self._hints(subscription)

    async def _hints(self, subscription: Subscription) -> AsyncIterator[tuple[str, bytes]]:
        try:
            while not subscription.closed:
                while subscription.waiting:
                    yield subscription.waiting.popleft()
                subscription.wake.clear()
                if not subscription.closed:
                    await subscription.wake.wait()
        finally:
            self._forget(subscription)

    async def close(self) -> None:
        """End this client's subscriptions; the store and its other clients go on."""
        for subscription in list(self._subscriptions):
            subscription.closed = True
            subscription.wake.set()
            self._forget(subscription)

    # --- within ---------------------------------------------------------------------------------------------------

    def _forget(self, subscription: Subscription) -> None:
        for where in (self.store.subscriptions, self._subscriptions):
            if subscription in where:
                where.remove(subscription)

    def _check_open(self) -> None:
        if self.store.data.opened_for != self.store.run_id:
            raise LedgerUnavailable("the world is not open: a coordinator opens it a moment after the ledger's server began")

    def _check_term(self, term: int) -> None:
        if term != self.store.data.term:
            raise LedgerRefused(f"term {term} is over, it is {self.store.data.term} now: stand for election anew")

    def _check_decided(self, term: int) -> None:
        self._check_term(term)
        if self.store.data.opened_for != self.store.run_id:
            raise LedgerRefused("the world is not open: whoever runs zones has first to say how far they are")

    def _raise_version(self) -> None:
        self.store.data.version += 1
        self.store.publish(ROUTES_CHANNEL, str(self.store.data.version))

    def _remove(self, member: str, number: int) -> None:
        data = self.store.data
        held = data.members.get(member)
        if held is None or held.number != number:
            return
        del data.members[member]
        data.suspects.pop(member, None)
        data.draining.discard(member)
        data.orders.pop(member, None)
        self._raise_version()
        data.evicted[(member, number)] = None
        while len(data.evicted) > EVICTED_REMEMBERED:
            del data.evicted[next(iter(data.evicted))]


def _presence(key: int, player: StoredPlayer) -> Presence:
    return Presence(key, player.name, player.place, player.gateway, player.slot, player.session, player.since_ms)
