"""The live picture as bytes, made once for all who look on, and not at all while nobody does.

Owns the newest picture and the waiting for the next. Viewers hold no queue: one that is slow misses pictures. Called by `live_api`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson

INTERVAL_S = 0.5


class LiveFeed:
    """`draw` makes the picture; it is called at most once in INTERVAL_S. `now_s` is a monotonic clock."""

    def __init__(self, draw: Callable[[], dict[str, Any]], now_s: Callable[[], float] = time.monotonic) -> None:
        self._draw = draw
        self._now_s = now_s
        self._number = 0
        self._body = b""
        self._drawn_s = float("-inf")
        self._drawing: asyncio.Task[None] | None = None

    def newest(self) -> tuple[int, bytes]:
        """Return the number and the JSON of a picture that is at most INTERVAL_S old."""
        if self._now_s() - self._drawn_s >= INTERVAL_S:
            self._redraw()
        return self._number, self._body

    async def after(self, number: int) -> tuple[int, bytes]:
        """Wait for a picture of another number than this; all who wait get the same one."""
        if number == self._number or not self._body:
            if self._drawing is None or self._drawing.done():
                self._drawing = asyncio.ensure_future(self._draw_in_time())
            await asyncio.shield(self._drawing)
        return self._number, self._body

    async def _draw_in_time(self) -> None:
        await asyncio.sleep(max(0.0, self._drawn_s + INTERVAL_S - self._now_s()))
        self._redraw()

    def _redraw(self) -> None:
        body = orjson.dumps(self._draw(), option=orjson.OPT_NON_STR_KEYS)
        self._number, self._body, self._drawn_s = self._number + 1, body, self._now_s()
