"""The chaos row of an upgrade: shards of another build of the game replace those of the first, one by one, under load."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks._chaos_row import row
from benchmarks._chaos_rows_players import BAZAAR, no_bazaar
from benchmarks._stage import Setup, Stage, program_of

OLD = tuple(f"shard-{k + 1}" for k in range(4))
NEW = tuple(f"shard-{k + 11}" for k in range(4))
SPEED, NEXT_SPEED = "SPEED = 25.0", "SPEED = 24.0"
"""What the next build has another value of: no record in which somebody walks replays as in the first."""

MOST_UNWATCHED = 0.01
UPGRADED = Setup(game=str(BAZAAR), zones="4x2", allowed=frozenset({"commands_unwatched"}))


async def _next_build(stage: Stage) -> str:
    """Write the game's next build, and have its kernels compiled by a process of its own (the first time, some half a minute)."""
    text = BAZAAR.read_text()
    stage.expect(SPEED in text, f"{BAZAAR.name} has {SPEED}", "it has not; name here what it has")
    file = stage.folder / "next" / BAZAAR.name
    file.parent.mkdir()
    file.write_text(text.replace(SPEED, NEXT_SPEED))
    stage.say("compiling the next build")
    warming = await asyncio.create_subprocess_exec(
        "nice", sys.executable, "-m", "shard.warmup", str(file), cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL
    )  # fmt: skip
    try:
        stage.expect(await warming.wait() == 0, "the next build compiles", f"exit code {warming.returncode}")
    finally:
        if warming.returncode is None:
            warming.kill()
    return str(file)


@row("rolling-upgrade", "shards of another build replace the old ones, one by one, under load: 0 disconnects, nothing lost",
     UPGRADED, missing=no_bazaar, repeats=1, deadline_s=420)  # fmt: skip
async def rolling_upgrade(stage: Stage) -> None:
    game = await _next_build(stage)
    first, second = (f"{program_of(of).build:016x}" for of in (str(BAZAAR), game))
    stage.expect(first != second, "two builds", first)
    # A zone that changes builds has two new checkpoints at once, and its log is cut behind them: who watches it has a moment only.
    stage.watch.poll_s = 0.02
    stage.afterwards.append(lambda _: _watched(stage))
    for old, new in zip(OLD, NEW, strict=True):
        stage.cluster.start_shard_of(new, game)
        await stage.until(f"{new} is ready", lambda v, n=new: n in v.members and v.members[n].info.get("state") == "ready", 60.0)
        async with stage.blackout():
            stage.say(f"draining {old}")
            stage.cluster.send_signal(old, signal.SIGTERM)
            code = await stage.cluster.ended_of(old)
            stage.expect(code == 0, f"{old} leaves with 0", code)
        builds = {str(m.info["build"]) for m in (await stage.view()).members.values() if m.kind == "shard"}
        stage.expect(builds == ({first, second} if old != OLD[-1] else {second}), "shards of both builds, and in the end of one", builds)
    view = await stage.until("the next build runs every zone", lambda v: all(r.owner in NEW for r in v.zones.values()))
    losses = stage.logs("coordinator").count("member lost")
    stage.expect(losses == 0, "nobody is taken for lost", f"{losses} taken for lost")
    for bad in ("zone_cannot_run", "prefetch_failed", "ledger_went_back", "checkpoint_unusable"):
        stage.expect(bad not in stage.logs("shard"), f"no shard says {bad}", "one does")
    stage.say("waiting for two checkpoints of each zone")  # so that what is left of the logs is the next build's, and can be replayed
    for zone, tick in view.ticks.items():
        while not all(at > tick for at, _ in (await stage.cluster.ledger.zone_head(zone)).checkpoints):
            await stage.pause()
    stage.game = game


def _watched(stage: Stage) -> None:
    counts = stage.commands()
    missed, of = counts["commands_unwatched"], counts["commands_acknowledged"]
    stage.expect(missed <= of * MOST_UNWATCHED, f"of {of} commands {MOST_UNWATCHED:.0%} at most were trimmed unseen", missed)
