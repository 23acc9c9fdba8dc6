from __future__ import annotations

from perdure.runtime.rate import MOST_POINTS, WINDOW_S, Rate


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now = [100.0]
    rate = Rate(lambda: now[0])
    assert rate.of(5) == 0
    for step in range(1, 60):
        now[0] = 100.0 + step * 0.2
        assert rate.of(5 + step * 20) == 100
    told = []
    for _ in range(round(WINDOW_S / 0.2) + 1):
        now[0] += 0.2
        told.append(rate.of(5 + 59 * 20))
    assert 0 < told[0] < 100 and told[-1] == 0


def test_a_rate_asked_for_at_once_is_0_and_its_window_is_bounded() -> None:
    rate = Rate(lambda: 7.0)
    for count in range(3 * MOST_POINTS):
        assert rate.of(count) == 0
    assert len(rate._points) == MOST_POINTS
