"""Parts of a program: linked into the entries that call them, with no entry of their own; whoever calls one from Python is told so."""

from __future__ import annotations

import numpy as np
import pytest

from perdure.game.jit import JIT_DISABLED, kernel, part_of_program


@part_of_program
def half(values: np.ndarray, at: int) -> float:
    return values[at] / 2


@kernel
def sum_of_halves(values: np.ndarray) -> float:
    total = 0.0
    for at in range(len(values)):
        total += half(values, at)
    return total


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_a_part_is_in_the_entry_that_calls_it_and_cannot_be_called_from_python() -> None:
    values = np.arange(5.0)
    assert sum_of_halves(values) == 5.0
    with pytest.raises(TypeError):
        half(values, 2)
    assert sum_of_halves(values) == 5.0
