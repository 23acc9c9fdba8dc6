"""What comes for zones between their ticks: each gets its own rows, in their order, and what is bounded stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.wire.link import GOT_STRUCT, LENGTH, MAX_LINK_FRAME, FrameReader, LinkType, pack_commands, pack_frame
from shard import arrivals as module
from shard.arrivals import OTHER_FRAMES, Arrivals, Overflow

ZONES = [0, 1, 5, 300, 65535]
"""Rows are for one of these; zone 300 does not run here."""
RUNS = np.ones(1 << 16, np.bool_)
RUNS[300] = False
COMMANDS = st.lists(st.sampled_from(ZONES), min_size=1, max_size=8)
OTHERS = st.binary(max_size=9)
FRAMES = st.lists(st.one_of(COMMANDS, OTHERS), max_size=6)
"""The zones that the rows of a frame are for, or the body of another frame."""


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.integers(0, 200), st.sets(st.sampled_from(ZONES)), FRAMES)
def test_zones_get_their_rows_in_order_and_those_of_others_wait(
    frames: list[list[int] | bytes], cut_at: int, first: set[int], later: list[list[int] | bytes]
) -> None:
    came, waiting, reader, sent = Arrivals(2), dict[int, list[int]](), FrameReader(), 0

    def arrive(frames: list[list[int] | bytes], cut_at: int) -> None:
        """Send frames in two pieces, and hold what is cut against what was sent."""
        nonlocal sent
        stream, others, elsewhere = b"", [], 0
        for frame in frames:
            if isinstance(frame, bytes):
                stream += pack_frame(LinkType.GOT, frame)
                others.append(frame)
                continue
            stream += pack_commands(frame, [bytes((zone & 255, (sent + at) & 255)) for at, zone in enumerate(frame)])
            for at, zone in enumerate(frame):
                if zone == 300:
                    elsewhere += 1
                else:
                    waiting.setdefault(zone, []).append((sent + at) & 255)
            sent += len(frame)
        got: list[bytes] = []
        for piece in (stream[:cut_at], stream[cut_at:]):
            whole = reader.whole(piece)
            cut = came.cut(whole, 0, RUNS, commands=True)
            assert not cut.fault and not cut.more
            got += [whole[begin + 5 : end] for begin, end in cut.others]
            assert all(whole[begin + 4] == LinkType.GOT for begin, _ in cut.others)
            elsewhere -= cut.elsewhere
            if cut.kept:
                assert set(came.newest_zones(cut.kept)) <= waiting.keys()
            reader.keep(whole[cut.end :])
        assert got == others and elsewhere == 0

    def take(numbers: set[int]) -> None:
        taken = came.rows_of(sorted(numbers))
        assert {zone: rows[:, 1].tolist() for zone, rows in taken} == {z: waiting.pop(z) for z in list(waiting) if z in numbers}
        assert all((rows[:, 0] == zone & 255).all() for zone, rows in taken)
        assert came.bytes_waiting == 2 * sum(map(len, waiting.values()))

    arrive(frames, cut_at)
    take(first)
    arrive(later, cut_at)
    take(set(ZONES))
    assert came.rows_of(ZONES) == []


def test_all_is_compiled_before_anything_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(module, name)

        def call(*arguments: Any) -> Any:
            called.append(name)
            told = real(*arguments)
            types[name].add(len(getattr(real, "signatures", ())))
            return told

        return call

    types: dict[str, set[int]] = {"cut_frames": set(), "sort_rows": set()}
    for name in types:
        monkeypatch.setattr(module, name, noted(name))
    came = Arrivals(2)
    assert called == ["cut_frames", "sort_rows"]
    came.cut(pack_frame(LinkType.HELLO), 0, RUNS, commands=False)
    came.cut(pack_commands([1, 5], [b"ab", b"cd"]), 0, RUNS, commands=True)
    assert len(came.rows_of([1])) == len(came.rows_of([5])) == 1
    assert len(called) == 6
    assert all(len(counts) == 1 for counts in types.values()), "no call was of other types, which would have been compiled then"


def test_without_commands_each_frame_is_cut_by_itself_and_none_is_taken() -> None:
    came = Arrivals(2)
    stream = pack_frame(LinkType.HELLO, b"hello") + pack_commands([1], [b"ab"])
    first = came.cut(stream, 0, RUNS, commands=False)
    assert (first.others, first.more, first.kept) == ([[0, 10]], True, 0)
    second = came.cut(stream, first.end, RUNS, commands=False)
    assert (second.others, second.kept, second.end) == ([[10, len(stream)]], 0, len(stream))
    assert came.cut(stream, first.end, RUNS, commands=True).kept == 1


def test_more_frames_of_other_kinds_than_are_cut_in_one_go() -> None:
    came, got, at, more = Arrivals(2), 0, 0, True
    got_frame = pack_frame(LinkType.GOT, GOT_STRUCT.pack(1))
    stream = b"".join(got_frame + pack_commands([1], [bytes((0, n))]) for n in range(2 * OTHER_FRAMES + 3))
    while more:
        cut = came.cut(stream, at, RUNS, commands=True)
        assert len(cut.others) <= OTHER_FRAMES
        got, at, more = got + len(cut.others), cut.end, cut.more
    assert (got, at) == (2 * OTHER_FRAMES + 3, len(stream))
    ((_, rows),) = came.rows_of([1])
    assert rows[:, 1].tolist() == list(range(2 * OTHER_FRAMES + 3))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (LENGTH.pack(0) + b"\x04", "length"),
        (LENGTH.pack(MAX_LINK_FRAME + 1) + b"\x04", "length"),
        (LENGTH.pack(2**32 - 1) + b"\x04", "length"),
        (pack_frame(LinkType.COMMANDS), "add up"),
        (pack_frame(LinkType.COMMANDS, b"\x01"), "add up"),
        (pack_frame(LinkType.COMMANDS, bytes(2)), "add up"),
        (pack_frame(LinkType.COMMANDS, b"\x01\x00", b"\x01\x00", b"a"), "add up"),
        (pack_frame(LinkType.COMMANDS, b"\xff\xff", b"\x01\x00", b"ab"), "add up"),
    ],
)
def test_bad_frames_are_told_and_what_was_before_them_is_taken(bad: bytes, why: str) -> None:
    came = Arrivals(2)
    good = pack_frame(LinkType.GOT) + pack_commands([1], [b"ab"])
    cut = came.cut(good + bad, 0, RUNS, commands=True)
    assert why in cut.fault
    assert (cut.end, cut.kept, cut.others) == (len(good), 1, [[0, 5]])


def test_too_much_is_not_taken_and_a_zone_that_went_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCOMING_BYTES", 2 * 4001)
    monkeypatch.setattr(module, "KEPT_ROWS", 1 << 11)
    came = Arrivals(2)
    for zone in (1, 2):
        assert came.cut(pack_commands([zone] * 2000, [b"ab"] * 2000), 0, RUNS, commands=True).kept == 2000
    with pytest.raises(Overflow):
        came.cut(pack_commands([1], [b"ab"]), 0, RUNS, commands=True)
    assert not came.cut(pack_frame(LinkType.HELLO), 0, RUNS, commands=False).fault  # who is not a gateway has nothing that must wait
    came.want_keyframes(1, [7])
    came.forget(1)
    assert came.bytes_waiting == 4000
    assert came.wanted_of([1, 2]) == []
    assert [(zone, len(rows)) for zone, rows in came.rows_of([1, 2])] == [(2, 2000)]
    assert len(came._rows) == module.FIRST_ROWS  # what there was room for is given back
