"""What a crowd sees in a world that is as it should be, and a world in which it sees what a test wants."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks._swarm import Measured

CORES = {"gateway": 0.3, "shard": 0.06, "coordinator": 0.02, "valkey": 0.02}


def measured(players: int = 1000, seconds: float = 5.0, **changes: Any) -> Measured:
    """Return what so many players see in a world that is as it should be, but for these."""
    snapshots, commands = round(20 * seconds * players), round(10 * seconds * players)
    honest = Measured(
        seconds=seconds, snapshots=snapshots, fewest=round(20 * seconds) - 1, bytes=400 * snapshots, commands=commands,
        commands_left_out=0, acknowledged=commands, interval_ms_p50=50.0, interval_ms_p99=55.0, interval_ms_p999=60.0,
        interval_ms_max=70.0, decoded=snapshots // 20, entities_seen=40.0, faults=0, playing=players, cpu_s=1.0,
    )  # fmt: skip
    return replace(honest, **changes)


class World:
    """A crowded world that is measured: each window is the next of these, the last one again and again."""

    def __init__(self, windows: tuple[Measured, ...]) -> None:
        self._windows = itertools.chain(windows, itertools.repeat(windows[-1]))
        self.audit_findings, self.parts_ms = 0, {"step": 1.0}
        self.cluster: Any = SimpleNamespace(redis_url="redis://nowhere")
        self.swarm: Any = self

    async def measure(self, _: float) -> tuple[Measured, dict[str, float]]:
        return next(self._windows), dict(CORES)

    async def steer(self, _: float, *, evenly: bool = False) -> None:
        """Whether they do is what the windows say."""


def crowd_sees(monkeypatch: pytest.MonkeyPatch, module: Any, *windows: Measured) -> None:
    """Let a bench's crowds see this."""

    @asynccontextmanager
    async def crowded(*_: Any, **__: Any) -> AsyncIterator[World]:
        yield World(windows)

    monkeypatch.setattr(module, "crowded", crowded)
