"""Plots are well-formed pictures in which every value is where it belongs."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from perdure.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot, Series, step_of, svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(plot: Plot) -> ET.Element:
    return ET.fromstring(svg(plot))


def test_a_line_has_its_points_within_the_frame_and_the_limit_at_its_height() -> None:
    plot = Plot("a <title>", "note", "x", "y", [Series("one & two", [(0, 0), (10, 50), (20, 100)])], limit=(50.0, "half"))
    picture = drawn(plot)
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in picture.iter(f"{SVG}circle")]
    assert circles[0] == (LEFT, HEIGHT - BOTTOM)
    assert circles[-1][0] == WIDTH - RIGHT and circles[-1][1] >= TOP
    dashed = next(line for line in picture.iter(f"{SVG}line") if "stroke-dasharray" in line.attrib)
    assert float(dashed.attrib["y1"]) == pytest.approx(circles[1][1], abs=0.1)
    assert "a <title>" in [text.text for text in picture.iter(f"{SVG}text")]


def test_bars_stand_on_the_axis_and_stacks_on_each_other() -> None:
    bars = drawn(
        Plot("t", "", "x", "y", [Series("n", [(50, 4), (60, 2)])], kind="bars", bar_width=10, limit=(100, "bar"), limit_across=True)
    )
    tall, small = [float(r.attrib["height"]) for r in bars.iter(f"{SVG}rect")][1:3]
    assert tall == pytest.approx(2 * small, abs=0.2)
    parts = [Series("a", [(0, 1.0)]), Series("b", [(0, 3.0)])]
    stack = drawn(Plot("t", "", "", "ms", parts, kind="stack", labels=["tick"]))
    low, high = [r for r in stack.iter(f"{SVG}rect") if float(r.attrib["width"]) == 90.0]
    assert float(high.attrib["y"]) + float(high.attrib["height"]) == pytest.approx(float(low.attrib["y"]), abs=0.2)


@pytest.mark.parametrize(("most", "step"), [(0, 1), (4, 1), (100, 20), (75, 20), (0.9, 0.2), (3500, 1000), (12, 2.5)])
def test_steps_are_round(most: float, step: float) -> None:
    assert step_of(most) == pytest.approx(step)


@pytest.mark.parametrize("kind", ["line", "bars"])
def test_nothing_to_draw_is_an_empty_picture(kind: str) -> None:
    assert drawn(Plot("t", "", "x", "y", [Series("n", [])], kind=kind)).tag == f"{SVG}svg"
