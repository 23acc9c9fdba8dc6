"""What players of the load test do: one function a scenario, by the schema alone where it can be.

A steering function is asked before each command and answers what to send, or None for nothing. `wander` plays any game; the others
walk, and want a command with the fields `mx` and `my` (a direction) and an avatar with `x` and `y`, as the arena has them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from loadtest.player import Player, Values
from perdure.game.schema import CommandSchema

HOLD_S = 2.0
NEAR = 2.0
"""Who is as near to its goal, in units of the world, has arrived."""

Steer = Callable[[Player], Values | None]


def wander() -> Steer:
    """Random values of a random command, held for a while."""
    held: list[Values] = []
    until_s = 0.0

    def steer(player: Player) -> Values | None:
        nonlocal until_s
        now_s = time.monotonic()
        if not held or now_s >= until_s:
            command = player.random.choice(list(player.protocol.commands.values()))
            held[:] = [(command, _random_values(player, command))]
            until_s = now_s + player.random.uniform(0.2, 1.0) * HOLD_S
        return held[0]

    return steer


def hotspot() -> Steer:
    """Walk to the middle of the world, and stay there."""

    def steer(player: Player) -> Values | None:
        width, height = _world(player)
        return _towards(player, width / 2, height / 2)

    return steer


def patrol() -> Steer:
    """Walk from one end of the world to the other and back, over every border on the way."""
    eastwards = True

    def steer(player: Player) -> Values | None:
        nonlocal eastwards
        me, (width, _) = player.me, _world(player)
        if me is None:
            return None
        if abs(me.x - width * eastwards) < width * 0.05:
            eastwards = not eastwards
        return _towards(player, width * eastwards, me.y)

    return steer


def _world(player: Player) -> tuple[float, float]:
    """Return the world's width and height, as the server has told them."""
    schema = player.protocol.schema
    assert schema is not None  # who steers has been welcomed
    return schema.width, schema.height


def _towards(player: Player, x: float, y: float) -> Values | None:
    me, command = player.me, walking(player)
    if me is None:
        return None
    dx, dy = x - me.x, y - me.y
    far = math.hypot(dx, dy)
    if far < NEAR:
        return command, [0 for _ in command.fields]
    wanted = {"mx": dx / far, "my": dy / far}
    values: list[float | int] = []
    for field in command.fields:
        value = min(max(wanted.get(field.name, 0.0), field.lo), field.hi)
        values.append(value if field.is_float else round(value))
    return command, values


def walking(player: Player) -> CommandSchema:
    """Return the command that walks. Raises ValueError where the game has none."""
    for command in player.protocol.commands.values():
        if {"mx", "my"} <= {field.name for field in command.fields}:
            return command
    raise ValueError("this game has no command with the fields mx and my: use the scenario steady")


def _random_values(player: Player, command: CommandSchema) -> list[float | int]:
    chance = player.random
    return [chance.uniform(f.lo, f.hi) if f.is_float else chance.randint(int(f.lo), int(f.hi)) for f in command.fields]
