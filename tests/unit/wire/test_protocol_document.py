"""docs/PROTOCOL.md says what the code does: its tables, its limits and its example."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import pytest

from gateway.settings import GatewaySettings
from perdure.client.world_view import WorldView
from perdure.game.schema import EntitySchema, FieldSchema, Schema
from perdure.wire.client_messages import MAX_CLIENT_MESSAGE, encode_command, encode_hello
from perdure.wire.opcodes import CLOSE_REASONS, PROTOCOL_VERSION, Close
from perdure.wire.protocol_tables import with_tables

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "PROTOCOL.md"
TEXT = DOCUMENT.read_text()


def test_the_tables_are_those_of_the_code() -> None:
    assert with_tables(TEXT) == TEXT, "run: python -m perdure.wire.protocol_tables docs/PROTOCOL.md"


def test_every_close_code_has_its_row() -> None:
    rows = {int(code) for code in re.findall(r"^\| (\d{4}) \|", TEXT, re.MULTILINE)}
    assert rows == {int(code) for code in Close} == {int(code) for code in CLOSE_REASONS}


def test_the_version_is_that_of_the_code() -> None:
    assert TEXT.startswith(f"# The client protocol, version {PROTOCOL_VERSION}\n")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("hello_timeout_ms", "| hello | 3 s after connecting |"),
        ("idle_timeout_ms", "| silence | 60 s |"),
        ("max_unauthenticated", "| 1024 in all,"),
        ("max_unauthenticated_per_address", "256 from one address |"),
        ("max_sessions", "| sessions of a gateway | 5000 |"),
        ("max_pending_commands", "| unacknowledged commands | 64 |"),
        ("slow_reader_timeout_ms", "over the bound for 10 s: 4011"),
        ("message_timeout_ms", "complete within 10 s |"),
        ("others_per_second", "| 20 a second, and a burst of 40 |"),
    ],
)
def test_the_limits_are_the_defaults(setting: str, words: str) -> None:
    assert words in TEXT
    default = GatewaySettings.model_fields[setting].default
    number = default / 1000 if setting.endswith("_ms") else default
    assert f"{number:g}" in words


def test_the_message_limit_is_that_of_the_code() -> None:
    assert MAX_CLIENT_MESSAGE == 16 * 1024
    assert "16 KiB, 64 fragments" in TEXT


def spelled(text: str) -> bytes:
    """Turn `01 a8 "protocol"` into bytes."""
    out = b""
    for token in re.findall(r'"[^"]*"|[0-9a-f]{2}(?![0-9a-f])', text):
        out += token[1:-1].encode() if token.startswith('"') else bytes.fromhex(token)
    return out


def test_the_example_bytes_are_right() -> None:
    hello = re.search(r"^92 01 83.*$", TEXT, re.MULTILINE)
    assert hello is not None
    assert msgpack.unpackb(spelled(hello[0])) == msgpack.unpackb(encode_hello(token="t"))
    assert spelled("96 02 07 01 01 ff 01") == encode_command(7, 1, [1, -1, 1])
    assert "`96 02 07 01 01 ff 01`" in TEXT
    block = TEXT[TEXT.index("9c 02 ") :].split("```")[0]
    lines = [re.split(r"   [a-z]", line.strip())[0] for line in block.strip().splitlines()]
    schema = Schema(
        "example", 20, 4096, 4096, 400,
        (EntitySchema("ship", 0, 8, True, (FieldSchema("x", "f4", "all", 0, 4096, 1 / 16), FieldSchema("hp", "i2", "all", 0, 100))),),
        (), (),
    )  # fmt: skip
    world = WorldView(schema)
    snapshot = world.apply(msgpack.unpackb(spelled(" ".join(lines))))
    assert (snapshot.zone, snapshot.epoch, snapshot.tick, snapshot.ack, snapshot.keyframe) == (0, 1, 4, 0, True)
    assert world.me is not None and world.me.fields == {"x": 10.0, "hp": 100} and world.me.key == 7
    world.apply([2, 0, 1, 5, 0, 0, 5, b"", spelled("01 00  01  a8 00"), b"", b"", b""])
    assert world.me.x == 10.5
