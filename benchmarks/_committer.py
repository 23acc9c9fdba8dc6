"""A shard's part in the ledger's load, and nothing else: commits ticks of some zones, back to back.

Run as a module: one JSON object on standard input ({"url", "world", "term", "zones", "ticks", "seconds", "core"}); packs
so many ticks beforehand, since it is the server that is to be measured; says "ready" when the zones
are assigned, begins at the next line that it reads, and says how many ticks of zones were committed, and in how many seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import uvloop

from benchmarks.commit import Chains
from perdure.cli.children import die_with_parent
from perdure.ledger.redis_ledger import RedisLedger


async def _run(order: dict[str, Any]) -> None:
    ledger = await RedisLedger.connect(order["url"], order["world"], commit_deadline_s=10.0)
    try:
        for zone in order["zones"]:
            await ledger.assign(order["term"], zone, f"shard-{order['zones'][0]}", 0)
        chains, zones = Chains(order["zones"]), len(order["zones"])
        prepared = [b"".join(map(ledger._pack_commit, chains.tick())) for _ in range(order["ticks"])]
        print("ready", flush=True)
        sys.stdin.readline()
        began_s, ticks = time.perf_counter(), 0
        for packed in prepared:
            answers = await ledger._commits.call(packed, zones)
            assert all(answer[0] == b"OK" for answer in answers), answers
            ticks += 1
            if time.perf_counter() - began_s > order["seconds"]:
                break
        print(json.dumps({"commits": ticks * len(order["zones"]), "seconds": time.perf_counter() - began_s}), flush=True)
        sys.stdin.readline()
    finally:
        await ledger.close()


def main() -> int:
    die_with_parent()
    order = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, {order["core"]})
    uvloop.run(_run(order))
    return 0


if __name__ == "__main__":
    sys.exit(main())
