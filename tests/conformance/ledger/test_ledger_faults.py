"""What goes wrong with a real server while it is used: lost answers, a server that stands still, kill -9, an outage.

The twin in memory cannot fail so, and has no part in this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

import pytest
from ledger_lab import Lab, Proxy, eventually, ledger_at, member, own_lab, raw_client, seed

from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import ROUTES_CHANNEL, SUSPECT_CHANNEL, LedgerError, LedgerUnavailable
from perdure.ledger.values import Commit, CommitStatus

pytestmark = pytest.mark.asyncio


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


# --- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True], ids=["silent", "cut"])
async def test_a_commit_whose_answer_is_lost_counts_once(redis_lab: Lab, cut: bool) -> None:
    lab = redis_lab
    assert lab.server is not None
    await lab.zones(0, 1)
    await lab.enter("ada")
    async with Proxy(str(lab.server.socket_path)).run() as proxy, ledger_at(proxy.url, lab.world, commit_deadline_s=0.3) as ledger:
        warm = [lab.next(1)]
        assert (await ledger.commit(warm))[0].status is CommitStatus.OK
        proxy.swallow, proxy.cut = True, cut
        commits = [lab.next(0, record=b"\x00" * 100)]
        with pytest.raises(LedgerUnavailable, match="no answer from 127"):
            await ledger.commit(commits)
        assert proxy.swallowed == 1
        after_first = await lab.dump()
        assert (await lab.ledger.zone_head(0)).tick == 1
        proxy.swallow = False
        (answer,) = await ledger.commit(commits)
        assert answer.status is CommitStatus.OK and len(answer.page) == 1
        assert await lab.dump() == after_first
        assert len(await lab.ledger.read_log(0, 0)) == 1


async def test_a_heartbeat_without_an_answer_is_given_up_and_the_next_one_heard(redis_lab: Lab) -> None:
    lab = redis_lab
    assert lab.server is not None
    async with Proxy(str(lab.server.socket_path)).run() as proxy, ledger_at(proxy.url, lab.world, call_deadline_s=0.3) as ledger:
        assert (await ledger.heartbeat(member("shard-1", 5))).accepted
        proxy.swallow = True
        for ask in (lambda: ledger.heartbeat(member("shard-1", 5), True), ledger.view):
            with pytest.raises(LedgerUnavailable, match=r"no answer from 127.*0\.3 s"):
                await ask()
        proxy.swallow = False
        assert (await ledger.heartbeat(member("shard-1", 5), True)).accepted
        proxy.deliver_late()
        assert "shard-1" in (await ledger.view()).members


async def test_a_server_without_functions_gets_them_for_a_heartbeat(redis_lab: Lab) -> None:
    lab = redis_lab
    assert lab.server is not None
    async with raw_client(lab.server.url) as client:
        await client.function_flush()
        assert (await lab.ledger.heartbeat(member("shard-1", 5))).accepted
        await client.function_flush()
    assert "shard-1" in (await lab.ledger.view()).members


async def test_a_late_answer_is_never_taken_for_another_commits(redis_lab: Lab) -> None:
    lab = redis_lab
    assert lab.server is not None
    await lab.zones(0, 1)
    await lab.enter("ada")
    async with Proxy(str(lab.server.socket_path)).run() as proxy, ledger_at(proxy.url, lab.world, commit_deadline_s=0.2) as ledger:
        await ledger.commit([lab.next(1)])
        proxy.swallow = True
        with pytest.raises(LedgerUnavailable):
            await ledger.commit([lab.next(0)])
        proxy.swallow = False
        second = asyncio.create_task(ledger.commit([lab.next(1)]))
        proxy.deliver_late()
        (answer,) = await second
        assert answer.status is CommitStatus.OK and answer.page == ()


async def test_a_cancelled_caller_leaves_the_commit_and_the_order_of_answers_alone(redis_lab: Lab) -> None:
    lab = redis_lab
    await lab.zones(0, 1)
    await lab.enter("ada")
    first = asyncio.create_task(lab.ledger.commit([lab.next(0)]))
    await asyncio.sleep(0)
    first.cancel()
    (answer,) = await lab.ledger.commit([lab.next(1)])
    assert answer.status is CommitStatus.OK and answer.page == ()
    (answer,) = await lab.ledger.commit([lab.next(0)])
    assert answer.status is CommitStatus.OK and len(answer.page) == 1


async def test_commits_of_many_callers_are_in_flight_together(redis_lab: Lab) -> None:
    lab = redis_lab
    await lab.zones(*range(32))
    for zone in range(32):
        await lab.push(zone, b"%d" % zone)
    answers = await asyncio.gather(*(lab.ledger.commit([lab.next(zone)]) for zone in range(32)))
    assert [answer.page for (answer,) in answers] == [(b"%d" % zone,) for zone in range(32)]


async def test_a_server_that_stands_still_looks_like_no_answer_and_then_all_goes_on(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server, commit_deadline_s=0.2, call_deadline_s=0.2) as lab:
        await lab.zones(0)
        await lab.commit(0)
        own_server.pause()
        commits = [lab.next(0)]
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="no answer"):
                await lab.ledger.commit(commits)
        with pytest.raises(LedgerUnavailable, match="no answer"):
            await lab.ledger.view()
        assert time.monotonic() - began < 5
        own_server.resume()

        async def committed() -> bool:
            with contextlib.suppress(LedgerUnavailable):
                return (await lab.ledger.commit(commits))[0].status is CommitStatus.OK
            return False

        await eventually(committed)
        assert len(await lab.ledger.read_log(0, 0)) == 2


# --- kill -9 ----------------------------------------------------------------------------------------------------------


async def test_acknowledged_commits_outlive_kill_9_of_the_server(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server, commit_deadline_s=0.5) as lab:
        await lab.zones(0, 1, 2)
        acknowledged: list[Commit] = []
        unanswered: list[Commit] = []
        run_id = (await lab.ledger.view()).run_id

        async def commit_on() -> None:
            while True:
                commits = [lab.next(zone, record=os.urandom(200)) for zone in (0, 1, 2)]
                try:
                    answers = await lab.ledger.commit(commits)
                except LedgerUnavailable:
                    unanswered.extend(commits)
                    return
                assert [answer.status for answer in answers] == [CommitStatus.OK] * 3
                acknowledged.extend(commits)
                for commit in commits:
                    lab.heads[commit.zone] = (commit.generation, commit.epoch, commit.tick, commit.digest)

        task = asyncio.create_task(commit_on())
        await until(lambda: len(acknowledged) >= 300)
        await asyncio.to_thread(own_server.kill)
        await asyncio.wait_for(task, 10)
        with pytest.raises(LedgerUnavailable, match="no answer"):
            await lab.ledger.view()
        await asyncio.to_thread(own_server.start)
        for zone in (0, 1, 2):
            mine = [(commit.tick, commit.digest, commit.record) for commit in acknowledged if commit.zone == zone]
            log = [(row.tick, row.digest, row.record) for row in await lab.ledger.read_log(zone, 0, 100_000)]
            assert log[: len(mine)] == mine and len(log) <= len(mine) + 1
        # The same bytes again are accepted whether they had taken effect or not.
        assert [answer.status for answer in await lab.ledger.commit(unanswered)] == [CommitStatus.OK] * 3
        view = await lab.ledger.view()
        assert view.run_id != run_id
        assert set(view.ticks.values()) == {len(acknowledged) // 3 + 1}


async def test_a_server_with_a_truncated_file_does_not_start_silently(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        await lab.zones(0)
        for _ in range(5):
            await lab.commit(0)
    own_server.kill()
    (file,) = (own_server.data_dir / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(LedgerError, match="ended with 1 while starting") as caught:
        own_server.start()
    assert "\n" not in str(caught.value)


async def test_a_server_that_comes_back_empty_gets_its_functions_and_answers_gap(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        await lab.zones(0)
        await lab.commit(0)
        run_id = (await lab.ledger.view()).run_id
        own_server.kill()
        for file in (own_server.data_dir / "appendonlydir").iterdir():
            file.unlink()
        own_server.start()
        commit = lab.next(0)

        async def answered() -> bool:
            with contextlib.suppress(LedgerUnavailable):
                (answer,) = await lab.ledger.commit([commit])
                assert answer.status is CommitStatus.GAP
                return True
            return False

        await eventually(answered)
        view = await lab.ledger.view()
        assert view.run_id != run_id and view.zones == {}
        head = await lab.ledger.reseed(seed(0, 1, 1, 1, lab.heads[0][3], b"state"))
        lab.heads[0] = (head.generation, head.epoch, head.tick, head.digest)
        assert (await lab.commit(0)).status is CommitStatus.OK


# --- hints over an outage ---------------------------------------------------------------------------------------------


async def test_subscribers_resync_after_an_outage(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        await lab.zones(0)
        hints = lab.ledger.subscribe(ROUTES_CHANNEL, SUSPECT_CHANNEL)

        async def hint() -> tuple[str, bytes]:
            async with asyncio.timeout(10):
                return await anext(hints)

        both = {(ROUTES_CHANNEL, b"resync"), (SUSPECT_CHANNEL, b"resync")}
        assert {await hint(), await hint()} == both
        waiting = asyncio.create_task(hint())
        await asyncio.sleep(0)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
        assert {await waiting, await hint()} == both

        async def beats() -> bool:
            with contextlib.suppress(LedgerUnavailable):
                return (await lab.ledger.heartbeat(member())).accepted
            return False

        await eventually(beats)
        assert await hint() == (ROUTES_CHANNEL, b"2")
        await hints.aclose()  # type: ignore[attr-defined]
