"""Chat and names: one order of lines for all readers, only what a living session says, and a place to read on that survives a loss."""

from __future__ import annotations

import pytest
from ledger_lab import Lab, logout
from test_ledger_open import shut

from perdure.ledger.chat import CHAT_KEPT, CHAT_PAGE, ChatLine, SayStatus
from perdure.ledger.ledger import LedgerUnavailable
from perdure.wire.identifiers import player_key

pytestmark = pytest.mark.asyncio

ADA, BOB = player_key("ada"), player_key("bob")


async def test_lines_come_in_order_and_once_to_every_reader(lab: Lab) -> None:
    await lab.zones(0, 1)
    await lab.enter("ada", spawn=0)
    await lab.enter("bob", spawn=1)
    other = await lab.client()
    start = (await lab.ledger.chat("")).last
    assert await lab.ledger.say(ADA, 1, "", "hello zone") is SayStatus.OK
    assert await lab.ledger.say(BOB, 1, "ada", "h\u00e9llo \u4f60\u597d") is SayStatus.OK
    lines = (ChatLine("ada", "", 0, "hello zone"), ChatLine("bob", "ada", 1, "h\u00e9llo \u4f60\u597d"))
    for reader in (lab.ledger, other):
        page = await reader.chat(start)
        assert page.lines == lines
        assert (await reader.chat(page.last)).lines == ()
        assert (await reader.chat(page.last)).last == page.last
    assert (await lab.ledger.chat("")).lines == (), "who comes later sees what is said later"


async def test_only_the_newest_session_of_who_is_in_a_zone_speaks(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", spawn=0)
    assert await lab.unchanged(lab.ledger.say(ADA, 2, "", "x")) is SayStatus.NOT_HERE
    assert await lab.unchanged(lab.ledger.say(BOB, 1, "", "x")) is SayStatus.NOT_HERE
    assert await lab.unchanged(lab.ledger.say(ADA, 1, "bob", "x")) is SayStatus.OFFLINE
    await lab.commit(0)
    await lab.commit(0, logout("ada"))
    assert await lab.unchanged(lab.ledger.say(ADA, 1, "", "x")) is SayStatus.NOT_HERE
    await lab.enter("bob", spawn=0)
    assert await lab.unchanged(lab.ledger.say(BOB, 1, "ada", "x")) is SayStatus.OFFLINE, "the lobby hears nothing"


async def test_a_reader_that_was_away_reads_on_page_by_page_and_misses_only_what_is_kept_no_more(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", spawn=0)
    last = (await lab.ledger.chat("")).last
    said = CHAT_KEPT + 3
    for number in range(said):
        await lab.ledger.say(ADA, 1, "", str(number))
    heard: list[str] = []
    while (page := await lab.ledger.chat(last)).lines:
        assert len(page.lines) <= CHAT_PAGE
        heard += [line.text for line in page.lines]
        last = page.last
    assert heard == [str(number) for number in range(said - CHAT_KEPT, said)]


async def test_a_server_that_went_back_shows_no_line_twice(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", spawn=0)
    await lab.ledger.say(ADA, 1, "", "old")
    later = "99" if lab.store is not None else "99999999999999-5"
    page = await lab.ledger.chat(later)
    assert page.lines == ()
    await lab.ledger.say(ADA, 1, "", "new")
    assert [line.text for line in (await lab.ledger.chat(page.last)).lines] == ["new"]


async def test_names_of_who_is_online(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", spawn=0)
    assert await lab.ledger.names([BOB, ADA]) == {ADA: "ada"}
    assert await lab.ledger.names([]) == {}
    await lab.commit(0)
    await lab.commit(0, logout("ada"))
    assert await lab.ledger.names([ADA]) == {}


async def test_nobody_speaks_before_the_world_is_open(lab: Lab) -> None:
    await lab.zones(0)
    await lab.enter("ada", spawn=0)
    await shut(lab)
    with pytest.raises(LedgerUnavailable):
        await lab.ledger.say(ADA, 1, "", "x")
