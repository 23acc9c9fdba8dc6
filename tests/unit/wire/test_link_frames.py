"""Link frames come out as they went in, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.wire.link import LENGTH, MAX_LINK_FRAME, FrameReader, LinkType, pack_frame

frames = st.lists(st.tuples(st.sampled_from(LinkType), st.lists(st.binary(max_size=40), max_size=3)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(frames, st.data())
def test_frames_do_not_depend_on_how_the_stream_is_cut(sent: list[tuple[LinkType, list[bytes]]], data: st.DataObject) -> None:
    stream = b"".join(pack_frame(kind, *parts) for kind, parts in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, got = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += [(kind, bytes(body)) for kind, body in reader.feed(stream[start:end])]
    assert got == [(kind, b"".join(parts)) for kind, parts in sent]


def test_a_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    reader = FrameReader()
    assert list(reader.feed(LENGTH.pack(MAX_LINK_FRAME + 1)[:3])) == []
    with pytest.raises(ValueError, match="are allowed"):
        list(reader.feed(LENGTH.pack(MAX_LINK_FRAME + 1)[3:]))
