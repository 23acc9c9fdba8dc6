"""Kills a shard again and again, by the verbs that an operator has: `perdure status` and `perdure kill`.

Each kill is a row of the report ("shard killed": how long the order took); what players felt is in their own rows. A kill that cannot
be ordered is a failure that says why. Called by locustfile, in the process that leads.
"""

from __future__ import annotations

import json
import random
import sys
import time

import gevent
from gevent import subprocess

from loadtest.report import Measures

ROW = "shard killed"
ORDER_DEADLINE_S = 10.0


def kill_shards(every_s: float, measures: Measures) -> None:
    """Kill one ready shard every `every_s` seconds for as long as this greenlet lives; never the last one."""
    while True:
        gevent.sleep(every_s)
        started_s = time.monotonic()
        fault = kill_one()
        if fault:
            measures.broke(ROW, fault)
        else:
            measures.took(ROW, time.monotonic() - started_s)


def kill_one() -> str:
    """Kill a ready shard; return why it was not done, or an empty string."""
    found, text = _perdure("status", "--json")
    if not found:
        return text
    ready = [m["name"] for m in json.loads(text)["members"] if m["kind"] == "shard" and m.get("state") == "ready"]
    if len(ready) < 2:
        return f"{len(ready)} shards are ready: the last one is not killed"
    done, text = _perdure("kill", random.choice(ready))
    return "" if done else text


def _perdure(*words: str) -> tuple[bool, str]:
    """Run a verb; return whether it was done, and what it printed, or its last line of complaint."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "perdure", *words], capture_output=True, text=True, timeout=ORDER_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"perdure {words[0]} did not end within {ORDER_DEADLINE_S:g} s"
    if done.returncode == 0:
        return True, done.stdout
    return False, (done.stderr.strip().splitlines() or [f"perdure {words[0]} ended with code {done.returncode}"])[-1][:160]
