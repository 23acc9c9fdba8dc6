"""Thousands of players on a cluster, as Locust users: `locust -f loadtest/locustfile.py`, or `perdure load`.

Each user is one player (player.py) over a real websocket: signed in, steering ten times a second, decoding what it is shown, crossing
borders, resuming after a break. Rows of the report are times of the game, not of requests; a row over its bound is a failure, so
the exit code tells whether the run passed.
"""

from __future__ import annotations

import os
import random
import time
from argparse import Namespace
from typing import Any

import gevent
from locust import User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.player import Player
from loadtest.steering import Steer, hotspot, patrol, wander
from perdure.wire.tokens import make_token

TOKEN_TTL_S = 300.0
BOUNDS_MS = {
    "connect": 5000.0, "hello to first snapshot": 5000.0, "command to effect": 500.0, "snapshot jitter": 500.0, "crossing gap": 500.0,
    "blackout (failover)": 1000.0, "blackout (socket broke)": 10_000.0,
}  # fmt: skip
"""Row -> milliseconds that it may take. `--bound "ROW=MS"` changes one."""
SCENARIOS = ("steady", "hotspot", "patrol", "churn", "storm")


class BoundBroken(Exception):
    """A row took longer than it may."""


class Drop(Exception):
    """A socket ended, or a command was refused, without the player's asking."""


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("players")
    group.add_argument(
        "--gateway", action="append", default=[], env_var="PERDURE_GATEWAYS", help="ws://host:port/ws, once for each gateway"
    )
    group.add_argument("--scenario", choices=SCENARIOS, default="steady", help="what players do")
    group.add_argument("--commands-hz", type=float, default=10.0, help="commands a second of each player")
    group.add_argument("--player-prefix", default="load", help="players are called PREFIX and a number")
    group.add_argument("--world-width", type=float, default=1000.0, help="for patrol and hotspot")
    group.add_argument("--every", type=float, default=20.0, help="churn: mean seconds of a visit; storm: seconds between two storms")
    group.add_argument(
        "--bound", action="append", default=[], help='ROW=MS: more than so many milliseconds is a failure, e.g. "connect=900"'
    )


def bounds_of(given: list[str]) -> dict[str, float]:
    """Return the bounds, with those given changed. Raises ValueError that names the wrong one."""
    bounds = dict(BOUNDS_MS)
    for one in given:
        name, equals, text = one.partition("=")
        if name not in bounds or not equals:
            raise ValueError(f"--bound {one!r}: it is ROW=MS, with one of the rows {', '.join(bounds)}")
        bounds[name] = float(text)
    return bounds


class Report:
    """What players measure, as Locust's statistics."""

    def __init__(self, environment: Environment, bounds: dict[str, float]) -> None:
        self._environment, self._bounds = environment, bounds

    def took(self, name: str, seconds: float, size: int = 0) -> None:
        ms = seconds * 1000.0
        over = ms > self._bounds.get(name, float("inf"))
        self._fire(name, ms, size, BoundBroken(f"over its bound of {self._bounds[name]:g} ms") if over else None)

    def broke(self, name: str, why: str, seconds: float = 0.0) -> None:
        self._fire(name, seconds * 1000.0, 0, Drop(why))

    def _fire(self, name: str, ms: float, size: int, fault: Exception | None) -> None:
        self._environment.events.request.fire(
            request_type="player", name=name, response_time=ms, response_length=size, exception=fault, context={}
        )


class PlayerUser(User):
    """One player."""

    wait_time = constant(0)
    count = 0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        assert options is not None
        worker = getattr(environment.runner, "worker_index", 0)
        number, type(self).count = type(self).count, type(self).count + 1
        name, secret = f"{options.player_prefix}{max(worker, 0)}-{number}", os.environ["PERDURE_SECRET"]
        self._options = options
        self._player = Player(
            options.gateway, name, lambda: make_token(secret, name, TOKEN_TTL_S), _steering(options),
            Report(environment, bounds_of(options.bound)), commands_hz=options.commands_hz, seed=hash(name),
        )  # fmt: skip

    @task
    def play(self) -> None:
        """Play until Locust ends this user, or the server sends the player away for good."""
        player, options = self._player, self._options
        disturber = gevent.spawn(_disturb, player, options.scenario, options.every) if options.scenario in ("churn", "storm") else None
        try:
            player.play()
        finally:
            if disturber is not None:
                disturber.kill()
        if player.ended:
            gevent.sleep(5.0)
        player.stopping = False

    def on_stop(self) -> None:
        """Log out, so that nobody stands in the world until the grace time is over."""
        self._player.stop()


def _steering(options: Namespace) -> Steer:
    if options.scenario == "hotspot":
        return hotspot(options.world_width / 2, options.world_width / 2)
    return patrol(options.world_width) if options.scenario == "patrol" else wander()


def _disturb(player: Player, scenario: str, every_s: float) -> None:
    if scenario == "churn":
        gevent.sleep(random.expovariate(1.0 / every_s))
        player.stop()
        return
    while True:  # all at once: by the clock that they share
        gevent.sleep(every_s - time.time() % every_s)
        player.drop()


@events.init.add_listener
def _check(environment: Environment, **_: Any) -> None:
    """Say what is missing before the first user starts."""
    options = environment.parsed_options
    if options is None:
        return
    fault = ""
    if not options.gateway:
        fault = "no gateway: give --gateway ws://host:port/ws, or PERDURE_GATEWAYS"
    elif not os.environ.get("PERDURE_SECRET"):
        fault = "no secret: give the cluster's in PERDURE_SECRET, to sign players in"
    try:
        bounds_of(options.bound)
    except ValueError as error:
        fault = str(error)
    if fault:
        raise SystemExit(f"loadtest: {fault}")
