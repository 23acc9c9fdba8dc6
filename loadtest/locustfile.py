"""Thousands of players on a cluster, as Locust users: `locust -f loadtest/locustfile.py`, or `perdure load`.

Each user is one player (player.py) over a real websocket: signed in, steering ten times a second, decoding what it is shown, crossing
borders, resuming after a break. Rows of the report are times of the game, not of requests; a row over its bound is a failure, so
the exit code tells whether the run passed. docs/LOADTEST.md
"""

from __future__ import annotations

import gc
import random
import ssl
import sys
import time
import zlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.census import Census, verdict
from loadtest.curve import ROWS, Curve, with_picture
from loadtest.player import Conductor, Player
from loadtest.reader import Reader, compile_reader
from loadtest.report import Report, bounds_of
from loadtest.shapes import CHURN, HOTSPOT, KILLS, PATROL, RAMP, SHAPES, STORM, Asked, Shape
from loadtest.shard_killer import kill_shards
from loadtest.steering import Steer, hotspot, patrol, wander
from loadtest.websocket import gateway_url, tls_context
from perdure.client.header_protocol import HeaderProtocol
from perdure.client.protocol import ClientProtocol
from perdure.runtime.settings import secret_of_environment
from perdure.wire.tokens import make_token

BEGAN_S = time.time()
TOKEN_TTL_S = 300.0
SENT_AWAY_S = 5.0
SCENARIOS = {
    "steady": "players wander",
    "hotspot": "all walk to one point",
    "patrol": "all walk from one end of the world to the other, over every border on the way",
    "churn": "players log out after a while, and come again",
    "storm": "all sockets break at one moment, again and again",
    "kill": "players wander, and a shard is killed again and again",
}

PLAYERLESS = frozenset({"--master", "--help", "-h", "--version", "-V", "--list", "-l"})
"""Words of a command line by which no player comes into this process."""

SEEING = ("hotspot", "patrol")
"""Scenarios in which players steer by what they see."""

PICTURE: list[str] = []
"""What players felt in the last run, once it is over."""
WORKERS: dict[str, tuple[int, int]] = {}
"""What the census of each worker said last."""


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    shapes = "; ".join(f"{name}: {shape.about}" for name, shape in SHAPES.items())
    parser.add_argument(
        "--shape", choices=tuple(SHAPES), default=None, include_in_web_ui=False,
        help=f"how many players there are over time; each shape brings its scenario. {shapes}",
    )  # fmt: skip
    group = parser.add_argument_group("players")
    group.add_argument(
        "--gateway", action="append", default=[], env_var="PERDURE_GATEWAY_URLS",
        help="ws:// or wss://host:port/ws, once for each gateway; without one Locust's --host is the gateway (https:// too)",
    )  # fmt: skip
    group.add_argument("--ca-file", default="", help="wss: certificates of the authorities to trust (PEM), instead of this system's")
    group.add_argument("--insecure", action="store_true", help="wss: take any certificate; for tests")
    said = "; ".join(f"{name}: {what}" for name, what in SCENARIOS.items())
    group.add_argument("--scenario", choices=tuple(SCENARIOS), default="steady", help=said)
    group.add_argument("--commands-hz", type=float, default=10.0, help="commands a second of each player")
    group.add_argument(
        "--decode", type=float, default=1.0, help="share of the players who decode all that they see; the others read headers alone"
    )
    group.add_argument("--player-prefix", default="load", help="players are called PREFIX and a number")
    group.add_argument(
        "--every", type=float, default=20.0, help="churn: mean seconds of a visit; storm and kill: seconds from one to the next"
    )
    group.add_argument(
        "--bound", action="append", default=[], help='ROW=MS: more than so many milliseconds is a failure, e.g. "connect=900"'
    )
    group.add_argument("--entered", type=float, default=0.95, help="share of the players who must have come into the world")


class PlayerUser(User):
    """One player."""

    wait_time = constant(0)
    count = 0
    conductor: Conductor | None = None
    tls: ssl.SSLContext | None = None
    reader: Reader | None = None
    census = Census(0.0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        assert options is not None
        worker = getattr(environment.runner, "worker_index", 0)
        number, type(self).count = type(self).count, type(self).count + 1
        name, secret = f"{options.player_prefix}{max(worker, 0)}-{number}", secret_of_environment()
        self._options = options
        conductor = type(self).conductor = type(self).conductor or Conductor(options.commands_hz)
        urls = _gateways(options)
        if type(self).tls is None and any(url.startswith("wss:") for url in urls):
            type(self).tls = tls_context(options.ca_file, options.insecure)
        self._player = Player(
            urls, name, lambda: make_token(secret, name, TOKEN_TTL_S), _steering(options),
            Report(environment.events.request.fire, bounds_of(options.bound)), conductor=conductor,
            seed=zlib.crc32(name.encode()), protocol=_protocol(options, number), tls=type(self).tls,
            reader=type(self).reader,
        )  # fmt: skip

    def on_start(self) -> None:
        self.census.joins(self._player, time.monotonic())

    @task
    def play(self) -> None:
        """Play until Locust ends this user, this visit is over, or the server sends the player away for good."""
        player, options = self._player, self._options
        disturber = gevent.spawn(_disturb, player, options.scenario, options.every) if options.scenario in ("churn", "storm") else None
        try:
            player.play()
        finally:
            if disturber is not None:
                disturber.kill()
        if player.ended:
            gevent.sleep(SENT_AWAY_S)

    def stop(self, force: bool = False) -> bool:
        """Log out, so that nobody stands in the world until the grace time is over; the task then ends by itself."""
        self._player.stop()
        self.census.leaves(self._player, time.monotonic())
        return super().stop(force)


class PlayersShape(LoadTestShape):
    """What Locust asks for the number of players. It knows shapes by their classes: the page's --class-picker shows these."""

    abstract = True
    use_common_options = True
    shape: Shape

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        options.scenario = self.shape.scenario  # workers are told it with their players
        asked = Asked(options.num_users or 1, options.spawn_rate or 1.0, float(options.run_time or 0.0), options.every)
        return self.shape.tick(self.get_run_time(), asked)


class SteadyRamp(PlayersShape):
    shape = RAMP


class Hotspot(PlayersShape):
    shape = HOTSPOT


class BorderPatrol(PlayersShape):
    shape = PATROL


class Churn(PlayersShape):
    shape = CHURN


class ReconnectStorm(PlayersShape):
    shape = STORM


class ShardKills(PlayersShape):
    shape = KILLS


SHAPE_CLASSES = (SteadyRamp, Hotspot, BorderPatrol, Churn, ReconnectStorm, ShardKills)


def _gateways(options: Namespace) -> list[str]:
    """Raises ValueError where one is named wrongly."""
    given = [*filter(None, options.gateway)]  # Locust's page sends an empty one for none
    return [gateway_url(text) for text in given or ([options.host] if options.host else [])]


def _protocol(options: Namespace, number: int) -> type[ClientProtocol]:
    """Who steers by what it sees decodes all of it; of the others, as many as are wanted."""
    decodes = options.scenario in SEEING or (number + 1) * options.decode // 1 > number * options.decode // 1
    return ClientProtocol if decodes else HeaderProtocol


def _steering(options: Namespace) -> Steer:
    if options.scenario == "hotspot":
        return hotspot()
    return patrol() if options.scenario == "patrol" else wander()


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
    if not options.gateway and not options.host:
        fault = "no gateway: give --gateway ws://host:port/ws (or --host), or PERDURE_GATEWAY_URLS"
    elif options.commands_hz <= 0 or options.every <= 0:
        fault = "--commands-hz and --every are above 0"
    elif not (0 <= options.decode <= 1 and 0 <= options.entered <= 1):
        fault = "--decode and --entered are shares, from 0 to 1"
    try:
        if not fault and not secret_of_environment():
            fault = "no secret: give the cluster's in PERDURE_SECRET (or PERDURE_SECRET_FILE), to sign players in"
        bounds_of(options.bound)
        _gateways(options)
        tls_context(options.ca_file, options.insecure)
    except ValueError as error:
        fault = str(error)
    except OSError as error:
        fault = f"--ca-file {options.ca_file}: {error.strerror or error}"
    if fault:
        print(f"loadtest: {fault}", file=sys.stderr)
        raise SystemExit(2)


def _compile() -> Reader | None:
    return compile_reader(lambda what: print(f"loadtest: {what}", file=sys.stderr))


@events.init.add_listener
def _read_by_compiled_code(environment: Environment, **_: Any) -> None:
    """What is compiled is there by now; the sockets are this process's own."""
    if environment.parsed_options is not None and COMPILED and PlayerUser.reader is None:
        PlayerUser.reader = _compile()
        gc.collect()
        gc.freeze()  # what libraries brought stays: to look through all of it again takes longer than a snapshot's interval


@events.init.add_listener
def _set_clock(**_: Any) -> None:
    """The loop's clock stands still while code is compiled, and Locust counts the run time by it: a first run would be short, or none."""
    gevent.get_hub().loop.update_now()


@events.init.add_listener
def _choose_shape(environment: Environment, runner: Any = None, **_: Any) -> None:
    """Of the shapes in this file Locust would take the first, wanted or not: take the one that was asked for, or none."""
    options = environment.parsed_options
    wanted = SHAPES.get(getattr(options, "shape", None) or "")
    chosen = [one() for one in SHAPE_CLASSES if one.shape is wanted]
    environment.shape_class = chosen[0] if chosen else None
    if environment.shape_class is not None:
        environment.shape_class.runner = runner


@events.quitting.add_listener
def _tell_cost(**_: Any) -> None:
    if PlayerUser.conductor is not None and PlayerUser.conductor.snapshots:
        print(f"loadtest: the players of this process took {PlayerUser.conductor.cost()}", file=sys.stderr)


# --- the end of a run -------------------------------------------------------------------------------------------------


@events.test_start.add_listener
def _begin_census(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is not None:
        PlayerUser.census = Census(bounds_of(options.bound)["hello to first snapshot"] / 1000.0)
        WORKERS.clear()


@events.report_to_master.add_listener
def _tell_census(data: dict[str, Any], **_: Any) -> None:
    data["census"] = PlayerUser.census.count(time.monotonic())


@events.worker_report.add_listener
def _hear_census(client_id: str, data: dict[str, Any], **_: Any) -> None:
    came, missed = data.get("census", (0, 0))
    WORKERS[client_id] = (came, missed)


@events.test_stopping.add_listener
def _judge(environment: Environment, **_: Any) -> None:
    """What players wait for at the end, and for longer than they may, has failed.

    A worker says so at once: until its players have logged out may take longer than the process that leads waits.
    """
    runner, now_s = environment.runner, time.monotonic()
    for player in PlayerUser.census.here():
        player.judge(now_s)
    if isinstance(runner, WorkerRunner):
        data: dict[str, Any] = {}
        environment.events.report_to_master.fire(client_id=runner.client_id, data=data)
        runner.send_message("stats", data)


@events.quitting.add_listener
def _enough_played(environment: Environment, **_: Any) -> None:
    """A run in which many never came into the world may have broken no bound, and has proved nothing: it has failed."""
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return
    _judge(environment)  # who ends the run by a signal does not stop it before
    fault = verdict([PlayerUser.census.count(time.monotonic()), *WORKERS.values()], options.entered)
    if fault:
        print(f"loadtest: {fault}", file=sys.stderr)
        environment.process_exit_code = options.exit_code_on_error


@events.test_start.add_listener
def _begin_curve(environment: Environment, **_: Any) -> None:
    """Beside Locust's report lies what players felt over their number; the process that leads sees all of them."""
    options, runner = environment.parsed_options, environment.runner
    if options is None or not options.html_file or runner is None or isinstance(runner, WorkerRunner):
        return
    curve = Curve()

    def look() -> None:
        while True:
            gevent.sleep(1.0)
            rows = {row: environment.stats.get(row, "player").get_current_response_time_percentile(0.99) for row in ROWS}
            curve.add(runner.user_count, {row: float(value) for row, value in rows.items() if value is not None})

    looking = gevent.spawn(look)

    def write(**_: Any) -> None:
        environment.events.test_stop.remove_listener(write)
        looking.kill()
        PICTURE[:] = [curve.picture()]
        path = Path(options.html_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.stem}-players.svg").write_text(PICTURE[0])

    environment.events.test_stop.add_listener(write)


@events.quitting.add_listener
def _draw_in_report(environment: Environment, **_: Any) -> None:
    """Locust has written its report by now; not where a signal ended it, and what stands there then is an older run's."""
    options = environment.parsed_options
    if options is None or not options.html_file or not PICTURE:
        return
    path = Path(options.html_file)
    try:
        if path.exists() and path.stat().st_mtime >= BEGAN_S:
            path.write_text(with_picture(path.read_text(encoding="utf-8"), PICTURE[0]), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"loadtest: the picture of what players felt is not in {path}: {error}", file=sys.stderr)


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    """Of several processes, the one that leads kills the shards."""
    options = environment.parsed_options
    if options is not None and options.scenario == "kill" and not isinstance(environment.runner, WorkerRunner):
        killer = gevent.spawn(kill_shards, options.every, Report(environment.events.request.fire, {}))
        environment.events.test_stopping.add_listener(lambda **_: killer.kill())


COMPILED = False
if not PLAYERLESS & set(sys.argv) and (_first := _compile()) is not None:
    # Now, since a worker tells its master that it is ready before any listener is called; and before `--processes` makes more of this one.
    COMPILED = True
    _first.close()
