"""Whatever is wrong with what a process is given: one clear line, exit code 2, no traceback."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import WorldSettings

ROOT = Path(__file__).resolve().parents[2]
PACES = ROOT / "tests" / "data" / "paces.py"
ROLES = ("gateway", "shard", "coordinator")
pytestmark = pytest.mark.timeout(300)


def perdure(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, without the settings of whoever runs the tests."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_") or key == "PERDURE_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, "-m", "perdure", *arguments], cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=240
    )


def fault(*arguments: str, **environment: str) -> str:
    """Run the command, expect it to fail with 2 and to say why in one line, and return that line."""
    done = perdure(*arguments, **environment)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 2, said
    assert len(said.splitlines()) == 1, said
    return said


def development(**more: str) -> dict[str, str]:
    return {"PERDURE_DEVELOPMENT": "1", **{f"PERDURE_{name.upper()}": value for name, value in more.items()}}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that holds a world of another game's zones."""
    folder = tmp_path_factory.mktemp("l")
    with EmbeddedServer(folder / "data", folder / "s") as server:

        async def make() -> None:
            client = await RedisLedger.connect(server.url, "main")
            await client.init_world(WorldSettings("main", "paces", "h", "{}", 3, 2, 1, 20))
            await client.close()

        asyncio.run(make())
        yield server.url


@pytest.mark.parametrize("role", ROLES)
def test_a_ledger_that_is_not_there(role: str) -> None:
    assert "/nowhere.sock" in fault(role, **development(redis_url="unix:///tmp/nowhere.sock", port="0", game=str(PACES)))


def test_a_ledger_whose_address_is_none() -> None:
    said = fault("gateway", **development(redis_url="http://127.0.0.1/", port="0"))
    assert "redis://" in said


@pytest.mark.parametrize("role", ROLES)
def test_secrets_that_are_not_good_enough(role: str) -> None:
    assert "PERDURE_SECRET" in fault(role)
    assert "PERDURE_SECRET" in fault(role, PERDURE_SECRET="short")
    assert "PERDURE_SECRET" in fault(role, PERDURE_SECRET="perdure-development-secret-not-for-production")


def test_an_admin_token_that_is_not_good_enough() -> None:
    assert "PERDURE_ADMIN_TOKEN" in fault("coordinator", PERDURE_SECRET="s" * 32, PERDURE_ADMIN_TOKEN="short")


def test_settings_that_make_no_sense() -> None:
    assert "zones" in fault("shard", "--zones", "many", **development())
    assert "three heartbeats" in fault("gateway", "--lease-ms", "300", **development())
    assert "heartbeat_ms" in fault("gateway", **development(heartbeat_ms="fast"))
    assert "log_level" in fault("coordinator", **development(log_level="loud"))
    assert "port" in fault("gateway", "--port", "99999", **development())
    assert "--nonsense" in perdure("gateway", "--nonsense", "1", **development()).stderr.splitlines()[-1]
    assert "nowhere.toml" in fault("gateway", PERDURE_CONFIG="nowhere.toml")


def test_verbs_that_there_are_not_and_their_wrong_arguments() -> None:
    assert "no verb 'fly'" in fault("fly")
    assert "player name" in fault("token", "no such name", **development(redis_url="redis://127.0.0.1:1"))
    assert "127.0.0.1:1" in fault("status", PERDURE_REDIS_URL="redis://127.0.0.1:1")
    assert "no cluster is known" in fault("status", XDG_RUNTIME_DIR="/nonexistent")
    assert "columns x rows" in fault("up", "--zones", "many")
    assert "1 to 64 shards" in fault("up", "--shards", "0")


def test_a_game_that_is_not_there() -> None:
    assert "games/none" in fault("shard", "--game", "games/none", **development())


def test_games_that_are_wrong_say_file_line_and_mend(ledger: str, tmp_path: Path) -> None:
    game, text = tmp_path / "wrong.py", PACES.read_text()

    def said(replaced: str, by: str) -> str:
        assert replaced in text
        game.write_text(text.replace(replaced, by))
        line = next(n for n, row in enumerate(game.read_text().splitlines(), 1) if by.strip() in row)
        found = fault("shard", "--game", str(game), **development(redis_url=ledger, zones="3x2", world="wrong"))
        assert f"{game}:{line}" in found, found
        return found

    assert "did you mean 'steps'" in said("me.steps += 1", "me.stepz += 1")
    said("def tick(w):", "def tick(w:")
    assert "step" in said("x: f64 = q(0, 300, step=1 / 16)", "x: f64 = q(0, 300, step=-1)")
    assert "do not compile" in said("me.x = go.x", "me.x = go.x + w.walker")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_two_shards_with_one_address(ledger: str, tmp_path: Path, kind: str) -> None:
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as taken:
        taken.bind(str(tmp_path / "s") if kind == "unix" else ("127.0.0.1", 0))
        taken.listen()
        address = f"unix:{tmp_path}/s" if kind == "unix" else f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        said = fault("shard", **development(redis_url=ledger, listen=address, game=str(PACES), zones="3x2"))
        assert address in said
        assert "taken by another process" in said


def test_zones_that_are_not_those_of_the_world(ledger: str) -> None:
    said = fault("shard", "--zones", "2x2", **development(redis_url=ledger, game=str(PACES)))
    assert "3x2" in said
    assert "2x2" in said


def test_ports_that_are_taken(ledger: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in fault("gateway", "--port", port, **development(redis_url=ledger))
        assert port in fault("coordinator", "--admin-port", port, **development(redis_url=ledger))
