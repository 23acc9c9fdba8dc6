"""The load test's shapes on a real cluster, in a game in which one walks; and its page, on which they are chosen."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio

from benchmarks._tick_parts import free_port
from perdure.cli.local_cluster import LocalCluster
from perdure.client import Client
from perdure.wire.tokens import make_token
from tests.faults.loading import LOOSE, ROOT, STROLLS, USERS, failures, on, small_cluster

pytestmark = pytest.mark.timeout(300)
MIDDLE = (150.0, 100.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    async with small_cluster(STROLLS) as cluster:
        yield cluster


async def test_all_of_a_hotspot_meet_in_the_middle(cluster: LocalCluster) -> None:
    run = asyncio.create_task(asyncio.to_thread(on, cluster, "--run-time", "12s", "--shape", "hotspot", *LOOSE))
    most = 0
    async with Client(next(iter(cluster.gateway_urls.values())), make_token(cluster.secret, "watcher", 60.0)) as client:
        while not run.done():
            if (me := client.world.me) is not None and client.protocol.ready:
                way = [(at > own + 2) - (at < own - 2) for at, own in zip(MIDDLE, (me.x, me.y), strict=True)]
                client.send_command("walk", mx=way[0], my=way[1])
            near = [one for one in client.world.entities.values() if abs(one.x - MIDDLE[0]) + abs(one.y - MIDDLE[1]) < 20.0]
            most = max(most, len(near))
            await asyncio.sleep(0.1)
        await client.leave()
    code, rows, said = await run
    assert code == 0 and failures(rows) == {}, said
    assert most == USERS + 1, "all of them, and who looks"


def test_all_of_a_patrol_cross_the_borders(cluster: LocalCluster) -> None:
    code, rows, said = on(cluster, "--run-time", "12s", "--shape", "patrol", *LOOSE)
    assert code == 0 and failures(rows) == {}, said
    assert rows["crossing gap"]["num_requests"] >= USERS


def test_a_ramp_is_drawn_over_its_players_in_the_report_too(cluster: LocalCluster, tmp_path: Path) -> None:
    page = tmp_path / "made" / "run.html"
    code, rows, said = on(cluster, "--run-time", "16s", "--shape", "ramp", "--html", str(page), *LOOSE)
    assert code == 0 and failures(rows) == {}, said
    assert rows["connect"]["num_requests"] == USERS
    picture = page.with_name("run-players.svg").read_text()
    lines = [line.attrib["points"].split() for line in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}polyline")]
    assert max(map(len, lines)) >= 4, "the number of players rose step by step"
    html = page.read_text(encoding="utf-8")
    assert html.count(picture) == 1
    assert html.index("<body") < html.index(picture) < html.rindex("</body>")


def test_shapes_are_chosen_on_the_page(cluster: LocalCluster, tmp_path: Path) -> None:
    with page_of(cluster, tmp_path) as (port, said):
        shown = ask(port, "/")
        assert all(name in shown for name in ("BorderPatrol", "SteadyRamp", "PlayerUser")), "what can be chosen"
        # As the page sends it: lists in one line, and empty fields.
        form = {
            "user_count": 4, "spawn_rate": 50, "run_time": "8s", "shape_class": "BorderPatrol", "user_classes": "PlayerUser", "gateway": "",
            "bound": ",".join(LOOSE[1::2]), "scenario": "steady", "host": next(iter(cluster.gateway_urls.values())),
        }  # fmt: skip
        assert json.loads(ask(port, "/swarm", form))["success"]
        wait_until_stopped(port)
        rows = {row["name"]: row for row in stats(port)["stats"]}
        assert rows["connect"]["num_requests"] == 4, said.read_text()
        assert rows["crossing gap"]["num_requests"] >= 1 and failures(rows) == {}


@contextmanager
def page_of(cluster: LocalCluster, folder: Path) -> Iterator[tuple[int, Path]]:
    """Locust's page for a cluster; its port, and what it says."""
    port, said = free_port(), folder / "said.txt"
    words = ["--web", "--web-port", str(port), "--stop-timeout", "10", "--gateway", next(iter(cluster.gateway_urls.values())), *LOOSE]
    with said.open("w") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "perdure", "load", *words], cwd=ROOT, env={**os.environ, "PERDURE_SECRET": cluster.secret}, stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 90.0
            while True:
                assert running.poll() is None and time.monotonic() < deadline, said.read_text()
                try:
                    ask(port, "/")
                    break
                except OSError:
                    time.sleep(0.2)
            yield port, said
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60.0)


def ask(port: int, path: str, form: dict[str, Any] | None = None) -> str:
    data = urlencode(form).encode() if form is not None else None
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data), timeout=10) as answer:
        return answer.read().decode()


def stats(port: int) -> dict[str, Any]:
    return json.loads(ask(port, "/stats/requests"))


def wait_until_stopped(port: int) -> None:
    deadline = time.monotonic() + 90.0
    for states in (("spawning", "running"), ("stopped",)):
        while stats(port)["state"] not in states:
            assert time.monotonic() < deadline, f"it is not {states[-1]}"
            time.sleep(0.2)
