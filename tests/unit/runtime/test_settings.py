"""Settings: strongest source first, checked together, and no insecure secret outside development."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from perdure.runtime.settings import DEVELOPMENT_REDIS_PASSWORD, DEVELOPMENT_SECRET, MIN_SECRET_LENGTH, CommonSettings

GOOD_SECRET = "s" * MIN_SECRET_LENGTH


def make(**values: Any) -> CommonSettings:
    return CommonSettings(**values)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests reaches them."""
    import os

    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_development_has_a_secret_of_its_own() -> None:
    assert make(development=True).secret == DEVELOPMENT_SECRET


@pytest.mark.parametrize("secret", ["", "short", DEVELOPMENT_SECRET])
def test_an_insecure_secret_is_refused_outside_development(secret: str) -> None:
    with pytest.raises(ValidationError, match="PERDURE_SECRET"):
        make(secret=secret)


def test_the_development_password_of_the_ledger_is_refused_outside_development() -> None:
    url = f"redis://:{DEVELOPMENT_REDIS_PASSWORD}@valkey:6379/0"
    with pytest.raises(ValidationError, match="password of the ledger"):
        make(secret=GOOD_SECRET, redis_url=url)
    assert make(development=True, redis_url=url).redis_url == url


def test_a_secret_is_not_shown() -> None:
    assert GOOD_SECRET not in repr(make(secret=GOOD_SECRET))


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(GOOD_SECRET + "\n")
    assert make(secret_file=str(tmp_path / "secret")).secret == GOOD_SECRET
    with pytest.raises(ValidationError, match=r"PERDURE_SECRET_FILE names .*none, which cannot be read"):
        make(secret_file=str(tmp_path / "none"))


def test_the_environment_wins_over_the_file_and_arguments_over_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text('world = "file"\nlog_format = "json"\ndevelopment = true\n')
    assert make().world == "file"
    monkeypatch.setenv("PERDURE_WORLD", "environment")
    assert make().world == "environment"
    assert make(world="argument").world == "argument"
    assert make().log_format == "json"


def test_a_file_that_is_named_must_be_there_and_be_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERDURE_CONFIG", "other.toml")
    with pytest.raises(ValueError, match=r"other\.toml, which is not there"):
        make(development=True)
    (tmp_path / "other.toml").write_text("world = = 1")
    with pytest.raises(ValueError, match=r"other\.toml: .*line 1"):
        make(development=True)


def test_a_lease_is_longer_than_three_heartbeats() -> None:
    with pytest.raises(ValidationError, match="three heartbeats and a half"):
        make(development=True, heartbeat_ms=200, lease_ms=600)


@pytest.mark.parametrize(
    ("redis_url", "address"),
    [
        ("redis://:word@127.0.0.1:6379/0", "127.0.0.1"),
        ("redis://[::1]/0", "::1"),
        ("unix:///tmp/no.sock", socket.gethostname()),
        ("redis://no.such.host.invalid:6379", socket.gethostname()),
    ],
)
def test_auto_advertises_the_address_on_the_way_to_the_ledger(redis_url: str, address: str) -> None:
    assert make(development=True, redis_url=redis_url, advertise="auto").advertise == address
    assert make(development=True, advertise="10.0.0.7").advertise == "10.0.0.7"


def test_a_nameless_member_gets_one_name_and_keeps_it() -> None:
    settings = make(development=True)
    name = settings.member_name("shard")
    assert name.startswith("shard-") and settings.member_name("shard") == name
