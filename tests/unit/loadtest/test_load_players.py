"""What the load test's players do and report: bounds, rows, and steering by the schema. (A whole run: tests/faults/test_load.py.)"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtest.player import Player
from loadtest.report import BOUNDS_MS, BoundBroken, Broken, Report, bounds_of
from loadtest.steering import hotspot, patrol, walking, wander
from perdure.cli.cluster_access import ClusterAddress
from perdure.cli.load import command, processes_hint
from perdure.game.loading import load_game

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = ClusterAddress("redis://r", "main", "s", gateway_url="ws://there/ws")
ARENA = load_game("games/arena").game.schema()


def somebody(x: float, y: float) -> Player:
    """A player of the arena who stands there."""
    protocol = SimpleNamespace(commands={entry.name: entry for entry in ARENA.commands}, schema=ARENA)
    return cast("Player", SimpleNamespace(random=random.Random(1), me=SimpleNamespace(x=x, y=y), protocol=protocol))


def direction(player: Player, steer: Any) -> dict[str, float]:
    given = steer(player)
    assert given is not None
    entry, values = given
    return {field.name: value for field, value in zip(entry.fields, values, strict=True)}


def test_a_row_over_its_bound_is_a_failure_and_one_within_is_none() -> None:
    rows: list[dict[str, Any]] = []
    report = Report(lambda **row: rows.append(row), bounds_of(["connect=100"]))
    report.took("connect", 0.099)
    report.took("connect", 0.101)
    report.took("a row without a bound", 1000.0)
    report.broke("drop", "the socket broke")
    report.counted("bytes per player and second", 7400.4)
    faults = [type(row["exception"]) for row in rows]
    assert faults == [type(None), BoundBroken, type(None), Broken, type(None)]
    assert rows[0]["response_time"] == pytest.approx(99.0) and rows[0]["response_length"] == 0
    assert (rows[-1]["response_time"], rows[-1]["response_length"]) == (7400.4, 7400)
    assert str(rows[1]["exception"]) == "over its bound of 100 ms"


def test_what_is_late_is_one_failure_and_has_its_time_when_it_is_over() -> None:
    rows: list[dict[str, Any]] = []
    report = Report(lambda **row: rows.append(row), bounds_of(["connect=100"]))
    report.late("connect")
    report.took("connect", 9.0, judged=True)
    assert [(row["response_time"], type(row["exception"])) for row in rows] == [(None, BoundBroken), (9000.0, type(None))]
    assert str(rows[0]["exception"]) == "not over within its bound of 100 ms"
    assert (report.bound_s("connect"), report.bound_s("queue"), report.bound_s("drop")) == (0.1, float("inf"), float("inf"))


def test_bounds_are_read_and_wrong_ones_named() -> None:
    assert bounds_of([]) == bounds_of([""]) == BOUNDS_MS
    assert bounds_of(["blackout (failover)=700"])["blackout (failover)"] == 700.0
    for wrong in ("conect=5", "connect", "connect=soon", "connect=-1", "connect=nan", "connect=inf"):
        with pytest.raises(ValueError, match="it is ROW=MS, with one of the rows connect, "):
            bounds_of([wrong])


def test_who_patrols_walks_to_one_end_and_then_to_the_other() -> None:
    steer = patrol()
    assert direction(somebody(2000.0, 300.0), steer)["mx"] == 1
    assert direction(somebody(4000.0, 300.0), steer)["mx"] == -1
    assert direction(somebody(2000.0, 300.0), steer)["mx"] == -1
    assert direction(somebody(10.0, 300.0), steer)["mx"] == 1


def test_all_walk_to_the_hotspot_and_stop_there() -> None:
    steer = hotspot()
    towards = direction(somebody(2048.0, 100.0), steer)
    assert (towards["mx"], towards["my"]) == (0, 1)
    assert set(direction(somebody(2048.5, 2048.5), steer).values()) == {0}
    assert steer(cast("Player", SimpleNamespace(me=None, protocol=somebody(0, 0).protocol))) is None


def test_who_wanders_sends_every_command_within_its_ranges() -> None:
    player, seen = somebody(1.0, 1.0), set[str]()
    for _ in range(200):
        given = wander()(player)
        assert given is not None
        entry, values = given
        seen.add(entry.name)
        assert all(field.lo <= value <= field.hi for field, value in zip(entry.fields, values, strict=True))
    assert seen == {entry.name for entry in ARENA.commands}


def test_a_game_in_which_nobody_walks_is_told_so() -> None:
    player = cast("Player", SimpleNamespace(protocol=SimpleNamespace(commands={})))
    with pytest.raises(ValueError, match="use the scenario steady"):
        walking(player)


def options_of(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"spawn_rate": 0.0, "run_time": "", "processes": 1, "gateway": [], "html": "", "web": False} | given)


@pytest.mark.parametrize(
    ("users", "processes", "rate", "run_time"),
    [(200, 1, "50", "64s"), (2000, 1, "100", "80s"), (2000, 2, "100", "80s"), (4000, 1, "100", "100s"), (40_000, 4, "200", "260s")],
)
def test_players_come_in_time_and_all_of_them_stay_for_a_minute(users: int, processes: int, rate: str, run_time: str) -> None:
    words = command(options_of(users=users, processes=processes), [], ADDRESS)
    assert words[words.index("--spawn-rate") + 1] == rate
    assert words[words.index("--run-time") + 1] == run_time


def test_what_was_asked_for_stands() -> None:
    words = command(options_of(users=2000, spawn_rate=20.0, run_time="9s"), [], ADDRESS)
    assert words[words.index("--spawn-rate") + 1] == "20" and words[words.index("--run-time") + 1] == "9s"
    words = command(options_of(users=2000, spawn_rate=20.0), [], ADDRESS)
    assert words[words.index("--run-time") + 1] == "160s", "a hundred seconds of coming, and a minute"


def test_many_players_in_one_process_are_remarked_on_where_there_are_more_cores() -> None:
    assert processes_hint(options_of(users=1500), 8) == processes_hint(options_of(users=9000), 1) == ""
    assert processes_hint(options_of(users=9000, processes=2), 8) == ""
    assert processes_hint(options_of(users=2000), 2).endswith("--processes 2")
    assert processes_hint(options_of(users=9000), 4).endswith("--processes 4")
    assert processes_hint(options_of(users=9000), 16).endswith("--processes 6")


def test_shapes_are_chosen_on_the_page_unless_one_was_asked_for() -> None:
    assert "--class-picker" in command(options_of(users=2, web=True), [], ADDRESS)
    assert "--class-picker" not in command(options_of(users=2), [], ADDRESS)
    for shape in (["--shape", "ramp"], ["--shape=ramp"]):
        assert "--class-picker" not in command(options_of(users=2, web=True), shape, ADDRESS)
    master = (ROOT / "docker-compose.yml").read_text().split("\n  loadtest:\n")[1].split("\n  loadtest-worker:\n")[0]
    assert "--class-picker" in master.split("command: [")[1].split("]")[0].split(", ")


def test_the_verb_hands_locust_what_it_was_given() -> None:
    options = argparse.Namespace(users=7, spawn_rate=5.0, run_time="9s", processes=2, gateway=[], html="run.html", web=False)
    words = " ".join(command(options, ["--scenario", "churn"], ADDRESS))
    for expected in ("--users 7", "--headless", "--run-time 9s", "--processes 2", "--html run.html", "--gateway ws://there/ws"):
        assert expected in words
    assert words.endswith("--scenario churn")
    options.web, options.gateway = True, ["ws://a/ws", "ws://b/ws"]
    words = " ".join(command(options, [], ADDRESS))
    assert "--headless" not in words and "--gateway ws://a/ws --gateway ws://b/ws" in words
