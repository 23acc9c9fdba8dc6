"""Decoding what clients send: everything that is not exactly a message is refused, and nothing else is raised."""

from __future__ import annotations

import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.wire.client_messages import (
    MAX_CLIENT_MESSAGE,
    BadMessage,
    client_op,
    decode_command,
    decode_hello,
    decode_ping,
    encode_command,
    encode_command_parts,
    encode_hello,
    encode_leave,
    encode_ping,
    server_frame,
)
from tests.unit.wire.naive_snapshot import packed


def test_what_is_encoded_is_decoded() -> None:
    assert decode_command(encode_command(7, 1, [1, -1, True, 0.5])) == [2, 7, 1, 1, -1, True, 0.5]
    assert decode_ping(encode_ping(123)) == 123
    hello = decode_hello(encode_hello(token="t", schema="abc"))
    assert (hello.protocol, hello.token, hello.resume, hello.schema) == (1, "t", None, "abc")
    assert client_op(encode_leave()) == 4


@pytest.mark.parametrize("values", [[], [1, -1, True, 0.5], [300] * 20])
def test_a_command_made_once_takes_any_number(values: list[float]) -> None:
    head, tail = encode_command_parts(3, values)
    for number in (1, 2, 70_000, (1 << 32) - 1):
        assert decode_command(head + number.to_bytes(4, "big") + tail) == [2, number, 3, *values]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x91",
        b"\xc0",
        b"hello",
        b"\x81\xa1a\x01",  # a map
        b"\x91\xcc\x80",  # a number that is no message's
        b"\xdd\x00\x00\x00\x01\x01",  # array 32
        b"\x92\x02" * (MAX_CLIENT_MESSAGE // 2 + 1),
    ],
)
def test_what_does_not_begin_like_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        client_op(data)


@pytest.mark.parametrize(
    "message",
    [
        [2],
        [2, 1],
        [2, 1, 1, [1]],
        [2, 1, 1, {"a": 1}],
        [2, 1, 1, "1"],
        [2, 1, 1, b"1"],
        [2, 1, 1, None],
        [2, 1, 1, msgpack.ExtType(5, b"x")],
        [2, 1, 1, msgpack.Timestamp(1)],
        [2, 1, 1, *range(33)],
    ],
)
def test_a_command_holds_numbers_only_and_not_many(message: list[object]) -> None:
    with pytest.raises(BadMessage):
        decode_command(packed(message))


def test_trailing_bytes_are_refused() -> None:
    for data, decode in (
        (encode_command(1, 1, [1]), decode_command),
        (encode_ping(1), decode_ping),
        (encode_hello(token="t"), decode_hello),
    ):
        with pytest.raises(BadMessage):
            decode(data + b"\x00")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"protocol": 1},
        {"protocol": 1, "token": "a", "resume": "b"},
        {"protocol": 1, "token": "a", "surprise": 1},
        {"protocol": "1", "token": "a"},
        {"protocol": 1, "token": 5},
        {"protocol": 1, "token": "a" * 4000},
        {"protocol": 1, "token": "a", "schema": "b" * 100},
        {"protocol": 1, "token": ["a"]},
        [1],
        None,
    ],
)
def test_a_hello_has_known_fields_of_known_types(body: object) -> None:
    with pytest.raises(BadMessage):
        decode_hello(packed([1, body]))


@pytest.mark.parametrize(
    "head", [b"\x93\x02\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x92\x01\xdf\xff\xff\xff\xff", b"\x93\x02\xc6\xff\xff\xff\xff"]
)
def test_a_length_that_lies_allocates_nothing(head: bytes) -> None:
    tracemalloc.start()
    for decode in (decode_command, decode_hello, decode_ping):
        with pytest.raises(BadMessage):
            decode(head)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_nesting_is_refused_at_its_first_level() -> None:
    for data in (b"\x91" * MAX_CLIENT_MESSAGE, b"\x92\x02" * (MAX_CLIENT_MESSAGE // 2), b"\x92\x01" + b"\x81\xa1a" * 5000):
        for decode in (decode_command, decode_hello, decode_ping):
            with pytest.raises(BadMessage):
                decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_bad_message(data: bytes) -> None:
    for decode in (client_op, decode_command, decode_hello, decode_ping):
        try:
            decode(data)
        except BadMessage as error:
            assert "\n" not in str(error)


SCALARS = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5)


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)


@given(st.recursive(SCALARS, nested, max_leaves=12))
def test_no_msgpack_value_raises_anything_but_bad_message(value: object) -> None:
    data = packed(value)
    for decode in (client_op, decode_command, decode_hello, decode_ping):
        try:
            decode(data)
        except BadMessage:
            continue


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_server_frame_has_the_header_of_its_length(size: int) -> None:
    frame = server_frame(b"x" * size)
    assert frame[0] == 0x82
    if size < 126:
        assert frame[1] == size
    elif size < 65536:
        assert (frame[1], struct.unpack_from(">H", frame, 2)[0]) == (126, size)
    else:
        assert (frame[1], struct.unpack_from(">Q", frame, 2)[0]) == (127, size)
    assert frame.endswith(b"x" * size)
