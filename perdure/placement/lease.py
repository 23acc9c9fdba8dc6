"""Liveness by an observer's own monotonic time: a subject lives while the observer sees its beat rise.

Owns `LeaseWatch`. Pure: the caller passes the time; wall clocks and the subjects' clocks play no part. Called by the
coordinator (members); a gateway or a shard may keep one of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Subject = TypeVar("Subject", bound=Hashable)


class LeaseWatch(Generic[Subject]):
    """Timers of many subjects. All times are monotonic milliseconds of one observer.

    An interval in which the beats could not be read says nothing about the subjects: after it (`interrupted`, or two
    observations further apart than `blind_ms`, as when the observer itself was paused) every timer restarts, with
    `grace_ms` on top, since the subjects too have to find their way back.
    """

    def __init__(self, lease_ms: float, blind_ms: float | None = None, grace_ms: float = 0.0) -> None:
        self.lease_ms = lease_ms
        self._blind_ms = lease_ms / 2 if blind_ms is None else blind_ms
        self._grace_ms = grace_ms
        self._beats: dict[Subject, int] = {}
        self._seen_ms: dict[Subject, float] = {}
        self._observed_ms: float | None = None
        self._was_interrupted = False

    def interrupted(self) -> None:
        """Say that the beats could not be read. The timers restart at the next observation."""
        self._was_interrupted = True

    def observe(self, now_ms: float, beats: Mapping[Subject, int]) -> None:
        """Take a reading. Subjects that are not in it are forgotten; a new one is alive as of now."""
        blind = self._observed_ms is not None and now_ms - self._observed_ms > self._blind_ms
        restart = self._was_interrupted or blind
        for subject, beat in beats.items():
            if restart:
                self._seen_ms[subject] = now_ms + self._grace_ms
            elif self._beats.get(subject) != beat:
                # A beat that fell is a change too: the ledger went back in time, the subject is alive all the same.
                self._seen_ms[subject] = max(now_ms, self._seen_ms.get(subject, now_ms))
        for subject in self._seen_ms.keys() - beats.keys():
            del self._seen_ms[subject]
        self._beats = dict(beats)
        self._observed_ms = now_ms
        self._was_interrupted = False

    def touch(self, now_ms: float, subject: Subject) -> None:
        """Note another sign of life (its commits go on). Unknown subjects are ignored."""
        if subject in self._seen_ms:
            self._seen_ms[subject] = max(now_ms, self._seen_ms[subject])

    def silence_ms(self, now_ms: float, subject: Subject) -> float:
        """Return for how long nothing was seen of a subject; 0 for an unknown one."""
        return max(0.0, now_ms - self._seen_ms.get(subject, now_ms))

    def expired(self, now_ms: float) -> list[Subject]:
        """Return the subjects whose lease is over, in the order in which they were first seen. None while the observer is blind."""
        if self._was_interrupted or self._observed_ms is None or now_ms - self._observed_ms > self._blind_ms:
            return []
        return [subject for subject, seen_ms in self._seen_ms.items() if now_ms - seen_ms >= self.lease_ms]
