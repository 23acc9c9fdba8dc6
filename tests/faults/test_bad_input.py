"""Whatever is wrong with what a process is given: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.ledger.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(120)


def perdure(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, without the settings of whoever runs the tests."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_") or key == "PERDURE_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, "-m", "perdure", *arguments], cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=100
    )


def fault(*arguments: str, **environment: str) -> str:
    """Run the command, expect it to fail with 2 and without a traceback, and return what it said."""
    done = perdure(*arguments, **environment)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ledger")
    with EmbeddedServer(folder / "data", folder / "valkey.sock") as server:
        yield server.url


def test_a_ledger_that_is_not_there_ends_a_shard() -> None:
    assert "/nowhere.sock" in fault("shard", PERDURE_REDIS_URL="unix:///tmp/nowhere.sock", PERDURE_DEVELOPMENT="1")


@pytest.mark.parametrize("role", ["gateway", "coordinator"])
def test_a_ledger_that_is_not_there_is_waited_for_and_said_once(role: str) -> None:
    environment = {"PERDURE_REDIS_URL": "unix:///tmp/nowhere.sock", "PERDURE_DEVELOPMENT": "1", "PERDURE_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "perdure", role], cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    process.terminate()
    _, rest = process.communicate(timeout=30)
    assert "/nowhere.sock" in line
    assert "Traceback" not in rest
    assert process.returncode == 0


def test_secrets_that_are_not_good_enough() -> None:
    for role in ("gateway", "shard", "coordinator"):
        assert "PERDURE_SECRET" in fault(role)
        assert "PERDURE_SECRET" in fault(role, PERDURE_SECRET="short")


def test_settings_that_make_no_sense() -> None:
    assert "zones" in fault("shard", "--zones", "many", PERDURE_DEVELOPMENT="1")
    assert "three heartbeats" in fault("gateway", "--lease-ms", "300", PERDURE_DEVELOPMENT="1")
    assert "no verb" in fault("fly")


def test_a_game_that_is_not_there() -> None:
    assert "games/none" in fault("shard", "--game", "games/none", PERDURE_DEVELOPMENT="1")


def test_a_game_that_is_wrong_says_file_line_and_mend(tmp_path: Path) -> None:
    game = tmp_path / "wrong.py"
    text = (ROOT / "games" / "tag.py").read_text()
    game.write_text(text.replace("me.tags", "me.tags").replace("other.tags + 1", "other.tgas + 1"))
    line = next(n for n, row in enumerate(game.read_text().splitlines(), 1) if "tgas" in row)
    said = fault("shard", "--game", str(game), PERDURE_DEVELOPMENT="1")
    assert f"{game}:{line}" in said
    assert "did you mean 'tags'" in said
    game.write_text(text + "\n\ndef broken(:\n")
    assert f"{game}:" in fault("shard", "--game", str(game), PERDURE_DEVELOPMENT="1")


def test_two_shards_with_one_address(ledger: str, tmp_path: Path) -> None:
    environment = {"PERDURE_REDIS_URL": ledger, "PERDURE_DEVELOPMENT": "1", "PERDURE_LISTEN": f"unix:{tmp_path}/one.sock"}
    first = subprocess.Popen(
        [sys.executable, "-m", "perdure", "shard"], cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert first.stderr is not None
        while "ready" not in (line := first.stderr.readline()):
            assert line, "the first shard ended"
        assert "taken by another process" in fault("shard", **environment)
        other_zones = fault("shard", "--zones", "2x2", **(environment | {"PERDURE_LISTEN": "tcp:127.0.0.1:0"}))
        assert "4x4" in other_zones
    finally:
        first.terminate()
        assert first.wait(30) == 0
        if first.stderr is not None:
            first.stderr.close()


def test_a_gateway_whose_port_is_taken(ledger: str) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in fault("gateway", "--port", port, PERDURE_REDIS_URL=ledger, PERDURE_DEVELOPMENT="1")
