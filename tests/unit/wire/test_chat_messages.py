"""Chat on the wire: what of a typed line is left, and what is refused."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.wire.chat import (
    MAX_CHAT_TEXT,
    MAX_WHO_KEYS,
    chat_frame,
    clean_text,
    decode_chat,
    decode_who,
    encode_chat,
    encode_who,
    names_frame,
)
from perdure.wire.client_messages import BadMessage
from tests.unit.wire.naive_snapshot import packed


def test_what_is_encoded_is_decoded() -> None:
    assert decode_chat(encode_chat("hello", "bob")) == ("bob", "hello")
    assert decode_chat(encode_chat("  a\n\tb ")) == ("", "a b")
    assert decode_who(encode_who([5, 7, 5])) == [5, 7]
    assert msgpack.unpackb(chat_frame("a", "", "t")[2:]) == [6, "a", "", "t"]
    assert msgpack.unpackb(names_frame([(1, "a"), (2, "")])[2:]) == [7, [[1, "a"], [2, ""]]]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("a\u202eb\u2066c", "abc"),  # writing turned round
        ("a\u200bb\ufeffc", "abc"),  # invisible
        ("one\r\nadmin: two", "one admin: two"),
        ("\x00\x1b[31mred", "[31mred"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),  # a family: joiners are kept
        ("\u200d \u200d", ""),
        ("\ue000\U000f0000", ""),  # private use
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),  # text is text: showing it as such is the client's part
    ],
)
def test_only_what_can_be_seen_is_left(typed: str, shown: str) -> None:
    assert clean_text(typed) == shown


@given(st.text(max_size=MAX_CHAT_TEXT))
def test_cleaning_gives_one_line_that_stays_as_it_is(text: str) -> None:
    shown = clean_text(text)
    assert shown.isprintable() or "\u200d" in shown or "\u200c" in shown
    assert "\n" not in shown and shown == shown.strip()
    assert clean_text(shown) == shown
    assert len(shown) <= len(text)


@pytest.mark.parametrize(
    "message",
    [
        [5], [5, ""], [5, "", ""], [5, "", "x", 1], [5, 1, "x"], [5, "", 1], [5, "", "x" * (MAX_CHAT_TEXT + 1)], [5, "no such name!", "x"],
        [5, "x" * 33, "x"], [5, None, "x"], [5, "", ["x"]], [5, "bob\n", "x"],
    ],
)  # fmt: skip
def test_what_is_no_line_is_refused(message: list[object]) -> None:
    with pytest.raises(BadMessage):
        decode_chat(packed(message))


@pytest.mark.parametrize("message", [[6], [6, 0], [6, -1], [6, 1 << 63], [6, "a"], [6, 1.0], [6, [1]], [6, *range(1, MAX_WHO_KEYS + 2)]])
def test_what_asks_for_nobody_is_refused(message: list[object]) -> None:
    with pytest.raises(BadMessage):
        decode_who(packed(message))


@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for decode in (decode_chat, decode_who):
        try:
            decode(data)
        except BadMessage:
            continue
