"""Admission: who may enter, and what the ledger is told of sessions that come and go.

Owns the check of tokens, the call of `Ledger.enter` with its retries, and a bounded outbox of detaches and kicks that must
reach the ledger sooner or later. Never touches a socket. Called by dispatch (instructions of sessions) and service
(takeover notices, doubts about silent sessions).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.fanout import Fanout
from gateway.login_queue import LoginQueue
from gateway.routing import RoutingTable
from gateway.session import NO_HOP, Session
from gateway.session_states import SessionState
from perdure.ledger.ledger import Ledger, LedgerError, LedgerRefused, LedgerUnavailable
from perdure.ledger.values import EnterRequest, EnterStatus, Restated
from perdure.wire.client_messages import Hello, queued_frame
from perdure.wire.identifiers import LOBBY, player_key
from perdure.wire.opcodes import Close, SnapshotFlag
from perdure.wire.tokens import TokenExpired, TokenInvalid, check_token, hash_resume, make_resume, split_resume

log = structlog.get_logger("gateway.admission")

RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0
OUTBOX_BATCH = 64
TELL_QUEUED_S, QUEUE_LOOK_S = 1.0, 0.02
LOGINS_AT_ONCE, LOGIN_EVERY_S = 20, 0.5
LOGINS_REMEMBERED = 16_384
"""Players whose last logins are remembered, before those are forgotten that may log in again anyway."""
BUSY = "too many log in at this gateway, and the ledger is slow to answer; try again"
NO_MEMBER = "this gateway is joining the cluster; try again, here or at another one"


@dataclass(frozen=True, slots=True)
class Departure:
    """Something the ledger must hear: a lost socket (`kick` False), or a session that is put out.

    `session` 0: an entry whose answer was lost; it is looked up by (gateway, slot) and detached if it did take effect.
    """

    player: int
    session: int
    kick: bool = False
    slots: tuple[tuple[int, int], ...] = ()


class Admission:
    """`perform` carries out instructions that sessions left (dispatch). `expected` tells the shard of a zone of a player who is about to
    come there. `joined` is set while the cluster counts on this gateway.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        fanout: Fanout,
        routing: RoutingTable,
        perform: Callable[[Session], None],
        expected: Callable[[int, int], None],
        secret: str,
        number: int,
        own_name: str,
        joined: asyncio.Event,
        zones: int,
        max_sessions: int,
        timeout_s: float,
        max_concurrent: int,
        max_queued: int = 0,
        max_players: int = 0,
    ) -> None:
        self.number = number
        self.zones = zones
        self._ledger = ledger
        self._fanout = fanout
        self._routing = routing
        self._perform = perform
        self._expected = expected
        self._secret = secret
        self._own_name = own_name
        self._joined = joined
        self._max_sessions = max_sessions
        self._max_players = max_players
        self.queue = LoginQueue(max_queued)
        self._turns: dict[Session, asyncio.Future[None]] = {}
        self._queue_task: asyncio.Task[None] | None = None
        self._timeout_s = timeout_s
        self._gate = asyncio.Semaphore(max_concurrent)
        self._entering = 0
        self._entering_slots: set[int] = set()
        self._entering_players: dict[int, int] = {}
        self._may_enter = asyncio.Event()
        self._may_enter.set()
        self._overtaken: set[int] = set()
        self._login_due_s: dict[int, float] = {}
        self._outbox: dict[Departure, None] = {}
        self._outbox_bound = 2 * max_sessions + 1000
        self._outbox_filled = asyncio.Event()
        self._outbox_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._outbox_task = asyncio.get_running_loop().create_task(self._empty_outbox(), name="departures")

    # --- entering ---------------------------------------------------------------------------------------------------

    async def admit(self, session: Session, hello: Hello) -> None:
        """Check the tokens, enter the ledger, and tell the session; every failure closes it with its own code."""
        try:
            name = check_token(self._secret, hello.token) if hello.token is not None else split_resume(hello.resume or "")
        except TokenExpired as error:
            self._close(session, Close.TOKEN_EXPIRED, str(error))
            return
        except TokenInvalid as error:
            self._close(session, Close.BAD_RESUME if hello.token is None else Close.BAD_TOKEN, str(error))
            return
        presented = "" if hello.resume is None else hash_resume(hello.resume)
        resumes = presented != ""
        if not self._in_measure(player_key(name)):
            self._close(session, Close.UNAVAILABLE, f"{name} comes in too often; wait a moment")
            return
        if not resumes:
            self._count_login(player_key(name))
        if (self.queue.first(resumes) is not None or not self._has_room(resumes)) and not await self._wait_for_room(
            session, name, presented
        ):
            return
        deadline_s = time.monotonic() + self._timeout_s
        self._entering += 1
        try:
            if not await self._at_gate(deadline_s):
                self._close(session, Close.UNAVAILABLE, BUSY if self._joined.is_set() else NO_MEMBER)
                return
            # A call that is cut off is carried out all the same, and uses up the token: who has waited for long needs time for it, too.
            deadline_s = max(deadline_s, time.monotonic() + self._timeout_s / 2)
            try:
                if not self._joined.is_set():
                    self._close(session, Close.UNAVAILABLE, NO_MEMBER)
                elif session.state is SessionState.ENTERING:
                    await self._enter(session, name, presented, deadline_s)
            finally:
                self._gate.release()
        finally:
            self._entering -= 1

    async def _at_gate(self, deadline_s: float) -> bool:
        """Wait until this gateway is a member (who is none gets no frames) and until one of so many places at the ledger is free."""
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                await self._joined.wait()
                await self._gate.acquire()
        except TimeoutError:
            return False
        return True

    def _in_measure(self, player: int) -> bool:
        """Return whether a player may come in once more: LOGINS_AT_ONCE times, and then once in LOGIN_EVERY_S.

        Each time is a write of the ledger, and one token is enough for many. Who presents a resume token may not be that player, so
        resumes are counted when the ledger has taken them.
        """
        return self._login_due_s.get(player, 0.0) - time.monotonic() <= (LOGINS_AT_ONCE - 1) * LOGIN_EVERY_S

    def _count_login(self, player: int) -> None:
        now_s = time.monotonic()
        if len(self._login_due_s) >= LOGINS_REMEMBERED:
            self._login_due_s = {key: at_s for key, at_s in self._login_due_s.items() if at_s > now_s}
        self._login_due_s[player] = max(self._login_due_s.get(player, 0.0), now_s) + LOGIN_EVERY_S

    # --- waiting for room -------------------------------------------------------------------------------------------

    def _has_room(self, resumes: bool) -> bool:
        """Is there room for one more? Who resumes is in the world already, and needs it at this gateway alone."""
        if len(self._fanout) + self._entering >= self._max_sessions:
            return False
        world = self._routing.players + self._entering
        if resumes:
            return True
        busy = self._routing.strained or self.number in self._routing.behind
        return not (busy or (self._max_players and world >= self._max_players))

    async def _wait_for_room(self, session: Session, name: str, presented: str) -> bool:
        """Wait for this session's turn; False where it was closed: by its client, for a token that does not count, for a full queue."""
        resumes = presented != ""
        if resumes and not await self._may_resume(session, name, presented):
            return False
        if not self.queue.join(session, resumes):
            self._close(session, Close.FULL, f"there is no room, and {self.queue.bound} wait for it already")
            return False
        if session.driver is not None:
            session.driver.entered()  # its token was right: it is no stranger's socket any more, and the queue has a bound of its own
        loop = asyncio.get_running_loop()
        turn = self._turns[session] = loop.create_future()
        if self._queue_task is None or self._queue_task.done():
            self._queue_task = loop.create_task(self._serve_queue(), name="login queue")
        try:
            await turn
        finally:
            self.queue.forget(session)
            self._turns.pop(session, None)
        return session.state is SessionState.ENTERING

    async def _may_resume(self, session: Session, name: str, presented: str) -> bool:
        """Ask the ledger whether a resume token counts, before its bearer goes ahead of all who log in: its form says nothing."""
        try:
            async with asyncio.timeout(self._timeout_s):
                record = await self._ledger.player(player_key(name))
        except (LedgerError, TimeoutError):
            self._close(session, Close.UNAVAILABLE, "the ledger does not answer")
            return False
        if record is None or record.resume != presented:
            self._close(session, Close.BAD_RESUME, "log in by token")
            return False
        return session.state is SessionState.ENTERING

    async def _serve_queue(self) -> None:
        """Let in who waits, as room comes; say to everybody once a second how it stands."""
        told_s = 0.0
        while len(self.queue):
            for session in [session for session in self.queue if session.state is not SessionState.ENTERING]:
                self._let_go(session)
            for resumes in (True, False):
                session = self.queue.first(resumes)
                # One at a time: the next look counts the one who enters.
                if session is not None and self._has_room(resumes):
                    self.queue.admitted(time.monotonic())
                    self._let_go(session)
                    break
            now_s = time.monotonic()
            if now_s - told_s >= TELL_QUEUED_S:
                told_s = now_s
                for position, session in enumerate(self.queue, 1):
                    session.write(queued_frame(position, self.queue.estimate_s(position, now_s)))
            await asyncio.sleep(QUEUE_LOOK_S)

    def _let_go(self, session: Session) -> None:
        self.queue.forget(session)
        turn = self._turns.get(session)
        if turn is not None and not turn.done():
            turn.set_result(None)

    async def _enter(self, session: Session, name: str, presented: str, deadline_s: float) -> None:
        """Ask the ledger until there is an answer, or the time is over (`deadline_s`, of the monotonic clock).

        A call without an answer may have taken effect, which rotates the resume token: a resume is then tried with the
        token that the lost call issued, and with the presented one. Every try has a slot of its own, so that the takeover
        notice for a lost try cannot hit the try that succeeds.
        """
        key = player_key(name)
        self._entering_players[key] = self._entering_players.get(key, 0) + 1
        try:
            await self._enter_as(session, name, key, presented, deadline_s)
        finally:
            self._entering_players[key] -= 1
            if not self._entering_players[key]:
                del self._entering_players[key]

    async def _enter_as(self, session: Session, name: str, key: int, presented: str, deadline_s: float) -> None:
        candidates = [presented]
        slots: list[tuple[int, int]] = []
        delay_s = RETRY_FIRST_S
        while True:
            resume = make_resume(name)
            issued = hash_resume(resume)
            slot, gateway = self._fanout.reserve_slot(), self.number
            request = EnterRequest(
                player=key, name=name, gateway=gateway, slot=slot, spawn_zone=self._routing.spawn_zone(key, self.zones),
                now_ms=int(time.time() * 1000), resume_issued=issued, resume_presented=candidates[-1],
            )  # fmt: skip
            self._entering_slots.add(slot)
            try:
                async with asyncio.timeout(max(deadline_s - time.monotonic(), 0.001)):
                    await self._may_enter.wait()
                    answer = await self._ledger.enter(request)
            except (LedgerUnavailable, TimeoutError):
                slots.append((gateway, slot))
                if time.monotonic() + delay_s >= deadline_s or session.state is not SessionState.ENTERING:
                    self._depart(Departure(key, 0, slots=tuple(slots)))
                    self._close(session, Close.UNAVAILABLE, "the ledger does not answer")
                    return
                if presented:
                    candidates.append(issued)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
                continue
            except LedgerRefused as error:
                log.error("enter_refused", player=name, error=str(error))
                if slots:  # a try before it may have taken effect
                    self._depart(Departure(key, 0, slots=tuple(slots)))
                self._close(session, Close.UNAVAILABLE, "the ledger refused the login")
                return
            finally:
                self._entering_slots.discard(slot)
                overtaken = slot in self._overtaken
                self._overtaken.discard(slot)
            if answer.status is EnterStatus.BAD_RESUME and len(candidates) > 1:
                candidates.pop()
                continue
            break
        if answer.status is EnterStatus.BAD_RESUME:
            self._close(session, Close.BAD_RESUME, "log in by token")
        elif answer.status is EnterStatus.NAME_CLASH:
            self._close(session, Close.BAD_TOKEN, answer.detail or "another player's name has the same key")
        else:
            older = self._fanout.of_player(key)
            if older is not None and older.session < answer.session:
                older.taken_over()
                self._perform(older)
            elif older is not None or overtaken:
                # Two logins at once: the newer one's answer, or the notice of it, was here first.
                self._close(session, Close.TAKEN_OVER, "")
                return
            if session.state is not SessionState.ENTERING:  # the socket went meanwhile
                self._depart(Departure(key, answer.session))
                return
            session.entered(name=name, key=key, session=answer.session, slot=slot, zone=answer.place, resume=resume, gateway=self._own_name)
            self._fanout.add(session)
            if presented:
                self._count_login(key)
            self._expected(answer.place, key)
            if session.driver is not None:
                session.driver.entered()
            if gateway != self.number:  # taken for lost meanwhile: the zones send this session's frames to a number that nobody has
                self._close(session, Close.GOING_AWAY, NO_MEMBER)

    def _close(self, session: Session, code: Close, detail: str) -> None:
        session.close(code, detail)
        self._perform(session)

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def leave(self, session: Session) -> None:
        """Post a logout; the zone answers with GONE on the session's frames."""
        deadline_s = time.monotonic() + self._timeout_s
        delay_s = RETRY_FIRST_S
        while session.state is SessionState.LEAVING:
            try:
                newest = await self._ledger.leave(session.key, session.session)
            except LedgerUnavailable:
                if time.monotonic() + delay_s >= deadline_s:
                    self._close(session, Close.UNAVAILABLE, "the ledger does not answer; you are not logged out")
                    return
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
            except LedgerRefused as error:
                self._close(session, Close.UNAVAILABLE, str(error))
                return
            else:
                if not newest:
                    session.taken_over()
                    self._perform(session)
                return

    def detach(self, player: int, session: int) -> None:
        """The socket of a session is gone: the ledger will hear of it, now or when it answers again."""
        self._depart(Departure(player, session))

    def kick(self, player: int, session: int) -> None:
        """Put a session's player out of the world."""
        self._depart(Departure(player, session, kick=True))

    def _depart(self, departure: Departure) -> None:
        if len(self._outbox) >= self._outbox_bound:
            oldest = next(iter(self._outbox))
            del self._outbox[oldest]
            log.error("departure_dropped", player=oldest.player, bound=self._outbox_bound)
        self._outbox[departure] = None
        self._outbox_filled.set()

    @property
    def departures_waiting(self) -> int:
        return len(self._outbox)

    async def _empty_outbox(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            await self._outbox_filled.wait()
            batch = list(self._outbox)[:OUTBOX_BATCH]
            done = await asyncio.gather(*(self._post(departure) for departure in batch))
            for departure, finished in zip(batch, done, strict=True):
                if finished:
                    self._outbox.pop(departure, None)
            if not self._outbox:
                self._outbox_filled.clear()
            if all(done):
                delay_s = RETRY_FIRST_S
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _post(self, departure: Departure) -> bool:
        """Return whether the departure is settled (a definite answer came)."""
        try:
            session = departure.session
            if departure.slots:
                record = await self._ledger.player(departure.player)
                if record is None or (record.presence.gateway, record.presence.slot) not in departure.slots:
                    return True
                session = record.presence.session
            if departure.kick:
                await self._ledger.leave(departure.player, session, kick=True)
            else:
                await self._ledger.detach(departure.player, session)
        except LedgerUnavailable:
            return False
        except LedgerRefused as error:
            log.error("departure_refused", player=departure.player, error=str(error))
        return True

    async def settle(self, timeout_s: float) -> int:
        """Wait until the outbox is empty, or the time is over; return how many departures are left."""
        deadline_s = time.monotonic() + timeout_s
        while self._outbox and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        return len(self._outbox)

    async def close(self) -> None:
        if self._queue_task is not None:
            self._queue_task.cancel()
            await asyncio.gather(self._queue_task, return_exceptions=True)
        if self._outbox_task is not None:
            self._outbox_task.cancel()
            await asyncio.gather(self._outbox_task, return_exceptions=True)

    # --- what the ledger says of our sessions -------------------------------------------------------------------------

    def taken_over(self, slot: int) -> None:
        """A newer session of the player in `slot` exists; a slot that is not here any more is no news."""
        session = self._fanout.session(slot)
        if slot in self._entering_slots:
            self._overtaken.add(slot)
        elif session is not None:
            session.taken_over()
            self._perform(session)

    async def restate(self) -> None:
        """Tell a server of the ledger that may have forgotten it which sessions are here; end those that it does not have.

        Raises LedgerError where it does not answer, or is not open yet.
        """
        sessions = [s for s in self._fanout.sessions() if s.attached and s.state is not SessionState.CLOSED]
        said = [
            Restated(s.key, s.session, s.slot, s.name, "" if s.state is SessionState.LEAVING else hash_resume(s.resume)) for s in sessions
        ]
        self._may_enter.clear()  # whoever enters from here on could be taken for one that is not here
        try:
            answer = await self._ledger.restate(self.number, said, list(self._entering_players), int(time.time() * 1000))
        finally:
            self._may_enter.set()
        unknown = [session for session, known in zip(sessions, answer, strict=True) if not known]
        if sessions:
            log.info("sessions_restated", sessions=len(sessions), unknown=len(unknown))
        await self.verify(unknown)
        for session in unknown:
            if session.attached and session.state is not SessionState.CLOSED:
                session.attached = False
                self._close(session, Close.UNAVAILABLE, "the ledger forgot your login; log in again")

    async def verify(self, sessions: list[Session]) -> None:
        """Ask the ledger about sessions that hear nothing: a takeover notice, or the last frame of a logout, may be lost."""
        for session in sessions:
            try:
                record = await self._ledger.player(session.key)
            except LedgerError:
                return  # nobody hears anything now; the next sweep asks again
            if session.state in (SessionState.CLOSED, SessionState.ENTERING):
                continue
            if record is None or record.presence.session < session.session:
                continue  # the ledger forgot this login; `restate` sees to it
            if record.presence.session > session.session:
                session.taken_over()
            elif record.presence.place == LOBBY:
                if session.hop == NO_HOP and session.state is SessionState.WAITING:  # no zone ever spoke to it: its JOIN came back
                    session.attached = False
                    session.close(Close.FULL, "the zone that you would enter has no room left; try again later")
                else:
                    session.departed(int(SnapshotFlag.GONE))
            elif record.presence.session == session.session and record.presence.gateway != self.number:
                # Somebody has detached it, and it does not know: no zone sends frames to it any more.
                session.close(Close.GOING_AWAY, "the cluster has detached this session; resume")
            self._perform(session)
