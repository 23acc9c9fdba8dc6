"""`perdure up` as people start it, every verb against it, and Ctrl-C: exit code 0, and no process is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perdure.wire.tokens import check_token
from tests.faults.processes import left_of, processes_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(400)


@dataclass
class Up:
    """A running `perdure up`, what it says, and the verbs against it."""

    process: subprocess.Popen[str]
    folder: str
    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def until(self, what: str, condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert self.process.poll() is None, f"perdure up ended while waiting for {what}:\n{self.said}"
            assert time.monotonic() < deadline, f"after {deadline_s:g} s still not: {what}\n{self.said}"
            time.sleep(0.05)

    def verb(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "perdure", *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        if code:
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
            return done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        return json.loads(self.verb("status", "--json"))

    def members(self, kind: str) -> dict[str, dict[str, Any]]:
        return {m["name"]: m for m in self.status()["members"] if m["kind"] == kind}

    def owners(self) -> dict[int, str]:
        return {z["zone"]: z["owner"] for z in self.status()["zones"]}


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Two shards, five bots, any port; its files and its state file in a folder of this test's own."""
    with tempfile.TemporaryDirectory(prefix="perdure-up-") as folder:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_") or key == "PERDURE_CACHE_DIR"}
        environment = clean | {"TMPDIR": folder, "XDG_RUNTIME_DIR": folder, "COLUMNS": "200"}
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure", "up", "--bots", "5", "--shards", "2", "--zones", "3x2", "--port", "0"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        running = Up(process, folder, environment)
        reader = threading.Thread(target=running.read, daemon=True)
        reader.start()
        try:
            running.until("the greeting", lambda: "Ctrl-C ends everything" in running.said, 240.0)
            yield running
        finally:
            if process.poll() is None:
                process.kill()  # its children die with it
            process.wait()
            reader.join(10)
            if process.stdout is not None:
                process.stdout.close()


def test_it_says_where_players_connect(up: Up) -> None:
    assert re.search(r"players: ws://127\.0\.0\.1:\d+/ws", up.said)
    assert "2 shards, zones 3x2, 5 bots" in up.said


def test_status_and_players(up: Up) -> None:
    up.until("all bots are in", lambda: up.status()["players"] == 5)
    found = up.status()
    assert {m["name"] for m in found["members"]} == {"coordinator-1", "coordinator-2", "gateway-1", "shard-1", "shard-2"}
    assert set(up.owners().values()) == {"shard-1", "shard-2"}
    assert "shard-2" in up.verb("status")
    players = json.loads(up.verb("players", "--json"))
    assert [p["player"] for p in players] == [f"bot{k}" for k in range(5)]
    assert all(p["connected"] for p in players)
    assert "bot3" in up.verb("players")


def test_token(up: Up) -> None:
    state = json.loads((Path(up.folder) / "perdure-local.json").read_text())
    assert check_token(state["secret"], up.verb("token", "ada").strip()) == "ada"


def test_migrate(up: Up) -> None:
    zone, owner = next(iter(up.owners().items()))
    other = "shard-1" if owner == "shard-2" else "shard-2"
    up.verb("migrate", str(zone), other)
    up.until(f"zone {zone} runs on {other}", lambda: up.owners()[zone] == other)
    assert other in up.verb("migrate", str(zone), other, code=1)


def test_pause(up: Up) -> None:
    up.verb("pause", "shard-1", "--ms", "300")
    up.until("it ticks on", lambda: "shard-1" in up.members("shard") and all(up.owners().values()))


def test_kill_and_the_restart(up: Up) -> None:
    pid = up.members("shard")["shard-2"]["pid"]
    up.verb("kill", "shard-2")

    def back() -> bool:
        member = up.members("shard").get("shard-2")
        return member is not None and member["pid"] != pid and member["state"] == "ready" and bool(member["zones"])

    up.until("it is back and has zones", back, 60.0)
    assert "shard-2 ended with code -9; starting it again" in up.said
    assert up.status()["players"] == 5


def test_log_and_replay(up: Up) -> None:
    assert len([line for line in up.verb("log", "0", "--limit", "5").splitlines() if line.startswith("tick ")]) == 5
    assert "state_hash" in up.verb("log", "0", "--limit", "1", "--json")
    assert "all is there, once" in up.verb("audit")
    assert json.loads(up.verb("audit", "--json"))["faults"] == []
    replayed = up.verb("replay", "all").splitlines()
    assert len(replayed) == 6
    assert all("every state hash as logged" in line for line in replayed)


def test_kick(up: Up) -> None:
    up.verb("kick", "bot4")
    up.until("it is out", lambda: "bot4" not in up.verb("players"))


def test_what_cannot_be_done_is_said_in_one_line(up: Up) -> None:
    assert "nobody" in up.verb("kill", "nobody", code=1)
    assert "nobody" in up.verb("drain", "nobody", code=1)
    assert "no zone 99" in up.verb("migrate", "99", "shard-1", code=1)
    assert "shard-9" in up.verb("migrate", "0", "shard-9", code=1)
    assert "nobody" in up.verb("kick", "nobody", code=1)
    assert "no zone 99" in up.verb("log", "99", code=1)
    assert "no zone 99" in up.verb("replay", "99", code=2)


def test_ctrl_c_ends_everything(up: Up) -> None:
    assert len(processes_of(up.folder)) > 6
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0, up.said
    assert left_of(up.folder) == {}
    assert not (Path(up.folder) / "perdure-local.json").exists()
    assert not list(Path(up.folder).glob("perdure-*/")), "its folder is still there"
