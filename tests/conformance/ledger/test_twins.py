"""The twins, call by call: any sequence of calls gets the same answers from memory and from a server, and leaves the same behind."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledger_lab import Lab, member, raw_client, request, seed

from perdure.ledger import keys
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import Ledger, LedgerError, LedgerUnavailable
from perdure.ledger.memory_ledger import MemoryLedger
from perdure.ledger.memory_store import MemoryStore
from perdure.ledger.record import blob_digest, chain_digest
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import Commit, PlayerInZone, Restated, Sent, Transfer
from perdure.wire.entries import Entry, EntryKind
from perdure.wire.identifiers import player_key

ZONES = (0, 1, 2)
NAMES = ("ada", "bob", "cid")
MEMBERS = ("shard-a", "shard-b")
EXAMPLES = 20
"""A fault is not shrunk (each try costs tens of calls to a server): the script that found it is printed as it is."""
CONNECTION_TRIES = 4
LOOK_EVERY = 8
"""Steps between two comparisons of all that can be seen: a look is some twenty calls."""

Call = Callable[[Ledger], Awaitable[Any]]
Step = tuple[Any, ...]

zone = st.sampled_from(ZONES)
name = st.sampled_from(NAMES)
# Mostly what a well-behaved caller would send; now and then a number that is off.
off = st.sampled_from((0,) * 12 + (-1, 1))
gateway = st.sampled_from((7, 8))
somebody = st.sampled_from(MEMBERS)
number = st.sampled_from((11, 11, 12))
transfer = st.tuples(st.sampled_from((-1, *ZONES)), st.sampled_from((*NAMES, *NAMES, "")), gateway, off, off)
present = st.tuples(st.sampled_from(NAMES), st.sampled_from((0, 7, 8)), off, st.sampled_from((-1, 0, 0, 1, 2)))

plain_steps = st.one_of(
    st.tuples(st.just("commit"), zone, off, off, off, st.booleans(), st.lists(transfer, max_size=3)),
    st.tuples(st.just("commit"), zone, st.just(0), st.just(0), st.just(0), st.just(False), st.lists(transfer, max_size=1)),
    st.tuples(st.just("commit twice"), zone),
    st.tuples(st.just("assign"), zone, st.sampled_from((*MEMBERS, "")), off, off, st.booleans()),
    st.tuples(st.just("enter"), name, gateway, zone, st.sampled_from(("", "", "r0", "r1"))),
    st.tuples(st.just("enter"), name, gateway, zone, st.just("")),
    st.tuples(st.just("detach"), name, off),
    st.tuples(st.just("leave"), name, off, st.booleans()),
    st.tuples(st.just("say"), name, off, st.sampled_from(("", *NAMES))),
    st.tuples(st.just("gateway_lost"), gateway, off),
    st.tuples(st.just("checkpoint"), zone, off, off, off, st.booleans()),
    st.tuples(st.just("put_checkpoint"), zone, off),
    st.tuples(st.just("reseed"), zone, off, off, off, st.lists(present, max_size=3), st.lists(st.tuples(off, transfer), max_size=3)),
    st.tuples(st.just("heartbeat"), somebody, number, st.sampled_from(("ready", "draining"))),
    st.tuples(st.just("evict"), somebody, number, off),
    st.tuples(st.just("depart"), somebody, number),
    st.tuples(st.just("suspect"), somebody, number),
    st.tuples(st.just("draining"), somebody, st.booleans()),
    st.tuples(st.just("order"), somebody),
    st.tuples(st.just("elect"), st.sampled_from(("c", "d")), st.sampled_from((-1, 0)), st.sampled_from((-1, 0, 0))),
    st.tuples(st.just("resign"), st.sampled_from(("c", "d"))),
    st.tuples(st.just("intend"), zone, st.sampled_from((*MEMBERS, "")), off),
    st.tuples(st.just("ready"), zone, somebody),
    st.tuples(
        st.just("restate"), gateway, st.lists(st.tuples(name, off, off), max_size=3, unique_by=itemgetter(0)), st.lists(name, max_size=1)
    ),
    st.tuples(st.just("another server")),
    st.tuples(st.just("open"), off, st.sampled_from((0, 0, 5))),
    st.tuples(st.just("open"), st.just(0), st.just(0)),
)
outages = st.one_of(
    st.tuples(st.just("reply lost"), plain_steps),
    st.tuples(st.just("reply lost"), plain_steps),
    st.tuples(st.just("connection lost"), plain_steps),
    st.tuples(st.just("restart")),
)
steps = st.integers(0, 11).flatmap(lambda which: outages if which == 0 else plain_steps)


class Twins:
    """Both ledgers, and the making of a call from a step and the state in memory."""

    def __init__(self, memory: MemoryLedger, redis_lab: Lab) -> None:
        self.memory = memory
        self.lab = redis_lab
        self.counter = itertools.count()
        self.last: dict[int, Commit] = {}

    async def call(self, step: Step) -> Call:
        """Return the call that a step means, given where things stand."""
        verb, *rest = step
        data = self.memory.store.data
        match verb, rest:
            case "commit", [where, d_epoch, d_tick, d_generation, broken_chain, transfers]:
                head = await self.memory.zone_head(where)
                record = b"record %d" % next(self.counter)
                previous = "ab" * 16 if broken_chain else head.digest
                moves = tuple(self.transfer(*one) for one in transfers)
                commit = Commit(
                    where, head.generation + d_generation, head.epoch + d_epoch, head.tick + 1 + d_tick, previous,
                    chain_digest(previous, record), record, moves,
                )  # fmt: skip
                if min(commit.generation, commit.epoch, commit.tick) < 0:
                    commit = replace(commit, generation=0, epoch=0, tick=0)
                self.last[where] = commit
                return lambda ledger: ledger.commit([commit])
            case "commit twice", [where]:
                known = self.last.get(where, Commit(where, 1, 1, 1, "", "cd" * 16, b""))
                return lambda ledger: ledger.commit([known, known])
            case "assign", [where, shard, d_epoch, d_term, at_checkpoint]:
                epoch = (await self.memory.zone_head(where)).epoch + d_epoch
                return lambda ledger: ledger.assign(data.term + d_term, where, shard, epoch, at_checkpoint)
            case "enter", [who, gate, spawn, resume]:
                issued = f"r{next(self.counter) % 2}"
                entering = request(who, gate, next(self.counter), spawn, resume_presented=resume, resume_issued=issued)
                return lambda ledger: ledger.enter(entering)
            case "detach", [who, d_session]:
                session = self.session(who) + d_session
                return lambda ledger: ledger.detach(player_key(who), session)
            case "leave", [who, d_session, kick]:
                session = -1 if d_session < 0 else self.session(who) + d_session
                return lambda ledger: ledger.leave(player_key(who), session, kick)
            case "say", [who, d_session, to]:
                session = self.session(who) + d_session
                return lambda ledger: ledger.say(player_key(who), session, to, "word")
            case "gateway_lost", [gate, d_term]:
                return lambda ledger: ledger.gateway_lost(data.term + d_term, gate)
            case "checkpoint", [where, d_tick, d_epoch, d_generation, wrong]:
                head = await self.memory.zone_head(where)
                tick, epoch = max(head.tick + d_tick, 0), max(head.epoch + d_epoch, 0)
                blob = b"blob %d" % next(self.counter)
                digest = "ee" * 16 if wrong else blob_digest(blob)

                async def checkpoint(ledger: Ledger) -> Any:
                    await ledger.put_checkpoint(where, tick, epoch, blob)
                    return await ledger.flip_checkpoint(where, max(head.generation + d_generation, 0), epoch, tick, digest)

                return checkpoint
            case "put_checkpoint", [where, d_tick]:
                head = await self.memory.zone_head(where)
                return lambda ledger: ledger.put_checkpoint(where, max(head.tick + d_tick, 0), head.epoch, b"put")
            case "reseed", [where, d_generation, d_epoch, d_tick, players, transfers]:
                head = await self.memory.zone_head(where)
                at = (max(head.generation + d_generation, 0), max(head.epoch + d_epoch, 0), max(head.tick + d_tick, 0))
                here = [
                    PlayerInZone(player_key(who), max(self.session(who) + d_session, 0), gate, 3, max(self.moves(who) + d_hop, 0))
                    for who, gate, d_session, d_hop in players
                ]
                # An entity without a player cannot go to the lobby: the zone never says that.
                sent = [Sent(head.tick + 1 + d_sent, self.transfer(*one)) for d_sent, one in transfers if one[1] or one[0] >= 0]
                return lambda ledger: ledger.reseed(seed(where, *at, "ef" * 16, b"seed", players=here, sent=sent))
            case "heartbeat", [who, incarnation, state]:
                beat = next(self.counter)
                return lambda ledger: ledger.heartbeat(member(who, incarnation, beat=beat, state=state))
            case "evict", [who, incarnation, d_term]:
                return lambda ledger: ledger.evict(data.term + d_term, who, incarnation)
            case "depart", [who, incarnation]:
                return lambda ledger: ledger.depart(who, incarnation)
            case "suspect", [who, incarnation]:
                return lambda ledger: ledger.suspect(who, incarnation, "gateway-1")
            case "draining", [who, mark]:
                return lambda ledger: ledger.set_draining(who, mark)
            case "order", [who]:
                return lambda ledger: ledger.order(who, "drain")
            case "elect", [who, d_term, d_beat]:
                term, beat = max(data.term + d_term, 0), max(data.beat + d_beat, 0)
                return lambda ledger: ledger.elect(who, term, beat)
            case "resign", [who]:
                return lambda ledger: ledger.resign(who)
            case "intend", [where, shard, d_term]:
                return lambda ledger: ledger.intend(data.term + d_term, where, shard)
            case "ready", [where, shard]:
                return lambda ledger: ledger.successor_ready(where, shard)
            case "restate", [gate, sessions, keep]:
                said = [self.restated(*one) for one in sessions]
                kept = [player_key(who) for who in keep]
                return lambda ledger: ledger.restate(gate, said, kept, 5)
            case "open", [d_term, generation]:
                return lambda ledger: ledger.open_world(data.term + d_term, generation)
            case "another server", []:
                return self.another_server
        raise AssertionError(step)

    async def another_server(self, ledger: Ledger) -> None:
        """As far as this world can tell, the server is another one by now."""
        if ledger is self.memory:
            self.memory.store.data.opened_for = "another"
        else:
            assert self.lab.raw is not None
            await self.lab.raw.hset(keys.key(self.lab.world, "CONTROL"), "opened_for", "another")  # type: ignore[misc]

    async def cut(self) -> None:
        """End the connections that the Redis twin has; what it calls next is called on another."""
        assert self.lab.raw is not None
        await self.lab.raw.client_kill_filter(_type="normal", skipme=True)  # type: ignore[no-untyped-call]

    async def restart(self) -> None:
        """Kill the server; it comes back with everything, and the world is not open for it yet."""
        server = self.lab.server
        assert server is not None
        server.kill()
        await asyncio.get_running_loop().run_in_executor(None, server.start)
        store = self.memory.store
        store.restore(store.snapshot())

    def restated(self, who: str, d_session: int, d_slot: int) -> Restated:
        known = self.memory.store.data.players.get(player_key(who))
        slot = known.slot if known else 1
        return Restated(player_key(who), max(self.session(who) + d_session, 0), max(slot + d_slot, 0), who, "rr")

    def session(self, who: str) -> int:
        known = self.memory.store.data.players.get(player_key(who))
        return known.session if known else 1

    def moves(self, who: str) -> int:
        known = self.memory.store.data.players.get(player_key(who))
        return known.moves if known else 0

    def transfer(self, target: int, who: str, gate: int, d_session: int, d_hop: int) -> Transfer:
        player = player_key(who) if who else 0
        session, hop = max(self.session(who) + d_session, 0), self.moves(who) + 1 + d_hop
        payload = b"row %d" % next(self.counter)
        kind, seq = EntryKind.LEAVE if target == -1 else EntryKind.ARRIVE, next(self.counter) * 0x9E37_79B1 & 0xFFFF_FFFF
        return Transfer(target, player, Entry(kind, player, session, gate, 1, hop=hop, last_seq=seq, payload=payload).pack())

    async def look(self, ledger: Ledger) -> dict[str, Any]:
        """Return all that can be seen of a world."""
        seen: dict[str, Any] = {"view": replace(await ledger.view(), run_id="")}
        for where in ZONES:
            head = await ledger.zone_head(where)
            seen[f"zone {where}"] = (
                head,
                await ledger.read_inbox(where),
                await ledger.read_log(where, 0),
                [await ledger.read_checkpoint(where, tick) for tick, _ in head.checkpoints],
                await ledger.online(where),
            )
        seen["players"] = [await ledger.player(player_key(who)) for who in NAMES]
        seen["online"] = await ledger.online()
        seen["names"] = await ledger.names([player_key(who) for who in NAMES])
        seen["chat"] = (await ledger.chat("0" if ledger is self.memory else "0-0")).lines
        return seen

    async def presence_logs(self) -> tuple[Counter[str], Counter[str]]:
        """The changes of one call (of a lost gateway's players) stand in no order."""
        assert self.lab.raw is not None
        rows: Any = await self.lab.raw.xrange(keys.key(self.lab.world, "PRESENCE_LOG"))
        return Counter(self.memory.store.data.presence_log), Counter(fields[b"c"].decode() for _, fields in rows)


async def answer_of(call: Call, ledger: Ledger) -> Any:
    """Return what a call answers; a refusal as its words, which the Redis twin says after the server's name. It is called again, as
    every caller does, where the connection was lost."""
    for _ in range(CONNECTION_TRIES):
        try:
            return await call(ledger)
        except LedgerError as error:
            words = str(error)
            if not isinstance(error, LedgerUnavailable) or "not open" in words:
                return f"refused: {words.partition(': ')[2]}" if isinstance(ledger, RedisLedger) else f"refused: {words}"
    raise AssertionError(f"no answer in {CONNECTION_TRIES} tries")


_worlds = itertools.count(1)


async def play(script: list[Step], server: EmbeddedServer) -> None:
    world = f"twins-{next(_worlds)}"
    redis_ledger = await RedisLedger.connect(server.url, world)
    lab = Lab("twin", world, redis_ledger, server=server, raw=raw_client(server.url))
    twins = Twins(MemoryLedger(MemoryStore()), lab)
    twins.memory.store.data.opened_for = ""
    try:
        opening: list[Step] = [("elect", "c", 0, -1), ("enter", "ada", 7, 0, ""), ("open", 0, 0)]
        opening += [("assign", where, "shard-a", 0, 0, False) for where in ZONES]
        for at, step in enumerate([*opening, *script]):
            if step[0] == "restart":
                await twins.restart()
                continue
            outage, step = (step[0], step[1]) if step[0] in ("reply lost", "connection lost") else ("", step)
            # Read before either twin is called: both get the very same arguments.
            call = await twins.call(step)
            if outage == "connection lost":
                await twins.cut()
            elif outage == "reply lost":  # it took effect, and who called cannot know: it calls again
                assert await answer_of(call, redis_ledger) == await answer_of(call, twins.memory), (at, step)
            mine = await answer_of(call, redis_ledger)
            theirs = await answer_of(call, twins.memory)
            assert mine == theirs, (at, outage, step)
            if at % LOOK_EVERY == 0:
                assert await twins.look(redis_ledger) == await twins.look(twins.memory), (at, step)
        assert await twins.look(redis_ledger) == await twins.look(twins.memory)
        in_memory, on_server = await twins.presence_logs()
        assert in_memory == on_server
    finally:
        await lab.close()


@pytest.mark.parametrize("kind", ["valkey", "redis70"])
def test_any_sequence_of_calls_gets_the_same_answers(kind: str, server_of: Callable[[str], EmbeddedServer]) -> None:
    server = server_of(kind)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=(HealthCheck.too_slow,))
    @given(st.lists(steps, min_size=10, max_size=40))
    def check(script: list[Step]) -> None:
        asyncio.run(play(script, server))

    check()
