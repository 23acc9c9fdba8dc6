"""Settings that every role shares. Sources, strongest first: command line, environment (PERDURE_...), a TOML file, defaults.

Each role's own settings class (gateway/settings.py and its siblings) extends `CommonSettings`. The file is `perdure.toml`
in the working folder, or what PERDURE_CONFIG names. Insecure secrets are refused outside development.
"""

from __future__ import annotations

import os
import secrets
import socket
import tomllib
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, CliSuppress, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

DEVELOPMENT_SECRET = "perdure-development-secret-not-for-production"
DEVELOPMENT_REDIS_PASSWORD = "perdure-development-password-not-for-production"
MIN_SECRET_LENGTH = 32
OWN_ADDRESS = "auto"
"""As `advertise`: this machine's address on its way to the ledger. An address and not a name: the name of a container that was
killed is gone from the network's name service, which may take long to say so, at the very time when every moment counts."""


class CommonSettings(BaseSettings):
    """What a process of any role must know."""

    model_config = SettingsConfigDict(env_prefix="PERDURE_", extra="ignore", cli_kebab_case=True, cli_implicit_flags=True)

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey: redis://, rediss:// or unix:///path")
    world: str = Field("main", description="name of the world; all its keys stand under {world}")
    name: str = Field("", description="this member's name; empty: the role and random letters")
    development: bool = Field(False, description="allow the built-in secrets, and orders such as kill and pause")
    secret: CliSuppress[str] = Field(
        "", repr=False, description="shared secret of links and tokens, 32 characters or more; by PERDURE_SECRET, never in argv"
    )
    secret_file: str = Field("", description="file that holds the secret, instead of PERDURE_SECRET")
    advertise: str = Field(
        "", description="host that others reach this process at; auto: its address on the way to Redis; empty: what it is bound to"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is said at least")
    log_format: Literal["console", "json"] = Field("console", description="lines for people, or for machines")
    heartbeat_ms: int = Field(200, ge=20, le=10_000, description="time between heartbeats")
    lease_ms: int = Field(1000, ge=100, le=60_000, description="silence after which a member is taken for lost")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = os.environ.get("PERDURE_CONFIG", "")
        path = Path(named or "perdure.toml")
        if named and not path.is_file():
            raise ValueError(f"PERDURE_CONFIG names {named}, which is not there")
        try:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from error

    @model_validator(mode="after")
    def _together(self) -> CommonSettings:
        if self.lease_ms <= 3.5 * self.heartbeat_ms:  # each of which may come a little later, to go along with a commit
            raise ValueError(f"lease_ms ({self.lease_ms}) must be more than three heartbeats and a half ({3.5 * self.heartbeat_ms:g} ms)")
        if self.advertise == OWN_ADDRESS:
            self.advertise = own_address(self.redis_url)
        if self.secret_file:
            self.secret = read_secret_file("PERDURE_SECRET_FILE", self.secret_file)
        if not self.secret and self.development:
            self.secret = DEVELOPMENT_SECRET
        if not self.development and (self.secret == DEVELOPMENT_SECRET or len(self.secret) < MIN_SECRET_LENGTH):
            raise ValueError(
                f"set PERDURE_SECRET (or PERDURE_SECRET_FILE) to {MIN_SECRET_LENGTH} random characters or more, "
                "the same for all members; or say --development"
            )
        if not self.development and DEVELOPMENT_REDIS_PASSWORD in self.redis_url:
            raise ValueError("the password of the ledger is the development one: set another, or say --development")
        return self

    def member_name(self, role: str) -> str:
        """Return the configured name, or one of the role and six random letters."""
        if not self.name:
            self.name = f"{role}-{secrets.token_hex(3)}"
        return self.name


def own_address(redis_url: str) -> str:
    """Return the address of the interface that leads to the ledger; the host name where that cannot be told (nothing is sent)."""
    url = urlsplit(redis_url)
    if url.scheme == "unix" or not url.hostname:
        return socket.gethostname()
    try:
        family, kind, proto, _, target = socket.getaddrinfo(url.hostname, url.port or 6379, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return socket.gethostname()


def has_password(redis_url: str) -> bool:
    """Return whether the URL of a ledger holds a password, wherever it stands in it."""
    try:
        url = urlsplit(redis_url)
        return bool(url.password) or "password" in parse_qs(url.query)
    except ValueError:
        return "@" in redis_url  # it is no URL: what is wrong with it is told later, and it may hold one


def secret_of_environment() -> str:
    """Return the secret that players are signed in with, for who is no member: PERDURE_SECRET, the file that PERDURE_SECRET_FILE names,
    or the built-in one in development; empty where there is none. Raises ValueError where the file cannot be read."""
    secret = os.environ.get("PERDURE_SECRET", "")
    if os.environ.get("PERDURE_SECRET_FILE"):
        secret = read_secret_file("PERDURE_SECRET_FILE", os.environ["PERDURE_SECRET_FILE"])
    if not secret and os.environ.get("PERDURE_DEVELOPMENT", "").lower() in ("1", "true"):
        return DEVELOPMENT_SECRET
    return secret


def read_secret_file(setting: str, path: str) -> str:
    """Return the secret that a file holds; raises ValueError that names the setting where it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ValueError(f"{setting} names {path}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting} names {path}, which holds no text: write the secret there as letters and digits") from error
