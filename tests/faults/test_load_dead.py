"""The load test on a world in which nothing moves, or to which only some get: the run has failed."""

from __future__ import annotations

import pytest

from tests.faults.loading import LOOSE, USERS, failures, load
from tests.unit.loadtest.gateway_double import Socket, gateway

pytestmark = pytest.mark.timeout(300)
HELLO, FAILOVER, EFFECT = "hello to first snapshot", "blackout (failover)", "command to effect"
ENVIRONMENT = {"PERDURE_SECRET": "s" * 32}


def silent(one: Socket) -> None:
    """Take every socket, and say nothing."""


def frozen(one: Socket) -> None:
    """Show the world for a moment; then nothing comes any more."""
    one.welcome()
    one.snapshots(lambda: one.tick >= 10)


@pytest.mark.parametrize(("processes", "wanted"), [(1, 1), (2, 3)])
def test_a_gateway_that_never_answers(processes: int, wanted: int) -> None:
    with gateway(silent) as url:
        words = ("--run-time", "5s", "--processes", str(processes), *LOOSE, "--bound", f"{HELLO}=1500", "--stop-timeout", "1")
        words += ("--exit-code-on-error", str(wanted)) if wanted != 1 else ()
        code, rows, said = load("--gateway", url, *words, environment=ENVIRONMENT)
    assert code == wanted, said
    assert failures(rows) == {HELLO: USERS}
    assert "not over within its bound of 1500 ms" in said
    assert "loadtest: nobody came into the world" in said


def test_a_world_that_stands_still() -> None:
    with gateway(frozen) as url:
        words = ("--run-time", "6s", *LOOSE, "--bound", f"{FAILOVER}=1500", "--stop-timeout", "1")
        code, rows, said = load("--gateway", url, *words, environment=ENVIRONMENT)
    assert code == 1, said
    assert failures(rows) == {FAILOVER: USERS}
    assert "came into the world" not in said


def test_a_world_that_only_half_of_the_players_come_into() -> None:
    def script(one: Socket) -> None:
        if one.number % 2:
            one.welcome()
            one.snapshots(lambda: False)

    with gateway(script) as url:
        words = ("--run-time", "6s", "--processes", "2", *LOOSE, "--bound", f"{HELLO}=2000", "--stop-timeout", "1")
        code, rows, said = load("--gateway", url, *words, environment=ENVIRONMENT)
        assert code == 1, said
        assert failures(rows)[HELLO] == USERS // 2
        assert f"loadtest: {USERS // 2} of {USERS} players never came into the world: at least 95 % are to (--entered)" in said
