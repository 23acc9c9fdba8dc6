"""Kernels that turn a zone's state into the bytes that each player is sent: handles, grid, interest, deltas, websocket frames.

An entity is encoded once a tick (its enter record and its update record); a viewer's frame copies those bytes. The baseline of an
update is the newest snapshot that told every viewer all that it sees (ENC_BASELINE): the one before, as a rule, since a frame that
was not sent is followed by a keyframe. Under load far entities are left out of some snapshots; updates then tell what has changed since
the last one that held all, so a viewer may miss any in between, and near ones tell a little twice. Generated code (shard.program)
fills the flat arrays; everything here knows no game. Naive twins: tests/conformance/kernels.

Places in arrays that hot loops ask for are cast to np.uint64: with a signed one compiled code looks whether it counts from the end, for
each access, and bytes that stand side by side are not stored as one word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perdure.game.jit import kernel, part_of_program
from shard.kernels.layout import (
    ENC_BASELINE,
    ENC_COLUMNS,
    ENC_ENTER_STRIDE,
    ENC_ENTERS,
    ENC_EPOCH,
    ENC_EVENT_STRIDE,
    ENC_EVENTS,
    ENC_FLAT,
    ENC_GROUPS,
    ENC_HANDLE_FAILED,
    ENC_LEAVES,
    ENC_MAP_LIVE,
    ENC_MAP_MASK,
    ENC_NEXT_VIEWER,
    ENC_OUT_USED,
    ENC_OWN_EVENTS,
    ENC_OWNER_STRIDE,
    ENC_RING_COUNT,
    ENC_RING_HEAD,
    ENC_ROWS,
    ENC_UPDATE_STRIDE,
    ENC_UPDATES,
    ENC_VIEWERS,
    FLAG_GONE,
    FLAG_KEYFRAME,
    FLAG_MOVED,
    FRAME_HEADER_ROOM,
    LEAVING_COPY,
    SCRATCH_ENTERS,
    SCRATCH_LEAVES,
    SCRATCH_UPDATES,
    SCRATCH_VISIBLE,
    WORD,
)
from shard.kernels.put import copy_words, put_big, put_bytes, put_int, put_level, put_tagged
from shard.kernels.state import cut_at

_ENVELOPE = 64 + WORD
"""Bytes of a snapshot beside what its five byte strings hold, at most, and what a copy of their last record may write behind it."""
FAR_SHARE = 0.5
"""Beyond this share of the radius of interest an entity is far."""
_BIN16_BYTES, _BIN32_BYTES = 3, 5

# --- handles ------------------------------------------------------------------------------------------------------


FEWEST_PLACES = 64


@kernel
def entity_home(entity: Any, mask: Any) -> Any:
    return (entity ^ (entity >> 11) ^ (entity >> 32)) & mask


@kernel
def begin_handles(state: Any, mapped: Any, count: Any) -> None:
    """Clear the handle map that this tick will fill with at most `count` entities; the other one still holds the last tick's.

    As many places as these want: most zones hold a small part of what they could.
    """
    live = 1 - state[ENC_MAP_LIVE]
    state[ENC_MAP_LIVE] = live
    places = FEWEST_PLACES
    while places < 2 * count:
        places *= 2
    places = min(places, mapped.shape[1])
    state[ENC_MAP_MASK + live] = places - 1
    for k in range(places):
        mapped[live, k].entity = 0


@kernel
def handle_of(state: Any, mapped: Any, ring: Any, handles: Any, entity: Any, tick: Any) -> Any:
    """Return (handle, fresh) of an entity id; fresh where it had none. A handle of -1 means that all are in use, or that the entity
    has been given one in this tick already: its first row counts, and own rows come before ghosts.
    """
    live = state[ENC_MAP_LIVE]
    old = 1 - live
    mask, mask_of_old = state[ENC_MAP_MASK + live], state[ENC_MAP_MASK + old]
    place = entity_home(entity, mask)
    while mapped[live, place].entity != 0:
        if mapped[live, place].entity == entity:
            return np.int64(-1), False
        place = (place + 1) & mask
    at = entity_home(entity, mask_of_old)
    handle = np.int64(-1)
    while mapped[old, at].entity != 0:
        if mapped[old, at].entity == entity:
            handle = np.int64(mapped[old, at].handle)
            break
        at = (at + 1) & mask_of_old
    fresh = handle < 0
    if fresh:
        if state[ENC_RING_COUNT] == 0:
            state[ENC_HANDLE_FAILED] += 1
            return np.int64(-1), True
        handle = np.int64(ring[state[ENC_RING_HEAD]])
        state[ENC_RING_HEAD] = (state[ENC_RING_HEAD] + 1) % len(ring)
        state[ENC_RING_COUNT] -= 1
    mapped[live, place].entity = entity
    mapped[live, place].handle = handle
    handles[handle].stamp = tick
    return handle, fresh


@kernel
def end_handles(state: Any, mapped: Any, ring: Any, handles: Any, tick: Any) -> None:
    """Give back the handles of entities that are no more; the ring hands them out again as late as possible."""
    old = 1 - state[ENC_MAP_LIVE]
    for k in range(state[ENC_MAP_MASK + old] + 1):
        if mapped[old, k].entity != 0:
            handle = np.int64(mapped[old, k].handle)
            if handles[handle].stamp != tick:
                tail = (state[ENC_RING_HEAD] + state[ENC_RING_COUNT]) % len(ring)
                ring[tail] = handle
                state[ENC_RING_COUNT] += 1


# --- records ------------------------------------------------------------------------------------------------------


@kernel
def put_enter_header(data: Any, at: Any, handle: Any, kind: Any, entity: Any) -> Any:
    """Write handle u16, type u8 and the 48-bit id (schema.ENTER_HEADER); return the place behind."""
    at = put_level(data, at, handle, 2)
    data[at] = np.uint8(kind)
    return put_level(data, at + 1, entity, 6)


# --- grid ---------------------------------------------------------------------------------------------------------


@kernel
def _cell(x: Any, y: Any, x0: Any, y0: Any, size: Any, columns: Any, rows: Any) -> Any:
    return cut_at((y - y0) / size, rows) * columns + cut_at((x - x0) / size, columns)


@kernel
def sort_into_cells(state: Any, flat: Any, cell_start: Any, ordered: Any, x0: Any, y0: Any, size: Any) -> None:
    """Counting sort of the flat entities by cell; cells are `size` wide, so a radius of `size` touches 3x3 of them.

    Fills cell_start[cells + 1], `ordered` in cell order, and each flat entity's place there.
    """
    columns, rows, count = state[ENC_COLUMNS], state[ENC_ROWS], state[ENC_FLAT]
    for c in range(columns * rows + 1):
        cell_start[c] = 0
    for i in range(count):
        c = _cell(flat[i].x, flat[i].y, x0, y0, size, columns, rows)
        flat[i].cell = c
        cell_start[c + 1] += 1
    for c in range(columns * rows):
        cell_start[c + 1] += cell_start[c]
    for i in range(count):
        c = flat[i].cell
        at = cell_start[c]
        cell_start[c] = at + 1
        one = ordered[at]
        one.x = flat[i].x
        one.y = flat[i].y
        one.flat = i
        one.handle = flat[i].handle
        one.update_length = flat[i].update_length
        flat[i].sorted = at
    for c in range(columns * rows, 0, -1):
        cell_start[c] = cell_start[c - 1]
    cell_start[0] = 0


@kernel
def _near_in(ordered: Any, visible: Any, found: Any, first: Any, behind: Any, x: Any, y: Any, reach: Any) -> Any:
    """Add to `visible`, which has room for all of them, the places from `first` on that are near; return how many it has then.

    Without a branch: each place is written, and the next one over it where it is not near.
    """
    for k in range(np.int64(first), np.int64(behind)):
        one = ordered[np.uint64(k)]
        dx, dy = one.x - x, one.y - y
        visible[np.uint64(found)] = k
        found += np.int64(dx * dx + dy * dy <= reach)
    return found


@kernel
def visible_from(
    state: Any, cell_start: Any, ordered: Any, visible: Any, own: Any, x: Any, y: Any, radius: Any, x0: Any, y0: Any, size: Any
) -> Any:
    """Write into `visible` the places in `ordered` of what is within `radius` (<= size) of (x, y), in grid order; return how many.

    The viewer's own avatar (at place `own`, or -1) always comes first: it is in sight however crowded the place is.
    What does not fit is left out.
    """
    columns, rows = state[ENC_COLUMNS], state[ENC_ROWS]
    middle = _cell(x, y, x0, y0, size, columns, rows)
    column, row = middle % columns, middle // columns
    reach = radius * radius
    limit = len(visible)
    found = 0
    if own >= 0:
        visible[0] = own
        found = 1
    left, right = max(column - 1, 0), min(column + 1, columns - 1)
    for r in range(max(row - 1, 0), min(row + 2, rows)):
        first, behind = cell_start[r * columns + left], cell_start[r * columns + right + 1]
        if found + behind - first <= limit:
            after = np.int64(first)
            if first <= own < behind:  # it is in already: what stands before it, then what stands behind
                found = _near_in(ordered, visible, found, first, own, x, y, reach)
                after = own + 1
            found = _near_in(ordered, visible, found, after, behind, x, y, reach)
        else:
            for k in range(first, behind):
                dx, dy = ordered[k].x - x, ordered[k].y - y
                if dx * dx + dy * dy <= reach and found < limit and k != own:
                    visible[found] = k
                    found += 1
    return found


# --- frames -------------------------------------------------------------------------------------------------------


@kernel
def _is_within(dx: Any, dy: Any, reach: Any) -> Any:
    return dx * dx + dy * dy <= reach


@kernel
def compare(ordered: Any, mark: Any, view: Any, had: Any, scratch: Any, found: Any, x: Any, y: Any, near: Any) -> Any:
    """Sort what is visible into enters and updates, against the `had` handles in `view`; return (enters, updates, leaves).

    Updates of entities further from (x, y) than the root of `near` are left out; with `near` below 0, none is.

    scratch: int32[4, limit]: visible places of `ordered` in; enters and updates (places of `ordered`) and leaves (handles) out, and the
    visible handles instead of the places. `view` (uint16) receives what the viewer has now. Marks: 1 = the viewer has it, and it is not
    known to be visible; all 0 before and after.
    """
    enters, updates, leaves, kept = 0, 0, 0, 0
    for k in range(had):
        mark[view[np.uint64(k)]] = 1
    for k in range(found):
        place = scratch[SCRATCH_VISIBLE, np.uint64(k)]
        one = ordered[np.uint64(place)]
        handle, length = one.handle, one.update_length
        has = np.int64(mark[np.uint64(handle)])
        mark[np.uint64(handle)] = 0
        scratch[SCRATCH_VISIBLE, np.uint64(k)] = handle
        kept += has
        if has != 0 and length >= 0:
            if length > 0 and (near < 0.0 or _is_within(one.x - x, one.y - y, near)):
                scratch[SCRATCH_UPDATES, np.uint64(updates)] = place
                updates += 1
        else:
            scratch[SCRATCH_ENTERS, np.uint64(enters)] = place
            enters += 1
    if kept != had:  # marks are left, of what is out of sight
        for k in range(had):
            handle = np.int32(view[np.uint64(k)])
            if mark[np.uint64(handle)] != 0:
                scratch[SCRATCH_LEAVES, np.uint64(leaves)] = handle
                leaves += 1
                mark[np.uint64(handle)] = 0
    for k in range(found):
        view[np.uint64(k)] = scratch[SCRATCH_VISIBLE, np.uint64(k)]
    return enters, updates, leaves


@kernel
def _put_events(count: Any, stride: Any, events: Any, event_bytes: Any, out: Any, at: Any, x: Any, y: Any) -> Any:
    for k in range(count):
        dx, dy = events[k].x - x, events[k].y - y
        if dx * dx + dy * dy <= events[k].reach:
            at = put_bytes(out, at, event_bytes, k * stride, events[k].length)
    return at


@kernel
def _put_frame_header(out: Any, start: Any, end: Any) -> Any:
    """Write the websocket header (FIN, binary, unmasked) right ahead of [start, end); return where the frame begins."""
    length = end - start
    if length < 126:
        begin = start - 2
        out[begin + 1] = np.uint8(length)
    elif length < 65536:
        begin = start - 4
        out[begin + 1] = np.uint8(126)
        put_big(out, begin + 2, length, 2)
    else:
        begin = start - 10
        out[begin + 1] = np.uint8(127)
        put_big(out, begin + 2, length, 8)
    out[begin] = np.uint8(0x82)
    return begin


@part_of_program
def make_frames(e: Any, zone: Any, tick: Any, x0: Any, y0: Any, size: Any, radius: Any) -> None:
    """Make every viewer's frame, from e.state[ENC_NEXT_VIEWER] on, into e.out; stop where the next one might not fit.

    Viewers are in order of their gateway. Per viewer, e.entries gets slot, hop, ack, flags, offset (within its
    gateway's part) and length; e.groups gets one row per gateway.
    """
    out, state = e.out, e.state
    at = state[ENC_OUT_USED]
    viewer = state[ENC_NEXT_VIEWER]
    near = -1.0 if state[ENC_BASELINE] != 0 else (FAR_SHARE * radius) * (FAR_SHARE * radius)
    visible = e.scratch[SCRATCH_VISIBLE]
    while viewer < state[ENC_VIEWERS]:
        who = e.viewers[viewer]
        place = who.place
        own = np.int64(e.sights[place].flat)
        if own >= 0:
            own = np.int64(e.flat[own].sorted)
        found = visible_from(state, e.cell_start, e.ordered, visible, own, who.x, who.y, radius, x0, y0, size)
        had = e.sights[place].count
        worst = _ENVELOPE + FRAME_HEADER_ROOM + found * max(state[ENC_ENTER_STRIDE], state[ENC_UPDATE_STRIDE]) + 2 * had
        worst += state[ENC_EVENTS] * state[ENC_EVENT_STRIDE] + state[ENC_OWNER_STRIDE]
        if at + worst > len(out):
            break
        group = state[ENC_GROUPS] - 1
        if group < 0 or e.groups[group].gateway != who.gateway:
            if group + 1 >= len(e.groups):
                viewer = state[ENC_VIEWERS]  # more gateways than a shard can have links: the rest gets nothing
                break
            group += 1
            state[ENC_GROUPS] = group + 1
            e.groups[group].gateway = who.gateway
            e.groups[group].first = viewer
            e.groups[group].count = 0
            e.groups[group].start = at
        enters, updates, leaves = compare(e.ordered, e.mark, e.views[place], had, e.scratch, found, who.x, who.y, near)
        e.sights[place].count = found
        state[ENC_ENTERS] += enters
        state[ENC_UPDATES] += updates
        state[ENC_LEAVES] += leaves
        head = _BIN16_BYTES if worst < 65536 else _BIN32_BYTES
        start = at + (4 if worst < 65536 else FRAME_HEADER_ROOM)
        end = _put_head(out, start, zone, state[ENC_EPOCH], tick, np.int64(who.flags), np.int64(who.ack), who.me)
        end = _put_enters(out, end, e.scratch[SCRATCH_ENTERS], enters, e.enter_bytes, state[ENC_ENTER_STRIDE], e.ordered, e.flat, head)
        end = _put_updates(out, end, e.scratch[SCRATCH_UPDATES], updates, e.update_bytes, state[ENC_UPDATE_STRIDE], e.ordered, head)
        end = _put_leaves(out, end, e.scratch[SCRATCH_LEAVES], leaves, head)
        mark = end
        # who is new here has been told by the zone before what happened there
        told = state[ENC_OWN_EVENTS] if who.flags & FLAG_KEYFRAME else state[ENC_EVENTS]
        end = _put_events(told, state[ENC_EVENT_STRIDE], e.events, e.event_bytes, out, end + head, who.x, who.y)
        end = _put_bin_head(out, mark, end, head)
        mark = end
        end = put_bytes(out, end + head, e.owner_bytes, viewer * state[ENC_OWNER_STRIDE], np.int64(who.owner_length))
        end = _put_bin_head(out, mark, end, head)
        begin = _put_frame_header(out, start, end)
        # close the gap that a shorter header leaves (tiny frames only), so that a gateway's part is one piece
        length = end - begin
        if begin != at:
            for k in range(length):
                out[at + k] = out[begin + k]
        entry = e.entries[viewer]
        entry.slot = who.slot
        entry.hop = who.hop
        entry.ack = who.ack
        entry.flags = who.flags
        entry.offset = at - e.groups[group].start
        entry.length = length
        at += length
        e.groups[group].count += 1
        e.groups[group].end = at
        viewer += 1
    state[ENC_NEXT_VIEWER] = viewer
    state[ENC_OUT_USED] = at


@kernel
def _put_head(out: Any, at: Any, zone: Any, epoch: Any, tick: Any, flags: Any, ack: Any, me: Any) -> Any:
    """Write the part of a snapshot before its byte strings (docs/PROTOCOL.md)."""
    out[at] = np.uint8(0x9C)  # array of 12
    out[at + 1] = np.uint8(2)
    at = put_int(out, at + 2, zone)
    at = put_int(out, at, epoch)
    at = put_int(out, at, tick)
    out[at] = np.uint8(flags)
    at = put_int(out, at + 1, ack)
    return put_int(out, at, me)


@kernel
def _put_bin_head(out: Any, mark: Any, end: Any, head: Any) -> Any:
    """
    Write the msgpack head of the byte string whose content, behind a head of length `head`, ends at `end`: bin 8 for an
    empty one, else bin 16 or bin 32. Returns where the byte string ends.
    """
    if end == mark + head:
        return put_tagged(out, mark, 0xC4, 0, 1)
    if head == _BIN16_BYTES:
        put_tagged(out, mark, 0xC5, end - mark - head, 2)
    else:
        put_tagged(out, mark, 0xC6, end - mark - head, 4)
    return end


@kernel
def _put_enters(out: Any, at: Any, chosen: Any, count: Any, source: Any, stride: Any, ordered: Any, flat: Any, head: Any) -> Any:
    """Write one byte string: the enter records of the chosen places of `ordered`, one behind the other."""
    mark = at
    at += head
    for k in range(count):
        index = np.int64(ordered[chosen[k]].flat)
        at = copy_words(out, at, source, index * stride, np.int64(flat[index].enter_length))
    return _put_bin_head(out, mark, at, head)


@kernel
def _put_updates(out: Any, at: Any, chosen: Any, count: Any, source: Any, stride: Any, ordered: Any, head: Any) -> Any:
    """Write one byte string: the update records of the chosen places of `ordered`, one behind the other."""
    mark = at
    at += head
    for k in range(count):
        one = ordered[np.uint64(chosen[np.uint64(k)])]
        at = copy_words(out, at, source, np.int64(one.flat) * stride, np.int64(one.update_length))
    return _put_bin_head(out, mark, at, head)


@kernel
def _put_leaves(out: Any, at: Any, leaves: Any, count: Any, head: Any) -> Any:
    mark = at
    at += head
    for k in range(count):
        at = put_level(out, at, np.int64(leaves[k]), 2)
    return _put_bin_head(out, mark, at, head)


# --- viewers ------------------------------------------------------------------------------------------------------


@kernel
def _sort_by_gateway(viewers: Any, players: Any, count: Any) -> None:
    """Put viewers in order of their gateway, those of one as they stand. A pass for each gateway, since a shard has few."""
    places = np.zeros(count, np.int64)
    gateways = np.zeros(count, np.int64)
    following = np.int64(1) << 32
    for k in range(count):
        places[k] = viewers[k].place
        gateways[k] = np.int64(players[places[k]].gateway)
        following = min(following, gateways[k])
    put = 0
    while put < count:
        now, following = following, np.int64(1) << 32
        for k in range(count):
            if gateways[k] == now:
                viewers[put].place = places[k]
                put += 1
            elif gateways[k] > now:
                following = min(following, gateways[k])


@kernel
def list_viewers(state: Any, sights: Any, viewers: Any, players: Any, high: Any) -> None:
    """List the players with a socket, by gateway, and find who needs a keyframe (new here, new socket, or asked for)."""
    count = 0
    in_order = True
    before = np.int64(0)
    for p in range(high):
        player = players[p]
        if player.key != 0 and player.gateway != 0 and player.row >= 0:
            viewers[count].place = p
            in_order = in_order and before <= np.int64(player.gateway)
            before = np.int64(player.gateway)
            count += 1
        else:
            sights[p].key = 0
    if not in_order:
        _sort_by_gateway(viewers, players, count)
    for k in range(count):
        p = viewers[k].place
        player, seen, who = players[p], sights[p], viewers[k]
        flags = 0
        if (
            seen.force != 0
            or seen.key != player.key
            or seen.session != np.int64(player.session)
            or seen.hop != np.int64(player.hop)
            or seen.gateway != np.int64(player.gateway)
        ):
            flags |= FLAG_KEYFRAME
            seen.count = 0
        if player.departed != 0:
            flags |= FLAG_MOVED if player.leaving == 0 or player.leaving == LEAVING_COPY else FLAG_GONE
        seen.force = 0
        seen.key = player.key
        seen.session = np.int64(player.session)
        seen.gateway = np.int64(player.gateway)
        seen.hop = np.int64(player.hop)
        who.gateway = player.gateway
        who.slot = player.slot
        who.hop = player.hop
        who.ack = player.last_seq
        who.flags = flags
    state[ENC_VIEWERS] = count
    state[ENC_GROUPS] = 0
    state[ENC_NEXT_VIEWER] = 0
    state[ENC_OUT_USED] = 0
