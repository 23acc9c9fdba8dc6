"""The source of a game's effects: the part of its program that proposes, sends, takes, forwards and returns them.

Owns what the text says of effects; a game that declares none gets none of it. Returns text: never compiles or runs it, and makes no
arrays. Called by shard.program_source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure.game.contract import Declared, Game


class EffectParts(NamedTuple):
    """Where the parts of an effect's rows end in their one array."""

    proposed: int
    """Its last row is for overflow."""
    arrivals: int
    replies: int
    """Its last row is for overflow."""


def effect_tuples(game: Game) -> list[str]:
    """Return the fields that effects add to the tuple of a zone's arrays."""
    if not game.effects:
        return []
    return [
        "effect_counts",
        "departures",
        "departures_words",
        *(f"{e.name}_effects{part}" for e in game.effects for part in ("", "_words")),
    ]


EFFECTS_FIELDS = ["proposed", "proposed_words", "replies", "replies_words", "count"]
"""What rules see as `w.hurt`."""


def effects_of_world(game: Game, parts: Sequence[EffectParts]) -> list[str]:
    """Return, for each effect, the expression of what rules see of it."""
    text = []
    for k, e in enumerate(game.effects):
        proposed, arrivals, replies = parts[k]
        views = ", ".join(
            f"z.{e.name}_effects{words}[{span}]" for span in (f":{proposed}", f"{arrivals}:{replies}") for words in ("", "_words")
        )
        text.append(f"        Effects_{e.name}({views}, z.effect_counts[{k}]),")
    return text


def effects_source(game: Game, parts: Sequence[EffectParts]) -> str:
    """Return the source of what `step` calls for effects."""
    if not game.effects:
        return ""
    text = "".join(f"game_{what}_{name} = _game.effect_hooks[{what!r}, {name!r}]\n" for what, name in sorted(game.effect_hooks))
    text += '''
@part_of_program
def post(z, target, effect, at):
    """An effect leaves for a zone, with this tick's commit. There is room: see shard.program.OUT_CAPACITY."""
    meta = z.meta
    out = z.out[meta[META_OUT]]
    out.kind = OUT_EFFECT
    out.target = target
    out.type = effect
    out.row = at
    out.player = -1
    out.entry = -1
    meta[META_OUT] += 1

'''
    return text + "".join(_take(game, k, e, parts[k]) + _send(game, k, e) for k, e in enumerate(game.effects)) + _bury(game)


def _table(game: Game, name: str) -> int:
    return [e.name for e in game.entities].index(name)


def _take(game: Game, k: int, e: Declared, parts: EffectParts) -> str:
    source, target = e.options["source"], e.options["target"]
    back = ("returned", e.name) in game.effect_hooks
    come_back = f"""        i = find_row(z.{source}_words, meta[META_TABLE_ROWS + {_table(game, source)}], effect.source)
        if i >= 0:
            game_returned_{e.name}(w, z.{source}_rows[i], effect)
        else:
            game_returned_{e.name}(w, None, effect)
"""
    go_back = f"""    effect.returned = 1
    post(z, np.int64(effect.source_zone), {k}, at)
"""
    return f'''
@part_of_program
def take_{e.name}(z, w, k):
    """Inbox entry k is an effect: its target takes it, or it follows its target, or it goes back to where it came from."""
    meta = z.meta
    at = {parts.proposed} + np.int64(z.inputs[k].arrival)
    effect = z.{e.name}_effects[at]
    effect.replied = 0
    z.effect_counts[{k}, EFFECT_HANDLED] += 1
    if effect.returned != 0:
{come_back if back else ""}        return
    i = find_row(z.{target}_words, meta[META_TABLE_ROWS + {_table(game, target)}], effect.target)
    if i >= 0:
        game_takes_{e.name}(w, z.{target}_rows[i], effect)
        return
    zone = departed_to(z.departures, z.counters[COUNTER_DEPARTURES], effect.target)
    if zone >= 0 and effect.hops < MAX_EFFECT_HOPS:
        effect.hops += 1
        post(z, zone, {k}, at)
        return
{go_back if back else ""}
'''


def _send(game: Game, k: int, e: Declared) -> str:
    source = e.options["source"]
    asked = ""
    if ("sends", e.name) in game.effect_hooks:
        asked = f"        if not game_sends_{e.name}(w, z.{source}_rows[i], effect):\n            continue\n"
    return f'''
@part_of_program
def send_{e.name}(z, w):
    """The effects that were proposed for this tick leave, where their sources are still here and the game agrees."""
    meta = z.meta
    for at in range(z.effect_counts[{k}, EFFECT_PROPOSED]):
        effect = z.{e.name}_effects[at]
        z.effect_counts[{k}, EFFECT_HANDLED] += 1
        i = find_row(z.{source}_words, meta[META_TABLE_ROWS + {_table(game, source)}], effect.source)
        if i < 0:
            continue
{asked}        post(z, np.int64(effect.target_zone), {k}, at)
    z.effect_counts[{k}, EFFECT_PROPOSED] = 0
'''


def _bury(game: Game) -> str:
    avatar = next(e.name for e in game.entities if e.options["avatar"])
    text = f'''
@part_of_program
def bury(z):
    """What the hooks of effects despawned is gone before the rules run; an avatar with a player is not despawned."""
    meta = z.meta
    for i in range(meta[META_TABLE_ROWS + {_table(game, avatar)}]):
        if z.{avatar}_rows[i].player >= 0:
            z.{avatar}_rows[i].dead = 0
'''
    for t, e in enumerate(game.entities):
        text += f"    meta[META_TABLE_ROWS + {t}] = purge(z.{e.name}_words, meta[META_TABLE_ROWS + {t}])\n"
    return (
        text
        + f"""    for i in range(meta[META_TABLE_ROWS + {_table(game, avatar)}]):
        if z.{avatar}_rows[i].player >= 0:
            z.players[z.{avatar}_rows[i].player].row = i
"""
    )


def apply_effects(game: Game) -> str:
    """Return the lines of `step` that come between the inbox and the commands."""
    if not game.effects:
        return ""
    sends = "".join(f"    send_{e.name}(z, w)\n" for e in game.effects)
    handled = "z.effect_counts[:, EFFECT_HANDLED].sum() > 0"
    return f"{sends}    if {handled}:\n        bury(z)\n"


def post_replies(game: Game, parts: Sequence[EffectParts]) -> str:
    """Return the lines of `step` that send what was answered to the effects of the inbox."""
    return "".join(
        f"    for k in range(z.effect_counts[{k}, EFFECT_REPLIES]):\n"
        f"        post(z, np.int64(z.{e.name}_effects[{parts[k].arrivals} + k].target_zone), {k}, {parts[k].arrivals} + k)\n"
        for k, e in enumerate(game.effects)
    )


def across_source(game: Game, world: str) -> str:
    """Return the source of `across`, which runs between two ticks; `world`: the expression of what it sees."""
    if "across" not in game.hooks:
        return ""
    return f'''
@part_of_program
def across(z):
    """Ask the game what reaches over the borders: its proposals are inputs of the next tick."""
    meta = z.meta
    z.effect_counts[:, EFFECT_PROPOSED:EFFECT_REPLIES] = 0
    w = {world}
    game_across(w)
'''
