"""The source of a game's encoder: the part of its program that spells out how fields become bytes for clients.

Owns what the text says of levels, masks, events and the owner's fields; the loops over viewers are shard.kernels.encode's.
Returns text: never compiles or runs it, makes no arrays, and depends on nothing but the game and its schema. Called by
shard.program_source.
"""

from __future__ import annotations

from perdure.game.contract import Game
from perdure.game.schema import EventSchema, FieldSchema, Schema

ENCODER_FIELDS = [
    "state", "mapped", "ring", "handles", "mark", "levels", "touched", "flat", "ordered", "cell_start", "enter_bytes", "update_bytes",
    "scratch", "views", "sights", "viewers", "owner_bytes", "owner_sent", "events", "event_bytes", "entries", "groups", "out",
]  # fmt: skip


def encoder_source(game: Game) -> str:
    """Return the source of `encode`, `keep_events` and `more_frames`, and of what they call for this game's fields."""
    schema = game.schema()
    a = schema.avatar.name
    text = ""
    for e in schema.entities:
        text += _encode_entity(e.name, e.index, e.public, e.mask_bytes, e.avatar)
    text += _encode_events(schema, len(game.entities))
    event_rows = "".join(f", z.{v.name}_rows, z.{v.name}_heard" for v in game.events)
    text += _encode_owner(schema.avatar.owner)
    shown = " + ".join(f"meta[META_TABLE_{part} + {t}]" for t in range(len(game.entities)) for part in ("ROWS", "GHOSTS"))
    flatten = ""
    for t, e in enumerate(game.entities):
        arrays = "e.state, e.mapped, e.ring, e.handles, e.levels, e.touched, e.flat, e.enter_bytes, e.update_bytes"
        own = ", e.sights, z.players, z.ghost_keys" if e.options["avatar"] else ""
        for first, count in ((0, f"meta[META_TABLE_ROWS + {t}]"), (e.options["capacity"], f"meta[META_TABLE_GHOSTS + {t}]")):
            flatten += f"    n = flatten_{e.name}({arrays}, meta[META_TICK], z.{e.name}_rows, {first}, {count}, n{own})\n"
    return (
        text
        + f'''
@part_of_program
def encode(z, e):
    """Encode every entity once, find what each viewer sees, and make the frames (see shard.kernels.encode)."""
    meta, f = z.meta, z.floats
    begin_handles(e.state, e.mapped, {shown})
    for p in range(meta[META_PLAYERS_HIGH]):
        e.sights[p].flat = -1
    n = 0
{flatten}    e.state[ENC_FLAT] = n
    end_handles(e.state, e.mapped, e.ring, e.handles, meta[META_TICK])
    list_viewers(e.state, e.sights, e.viewers, z.players, meta[META_PLAYERS_HIGH])
    owners(e.state, e.viewers, e.owner_bytes, e.owner_sent, z.players, z.{a}_rows)
    flatten_events(e.state, e.events, e.event_bytes, meta, z.heard{event_rows})
    radius = f[FLOAT_INTEREST]
    sort_into_cells(e.state, e.flat, e.cell_start, e.ordered, f[FLOAT_X0] - radius, f[FLOAT_Y0] - radius, radius)
    more_frames(z, e)


@part_of_program
def keep_events(z, e):
    """After a tick that has no snapshot: keep what happened in it for the next one."""
    meta = z.meta
    flatten_events(e.state, e.events, e.event_bytes, meta, z.heard{event_rows})
    e.state[ENC_EVENTS_KEPT] = e.state[ENC_EVENTS]


@part_of_program
def more_frames(z, e):
    meta, f = z.meta, z.floats
    radius = f[FLOAT_INTEREST]
    make_frames(e, meta[META_ZONE], meta[META_TICK], f[FLOAT_X0] - radius, f[FLOAT_Y0] - radius, radius, radius)
'''
    )


_PLAYER_KEY = """\
        key = np.int64(0)
        if first != 0:
            key = ghost_keys[i - first]
        elif row.player >= 0:
            key = np.int64(players[row.player].key)
        at = put_level(enter_bytes, at, key, 8)
"""


def _encode_entity(name: str, index: int, public: tuple[FieldSchema, ...], mask_bytes: int, avatar: bool) -> str:
    sights = ", sights, players, ghost_keys" if avatar else ""
    own = "        if row.player >= 0 and first == 0:\n            sights[row.player].flat = n\n" if avatar else ""
    levels = "".join(f"        now[{k}] = {_level(f, 'row')}\n" for k, f in enumerate(public))
    enter = "".join(f"        at = put_level(enter_bytes, at, now[{k}], {f.wire_bytes})\n" for k, f in enumerate(public))
    key = _PLAYER_KEY if avatar else ""
    update = "".join(
        f"        if fresh or levels[handle, {k}] != now[{k}] or touched[handle, {k}] != 0:\n"
        f"            update_bytes[start + 2 + {k // 8}] |= np.uint8({1 << (k % 8)})\n"
        f"            levels[handle, {k}] = now[{k}]\n"
        f"            touched[handle, {k}] = np.uint8(0 if fresh or baseline else 1)\n"
        f"            at = put_level(update_bytes, at, now[{k}], {f.wire_bytes})\n"
        for k, f in enumerate(public)
    )
    clear = "".join(f"        update_bytes[start + 2 + {k}] = np.uint8(0)\n" for k in range(mask_bytes))
    return f"""
@part_of_program
def flatten_{name}(state, mapped, ring, handles, levels, touched, flat, enter_bytes, update_bytes, tick, rows, first, count, n{sights}):
    now = levels[len(levels) - 1]
    baseline = state[ENC_BASELINE] != 0
    for i in range(first, first + count):
        row = rows[i]
        if row.dead == DEAD_DESPAWNED:
            continue
        handle, fresh = handle_of(state, mapped, ring, handles, row.id, tick)
        if handle < 0:
            continue
        one = flat[n]
        one.x = row.x
        one.y = row.y
        one.handle = handle
{own}{levels}        start = n * state[ENC_ENTER_STRIDE]
        at = put_enter_header(enter_bytes, start, handle, {index}, row.id)
{key}{enter}        one.enter_length = at - start
        start = n * state[ENC_UPDATE_STRIDE]
        at = put_level(update_bytes, start, handle, 2)
{clear}        at = start + {2 + mask_bytes}
{update}        one.update_length = -1 if fresh else (at - start if at > start + {2 + mask_bytes} else 0)
        n += 1
    return n
"""


def _level(f: FieldSchema, row: str) -> str:
    return f"level_of(np.float64({row}.{f.name}), {float(f.lo)!r}, {float(f.step)!r}, {f.levels - 1})"


def _encode_events(schema: Schema, tables: int) -> str:
    """Own events first, then those that neighbours told of."""
    arguments = "".join(f", {v.name}_rows, {v.name}_heard" for v in schema.events)
    text = f"\n@part_of_program\ndef flatten_events(state, events, event_bytes, meta, heard{arguments}):\n    n = state[ENC_EVENTS_KEPT]\n"
    for v in schema.events:
        text += _flatten_event(v, f"meta[META_COUNTS + {2 * (tables + v.index)}]", f"{v.name}_rows")
    text += "    state[ENC_OWN_EVENTS] = n\n"
    for v in schema.events:
        text += _flatten_event(v, f"heard[{v.index}]", f"{v.name}_heard")
    return text + "    state[ENC_EVENTS] = n\n    state[ENC_EVENTS_KEPT] = 0\n"


def _flatten_event(v: EventSchema, count: str, rows: str) -> str:
    text = f"""    for k in range({count}):
        row, one = {rows}[k], events[n]
        one.x = row.at_x
        one.y = row.at_y
        one.reach = {v.radius * v.radius!r}
        start = n * state[ENC_EVENT_STRIDE]
        event_bytes[start] = np.uint8({v.index})
        at = start + 1
"""
    text += "".join(f"        at = put_level(event_bytes, at, {_level(f, 'row')}, {f.wire_bytes})\n" for f in v.fields)
    return text + "        one.length = at - start\n        n += 1\n"


def _encode_owner(owner: tuple[FieldSchema, ...]) -> str:
    body = ""
    for k, f in enumerate(owner):
        body += f"        level = {_level(f, 'row')}\n        changed = changed or owner_sent[who.place, {k}] != level\n"
        body += f"        owner_sent[who.place, {k}] = level\n        at = put_level(owner_bytes, at, level, {f.wire_bytes})\n"
    return f"""
@part_of_program
def owners(state, viewers, owner_bytes, owner_sent, players, rows):
    for k in range(state[ENC_VIEWERS]):
        who = viewers[k]
        row = rows[players[who.place].row]
        who.x = row.x
        who.y = row.y
        who.me = row.id
        start = k * state[ENC_OWNER_STRIDE]
        at = start
        changed = who.flags & FLAG_KEYFRAME != 0
{body}        who.owner_length = at - start if changed else 0
"""
