"""What players felt is drawn over how many there were."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from loadtest.curve import ROWS, Curve, with_picture


def test_each_number_of_players_is_one_point_of_each_row() -> None:
    curve = Curve()
    curve.add(0, {ROWS[0]: 1.0})  # before anybody came
    for players, effect in ((10, 50.0), (10, 70.0), (20, 90.0)):
        curve.add(players, {ROWS[0]: effect, ROWS[1]: 5.0})
    curve.add(30, {ROWS[0]: 120.0})
    picture = ET.fromstring(curve.picture())
    lines = [line.attrib["points"].split() for line in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [3, 2]


def test_a_run_without_samples_is_an_empty_picture() -> None:
    assert ET.fromstring(Curve().picture()).tag.endswith("svg")


def test_a_report_gets_the_picture_at_its_end_and_once() -> None:
    page = "<html><script>const x = '</body>'</script><body><p>rows</p></BODY></html>"
    drawn = with_picture(page, "<svg/>")
    assert drawn.startswith("<html><script>const x = '</body>'</script><body><p>rows</p><figure id=")
    assert drawn.endswith("<svg/></figure>\n</BODY></html>")
    assert with_picture(drawn, "<svg/>") == drawn
    assert "<svg/>" in with_picture("not the page that it was", "<svg/>")
