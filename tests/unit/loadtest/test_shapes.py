"""How many players each shape wants, and when; and that Locust knows each by a class, and takes the one that was asked for."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.shapes import CHURN, RAMP, SHAPES, Asked

ROOT = Path(__file__).resolve().parents[3]
ASKED = Asked(users=200, spawn_rate=50.0, run_time_s=80.0, every_s=20.0)
WITHOUT_END = Asked(users=200, spawn_rate=50.0, run_time_s=0.0, every_s=20.0)


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_has_all_players_once_and_ends_with_the_run(name: str) -> None:
    wanted = [SHAPES[name].tick(float(second), ASKED) for second in range(80)]
    assert max(one[0] for one in wanted if one is not None) == ASKED.users
    assert all(one is not None and one[0] >= 1 and one[1] >= 10.0 for one in wanted)
    assert SHAPES[name].tick(80.0, ASKED) is None
    assert SHAPES[name].tick(1e6, WITHOUT_END) is not None, "without a run time it goes on until it is stopped"


def test_a_ramp_rises_in_even_steps_until_all_are_there() -> None:
    wanted = [RAMP.players_at(float(second), ASKED)[0] for second in range(80)]
    assert wanted[0] == 10 and wanted[60:] == [200] * 20
    assert {after - before for before, after in itertools.pairwise(wanted)} == {0, 10}
    assert RAMP.players_at(2.0, WITHOUT_END)[0] == 110, "without a run time the spawn rate says how long it takes"


def test_a_churn_ebbs_and_flows() -> None:
    assert [CHURN.players_at(passed, ASKED)[0] for passed in (0.0, 19.0, 20.0, 39.0, 40.0)] == [200, 200, 100, 100, 200]


def test_locust_knows_each_shape_and_takes_the_one_that_was_asked_for_or_none() -> None:
    asked = """
import json
from argparse import Namespace
from types import SimpleNamespace
from loadtest import locustfile
from loadtest.shapes import SHAPES

def chosen(name):
    environment = SimpleNamespace(parsed_options=Namespace(shape=name), shape_class=locustfile.SteadyRamp())
    locustfile._choose_shape(environment, runner="the runner")
    return environment.shape_class and [environment.shape_class.shape.about, environment.shape_class.runner]

print(json.dumps([chosen(name) for name in [None, *SHAPES]]))
"""  # in a process of its own: Locust patches Python's sockets when it is imported
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == [None, *([shape.about, "the runner"] for shape in SHAPES.values())]


def test_the_run_time_begins_when_all_is_compiled() -> None:
    asked = """
import time
import gevent
from gevent import monkey
from loadtest import locustfile

monkey.get_original("time", "sleep")(2.0)  # a compiler at work
locustfile.events.init.fire(environment=locustfile.Environment(), runner=None, web_ui=None)
began = time.monotonic()
gevent.spawn_later(1.0, lambda: print(time.monotonic() - began)).join()
"""
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout) > 0.9
