"""Settings of a coordinator. Owns the names, defaults, ranges and descriptions; `perdure coordinator --help` prints them."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_settings import CliSuppress

from coordinator.cluster_state import ClusterSettings
from coordinator.failover import LivenessSettings
from coordinator.migration import MigrationSettings
from perdure.runtime.settings import MIN_SECRET_LENGTH, CommonSettings, read_secret_file

DEVELOPMENT_ADMIN_TOKEN = "perdure-development-admin-token-not-for-production"
AWAITED_LEASES = 5
"""So many leases are waited for who alone knows the last ticks of a zone, at an opening and when it is silent."""


class CoordinatorSettings(CommonSettings):
    """What a coordinator must know beside the common settings."""

    admin_host: str = Field("127.0.0.1", description="address that the admin API listens on; 0.0.0.0 for all")
    admin_port: int = Field(0, ge=0, le=65535, description="port of the admin API; 0 for any free one")
    admin_token: CliSuppress[str] = Field(
        "", repr=False, description="bearer token of the admin API, 32 characters or more; by PERDURE_ADMIN_TOKEN, never in argv"
    )
    admin_token_file: str = Field("", description="file that holds the admin token, instead of PERDURE_ADMIN_TOKEN")
    max_streams: int = Field(16, ge=0, le=1024, description="presence streams served at once; more are refused")
    max_live_streams: int = Field(16, ge=0, le=1024, description="dashboards served at once; more are refused")
    read_without_token: bool | None = Field(
        None, description="the admin API tells without a token what changes nothing; default: in development mode only"
    )
    launcher: str = Field("", description="Unix socket of whoever starts shards on this machine (`perdure up`); empty: nobody can be asked")
    poll_ms: int = Field(100, ge=10, le=10_000, description="time between readings of the cluster view without any hint")
    leader_lease_ms: int = Field(1000, ge=100, le=60_000, description="silence of the leader after which a standby takes over")
    settle_ms: int = Field(300, ge=0, le=60_000, description="at a start, wait so long after the first shard is ready")
    expected_shards: int = Field(0, ge=0, le=4096, description="at the very first start, wait for so many shards instead; 0: do not")
    expected_wait_ms: int = Field(15_000, ge=0, le=600_000, description="longest wait for the expected shards")
    ledger_is_new: bool = Field(
        False, description="the ledger was made for this start: open the world at once, no shard can have anything to put back"
    )
    idle_zone_ms: int = Field(5000, ge=500, le=600_000, description="time after which a zone that its owner does not run is given anew")
    gateway_lease_ms: int = Field(3000, ge=100, le=600_000, description="silence after which a gateway's players are detached")
    outage_grace_ms: int = Field(1000, ge=0, le=60_000, description="time that members get beyond their lease after the ledger was away")
    max_migrations: int = Field(8, ge=1, le=1024, description="zones that move at a time")
    max_migrations_per_pair: int = Field(2, ge=1, le=1024, description="zones that move at a time from one shard to another")
    migration_timeout_ms: int = Field(10_000, ge=100, le=600_000, description="time that a successor has to be ready for a zone")
    migration_rest_ms: int = Field(30_000, ge=0, le=3_600_000, description="time in which a zone that moved is not moved for balance again")
    rebalance: bool = Field(True, description="move zones to shards that join or have room; off: only drains and orders move zones")

    @model_validator(mode="after")
    def _coordinator_together(self) -> CoordinatorSettings:
        if self.admin_token_file:
            self.admin_token = read_secret_file("PERDURE_ADMIN_TOKEN_FILE", self.admin_token_file)
        if not self.admin_token and self.development:
            self.admin_token = DEVELOPMENT_ADMIN_TOKEN
        if not self.development and (self.admin_token == DEVELOPMENT_ADMIN_TOKEN or len(self.admin_token) < MIN_SECRET_LENGTH):
            raise ValueError(
                f"set PERDURE_ADMIN_TOKEN (or PERDURE_ADMIN_TOKEN_FILE) to {MIN_SECRET_LENGTH} random characters "
                "or more; or say --development"
            )
        if self.leader_lease_ms < 3 * self.poll_ms:
            raise ValueError(f"leader_lease_ms ({self.leader_lease_ms}) must be at least three polls ({3 * self.poll_ms} ms)")
        if self.lease_ms < 2 * self.poll_ms:
            raise ValueError(f"lease_ms ({self.lease_ms}) must be at least two polls ({2 * self.poll_ms} ms), or no silence is noticed")
        if self.gateway_lease_ms < self.lease_ms:
            raise ValueError(f"gateway_lease_ms ({self.gateway_lease_ms}) must not be below lease_ms ({self.lease_ms})")
        return self

    @property
    def anyone_may_read(self) -> bool:
        """Does looking need no token?"""
        return self.development if self.read_without_token is None else self.read_without_token

    def cluster(self) -> ClusterSettings:
        """Return the part that the cluster state steers by."""
        return ClusterSettings(
            settle_ms=self.settle_ms,
            expected_shards=self.expected_shards,
            expected_wait_ms=self.expected_wait_ms,
            reseed_wait_ms=self.lease_ms,
            reseed_most_ms=AWAITED_LEASES * self.lease_ms,
            ledger_is_new=self.ledger_is_new,
            idle_zone_ms=self.idle_zone_ms,
            liveness=LivenessSettings(
                self.lease_ms, self.gateway_lease_ms, self.outage_grace_ms, awaited_lease_ms=AWAITED_LEASES * self.lease_ms
            ),
            migration=MigrationSettings(
                most=self.max_migrations,
                most_per_pair=self.max_migrations_per_pair,
                timeout_ms=self.migration_timeout_ms,
                rest_ms=self.migration_rest_ms,
                rebalance=self.rebalance,
            ),
        )
