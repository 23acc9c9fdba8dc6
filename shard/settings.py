"""Settings of a shard process. Sources: see perdure.runtime.settings."""

from __future__ import annotations

from pydantic import Field, field_validator

from perdure.runtime.settings import CommonSettings


class ShardSettings(CommonSettings):
    """What a shard must know."""

    game: str = Field("games/arena", description="the game: a .py file, or a folder with __init__.py")
    zones: str = Field("4x4", description="columns x rows of the world; fixed when the world is first made")
    seed: int = Field(1, ge=0, le=(1 << 62), description="seed of the world's random numbers; fixed when the world is first made")
    listen: str = Field("tcp:127.0.0.1:0", description="where gateways reach this shard: tcp:host:port (port 0: any) or unix:/path")
    health_port: int = Field(-1, ge=-1, le=65_535, description="HTTP port of /healthz /readyz /metrics; 0: any free one, -1: none")
    health_host: str = Field("127.0.0.1", description="address that the health port is bound to")
    threads: int = Field(0, ge=0, le=64, description="threads that step zones; 0: one a core, at most 4")
    checkpoint_s: float = Field(5.0, ge=0.2, le=600, description="time between a zone's checkpoints")
    commit_deadline_ms: int = Field(1000, ge=50, le=60_000, description="when a commit counts as unanswered and is sent again")
    paused_after_ms: int = Field(250, ge=20, le=10_000, description="when clients are told that a zone is paused")

    @field_validator("zones")
    @classmethod
    def _zones(cls, text: str) -> str:
        columns, _, rows = text.partition("x")
        if not (columns.isdigit() and rows.isdigit() and int(columns) and int(rows)):
            raise ValueError(f"zones is columns x rows, such as 4x4, not {text!r}")
        return text

    @property
    def grid(self) -> tuple[int, int]:
        """(columns, rows) of the world."""
        columns, _, rows = self.zones.partition("x")
        return int(columns), int(rows)
