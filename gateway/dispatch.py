"""Dispatch: carries out the instructions that sessions leave. Owns the tasks that admit and log out; decides nothing.

Called by fanout, admission and websocket_server after every call into a session that may have left instructions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gateway.session import Session
from gateway.session_instructions import Admit, AskKeyframe, CloseSocket, Detach, Forward, Leave, Say, Who

if TYPE_CHECKING:
    from gateway.admission import Admission
    from gateway.chat import Chat
    from gateway.fanout import Fanout


class Dispatch:
    """Bound to its partners after construction, since they all call each other."""

    def __init__(self) -> None:
        self._fanout: Fanout | None = None
        self._admission: Admission | None = None
        self._chat: Chat | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def bind(self, fanout: Fanout, admission: Admission, chat: Chat) -> None:
        self._fanout = fanout
        self._admission = admission
        self._chat = chat

    def perform(self, session: Session) -> None:
        """Carry out and clear what the session left, in order."""
        if not session.instructions:
            return
        instructions, session.instructions = session.instructions, []
        fanout, admission = self._fanout, self._admission
        assert fanout is not None and admission is not None
        for instruction in instructions:
            match instruction:
                case Forward(route, rows):
                    for row in rows:
                        route.link.forward(route, row)
                case AskKeyframe(route, player):
                    route.link.ask_keyframe(route, player)
                case Admit(hello):
                    self._start(admission.admit(session, hello))
                case Leave(player, number, kick):
                    if kick:
                        admission.kick(player, number)
                    else:
                        self._start(admission.leave(session))
                case Say(to, text):
                    assert self._chat is not None
                    self._start(self._chat.say(session, to, text))
                case Who(keys):
                    assert self._chat is not None
                    self._start(self._chat.tell_names(session, keys))
                case Detach(player, number):
                    fanout.remove(session)
                    admission.detach(player, number)
                case CloseSocket(code, text):
                    fanout.remove(session)
                    if session.driver is not None:
                        session.driver.end(code, text)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
