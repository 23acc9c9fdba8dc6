"""Logs: one line an event on standard error, readable or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from perdure.runtime.telemetry import configure_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_json_lines_carry_level_time_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = structlog.get_logger("anything")
    log.debug("not said")
    log.info("zone_runs", zone=5)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    line = json.loads(err)
    assert (line["event"], line["zone"], line["level"]) == ("zone_runs", 5, "info")
    assert line["timestamp"].endswith("Z")


def test_json_lines_carry_an_exception_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("the reason")
    except ValueError:
        structlog.get_logger("anything").exception("failed")
    assert "the reason" in json.loads(capsys.readouterr().err)["exception"]


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "console")
    log = structlog.get_logger("anything")
    log.info("not said")
    try:
        raise ValueError("the reason")
    except ValueError:
        log.warning("zone_runs", zone=5, exc_info=True)
    err = capsys.readouterr().err
    assert "zone_runs" in err.splitlines()[0] and "zone=5" in err.splitlines()[0]
    assert "ValueError: the reason" in err
