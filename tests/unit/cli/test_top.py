"""`perdure top` over a memory ledger: what it prints for people and for scripts."""

from __future__ import annotations

import argparse
import io
from dataclasses import replace

import orjson
import pytest
from rich.console import Console

from coordinator.chronicle import Chronicle
from coordinator.live_picture import picture
from coordinator.trends import Trends
from perdure.cli.top import MOST_ROWS, _bytes, _spark, _Top, screen
from tests.unit.coordinator.admin_bench import WORLD
from tests.unit.coordinator.fake_cluster import FakeCluster, drive, running

TOLD = {"tick_ms": {"p50": 2.0, "p99": 61.0}, "commit_ms": {"p99": 1.5}, "bytes_s": 2500}


def printed(cluster: FakeCluster, chronicle: Chronicle | None = None, zones: bool = True) -> str:
    trends = Trends()
    trends.observe(0.0, cluster.view())
    console = Console(file=io.StringIO(), width=160)
    world = replace(WORLD, columns=cluster.columns, rows=cluster.rows)
    events = chronicle.since(0) if chronicle else []
    console.print(screen(picture(cluster.view(), world, {3: 7}, {}), events, trends.to_json(0.0), zones=zones))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_shows_who_runs_what_and_how_fast() -> None:
    cluster = running()
    cluster.say("s0", **TOLD)
    text = printed(cluster)
    assert "16 rows" not in text and "4x4 zones" in text and "7 players" in text and "every zone runs" in text
    row = next(line for line in text.splitlines() if line.startswith(" s0"))
    assert "61.00" in row and "1.50" in row and "2.5 kB/s" in row
    assert "moving to" in text and "moving to" not in printed(cluster, zones=False)


def test_names_are_not_taken_for_markup() -> None:
    cluster = FakeCluster()
    cluster.join("[red]s[/]")
    cluster.settle()
    assert "[red]s[/]" in printed(cluster)


def test_what_happened_stands_below() -> None:
    cluster = running()
    chronicle = Chronicle()
    chronicle.observe(0.0, cluster.view())
    cluster.depart("s1")
    chronicle.observe(1.0, cluster.view())
    assert "shard s1 left" in printed(cluster, chronicle)


def test_a_table_is_cut_to_a_screen_and_says_so() -> None:
    text = printed(running(columns=8, rows=8))
    assert f"{MOST_ROWS} of 64 zones" in text
    assert any(line.split()[:1] == ["3"] for line in text.splitlines()), "the zone with players is among them"


def test_a_world_without_anything_is_shown() -> None:
    text = printed(FakeCluster())
    assert "nobody" in text and "without a shard" in text


@pytest.mark.parametrize("json", [True, False])
def test_once_prints_one_picture(json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = running()
    options = argparse.Namespace(json=json, once=True, interval=1.0, no_zones=False)
    assert drive(_Top(options, cluster.ledger).run()) == 0
    out = capsys.readouterr().out
    if json:
        found = orjson.loads(out)
        assert [shard["name"] for shard in found["shards"]] == ["s0", "s1", "s2", "s3"] and len(found["zones"]) == 16
    else:
        assert "shard" in out and "s3" in out


def test_numbers_are_short() -> None:
    assert [_bytes(value) for value in (None, 5, 1500, 2.5e6, 3e9)] == ["-", "5 B", "1.5 kB", "2.5 MB", "3.0 GB"]
    assert _spark([0.0, 1.0, None, 2.0]) == "▁▄█" and _spark([0.0]) == "▁" and _spark([]) == ""
