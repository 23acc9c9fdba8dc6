"""The ledger's users (deploy/users.acl): every role can do all that it needs, with nothing to spare, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from conftest import SERVERS, server_binary
from ledger_lab import Lab, arrive, dump_keys, logout, member, raw_client, request, seed
from redis.exceptions import NoPermissionError, RedisError

from perdure.cli.status import status
from perdure.ledger import redis_ledger
from perdure.ledger.chat import CHAT_CHANNEL, SayStatus
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import PRESENCE_CHANNEL, ROUTES_CHANNEL, SUSPECT_CHANNEL, Ledger, LedgerError, LedgerUnavailable, gateway_channel
from perdure.ledger.record import blob_digest
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import Commit, CommitStatus, Member, PlayerInZone, Restated, WorldSettings
from perdure.wire.identifiers import player_key

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ROLES = ("gateway", "shard", "coordinator", "operator")
WORLD = WorldSettings("main", "games/arena", "00", "{}", 2, 1, 1, 20)


def acl_file(**changes: str) -> str:
    """Return the ACL file that deploy/acl.sh makes; every role's password is its name."""
    passwords = {f"PERDURE_REDIS_PASSWORD_{role.upper()}": role for role in ROLES}
    environment = {"PATH": os.environ["PATH"], "PERDURE_WORLD": "main", **passwords, **changes}
    with (DEPLOY / "users.acl").open() as users:
        done = subprocess.run(["sh", str(DEPLOY / "acl.sh")], stdin=users, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


RULES = {line.split()[1]: line.split(" ", 2)[2] for line in acl_file().splitlines()}
"""The rules of each user, as ACL SETUSER takes them."""


class Server:
    """A server with the users, and one more who may do everything: the test."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server

    def url(self, user: str) -> str:
        return f"unix://{user}:{user}@{self.server.socket_path}"

    def raw(self, user: str) -> redis.asyncio.Redis:
        return raw_client(self.url(user))

    @contextlib.asynccontextmanager
    async def ledger(self, user: str) -> AsyncIterator[RedisLedger]:
        made = await RedisLedger.connect(self.url(user), "main", name=f"test-{user}")
        try:
            yield made
        finally:
            await made.close()

    async def set_rules(self, user: str, rules: list[str]) -> None:
        raw = self.raw("admin")
        await raw.execute_command("ACL", "SETUSER", user, "reset", *rules)
        await raw.aclose()

    async def work(self, role: str) -> None:
        """Do all that a role does, in an empty server; raises where it may not."""
        raw = self.raw("admin")
        await raw.flushall()
        await raw.execute_command("FUNCTION", "FLUSH")
        try:
            async with contextlib.AsyncExitStack() as stack:
                first, second = (role, "admin") if role == "coordinator" else ("admin", role)  # coordinators load the functions
                found = {first: await stack.enter_async_context(self.ledger(first))}
                found[second] = await stack.enter_async_context(self.ledger(second))
                rest = Lab("users", "main", found["admin"], raw=raw)
                await found[role]._run("PING")  # subscriptions and health checks do
                await WORK[role](found[role], rest)
        finally:
            await raw.aclose()


@pytest.fixture(scope="module", params=SERVERS)
def users(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("users")
    path = folder / "users.acl"
    path.write_text(acl_file() + "user admin on >admin ~* &* +@all\n")
    server = EmbeddedServer(
        folder / "data", binary=server_binary(request.param), extra=("--aclfile", str(path), "--enable-debug-command", "local")
    )
    with server:
        yield Server(server)


# --- what each role does ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def hearing(ledger: Ledger, *channels: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Subscribe; yields a function that waits until a channel has been heard of anew."""
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def listen() -> None:
        async for hint in ledger.subscribe(*channels):
            heard.put_nowait(hint)

    async def wait_for(channel: str, resync: bool = False) -> None:
        async with asyncio.timeout(1.0):
            while True:
                found, message = await heard.get()
                if found == channel and (message == b"resync") == resync:
                    return

    task = asyncio.ensure_future(listen())
    try:
        for channel in channels:
            await wait_for(channel, resync=True)
        yield wait_for
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def belong(own: Ledger, rest: Lab, kind: str) -> Member:
    """Register, take an order, see the cluster."""
    me = Member(f"{kind}-1", kind, 7, "address", 1, {"state": "ready"})
    assert (await own.heartbeat(me)).accepted
    await rest.ledger.order(me.name, "drain")
    assert [order.text for order in (await own.heartbeat(me)).orders] == ["drain"]
    assert me.name in (await own.view()).members
    assert await own.world() == WORLD
    return me


async def gateway_works(own: RedisLedger, rest: Lab) -> None:
    await rest.ledger.init_world(WORLD)
    await rest.zones(0, 1)
    await rest.ledger.heartbeat(member("shard-a"))
    async with hearing(own, gateway_channel(7), ROUTES_CHANNEL, CHAT_CHANNEL) as heard:
        me = await belong(own, rest, "gateway")
        await heard(ROUTES_CHANNEL)
        first = await own.enter(request("ann", gateway=7))
        second = await own.enter(request("ann", gateway=8, slot=4))
        await heard(gateway_channel(7))
        assert second.session == first.session + 1
        found = await own.player(player_key("ann"))
        assert found is not None and found.presence.gateway == 8
        assert await own.restate(8, [Restated(player_key("ann"), second.session, 4, "ann", "aa")]) == [True]
        assert await own.detach(player_key("ann"), second.session)
        start = (await own.chat("")).last
        assert await own.say(player_key("ann"), second.session, "ann", "to myself") is SayStatus.OK
        await heard(CHAT_CHANNEL)
        assert [line.text for line in (await own.chat(start)).lines] == ["to myself"]
        assert await own.names([player_key("ann")]) == {player_key("ann"): "ann"}
        await own.enter(request("ben", gateway=8))
        assert await own.restate(8, []) == []
        assert await own.leave(player_key("ann"), second.session)
        await own.suspect("shard-a", 11, me.name)
        assert (await own.view()).suspects == {"shard-a": 1}
    await own.depart(me.name, me.number)


async def shard_works(own: RedisLedger, rest: Lab) -> None:
    assert await own.init_world(WORLD) == await own.init_world(WORLD) == WORLD
    await rest.zones(0, 1, owner="shard-1")
    lab = Lab("users", "main", own, raw=rest.raw, heads=dict(rest.heads))
    async with hearing(own, ROUTES_CHANNEL) as heard:
        me = await belong(own, rest, "shard")
        await heard(ROUTES_CHANNEL)
        for name in ("ann", "ben", "cid"):
            await rest.enter(name)
        assert (await own.waiting([0, 1])).zones == {0}
        assert len((await lab.commit(0)).page) == 3, "the inbox is taken"
        resent = Commit(0, 1, 1, 1, "", lab.heads[0][3], b"record")
        assert [answer.status for answer in await own.commit([resent])] == [CommitStatus.OK]
        await rest.ledger.detach(player_key("cid"), 1)  # waits in the inbox, and stays when others go
        assert (await lab.commit(0, arrive("ann", 1), logout("ben"))).status is CommitStatus.OK
        for tick in (1, 2, 3, 4):
            blob = f"blob {tick}".encode()
            while lab.heads[0][2] < tick:
                await lab.commit(0)
            await own.put_checkpoint(0, tick, 1, blob)
            assert await own.flip_checkpoint(0, 1, 1, tick, blob_digest(blob)) is CommitStatus.OK
        assert await own.read_checkpoint(0, 4) == b"blob 4"
        assert [row.tick for row in await own.read_log(0, 1)] == [3, 4]
        assert (await own.zone_head(0)).owner == "shard-1"
        await rest.ledger.intend(rest.term, 1, "shard-1")
        await own.successor_ready(1, "shard-1")
        assert (await own.view()).zones[1].ready
        assert rest.raw is not None
        await rest.raw.delete("perdure:{main}:head:0")
        known = (PlayerInZone(player_key("cid"), 2, 8, 4, 3), PlayerInZone(player_key("dan"), 1, 8, 5, 2))
        head = await own.reseed(seed(0, 1, 1, 4, lab.heads[0][3], b"blob 4", players=known))
        assert head.generation == 2
        assert len(await own.read_log(0, 1)) == 0
    await own.depart(me.name, me.number)


async def coordinator_works(own: RedisLedger, rest: Lab) -> None:
    await rest.ledger.init_world(WORLD)
    async with hearing(own, ROUTES_CHANNEL, SUSPECT_CHANNEL, PRESENCE_CHANNEL) as heard:
        me = await belong(own, rest, "coordinator")
        term = (await own.elect(me.name)).term
        assert (await own.elect(me.name, term)).term == term
        assert await own.open_world(term) == 1
        for name, number in (("shard-a", 11), ("shard-b", 12)):
            await rest.ledger.heartbeat(member(name, number))
        await rest.ledger.suspect("shard-b", 12, "gateway-1")
        await heard(SUSPECT_CHANNEL)
        await own.evict(term, "shard-b", 12)
        epoch = await own.assign(term, 0, "shard-a", 0)
        await own.assign(term, 1, "shard-a", 0)
        rest.heads[0] = (1, epoch, 0, "")
        await own.intend(term, 1, "shard-a")
        await own.intend(term, 1, "")
        for name in ("ann", "ben"):
            await rest.enter(name)
        await heard(PRESENCE_CHANNEL)
        await rest.commit(0)
        assert [presence.name for presence in await own.online()] == [presence.name for presence in await own.online(0)] == ["ann", "ben"]
        found = await own.player(player_key("ann"))
        assert found is not None and found.presence.place == 0
        await own.gateway_lost(term, 7)
        assert all(presence.gateway == -1 for presence in await own.online())
        assert await own.leave(player_key("ann"), -1, kick=True)
        assert (await own.zone_head(0)).tick == 1 and len(await own.read_log(0, 1)) == 1
        await own.set_draining("shard-a", True)
        await own.set_draining("shard-a", False)
        await own.order("shard-a", "drain")
        assert set((await own.view()).zones) == {0, 1}
    await own.resign(me.name)
    await own.depart(me.name, me.number)


async def operator_works(own: RedisLedger, rest: Lab) -> None:
    await rest.ledger.init_world(WORLD)
    await rest.zones(0, 1)
    await rest.ledger.heartbeat(member("shard-a"))
    await rest.enter("ann")
    await rest.commit(0)
    await rest.ledger.put_checkpoint(0, 1, 1, b"blob")
    await rest.ledger.flip_checkpoint(0, 1, 1, 1, blob_digest(b"blob"))
    before = await rest.dump()
    found = await status(own)
    assert (found["players"], [m["name"] for m in found["members"]]) == (1, ["shard-a"])
    assert [presence.name for presence in await own.online(0)] == ["ann"]
    assert (await own.zone_head(0)).checkpoints == ((1, blob_digest(b"blob")),)
    assert len(await own.read_log(0, 1)) == 1
    assert await own.read_checkpoint(0, 1) == b"blob"
    assert await own.read_inbox(0) == []
    assert await rest.dump() == before


WORK: dict[str, Callable[[RedisLedger, Lab], Awaitable[None]]] = {
    "gateway": gateway_works,
    "shard": shard_works,
    "coordinator": coordinator_works,
    "operator": operator_works,
}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_can_do_all_that_it_needs(users: Server, role: str) -> None:
    await users.work(role)


def without_each(rules: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (what is missing, rules) for each command, key pattern and channel that a user's rules grant."""
    parts = re.findall(r"\([^)]*\)|\S+", rules)
    for at, part in enumerate(parts):
        inner = part.strip("()").split()
        for word in inner:
            if word[0] not in "+~&%":
                continue
            left = [other for other in inner if other != word]
            kept = f"({' '.join(left)})" if part.startswith("(") else " ".join(left)
            yield f"{word} of {part}", [*parts[:at], *([kept] if kept else []), *parts[at + 1 :]]


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_has_nothing_to_spare(users: Server, role: str) -> None:
    spare = []
    try:
        for missing, rules in without_each(RULES[role]):
            await users.set_rules(role, rules)
            try:
                await users.work(role)
            except (LedgerError, RedisError, TimeoutError):
                continue
            spare.append(missing)
    finally:
        await users.set_rules(role, re.findall(r"\([^)]*\)|\S+", RULES[role]))
    assert not spare, f"{role} does all its work without {spare}"


# --- what no role may do ----------------------------------------------------------------------------------------------------

NOBODY_MAY = (
    "CONFIG GET *", "CONFIG SET maxmemory 1", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "MONITOR",
    "DEBUG SLEEP 0", "EVAL return{} 0", "EVAL_RO return{} 0", "SCRIPT FLUSH", "FUNCTION FLUSH", "FUNCTION LIST", "FUNCTION DUMP",
    "FUNCTION DELETE perdure_v1", "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "FAILOVER ABORT", "SAVE", "BGREWRITEAOF", "MODULE LIST",
    "ACL LIST", "ACL SETUSER me on nopass +@all", "CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1", "SLOWLOG GET", "SELECT 1",
    "GET perdure:{other}:head:0", "GET somebody-elses", "HSET perdure:{other}:control term 9", "XRANGE perdure:{other}:log:0 - +",
    "DUMP perdure:{main}:head:0", "RENAME perdure:{main}:control perdure:{main}:x", "EXPIRE perdure:{main}:owners 1",
    "DEL perdure:{main}:control", "DEL perdure:{main}:owners", "DEL perdure:{main}:world", "UNLINK perdure:{main}:head:0",
    "LPUSH perdure:{main}:inbox:0 x", "APPEND perdure:{main}:head:0 1", "HDEL perdure:{main}:owners 0", "MULTI",
    "PUBLISH elsewhere x", "PUBLISH perdure:{other}:channel:routes 1", "SUBSCRIBE perdure:{other}:channel:routes", "PSUBSCRIBE *",
)  # fmt: skip
A_ROLE_MAY_NOT: dict[str, tuple[str, ...]] = {
    "gateway": (
        "FUNCTION LOAD REPLACE x", "SET perdure:{main}:head:0 x", "XADD perdure:{main}:log:0 * a b", "XRANGE perdure:{main}:log:0 - +",
        "HSET perdure:{main}:owners 0 gateway-1", "SET perdure:{main}:leader gateway-1", "LRANGE perdure:{main}:inbox:0 0 -1",
        "DEL perdure:{main}:inbox:0", "RPUSH perdure:{main}:orders:shard-a die", "GET perdure:{main}:blob:0:1:1",
        "SUBSCRIBE perdure:{main}:channel:presence", "DEL perdure:{main}:player:0000000000000000", "HSET perdure:{main}:control term 9",
        "HSET perdure:{main}:world game x",
    ),
    "shard": (
        "FUNCTION LOAD REPLACE x", "SET perdure:{main}:leader shard-a", "HDEL perdure:{main}:owners 0",
        "RPUSH perdure:{main}:orders:shard-b die", "SADD perdure:{main}:draining shard-b",
        "PUBLISH perdure:{main}:channel:gateway:7 3", "SUBSCRIBE perdure:{main}:channel:presence", "DEL perdure:{main}:head:0",
        "HGET perdure:{main}:player:0000000000000000 resume",
    ),
    "coordinator": (
        "XADD perdure:{main}:log:0 * a b", "XTRIM perdure:{main}:log:0 MAXLEN 0", "DEL perdure:{main}:log:0",
        "SET perdure:{main}:blob:0:1:1 x", "SET perdure:{main}:checkpoints:0 x", "LRANGE perdure:{main}:inbox:0 0 -1",
        "DEL perdure:{main}:inbox:0", "PUBLISH perdure:{main}:channel:gateway:7 3", "HSET perdure:{main}:world game x",
    ),
    "operator": (
        "FUNCTION LOAD REPLACE x", "FCALL perdure_v1_resign 1 perdure:{main} coordinator-a", "SET perdure:{main}:head:0 x",
        "HSET perdure:{main}:control term 9", "RPUSH perdure:{main}:inbox:0 x", "RPUSH perdure:{main}:orders:shard-a drain",
        "DEL perdure:{main}:leader", "PUBLISH perdure:{main}:channel:routes 9", "SUBSCRIBE perdure:{main}:channel:presence",
        "HGETALL perdure:{main}:player:0000000000000000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
async def test_a_command_that_is_not_the_roles_is_refused(users: Server, role: str) -> None:
    raw, own = users.raw("admin"), users.raw(role)
    before = await dump_keys(raw, "main")
    allowed = []
    for line in (*NOBODY_MAY, *A_ROLE_MAY_NOT[role]):
        try:
            await own.execute_command(*line.split(" "))
        except NoPermissionError:
            continue
        except RedisError as error:
            allowed.append(f"{line}: {error}")
        else:
            allowed.append(line)
    assert not allowed, f"{role} may do {allowed}"
    assert await dump_keys(raw, "main") == before
    for client in (raw, own):
        await client.aclose()


def next_commit() -> Commit:
    return Commit(0, 1, 1, 1, "", "ab" * 16, b"record")


CALLS: dict[str, Callable[[Ledger, int], Awaitable[Any]]] = {
    "init_world": lambda ledger, term: ledger.init_world(WORLD),
    "commit": lambda ledger, term: ledger.commit([next_commit()]),
    "put_checkpoint": lambda ledger, term: ledger.put_checkpoint(0, 1, 1, b"blob"),
    "open_world": lambda ledger, term: ledger.open_world(term),
    "restate": lambda ledger, term: ledger.restate(7, []),
    "reseed": lambda ledger, term: ledger.reseed(seed(0, 1, 1, 9, "ab" * 16)),
    "enter": lambda ledger, term: ledger.enter(request("eve")),
    "detach": lambda ledger, term: ledger.detach(player_key("ann"), 1),
    "leave": lambda ledger, term: ledger.leave(player_key("ann"), 1),
    "heartbeat": lambda ledger, term: ledger.heartbeat(member("x", 99)),
    "elect": lambda ledger, term: ledger.elect("coordinator-a"),
    "resign": lambda ledger, term: ledger.resign("coordinator-a"),
    "assign": lambda ledger, term: ledger.assign(term, 0, "shard-b", 1),
    "intend": lambda ledger, term: ledger.intend(term, 0, "shard-b"),
    "successor_ready": lambda ledger, term: ledger.successor_ready(1, "shard-b"),
    "suspect": lambda ledger, term: ledger.suspect("shard-a", 11, "x"),
    "depart": lambda ledger, term: ledger.depart("shard-a", 11),
    "set_draining": lambda ledger, term: ledger.set_draining("shard-a", True),
    "order": lambda ledger, term: ledger.order("shard-a", "die"),
    "gateway_lost": lambda ledger, term: ledger.gateway_lost(term, 7),
    "read_checkpoint": lambda ledger, term: ledger.read_checkpoint(0, 0),
}
REFUSED_CALLS = {
    "gateway": (
        "init_world", "commit", "put_checkpoint", "reseed", "elect", "resign", "assign", "intend", "successor_ready", "set_draining",
        "order", "gateway_lost", "read_checkpoint", "open_world",
    ),
    "shard": ("enter", "restate", "elect", "resign", "suspect", "set_draining", "order", "gateway_lost"),
    "coordinator": ("init_world", "commit", "put_checkpoint", "reseed", "enter", "suspect", "restate"),
    "operator": tuple(name for name in CALLS if name != "read_checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize(("role", "call"), [(role, call) for role, calls in REFUSED_CALLS.items() for call in calls])
async def test_a_call_that_is_not_the_roles_is_refused_in_one_line_and_changes_nothing(users: Server, role: str, call: str) -> None:
    raw = users.raw("admin")
    await raw.flushall()
    async with users.ledger("admin") as rest, users.ledger(role) as own:
        lab = Lab("users", "main", rest, raw=raw)
        await lab.zones(0, 1)
        await rest.heartbeat(member("shard-a"))
        await lab.enter("ann")
        await rest.intend(lab.term, 1, "shard-b")
        if call == "open_world":  # where it is open, there is nothing to write
            await raw.hset("perdure:{main}:control", "opened_for", "another")  # type: ignore[misc]
        refusal = await lab.unchanged(CALLS[call](own, lab.term))
        assert isinstance(refusal, LedgerError), refusal
        assert isinstance(refusal, LedgerUnavailable) == (call == "commit")
        assert re.search(rf": user {role} may not do FCALL(_RO)? perdure_v1_{call}: ", str(refusal))
        assert (
            "\n" not in str(refusal) and "deploy/users.acl" in str(refusal) and "script: " not in str(refusal).split("ACL failure in ")[0]
        )
    await raw.aclose()


async def test_hints_that_a_user_may_not_hear_are_said_once(users: Server, capsys: pytest.CaptureFixture[str]) -> None:
    async with users.ledger("admin"), users.ledger("operator") as own:

        async def listen() -> None:
            async for _ in own.subscribe(ROUTES_CHANNEL):
                pytest.fail("the operator hears")

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listen(), 0.4)
    out = capsys.readouterr().out
    assert out.count("user operator may not do SUBSCRIBE routes") == 1


# --- who is let in, and the functions ---------------------------------------------------------------------------------------


async def test_nobody_gets_in_without_a_users_password(users: Server) -> None:
    path = users.server.socket_path
    for url in (f"unix://{path}", f"unix://:gateway@{path}", f"unix://gateway:shard@{path}", f"unix://shard:gateway@{path}"):
        with pytest.raises(LedgerError, match=r"wants a password|user or password are wrong"):
            await RedisLedger.connect(url, "main")


async def test_a_user_is_of_one_world(users: Server) -> None:
    async with users.ledger("admin"):
        pass  # loads the functions
    other = await RedisLedger.connect(users.url("gateway"), "other")
    with pytest.raises(LedgerError, match="user gateway may not do HGETALL: "):
        await other.world()
    with pytest.raises(LedgerError, match="user gateway may not do FCALL perdure_v1_heartbeat: "):
        await other.heartbeat(member())
    await other.close()


async def test_a_role_that_starts_first_waits_for_the_functions(
    users: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = users.raw("admin")
    await raw.execute_command("FUNCTION", "FLUSH")
    waiting = asyncio.ensure_future(RedisLedger.connect(users.url("shard"), "main"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    assert capsys.readouterr().out.count("waiting_for_functions") == 1
    async with users.ledger("coordinator"):
        shard = await asyncio.wait_for(waiting, 5)
    await raw.execute_command("FUNCTION", "FLUSH")
    await shard.world()
    with pytest.raises(LedgerUnavailable, match="holds no functions yet, and user shard may not do FUNCTION LOAD: start a coordinator"):
        await shard.view()
    async with users.ledger("coordinator"):
        assert (await shard.view()).version >= 0, "it goes on as soon as they are there"
    await shard.close()
    await raw.execute_command("FUNCTION", "FLUSH")
    monkeypatch.setattr(redis_ledger, "LIBRARY_WAIT_S", 0.1)
    with pytest.raises(LedgerUnavailable, match="start a coordinator"):
        await RedisLedger.connect(users.url("gateway"), "main")
    await raw.aclose()


async def test_a_role_goes_on_with_another_build_of_its_revision_and_not_with_an_older_one(
    users: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perdure.ledger import redis_functions

    async with users.ledger("coordinator"):
        pass
    monkeypatch.setattr(redis_ledger, "LIBRARY_WAIT_S", 0.1)
    monkeypatch.setattr(redis_functions, "library_build", lambda: f"{redis_functions.LIBRARY_REVISION}:00")
    async with users.ledger("gateway") as own:
        await own.view()
    revision = redis_functions.LIBRARY_REVISION
    monkeypatch.setattr(redis_functions, "LIBRARY_REVISION", revision + 1)
    with pytest.raises(
        LedgerUnavailable, match=f"holds revision {revision} of the functions, not {revision + 1}, and user gateway may not"
    ):
        await RedisLedger.connect(users.url("gateway"), "main")


def test_functions_of_another_text_have_another_revision() -> None:
    """Else, in an upgrade, a process of the older build puts the older functions back: of two texts of one revision the last one stays."""
    from perdure.ledger.redis_functions import LIBRARY_REVISION, library_build

    build = "4:6e71c6d6afe58bb71643610c585749ad"
    assert library_build() == build, f"raise LIBRARY_REVISION (it is {LIBRARY_REVISION}), and write {library_build()!r} here"


def test_no_password_stands_in_the_acl_file_and_a_missing_one_is_named() -> None:
    made = acl_file(PERDURE_REDIS_PASSWORD_SHARD="correct horse")
    assert "correct horse" not in made and "<" not in made and ">" not in made
    assert [line.split()[1] for line in made.splitlines()] == ["default", *ROLES]
    assert "user default off" in made and "nopass" not in made
    for role in ROLES:
        with pytest.raises(ValueError, match=f"set PERDURE_REDIS_PASSWORD_{role.upper()} "):
            acl_file(**{f"PERDURE_REDIS_PASSWORD_{role.upper()}": ""})
    assert "~perdure:{*}:head:*" in acl_file(PERDURE_WORLD="*")
    for world in ("a b", "x*", "a/b", "}"):
        with pytest.raises(ValueError, match="PERDURE_WORLD"):
            acl_file(PERDURE_WORLD=world)
