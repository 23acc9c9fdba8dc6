"""What the benches on real processes count, and when they have passed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks._audit import Audit
from benchmarks._log_watch import LogWatch
from benchmarks._playing import ZEROES, Playing, nothing_lost, socket_ends
from perdure.client.bots import BotReport, BotsReport, SessionPlayed
from perdure.client.connection import SocketEnd
from perdure.wire.entries import EntryKind
from perdure.wire.identifiers import player_key
from shard.audit import AuditReport
from tests.unit.benchmarks.test_log_watch import OneZone, entry, watched

ANN = player_key("ann")


def _watch(*ticks: tuple[list[tuple[int, int, int]], tuple[bytes, ...]]) -> LogWatch:
    """A watcher that has read one zone's log: of each tick its commands (player, session, number), and the page that it took."""
    ledger = OneZone(0)
    for tick, (commands, page) in enumerate(ticks, 1):
        ledger.append(tick, 1, commands, page)
    return watched(ledger)


def _run(watch: LogWatch | None = None, bot: BotReport | None = None, **more: Any) -> Playing:
    values: dict[str, Any] = {"audit": Audit(), "world": AuditReport(), **more}
    watch = watch or _watch(([], (entry(EntryKind.JOIN, ANN, 1),)), ([(ANN, 1, 1), (ANN, 1, 2)], ()))
    bots = BotsReport([bot or BotReport("ann", entered=True, acknowledged=[1, 2], sessions=[SessionPlayed(1, 0, 0)])])
    return Playing(cluster=None, watch=watch, report=bots, **values)  # type: ignore[arg-type]


def _counts(watch: LogWatch, *sessions: tuple[int, int, list[int]]) -> tuple[int, int, int]:
    """Return commands lost, commands doubled, and how often it came in anew; a session: its number, first and later acknowledgements."""
    bot = BotReport("ann", entered=True)
    for session, first_ack, told in sessions:
        bot.sessions.append(SessionPlayed(session, first_ack, len(bot.acknowledged)))
        bot.acknowledged.extend(told)
    counts = _run(watch, bot).commands()
    return counts["commands_lost"], counts["commands_duplicated"], counts["entered_anew"]


FIRST = ([], (entry(EntryKind.JOIN, ANN, 1),))
PLAYED = ([(ANN, 1, 1), (ANN, 1, 2), (ANN, 1, 3)], ())


def test_numbers_that_go_on_after_a_logout_are_neither_lost_nor_doubled() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.JOIN, ANN, 2),)), ([(ANN, 2, 4), (ANN, 2, 5)], ()))
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 3, [4, 5])) == (0, 0, 1)


def test_a_number_that_was_applied_before_a_logout_and_after_it_is_doubled() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.JOIN, ANN, 2),)), ([(ANN, 2, 3)], ()))
    assert _counts(watch, (1, 0, [1, 2]), (2, 2, [3])) == (0, 1, 1)


def test_numbers_that_begin_anew_after_a_logout_are_lost_and_not_doubled() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.JOIN, ANN, 2),)), ([(ANN, 2, 1), (ANN, 2, 2)], ()))
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 0, [1, 2])) == (1, 0, 1)


def test_that_a_player_was_put_out_fails_the_run_all_the_same() -> None:
    assert not nothing_lost({**_run().verdict(), "entered_anew": 1})


def test_a_login_by_token_within_a_stay_goes_on_with_the_numbers() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.ATTACH, ANN, 2),)), ([(ANN, 2, 4)], ()))
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 3, [4])) == (0, 0, 0)


def test_a_number_that_two_sessions_of_a_stay_had_applied_is_doubled() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.ATTACH, ANN, 2),)), ([(ANN, 2, 3)], ()))
    assert _counts(watch, (1, 0, [1, 2]), (2, 2, [3])) == (0, 1, 0)


def test_who_is_behind_without_having_been_logged_out_has_lost_commands() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.ATTACH, ANN, 2),)))
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 0, [])) == (1, 0, 0)
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 2, [])) == (1, 0, 0)


def test_who_comes_from_the_lobby_with_some_of_its_numbers_has_lost_the_others() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.JOIN, ANN, 2),)))
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 2, [])) == (1, 0, 1)


def test_a_command_of_the_second_stay_that_only_the_first_had_applied_is_lost() -> None:
    watch = _watch(FIRST, PLAYED, ([], (entry(EntryKind.JOIN, ANN, 2),)), ([(ANN, 2, 1)], ()))
    assert _counts(watch, (1, 0, [1, 2, 3]), (2, 0, [1, 2])) == (2, 0, 1), "the last one of the first stay, and the second one's last"


def test_a_refused_resume_fails_the_run_and_why_sockets_ended_is_told() -> None:
    bot = BotReport("ann", entered=True, sessions=[SessionPlayed(1, 0, 0)])
    bot.socket_drops = [SocketEnd(1.0, None, "the socket broke"), SocketEnd(2.0, 4004, "bad resume token")]
    run = _run(bot=bot)
    assert run.verdict()["resumes_refused"] == 1
    assert not nothing_lost({**run.verdict(), "sockets_dropped": 0})
    assert run.report is not None
    assert socket_ends(run.report) == ["1 x no code: the socket broke", "1 x 4004: bad resume token"]


def test_a_run_in_which_all_is_there_has_passed() -> None:
    figures = _run().verdict()
    assert nothing_lost(figures)
    assert figures["commands_acknowledged"] == 2


def test_what_the_auditor_finds_is_a_figure_that_must_be_0() -> None:
    run = _run(world=AuditReport(faults=["zone 3 tick 5: the log's chain is broken here", "player ann is in 2 places"]))
    assert run.verdict()["audit_faults"] == 2
    assert not nothing_lost(run.verdict())
    assert "player ann is in 2 places" in run.faults()


@pytest.mark.parametrize("name", ZEROES)
def test_each_count_that_is_not_0_fails_the_run(name: str) -> None:
    assert not nothing_lost({**_run().verdict(), name: 1})
