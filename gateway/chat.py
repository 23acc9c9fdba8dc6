"""Chat: what players of this gateway say goes to the ledger, and what the ledger has goes to the players here whom it is for.

Owns the place up to which the world's chat was read, the names of players that were asked for, and the rate of a zone. A line is in the
ledger before anybody sees it, its speaker included, so all gateways show the same lines in the same order, each once. Never touches a
socket. Called by dispatch (Say, Who) and service (`follow`, hints).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from gateway.fanout import Fanout
from gateway.metrics import GatewayCounters
from gateway.session import Session
from perdure.ledger.chat import ChatLine, SayStatus
from perdure.ledger.ledger import Ledger, LedgerError
from perdure.wire.chat import chat_frame, names_frame
from perdure.wire.identifiers import player_key

log = structlog.get_logger("gateway.chat")

MAX_ASKING = 64
"""Lines and questions for names that are with the ledger at once; the rest waits, within its time limit."""
NAMES_KEPT = 65_536
ZONE_BURST_S = 2.0
RETRY_S = 0.5
ANSWERS = {
    SayStatus.NOT_HERE: "you are in no zone now",
    SayStatus.OFFLINE: "no player of that name is here",
}


class Chat:
    """`timeout_s`: how long a line or a question may take. `zone_per_second`: lines to one zone from players of this gateway."""

    def __init__(self, ledger: Ledger, fanout: Fanout, counters: GatewayCounters, *, timeout_s: float, zone_per_second: float) -> None:
        self._ledger = ledger
        self._fanout = fanout
        self._counters = counters
        self._timeout_s = timeout_s
        self._zone_interval_s = 1.0 / zone_per_second
        self._zone_due_s: dict[int, float] = {}
        self._gate = asyncio.Semaphore(MAX_ASKING)
        self._names: dict[int, str] = {}
        self._wake = asyncio.Event()
        self._last = ""

    # --- from players -----------------------------------------------------------------------------------------------

    async def say(self, session: Session, to: str, text: str) -> None:
        """Put a line into the ledger; where that fails its speaker is told, and nobody else."""
        if not to and not self._zone_may(session.zone):
            session.server_says("too many speak here at once; say it again in a moment")
            return
        try:
            async with asyncio.timeout(self._timeout_s), self._gate:
                status = await self._ledger.say(session.key, session.session, to, text)
        except (LedgerError, TimeoutError) as error:
            log.warning("chat_lost", error=str(error))
            if session.attached:
                session.server_says("the world could not be reached; that line may not have been heard")
            return
        if status is not SayStatus.OK and session.attached:
            session.server_says(ANSWERS[status])

    def _zone_may(self, zone: int) -> bool:
        now_s = asyncio.get_running_loop().time()
        due_s = max(self._zone_due_s.get(zone, 0.0), now_s)
        if due_s - now_s > ZONE_BURST_S:
            return False
        self._zone_due_s[zone] = due_s + self._zone_interval_s
        return True

    async def tell_names(self, session: Session, keys: Sequence[int]) -> None:
        """Answer WHO: a name for each key, "" where nobody of that key is online."""
        missing = [key for key in keys if key not in self._names]
        if missing:
            try:
                async with asyncio.timeout(self._timeout_s), self._gate:
                    found = await self._ledger.names(missing)
            except (LedgerError, TimeoutError) as error:
                log.warning("names_not_told", error=str(error), consequence="the client asks again when it wants to")
                return
            if len(self._names) + len(found) > NAMES_KEPT:
                self._names.clear()
            self._names.update(found)  # a key has one name for ever: enter refuses another
        if session.attached:
            session.write(names_frame((key, self._names.get(key, "")) for key in keys))

    # --- from the ledger --------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """There may be new lines."""
        self._wake.set()

    async def follow(self) -> None:
        """Read what is new, whenever there is word of it. What was said before this gateway came is not shown."""
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self._read():
                    pass
            except LedgerError as error:
                log.warning("chat_not_read", error=str(error))
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _read(self) -> bool:
        page = await self._ledger.chat(self._last)
        self._last = page.last
        for line in page.lines:
            self._deliver(line)
        return bool(page.lines)

    def _deliver(self, line: ChatLine) -> None:
        frame = chat_frame(line.sender, line.to, line.text)
        for session in self._meant(line):
            if session.attached and not session.congested:  # who reads slowly is owed no chat
                session.write(frame)
                self._counters.chat_lines += 1

    def _meant(self, line: ChatLine) -> list[Session]:
        if not line.to:
            return [session for session in self._fanout.sessions() if session.zone == line.zone]
        keys = dict.fromkeys((player_key(line.sender), player_key(line.to)))
        found = (self._fanout.of_player(key) for key in keys)
        return [session for session in found if session is not None]
