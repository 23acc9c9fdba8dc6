"""The source of who comes into a zone and who goes: the part of a game's program that takes the inbox in, refuses what finds no room, sends
over borders and to the lobby.

Owns what the text says of that for a game's tables; the loops are shard.kernels.state's. Returns text: never compiles or runs it, makes no
arrays. Called by shard.program_source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.game.contract import Game

if TYPE_CHECKING:
    from shard.program_source import TableParts

STAY_S = 0.5
"""Who is back from a zone that had no room goes there again after so many seconds of ticks. It takes part in the game meanwhile, and can
turn round: on the way there and back, two ticks or more, it is nowhere, and none of its commands is applied."""

FEWEST_STAYED = 3
"""Ticks, however slow they are: commands that were on their way meanwhile come for the second."""


def avatar_of(game: Game) -> tuple[int, str]:
    """Return the index and the name of the entity that players have for a body."""
    return next((i, e.name) for i, e in enumerate(game.entities) if e.options["avatar"])


def _targets(game: Game) -> set[str]:
    """Return the names of the entities that effects may have for their targets."""
    return {e.options["target"] for e in game.effects}


def _note_departure(entity: str, target: str) -> str:
    count = "z.counters[COUNTER_DEPARTURES]"
    return f"{count} = note_departure(z.departures, {count}, {entity}, {target})\n"


def _on_the_way(game: Game, tables: Sequence[TableParts], hook: str, entry: str, indent: int) -> str:
    """Return the call of a hook for the row of a player who has arrived, with `entry`, and finds no room."""
    index, avatar = avatar_of(game)
    if hook not in game.hooks:
        return ""
    lines = [
        f"if {entry}.kind == KIND_ARRIVE:",
        f"    row = z.{avatar}_rows[{tables[index].spawned} + {entry}.arrival]",
        "    row.dead = 0",
        f"    game_{hook}(w, row)",
        "    row.dead = DEAD_DEPARTED",
    ]
    return "".join(f"{' ' * indent}{line}\n" for line in lines)


def refuse_source(game: Game, tables: Sequence[TableParts]) -> str:
    """Return the source of what happens to entries that find no room, and to who waits in such an entry."""
    noted = "".join(
        f"    if target >= 0 and z.inputs[k].type == {t} and z.inputs[k].arrival >= 0:\n"
        f"        {_note_departure(f'z.{e.name}_rows[{tables[t].spawned} + z.inputs[k].arrival].id', 'target')}"
        for t, e in enumerate(game.entities) if e.name in _targets(game)
    )  # fmt: skip
    resume = _on_the_way(game, tables, "resume", "back", 8)
    return f'''
@part_of_program
def refuse(z, k, target):
    """Inbox entry k finds no room: send it back to `target` (its origin, or the lobby)."""
    meta = z.meta
{noted}    at = meta[META_OUT]
    out = z.out[at]
    out.kind = OUT_REFUSED
    out.target = target
    out.type = z.inputs[k].type
    out.row = -1
    out.player = -1
    out.entry = k
    meta[META_OUT] = at + 1


@part_of_program
def refused(z, player):
    """Return the out row of a player whom this page brings and who finds no room, or -1."""
    for at in range(z.meta[META_OUT]):
        if z.out[at].kind == OUT_REFUSED and z.inputs[z.out[at].entry].player == player:
            return at
    return -1


@part_of_program
def mark_resumed_on_the_way(back, e):
    back.session = e.session
    back.gateway = e.gateway
    back.slot = e.slot
    back.leaving = 0


@part_of_program
def refuse_player(z, k):
    """Inbox entry k brings a player who finds no room. Of two that the page brings of one player, the later move goes back."""
    e = z.inputs[k]
    target = e.origin if e.kind == KIND_ARRIVE else LOBBY
    at = refused(z, e.player)
    if at < 0:
        refuse(z, k, target)
    elif e.hop > z.inputs[z.out[at].entry].hop:
        z.inputs[z.out[at].entry].kind = 0  # as if it had not come
        z.out[at].entry = k
        z.out[at].target = target
    else:
        if e.session > z.inputs[z.out[at].entry].session:
            mark_resumed_on_the_way(z.inputs[z.out[at].entry], e)
        z.inputs[k].kind = 0


@part_of_program
def tell_refused(z, w, k):
    """Inbox entry k is for a player who is not here. Who found no room goes back as the entries behind it in the page leave it."""
    e = z.inputs[k]
    at = refused(z, e.player) if e.player != 0 else -1
    if at < 0:
        return
    back = z.inputs[z.out[at].entry]
    if e.kind == KIND_ATTACH and e.session > back.session:
        mark_resumed_on_the_way(back, e)
{resume}    if e.kind == KIND_DETACH and e.session == back.session:
        back.gateway = 0
    if e.kind == KIND_KICK or (e.kind == KIND_LEAVE and e.session == back.session):
        back.leaving = 1


@part_of_program
def detach_refused(z, gateway):
    """A gateway is lost: who found no room in this tick, and was attached to it, goes back without a socket."""
    for at in range(z.meta[META_OUT]):
        if z.out[at].kind == OUT_REFUSED:
            back = z.inputs[z.out[at].entry]
            if back.player != 0 and back.gateway == gateway:
                back.gateway = 0


@part_of_program
def mark_resumed(player, e):
    player.session = e.session
    player.gateway = e.gateway
    player.slot = e.slot
    player.detached_at = 0
    player.leaving = 0  # who comes back in the very tick in which they go, stays
'''


def inputs_source(game: Game, tables: Sequence[TableParts]) -> str:
    """Return the source of `apply_inputs`: the entries of the inbox page, in their order."""
    index, avatar = avatar_of(game)
    a = avatar
    resume = f"                if player.row >= 0:\n                    game_resume(w, z.{a}_rows[player.row])\n"
    resume = resume if "resume" in game.hooks else ""
    join = "        game_join(w, row, e.arrival >= 0)\n" if "join" in game.hooks else ""
    owned, _, arrivals, _ = tables[index]
    stay = max(round(STAY_S * game.tick_hz), FEWEST_STAYED)
    others = ""
    for t, e in enumerate(game.entities):
        owned_e, _, arrivals_e, _ = tables[t]
        others += f"""
        if e.kind == KIND_ARRIVE and e.player == 0 and e.type == {t}:
            n = meta[META_TABLE_ROWS + {t}]
            if n >= {owned_e}:
                refuse(z, k, e.origin)
            else:
                meta[META_TABLE_ROWS + {t}] = append_row(z.{e.name}_words[:{owned_e}], n, z.{e.name}_words, {arrivals_e} + e.arrival)
                z.{e.name}_rows[n].dead = 0
                z.{e.name}_rows[n].player = -1"""
    for k, effect in enumerate(game.effects):
        others += f"\n        if e.kind == KIND_EFFECT and e.type == {k}:\n            take_{effect.name}(z, w, k)"
    return f'''
@part_of_program
def enter_player(z, w, k):
    """A player joins from the lobby or arrives over a border: a place in the player table, and its avatar's row."""
    meta, e = z.meta, z.inputs[k]
    n = meta[META_TABLE_ROWS + {index}]
    place = np.int64(find_player(z.players, z.player_index, e.player))
    if place >= 0:  # here already, since the ledger went back in time: one player has one body
        player = z.players[place]
        if e.hop <= player.hop:  # the entry came twice
            if e.session > player.session:
                mark_resumed(player, e)
            return
        mark_resumed(player, e)  # the player has been elsewhere, unknown to who ran this zone: what it brings from there holds
        if e.gateway == 0:
            player.detached_at = meta[META_TICK]
        player.hop = e.hop
        if e.kind == KIND_JOIN and e.last_seq > player.last_seq:
            player.last_seq = e.last_seq  # applied elsewhere: the body here stays, but no number is used twice
        if e.kind == KIND_ARRIVE and e.arrival >= 0 and player.row >= 0:
            player.last_seq = e.last_seq
            append_row(z.{a}_words[: player.row + 1], player.row, z.{a}_words, {arrivals} + e.arrival)
            z.{a}_rows[player.row].player = place
            z.{a}_rows[player.row].dead = 0
        return
    if n < {owned}:
        place = np.int64(add_player(z.players, meta[META_PLAYERS_HIGH], z.player_index, e.player))
    if place < 0:
        refuse_player(z, k)
        return
    if place >= meta[META_PLAYERS_HIGH]:
        meta[META_PLAYERS_HIGH] = place + 1
    if e.arrival >= 0:
        meta[META_TABLE_ROWS + {index}] = append_row(z.{a}_words[:{owned}], n, z.{a}_words, {arrivals} + e.arrival)
    else:
        clear_row(z.{a}_words, n)
        meta[META_TABLE_ROWS + {index}] = n + 1
    row = z.{a}_rows[n]
    row.player = place
    row.dead = 0
    player = z.players[place]
    player.session = e.session
    player.gateway = e.gateway
    player.slot = e.slot
    player.hop = e.hop
    player.last_seq = e.last_seq
    player.row = n
    player.detached_at = 0
    if e.gateway == 0:
        player.detached_at = meta[META_TICK]
    if e.kind == KIND_ARRIVE and zone_at(z, row.x, row.y) != meta[META_ZONE]:
        player.stay = {stay}  # the zone that holds its place had no room for it
    if e.kind == KIND_JOIN:
        z.counters[0] += 1
        row.id = meta[META_ID_BASE] + z.counters[0]
        if e.arrival < 0:
            row.x = (z.floats[FLOAT_X0] + z.floats[FLOAT_X1]) * 0.5
            row.y = (z.floats[FLOAT_Y0] + z.floats[FLOAT_Y1]) * 0.5
{join}

@part_of_program
def apply_inputs(z, w):
    meta = z.meta
    for k in range(meta[META_INPUTS]):
        e = z.inputs[k]
        if e.kind == KIND_JOIN or (e.kind == KIND_ARRIVE and e.player != 0):
            enter_player(z, w, k)
        if e.kind == KIND_ATTACH or e.kind == KIND_DETACH or e.kind == KIND_LEAVE or e.kind == KIND_KICK:
            p = find_player(z.players, z.player_index, e.player)
            if p < 0:
                tell_refused(z, w, k)
                continue
            player = z.players[p]
            if e.kind == KIND_ATTACH and e.session > player.session:
                mark_resumed(player, e)
{resume}            if e.kind == KIND_DETACH and e.session == player.session and player.gateway != 0:
                player.gateway = 0
                player.detached_at = meta[META_TICK]
            if e.kind == KIND_KICK and e.hop > 0:
                player.leaving = LEAVING_COPY
            elif player.leaving == 0 and (e.kind == KIND_KICK or (e.kind == KIND_LEAVE and e.session == player.session)):
                player.leaving = 1
        if e.kind == KIND_GATEWAY_LOST:
            detach_refused(z, e.gateway)
            for p in range(meta[META_PLAYERS_HIGH]):
                player = z.players[p]
                if player.key != 0 and player.gateway == e.gateway:
                    player.gateway = 0
                    player.detached_at = meta[META_TICK]
{others}
'''


def emigrate_source(game: Game) -> str:
    """Return the source of `depart`, and of what sends each table's rows over a border."""
    text = """
@part_of_program
def zone_at(z, x, y):
    meta, f = z.meta, z.floats
    column = cut_at(x * meta[META_COLUMNS] / f[FLOAT_WIDTH], meta[META_COLUMNS])
    return cut_at(y * meta[META_ROWS] / f[FLOAT_HEIGHT], meta[META_ROWS]) * meta[META_COLUMNS] + column


@part_of_program
def depart(z, kind, target, table, i, place):
    meta = z.meta
    at = meta[META_OUT]
    out = z.out[at]
    out.kind = kind
    out.target = target
    out.type = table
    out.row = i
    out.player = place
    out.entry = -1
    meta[META_OUT] = at + 1
    if place >= 0:
        z.players[place].departed = 1

"""
    stay = """\
        if row.player >= 0 and z.players[row.player].stay > 0:
            z.players[row.player].stay -= 1 if z.players[row.player].gateway != 0 else 0  # its grace time would begin anew there
            continue
"""
    inside = """\
            if row.player >= 0 and z.players[row.player].stay > 0:
                z.players[row.player].stay = 0
"""
    for t, e in enumerate(game.entities):
        avatar = t == avatar_of(game)[0]
        text += f'''
@part_of_program
def emigrate_{e.name}(z):
    """Entities that are beyond a border go to the zone that holds their place; where the out buffer is full, next tick."""
    meta, f = z.meta, z.floats
    h = f[FLOAT_HYSTERESIS]
    for i in range(meta[META_TABLE_ROWS + {t}]):
        row = z.{e.name}_rows[i]
        if row.dead == DEAD_DESPAWNED and row.player >= 0:
            row.dead = 0  # an avatar with a player is not despawned: its player would have no body
        if row.dead != 0:
            continue
        beyond = row.x < f[FLOAT_X0] - h or row.x >= f[FLOAT_X1] + h or row.y < f[FLOAT_Y0] - h or row.y >= f[FLOAT_Y1] + h
        if not beyond:  # a place that is no number is beyond nothing
{inside if avatar else ""}            continue
{stay if avatar else ""}\
        target = zone_at(z, row.x, row.y)
        if target != meta[META_ZONE] and meta[META_OUT] < len(z.out):
            row.dead = DEAD_DEPARTED
            row.crossings = (row.crossings + 1) & 0xFFFF
            depart(z, OUT_CROSS, target, {t}, i, np.int64(row.player))
'''
        if e.name in _targets(game):
            text += f"            {_note_departure('row.id', 'target')}"
    return text


def logouts_source(game: Game, tables: Sequence[TableParts]) -> str:
    """Return the source of `logouts`."""
    index, a = avatar_of(game)
    refused = _on_the_way(game, tables, "leave", "z.inputs[z.out[at].entry]", 12)
    leave = "        if player.leaving != LEAVING_COPY:\n            game_leave(w, row)\n" if "leave" in game.hooks else ""
    return f'''
@part_of_program
def logouts(z, w):
    """Players who asked to leave, or whose grace is over, go to the lobby; before anything crosses a border."""
    meta = z.meta
    for at in range(meta[META_OUT]):
        if z.out[at].kind == OUT_REFUSED and z.inputs[z.out[at].entry].leaving != 0:
            z.out[at].target = LOBBY
{refused}    for p in range(meta[META_PLAYERS_HIGH]):
        player = z.players[p]
        if player.key == 0 or player.departed != 0 or meta[META_OUT] >= len(z.out):
            continue
        if player.leaving == 0 and (player.detached_at == 0 or meta[META_TICK] - player.detached_at < meta[META_GRACE_TICKS]):
            continue
        row = z.{a}_rows[player.row]
{leave}        row.dead = DEAD_DEPARTED
        depart(z, OUT_LOBBY, LOBBY, {index}, np.int64(player.row), p)
'''
