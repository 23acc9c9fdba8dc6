"""What a bot reports of its commands: of which session each acknowledgement is."""

from __future__ import annotations

from perdure.client.bots import Bot, SessionPlayed
from tests.unit.client.test_protocol import KEYFRAME, Parts, welcome


def take(bot: Bot, data: bytes) -> None:
    bot.client._received(data)


def steer(bot: Bot) -> None:
    bot._sent.append(bot.client.send_command("steer"))


def comes_in(bot: Bot, session: int, ack: int) -> None:
    bot.client.protocol.hello(token="t")
    take(bot, welcome(f"anna.r{session}", session))
    take(bot, Parts().message(flags=KEYFRAME, ack=ack))


def test_acknowledgements_are_told_with_their_session_also_where_numbers_go_back() -> None:
    bot = Bot("ws://x/ws", "s" * 32, "anna", commands_hz=10.0, hold_s=1.0, seed=1)
    comes_in(bot, 1, 0)
    for _ in range(5):
        steer(bot)
    take(bot, Parts().message(tick=2, ack=2))
    comes_in(bot, 2, 3)  # number 3 was applied while nobody looked
    take(bot, Parts().message(tick=9, ack=4))
    comes_in(bot, 3, 0)  # a ledger forgot: what becomes of number 5 is unknown
    for _ in range(5):
        steer(bot)
    take(bot, Parts().message(tick=10, ack=5))
    assert bot.report.acknowledged == [1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert bot.report.sessions == [SessionPlayed(1, 0, 0), SessionPlayed(2, 3, 3), SessionPlayed(3, 0, 4)]
    assert bot._sent == []
