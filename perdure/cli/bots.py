"""`perdure bots N`: N wandering players over real websockets, until Ctrl-C or --seconds; then what they saw."""

from __future__ import annotations

import asyncio
import signal
import sys

import orjson

from perdure.cli.cluster_access import find, parser
from perdure.client.bots import run_bots


def main(arguments: list[str]) -> int:
    made = parser("bots", "Let bots play: they wander, cross borders, and use every command of the game.")
    made.add_argument("count", type=int, help="how many")
    made.add_argument("--url", action="append", default=[], help="gateway (ws://host:port/ws), once for each; empty: of `perdure up`")
    made.add_argument("--seconds", type=float, default=0, help="how long; 0: until Ctrl-C")
    made.add_argument("--prefix", default="bot", help="names are PREFIX0, PREFIX1, ...")
    made.add_argument("--commands-hz", type=float, default=10.0, help="commands a second of each bot")
    made.add_argument("--quiet", action="store_true", help="print no report")
    options = made.parse_args(arguments[1:])
    if not 1 <= options.count <= 10_000:
        print("perdure bots: the count is 1 to 10000", file=sys.stderr)
        return 2
    if options.url and not options.redis_url:
        options.redis_url = "unused"  # only a URL and the secret are needed
    address = find(options)
    urls = options.url or [address.gateway_url]
    if not urls[0] or not address.secret:
        print("perdure bots: give --url of a gateway and PERDURE_SECRET of the cluster", file=sys.stderr)
        return 2

    async def play() -> int:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        report = await run_bots(urls, address.secret, options.count, options.prefix, commands_hz=options.commands_hz,
                                duration_s=options.seconds or None, stop=stop)  # fmt: skip
        if not options.quiet:
            print(orjson.dumps(report.summary()).decode())
        return 0 if all(bot.entered for bot in report.bots) else 1

    try:
        import uvloop

        return uvloop.run(play())
    except OSError as error:
        print(f"perdure bots: {error}", file=sys.stderr)
        return 2
