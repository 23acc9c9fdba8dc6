"""Login tokens and resume tokens: how they are made and checked.

A login token is a short-lived JWT (HS256, audience "perdure", subject = player name) signed with the cluster's shared
secret by whoever knows the players: a game's own login service, or `perdure token`. A resume token is random, single
use and rotated at every welcome; the ledger keeps only its SHA-256. Owns no state and asks nobody. Called by the
gateway (check), the client SDK's bots and the CLI (make).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time

import jwt

from perdure.wire.identifiers import name_fault

AUDIENCE = "perdure"
ALGORITHM = "HS256"
MAX_TOKEN_LENGTH = 2048
RESUME_SECRET_BYTES = 32
RESUME_PATTERN = re.compile(r"^([A-Za-z0-9_.\-]{1,32})\.([A-Za-z0-9_\-]{43})$")


class TokenError(Exception):
    """A token does not admit its bearer. The message is one line and holds nothing of the token.

    TokenError
     +- TokenInvalid   signature, audience, form or subject is wrong
     +- TokenExpired   it was good once
    """


class TokenInvalid(TokenError):
    """The signature, the audience, the form or the subject of a token is wrong."""


class TokenExpired(TokenError):
    """The token's `exp` has passed."""


def make_token(secret: str, player: str, ttl_s: float = 300.0, *, now_s: float | None = None) -> str:
    """Return a signed login token for `player`; raises ValueError where the name cannot be a player's."""
    fault = name_fault(player)
    if fault is not None:
        raise ValueError(fault)
    now = time.time() if now_s is None else now_s
    return jwt.encode({"sub": player, "aud": AUDIENCE, "iat": int(now), "exp": int(now + ttl_s)}, secret, algorithm=ALGORITHM)


def check_token(secret: str, token: str) -> str:
    """Return the player's name of a login token; raises TokenInvalid or TokenExpired."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenInvalid(f"a token has at most {MAX_TOKEN_LENGTH} characters")
    try:
        claims = jwt.decode(token, secret, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": ["exp", "sub", "aud"]})
    except jwt.ExpiredSignatureError as error:
        raise TokenExpired("the token has expired; fetch a new one") from error
    except jwt.InvalidTokenError as error:
        raise TokenInvalid(f"the token is not valid: {type(error).__name__}") from error
    name = claims["sub"]
    fault = name_fault(name)
    if fault is not None:
        raise TokenInvalid(f"the token's subject is not a player name: {fault}")
    return name


def make_resume(player: str) -> str:
    """Return a new resume token: the name, a dot, and 43 characters of urlsafe base64 (32 random bytes)."""
    return f"{player}.{secrets.token_urlsafe(RESUME_SECRET_BYTES)}"


def split_resume(resume: str) -> str:
    """Return the player's name of a resume token; raises TokenInvalid where it has not the form of one."""
    match = RESUME_PATTERN.fullmatch(resume)
    if match is None:
        raise TokenInvalid("a resume token is a player name, a dot and 43 characters of urlsafe base64")
    return match.group(1)


def hash_resume(resume: str) -> str:
    """Return the SHA-256 of a resume token, 64 hex digits: all that the ledger ever sees of it."""
    return hashlib.sha256(resume.encode()).hexdigest()
