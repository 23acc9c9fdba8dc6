"""The commit of the ledger in memory: the twin of functions/commit.lua, whose statements stand in the same order.

Owns what one commit does to the log, the inboxes and the places of players. Never keeps anything (that is memory_store's) and
never waits: a commit happens as a whole or not at all. Called by memory_ledger.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from perdure.ledger.ledger import INBOX_PAGE_BYTES, INBOX_PAGE_ENTRIES
from perdure.ledger.memory_store import MemoryStore, StoredHead, StoredPlayer, StoredZone
from perdure.ledger.values import Commit, CommitAnswer, CommitStatus, LoggedRecord, Transfer
from perdure.wire.entries import ENTRY_HEADER, HOP_AT, SEQ_AT, Entry, EntryKind
from perdure.wire.identifiers import LOBBY, key_hex

_PLAYER = struct.Struct("<q")
_U32 = struct.Struct("<I")
_ADDRESSED = frozenset((EntryKind.ATTACH, EntryKind.DETACH, EntryKind.LEAVE, EntryKind.KICK))
CARRIERS = frozenset((EntryKind.JOIN, EntryKind.ARRIVE))


def hop_of(entry: bytes) -> int:
    """Return the number of the move that an entry brings about; 0 where it is too short to have one."""
    return int.from_bytes(entry[HOP_AT : HOP_AT + 4], "little")


def seq_of(entry: bytes) -> int:
    """Return the number of the last command that was applied of the player whom an entry carries; 0 where it is too short to have one."""
    return int.from_bytes(entry[SEQ_AT:ENTRY_HEADER], "little") if len(entry) >= ENTRY_HEADER else 0


@dataclass(slots=True)
class _Mover:
    """A player whom a commit moves out of its zone, and what follows it out of that zone's inbox."""

    transfer: Transfer
    record: StoredPlayer
    session: bytes
    gateway: bytes
    follow: list[bytes] = field(default_factory=list)
    rejoined: bool = False


def commit_one(store: MemoryStore, commit: Commit) -> CommitAnswer:
    """Append one record to its zone's log and deliver its transfers, or say why not and change nothing."""
    data = store.data
    zone = data.zones.get(commit.zone)
    head = zone.head if zone else None
    if zone is None or head is None or not _follows(head, commit):
        return _not_next(store, zone, head, commit)

    movers: dict[bytes, _Mover] = {}
    for transfer in commit.transfers:
        if transfer.player == 0:
            if transfer.target == LOBBY:
                return CommitAnswer(CommitStatus.BROKEN, detail="a transfer without a player cannot go to the lobby")
            continue
        raw = _PLAYER.pack(transfer.player)
        record = data.players.get(transfer.player)
        if record is not None and hop_of(transfer.entry) <= record.moves:
            continue
        if record is None or record.place != commit.zone or raw in movers:
            return CommitAnswer(CommitStatus.BROKEN, detail=f"player {key_hex(transfer.player)} is not in zone {commit.zone}")
        movers[raw] = _Mover(transfer, record, transfer.entry[4:8], transfer.entry[16:20])
    inbox = zone.inbox
    if movers and inbox:
        kept = _follow_movers(inbox, movers)
        if kept is None:
            return CommitAnswer(CommitStatus.BROKEN, detail=f"a player of a transfer is still in the inbox of zone {commit.zone}")
        inbox = kept

    page = _page(inbox)
    zone.log[commit.tick] = LoggedRecord(commit.tick, commit.digest, commit.record, page)
    head.tick, head.digest = commit.tick, commit.digest
    zone.inbox = inbox[len(page) :]
    for transfer in commit.transfers:
        if transfer.player == 0:
            data.zone(transfer.target).inbox.append(transfer.entry)
        elif _PLAYER.pack(transfer.player) in movers:
            _move(store, movers[_PLAYER.pack(transfer.player)], commit.zone)
    return CommitAnswer(CommitStatus.OK, page)


def _move(store: MemoryStore, mover: _Mover, zone: int) -> None:
    data, transfer, player = store.data, mover.transfer, mover.record
    player.moves = hop_of(transfer.entry)
    if transfer.target == LOBBY:
        player.saved, player.seq, player.home = transfer.entry[ENTRY_HEADER:], seq_of(transfer.entry), zone
        if mover.rejoined:
            player.moves += 1
            return
        player.place, player.gateway, player.slot = LOBBY, -1, -1
        store.announce("leave", transfer.player, player)
        return
    inbox = data.zone(transfer.target).inbox
    inbox.append(transfer.entry)
    inbox.extend(mover.follow)
    if transfer.target != zone:
        player.place = transfer.target
        store.announce("move", transfer.player, player)


def _follows(head: StoredHead, commit: Commit) -> bool:
    return (head.generation, head.epoch, head.tick, head.digest) == (commit.generation, commit.epoch, commit.tick - 1, commit.previous)


def _not_next(store: MemoryStore, zone: StoredZone | None, head: StoredHead | None, commit: Commit) -> CommitAnswer:
    """Return why a commit does not append to the head: a resend, a newer owner, or a ledger that went back in time."""
    if zone is None or head is None:
        return CommitAnswer(CommitStatus.GAP, detail=f"the ledger does not know zone {commit.zone}")
    mine, theirs = (head.generation, head.epoch), (commit.generation, commit.epoch)
    if mine != theirs:
        detail = f"zone {commit.zone} is at generation {mine[0]}, epoch {mine[1]}, not {theirs[0]}, {theirs[1]}"
        if mine > theirs and store.put_back_too_early(commit.zone, theirs):
            return CommitAnswer(CommitStatus.GAP, detail=f"{detail}; an earlier owner has put it back")
        return CommitAnswer(CommitStatus.FENCED if mine > theirs else CommitStatus.GAP, detail=detail)
    if head.tick == commit.tick and head.digest == commit.digest and commit.tick in zone.log:
        return CommitAnswer(CommitStatus.OK, zone.log[commit.tick].page)
    if head.tick > commit.tick or (head.tick == commit.tick and head.digest != commit.digest):
        return CommitAnswer(
            CommitStatus.FENCED,
            detail=f"zone {commit.zone} stands at tick {head.tick} ({head.digest}): another process goes by the name of its owner",
        )
    return CommitAnswer(
        CommitStatus.GAP, detail=f"zone {commit.zone} stands at tick {head.tick} ({head.digest}), not {commit.tick - 1} ({commit.previous})"
    )


def _page(inbox: list[bytes]) -> tuple[bytes, ...]:
    """Return the first entries of an inbox that fit a page; one fits always."""
    taken = total = 0
    for entry in inbox[:INBOX_PAGE_ENTRIES]:
        total += len(entry)
        if taken and total > INBOX_PAGE_BYTES:
            break
        taken += 1
    return tuple(inbox[:taken])


def _follow_movers(inbox: list[bytes], movers: dict[bytes, _Mover]) -> list[bytes] | None:
    """Return what stays in the inbox when `movers` leave; what is addressed to them goes into their `follow`.

    Without this an ATTACH that waits for a player who crosses a border in the same tick would be lost. One who goes to the
    lobby while an ATTACH waits is joined anew by it. None where a mover has not even been taken in from this inbox.
    """
    kept: list[bytes] = []
    for entry in inbox:
        kind = entry[0] if len(entry) >= ENTRY_HEADER else 0
        mover = movers.get(entry[8:16]) if kind else None
        if kind == EntryKind.GATEWAY_LOST:
            for raw, leaver in movers.items():
                if leaver.transfer.target != LOBBY and leaver.gateway == entry[16:20]:
                    (player,), (session,) = _PLAYER.unpack(raw), _U32.unpack(leaver.session)
                    leaver.follow.append(Entry(EntryKind.DETACH, player, session).pack())
            kept.append(entry)
        elif mover is None:
            kept.append(entry)
        elif kind in CARRIERS:
            return None
        elif kind not in _ADDRESSED:
            kept.append(entry)
        elif mover.transfer.target != LOBBY:
            mover.follow.append(entry)
            if kind == EntryKind.ATTACH:
                mover.session, mover.gateway = entry[4:8], entry[16:20]
        elif mover.rejoined:
            kept.append(entry)
        elif kind == EntryKind.ATTACH:
            mover.rejoined = True
            hop = _U32.pack(hop_of(mover.transfer.entry) + 1)
            kept.append(bytes((EntryKind.JOIN,)) + entry[1:HOP_AT] + hop + mover.transfer.entry[SEQ_AT:])
    return kept
