"""The cluster in containers: built, scaled, killed and scaled again under bots that play from outside; no socket drops.

Needs a container engine; run by `make compose-test`. Containers, network and volume are this test's own (a project name of
its own) and are gone afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.client.bots import BotsReport, run_bots
from perdure.runtime.settings import DEVELOPMENT_SECRET

ROOT = Path(__file__).resolve().parents[2]
PROJECT = f"perdure-test-{os.getpid()}"
PORTS = "18480-18489"
LOADTEST_PORT = "18479"
BOTS = 20
PLAYERS = 100

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]


def compose(*arguments: str, timeout_s: float = 900) -> str:
    """Run docker compose for this test's project; return what it printed."""
    done = subprocess.run(
        ["docker", "compose", "--project-name", PROJECT, *arguments],
        cwd=ROOT,
        env={**os.environ, "PERDURE_GATEWAY_PORTS": PORTS, "PERDURE_LOADTEST_PORT": LOADTEST_PORT, "PERDURE_TAG": "test"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"docker compose {' '.join(arguments)}: {done.stderr[-3000:]}"
    return done.stdout


def containers(service: str) -> list[dict[str, str]]:
    lines = compose("ps", "--all", "--format", "json", service).splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def wait_until(what: str, condition: Callable[[], bool], deadline_s: float = 240.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"after {deadline_s:.0f} s still not: {what}\n{compose('ps', '--all')}\n{compose('logs', '--tail', '15')[-6000:]}")
        time.sleep(1.0)


def status() -> dict[str, list[dict[str, object]]]:
    return json.loads(compose("exec", "-T", "coordinator", "python", "-m", "perdure", "status", "--json"))


def shards_at_work(count: int) -> bool:
    """Whether exactly `count` shards are ready, and every zone is run by one of them, none on its way."""
    found = status()
    ready = {m["name"] for m in found["members"] if m["kind"] == "shard" and m.get("state") == "ready" and not m["draining"]}
    zones = found["zones"]
    return len(ready) == count and len(zones) == 16 and all(z["owner"] in ready and not z["successor"] for z in zones)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Four shards, up and healthy; yields the gateway's websocket URL."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no container engine runs here")
    try:
        compose("up", "--build", "--detach", "--scale", "shard=4")
        wait_until("four shards run all zones", lambda: _answers() and shards_at_work(4))
        host_port = compose("port", "gateway", "8080").strip()
        yield f"ws://{host_port}/ws"
    finally:
        compose("--profile", "loadtest", "down", "--volumes", "--timeout", "20")


def _answers() -> bool:
    try:
        status()
    except (AssertionError, ValueError):
        return False
    return True


async def test_players_go_on_while_shards_are_killed_and_scaled(cluster: str) -> None:
    stop, entered = asyncio.Event(), asyncio.Event()
    bots = asyncio.ensure_future(run_bots(cluster, DEVELOPMENT_SECRET, BOTS, "outside", stop=stop, all_entered=entered))
    await asyncio.wait({asyncio.ensure_future(entered.wait()), bots}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    try:
        phases = await asyncio.to_thread(_break_things)
        logs = await asyncio.to_thread(compose, "logs", "--no-color", "--timestamps", "shard", "coordinator", "gateway")
    finally:
        stop.set()
    report: BotsReport = await bots
    assert all(bot.entered for bot in report.bots), [bot.error for bot in report.bots]
    assert report.socket_drops == 0, [end for bot in report.bots for end in bot.socket_drops]
    assert report.acknowledged_lost == 0
    assert all(bot.acknowledged for bot in report.bots)
    when, gap = max((gap for bot in report.bots for gap in bot.gaps), key=lambda g: g[1])
    during = next((name for start, name in reversed(phases) if start <= when), "the start")
    print(f"longest gap {gap:.2f} s, while: {during}")
    assert gap < 5.0, f"a player saw nothing for {gap:.1f} s, while: {during}\n{logs[-20000:]}"


def test_each_role_is_a_user_of_the_ledger_and_the_operator_looks_only(cluster: str) -> None:
    replayed = compose("run", "--rm", "-T", "operator", "replay", "0")
    assert "every state hash as logged" in replayed
    assert json.loads(compose("run", "--rm", "-T", "operator", "status", "--json"))["zones"]
    refused = subprocess.run(
        ["docker", "compose", "--project-name", PROJECT, "run", "--rm", "-T", "operator", "kick", "nobody"],
        cwd=ROOT, env={**os.environ, "PERDURE_TAG": "test"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert refused.returncode == 2 and "user operator may not do FCALL" in refused.stderr, refused.stderr[-1000:]
    assert "NOAUTH" in compose("exec", "-T", "valkey", "valkey-cli", "info")
    logs = compose("logs", "--no-color", "shard", "coordinator", "gateway")
    assert "may not do" not in logs, [line for line in logs.splitlines() if "may not do" in line][:5]


def test_gateways_send_by_compiled_code(cluster: str) -> None:
    """The kernels that the image brings are unpacked there too; compiling them takes seconds."""
    lines = [json.loads(line.split("|", 1)[1]) for line in compose("logs", "--no-color", "gateway").splitlines() if "compiled" in line]
    told = {line["event"]: line.get("took_ms", 0) for line in lines}
    assert set(told) == {"sockets_compiled"} and told["sockets_compiled"] < 3000, lines


def test_metrics_of_shards_are_inside_the_network(cluster: str) -> None:
    ask = "import sys, urllib.request as r; print(r.urlopen(f'http://{sys.argv[1]}:7702/metrics', timeout=5).read().decode())"
    for one in containers("shard"):
        if one["State"] == "running":
            text = compose("exec", "-T", "coordinator", "python", "-c", ask, one["Name"])
            assert "perdure_zone_rung" in text and "perdure_players" in text


def test_metrics_are_not_on_the_public_port(cluster: str) -> None:
    public = cluster.replace("ws://", "http://").removesuffix("/ws")
    with urllib.request.urlopen(public + "/readyz", timeout=5) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(public + "/metrics", timeout=5)
    refused.value.close()
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:7702/metrics', timeout=5).read().decode())"
    assert "perdure_gateway_sessions" in compose("exec", "-T", "gateway", "python", "-c", ask)


def test_the_load_test_runs_to_its_end_from_its_page(cluster: str) -> None:
    compose("--profile", "loadtest", "build", "--quiet")
    compose("--profile", "loadtest", "up", "--detach", "--no-deps", "--no-recreate", "loadtest", "loadtest-worker")
    try:
        wait_until("a worker is at work for the page", lambda: bool(page("/stats/requests").get("workers")), 120.0)
        assert page("/swarm", f"user_count={PLAYERS}&spawn_rate=50&run_time=8")["success"]
        wait_until("the run has begun", lambda: page("/stats/requests")["state"] in ("spawning", "running"), 20.0)
        wait_until("the run is over", lambda: page("/stats/requests")["state"] == "stopped", 60.0)
        rows = {row["name"]: row for row in page("/stats/requests")["stats"]}
        assert rows["connect"]["num_requests"] == PLAYERS == rows["hello to first snapshot"]["num_requests"], rows
        assert rows["command to effect"]["num_requests"] >= PLAYERS
        assert not {"drop", "snapshot", "command"} & rows.keys(), rows
    finally:
        compose("--profile", "loadtest", "rm", "--stop", "--force", "loadtest", "loadtest-worker")


def page(path: str, form: str | None = None) -> dict[str, Any]:
    """Ask the load test's page for something, or send it a form; an empty answer while it does not listen yet."""
    try:
        asked = urllib.request.Request(f"http://127.0.0.1:{LOADTEST_PORT}{path}", data=form.encode() if form is not None else None)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return {}


def _break_things() -> list[tuple[float, str]]:
    """Kill a container and scale three times; return when each began."""
    phases = [(time.monotonic(), "a shard is killed")]
    victim = next(c["Name"] for c in containers("shard") if c["State"] == "running")
    subprocess.run(["docker", "kill", victim], check=True, capture_output=True)
    wait_until("its zones run on the others", lambda: len(status()["zones"]) == 16 and _all_owned())
    phases.append((time.monotonic(), "a fourth shard comes"))
    compose("up", "--detach", "--no-recreate", "--scale", "shard=4")
    wait_until("four shards again", lambda: shards_at_work(4))
    phases.append((time.monotonic(), "two shards leave"))
    compose("up", "--detach", "--no-recreate", "--scale", "shard=2")
    wait_until("two shards run everything", lambda: shards_at_work(2))
    phases.append((time.monotonic(), "three shards come"))
    compose("up", "--detach", "--no-recreate", "--scale", "shard=5")
    wait_until("five shards", lambda: shards_at_work(5))
    return phases


def _all_owned() -> bool:
    found = status()
    alive = {m["name"] for m in found["members"] if m["kind"] == "shard"}
    return all(zone["owner"] in alive for zone in found["zones"])
