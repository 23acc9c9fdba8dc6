"""Numbers that never begin anew: of moves and of sessions, above all that a ledger which went back may have forgotten.

Owns how far they rise with the world's generation (docs/decisions/0012). Called by both ledgers and by the functions' constants (keys).
"""

from __future__ import annotations

MOVES_A_GENERATION = 1 << 20
"""A player who comes in from the lobby under generation g has a number of moves above (g - 1) times this, so that it is above
every number that a zone remembers of it, whatever a ledger that went back has forgotten of the player."""
SESSIONS_A_GENERATION = (1 << 20) + 0x9E37
"""As MOVES_A_GENERATION, for the numbers of sessions. Rows of commands carry the low half of the number, so the first sessions of
generations that are not far apart must not have the same: multiples of this odd number (of the golden ratio) lie far apart there."""
MOST_GENERATIONS = (1 << 11) - 1
"""From here on the floors rise no more: moves and sessions are 32 bits in an entry."""


def moves_floor(generation: int) -> int:
    """Return what the numbers of moves given under a generation are above."""
    return (min(generation, MOST_GENERATIONS) - 1) * MOVES_A_GENERATION


def sessions_floor(generation: int) -> int:
    """Return what the numbers of sessions given under a generation are above."""
    return (min(generation, MOST_GENERATIONS) - 1) * SESSIONS_A_GENERATION


def generation_above(moves: int) -> int:
    """Return the lowest generation whose numbers of moves are above this one."""
    return min(-(-moves // MOVES_A_GENERATION) + 1, MOST_GENERATIONS)
