"""What goes wrong with a real server: lost answers, kill -9, servers that refuse, keys of a wrong type, lost functions.

Hazards 1 to 3, 6 and 7 of the design. The twin in memory cannot fail so, and has no part in this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from ledger_lab import Lab, Proxy, arrive, dump_keys, eventually, free_port, logout, member, raw_client, request

from perdure.ledger import keys
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import (
    ROUTES_CHANNEL,
    SUSPECT_CHANNEL,
    Commit,
    CommitStatus,
    LedgerError,
    LedgerRefused,
    LedgerUnavailable,
    WorldSettings,
)
from perdure.ledger.record import blob_digest
from perdure.ledger.redis_functions import LIBRARY_NAME, library_build, library_source
from perdure.ledger.redis_ledger import RedisLedger
from perdure.wire.identifiers import key_hex, player_key

pytestmark = pytest.mark.asyncio

ADA = player_key("ada")


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


@contextlib.asynccontextmanager
async def ledger_at(url: str, world: str = "main", **options: Any) -> AsyncIterator[RedisLedger]:
    ledger = await RedisLedger.connect(url, world, **options)
    try:
        yield ledger
    finally:
        await ledger.close()


@contextlib.asynccontextmanager
async def own_lab(server: EmbeddedServer, world: str = "main", **options: Any) -> AsyncIterator[Lab]:
    lab = Lab("own", world, await RedisLedger.connect(server.url, world, **options), server=server, raw=raw_client(server.url))
    try:
        yield lab
    finally:
        await lab.close()


# --- lost answers (hazard 1) ------------------------------------------------------------------------------------------


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


# --- kill -9 (hazards 6 and 7) ----------------------------------------------------------------------------------------


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
        head = await lab.ledger.reseed(0, 1, 1, 1, lab.heads[0][3], b"state", blob_digest(b"state"))
        lab.heads[0] = (head.generation, head.epoch, head.tick, head.digest)
        assert (await lab.commit(0)).status is CommitStatus.OK


# --- functions --------------------------------------------------------------------------------------------------------


async def test_lost_functions_are_loaded_again_in_the_middle_of_a_call(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        assert lab.raw is not None
        await lab.zones(0, 1)
        await lab.raw.execute_command("FUNCTION", "FLUSH")
        answers = await lab.ledger.commit([lab.next(0), lab.next(1)])
        assert [answer.status for answer in answers] == [CommitStatus.OK] * 2
        await lab.raw.execute_command("FUNCTION", "FLUSH")
        assert (await lab.ledger.view()).ticks == {0: 1, 1: 1}
        await lab.raw.execute_command("FUNCTION", "FLUSH")
        assert (await lab.enter("ada")).session == 1


async def test_an_older_library_is_replaced_and_a_later_one_left_alone(own_server: EmbeddedServer) -> None:
    raw = raw_client(own_server.url)
    build = library_build()
    for found, expected in (("0:ab", build), (f"{int(build.split(':')[0]) + 1}:ab", f"{int(build.split(':')[0]) + 1}:ab")):
        await raw.execute_command("FUNCTION", "LOAD", "REPLACE", library_source().replace(build, found))
        async with ledger_at(own_server.url):
            answer: Any = await raw.execute_command("FCALL_RO", f"{LIBRARY_NAME}_build", 0)
            assert answer.decode() == expected
    await raw.aclose()


async def test_each_function_is_documented_and_registered(redis_lab: Lab) -> None:
    folder = Path(keys.__file__).parent / "functions"
    for file in folder.glob("[a-z]*.lua"):
        text = file.read_text()
        assert text.startswith(f"-- {LIBRARY_NAME}_{file.stem}: "), file.name
        assert ("KEYS[1]" in text and "ARGV" in text and "answer" in text) or file.stem == "view", file.name
        assert f"'{LIBRARY_NAME}_{file.stem}'" in text, file.name
    assert redis_lab.raw is not None
    listed: Any = await redis_lab.raw.execute_command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY_NAME)
    row = dict(zip(listed[0][::2], listed[0][1::2], strict=True)) if isinstance(listed[0], list) else listed[0]
    functions = [dict(zip(one[::2], one[1::2], strict=True)) if isinstance(one, list) else one for one in row[b"functions"]]
    names = {one[b"name"].decode() for one in functions}
    assert names == {f"{LIBRARY_NAME}_{file.stem}" for file in folder.glob("[a-z]*.lua")} | {f"{LIBRARY_NAME}_build"}


# --- keys of a wrong type or content (hazard 2) -----------------------------------------------------------------------


async def populate(lab: Lab) -> None:
    """A world in which every kind of key exists, and every method below has something to write."""
    ledger = lab.ledger
    await ledger.init_world(WorldSettings("main", "arena", "ab", "{}", 2, 1, 1, 20))
    await lab.zones(0, 1)
    await ledger.heartbeat(member("shard-a", 11))
    await ledger.heartbeat(member("shard-b", 12))
    await ledger.heartbeat(member("shard-c", 13))
    await ledger.depart("shard-c", 13)
    await ledger.suspect("shard-a", 11, "gateway-1")
    await ledger.set_draining("shard-a", True)
    await ledger.order("shard-a", "drain")
    await lab.enter("ada")
    await lab.enter("bob", gateway=8)
    await lab.enter("eve", spawn=1)
    for tick in range(3):
        await lab.commit(0)
        await lab.commit(1)
        await ledger.put_checkpoint(0, tick + 1, 1, b"blob")
        if tick < 2:
            assert await ledger.flip_checkpoint(0, 1, 1, tick + 1, blob_digest(b"blob")) is CommitStatus.OK
    await lab.enter("ada")
    await ledger.detach(player_key("bob"), 1)
    await ledger.intend(lab.term, 0, "shard-b")
    await lab.push(1, b"something")


def methods(lab: Lab) -> dict[str, Callable[[], Awaitable[Any]]]:
    ledger = lab.ledger
    return {
        "init_world": lambda: ledger.init_world(WorldSettings("main", "arena", "ab", "{}", 2, 1, 1, 20)),
        "world": ledger.world,
        "commit": lambda: ledger.commit([lab.next(0, transfers=[arrive("ada", 1), logout("bob")])]),
        "zone_head": lambda: ledger.zone_head(0),
        "read_log": lambda: ledger.read_log(0, 0),
        "read_inbox": lambda: ledger.read_inbox(0),
        "put_checkpoint": lambda: ledger.put_checkpoint(0, 3, 1, b"blob"),
        "flip_checkpoint": lambda: ledger.flip_checkpoint(0, 1, 1, 3, blob_digest(b"blob")),
        "read_checkpoint": lambda: ledger.read_checkpoint(0, 2),
        "reseed": lambda: ledger.reseed(0, 1, 1, 9, "", b"blob", blob_digest(b"blob")),
        "enter": lambda: ledger.enter(request("ada", gateway=8)),
        "enter from the lobby": lambda: ledger.enter(request("cid")),
        "detach": lambda: ledger.detach(ADA, 2),
        "leave": lambda: ledger.leave(ADA, 2),
        "gateway_lost": lambda: ledger.gateway_lost(lab.term, 7),
        "player": lambda: ledger.player(ADA),
        "online": ledger.online,
        "online in a zone": lambda: ledger.online(0),
        "heartbeat": lambda: ledger.heartbeat(member("shard-a", 11, beat=2, state="draining")),
        "heartbeat of a new member": lambda: ledger.heartbeat(member("shard-d", 14)),
        "view": ledger.view,
        "routes_version": ledger.routes_version,
        "elect": lambda: ledger.elect("coordinator-a", 60_000),
        "resign": lambda: ledger.resign("coordinator-a"),
        "assign": lambda: ledger.assign(lab.term, 0, "shard-b", 1),
        "intend": lambda: ledger.intend(lab.term, 0, "shard-c"),
        "withdraw": lambda: ledger.intend(lab.term, 0, ""),
        "successor_ready": lambda: ledger.successor_ready(0, "shard-b"),
        "suspect": lambda: ledger.suspect("shard-a", 11, "gateway-1"),
        "evict": lambda: ledger.evict(lab.term, "shard-a", 11),
        "depart": lambda: ledger.depart("shard-a", 11),
        "set_draining": lambda: ledger.set_draining("shard-b", True),
        "order": lambda: ledger.order("shard-a", "die"),
    }


async def restore(raw: redis.asyncio.Redis, dump: dict[bytes, bytes], world: str) -> dict[bytes, bytes]:
    """Bring the keys of a world back to what a dump holds, as far as they differ; returns the dump as it then is.

    The values are the same, but a restored set may stand in another order.
    """
    now = await dump_keys(raw, world)
    pipeline = raw.pipeline(transaction=False)
    for name in now.keys() - dump.keys():
        pipeline.delete(name)
    changed = [name for name, value in dump.items() if now.get(name) != value]
    for name in changed:
        pipeline.restore(name, 0, dump[name], replace=True)
    for name in changed:
        pipeline.dump(name)
    answers = await pipeline.execute()
    return {**dump, **dict(zip(changed, answers[len(answers) - len(changed) :], strict=True))}


async def spoil(raw: redis.asyncio.Redis, place: bytes, kind: bytes | str) -> bytes:
    """Put a value of another type under a key; returns its dump."""
    pipeline = raw.pipeline(transaction=False)
    pipeline.delete(place)
    if kind == b"string":
        pipeline.rpush(place, "wrong")
    else:
        pipeline.set(place, "wrong")
    pipeline.dump(place)
    return (await pipeline.execute())[-1]


async def test_a_key_of_a_wrong_type_is_refused_before_anything_is_written(redis_lab: Lab) -> None:
    lab = redis_lab
    assert lab.raw is not None
    await populate(lab)
    good = await dump_keys(lab.raw, lab.world)
    places = list(good)
    names = {name.decode().removeprefix(keys.base(lab.world)) for name in places}
    missing = {suffix for suffix, _ in keys.SUFFIXES.values() if not any(name.startswith(suffix) for name in names)}
    assert missing == {":channel:"}, f"no key of these kinds to spoil: {missing}"
    refused: dict[str, list[str]] = {}
    kinds = {place: await lab.raw.type(place) for place in places}
    for method, call in methods(lab).items():
        for place in places:
            spoilt = {**good, place: await spoil(lab.raw, place, kinds[place])}
            try:
                answer = await call()
            except LedgerRefused:
                failed = True
            else:
                failed = method == "commit" and answer[0].status is CommitStatus.BROKEN
            if failed:
                refused.setdefault(method, []).append(place.decode().removeprefix(keys.base(lab.world)))
                assert await dump_keys(lab.raw, lab.world) == spoilt, f"{method} wrote before it refused {place.decode()}"
            good = await restore(lab.raw, good, lab.world)
    assert set(refused) == set(methods(lab)), "every method reads some key"
    # What each writes, at least: a smaller figure means that a check was taken out.
    for method, least in {"commit": 11, "enter": 6, "evict": 5, "reseed": 7}.items():
        assert len(refused[method]) >= least, refused[method]
    # And with nothing spoilt, all of them go through.
    for method, call in methods(lab).items():
        good = await restore(lab.raw, good, lab.world)
        try:
            answer = await call()
        except LedgerError as error:
            pytest.fail(f"{method}: {error}")
        if method == "commit":
            assert answer[0].status is CommitStatus.OK, answer


@pytest.mark.parametrize(
    ("name", "rest", "spoil"),
    [
        ("CONTROL", (), ("hset", "version", "many")),
        ("CONTROL", (), ("hset", "term", "1e3")),
        ("CONTROL", (), ("hset", "generation", "x")),
        ("HEAD", (0,), ("set", "1 1 none")),
        ("SUSPECTS", (), ("hset", "shard-a", "some")),
        ("MEMBERS", (), ("hset", "shard-a", b"\xc1")),
        ("MEMBERS", (), ("hset", "shard-a", b"\x91\x01")),
        ("PLAYER", (key_hex(ADA),), ("hset", "session", "x")),
        ("PLAYER", (key_hex(ADA),), ("hset", "place", "here")),
        ("PLAYER", (key_hex(ADA),), ("hdel", "gateway")),
        ("BLOBS", (0,), ("sadd", "junk")),
        ("LOG", (0,), ("xadd", "9-0", "d", "x")),
    ],
)
async def test_damaged_content_is_refused_before_anything_is_written(
    redis_lab: Lab, name: str, rest: tuple[Any, ...], spoil: tuple[Any, ...]
) -> None:
    lab = redis_lab
    assert lab.raw is not None
    await populate(lab)
    verb, *values = spoil
    await lab.raw.execute_command(verb, keys.key(lab.world, name, *rest), *values)
    spoilt = await dump_keys(lab.raw, lab.world)
    refused = []
    for method, call in methods(lab).items():
        try:
            answer = await call()
        except LedgerRefused as error:
            assert "\n" not in str(error)
            failed = True
        else:
            failed = method == "commit" and answer[0].status is not CommitStatus.OK
        if failed:
            refused.append(method)
            assert await dump_keys(lab.raw, lab.world) == spoilt, f"{method} wrote before it refused"
        spoilt = await restore(lab.raw, spoilt, lab.world)
    assert refused


# --- servers that refuse ----------------------------------------------------------------------------------------------


async def test_a_server_out_of_memory_looks_like_no_answer_to_commits_and_nothing_is_half_written(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        assert lab.raw is not None
        await lab.zones(0, 1)
        await lab.enter("ada")
        before = await lab.dump()
        await lab.raw.config_set("maxmemory", "1")
        with pytest.raises(LedgerUnavailable, match="out of memory: raise maxmemory"):
            await lab.ledger.commit([lab.next(0), lab.next(1)])
        with pytest.raises(LedgerError, match="out of memory"):
            await lab.enter("bob")
        assert (await lab.ledger.view()).ticks == {0: 0, 1: 0}
        assert await lab.dump() == before
        await lab.raw.config_set("maxmemory", "0")
        assert (await lab.commit(0)).status is CommitStatus.OK


async def test_a_server_that_became_a_replica_looks_like_no_answer_to_commits(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server, commit_deadline_s=1.0) as lab:
        assert lab.raw is not None
        await lab.zones(0)
        await lab.raw.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(LedgerUnavailable, match="read-only replica"):
            await lab.ledger.commit([lab.next(0)])
        with pytest.raises(LedgerError, match="read-only replica"):
            await RedisLedger.connect(own_server.url, "main")
        await lab.raw.execute_command("REPLICAOF", "NO", "ONE")
        assert (await lab.commit(0)).status is CommitStatus.OK


async def test_connecting_says_in_one_line_what_is_wrong(own_server: EmbeddedServer, tmp_path: Path) -> None:
    async def refusal(url: str, world: str = "main") -> str:
        with pytest.raises(LedgerError) as caught:
            await RedisLedger.connect(url, world)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no answer from" in await refusal(f"unix://{tmp_path}/nobody.sock")
    assert "no answer from 127.0.0.1" in await refusal(f"redis://127.0.0.1:{free_port()}/0")
    assert "a world's name" in await refusal(own_server.url, "{bad}")
    assert await refusal("http://127.0.0.1/")
    raw = raw_client(own_server.url)
    await raw.execute_command("ACL", "SETUSER", "weak", "on", ">pass", "~*", "&*", "+@all", "-function")
    await raw.execute_command("ACL", "SETUSER", "good", "on", ">pass", "~perdure:{main}*", "&perdure:{main}*", "+@all")
    port = own_server.port
    assert "cannot load the functions" in await refusal(f"redis://weak:pass@127.0.0.1:{port}/0")
    async with ledger_at(f"redis://good:pass@127.0.0.1:{port}/3") as ledger:
        await ledger.heartbeat(member())
        (answer,) = await ledger.commit([Commit(0, 1, 1, 1, "", "ab" * 16, b"")])
        assert answer.status is CommitStatus.GAP
        assert (await ledger.view()).members
    await raw.config_set("requirepass", "secret")
    assert "wants a password" in await refusal(own_server.url)
    assert "user or password are wrong" in await refusal(f"redis://:wrong@127.0.0.1:{port}/0")
    async with ledger_at(f"redis://:secret@127.0.0.1:{port}/0") as ledger:
        assert (await ledger.commit([Commit(0, 1, 1, 1, "", "ab" * 16, b"")]))[0].status is CommitStatus.GAP
    await raw.aclose()


async def test_a_server_that_is_too_old_is_named() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                info = b"# Server\r\nredis_version:6.2.14\r\nrun_id:x\r\n"
                writer.write(b"$%d\r\n%s\r\n" % (len(info), info) if b"$4\r\nINFO" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(LedgerRefused, match=r"Redis 6\.2\.14, but functions need 7\.0 or later"):
        await RedisLedger.connect(f"redis://127.0.0.1:{port}/0", "main")
    server.close()


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


# --- the embedded server ----------------------------------------------------------------------------------------------


async def test_the_embedded_server_is_durable_and_ends_by_its_pid(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    server.start()
    raw = raw_client(server.url)
    wanted = {
        "appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "no", "maxmemory-policy": "noeviction", "save": "", "port": "0",
    }  # fmt: skip
    for name, value in wanted.items():
        assert await raw.config_get(name) == {name: value} or await raw.config_get(name) == {name.encode(): value.encode()}
    with pytest.raises(LedgerError, match="another server listens"):
        EmbeddedServer(tmp_path / "data").start()
    pid = server.pid
    assert pid is not None
    await raw.set("kept", "1")
    await raw.aclose()
    server.stop()
    server.stop()
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
    with server:
        raw = raw_client(server.url)
        assert await raw.get("kept") == b"1"
        await raw.aclose()


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot start"):
        EmbeddedServer(tmp_path / "a", binary=tmp_path / "none").start()
    with pytest.raises(LedgerError, match=r"ended with .* while starting"):
        EmbeddedServer(tmp_path / "b", extra=("--no-such-option", "1")).start()
    with pytest.raises(LedgerError, match="socket path"):
        EmbeddedServer(tmp_path / ("long" * 40))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(LedgerError, match="did not answer within"):
        EmbeddedServer(tmp_path / "c", binary=silent).start(deadline_s=0.2)
