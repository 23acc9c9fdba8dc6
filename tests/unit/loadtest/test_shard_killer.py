"""Kills that cannot be ordered, or are not obeyed, are failures that say what to do."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest import shard_killer
from loadtest.shard_killer import HINT, OBEY_S, Killer


class Cluster:
    """What the verbs say of a cluster of two shards, and what they were asked."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []
        self.epoch, self.refusal = 1, ""
        self.now_s = 100.0

    def perdure(self, *words: str) -> tuple[bool, str]:
        self.said.append(words)
        if self.refusal and words[0] in self.refusal:
            return False, self.refusal
        zones = [{"zone": n, "owner": f"shard-{n % 2}", "epoch": self.epoch} for n in range(4)]
        members: list[dict[str, Any]] = [{"name": f"shard-{n}", "kind": "shard", "state": "ready"} for n in range(2)]
        return True, json.dumps({"members": members, "zones": zones}) if words[0] == "status" else ""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(shard_killer, "_perdure", made.perdure)
    monkeypatch.setattr(shard_killer, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made


def test_a_kill_that_is_obeyed_is_followed_by_the_next(cluster: Cluster) -> None:
    killer = Killer()
    for _ in range(3):
        assert killer.kill_one() == ""
        cluster.epoch += 1
        cluster.now_s += OBEY_S
    assert [words[0] for words in cluster.said] == ["status", "kill"] * 3


def test_a_shard_that_lives_on_is_a_failure_that_says_why(cluster: Cluster) -> None:
    killer = Killer()
    assert killer.kill_one() == ""
    assert killer.kill_one() == "", "there is time yet"
    cluster.now_s += OBEY_S
    fault = killer.kill_one()
    assert fault.startswith("shard-") and fault.endswith("shards obey a kill in development mode alone (PERDURE_DEVELOPMENT=1)")


@pytest.mark.parametrize("refusal", ["status: no cluster is known here", "kill: user operator may not do FCALL"])
def test_who_cannot_order_a_kill_is_told_what_it_takes(cluster: Cluster, refusal: str) -> None:
    cluster.refusal = refusal
    assert Killer().kill_one() == f"{refusal}; {HINT}"
