"""What players felt, over how many there were: a picture in Locust's report (`--html FILE`), and beside it (FILE-players.svg).

Pure: samples in, a picture out. With the shape `ramp` it is the curve of what a cluster carries. Called by locustfile.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from perdure.plots import Plot, Series, svg

ROWS = ("command to effect", "snapshot jitter")
"""Rows of the report that are drawn: their p99 of the last seconds."""
MOST_SAMPLES = 100_000
"""A day of seconds; later ones are not kept."""


class Curve:
    """Samples of one run."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[int, list[float]]] = {row: defaultdict(list) for row in ROWS}
        self._count = 0

    def add(self, players: int, p99_ms: dict[str, float]) -> None:
        """Take what was felt while so many players were there."""
        if players > 0 and self._count < MOST_SAMPLES:
            self._count += 1
            for row, value in p99_ms.items():
                self._samples[row][players].append(value)

    def picture(self) -> str:
        """Return it as SVG."""
        series = [Series(row, [(n, median(values)) for n, values in sorted(found.items())]) for row, found in self._samples.items()]
        note = "p99 of the last ten seconds; where a number of players lasted, the median"
        return svg(Plot("What players feel, over their number", note, "players", "ms", [one for one in series if one.points]))


MARK = '<figure id="perdure-players"'


def with_picture(page: str, picture: str) -> str:
    """Return a page with a picture at its end; one that has it already as it is."""
    if MARK in page:
        return page
    at = page.lower().rfind("</body>")
    figure = f'{MARK} style="max-width: 800px; margin: 2em auto; padding: 0 1em">\n{picture}</figure>\n'
    return page + figure if at < 0 else page[:at] + figure + page[at:]
