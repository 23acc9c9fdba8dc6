"""The ledger in Redis or Valkey (7.0 or later): every method is one function call, so it is atomic on the server.

Owns three ways to the server: the commit connection (redis_commit), another one of its kind for what every process asks several times
a second, and a small redis-py pool for everything else. None retries by itself. Never decides anything: the rules stand in
functions/*.lua, and in words in ledger.py. Called by the shard, the gateway, the coordinator and the CLI through the `Ledger` interface;
the process must trust nothing that it answers without an epoch check.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

import hiredis
import msgpack
import orjson
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from perdure.ledger import keys
from perdure.ledger.chat import CHAT_PAGE, ChatLine, ChatPage, SayStatus
from perdure.ledger.generations import generation_above
from perdure.ledger.ledger import Ledger, LedgerAhead, LedgerRefused, LedgerUnavailable, Sent
from perdure.ledger.record import blob_digest
from perdure.ledger.redis_answers import Routes, decoding, pairs_of, presence_of, run_id_of, view_of, world_of, zone_head_of
from perdure.ledger.redis_commit import CommitConnection, pack
from perdure.ledger.redis_errors import UNAVAILABLE, code_of, explain, unknown_function
from perdure.ledger.redis_functions import LIBRARY_NAME, LibraryAwaited, ensure_library
from perdure.ledger.values import (
    ClusterView,
    Commit,
    CommitAnswer,
    CommitStatus,
    EnterAnswer,
    EnterRequest,
    EnterStatus,
    HeartbeatAnswer,
    Leadership,
    LobbyRecord,
    LoggedRecord,
    Member,
    Order,
    Presence,
    Reseed,
    Restated,
    Waiting,
    WorldSettings,
    ZoneHead,
)
from perdure.wire.identifiers import key_hex, player_key

log = structlog.get_logger("ledger")

OLDEST_SERVER = (7, 0)
POOL_CONNECTIONS = 8
SUBSCRIPTIONS = 16
"""Subscriptions that one client may hold at a time: each holds a connection of its own."""
POOL_WAIT_S = 5.0
CALL_DEADLINE_S = 5.0
COMMIT_DEADLINE_S = 1.0
BEAT_DEADLINE_S = 1.4
"""A connection on which a heartbeat has no answer for so long is given up: a new one is heard at once (membership.ANSWER_DEADLINE_S)."""
RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.05, 2.0
GATEWAY_LOST_BATCH = 500
"""Players that one call of gateway_lost marks: about 5 ms of the server's time."""
HASH_IN_THREAD_BYTES = 1 << 18
LIBRARY_WAIT_S, LIBRARY_POLL_S = 30.0, 0.2
"""How long a connecting user that may not load the functions waits for one who may, such as a coordinator that starts meanwhile."""
_PING_EVERY_S = 5.0

_PLAYER = struct.Struct("<q")
_COMMITTED = CommitAnswer(CommitStatus.OK)
Answer = TypeVar("Answer")


class RedisLedger(Ledger):
    """One client of a world in Redis. Bound to the event loop that it was connected on; use `connect`."""

    def __init__(
        self, client: redis.asyncio.Redis, hints: redis.asyncio.Redis, commits: CommitConnection, beats: CommitConnection, world: str,
        call_deadline_s: float,
    ) -> None:  # fmt: skip
        self._client = client
        self._hints = hints
        self._commits, self._beats = commits, beats
        self._world = world
        self._base = keys.base(world)
        self._call_deadline_s = call_deadline_s
        self._run_id = ""
        self._routes = Routes()
        self._closed = False
        self._reload = asyncio.Lock()
        # What is the same in every commit is encoded once: FCALL, its function, the number of keys, the key.
        self._commit_head = ("FCALL", f"{LIBRARY_NAME}_commit", "1", self._base)
        self.where = commits.where
        self._user = commits.user

    @classmethod
    async def connect(
        cls,
        url: str,
        world: str,
        *,
        name: str = "perdure",
        commit_deadline_s: float = COMMIT_DEADLINE_S,
        call_deadline_s: float = CALL_DEADLINE_S,
    ) -> RedisLedger:
        """Connect, check the server and load the function library where it is not there.

        `url` is redis://, rediss:// or unix:///path. Raises LedgerError, of one line, that says what is wrong with the server.
        """
        try:
            base = keys.base(world)
            commits = CommitConnection(url, f"{name}-commit", commit_deadline_s)
            beats = CommitConnection(url, f"{name}-beat", min(BEAT_DEADLINE_S, call_deadline_s))
        except ValueError as error:
            raise LedgerRefused(str(error)) from error

        def pool(most: int) -> redis.asyncio.ConnectionPool:
            return redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=most,
                timeout=POOL_WAIT_S,
                socket_timeout=None,
                socket_connect_timeout=call_deadline_s,
                retry=Retry(NoBackoff(), 0),
                retry_on_timeout=False,
                health_check_interval=0,
                client_name=name,
                protocol=2,
            )

        client = redis.asyncio.Redis.from_pool(pool(POOL_CONNECTIONS))
        # By name, redis-py would make dicts of a log entry's fields, and a page has many of one name.
        client.set_response_callback("XRANGE", _as_it_is)
        hints = redis.asyncio.Redis.from_pool(pool(SUBSCRIPTIONS))
        self = cls(client, hints, commits, beats, world, call_deadline_s)
        try:
            await self._check_server(base)
        except BaseException:
            await self.close()
            raise
        return self

    async def _check_server(self, base: str) -> None:
        info = cast(dict[str, Any], await self._ask("INFO", lambda: self._client.info("server")))
        version = str(info.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
            oldest = ".".join(map(str, OLDEST_SERVER))
            raise LedgerRefused(f"{self.where}: it is Redis {version}, but functions need {oldest} or later: upgrade it")
        replication = cast(dict[str, Any], await self._ask("INFO", lambda: self._client.info("replication")))
        if replication.get("role") in ("slave", "replica"):
            raise LedgerRefused(f"{self.where}: it is a read-only replica: point the URL at the primary")
        await self._load(LIBRARY_WAIT_S)

    async def _load(self, wait_s: float = 0.0) -> None:
        """Have the functions loaded; a user that may not load them waits so long for somebody else to, then LedgerUnavailable."""
        until = asyncio.get_running_loop().time() + wait_s
        told = False
        async with self._reload:
            try:
                while True:
                    try:
                        await self._ask("FUNCTION LOAD", lambda: ensure_library(self._client))
                        return
                    except LibraryAwaited as error:
                        if asyncio.get_running_loop().time() >= until:
                            mend = "start a coordinator of this build, which loads them"
                            raise LedgerUnavailable(
                                f"{self.where} {error}, and user {self._user} may not do FUNCTION LOAD: {mend}"
                            ) from error
                        if not told:
                            log.info("waiting_for_functions", ledger=self.where, loaded_by="a coordinator")
                        told = True
                    await asyncio.sleep(LIBRARY_POLL_S)
            except LedgerRefused as error:
                raise LedgerRefused(f"cannot load the functions: {error}") from error

    # --- calls ----------------------------------------------------------------------------------------------------

    async def _ask(self, doing: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Await one redis-py call under the deadline, with its errors turned into ours. `doing` names the command."""
        try:
            async with asyncio.timeout(self._call_deadline_s):
                return await call()
        except (TimeoutError, RedisTimeoutError) as error:
            raise LedgerUnavailable(f"no answer from {self.where}: none came within {self._call_deadline_s:g} s") from error
        except RedisConnectionError as error:
            # Refusals while connecting come wrapped; AuthenticationError is a ConnectionError too.
            for refusal in (error, error.__cause__):
                if isinstance(refusal, AuthenticationError | ResponseError):
                    raise LedgerRefused(explain(self.where, refusal, self._user, doing)) from error
            if code_of(error) in UNAVAILABLE:
                raise LedgerUnavailable(explain(self.where, error)) from error
            raise LedgerUnavailable(f"no answer from {self.where}: {error}") from error
        except OSError as error:
            raise LedgerUnavailable(f"no answer from {self.where}: {error}") from error
        except RedisError as error:
            if code_of(error) in UNAVAILABLE:
                raise LedgerUnavailable(explain(self.where, error)) from error
            raise LedgerRefused(explain(self.where, error, self._user, doing)) from error

    async def _run(self, *command: str | bytes | int) -> Any:
        """Run one plain command."""

        async def once() -> Any:
            return await self._client.execute_command(*command)

        return await self._ask(str(command[0]), once)

    async def _call(self, function: str, *args: str | bytes | int, read: bool = False) -> Any:
        """Call one function of the library; where the server has lost the library, load it and call again."""

        async def once() -> Any:
            return await self._client.execute_command("FCALL_RO" if read else "FCALL", f"{LIBRARY_NAME}_{function}", 1, self._base, *args)

        doing = f"{'FCALL_RO' if read else 'FCALL'} {LIBRARY_NAME}_{function}"
        try:
            return await self._ask(doing, once)
        except LedgerRefused as error:
            if not unknown_function(error.__cause__):
                raise
        await self._load()
        return await self._ask(doing, once)

    async def _often(self, function: str, *args: str | bytes, read: bool = False) -> Any:
        """As `_call`, for small calls that come many times a second. An answer that does not come costs all that wait for one."""
        name, command = f"{LIBRARY_NAME}_{function}", "FCALL_RO" if read else "FCALL"
        packed = pack([(command, name, "1", self._base, *args)])
        (answer,) = await self._beats.call(packed, 1)
        if isinstance(answer, hiredis.ReplyError) and unknown_function(answer):
            await self._load()
            (answer,) = await self._beats.call(packed, 1)
        if isinstance(answer, hiredis.ReplyError):
            kind = LedgerUnavailable if code_of(answer) in UNAVAILABLE else LedgerRefused
            raise kind(explain(self.where, answer, self._user, f"{command} {name}"))
        return answer

    # --- world ----------------------------------------------------------------------------------------------------

    async def init_world(self, world: WorldSettings) -> WorldSettings:
        rows = [part for name, value in asdict(world).items() for part in (name, str(value))]
        return world_of(pairs_of(await self._call("init_world", *rows)))

    async def world(self) -> WorldSettings | None:
        found = await self._run("HGETALL", keys.key(self._world, "WORLD"))
        return world_of({name.decode(): value for name, value in found.items()}) if found else None

    # --- a zone's log ---------------------------------------------------------------------------------------------

    async def commit(self, commits: Sequence[Commit]) -> list[CommitAnswer]:
        if not commits:
            return []
        packed = [self._pack_commit(commit) for commit in commits]
        return await self._answered(packed, await self._commits.call(b"".join(packed), len(packed)))

    def send_commits(self, commits: Sequence[Commit]) -> Sent | None:
        packed = [self._pack_commit(commit) for commit in commits]
        answers = self._commits.send(b"".join(packed), len(packed))
        return None if answers is None else _SentCommits(self, packed, answers)

    async def _answered(self, packed: list[bytes], answers: list[Any]) -> list[CommitAnswer]:
        lost = [at for at, answer in enumerate(answers) if isinstance(answer, hiredis.ReplyError) and unknown_function(answer)]
        if lost:
            # The server restarted without its functions; those commits had no effect, so sending them is no resend.
            await self._load()
            again = await self._commits.call(b"".join([packed[at] for at in lost]), len(lost))
            for at, answer in zip(lost, again, strict=True):
                answers[at] = answer
        return [self._commit_answer(answer) for answer in answers]

    def _pack_commit(self, commit: Commit) -> bytes:
        fence = f"{commit.generation} {commit.epoch}"
        tick = str(commit.tick)
        command = [
            *self._commit_head,
            str(commit.zone),
            f"{fence} {commit.tick - 1} {commit.previous}",
            f"{fence} {tick} {commit.digest}",
            tick,
            commit.digest,
            commit.record,
        ]
        for transfer in commit.transfers:
            command += (str(transfer.target), _PLAYER.pack(transfer.player) if transfer.player else b"", transfer.entry)
        return hiredis.pack_command(tuple(command))

    def _commit_answer(self, answer: Any) -> CommitAnswer:
        if isinstance(answer, hiredis.ReplyError):
            code = code_of(answer)
            if code in UNAVAILABLE or code in ("NOAUTH", "NOPERM") or unknown_function(answer):
                why = explain(self.where, answer, self._user, f"FCALL {LIBRARY_NAME}_commit")
                raise LedgerUnavailable(f"the ledger takes no commits. {why}")
            return CommitAnswer(CommitStatus.BROKEN, detail=explain(self.where, answer))
        status = answer[0]
        if status == b"OK":
            return _COMMITTED if len(answer) == 1 else CommitAnswer(CommitStatus.OK, tuple(answer[1:]))
        return CommitAnswer(CommitStatus(status.decode()), detail=answer[1].decode())

    async def zone_head(self, zone: int) -> ZoneHead:
        return zone_head_of(zone, await self._call("zone_head", zone, read=True))

    async def read_log(self, zone: int, first_tick: int, limit: int = 1000) -> list[LoggedRecord]:
        if limit <= 0:
            return []
        log, first = keys.key(self._world, "LOG", zone), f"{max(first_tick, 0)}-0"
        rows = await self._run("XRANGE", log, first, "+", "COUNT", limit)
        with decoding(f"the log of zone {zone}"):
            return [LoggedRecord(int(at.partition(b"-")[0]), row[1].decode(), row[3], tuple(row[5::2])) for at, row in rows]

    async def read_inbox(self, zone: int) -> list[bytes]:
        return await self._run("LRANGE", keys.key(self._world, "INBOX", zone), 0, -1)

    async def waiting(self, zones: Sequence[int]) -> Waiting:
        if not zones:
            return Waiting(frozenset(), str(self._commits.connects))
        asked = pack([("FCALL_RO", f"{LIBRARY_NAME}_waiting", "1", self._base, *map(str, zones))])
        (answer,) = await self._commits.call(asked, 1)
        if isinstance(answer, hiredis.ReplyError):
            if unknown_function(answer):
                await self._load()  # the server restarted without its functions
            raise LedgerUnavailable(explain(self.where, answer, self._user, f"FCALL_RO {LIBRARY_NAME}_waiting"))
        return Waiting(frozenset(map(int, answer)), str(self._commits.connects))

    async def put_checkpoint(self, zone: int, tick: int, epoch: int, blob: bytes) -> None:
        await self._call("put_checkpoint", zone, tick, epoch, blob)

    async def flip_checkpoint(self, zone: int, generation: int, epoch: int, tick: int, digest: str) -> CommitStatus:
        # The log is trimmed by the flip, so the blob is read back and its hash compared before.
        blob = await self._run("GET", keys.key(self._world, "BLOB", zone, tick, epoch))
        found = "" if blob is None else await _digest(blob)
        status = await self._call("flip_checkpoint", zone, generation, epoch, tick, digest, int(found == digest))
        return CommitStatus(status.decode())

    async def read_checkpoint(self, zone: int, tick: int) -> bytes | None:
        return await self._call("read_checkpoint", zone, tick, read=True)

    async def reseed(self, seed: Reseed) -> ZoneHead:
        said: list[Any] = [f"{len(seed.players)} {generation_above(seed.highest)}"]
        for player in seed.players:
            said += (_PLAYER.pack(player.player), player.session, player.gateway, player.slot, player.hop)
        for sent in seed.sent:
            transfer = sent.transfer
            said += (sent.tick, transfer.target, _PLAYER.pack(transfer.player) if transfer.player else b"", transfer.entry)
        where = (seed.zone, seed.owner, seed.generation, seed.epoch, seed.tick, seed.digest, seed.blob, seed.blob_digest)
        try:
            return zone_head_of(seed.zone, await self._call("reseed", *where, *said))
        except LedgerRefused as error:
            if "drop it and load it from there" in str(error):
                raise LedgerAhead(str(error)) from error
            raise

    async def open_world(self, term: int, generation: int = 0) -> int:
        return int(await self._call("open_world", term, generation))

    # --- players --------------------------------------------------------------------------------------------------

    async def restate(self, gateway: int, sessions: Sequence[Restated], keep: Sequence[int] = (), now_ms: int = 0) -> list[bool]:
        said: list[Any] = [gateway, now_ms, len(sessions)]
        for one in sessions:
            said += (_PLAYER.pack(one.player), one.session, one.slot, one.name, one.resume)
        return [known == b"1" for known in await self._call("restate", *said, *map(_PLAYER.pack, keep))]

    async def enter(self, request: EnterRequest) -> EnterAnswer:
        answer = await self._call(
            "enter",
            _PLAYER.pack(request.player),
            request.name,
            request.gateway,
            request.slot,
            request.spawn_zone,
            request.now_ms,
            request.resume_issued,
            request.resume_presented,
        )
        status = EnterStatus(answer[0].decode())
        if status is not EnterStatus.OK:
            return EnterAnswer(status, detail=answer[1].decode())
        session, place, old_gateway, old_slot = (int(part) for part in answer[1:])
        return EnterAnswer(status, session, place, old_gateway, old_slot)

    async def detach(self, player: int, session: int) -> bool:
        return await self._call("detach", _PLAYER.pack(player), session) == 1

    async def leave(self, player: int, session: int, kick: bool = False) -> bool:
        return await self._call("leave", _PLAYER.pack(player), session, int(kick)) == 1

    async def gateway_lost(self, term: int, gateway: int) -> None:
        """In batches of GATEWAY_LOST_BATCH players, each atomic; it is safe to call again where an answer was lost."""
        tell = 1
        while await self._call("gateway_lost", term, gateway, tell, GATEWAY_LOST_BATCH):
            tell = 0

    async def player(self, player: int) -> LobbyRecord | None:
        wanted = ("name", "place", "gateway", "slot", "session", "since", "saved", "home", "moves", "resume", "seq")
        at = keys.key(self._world, "PLAYER", key_hex(player))
        name, place, gateway, slot, session, since, saved, home, moves, resume, seq = await self._run("HMGET", at, *wanted)
        if name is None:
            return None
        with decoding(f"the record of player {key_hex(player)}"):
            presence = Presence(player, name.decode(), int(place), int(gateway), int(slot), int(session), int(since))
            return LobbyRecord(presence, saved or b"", int(home), int(moves or 0), (resume or b"").decode(), int(seq or 0))

    async def online(self, zone: int | None = None) -> list[Presence]:
        if zone is None:
            rows = await self._run("HGETALL", keys.key(self._world, "ONLINE"))
        else:
            rows = pairs_of(await self._call("online", zone, read=True))
        with decoding("presence"):
            return sorted((presence_of(player, row) for player, row in rows.items()), key=lambda presence: (presence.name, presence.player))

    async def names(self, players: Sequence[int]) -> dict[int, str]:
        if not players:
            return {}
        rows = await self._run("HMGET", keys.key(self._world, "ONLINE"), *map(key_hex, players))
        with decoding("presence"):
            return {key: row.decode().split(" ", 5)[5] for key, row in zip(players, rows, strict=True) if row is not None}

    # --- chat -----------------------------------------------------------------------------------------------------

    async def say(self, player: int, session: int, to: str, text: str) -> SayStatus:
        answer = await self._call("say", _PLAYER.pack(player), session, to, _PLAYER.pack(player_key(to)), text)
        return SayStatus(answer.decode())

    async def chat(self, after: str) -> ChatPage:
        last, *rows = await self._call("chat", after, CHAT_PAGE, read=True)
        with decoding("the chat"):
            lines = [ChatLine(row[1].decode(), row[3].decode(), int(row[5]), row[7].decode()) for _, row in rows]
        return ChatPage(last.decode(), tuple(lines))

    # --- membership and assignment --------------------------------------------------------------------------------

    async def heartbeat(self, member: Member, known: bool = False, taken: Sequence[int] = ()) -> HeartbeatAnswer:
        state = str(member.info.get("state", ""))
        number = str(member.number)
        packed: bytes = msgpack.packb([member.kind, number, member.address, str(member.beat), state, orjson.dumps(member.info).decode()])  # type: ignore[assignment]
        words = (member.name, number, member.kind, member.address, state, packed, "1" if known else "0")
        answer = await self._often("heartbeat", *words, *map(str, taken))
        accepted, version = answer[0] == 1, int(answer[1])
        if not accepted:
            return HeartbeatAnswer(False, version, detail=answer[2].decode())
        orders = (order.decode().split(" ", 1) for order in answer[2:])
        return HeartbeatAnswer(True, version, tuple(Order(int(at), text) for at, text in orders))

    async def view(self) -> ClusterView:
        answer = await self._often("view", read=True)
        if self._run_id not in ("", run_id_of(answer)):
            # Another server, or this one with an older copy of its data: it may have older functions.
            await self._load()
            answer = await self._often("view", read=True)
        self._run_id = run_id_of(answer)
        with decoding("the view"):
            return view_of(answer, self._routes)

    async def routes_version(self) -> int:
        at = keys.key(self._world, "CONTROL")
        version = await self._run("HGET", at, "version")
        with decoding("the routes version"):
            return int(version or 0)

    async def elect(self, candidate: str, term: int = 0, silent: int = -1) -> Leadership:
        leading, now, leader, beat = await self._call("elect", candidate, term, silent)
        return Leadership(leading == 1, int(now), leader.decode(), int(beat))

    async def resign(self, candidate: str) -> None:
        await self._call("resign", candidate)

    async def assign(self, term: int, zone: int, shard: str, expected_epoch: int, at_checkpoint: bool = False) -> int:
        return int(await self._call("assign", term, zone, shard, expected_epoch, int(at_checkpoint)))

    async def intend(self, term: int, zone: int, successor: str) -> None:
        await self._call("intend", term, zone, successor)

    async def successor_ready(self, zone: int, shard: str) -> None:
        await self._call("successor_ready", zone, shard)

    async def suspect(self, member: str, number: int, reporter: str) -> None:
        await self._call("suspect", member, number, reporter)

    async def evict(self, term: int, member: str, number: int) -> None:
        await self._call("evict", term, member, number)

    async def depart(self, member: str, number: int) -> None:
        await self._call("depart", member, number)

    async def set_draining(self, member: str, draining: bool) -> None:
        await self._call("set_draining", member, int(draining))

    async def order(self, member: str, order: str) -> None:
        await self._call("order", member, order)

    # --- hints ----------------------------------------------------------------------------------------------------

    async def subscribe(self, *channels: str) -> AsyncIterator[tuple[str, bytes]]:
        """As in Ledger. Reconnects by itself, with a pause that doubles from 50 ms to 2 s; ends once the ledger is closed."""
        names = {keys.channel(self._world, channel).encode(): channel for channel in channels}
        pause_s = RECONNECT_FIRST_S
        refused = False
        while not self._closed:
            pubsub = self._hints.pubsub()
            try:
                async with asyncio.timeout(self._call_deadline_s):
                    await pubsub.subscribe(*names)
                pinged = False
                while not self._closed:
                    message = await pubsub.get_message(timeout=_PING_EVERY_S)
                    if message is None and pinged:
                        raise RedisTimeoutError("the server is silent")
                    pinged = message is None
                    if message is None:
                        await pubsub.ping()
                    elif message["type"] == "subscribe":
                        pause_s = RECONNECT_FIRST_S
                        yield names[message["channel"]], b"resync"
                    elif message["type"] == "message":
                        yield names[message["channel"]], message["data"]
            except (RedisError, OSError, TimeoutError) as error:
                if code_of(error) == "NOPERM" and not refused:
                    refused = True  # once: it will not mend itself
                    log.error("hints_refused", why=explain(self.where, error, self._user, f"SUBSCRIBE {' '.join(channels)}"))
                # Hints may get lost; everything works by polling too, and the resync after the reconnect says so.
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_MOST_S)
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        self._closed = True
        self._commits.close()
        self._beats.close()
        for client in (self._client, self._hints):
            await client.aclose()
            await client.connection_pool.disconnect()


class _SentCommits(Sent):
    """`packed`: each of them, as it was sent; `came`: what comes back."""

    def __init__(self, ledger: RedisLedger, packed: list[bytes], came: asyncio.Future[list[Any]]) -> None:
        self._ledger, self._packed, self._came = ledger, packed, came

    def answered_within(self, seconds: float) -> list[CommitAnswer] | None:
        came = self._came
        if not came.done():
            self._ledger._commits.take_in(came, seconds)
        if not came.done() or came.cancelled() or came.exception() is not None:
            return None
        answers = came.result()
        if any(isinstance(answer, hiredis.ReplyError) for answer in answers):
            return None  # it may have to be sent again
        return [self._ledger._commit_answer(answer) for answer in answers]

    async def answers(self) -> list[CommitAnswer]:
        return await self._ledger._answered(self._packed, await self._came)


def _as_it_is(response: Any, **kwargs: Any) -> Any:
    return response


async def _digest(blob: bytes) -> str:
    """Hash a blob; a large one in a thread, so that the loop goes on ticking."""
    return blob_digest(blob) if len(blob) < HASH_IN_THREAD_BYTES else await asyncio.to_thread(blob_digest, blob)
