"""Tokens: what is admitted, and that each failure has its own type."""

from __future__ import annotations

import time

import jwt
import pytest

from perdure.wire.tokens import (
    TokenExpired,
    TokenInvalid,
    check_token,
    hash_resume,
    make_resume,
    make_token,
    split_resume,
)

SECRET = "s" * 40


def test_a_made_token_names_its_player() -> None:
    assert check_token(SECRET, make_token(SECRET, "anna")) == "anna"


def test_a_token_that_is_too_old_is_told_apart_from_a_wrong_one() -> None:
    with pytest.raises(TokenExpired):
        check_token(SECRET, make_token(SECRET, "anna", 10, now_s=time.time() - 60))
    with pytest.raises(TokenInvalid):
        check_token("x" * 40, make_token(SECRET, "anna"))


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "anna", "aud": "perdure"},  # no exp
        {"sub": "anna", "exp": 1 << 40},  # no audience
        {"sub": "anna", "aud": "other", "exp": 1 << 40},
        {"aud": "perdure", "exp": 1 << 40},  # no subject
        {"sub": "an na", "aud": "perdure", "exp": 1 << 40},
        {"sub": "a" * 33, "aud": "perdure", "exp": 1 << 40},
        {"sub": 7, "aud": "perdure", "exp": 1 << 40},
    ],
)
def test_a_token_without_the_right_claims_is_invalid(claims: dict[str, object]) -> None:
    with pytest.raises(TokenInvalid):
        check_token(SECRET, jwt.encode(claims, SECRET, algorithm="HS256"))


@pytest.mark.parametrize(
    "token", ["", "a.b.c", "x" * 3000, jwt.encode({"sub": "anna", "aud": "perdure", "exp": 1 << 40}, None, algorithm="none")]
)
def test_garbage_and_unsigned_tokens_are_invalid(token: str) -> None:
    with pytest.raises(TokenInvalid):
        check_token(SECRET, token)


def test_no_token_is_made_for_a_name_that_is_none() -> None:
    with pytest.raises(ValueError, match="player name"):
        make_token(SECRET, "an na")


def test_a_resume_token_names_its_player_and_is_random() -> None:
    resume = make_resume("a.b-c_d")
    assert split_resume(resume) == "a.b-c_d"
    assert resume != make_resume("a.b-c_d")
    assert len(resume.rpartition(".")[2]) == 43
    assert len(hash_resume(resume)) == 64


@pytest.mark.parametrize(
    "resume", ["", "anna", "anna.short", "an na." + "a" * 43, "anna." + "a" * 44, "anna." + "ä" * 43, "anna." + "a" * 43 + "\n"]
)
def test_what_has_not_the_form_of_a_resume_token_is_refused(resume: str) -> None:
    with pytest.raises(TokenInvalid):
        split_resume(resume)
