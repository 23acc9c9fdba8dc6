"""What a zone proposes over its borders: the game's `across` hook, and the bytes in which a record holds what it proposed.

Ghosts are in no log, so no tick may read them: `across` runs between two ticks, sees own rows and ghosts, and what it proposes is an
input of the next tick, logged like a command; a replay takes it from the record. Owns that form. Never writes state, never decides
what becomes of a proposal (the generated program does). Called by shard.zone.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from perdure.game.contract import effect_dtype
from shard.kernels import layout
from shard.program import Program, effect_parts, table_parts

HEAD = struct.Struct("<HHI")
"""kind of effect u16, proposals u16, bytes of one u32: ahead of the proposals of each kind."""
ACROSS_RAISES = (ArithmeticError, ValueError, IndexError)


def propose(program: Program, arrays: Any, *, compare: bool) -> str:
    """Ask the game what reaches over the borders; return why there are no proposals, or "". `compare`: see that it writes nothing."""
    before = _seen(program, arrays) if compare else {}
    try:
        program.across(arrays)
    except ACROSS_RAISES as error:
        clear(arrays)
        return f"@game.across raises {type(error).__name__}: {error}"
    after = _seen(program, arrays) if compare else {}
    for name, data in before.items():
        if data != after[name]:
            clear(arrays)
            return f"@game.across has written to {name}; it may fill in what reach() returns, and nothing else"
    return ""


def _seen(program: Program, arrays: Any) -> dict[str, bytes]:
    """Return what `across` may read and not write: owned rows and ghosts, as far as there are any, and totals."""
    meta = arrays.meta
    seen = {"totals": arrays.totals_words.tobytes(), "counters": arrays.counters.tobytes(), "counts": meta.tobytes()}
    for index, entity in enumerate(program.game.entities):
        words, owned = getattr(arrays, f"{entity.name}_words"), table_parts(entity).owned
        seen[entity.name] = words[: meta[layout.META_TABLE_ROWS + index]].tobytes()
        seen[f"a ghost of {entity.name}"] = words[owned : owned + meta[layout.META_TABLE_GHOSTS + index]].tobytes()
    return seen


def clear(arrays: Any) -> None:
    """Propose nothing."""
    arrays.effect_counts[:, layout.EFFECT_PROPOSED] = 0


def pack_proposals(program: Program, arrays: Any) -> bytes:
    """Return what is proposed for the next tick, as its record holds it."""
    parts = []
    for kind, effect in enumerate(program.game.effects):
        count = int(arrays.effect_counts[kind, layout.EFFECT_PROPOSED])
        if count:
            rows = np.asarray(getattr(arrays, f"{effect.name}_effects")[:count])
            parts += [HEAD.pack(kind, count, rows.dtype.itemsize), rows.tobytes()]
    return b"".join(parts)


def unpack_proposals(program: Program, arrays: Any, data: bytes) -> None:
    """Propose for the next tick what a record holds. Raises ValueError where this build has no such effects."""
    if program.game.effects:
        clear(arrays)
    at = 0
    while at < len(data):
        if len(data) - at < HEAD.size:
            raise ValueError("its effects are cut short")
        kind, count, size = HEAD.unpack_from(data, at)
        at += HEAD.size
        if kind >= len(program.game.effects):
            raise ValueError(f"it has an effect of kind {kind}; this build's game has {len(program.game.effects)}")
        effect = program.game.effects[kind]
        if size != effect_dtype(effect).itemsize or count >= effect_parts(effect).proposed or len(data) - at < size * count:
            raise ValueError(f"it has {count} effects {effect.name} of {size} bytes; this build's have {effect_dtype(effect).itemsize}")
        words = np.frombuffer(data, np.uint64, size * count // 8, at).reshape(count, size // 8)
        getattr(arrays, f"{effect.name}_effects_words")[:count] = words
        arrays.effect_counts[kind, layout.EFFECT_PROPOSED] = count
        at += size * count
