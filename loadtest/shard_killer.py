"""Kills a shard again and again, by the verbs that an operator has: `perdure status` and `perdure kill`.

Each kill is a row of the report ("shard killed": how long the order took); what players felt is in their own rows. A kill that cannot
be ordered, or is not obeyed, is a failure that says why. Called by locustfile, in the process that leads.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import gevent
from gevent import subprocess

from loadtest.report import Measures

ROW = "shard killed"
ORDER_DEADLINE_S = 10.0
OBEY_S = 5.0
"""Zones of a shard that was killed are run anew, at a higher epoch, within so long a time."""
HINT = "a kill needs the ledger: PERDURE_REDIS_URL of a user who may give orders, as coordinators do (docs/LOADTEST.md)"


def kill_shards(every_s: float, measures: Measures) -> None:
    """Kill one ready shard every `every_s` seconds for as long as this greenlet lives; never the last one."""
    killer = Killer()
    while True:
        gevent.sleep(every_s)
        started_s = time.monotonic()
        fault = killer.kill_one()
        if fault:
            measures.broke(ROW, fault)
        else:
            measures.took(ROW, time.monotonic() - started_s)


class Killer:
    """Knows whom it had killed last, and which zones that shard ran, to see whether the order was obeyed."""

    def __init__(self) -> None:
        self._victim, self._epochs, self._ordered_s = "", dict[int, int](), 0.0

    def kill_one(self) -> str:
        """Kill a ready shard; return why it was not done, or why the last one lives, or an empty string."""
        found, text = _perdure("status", "--json")
        if not found:
            return f"{text}; {HINT}"
        status = json.loads(text)
        fault = self._obeyed(status)
        if fault:
            return fault
        ready = [m["name"] for m in status["members"] if m["kind"] == "shard" and m.get("state") == "ready"]
        if len(ready) < 2:
            return f"{len(ready)} shards are ready: the last one is not killed"
        victim = random.choice(ready)
        done, text = _perdure("kill", victim)
        if not done:
            return f"{text}; {HINT}"
        self._victim, self._epochs, self._ordered_s = victim, _epochs(status, victim), time.monotonic()
        return ""

    def _obeyed(self, status: dict[str, Any]) -> str:
        if self._epochs and time.monotonic() - self._ordered_s >= OBEY_S and _epochs(status, self._victim) == self._epochs:
            return f"{self._victim} was told to end, and lives: shards obey a kill in development mode alone (PERDURE_DEVELOPMENT=1)"
        return ""


def _epochs(status: dict[str, Any], shard: str) -> dict[int, int]:
    """Return the zones that a shard runs, each with its epoch."""
    return {zone["zone"]: zone["epoch"] for zone in status["zones"] if zone["owner"] == shard}


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
