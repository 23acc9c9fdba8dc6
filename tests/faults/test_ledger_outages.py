"""The ledger's server hangs, dies or refuses writes: the world pauses, says so, and goes on without loss."""

from __future__ import annotations

import asyncio
import re

import pytest
import redis

from perdure.wire.opcodes import Notice
from tests.faults.conftest import Lab

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
OUTAGE_S = 5.0


async def test_a_server_that_hangs_for_five_seconds(lab: Lab) -> None:
    before, losses = await lab.view(), lab.losses()
    async with lab.crowd(8, "hang", longest_gap_s=OUTAGE_S + 8.0) as crowd:
        lab.cluster.server.pause()
        try:
            for player in crowd.players:
                await player.until("PAUSED", lambda p=player: Notice.PAUSED in p.notices)
            await asyncio.sleep(0.1)  # frames that were committed before are on their way
            stood = [player.client.world.tick for player in crowd.players]
            await asyncio.sleep(OUTAGE_S)  # this is how long the outage is
            assert stood == [player.client.world.tick for player in crowd.players], "a tick was released that may not be in the log"
        finally:
            lab.cluster.server.resume()
        for player in crowd.players:
            await player.until("RESUMED", lambda p=player: Notice.RESUMED in p.notices)
        await lab.ticks_go_on()
    after = await lab.view()
    assert {name: m.number for name, m in after.members.items()} == {name: m.number for name, m in before.members.items()}
    assert {z: r.epoch for z, r in after.zones.items()} == {z: r.epoch for z, r in before.zones.items()}
    assert lab.losses() == losses


async def test_a_server_that_is_killed_and_started_again_on_its_file(lab: Lab) -> None:
    before, losses = await lab.view(), lab.losses()
    async with lab.crowd(8, "aof", longest_gap_s=10.0) as crowd:
        await asyncio.to_thread(lab.cluster.server.kill)
        await asyncio.to_thread(lab.cluster.server.start)
        await crowd.plays_on(deadline_s=10.0)
        await lab.ticks_go_on()
    after = await lab.view()
    assert {name: m.number for name, m in after.members.items()} == {name: m.number for name, m in before.members.items()}
    assert {z: (r.generation, r.epoch) for z, r in after.zones.items()} == {z: (r.generation, r.epoch) for z, r in before.zones.items()}
    assert lab.losses() == losses


@pytest.mark.parametrize(
    ("setting", "value", "normal", "said"),
    [("maxmemory", "1mb", "0", "raise maxmemory"), ("min-replicas-to-write", "1", "0", "replicas")],
)
async def test_a_server_that_refuses_writes(lab: Lab, setting: str, value: str, normal: str, said: str) -> None:
    before, losses = await lab.view(), lab.losses()
    logged = {name: len(lab.log(name)) for name in lab.cluster.pids}
    server = redis.Redis(unix_socket_path=str(lab.cluster.server.socket_path))
    async with lab.crowd(6, f"refuse{setting[:3]}", longest_gap_s=12.0) as crowd:
        server.config_set(setting, value)
        try:
            for player in crowd.players:
                await player.until("PAUSED", lambda p=player: Notice.PAUSED in p.notices)
            await asyncio.sleep(2.0)  # long enough for every lease to run out
        finally:
            server.config_set(setting, normal)
        for player in crowd.players:
            await player.until("RESUMED", lambda p=player: Notice.RESUMED in p.notices)
        await lab.ticks_go_on()
    server.close()
    after = await lab.view()
    assert {name: m.number for name, m in after.members.items()} == {name: m.number for name, m in before.members.items()}
    assert {z: r.epoch for z, r in after.zones.items()} == {z: r.epoch for z, r in before.zones.items()}
    assert lab.losses() == losses
    for name, at in logged.items():
        new = lab.log(name)[at:]
        assert "Traceback" not in new
        if name.startswith("shard"):
            assert len(re.findall(r"\bpaused\b", new)) == 1
            assert said in new
        assert len(new.splitlines()) < 25, f"{name} says too much:\n{new}"
