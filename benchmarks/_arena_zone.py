"""One zone of the arena, full of players who steer, without a cluster around it: what the benches of the tick work with.

Commits are answered at once, as a ledger would that takes no time. Everything is drawn from a seed. Called by tick, encode and wire.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._playing import GAME
from perdure.game.loading import load_game
from perdure.ledger.values import CommitAnswer, CommitStatus
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import WorldGrid
from shard.kernels import layout
from shard.program import INPUT_CAPACITY, Program, compile_program
from shard.warmup import warm
from shard.zone import Zone

SESSION = 1
GATEWAYS = 2
COMMAND_EVERY_TICKS = 2
"""Ten commands a second at 20 Hz."""
SETTLE_TICKS = 60
"""So long nobody is at the place of spawning any more, and everybody has been sent everything once."""


def arena() -> Program:
    """Return the compiled arena, warm."""
    program = compile_program(load_game(GAME))
    warm(program)
    return program


class ArenaZone:
    """A zone that is the whole world of the arena, with `players` ships. They steer ten times a second, and shoot where `fire`.

    `interest`: how far they see, where it is not as far as the game says; no kernel is compiled for it.
    """

    def __init__(self, program: Program, players: int, seed: int = 1, fire: bool = False, interest: float | None = None) -> None:
        self.program, self.fire = program, fire
        if interest is not None:
            program.game.interest = interest
        self.zone = Zone(program, 0, WorldGrid(*program.game.world_size, 1, 1), seed)
        self.zone.recovered(1, 1)
        self._chance = np.random.default_rng(seed)
        self._keys = np.arange(1, players + 1, dtype=np.int64)
        self._tick = -1
        schema = next(c for c in program.schema.commands if c.name == "steer")
        self._rows = np.zeros((players, layout.COMMAND_PAYLOAD_BYTE + program.schema.command_payload_bytes), np.uint8)
        self._rows[:, :8] = self._keys.view(np.uint8).reshape(players, 8)
        self._rows[:, 12] = SESSION
        self._rows[:, layout.COMMAND_KIND_BYTE] = schema.kind
        self._steering = np.zeros(players, schema.payload)
        self._steer(np.ones(players, bool))
        self._join()
        for _ in range(SETTLE_TICKS):
            self.tick()

    def _join(self) -> None:
        for first in range(0, len(self._keys), INPUT_CAPACITY):
            some = self._keys[first : first + INPUT_CAPACITY].tolist()
            self.zone.page = tuple(Entry(EntryKind.JOIN, key, SESSION, 1 + key % GATEWAYS, key).pack() for key in some)
            self.tick()
        self._tick = 0

    def _steer(self, who: npt.NDArray[np.bool_]) -> None:
        """These choose another direction; nobody stands still."""
        count = int(who.sum())
        for name in ("mx", "my"):
            self._steering[name][who] = self._chance.choice(np.array([-1, 1]), count)
        self._steering["fire"] = self.fire

    def commands(self) -> npt.NDArray[np.uint8]:
        """Return the rows of the players who send in this tick."""
        self._steer(self._chance.random(len(self._keys)) < 0.05)
        seq = 1 + (self._tick - 1) // COMMAND_EVERY_TICKS  # without a gap for each player
        mine = slice(self._tick % COMMAND_EVERY_TICKS, None, COMMAND_EVERY_TICKS)
        self._rows[:, layout.COMMAND_SEQ_BYTE : layout.COMMAND_SEQ_BYTE + 4] = np.frombuffer(seq.to_bytes(4, "little"), np.uint8)
        payload = self._steering.view(np.uint8).reshape(len(self._keys), -1)
        self._rows[:, layout.COMMAND_PAYLOAD_BYTE : layout.COMMAND_PAYLOAD_BYTE + payload.shape[1]] = payload
        return self._rows[mine]

    def before(self) -> None:
        """Queue this tick's commands: none while players still come."""
        if self._tick >= 0:
            self._tick += 1
            self.zone.add_commands(self.commands())

    def step(self) -> None:
        self.zone.step()

    def after(self) -> None:
        """The ledger has the tick."""
        self.zone.committed(CommitAnswer(CommitStatus.OK))

    def tick(self) -> list[tuple[int, bytes]]:
        """Run one whole tick; return its frames."""
        self.before()
        self.step()
        frames = self.zone.encode()
        self.after()
        return frames

    @property
    def encoder(self) -> Any:
        return self.zone.encoder

    def seen(self) -> int:
        """Return how many entities all viewers together saw in the last tick."""
        return int(self.encoder.sights["count"][: self.zone.arrays.meta[layout.META_PLAYERS_HIGH]].sum())

    def state(self, which: int) -> int:
        """Return one of the encoder's counters (layout.ENC_...)."""
        return int(self.encoder.state[which])
