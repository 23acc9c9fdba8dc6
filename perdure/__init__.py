"""Perdure: one multiplayer world over many machines, and nothing lost when they die.

A game file imports its whole vocabulary from here. Names are looked up on first use, so that a process which runs no
rules (a gateway, a client) never loads the compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from perdure.game.contract import Game, GameError, f32, f64, flag, i8, i16, i32, i64, q, u8, u16, u32
    from perdure.game.rules import despawn, emit, rand, rand_int, reach, reply, room, spawn

_CONTRACT = ("Game", "GameError", "f32", "f64", "flag", "i8", "i16", "i32", "i64", "q", "u8", "u16", "u32")
_RULES = ("despawn", "emit", "rand", "rand_int", "reach", "reply", "room", "spawn")

__all__ = [
    "Game", "GameError", "despawn", "emit", "f32", "f64", "flag", "i8", "i16", "i32", "i64", "q", "rand", "rand_int", "reach",
    "reply", "room", "spawn", "u8", "u16", "u32",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _CONTRACT:
        from perdure.game import contract

        return getattr(contract, name)
    if name in _RULES:
        from perdure.game import rules

        return getattr(rules, name)
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
