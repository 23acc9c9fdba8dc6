"""Settings of a gateway. Owns the names, defaults, ranges and descriptions; `perdure gateway --help` prints them."""

from __future__ import annotations

from pydantic import Field, model_validator

from perdure.runtime.settings import CommonSettings


class GatewaySettings(CommonSettings):
    """What a gateway must know beside the common settings."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(7700, ge=0, le=65535, description="port to listen on; 0 for any free one")
    public_url: str = Field("", description="websocket URL of this gateway as status shows it; empty: made of advertise (or host) and port")
    health_port: int = Field(-1, ge=-1, le=65_535, description="HTTP port of /healthz /readyz /metrics; 0: any free one, -1: none")
    health_host: str = Field("127.0.0.1", description="address that the health port is bound to")
    origins: list[str] = Field(
        default_factory=list,
        description="exact Origin headers that browsers may come from; * for any; empty: the same host (any in development)",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list, description="addresses of proxies whose X-Forwarded-For is believed for the caps by address"
    )
    web_pages: bool = Field(True, description="serve the browser game and what else web/ holds, at /")
    token_endpoint: bool = Field(
        False,
        description="development only: GET /dev/token?name=NAME gives whoever asks a login token, so that no login service is needed",
    )
    hello_timeout_ms: int = Field(3000, ge=100, le=60_000, description="time from connecting to hello")
    idle_timeout_ms: int = Field(60_000, ge=1000, le=3_600_000, description="silence after which a client is put out")
    ping_interval_ms: int = Field(20_000, ge=500, le=600_000, description="silence after which a websocket ping is sent")
    message_timeout_ms: int = Field(10_000, ge=500, le=600_000, description="time within which a begun message must be complete")
    close_timeout_ms: int = Field(2000, ge=100, le=60_000, description="time that a closing handshake may take")
    leave_timeout_ms: int = Field(15_000, ge=500, le=600_000, description="time that a logout may take")
    max_sessions: int = Field(5000, ge=1, le=200_000, description="sessions at once; further ones wait")
    max_queued: int = Field(1000, ge=0, le=100_000, description="logins that wait for room; a further one is closed with 4013")
    max_players: int = Field(0, ge=0, le=1_000_000, description="players of the whole world past which new logins wait; 0: no bound")
    max_unauthenticated: int = Field(1024, ge=1, le=200_000, description="sockets without a session, in all")
    max_unauthenticated_per_address: int = Field(256, ge=1, le=200_000, description="sockets without a session, by address")
    commands_per_second: float = Field(0.0, ge=0, le=10_000, description="commands a second and session; 0: twice the tick rate")
    others_per_second: float = Field(20.0, gt=0, le=10_000, description="pings, fragments and other messages a second and session")
    chat_per_second: float = Field(1.0, gt=0, le=100, description="lines of chat a second and session; a burst of 5 is allowed")
    zone_chat_per_second: float = Field(10.0, gt=0, le=1000, description="lines a second to one zone from this gateway's players")
    max_pending_commands: int = Field(64, ge=1, le=1024, description="commands kept for a session until they are acknowledged")
    poison_deaths: int = Field(3, ge=1, le=100, description="shard deaths with a session's commands in flight before it is put out")
    slow_reader_bytes: int = Field(64 * 1024, ge=4096, le=16 << 20, description="unsent bytes at which snapshots are dropped")
    slow_reader_resume_bytes: int = Field(8 * 1024, ge=0, le=16 << 20, description="unsent bytes at which a full snapshot is asked for")
    slow_reader_timeout_ms: int = Field(10_000, ge=100, le=600_000, description="time over the limit before a slow reader is closed")
    send_buffer_bytes: int = Field(128 * 1024, ge=0, le=16 << 20, description="kernel send buffer of a socket (SO_SNDBUF); 0: its default")
    compiled_sockets: bool = Field(True, description="send snapshots by compiled code: less processor time a player")
    link_buffer_bytes: int = Field(4 << 20, ge=65536, le=1 << 30, description="unsent bytes to a shard at which its link is dropped")
    admission_timeout_ms: int = Field(3000, ge=100, le=60_000, description="time to reach the ledger at a login before giving up")
    max_admissions: int = Field(64, ge=1, le=1024, description="logins that ask the ledger at the same time")
    view_poll_ms: int = Field(1000, ge=50, le=60_000, description="time between readings of the cluster view without any hint")
    shutdown_timeout_ms: int = Field(5000, ge=100, le=600_000, description="time to close all sessions at SIGTERM")

    @model_validator(mode="after")
    def _gateway_together(self) -> GatewaySettings:
        if self.token_endpoint and not self.development:
            raise ValueError(
                "token_endpoint gives everybody a login: it is for --development only; without it your login service makes the tokens"
            )
        if self.slow_reader_resume_bytes >= self.slow_reader_bytes:
            raise ValueError("slow_reader_resume_bytes must be below slow_reader_bytes")
        if self.idle_timeout_ms < 2 * self.ping_interval_ms:
            raise ValueError("idle_timeout_ms must be at least twice ping_interval_ms, or quiet clients are put out")
        return self
