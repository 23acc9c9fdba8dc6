"""What a failed dial says about the shard: the fastest sign of a death must not be mistaken for a bad network."""

from __future__ import annotations

import errno
import socket

import pytest

from gateway.shard_links import _gone

UNKNOWN_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("error", "had_link", "gone"),
    [
        (ConnectionRefusedError(), True, True),
        (ConnectionRefusedError(), False, True),
        (FileNotFoundError(), False, True),  # a unix socket that is not there
        (UNKNOWN_NAME, True, True),  # the container's name went with it
        (UNKNOWN_NAME, False, False),  # never linked: as likely a wrong address
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True, False),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True, False),
        (TimeoutError(), True, False),
        (ValueError("no port"), True, False),
    ],
)
def test_what_a_failed_dial_means(error: Exception, had_link: bool, gone: bool) -> None:
    assert _gone(error, had_link=had_link) is gone
