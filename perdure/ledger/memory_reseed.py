"""What the ledger in memory takes from an owner who knows better: the twin of functions/reseed.lua.

Owns how a statement about a player is weighed against the player's record: the one with the higher number of moves holds
(docs/decisions/0012-a-ledger-that-forgot-is-told.md). Never keeps anything (memory_store does). Called by memory_ledger.
"""

from __future__ import annotations

from perdure.ledger.memory_commit import CARRIERS, hop_of
from perdure.ledger.memory_store import MemoryStore, StoredPlayer
from perdure.ledger.values import PlayerInZone, Reseed, Transfer
from perdure.wire.entries import ENTRY_HEADER, Entry, EntryKind, unpack_entry
from perdure.wire.identifiers import LOBBY


def without_known(inbox: list[bytes], seed: Reseed) -> list[bytes]:
    """Return an inbox without the arrivals of players that the zone has seen at that number or a later one."""
    known = {sent.transfer.player: hop_of(sent.transfer.entry) for sent in seed.sent if sent.transfer.player}
    for player in seed.players:
        known[player.player] = max(player.hop, known.get(player.player, -1))

    def is_known(entry: bytes) -> bool:
        if len(entry) < ENTRY_HEADER or entry[0] not in CARRIERS:
            return False
        player = int.from_bytes(entry[8:16], "little", signed=True)
        return player != 0 and hop_of(entry) <= known.get(player, -1)

    return [entry for entry in inbox if not is_known(entry)]


def restore_player(store: MemoryStore, zone: int, stated: PlayerInZone) -> None:
    """Bring a player's record in line with the zone that it is in; where it has moved further, the zone hears of that instead."""
    data = store.data
    record = data.players.get(stated.player, StoredPlayer(""))
    # As far, to another zone: two histories that came to the same number. The one that the record tells is lived in now.
    if record.moves > stated.hop or (record.moves == stated.hop and record.place not in (LOBBY, zone)):
        _leave_no_copy(store, zone, {record.place}, stated.player, record.moves)
        return
    data.players[stated.player] = record
    if record.session < stated.session:
        attached = stated.gateway > 0
        record.session, record.resume = stated.session, ""
        record.gateway, record.slot = (stated.gateway, stated.slot) if attached else (-1, -1)
    elif record.session > stated.session or (record.gateway < 0 and stated.gateway > 0):
        _attach_again(store, zone, stated.player, record)
    elif record.gateway >= 0 and stated.gateway == 0:
        record.gateway, record.slot = -1, -1
    _leave_no_copy(store, record.place, {zone}, stated.player, stated.hop)
    record.place, record.moves = zone, stated.hop
    store.announce("restore", stated.player, record)


def deliver_again(store: MemoryStore, zone: int, transfer: Transfer) -> None:
    """Deliver a transfer that the ledger forgot, unless its player has moved as far, by what others said."""
    data = store.data
    if transfer.player == 0:
        data.zone(transfer.target).inbox.append(transfer.entry)
        return
    entry = unpack_entry(transfer.entry)
    record = data.players.get(transfer.player, StoredPlayer(""))
    if record.moves >= entry.hop:
        return
    data.players[transfer.player] = record
    record.moves = entry.hop
    _leave_no_copy(store, record.place, {zone, transfer.target}, transfer.player, entry.hop)
    if transfer.target == LOBBY:
        record.saved, record.seq, record.home = transfer.entry[ENTRY_HEADER:], entry.last_seq, zone
        if record.session > entry.session and record.gateway >= 0:  # somebody has looked for the player here since
            record.place, record.moves = zone, entry.hop + 1
            at = record.session, record.gateway, record.slot, record.moves, record.seq
            data.zone(zone).inbox.append(Entry(EntryKind.JOIN, transfer.player, *at, payload=record.saved).pack())
            store.announce("restore", transfer.player, record)
            return
        record.session, record.resume = max(record.session, entry.session), ""
        record.place, record.gateway, record.slot = LOBBY, -1, -1
        store.announce("leave", transfer.player, record)
        return
    record.place = transfer.target
    data.zone(transfer.target).inbox.append(transfer.entry)
    if record.session < entry.session:
        record.session, record.resume = entry.session, ""
        record.gateway, record.slot = (entry.gateway, entry.slot) if entry.gateway > 0 else (-1, -1)
    elif record.session > entry.session or (record.gateway < 0 and entry.gateway > 0):
        _attach_again(store, transfer.target, transfer.player, record)
    store.announce("restore", transfer.player, record)


def _leave_no_copy(store: MemoryStore, old: int, knowing: set[int], player: int, hop: int) -> None:
    """Tell a zone that a player is elsewhere: whoever runs it from older data, or puts it back late, has a copy."""
    if old != LOBBY and old not in knowing:
        store.data.zone(old).inbox.append(Entry(EntryKind.MOVED, player, hop=hop).pack())


def _attach_again(store: MemoryStore, zone: int, player: int, record: StoredPlayer) -> None:
    """Tell a zone of a session that is newer than the one it knows, or that its socket is gone."""
    inbox = store.data.zone(zone).inbox
    inbox.append(Entry(EntryKind.ATTACH, player, record.session, max(record.gateway, 0), max(record.slot, 0)).pack())
    if record.gateway < 0:
        inbox.append(Entry(EntryKind.DETACH, player, record.session).pack())
