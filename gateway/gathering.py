"""How often a busy gateway looks for what has come: interrupt moderation, as network cards and their drivers have it.

An event loop that waits is woken up by the first message that comes, finds that one, and waits again: a switch of threads, and cold caches,
for each. Where thousands come in a second, each of which waits for its zone's next tick anyway, they may as well gather for a millisecond.
Who sends to a socket that nobody waits for saves the waking up, too.

Owns whether messages gather at this moment. Never touches a socket. Called by websocket_server: by its sweep, and for each plain message
while they gather; and by shard_links.
"""

from __future__ import annotations

import asyncio
import time

from gateway.metrics import GatewayCounters

BUSY_HZ, CALM_HZ = 4000.0, 2000.0
"""Messages gather from so many a second on, until there are fewer than so many."""
EVERY_S, EVERY_PART = 0.001, 0.03
"""So far apart are two looks at what has come, or so much of a tick's interval, if that is less. A shard's word on when it reads is heard
so much later, and what is to be there by then written so much later: together less than gateways write ahead (shard_links.LEAD_S)."""
SHORTEST_S = 0.0001
"""To sleep for less costs more than it saves."""
WEIGH_S = 0.05
"""In less time there is nothing to weigh."""


class Gathering:
    """`counters` tell how many messages have come."""

    def __init__(self, counters: GatewayCounters) -> None:
        self._counters = counters
        self.gathers = False
        """Is `came` to be told of messages?"""
        self._came, self._weighed_s = counters.frames_in, time.monotonic()
        self._every_s = EVERY_S
        self._rested_s = 0.0
        self._rests_next = self._hurries = False

    def ticks_at(self, tick_hz: int) -> None:
        """The world has ticks so often."""
        self._every_s = min(EVERY_S, EVERY_PART / tick_hz)

    def weigh(self) -> None:
        """Now and then: see how many messages come, and let them gather or not."""
        now_s, came = time.monotonic(), self._counters.frames_in
        passed_s = now_s - self._weighed_s
        if passed_s < WEIGH_S:
            return
        hz = (came - self._came) / passed_s
        self._came, self._weighed_s = came, now_s
        self.gathers = hz >= (CALM_HZ if self.gathers else BUSY_HZ)

    def came(self) -> None:
        """A message is here: before the event loop looks for others, they may gather."""
        if not self._rests_next:
            self._rests_next = True
            asyncio.get_running_loop().call_soon(self._rest)

    def hurry(self) -> None:
        """Something else is on its way that is waited for: the loop does not stand still before it looks for it."""
        self._hurries = True

    def _rest(self) -> None:
        """Let the event loop stand still until it has looked for messages so long ago that some have gathered."""
        hurries, self._hurries, self._rests_next = self._hurries, False, False
        left_s = self._rested_s + self._every_s - time.monotonic()
        if self.gathers and not hurries and left_s >= SHORTEST_S:
            self._counters.rests += 1
            time.sleep(left_s)
        self._rested_s = time.monotonic()

    def close(self) -> None:
        """The gateway stops: what comes now is looked at as it comes."""
        self.gathers = False
