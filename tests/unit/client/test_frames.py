"""Frames by hand: those of a server however its bytes are cut, and those of a client."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.client.frames import BINARY, CLOSE, MAX_FRAME_BYTES, MAX_HEAD_BYTES, Frames, close_code, frame, upgrade_request

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def served(message: bytes, opcode: int = BINARY) -> bytes:
    size = len(message)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + message


@given(st.lists(st.sampled_from([0, 1, 125, 126, 300, 65_535, 65_536]), max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_messages_come_out_whole_however_the_bytes_are_cut(sizes: list[int], data: st.DataObject) -> None:
    messages = [bytes([k]) * size for k, size in enumerate(sizes)]
    stream = SWITCHING + b"".join(map(served, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    frames, found = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[start:end])
    assert found == [(BINARY, message) for message in messages]


def test_a_refused_upgrade_is_an_error() -> None:
    with pytest.raises(ValueError, match="503"):
        Frames().feed(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


def test_what_is_sent_is_a_frame_that_is_masked() -> None:
    assert frame(b"abc") == b"\x82\x83\0\0\0\0abc"
    assert frame(b"x" * 200)[:4] == b"\x82\xfe\x00\xc8"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x02\x01a", "in pieces"),
        (b"\x80\x01a", "in pieces"),
        (b"\xc2\x01a", "an extension"),
        (b"\x82\x81\0\0\0\0a", "masked"),
        (b"\x82\x7f" + struct.pack(">Q", MAX_FRAME_BYTES + 1), "at most"),
    ],
)
def test_frames_that_a_gateway_never_sends_are_errors(data: bytes, said: str) -> None:
    frames = Frames()
    frames.feed(SWITCHING)
    with pytest.raises(ValueError, match=said):
        frames.feed(data)


def test_an_answer_without_an_end_is_given_up() -> None:
    with pytest.raises(ValueError, match="longer than"):
        Frames().feed(b"x" * (MAX_HEAD_BYTES + 1))


def test_a_close_is_read_whatever_it_carries() -> None:
    assert close_code(b"\x0f\xa4put out") == (4004, "put out")
    assert close_code(b"") == close_code(b"\x0f") == (None, "")
    assert frame(b"\x03\xe8", CLOSE)[0] == 0x88


def test_the_request_names_host_and_path() -> None:
    asked = upgrade_request("wss://play.example.org:8443/ws?as=ann").decode().splitlines()
    assert asked[0] == "GET /ws?as=ann HTTP/1.1"
    assert "Host: play.example.org:8443" in asked
    assert upgrade_request("ws://h").startswith(b"GET / HTTP/1.1")
