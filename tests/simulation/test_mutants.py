"""Every planted bug is found, by few seeds: what the simulator would let through, it does not prove."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import KINDS, MUTANTS, SEEDS, find

pytestmark = pytest.mark.timeout(600)
MOST_SEEDS = 200


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_bug_is_found(name: str) -> None:
    begin = SEEDS[name]
    outcome = find(name, [*range(begin, MOST_SEEDS + 1), *range(1, begin)], kinds=KINDS[name])
    assert outcome is not None, f"{name} lives through {MOST_SEEDS} seeds"
    print(f"{name}: found by seed {outcome.seed}: {outcome.violations[0]}")
