"""`perdure top`: the cluster live in the terminal, out of the ledger, so for any cluster that the verbs reach.

Owns how the picture of `coordinator.live_picture` looks as text. Reads the view; asks nobody else and changes nothing. What happened is
told from the moment on that it looks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from coordinator.chronicle import Chronicle, ClusterEvent, EventKind
from coordinator.live_picture import picture, told_players, told_sessions
from coordinator.trends import Trends
from perdure.cli.cluster_access import ClusterAddress, parser, with_ledger
from perdure.ledger.ledger import Ledger, LedgerUnavailable
from perdure.ledger.values import WorldSettings

EVENT_LINES = 8
MOST_ROWS = 24
"""Of a table: a screen holds no more. The shards or zones with the most players come first where there are more."""
COLOURS = ("cyan", "yellow", "green", "magenta", "bright_red", "blue", "bright_green", "bright_magenta")
STYLES = {
    EventKind.LOST: "bold red", EventKind.FAILOVER: "red", EventKind.RECOVERED: "bold green", EventKind.MIGRATED: "cyan",
    EventKind.MIGRATING: "cyan", EventKind.JOINED: "green", EventKind.PAUSED: "yellow", EventKind.LEDGER_AWAY: "bold yellow",
}  # fmt: skip
SPARKS = "▁▂▃▄▅▆▇█"


def main(arguments: list[str]) -> int:
    made = parser("top", "Show the cluster live: shards, zones, gateways, rates, what happens. q ends it.")
    made.add_argument("--once", action="store_true", help="print one picture and end; so it is, too, where the output is no terminal")
    made.add_argument("--json", action="store_true", help="print one picture as JSON and end")
    made.add_argument("--interval", type=float, default=1.0, help="seconds between two readings of the ledger, 0.2 to 60")
    made.add_argument("--no-zones", action="store_true", help="leave the table of zones out")
    options = made.parse_args(arguments[1:])
    if not 0.2 <= options.interval <= 60:
        print(f"perdure top: --interval {options.interval:g}: 0.2 to 60 seconds", file=sys.stderr)
        return 2

    async def show(ledger: Ledger, address: ClusterAddress) -> int:
        return await _Top(options, ledger).run()

    return with_ledger(options, show)


class _Top:
    def __init__(self, options: argparse.Namespace, ledger: Ledger) -> None:
        self._options = options
        self._ledger = ledger
        self._chronicle = Chronicle()
        self._trends = Trends()
        self._world: WorldSettings | None = None
        self._ended = asyncio.Event()

    async def run(self) -> int:
        console = Console()
        if self._options.json:
            print(orjson.dumps(await self._look()).decode())
        elif self._options.once or not console.is_terminal:
            console.print(screen(await self._look(), [], self._trend(), zones=not self._options.no_zones))
        else:
            await self._follow(console)
        return 0

    async def _follow(self, console: Console) -> None:
        with _keys(self._ended), Live(console=console, screen=True, auto_refresh=False) as live:
            while not self._ended.is_set():
                try:
                    found = await self._look()
                except LedgerUnavailable as error:
                    self._chronicle.no_view()
                    live.update(Text(f"the ledger does not answer: {error}", "bold yellow"), refresh=True)
                else:
                    events = self._chronicle.since(0, EVENT_LINES)
                    live.update(screen(found, events, self._trend(), zones=not self._options.no_zones), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), self._options.interval)

    async def _look(self) -> dict[str, Any]:
        view = await self._ledger.view()
        self._world = self._world or await self._ledger.world()
        now_ms = time.monotonic() * 1000
        self._chronicle.observe(now_ms, view)
        self._trends.observe(now_ms, view)
        return picture(view, self._world, told_players(view), told_sessions(view))

    def _trend(self) -> dict[str, Any]:
        return self._trends.to_json(time.monotonic() * 1000)


@contextlib.contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Let q, Q and Escape end it, where there is a keyboard; the terminal is put back as it was."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    keyboard, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)

    def pressed() -> None:
        if os.read(keyboard, 64)[:1] in (b"q", b"Q", b"\x1b", b"\x04", b""):
            ended.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


# --- what it looks like -----------------------------------------------------------------------------------------------


def screen(found: dict[str, Any], events: list[ClusterEvent], trend: dict[str, Any], zones: bool = True) -> RenderableType:
    """Return the whole picture as something that rich prints."""
    colours = {shard["name"]: COLOURS[index % len(COLOURS)] for index, shard in enumerate(found["shards"])}
    budget_ms = 1000.0 / max(found["world"]["tick_hz"], 1)
    parts: list[RenderableType] = [_head(found, trend, budget_ms), _shards(found, colours, budget_ms), _gateways(found)]
    if zones and found["zones"]:
        parts.append(_zones(found, colours))
    parts += [_event(event) for event in events]
    return Group(*parts)


def _head(found: dict[str, Any], trend: dict[str, Any], budget_ms: float) -> Text:
    world, totals = found["world"], found["totals"]
    orphans = sum(1 for row in found["zones"] if not row[0])
    text = Text.assemble(
        (f"{world['name'] or 'no world yet'}", "bold"), f"  {world['game']}  {world['columns']}x{world['rows']} zones  ",
        (f"{found['players']} players", "bold green"), f"  leader {found['leader'] or 'nobody'}, term {found['term']}  ",
        (f"{orphans} zones without a shard" if orphans else "every zone runs", "bold red" if orphans else "green"),
    )  # fmt: skip
    fields = ["age", *trend["fields"]]
    told = (("tick p50", "tick_ms_p50", " ms"), ("p99", "tick_ms_p99", f" of {budget_ms:g} ms"), ("commit p99", "commit_ms_p99", " ms"))
    text.append("\n")
    for label, name, unit in told:
        at = fields.index(name)
        text.append(f"{label} ").append(f"{_number(totals[name])}{unit} ", "bold")
        text.append(_spark([sample[at] for sample in trend["samples"]]) + "  ", "cyan")
    return text.append("out ").append(f"{_bytes(totals['bytes_s'])}/s", "bold")


def _shards(found: dict[str, Any], colours: dict[str, str], budget_ms: float) -> Table:
    table = Table("shard", "state", "pid", *_right("zones", "players", "tick p50", "p99", "commit p99", "out"), box=None, padding=(0, 1))
    for shard in _most(found["shards"], lambda row: row["players"]):
        tick, commit = shard["tick_ms"], shard["commit_ms"]
        over = tick.get("p99", 0) > budget_ms
        state = "paused" if shard["paused"] else shard["state"]
        table.add_row(
            Text(shard["name"], colours[shard["name"]]), Text(state, "" if state == "ready" else "yellow"), _number(shard["pid"]),
            str(shard["zones"]), str(shard["players"]), _number(tick.get("p50")), Text(_number(tick.get("p99")), "red" if over else ""),
            _number(commit.get("p99")), f"{_bytes(shard['bytes_s'])}/s",
        )  # fmt: skip
    return table


def _gateways(found: dict[str, Any]) -> Table:
    table = Table("gateway", "state", "pid", *_right("players", "links", "frames", "commands", "out"), box=None, padding=(0, 1))
    for gateway in _most(found["gateways"], lambda row: row["players"]):
        table.add_row(
            Text(gateway["name"]), Text(gateway["state"], "" if gateway["state"] == "ready" else "yellow"), _number(gateway["pid"]),
            str(gateway["players"]), _number(gateway["links"]), f"{_number(gateway['frames_s'])}/s", f"{_number(gateway['commands_s'])}/s",
            f"{_bytes(gateway['bytes_s'])}/s",
        )  # fmt: skip
    return table


def _zones(found: dict[str, Any], colours: dict[str, str]) -> Table:
    rows = [{"zone": zone, **dict(zip(found["zone_fields"], row, strict=True))} for zone, row in enumerate(found["zones"])]
    table = Table("zone", "shard", *_right("epoch", "tick", "players", "tick ms"), "moving to", box=None, padding=(0, 1))
    for zone in _most(rows, lambda row: row["players"]):
        owner = Text(zone["owner"] or "nobody", colours.get(zone["owner"], "bold red"))
        figures = (str(zone["epoch"]), str(zone["tick"]), str(zone["players"]), _number(zone["tick_ms"]))
        table.add_row(str(zone["zone"]), owner, *figures, Text(zone["successor"]))
    if len(rows) > MOST_ROWS:
        table.caption = f"{MOST_ROWS} of {len(rows)} zones: those with the most players"
    return table


def _event(event: ClusterEvent) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(event.at_ms / 1000))
    return Text.assemble((f"{at} ", "dim"), (event.text, STYLES.get(event.kind, "")))


def _right(*headers: str) -> list[Column]:
    return [Column(header, justify="right") for header in headers]


def _most(rows: list[dict[str, Any]], weight: Any) -> list[dict[str, Any]]:
    return rows if len(rows) <= MOST_ROWS else sorted(rows, key=weight, reverse=True)[:MOST_ROWS]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _spark(values: list[float | None], width: int = 16) -> str:
    """Return the last values as a line of blocks."""
    known = [value for value in values[-width:] if value is not None]
    most = max(known, default=0.0)
    return "".join(SPARKS[min(int(value / most * 7.99), 7)] if most > 0 else SPARKS[0] for value in known)
