"""The kernels that make snapshots do what their naive twins do."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.game.jit import kernel
from perdure.game.schema import ENTER_HEADER, FieldSchema
from perdure.wire.client_messages import server_frame
from perdure.wire.link import RELEASE_ENTRY
from shard.kernels import encode, layout, put
from tests.conformance.kernels import naive_kernels as naive

BRIEF = settings(max_examples=50, deadline=None)


# --- handles ------------------------------------------------------------------------------------------------------

ENTITY = st.one_of(st.integers(1, 20), st.sampled_from([1 << 11, 1 << 32, (1 << 32) + 1, (7 << 32) + 5, (1 << 48) - 1, 0x801, 0x1001]))

MANY = st.integers(1, 400) | st.integers(1 << 32, (1 << 32) + 400)
"""For ticks that want many places: the maps grow and shrink from tick to tick."""


@BRIEF
@given(st.lists(st.lists(ENTITY, unique=True, max_size=8) | st.lists(MANY, unique=True, max_size=100), max_size=12), st.integers(4, 120))
def test_an_entity_keeps_its_handle_while_it_lives(ticks: list[list[int]], count: int) -> None:
    state = np.zeros(layout.ENC_LENGTH, np.int64)
    state[layout.ENC_RING_COUNT] = count
    mapped = np.zeros((2, 256), layout.MAPPED)
    ring, handles = np.arange(count, dtype=np.int32), np.zeros(count, layout.HANDLE)
    twin = naive.Handles(count)
    for tick, entities in enumerate(ticks, 1):
        encode.begin_handles(state, mapped, len(entities))
        answers = [encode.handle_of(state, mapped, ring, handles, entity, tick) for entity in entities]
        assert [(int(handle), bool(fresh)) for handle, fresh in answers] == twin.tick(entities)
        for handle, _ in answers:
            assert handle < 0 or handles[handle]["stamp"] == tick
        for entity, (handle, _) in zip(entities, answers, strict=True):
            if handle >= 0:
                assert encode.handle_of(state, mapped, ring, handles, entity, tick)[0] == -1, "an entity's first row counts"
        before = int(state[layout.ENC_RING_COUNT])
        encode.end_handles(state, mapped, ring, handles, tick)
        back = range(before, int(state[layout.ENC_RING_COUNT]))
        twin.returned([int(ring[(int(state[layout.ENC_RING_HEAD]) + k) % count]) for k in back])
        assert state[layout.ENC_HANDLE_FAILED] == twin.failed
        assert state[layout.ENC_RING_COUNT] == len(twin.free)


# --- quantisation -------------------------------------------------------------------------------------------------


@BRIEF
@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-1e6, 1e6),
    st.sampled_from([1 / 16, 1.0, 0.1, 1e-3, 7.0]),
    st.integers(0, 1 << 32),
)
def test_a_value_becomes_the_nearest_level_in_range(value: float, lo: float, step: float, top: int) -> None:
    assert put.level_of(value, lo, step, top) == naive.level_of(value, lo, step, top)


@BRIEF
@given(st.floats(-10, 5000), st.sampled_from([FieldSchema("x", "f8", "all", 0, 4096, 1 / 16), FieldSchema("n", "i2", "all", -5, 90, 5)]))
def test_the_kernel_and_the_schema_agree_on_levels(value: float, field: FieldSchema) -> None:
    level = put.level_of(value, field.lo, field.step, field.levels - 1)
    assert level == field.level(value)
    assert 0 <= level < field.levels
    if field.lo <= value <= field.value(field.levels - 1):
        assert abs(field.value(level) - value) <= field.step / 2


@BRIEF
@given(st.integers(0, (1 << 48) - 1), st.integers(0, 255), st.integers(0, 65_535), st.binary(min_size=8, max_size=8), st.integers(1, 8))
def test_numbers_and_bytes_are_put_where_they_belong(entity: int, kind: int, handle: int, data: bytes, size: int) -> None:
    out = np.full(40, 0xEE, np.uint8)
    value = int.from_bytes(data[:size], "little") >> 1
    assert put.put_level(out, 3, value, size) == 3 + size
    assert out[:3].tobytes() + out[3 + size :].tobytes() == b"\xee" * (40 - size)
    assert out[3 : 3 + size].tobytes() == value.to_bytes(size, "little")
    assert put.put_big(out, 3, value, size) == 3 + size
    assert out[3 : 3 + size].tobytes() == value.to_bytes(size, "big")
    assert put.put_tagged(out, 3, kind, value, size) == 4 + size
    assert out[3 : 4 + size].tobytes() == bytes((kind,)) + value.to_bytes(size, "big")
    assert put.put_bytes(out, 5, np.frombuffer(data, np.uint8).copy(), 8 - size, size) == 5 + size
    assert out[5 : 5 + size].tobytes() == data[8 - size :]
    source = np.frombuffer(data + data + bytes(layout.WORD), np.uint8).copy()
    for many in (0, size, 8 + size):
        assert put.copy_words(out, 5, source, 8 - size, many) == 5 + many
        assert out[5 : 5 + many].tobytes() == source[8 - size : 8 - size + many].tobytes()
        assert out[-8:].tobytes() == b"\xee" * 8, "a word less a byte behind them, at most"
    assert encode.put_enter_header(out, 1, handle, kind, entity) == 1 + ENTER_HEADER.size
    assert out[1:10].tobytes() == ENTER_HEADER.pack(handle, kind, entity & 0xFFFFFFFF, entity >> 32)


@BRIEF
@given(st.one_of(st.integers(0, (1 << 63) - 1), *(st.integers(edge - 2, edge + 2) for edge in (128, 256, 65536, 1 << 32))))
def test_numbers_are_written_as_msgpack_writes_them(value: int) -> None:
    out = np.full(16, 0xEE, np.uint8)
    end = put.put_int(out, 2, value)
    assert out[2:end].tobytes() == msgpack.packb(value)
    assert out[:2].tobytes() + out[end:].tobytes() == b"\xee" * (18 - end)


# --- interest -----------------------------------------------------------------------------------------------------

X0, SIZE, COLUMNS, ROWS = -100.0, 50.0, 7, 5
PLACE = st.one_of(st.floats(-120, 270), st.sampled_from([math.nan, -1e300, 1e300, math.inf, -100.0, -50.0, 0.0, 150.0, 1e19]))
POINTS = st.lists(st.tuples(PLACE, PLACE), max_size=40)


def grid(
    points: list[tuple[float, float]], lengths: list[int] | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """`lengths`: of update records, by entity; handles are 3 and on."""
    state = np.zeros(layout.ENC_LENGTH, np.int64)
    state[layout.ENC_COLUMNS], state[layout.ENC_ROWS], state[layout.ENC_FLAT] = COLUMNS, ROWS, len(points)
    flat, ordered = np.zeros(max(len(points), 1), layout.FLAT), np.zeros(max(len(points), 1), layout.SORTED)
    for index, (x, y) in enumerate(points):
        flat[index]["x"], flat[index]["y"], flat[index]["handle"] = x, y, index + 3
        flat[index]["update_length"] = lengths[index] if lengths is not None else 0
    cells = np.full(COLUMNS * ROWS + 1, 99, np.int32)
    encode.sort_into_cells(state, flat, cells, ordered, X0, X0, SIZE)
    return state, flat, cells, ordered


@BRIEF
@given(POINTS)
def test_cells_hold_their_points_in_order(points: list[tuple[float, float]]) -> None:
    _, flat, cells, ordered = grid(points)
    where = [naive.cut_at((y - X0) / SIZE, ROWS) * COLUMNS + naive.cut_at((x - X0) / SIZE, COLUMNS) for x, y in points]
    assert flat["cell"][: len(points)].tolist() == where
    assert ordered["flat"][: len(points)].tolist() == sorted(range(len(points)), key=lambda index: where[index])
    assert cells.tolist() == [sum(cell < c for cell in where) for c in range(COLUMNS * ROWS + 1)]
    for place, row in enumerate(ordered[: len(points)]):
        assert flat[row["flat"]]["sorted"] == place
        assert row["handle"] == row["flat"] + 3
        assert row["x"].tobytes() == flat[row["flat"]]["x"].tobytes()
        assert row["y"].tobytes() == flat[row["flat"]]["y"].tobytes()


@BRIEF
@given(POINTS, PLACE, PLACE, st.sampled_from([50.0, 12.5]), st.integers(1, 12), st.integers(-1, 39))
def test_what_is_visible_is_near(points: list[tuple[float, float]], x: float, y: float, reach: float, limit: int, own: int) -> None:
    state, flat, cells, ordered = grid(points)
    own = own if own < len(points) else -1
    seen = np.full(limit, -7, np.int32)
    place = int(flat[own]["sorted"]) if own >= 0 else -1
    found = encode.visible_from(state, cells, ordered, seen, place, x, y, reach, X0, X0, SIZE)
    chosen = ordered["flat"][seen[:found]].tolist()
    near = naive.visible(points, x, y, reach) | ({own} if own >= 0 else set())
    assert len(chosen) == len(set(chosen)) == min(len(near), limit)
    assert set(chosen) <= near
    assert own < 0 or chosen[0] == own, "one's own avatar is in sight however crowded the place is"


class Scene(NamedTuple):
    had: list[int]
    seen: list[int]
    handle: list[int]
    changed: list[bool]
    new: list[bool]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    count = draw(st.integers(0, 14))
    handle = draw(st.permutations(range(20)))[:count]
    seen = draw(st.lists(st.integers(0, count - 1), unique=True)) if count else []
    had = draw(st.lists(st.integers(0, 19), unique=True, max_size=14))
    return Scene(had, seen, handle, draw(st.lists(st.booleans(), min_size=count, max_size=count)),
                 draw(st.lists(st.booleans(), min_size=count, max_size=count)))  # fmt: skip


@BRIEF
@given(scenes(), st.lists(st.integers(0, 9), min_size=14, max_size=14), st.sampled_from([-1, 4, 25]))
def test_compare_tells_enters_updates_and_leaves_apart(scene: Scene, places: list[int], near: int) -> None:
    ordered = np.zeros(max(len(scene.handle), 1), layout.SORTED)
    for index, handle in enumerate(scene.handle):
        ordered[index]["handle"] = handle
        ordered[index]["update_length"] = -1 if scene.new[index] else 5 if scene.changed[index] else 0
        ordered[index]["x"], ordered[index]["y"] = 70.0 + places[index], 30.0
    mark, view = np.zeros(20, np.uint8), np.zeros(20, np.uint16)
    view[: len(scene.had)] = scene.had
    scratch = np.zeros((4, 20), np.int32)
    scratch[layout.SCRATCH_VISIBLE, : len(scene.seen)] = scene.seen
    counts = encode.compare(ordered, mark, view, len(scene.had), scratch, len(scene.seen), 70.0, 30.0, float(near))
    rows = (layout.SCRATCH_ENTERS, layout.SCRATCH_UPDATES, layout.SCRATCH_LEAVES)
    found = tuple(scratch[row, :count].tolist() for row, count in zip(rows, counts, strict=True))
    assert found == naive.compare(
        scene.seen, scene.had, scene.handle, scene.changed, scene.new, None if near < 0 else [place**2 <= near for place in places]
    )
    assert not mark.any(), "marks are clean for the next viewer"
    assert view[: len(scene.seen)].tolist() == [scene.handle[k] for k in scene.seen]


# --- viewers ------------------------------------------------------------------------------------------------------

FIELDS = ("key", "session", "gateway", "hop")
SMALL = st.integers(0, 3)
PLAYER = st.fixed_dictionaries(
    {"key": SMALL, "session": SMALL, "gateway": SMALL, "hop": SMALL, "slot": SMALL, "last_seq": SMALL, "row": st.integers(-1, 3),
     "departed": st.integers(0, 1), "leaving": st.integers(0, 2)}
)  # fmt: skip
SIGHT = st.fixed_dictionaries(dict.fromkeys(FIELDS, SMALL) | {"force": st.integers(0, 1), "count": SMALL})


@BRIEF
@given(st.lists(st.tuples(PLAYER, SIGHT), max_size=8))
def test_viewers_are_listed_by_gateway_with_their_flags(table: list[tuple[dict[str, int], dict[str, int]]]) -> None:
    players, sights, viewers = np.zeros(8, layout.PLAYER), np.zeros(8, layout.VIEW), np.zeros(8, layout.VIEWER)
    for place, (player, sight) in enumerate(table):
        for name, value in player.items():
            players[place][name] = value
        for name, value in sight.items():
            sights[place][name] = value
    state = np.full(layout.ENC_LENGTH, 77, np.int64)
    encode.list_viewers(state, sights, viewers, players, len(table))
    expected = naive.viewers([player for player, _ in table], {place: sight for place, (_, sight) in enumerate(table)})
    count = int(state[layout.ENC_VIEWERS])
    assert [{name: int(row[name]) for name in expected[0]} for row in viewers[:count]] == expected if expected else count == 0
    assert (state[layout.ENC_GROUPS], state[layout.ENC_NEXT_VIEWER], state[layout.ENC_OUT_USED]) == (0, 0, 0)
    for place, (player, sight) in enumerate(table):
        shown = next((viewer for viewer in expected if viewer["place"] == place), None)
        if shown is None:
            assert sights[place]["key"] == 0, "one who is not sent a frame gets a full one next time"
        else:
            assert [int(sights[place][name]) for name in FIELDS] == [player[name] for name in FIELDS]
            assert sights[place]["force"] == 0
            assert sights[place]["count"] == (0 if shown["flags"] & 1 else sight["count"])


# --- frames -------------------------------------------------------------------------------------------------------


class Encoder(NamedTuple):
    """The fields of a program's encoder that make_frames uses."""

    state: Any
    mark: Any
    flat: Any
    ordered: Any
    cell_start: Any
    enter_bytes: Any
    update_bytes: Any
    scratch: Any
    views: Any
    sights: Any
    viewers: Any
    owner_bytes: Any
    events: Any
    event_bytes: Any
    entries: Any
    groups: Any
    out: Any


ENTER, UPDATE, EVENT, OWNER, LIMIT, ENTITIES = 21, 13, 6, 7, 8, 24


class Crowd(NamedTuple):
    """What is generated: entities, viewers (place, gateway, flags, had handles, owner length), events, and how long records are."""

    points: list[tuple[float, float, bool, bool]]
    viewers: list[tuple[int, int, int, list[int], int]]
    events: list[tuple[float, float, float, int]]
    stretch: int


@st.composite
def crowds(draw: st.DrawFn) -> Crowd:
    place = st.floats(-100, 250)
    points = draw(st.lists(st.tuples(place, place, st.booleans(), st.booleans()), max_size=ENTITIES))
    count = draw(st.integers(0, min(len(points), 6)))
    order = draw(st.permutations(range(len(points))))
    viewers = []
    for own in order[:count]:
        had = draw(st.lists(st.integers(0, ENTITIES + 5), unique=True, max_size=LIMIT))
        viewers.append((own, draw(st.integers(1, 3)), draw(st.sampled_from([0, 1, 2, 4])), had, draw(st.integers(0, OWNER))))
    events = draw(st.lists(st.tuples(place, place, st.floats(1, 200), st.integers(1, EVENT)), max_size=4))
    return Crowd(points, sorted(viewers, key=lambda viewer: viewer[1]), events, draw(st.sampled_from([1, 1, 1, 12, 800])))


def encoder(crowd: Crowd, out_bytes: int) -> Encoder:
    n, enter, update = len(crowd.points), ENTER * crowd.stretch, UPDATE * crowd.stretch
    state, flat, cells, ordered = np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)
    lengths = [-1 if new else update - index % 2 if changed else 0 for index, (_, _, changed, new) in enumerate(crowd.points)]
    state, flat, cells, ordered = grid([(x, y) for x, y, _, _ in crowd.points], lengths)
    for slot, value in ((layout.ENC_ENTER_STRIDE, enter), (layout.ENC_UPDATE_STRIDE, update), (layout.ENC_EVENT_STRIDE, EVENT),
                        (layout.ENC_OWNER_STRIDE, OWNER), (layout.ENC_EPOCH, 3), (layout.ENC_VIEWERS, len(crowd.viewers)),
                        (layout.ENC_EVENTS, len(crowd.events)), (layout.ENC_OWN_EVENTS, len(crowd.events) // 2),
                        (layout.ENC_BASELINE, crowd.stretch != 12)):  # fmt: skip
        state[slot] = value
    for index in range(len(crowd.points)):
        flat[index]["enter_length"] = enter - index % 3
    rng = np.random.default_rng(len(crowd.points))
    views, sights = np.zeros((ENTITIES, LIMIT), np.uint16), np.zeros(ENTITIES, layout.VIEW)
    viewers = np.zeros(8, layout.VIEWER)
    for at, (own, gateway, flags, had, owner) in enumerate(crowd.viewers):
        views[own, : len(had)] = had
        sights[own]["count"], sights[own]["flat"] = 0 if flags & 1 else len(had), own
        x, y, _, _ = crowd.points[own]
        viewers[at] = (x, y, (5 << 32) + own, own, flags, gateway, 100 + own, 7, 40 + own, owner, 0)
    events = np.zeros(5, layout.HAPPENED)
    for at, (x, y, radius, length) in enumerate(crowd.events):
        events[at] = (x, y, radius * radius, length)
    return Encoder(
        state, np.zeros(64, np.uint8), flat, ordered, cells, rng.integers(0, 256, n * enter + layout.WORD, np.uint8),
        rng.integers(0, 256, n * update + layout.WORD, np.uint8), np.zeros((4, LIMIT), np.int32), views, sights, viewers,
        rng.integers(0, 256, 8 * OWNER, np.uint8), events, rng.integers(0, 256, 5 * EVENT, np.uint8), np.zeros(8, RELEASE_ENTRY),
        np.zeros(4, layout.GROUP), np.zeros(out_bytes, np.uint8),
    )  # fmt: skip


@kernel
def make_frames(e: Any, tick: int) -> None:
    """An entry to a part of programs."""
    encode.make_frames(e, 11, tick, X0, X0, SIZE, SIZE)


def make(e: Encoder, tick: int) -> Encoder:
    make_frames(e, tick)
    return e


def naive_frames(crowd: Crowd, e: Encoder, tick: int) -> list[tuple[int, bytes]]:
    """Return (gateway, frame) per viewer; what is visible is taken from the kernel's twin tests above."""
    frames = []
    state = e.state
    for at, (own, gateway, flags, had, owner) in enumerate(crowd.viewers):
        x, y, _, _ = crowd.points[own]
        near = naive.visible([(px, py) for px, py, _, _ in crowd.points], x, y, SIZE) | {own}
        order = [own, *(int(k) for k in e.ordered["flat"][: len(crowd.points)] if int(k) in near and int(k) != own)][:LIMIT]
        handle = [index + 3 for index in range(len(crowd.points))]
        kept = [] if flags & 1 else had
        close = [(px - x) ** 2 + (py - y) ** 2 <= (encode.FAR_SHARE * SIZE) ** 2 for px, py, _, _ in crowd.points]
        enters, updates, leaves = naive.compare(
            order, kept, handle, [p[2] for p in crowd.points], [p[3] for p in crowd.points], None if crowd.stretch != 12 else close
        )
        enter, update = int(state[layout.ENC_ENTER_STRIDE]), int(state[layout.ENC_UPDATE_STRIDE])
        told = b""
        heard_too = not flags & 1  # who gets a keyframe is told of this zone's own events alone
        for k, (ex, ey, radius, length) in enumerate(crowd.events if heard_too else crowd.events[: len(crowd.events) // 2]):
            if (ex - x) ** 2 + (ey - y) ** 2 <= radius * radius:
                told += e.event_bytes[k * EVENT : k * EVENT + length].tobytes()
        parts = [
            b"".join(e.enter_bytes[k * enter : k * enter + int(e.flat[k]["enter_length"])].tobytes() for k in enters),
            b"".join(e.update_bytes[k * update : k * update + int(e.flat[k]["update_length"])].tobytes() for k in updates),
            b"".join(h.to_bytes(2, "little") for h in leaves),
            told,
            e.owner_bytes[at * OWNER : at * OWNER + owner].tobytes(),
        ]
        worst = 64 + layout.WORD + 10 + len(order) * enter + 2 * len(kept) + len(crowd.events) * EVENT + OWNER
        message = naive.snapshot(11, 3, tick, flags, 40 + own, (5 << 32) + own, parts, worst >= 65_536)
        assert msgpack.unpackb(message) == [2, 11, 3, tick, flags, 40 + own, (5 << 32) + own, *parts]
        frame = naive.websocket_frame(message)
        assert frame == server_frame(message), "the gateway's own frames have the same header"
        frames.append((gateway, frame))
    return frames


def taken(e: Encoder) -> list[tuple[int, bytes]]:
    """Return (gateway, frame) per entry, and check that groups and entries cut the blob without a gap."""
    frames, end = [], 0
    groups = e.groups[: int(e.state[layout.ENC_GROUPS])]
    first = 0
    for gateway, at, count, start, stop in groups.tolist():
        assert (at, start) == (first, end)
        for entry in e.entries[at : at + count]:
            assert start + int(entry["offset"]) == end
            frames.append((gateway, e.out[end : end + int(entry["length"])].tobytes()))
            end += int(entry["length"])
        assert end == stop
        first += count
    assert end == e.state[layout.ENC_OUT_USED]
    return frames


@BRIEF
@given(crowds())
def test_frames_are_what_the_protocol_says(crowd: Crowd) -> None:
    tick = 70_000
    e = make(encoder(crowd, 1 << 20), tick)
    assert e.state[layout.ENC_NEXT_VIEWER] == len(crowd.viewers)
    assert taken(e) == naive_frames(crowd, e, tick)
    for at, (own, _, flags, _, _) in enumerate(crowd.viewers):
        assert [int(e.entries[at][n]) for n in ("slot", "hop", "ack", "flags")] == [100 + own, 7, 40 + own, flags]
    gateways = [viewer[1] for viewer in crowd.viewers]
    assert e.groups["gateway"][: int(e.state[layout.ENC_GROUPS])].tolist() == sorted(set(gateways))


@BRIEF
@given(crowds(), st.integers(0, 3000))
def test_frames_go_on_where_the_buffer_ran_full(crowd: Crowd, size: int) -> None:
    tick = 5
    whole = taken(make(encoder(crowd, 1 << 20), tick))
    e = make(encoder(crowd, size), tick)
    while e.state[layout.ENC_NEXT_VIEWER] < len(crowd.viewers):
        grown = np.zeros(2 * len(e.out) + 64, np.uint8)
        grown[: len(e.out)] = e.out
        e = make(e._replace(out=grown), tick)
    assert taken(e) == whole


def test_gateways_past_the_limit_get_nothing_and_harm_nobody() -> None:
    points = [(float(k), 0.0, False, False) for k in range(6)]
    crowd = Crowd(points, [(k, k + 1, 1, [], 0) for k in range(6)], [], 1)
    e = make(encoder(crowd, 1 << 20), 5)
    assert taken(e) == naive_frames(crowd, e, 5)[:4]
    assert e.state[layout.ENC_NEXT_VIEWER] == 6


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_websocket_headers(size: int) -> None:
    out = np.zeros(size + 10, np.uint8)
    begin = encode._put_frame_header(out, 10, 10 + size)
    assert out[begin:].tobytes() == naive.websocket_frame(bytes(size))
