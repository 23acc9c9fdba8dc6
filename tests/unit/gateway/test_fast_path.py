"""The inbound fast path and the library's path hear the same, whatever the chunks, and the fast path is really taken."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway.gathering import Gathering
from gateway.metrics import GatewayCounters
from gateway.session_states import SessionState
from gateway.websocket_server import GameConnection

REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class TransportDouble(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def write_eof(self) -> None:
        self.written.append(b"EOF")

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class SessionDouble:
    """Keeps what it is told; closes as a session does."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.instructions: list[Any] = []
        self.state = SessionState.PLAYING
        self.route = None

    def message(self, now_s: float, data: bytes) -> None:
        assert type(data) is bytes
        if self.state is SessionState.CLOSED:
            return  # as gateway.session.Session
        self.heard.append(data)

    def control(self, now_s: float) -> None:
        self.heard.append("control")

    def close(self, code: int, detail: str) -> None:
        self.heard.append(("close", code))
        self.state = SessionState.CLOSED

    def socket_lost(self) -> None:
        self.heard.append("lost")
        self.state = SessionState.CLOSED


class EndpointDouble:
    def __init__(self) -> None:
        self.counters = GatewayCounters()
        self.gathering = Gathering(self.counters)
        self.dispatch = self
        self.fanout = self
        self.sends = self

    def perform(self, session: Any) -> None:
        pass

    def remove(self, session: Any) -> None:
        pass

    def disarm(self, session: Any) -> None:
        pass

    def opened(self, connection: Any, transport: Any) -> None:
        connection.session = SessionDouble()


class ServerDouble:
    def __init__(self) -> None:
        self.handler_tasks: set[Any] = set()

    async def handler(self, connection: Any) -> None:
        pass


def listen(chunks: list[bytes], *, fast: bool) -> tuple[list[Any], list[bytes], State, int]:
    """Feed chunks to a connection that is open; return what its session heard and what was written."""

    async def feed() -> tuple[list[Any], list[bytes], State, int]:
        endpoint: Any = EndpointDouble()
        protocol = ServerProtocol(max_size=16384)
        connection = GameConnection(endpoint, protocol, ServerDouble(), max_queue=16)  # type: ignore[arg-type]
        transport = TransportDouble()
        connection.connection_made(transport)
        connection.data_received(REQUEST)
        assert connection.request is not None
        protocol.send_response(protocol.accept(connection.request))
        connection.send_data()
        transport.written.clear()
        for chunk in chunks:
            if not fast:
                connection._boundary = False
            connection.data_received(chunk)
        return connection.session.heard, transport.written, protocol.state, endpoint.counters.fast_frames_in  # type: ignore[return-value]

    return asyncio.run(feed())


def masked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


small = st.builds(masked, st.just(Opcode.BINARY), st.binary(max_size=125))
any_frame = st.one_of(
    small,
    small,
    small,
    st.builds(masked, st.just(Opcode.BINARY), st.binary(min_size=120, max_size=400)),
    st.builds(masked, st.sampled_from([Opcode.BINARY, Opcode.CONT]), st.binary(max_size=20), st.booleans()),
    st.builds(masked, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=20)),
    st.builds(masked, st.just(Opcode.TEXT), st.just(b"text")),
    st.builds(masked, st.just(Opcode.CLOSE), st.just(b"\x03\xe8bye")),
    st.binary(min_size=1, max_size=12),
)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream of frames, cut mostly at frame borders and sometimes anywhere."""
    frames = draw(st.lists(any_frame, min_size=1, max_size=12))
    chunks: list[bytes] = []
    for frame in frames:
        how = draw(st.integers(0, 5))
        if how == 0 and len(frame) > 1:
            at = draw(st.integers(1, len(frame) - 1))
            chunks += [frame[:at], frame[at:]]
        elif how == 1 and chunks:
            chunks[-1] += frame
        elif how == 2:
            chunks += [frame[k : k + 1] for k in range(len(frame))]
        else:
            chunks.append(frame)
    return chunks


@settings(max_examples=300, deadline=None)
@given(chunked())
def test_both_paths_hear_and_answer_the_same(chunks: list[bytes]) -> None:
    heard, written, state, _ = listen(chunks, fast=True)
    assert (heard, written, state) == listen(chunks, fast=False)[:3]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=10), st.data())
def test_chunks_do_not_matter(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(masked(Opcode.BINARY, payload) for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    heard, written, state, _ = listen(chunks, fast=True)
    assert heard == payloads
    assert written == []
    assert state is State.OPEN


def test_the_fast_path_is_taken_from_the_second_message_on() -> None:
    """Fails where a new version of websockets waits elsewhere between two frames (BOUNDARY_CODE)."""
    frames = [masked(Opcode.BINARY, bytes([k]) * (k + 1)) for k in range(125)]
    heard, _, _, fast = listen(frames, fast=True)
    assert heard == [bytes([k]) * (k + 1) for k in range(125)]
    assert fast == 124


def test_nothing_is_fast_inside_a_fragmented_message() -> None:
    frames = [masked(Opcode.BINARY, b"a"), masked(Opcode.BINARY, b"b", fin=False), masked(Opcode.BINARY, b"c")]
    heard, _, state, fast = listen(frames, fast=True)
    assert fast == 0
    assert state is not State.OPEN  # a new message within another one breaks the protocol
    assert heard == [b"a", "control", "lost"]


def test_a_header_alone_keeps_the_next_chunk_from_looking_like_a_frame() -> None:
    """The parser has taken two bytes, its buffer is empty, and what follows happens to look like a whole small frame."""
    inner = masked(Opcode.BINARY, b"x" * 4)
    outer = bytes((0x82, 0x80 | (len(inner) - 4)))
    heard, _, _, fast = listen([masked(Opcode.BINARY, b"first"), outer, inner], fast=True)
    assert heard[0] == b"first"
    assert fast == 0
    assert len(heard) == 2 and heard[1] != b"x" * 4
