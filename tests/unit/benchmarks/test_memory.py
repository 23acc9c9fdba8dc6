from __future__ import annotations

import os

import pytest

from benchmarks.memory import growth_an_hour, resident_kib


def test_growth_is_a_slope_for_an_hour() -> None:
    at_s = [float(second) for second in range(0, 600, 10)]
    assert growth_an_hour(at_s, [1000.0] * 60) == pytest.approx(0.0, abs=1e-9)
    leaking = [1000.0 + second / 36.0 for second in at_s]  # 100 an hour
    assert growth_an_hour(at_s, leaking) == pytest.approx(0.1, rel=0.02)


def test_what_grows_while_players_come_does_not_count() -> None:
    at_s = [float(second) for second in range(80)]
    assert growth_an_hour(at_s, [second * 100.0 if second < 20 else 2000.0 for second in at_s]) == pytest.approx(0.0, abs=1e-9)


def test_a_process_has_memory_of_its_own() -> None:
    assert resident_kib(os.getpid()) > 1000
