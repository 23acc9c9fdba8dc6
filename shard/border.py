"""The border of a zone: what it tells its neighbours after a tick (feeds), and what they told it (ghosts). No I/O, no clock.

A feed is one array of words (shard.kernels.layout): the rows, events and passages of one tick of one zone that matter to one other
zone. Each is whole in itself, so the newest is enough. Owns the feeds that are held for one zone, which of them have fallen
silent, and the memory of who went and who came. Ghost rows are no part of the zone's state: never in its hash, log or image.
Called by shard.borders, on the loop's thread (`receive`, `turn`) and on the zone's (`fill`, `note`, `publish`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from perdure.wire.identifiers import WorldGrid
from shard.kernels import layout
from shard.program import FEED_BUFFER_WORDS, Program, border_arrays, with_events_of

FROZEN_S = 2.0
"""How long an entity that has left over a border is shown where it was last seen, if its new zone does not tell of it."""
LINGER_TICKS = 5
"""How long it is told of on, once it was seen elsewhere: third zones may hear of that later."""
SILENT_INTERVALS = 6
"""After so many tick intervals without a feed, a zone's ghosts are stale."""
QUIET_S = 2.0
"""A zone that has nothing to tell another says so, and then again only this often."""
FEEDS_WAITING = 8
"""Feeds of one zone that may wait for a tick; only their events are still wanted, and those of older ones are dropped."""

Words = npt.NDArray[np.uint64]


class FeedError(ValueError):
    """Bytes that are no feed of this game."""


class Feed(NamedTuple):
    """What one zone tells another of one tick."""

    words: Words
    source: int
    viewer: int
    stamp: tuple[int, int, int]
    """(generation, epoch, tick)"""
    interval_s: float
    """How long until the next one is to be expected."""


def feed_of(words: Words) -> Feed:
    """Return a feed of its words, which `check_feed` has seen or `publish` has made."""
    _, source, viewer, generation, epoch, tick, interval_us = words[:7].tolist()
    return Feed(words, source, viewer, (generation, epoch, tick), interval_us / 1e6)


def check_feed(program: Program, words: Words) -> Feed:
    """Return the feed that came over a link. Raises FeedError where it is none, or another layout's."""
    widths = program.feed_widths
    first = layout.FEED_SECTIONS + len(widths) + 1
    if len(words) < first:
        raise FeedError(f"a border feed of {len(words)} words; its head alone has {first}")
    if int(words[layout.FEED_DIGEST]) != program.feed_digest:
        raise FeedError("a border feed of another layout of rows; it can be read once all shards run the same game")
    ends = words[layout.FEED_SECTIONS : first].tolist()
    sizes = zip(widths, ends, ends[1:], strict=False)
    if ends[0] != first or ends[-1] != len(words) or any(end < start or (end - start) % width for width, start, end in sizes):
        raise FeedError(f"a border feed of {len(words)} words whose sections do not add up")
    return feed_of(words)


class Heard(NamedTuple):
    """What was heard of a neighbour: how long ago its newest feed came (by the ticks of the zone that hears, which may be paused), how many
    rows that has, and whether it is stale."""

    source: int
    age_s: float
    rows: int
    stale: bool


@dataclass(slots=True)
class _Held:
    """What is held of one zone. heard_s: when its newest feed came, by the time of the border."""

    feed: Feed
    heard_s: float
    cut: bool = False
    """Its link broke, or nobody runs it."""
    waiting: deque[Feed] = field(default_factory=lambda: deque(maxlen=FEEDS_WAITING))

    @property
    def silent_from_s(self) -> float:
        return self.heard_s + SILENT_INTERVALS * self.feed.interval_s


def zones_near(grid: WorldGrid, zone: int, reach: float) -> list[int]:
    """Return the zones whose rectangles lie within `reach` of a zone's, without itself."""
    x0, y0, x1, y1 = grid.bounds(zone)
    width, height = x1 - x0, y1 - y0
    columns, rows = int(reach // width) + 1, int(reach // height) + 1
    row, column = divmod(zone, grid.columns)
    near = []
    for r in range(max(row - rows, 0), min(row + rows + 1, grid.rows)):
        for c in range(max(column - columns, 0), min(column + columns + 1, grid.columns)):
            dx, dy = max(abs(c - column) - 1, 0) * width, max(abs(r - row) - 1, 0) * height
            if (r, c) != (row, column) and dx * dx + dy * dy <= reach * reach:
                near.append(r * grid.columns + c)
    return near


class Border:
    """See the module docstring."""

    def __init__(self, program: Program, zone: int, grid: WorldGrid) -> None:
        game = program.game
        self._program, self._grid, self.zone = program, grid, zone
        self._sight = game.interest
        self._row_reach = game.interest + game.hysteresis
        farthest = max([game.interest, *(event.options["radius"] for event in game.events)])
        self.near = zones_near(grid, zone, farthest + 2 * game.hysteresis)
        """Zones that this one tells of its rows or events, where they want to know; and they this one."""
        self._keep_ticks = max(1, round(FROZEN_S * game.tick_hz))
        self._bare_words = layout.FEED_SECTIONS + len(program.feed_widths) + 1
        """The words of a feed that tells of nothing: its head."""
        self._arrays: Any = None
        self._bound_to: Any = None
        self._held: dict[int, _Held] = {}
        self._turned: tuple[Words, npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None = None
        self._changed = self._is_fresh = False
        self._nothing_told = True
        self._nothing_shown = False
        self.viewers: tuple[int, ...] = ()
        self._near_arrays: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None = None
        self._anew = False
        self._quiet_in: list[int] = []
        self._quiet_s = 0.0
        self._all_quiet_in = -1
        """The part of time in which all were told that there is nothing."""
        self._out = np.zeros(0, np.uint64)
        self._turned_at_s: float | None = None
        self._now_s = 0.0
        self._stale: tuple[int, ...] = ()
        self._stale_from_s = np.inf
        self._sources: list[int] = []

    # --- on the loop's thread -------------------------------------------------------------------------------------
    def watch(self, viewers: tuple[int, ...]) -> None:
        """These zones want to be told from the next tick on."""
        if viewers != self.viewers:
            self.viewers, self._near_arrays = viewers, None

    def tell_anew(self) -> None:
        """Tell everybody with the next tick, those too to whom there is nothing to tell."""
        self._anew = True

    def receive(self, feed: Feed) -> bool:
        """Take a neighbour's feed for the next tick; False where it is older than what is held."""
        held = self._held.get(feed.source)
        if held is None:
            held = self._held[feed.source] = _Held(feed, self._now_s)
        elif feed.stamp <= held.feed.stamp:
            return False
        elif len(feed.words) == len(held.feed.words) == self._bare_words and not held.waiting:
            self._heard(held, feed)  # still nothing: all is as it was
            return True
        self._heard(held, feed)
        held.waiting.append(feed)
        self._changed = True
        return True

    def _heard(self, held: _Held, feed: Feed) -> None:
        held.feed, held.heard_s, held.cut = feed, self._now_s, False
        self._stale_from_s = -np.inf if self._stale else min(self._stale_from_s, held.silent_from_s)

    def cut(self, source: int) -> None:
        """A zone's link broke, or nobody runs it: what is held of it is stale until it is heard of again."""
        if source in self._held:
            self._held[source].cut = True
            self._stale_from_s = -np.inf

    def turn(self, now_s: float, interval_s: float) -> None:
        """A tick begins: what was received is what it sees."""
        if self._turned_at_s is not None:
            self._now_s += min(now_s - self._turned_at_s, 2 * interval_s)
        self._turned_at_s = now_s
        if not self._changed:
            if self._is_fresh and self._turned is not None:
                self._turned[3][:] = self._is_fresh = False
            return
        self._changed, self._is_fresh = False, True
        older = dict(zip(self._sources, self._pieces(), strict=True)) if self._turned is not None else {}
        self._sources = sorted(self._held)
        pieces: list[Words] = []
        passed: list[Words] = []
        fresh: list[bool] = []
        for source in self._sources:
            held = self._held[source]
            pieces.append(held.feed.words if held.waiting else older[source])
            fresh.append(bool(held.waiting))
            if len(held.waiting) > 1:
                passed.extend(feed.words for feed in list(held.waiting)[:-1])
            held.waiting.clear()
        current = [True] * len(pieces) + [False] * len(passed)
        fresh += [True] * len(passed)
        pieces += passed
        starts = list(accumulate(map(len, pieces), initial=0))
        self._nothing_told = starts[-1] == self._bare_words * len(pieces)
        self._turned = np.concatenate(pieces), np.array(starts[:-1], np.int64), np.array(current), np.array(fresh)

    def _pieces(self) -> list[Words]:
        """Return the current feeds as the last fills left them: copies that lost to newer ones are struck out."""
        assert self._turned is not None
        store, starts, current, _ = self._turned
        ends = [*starts.tolist(), len(store)][1:]
        return [store[start:end] for start, end, wanted in zip(starts.tolist(), ends, current.tolist(), strict=True) if wanted]

    def stale(self) -> tuple[int, ...]:
        """Return the zones whose ghosts are shown as they were, since they are not heard of any more."""
        if self._now_s > self._stale_from_s:
            stale = {source for source, held in self._held.items() if held.cut or self._now_s > held.silent_from_s}
            self._stale = tuple(sorted(stale))
            self._stale_from_s = min((held.silent_from_s for source, held in self._held.items() if source not in stale), default=np.inf)
        return self._stale

    def heard(self) -> list[Heard]:
        """Return what was heard of each neighbour."""
        stale = self.stale()
        return [
            Heard(source, self._now_s - held.heard_s, self._rows_in(held.feed), source in stale)
            for source, held in sorted(self._held.items())
        ]

    def _rows_in(self, feed: Feed) -> int:
        """Return how many rows a feed has, living and frozen ones; its first section is passages, its last ones are events."""
        widths = self._program.feed_widths[1 : 1 + 2 * len(self._program.game.entities)]
        ends = feed.words[layout.FEED_SECTIONS + 1 :][: len(widths) + 1].tolist()
        return sum((end - start) // width for width, start, end in zip(widths, ends, ends[1:], strict=False))

    # --- on the zone's thread -------------------------------------------------------------------------------------
    def arrays(self, zone_arrays: Any) -> Any:
        """Return the border arrays; made when they are first needed."""
        if self._arrays is None:
            self._arrays = border_arrays(self._program, zone_arrays)
        elif self._bound_to is not zone_arrays:  # the zone was mended: built anew from its log
            self._arrays = with_events_of(self._program, self._arrays, zone_arrays)
        self._bound_to = zone_arrays
        return self._arrays

    def fill(self, zone_arrays: Any) -> None:
        """Fill the zone's ghost rows, and what it heard of, for the tick that begins."""
        if self._turned is None and not self.viewers:
            return
        if self._nothing_told and self._nothing_shown and self._bound_to is zone_arrays and not self._remembers():
            return
        _, _, fill = self._program.border
        if self._turned is None:
            nothing = np.zeros(0, np.bool_)
            self._turned = np.zeros(0, np.uint64), np.zeros(0, np.int64), nothing, nothing
        fill(zone_arrays, self.arrays(zone_arrays), *self._turned)
        self._nothing_shown = self._nothing_told and not self._remembers()

    def _remembers(self) -> bool:
        """Does it show, or tell of, anything that came or went?"""
        state = self._arrays.state
        return bool(state[layout.BORDER_SETTLED]) or any(state[layout.BORDER_FROZEN :].tolist())

    def publish(self, zone_arrays: Any, generation: int, epoch: int, interval_s: float) -> list[Feed]:
        """Return the feeds of the tick that was just stepped; they may leave the zone once it is committed.

        Those who were told that there is nothing, and to whom there is still nothing to tell, are told once in QUIET_S.
        """
        if not self.near:
            return []
        arrays, (note, publish, _) = self.arrays(zone_arrays), self._program.border
        note(zone_arrays, arrays, self._keep_ticks, LINGER_TICKS)
        if not self.viewers:
            return []
        state = arrays.state
        state[layout.BORDER_GENERATION], state[layout.BORDER_EPOCH] = generation, epoch
        state[layout.BORDER_INTERVAL_US] = round(interval_s * 1e6)
        viewers, near = self._viewers_near()
        ends = np.zeros(len(viewers), np.int64)
        if not len(self._out):
            self._out = np.zeros(FEED_BUFFER_WORDS, np.uint64)
        while not publish(zone_arrays, arrays, viewers, near, self._sight, ends, self._out):
            self._out = np.zeros(2 * len(self._out), np.uint64)
        stamp = (generation, epoch, int(zone_arrays.meta[layout.META_TICK]))
        return self._feeds(ends.tolist(), stamp, interval_s)

    def _feeds(self, ends: list[int], stamp: tuple[int, int, int], interval_s: float) -> list[Feed]:
        now = int((self._turned_at_s or 0.0) / QUIET_S)
        quiet_s = max(interval_s, QUIET_S)
        if (now, quiet_s) == (self._all_quiet_in, self._quiet_s) and not self._anew and ends[-1] == self._bare_words * len(ends):
            return []  # as it was
        if self._anew or quiet_s != self._quiet_s:
            self._anew, self._quiet_s, self._quiet_in = False, quiet_s, [-1] * len(ends)
        # All zones of a shard tick together, so what they have for another shard goes as one.
        feeds, start = [], 0
        for k, (viewer, end) in enumerate(zip(self.viewers, ends, strict=True)):
            if end - start > self._bare_words:
                self._quiet_in[k] = -1
                feeds.append(Feed(self._out[start:end].copy(), self.zone, viewer, stamp, interval_s))
            elif self._quiet_in[k] != now:
                self._quiet_in[k] = now
                words = self._out[start:end].copy()
                words[layout.FEED_INTERVAL_US] = round(quiet_s * 1e6)
                feeds.append(Feed(words, self.zone, viewer, stamp, quiet_s))
            start = end
        self._all_quiet_in = now if all(quiet_in == now for quiet_in in self._quiet_in) else -1
        return feeds

    def _viewers_near(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        if self._near_arrays is None:
            self._anew = True
            rows = [(*self._grid.bounds(viewer), self._row_reach) for viewer in self.viewers]
            self._near_arrays = np.array(self.viewers, np.int64), np.array(rows, np.float64)
        return self._near_arrays
