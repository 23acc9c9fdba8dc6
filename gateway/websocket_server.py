"""The websocket server: sockets, HTTP answers, caps and time limits. The only server-side module that imports websockets.

Owns every client socket from accept to close. The library keeps the whole protocol; two paths go past it because they
carry nearly all of the traffic: `GameConnection.data_received` takes a chunk that is exactly one small complete masked
binary frame, and snapshots are written as ready-made frames on the transport. Never decides anything about a session:
it hands events to gateway.session and carries out what dispatch tells it. Called by service.
"""

from __future__ import annotations

import asyncio
import http
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import islice
from typing import Any, cast

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, OPEN, Event
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from gateway.dispatch import Dispatch
from gateway.fanout import Fanout
from gateway.gathering import Gathering
from gateway.metrics import GatewayCounters
from gateway.pages import Pages
from gateway.session import Session
from gateway.session_states import SessionState
from gateway.settings import GatewaySettings
from gateway.world_rules import WorldRules
from perdure.runtime.web_files import Answer, text_answer
from perdure.wire.client_messages import MAX_CLIENT_MESSAGE, PING_FRAME
from perdure.wire.opcodes import Close

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its C extension
    from websockets.utils import apply_mask

log = structlog.get_logger("gateway.sockets")

SLICE_BYTES = 4096
"""How much the library is given at a time: between slices a flood is noticed and ended."""
MAX_FRAGMENTS = 64
MAX_HEAD_BYTES = 16 * 1024
"""Of an HTTP request, with all its headers; the library alone would keep a megabyte."""
SILENT_S = 0.5
"""A socket that has asked for nothing for so long goes where there is no room for others."""
SWEEP_HELLO_S = 0.1
SWEEP_ALL_EVERY = 10
SILENT_SWEEPS = 5
MAX_VERIFIED_A_SWEEP = 100
BOUNDARY_CODE = StreamReader.at_eof.__code__
"""Where the library's parser waits between two frames; a test fails if a new version waits elsewhere."""
PATHS = ("/", "/ws")


class BindError(Exception):
    """The gateway cannot listen where it was told to; the message is one line that says why."""


class GameConnection(ServerConnection):
    """One client's socket. Implements session_instructions.SessionDriver."""

    def __init__(self, endpoint: WebsocketEndpoint, protocol: ServerProtocol, server: Server, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        self.endpoint = endpoint
        self.session: Session
        self.address = ""
        self.opened_s = self.loop.time()
        self.heard_s = self.opened_s
        self.heard = False
        self.pinged = False
        self.congested_since_s = 0.0
        self.partial_since_s = 0.0
        self.leaving_since_s = 0.0
        self.head_bytes = 0
        self.silent_sweeps = 0
        self.authenticated = self.refused = False
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self._boundary = False
        self._fragments: list[bytes] = []
        self._fragments_text = False
        self.descriptor = -1

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.endpoint.opened(self, cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        size = len(data)
        # Fin + binary, masked, 1 to 125 bytes of payload, nothing before and nothing after it.
        if self._boundary and 6 < size < 132 and data[0] == 0x82 and data[1] == size + 122 and self.protocol.state is OPEN:
            self._take_plain(self.loop.time(), apply_mask(data[6:], data[2:6]))
        else:
            self._library_path(data)

    def _take_plain(self, now_s: float, payload: bytes) -> None:
        """Take the payload of a frame that is plain, past the library."""
        self.heard = True
        counters = self.endpoint.counters
        counters.frames_in += 1
        counters.fast_frames_in += 1
        gathering = self.endpoint.gathering
        if gathering.gathers:
            gathering.came()
        session = self.session
        row = session.message(now_s, payload)
        if row is not None:
            route = session.route
            route.link.forward(route, row)  # type: ignore[union-attr]  # a row is returned only while there is a route
        if session.instructions:
            self.endpoint.dispatch.perform(session)

    def _library_path(self, data: bytes) -> None:
        self.heard = True
        if self.request is None:
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()
                return
        for at in range(0, len(data), SLICE_BYTES):
            super().data_received(data[at : at + SLICE_BYTES])
        self._boundary = self._at_boundary()
        if self._boundary:
            self.partial_since_s = 0.0
        elif self.request is not None and self.protocol.state is OPEN and not self.partial_since_s:
            self.partial_since_s = self.loop.time()
        if self.request is not None and self.protocol.state not in (CONNECTING, OPEN) and not self.ended.done():
            self._ended_by_library()

    def _at_boundary(self) -> bool:
        """Return whether the parser has consumed whole messages only, and waits for the first byte of the next one."""
        protocol = self.protocol
        if protocol.state is not OPEN or protocol.current_size is not None or protocol.reader.buffer:
            return False
        generator: Any = protocol.parser
        while (inner := generator.gi_yieldfrom) is not None:
            generator = inner
        return generator.gi_code is BOUNDARY_CODE

    def process_event(self, event: Event) -> None:
        if self.request is None:
            super().process_event(event)
            return
        assert isinstance(event, Frame)
        if event.opcode is Opcode.CLOSE or self.session.state is SessionState.CLOSED:
            return
        if self.protocol.current_size is None:  # no message is under way (a control frame may stand between its fragments)
            self.partial_since_s = 0.0
        if event.opcode is Opcode.BINARY and event.fin:
            self._deliver(bytes(event.data))
        elif event.opcode in (Opcode.PING, Opcode.PONG):
            self._charge()
        else:
            self._fragment(event)

    def _deliver(self, data: bytes) -> None:
        self.endpoint.counters.frames_in += 1
        session = self.session
        row = session.message(self.loop.time(), data)
        if row is not None:
            route = session.route
            assert route is not None
            route.link.forward(route, row)
        self.endpoint.dispatch.perform(session)

    def _charge(self) -> None:
        self.session.control(self.loop.time())
        self.endpoint.dispatch.perform(self.session)

    def _fragment(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._close(Close.BAD_MESSAGE, "messages are binary, not text")
            return
        self._charge()
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            data = b"".join(self._fragments)
            self._fragments.clear()
            if self.session.state is not SessionState.CLOSED:
                self._deliver(data)
        elif len(self._fragments) >= MAX_FRAGMENTS:
            self._fragments.clear()
            self._close(Close.BAD_MESSAGE, f"a message in more than {MAX_FRAGMENTS} fragments")

    def _close(self, code: Close, detail: str) -> None:
        self.session.close(code, detail)
        self.endpoint.dispatch.perform(self.session)

    def eof_received(self) -> None:
        """The client sends nothing more. Without a close frame nothing is owed to it, and what waits to be sent might wait for ever."""
        unannounced = self.protocol.state is OPEN
        super().eof_received()
        if unannounced:
            self._boundary = False
            self.descriptor = -1
            self.endpoint.fanout.sends.disarm(self.session)
            self._socket_lost()
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # The transport closes the socket when this returns: until then its number is nobody else's.
        self.descriptor = -1
        self.endpoint.fanout.sends.disarm(self.session)
        super().connection_lost(exc)
        self._boundary = False
        self._socket_lost()
        self.endpoint.closed(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.congested_since_s = self.loop.time()
        self.endpoint.fanout.sends.disarm(self.session)
        self.session.buffer_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.congested_since_s = 0.0
        self.session.buffer_drained()
        self.endpoint.dispatch.perform(self.session)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _ended_by_library(self) -> None:
        """The client closed, or broke the websocket protocol: 1002, 1007, or 1009 for a message that is too big."""
        sent = self.protocol.close_sent
        if sent is not None and self.protocol.close_rcvd is None:
            self.endpoint.counters.closes[sent.code] += 1
        self._socket_lost()

    def _socket_lost(self) -> None:
        session = self.session
        session.socket_lost()
        self.endpoint.dispatch.perform(session)
        self.endpoint.fanout.remove(session)
        if not self.ended.done():
            self.ended.set_result(None)

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the transport. What it holds back must be out before anything else is sent on the socket."""
        try:
            self.transport.write(data)
        except RuntimeError as error:  # uvloop's, of a socket that is at its end: nobody else's snapshots may suffer from it
            log.warning("socket_not_written", address=self.address, error=str(error))
            self.transport.abort()
            return
        if self.transport.get_write_buffer_size():
            self.endpoint.fanout.sends.disarm(self.session)

    def send_data(self) -> None:
        super().send_data()  # the library's own frames: answers to pings, the closing handshake
        if self.transport.get_write_buffer_size():
            self.endpoint.fanout.sends.disarm(self.session)

    # session_instructions.SessionDriver

    def plain_descriptor(self) -> int:
        transport = self.transport
        if self.descriptor < 0 or transport.is_closing() or transport.get_write_buffer_size() or self.protocol.state is not OPEN:
            return -1
        return self.descriptor

    def entered(self) -> None:
        self.authenticated = True
        self.endpoint.authenticated(self)

    def end(self, code: Close, text: str) -> None:
        """Send the close frame and take nothing more; the socket closes when the client does, or after the time limit."""
        self._boundary = False
        self.descriptor = -1
        if self.protocol.state is OPEN:
            self.protocol.fail(int(code), text)
            self.send_data()
        elif self.protocol.state is CONNECTING:
            self.transport.abort()
        if not self.ended.done():
            self.ended.set_result(None)


class WebsocketEndpoint:
    """Listens, counts, times out. `rules` is read for every new socket; `pages` answers what is no websocket; `begin` starts a task whose
    fault ends the gateway.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        fanout: Fanout,
        dispatch: Dispatch,
        counters: GatewayCounters,
        *,
        rules: Callable[[], WorldRules | None],
        pages: Pages,
        doubt: Callable[[list[Session]], None],
        begin: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self.settings = settings
        self.fanout = fanout
        self.dispatch = dispatch
        self.counters = counters
        self.port = 0
        self.draining = False
        self._rules = rules
        self._pages = pages
        self._doubt = doubt
        self._begin = begin
        self._connections: dict[GameConnection, None] = {}
        self._waiting: dict[GameConnection, None] = {}
        self._refused = 0
        """Of those, who have been told that there is no room."""
        self._waiting_by_address: Counter[str] = Counter()
        self._server: Server | None = None
        self.gathering = Gathering(counters)
        self._sweeper: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; raises BindError."""
        settings = self.settings
        logger = logging.getLogger("perdure.websockets")
        logger.setLevel(logging.ERROR)

        def connect(protocol: ServerProtocol, server: Server, **options: Any) -> ServerConnection:
            return GameConnection(self, protocol, server, **options)

        try:
            self._server = await serve(
                self._handle,
                settings.host,
                settings.port,
                create_connection=cast("type[ServerConnection]", connect),
                process_request=cast(Any, self._process_request),
                compression=None,
                max_size=MAX_CLIENT_MESSAGE,
                open_timeout=settings.hello_timeout_ms / 1000,
                ping_interval=None,  # the sweep pings and times out, without a task for every socket
                close_timeout=settings.close_timeout_ms / 1000,
                write_limit=(settings.slow_reader_bytes, settings.slow_reader_resume_bytes),
                server_header=None,
                logger=logger,
                backlog=1024,
            )
        except (OSError, OverflowError) as error:
            raise BindError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self._sweeper = self._begin(self._sweep(), "sweep")

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, close every session with GOING_AWAY, and wait for the sockets to end."""
        self.draining = True
        self.gathering.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._server is None:
            return
        self._server.close(close_connections=False)
        self.close_all(Close.GOING_AWAY, "")
        try:
            async with asyncio.timeout(timeout_s):
                await self._server.wait_closed()
        except TimeoutError:
            log.warning("sockets_aborted", count=len(self._connections))
            for connection in list(self._connections):
                connection.transport.abort()

    def close_all(self, code: Close, detail: str) -> None:
        for connection in list(self._connections):
            connection.session.close(code, detail)
            self.dispatch.perform(connection.session)

    # --- sockets ----------------------------------------------------------------------------------------------------

    async def _handle(self, connection: ServerConnection) -> None:
        # The socket's events drive everything; this task only holds the connection open until it ends.
        await cast(GameConnection, connection).ended

    def opened(self, connection: GameConnection, transport: asyncio.Transport) -> None:
        self.counters.sockets += 1
        self._connections[connection] = None
        self._waiting[connection] = None
        peer = transport.get_extra_info("peername")
        connection.address = peer[0] if peer else ""
        self._waiting_by_address[connection.address] += 1
        connection.session = Session(self._rules(), connection.write, self.counters)
        connection.session.driver = connection
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.settings.send_buffer_bytes:
                # Else the kernel keeps megabytes of stale snapshots for a slow reader before we notice that it is slow.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.settings.send_buffer_bytes)
        if raw is not None and transport.get_extra_info("sslcontext") is None:
            connection.descriptor = raw.fileno()
        self._keep_room(connection)

    def _keep_room(self, newest: GameConnection) -> None:
        """Sockets that ask for nothing must not take the places of those that will (and hear a polite 503 over the caps)."""
        settings, address = self.settings, newest.address
        if self._waiting_by_address[address] > 2 * settings.max_unauthenticated_per_address and address not in settings.trusted_proxies:
            self._put_away(newest)
            return
        # A request may be there and not read yet: whoever came just now is not silent. So more may be here for a moment; two go for one.
        over = min(len(self._waiting) - settings.max_unauthenticated, 2)
        if over > 0:
            silent = (one for one in self._waiting if one.request is None and newest.opened_s - one.opened_s > SILENT_S)  # the oldest first
            for one in list(islice(silent, over)):
                self._put_away(one)

    def _put_away(self, connection: GameConnection) -> None:
        self.counters.put_away += 1
        self._not_waiting(connection)
        connection.transport.abort()

    def _not_waiting(self, connection: GameConnection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._refused -= connection.refused
            self._waiting_by_address[connection.address] -= 1
            if not self._waiting_by_address[connection.address]:
                del self._waiting_by_address[connection.address]

    def authenticated(self, connection: GameConnection) -> None:
        self._not_waiting(connection)

    def closed(self, connection: GameConnection) -> None:
        self._not_waiting(connection)
        self._connections.pop(connection, None)

    @property
    def waiting(self) -> int:
        """Sockets without a session."""
        return len(self._waiting)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | Awaitable[Response] | None:
        path, _, query = request.path.partition("?")
        if any("websocket" in value.lower() for value in request.headers.get_all("Upgrade")):
            return self._refusal(cast(GameConnection, connection), request, path)
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        found = self._pages.answer(request.method, path, query, headers)
        return _response(found) if isinstance(found, Answer) else _later(found)

    def _refusal(self, connection: GameConnection, request: Request, path: str) -> Response | None:
        """Return why a websocket handshake is refused, or None to let the library go on with it."""
        settings = self.settings
        if path not in PATHS:
            return _response(text_answer(http.HTTPStatus.NOT_FOUND, "the websocket is at /ws\n"))
        if not self._origin_allowed(request):
            return _response(text_answer(http.HTTPStatus.FORBIDDEN, "this origin is not allowed (setting: origins)\n"))
        if connection not in self._waiting:  # it was reset behind its request: nobody would count it out again
            return _response(text_answer(http.HTTPStatus.SERVICE_UNAVAILABLE, "gone\n"))
        self._believe_proxy(connection, request)
        if (
            len(self._waiting) - self._refused > settings.max_unauthenticated
            or self._waiting_by_address[connection.address] > settings.max_unauthenticated_per_address
        ):
            connection.refused = True
            self._refused += 1  # it is about to go: where many come at once, not all of them are refused
            return _response(text_answer(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many sockets that have not said hello\n"))
        return None

    def _origin_allowed(self, request: Request) -> bool:
        origins = request.headers.get_all("Origin")
        if not origins:
            return True  # not a browser: it could send any origin anyway
        allowed = self.settings.origins
        if "*" in allowed or (not allowed and self.settings.development):
            return True
        if len(origins) != 1:
            return False
        if allowed:
            return origins[0] in allowed
        return origins[0].partition("://")[2] in request.headers.get_all("Host")

    def _believe_proxy(self, connection: GameConnection, request: Request) -> None:
        """Count a socket under its client's address where a trusted proxy names it (the rightmost that is no proxy)."""
        trusted = self.settings.trusted_proxies
        if connection.address not in trusted:
            return
        hops = [hop.strip() for value in request.headers.get_all("X-Forwarded-For") for hop in value.split(",")]
        client = next((hop for hop in reversed(hops) if hop and hop not in trusted), connection.address)
        self._waiting_by_address[connection.address] -= 1
        connection.address = client
        self._waiting_by_address[client] += 1

    # --- time -------------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        count = 0
        while True:
            await asyncio.sleep(SWEEP_HELLO_S)
            now_s = loop.time()
            self.gathering.weigh()
            self._sweep_waiting(now_s)
            count += 1
            if count % SWEEP_ALL_EVERY == 0:
                self._sweep_all(now_s)

    def _sweep_waiting(self, now_s: float) -> None:
        limit_s = self.settings.hello_timeout_ms / 1000
        late: list[GameConnection] = []
        for connection in self._waiting:  # in the order of arrival
            if now_s - connection.opened_s < limit_s:
                break
            if connection.session.state is SessionState.AWAITING_HELLO:
                late.append(connection)
        for connection in late:
            self._end(connection, Close.HELLO_TIMEOUT, "")

    def _end(self, connection: GameConnection, code: Close, detail: str) -> None:
        connection.session.close(code, detail)
        self.dispatch.perform(connection.session)

    def _sweep_all(self, now_s: float) -> None:
        settings = self.settings
        silent: list[Session] = []
        for connection in list(self._connections):
            session = connection.session
            if session.state is SessionState.CLOSED or connection.state is not OPEN:
                continue
            session.swept()
            if session.instructions:
                self.dispatch.perform(session)
            if connection.heard:
                connection.heard = connection.pinged = False
                connection.heard_s = now_s
            quiet_s = now_s - connection.heard_s
            if connection.congested_since_s and now_s - connection.congested_since_s > settings.slow_reader_timeout_ms / 1000:
                self._end(connection, Close.SLOW_READER, "")
            elif connection.partial_since_s and now_s - connection.partial_since_s > settings.message_timeout_ms / 1000:
                self._end(connection, Close.BAD_MESSAGE, "a message was begun and not completed in time")
            elif connection.pinged and quiet_s > settings.idle_timeout_ms / 1000:  # it had a sweep's time to answer
                self._end(connection, Close.IDLE, "")
            elif quiet_s > settings.ping_interval_ms / 1000 and not connection.pinged:
                connection.pinged = True
                connection.write(PING_FRAME)
            elif session.state is SessionState.LEAVING:
                connection.leaving_since_s = connection.leaving_since_s or now_s
                if now_s - connection.leaving_since_s > settings.leave_timeout_ms / 1000:
                    self._end(connection, Close.UNAVAILABLE, "the logout did not end in time")
            if session.fresh | self.fanout.sends.take_fresh(session):
                session.fresh = False
                connection.silent_sweeps = 0
            elif session.state in (SessionState.WAITING, SessionState.PLAYING, SessionState.LEAVING):
                connection.silent_sweeps += 1
                if connection.silent_sweeps % SILENT_SWEEPS == 0 and len(silent) < MAX_VERIFIED_A_SWEEP:
                    silent.append(session)
        if silent:
            self._doubt(silent)
        self.fanout.ask_stalled_keyframes()


def _response(answer: Answer) -> Response:
    headers = Headers([("Connection", "close"), ("Content-Length", str(answer.length)), *answer.headers.items()])
    return Response(answer.status, http.HTTPStatus(answer.status).phrase, headers, answer.body)


async def _later(answer: Awaitable[Answer]) -> Response:
    return _response(await answer)
