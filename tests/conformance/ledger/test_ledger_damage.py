"""Keys of a wrong type and damaged content: a call refuses them before it writes anything.

The twin in memory cannot be damaged so, and has no part in this file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from ledger_lab import Lab, arrive, dump_keys, logout, member, request, seed

from perdure.ledger import keys
from perdure.ledger.ledger import LedgerError, LedgerRefused
from perdure.ledger.record import blob_digest
from perdure.ledger.values import CommitStatus, WorldSettings
from perdure.wire.identifiers import key_hex, player_key

pytestmark = pytest.mark.asyncio

ADA = player_key("ada")


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
    await ledger.say(player_key("bob"), 1, "", "hello")
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
        "reseed": lambda: ledger.reseed(seed(0, 1, 1, 9)),
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
        "elect": lambda: ledger.elect("coordinator-a"),
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
        ("CONTROL", (), ("hset", "beat", "late")),
        ("CONTROL", (), ("hset", "generation", "x")),
        ("HEAD", (0,), ("set", "1 1 none")),
        ("SUSPECTS", (), ("hset", "shard-a", "some")),
        ("MEMBERS", (), ("hset", "shard-a", b"\xc1")),
        ("MEMBERS", (), ("hset", "shard-a", b"\x91\x01")),
        ("PLAYER", (key_hex(ADA),), ("hset", "session", "x")),
        ("PLAYER", (key_hex(ADA),), ("hset", "place", "here")),
        ("PLAYER", (key_hex(ADA),), ("hset", "seq", "x")),
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
