"""When a client tries again."""

from __future__ import annotations

import pytest

from perdure.client.protocol import ClientProtocol
from perdure.client.reconnect import BACKOFF_MOST_S, STAGGER_S, Reconnecting
from perdure.wire.opcodes import Close


@pytest.fixture
def tired() -> Reconnecting:
    """A client that has tried often."""
    protocol = ClientProtocol()
    protocol.resume = "anna.x"
    reconnecting = Reconnecting(protocol, may_log_in=True)
    waits = [reconnecting.backoff_s() for _ in range(12)]
    assert waits[0] <= STAGGER_S
    assert BACKOFF_MOST_S / 2 <= waits[-1] <= BACKOFF_MOST_S
    return reconnecting


def test_who_was_let_in_tries_again_at_once(tired: Reconnecting) -> None:
    tired.welcomed()
    assert tired.backoff_s() <= STAGGER_S


def test_a_used_up_resume_token_is_no_reason_to_wait(tired: Reconnecting) -> None:
    """Its welcome was lost with the socket: seed 1165 of the simulation."""
    assert not tired.is_final(Close.BAD_RESUME)
    assert tired._protocol.resume == ""
    assert tired.backoff_s() <= STAGGER_S
    assert tired.backoff_s() >= 0.05, "but only once"


def test_a_server_that_is_not_ready_is_one(tired: Reconnecting) -> None:
    assert not tired.is_final(Close.UNAVAILABLE)
    assert tired.backoff_s() >= BACKOFF_MOST_S / 2


def test_without_a_login_a_used_up_resume_token_is_the_end() -> None:
    assert Reconnecting(ClientProtocol(), may_log_in=False).is_final(Close.BAD_RESUME)
