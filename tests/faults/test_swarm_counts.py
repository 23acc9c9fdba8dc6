"""The benches' count of commands against a real cluster: who is put out, and whose resume is refused, is told from who lost something."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from benchmarks._playing import Playing, nothing_lost, playing
from perdure.ledger.keys import key
from perdure.wire.identifiers import player_key

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]


async def test_who_is_put_out_and_whose_resume_is_refused_has_lost_no_command_and_doubled_none() -> None:
    put_out, refused = "player0", "player1"
    async with playing(5, bots=1, shards=1, zones="1x1") as game:
        await _plays_on(game)
        assert await game.cluster.ledger.leave(player_key(put_out), -1, kick=True)
        await _comes_again(game, put_out, session=2)
        await _plays_on(game)
        await _forget_resume_token(game, refused)
        assert game.swarm is not None
        await game.swarm.ask("break", 60.0)
        await _comes_again(game, refused, session=2)
        await _plays_on(game)
    figures = game.verdict()
    assert (figures["resumes_refused"], figures["entered_anew"]) == (2, 1), "no token counts after a kick, nor one that is forgotten"
    assert (figures["commands_lost"], figures["commands_duplicated"], figures["players_lost"]) == (0, 0, 0)
    assert figures["sockets_dropped"] == 4 + 1 + 2, "all of the swarm's broke, one was closed, two were refused"
    assert not nothing_lost(figures)


async def _forget_resume_token(game: Playing, name: str) -> None:
    """Have the ledger hold another one for this player."""
    server = redis.asyncio.Redis(unix_socket_path=str(game.cluster.server.socket_path))
    async for record in server.scan_iter(key(game.cluster.world, "PLAYER", "*")):
        if await server.hget(record, "name") == name.encode():  # type: ignore[misc]
            await server.hset(record, "resume", "0" * 32)  # type: ignore[misc]
    await server.aclose()


async def _comes_again(game: Playing, name: str, session: int) -> None:
    async with asyncio.timeout(30):
        while True:
            record = await game.cluster.ledger.player(player_key(name))
            if record is not None and record.presence.session >= session:
                return
            await asyncio.sleep(0.02)


async def _plays_on(game: Playing) -> None:
    """Wait until the world has ticked on for a second: everybody has had commands applied."""
    ticks = (await game.cluster.ledger.view()).ticks[0]
    await game.until("the zone ticks on", lambda view: view.ticks[0] >= ticks + 20)
