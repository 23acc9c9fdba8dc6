"""A machine room on one thread: processes with event loops of their own, on one virtual clock.

`Machines` is the scheduler. Each `Process` has a `SimulatedLoop`, which is all that asyncio needs; time passes only when nothing
is left to do now. A process may be killed (nothing of it runs again, no `finally` either), stopped and continued, and given a
wall clock of its own. All order comes from one queue, so a run is a function of its seed. Knows nothing of games or ledgers.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import datetime as dt
import heapq
import inspect
import logging
import random
import secrets
import sys
import time
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import jwt.api_jwt

WALL_START_S = 1_800_000_000.0
"""What the wall clocks of all processes show at the start (a date in 2027)."""
Patch = tuple[Any, str, Any]
"""(where, name, value): what stands there for a while."""


class SimulatedHandle(asyncio.TimerHandle):
    """A handle as asyncio wants it, without what it costs to make one: some hundred thousand are made in a run."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], loop: Any, context: contextvars.Context) -> None:
        self._context, self._callback, self._args, self._loop = context, callback, args, loop
        self._cancelled, self._repr, self._source_traceback = False, None, None

    def cancel(self) -> None:
        self._cancelled = True


class Machines:
    """The scheduler: `now` is virtual seconds since the start."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.processes: dict[str, Process] = {}
        self.running: Process | None = None
        self.faults: list[tuple[float, str, dict[str, Any]]] = []
        """What no process should have let through: (time, process, asyncio's context)."""
        self.steps = 0
        self._order = 0
        self._timers: list[tuple[float, int, SimulatedHandle, Process | None]] = []
        self._ready: deque[tuple[SimulatedHandle, Process | None]] = deque()
        self._graves: list[Process] = []
        self._outside = SimulatedLoop(self, None)

    def spawn(self, name: str, host: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Process:
        """Start a process; it ends when `main` returns."""
        process = Process(self, name, host)
        self.processes[name] = process
        process.loop.call_soon(process.begin, main)
        return process

    def bury(self, process: Process) -> None:
        if self.processes.get(process.name) is process:
            del self.processes[process.name]
        self._graves.append(process)

    # --- the queue ------------------------------------------------------------------------------------------------

    def soon(self, handle: SimulatedHandle, process: Process | None) -> None:
        self._ready.append((handle, process))

    def at(self, when: float, handle: SimulatedHandle, process: Process | None) -> None:
        self._order += 1
        heapq.heappush(self._timers, (when if when > self.now else self.now, self._order, handle, process))

    def later(self, delay_s: float, callback: Callable[..., Any], *args: Any, process: Process | None = None) -> asyncio.Handle:
        """Call something outside of all processes (a network, a server, a fault), or inside `process` if it still lives then."""
        loop = process.loop if process is not None else self._outside
        handle = SimulatedHandle(callback, args, loop, loop.context)
        self._order += 1
        heapq.heappush(self._timers, (self.now + delay_s, self._order, handle, process))
        return handle

    def run(self, until: float) -> None:
        """Run everything that is due before `until`."""
        timers, ready, heappop = self._timers, self._ready, heapq.heappop
        set_running = cast(Callable[[Any], None], events._set_running_loop)
        try:
            while True:
                while ready:
                    handle, process = ready.popleft()
                    if handle._cancelled:
                        continue
                    if process is not self.running:
                        self.running = process
                        set_running(None if process is None else process.loop)
                    if process is not None:
                        if not process.alive:
                            continue
                        if process.stopped:
                            process.backlog.append(handle)
                            continue
                        self.steps += 1
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        handle._loop.call_exception_handler({"message": f"in {handle._callback!r}", "exception": error})
                while timers and timers[0][2]._cancelled:
                    heappop(timers)
                if not timers or timers[0][0] > until:
                    self.now = until
                    return
                self.now, _, handle, process = heappop(timers)
                ready.append((handle, process))
        finally:
            self.running = None
            set_running(None)

    def close(self) -> None:
        """Forget all processes without a word: what they would do at their end must not happen."""
        for process in [*self.processes.values(), *self._graves]:
            process.alive = False
            for task in process.loop.tasks:
                cast(Any, task)._log_destroy_pending = False
        before, sys.unraisablehook = sys.unraisablehook, lambda _: None
        logging.disable()
        try:
            for process in [*self.processes.values(), *self._graves]:
                for task in list(process.loop.tasks):
                    coroutine = cast(Any, task).get_coro()
                    for _ in range(10):  # one that waits again in its `finally` wants to be closed again
                        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED:
                            break
                        with contextlib.suppress(BaseException):
                            coroutine.close()
                process.loop.tasks.clear()
                process.backlog.clear()
            self.processes.clear()
            self._graves.clear()
            self._timers.clear()
            self._ready.clear()
        finally:
            sys.unraisablehook = before
            logging.disable(logging.NOTSET)


class Process:
    """One operating system process on one host. `wall_skew_s` is by how much its wall clock is wrong."""

    def __init__(self, machines: Machines, name: str, host: str) -> None:
        self.machines, self.name, self.host = machines, name, host
        self.loop = SimulatedLoop(machines, self)
        self.alive, self.stopped = True, False
        self.backlog: list[SimulatedHandle] = []
        self.wall_skew_s = 0.0
        self.at_end: list[Callable[[], None]] = []
        """Called when it ends, however it ends: what the kernel does for a process (its sockets are reset)."""
        self.ended_by_itself = False
        self.main: asyncio.Task[Any] | None = None
        self.service: Any = None
        """The production object that runs in it, where it told."""

    def begin(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.main = self.loop.create_task(main())
        self.main.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.loop.call_exception_handler({"message": f"{self.name} ended by an error", "exception": error})
        self.ended_by_itself = True
        self.kill()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs again."""
        if not self.alive:
            return
        self.alive = False
        self.machines.bury(self)
        for called in self.at_end:
            called()

    def stop(self) -> None:
        """SIGSTOP: what happens to it waits."""
        self.stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        if self.stopped:
            self.stopped = False
            for handle in self.backlog:
                self.machines.soon(handle, self)
            self.backlog.clear()

    def signal(self, number: int) -> None:
        """Deliver a signal that it listens for."""
        found = self.loop.signals.get(number)
        if found is not None and self.alive:
            self.loop.call_soon(found[0], *found[1])


class SimulatedLoop:
    """The part of asyncio.AbstractEventLoop that the product uses. Sockets are the network's; see network.py."""

    def __init__(self, machines: Machines, process: Process | None) -> None:
        self.machines, self.process = machines, process
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.signals: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self.network: Any = None
        self.context = contextvars.copy_context()
        """What `Machines.later` runs in: such calls are never made in one another."""
        self._factory: Any = None

    # time and handles
    def time(self) -> float:
        return self.machines.now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        handle = SimulatedHandle(callback, args, self, contextvars.copy_context() if context is None else context)
        self.machines._ready.append((handle, self.process))
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        handle = SimulatedHandle(callback, args, self, contextvars.copy_context() if context is None else context)
        self.machines.at(when, handle, self.process)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        return self.call_at(self.machines.now + delay, callback, *args, context=context)

    # tasks and futures
    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=cast(asyncio.AbstractEventLoop, self), name=name, context=context)
        self.tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def get_task_factory(self) -> Any:
        return self._factory

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a thread's work at once; its result comes when a thread would have had it."""
        future = self.create_future()
        delay_s = self.machines.random.uniform(0.0002, 0.003)
        try:
            result = function(*args)
        except Exception as error:
            fault = error
            self.call_later(delay_s, lambda: future.done() or future.set_exception(fault))
        else:
            self.call_later(delay_s, lambda: future.done() or future.set_result(result))
        return future

    # what asyncio asks
    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.process is not None and not self.process.alive

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.machines.faults.append((self.machines.now, self.process.name if self.process else "outside", context))

    # signals
    def add_signal_handler(self, number: int, callback: Any, *args: Any) -> None:
        self.signals[int(number)] = callback, args

    def remove_signal_handler(self, number: int) -> bool:
        return self.signals.pop(int(number), None) is not None

    # sockets
    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return self.network.listen(self.process, factory, self.process.host if self.process else host, port)

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> tuple[Any, Any]:
        return await self.network.connect(self.process, factory, host, port)


@contextmanager
def patched(patches: list[Patch]) -> Iterator[None]:
    """While this holds, each (where, name) is the value beside it."""
    kept = [(where, name, getattr(where, name)) for where, name, _ in patches]
    for where, name, value in patches:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in kept:
            setattr(where, name, value)


@contextmanager
def simulated_time(machines: Machines, seed: int) -> Iterator[None]:
    """While this holds, clocks and chance of this Python are the simulation's."""

    def wall() -> float:
        process = machines.running
        return WALL_START_S + machines.now + (process.wall_skew_s if process is not None else 0.0)

    class WallClock:
        """Stands for the class datetime where tokens are checked."""

        @staticmethod
        def now(tz: dt.tzinfo | None = None) -> dt.datetime:
            return dt.datetime.fromtimestamp(wall(), tz)

    chance = random.Random(seed ^ 0x5EED)
    patches: list[Patch] = [
        (time, "monotonic", lambda: machines.now),
        (time, "time", wall),
        (time, "sleep", lambda seconds: None),  # of an event loop that stands still (gateway.gathering): virtual time does so anyway
        (jwt.api_jwt, "datetime", WallClock),
        (secrets, "token_bytes", lambda n=32: chance.randbytes(n)),
        (secrets, "token_hex", lambda n=32: chance.randbytes(n).hex()),
        (secrets, "token_urlsafe", lambda n=32: base64.urlsafe_b64encode(chance.randbytes(n)).rstrip(b"=").decode()),
        (secrets, "randbelow", chance.randrange),
    ]
    state = random.getstate()
    random.seed(seed)
    try:
        with patched(patches):
            yield
    finally:
        random.setstate(state)
