"""The command `perdure`: verbs, help with every default, and one clear line for what is wrong."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from perdure.cli import VERBS, main
from perdure.cli.roles import parse_settings
from perdure.wire.tokens import check_token

SECRET = "a secret of at least thirty-two characters"


@pytest.fixture(autouse=True)
def no_cluster_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a verb; return exit code, standard output and standard error."""
    try:
        code = main(list(arguments))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, verb, "--help")
    assert code == 0 and err == ""
    assert out.startswith(f"usage: perdure {verb}")


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "help")
    assert code == 0 and all(f"  {verb} " in out for verb in VERBS)
    assert run(capsys)[0] == 2
    assert run(capsys, "--version")[1].startswith("perdure ")


@pytest.mark.parametrize("role", ["gateway", "shard", "coordinator"])
def test_help_of_a_role_shows_every_setting_with_its_default(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = getattr(importlib.import_module(f"{role}.settings"), f"{role.capitalize()}Settings")
    text = " ".join(run(capsys, role, "--help")[1].split())
    for name in settings.model_fields:
        option = f"--{name.replace('_', '-')}"
        assert option in text or name in ("secret", "admin_token"), f"{option} is missing"
    assert text.count("(default") >= len(settings.model_fields) - 2
    assert "--secret " not in text and "--admin-token " not in text, "secrets are not for the command line"


@pytest.mark.parametrize("role", ["gateway", "shard", "coordinator"])
def test_a_wrong_setting_is_one_line(role: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_LEASE_MS", "soon")
    code, out, err = run(capsys, role, "--development")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"perdure {role}: lease_ms: ")


@pytest.mark.parametrize("role", ["gateway", "shard", "coordinator"])
def test_an_insecure_secret_is_refused_outside_development(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, role)
    assert code == 2 and len(err.splitlines()) == 1 and "PERDURE_SECRET" in err


@pytest.mark.parametrize("option", ["--secret", "--SECRET", "--admin-token", "--admin_token"])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("role", ["gateway", "shard", "coordinator"])
def test_a_secret_on_the_command_line_is_refused(
    role: str, joined: bool, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "admin" in option and role != "coordinator":
        return
    monkeypatch.setenv("PERDURE_REDIS_URL", "unix:///nowhere/ledger.sock")
    code, out, err = run(capsys, role, "--development", *([f"{option}={SECRET}"] if joined else [option, SECRET]))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    name = "PERDURE_ADMIN_TOKEN" if "admin" in option else "PERDURE_SECRET"
    assert f"set {name} or {name}_FILE" in err and SECRET not in err


def test_a_file_that_holds_the_secret_may_be_named_on_the_command_line(tmp_path: Path) -> None:
    from coordinator.settings import CoordinatorSettings

    (tmp_path / "secret").write_text(SECRET)
    both = ["--secret-file", str(tmp_path / "secret"), f"--admin-token-file={tmp_path / 'secret'}"]
    settings = parse_settings(CoordinatorSettings, "coordinator", both)
    assert (settings.secret, settings.admin_token) == (SECRET, SECRET)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.settings import GatewaySettings

    monkeypatch.setenv("PERDURE_PORT", "7000")
    monkeypatch.setenv("PERDURE_DEVELOPMENT", "1")
    assert parse_settings(GatewaySettings, "gateway", []).port == 7000
    assert parse_settings(GatewaySettings, "gateway", ["--port", "7001"]).port == 7001


def test_an_unknown_verb_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "fly")
    assert code == 2 and len(err.splitlines()) == 1 and "fly" in err


@pytest.mark.parametrize("arguments", [("status",), ("kill", "shard-1"), ("migrate", "3", "shard-1"), ("log", "0"), ("token", "ann")])
def test_without_a_cluster_the_line_says_how_to_get_one(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2 and len(err.splitlines()) == 1 and "perdure up" in err


def test_a_ledger_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "status", "--redis-url", "unix:///nowhere/ledger.sock")
    assert code == 2 and len(err.splitlines()) == 1 and "/nowhere/ledger.sock" in err


def test_token_is_one_that_gateways_take(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_REDIS_URL", "unix:///unused.sock")
    monkeypatch.setenv("PERDURE_SECRET", SECRET)
    code, out, _ = run(capsys, "token", "ann")
    assert code == 0 and check_token(SECRET, out.strip()) == "ann"
    assert run(capsys, "token", "no spaces allowed")[0] == 2


@pytest.mark.parametrize("ttl", ["nan", "inf", "-inf", "0", "-5", "1e300"])
def test_a_token_lives_for_some_seconds(ttl: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_REDIS_URL", "unix:///unused.sock")
    monkeypatch.setenv("PERDURE_SECRET", SECRET)
    code, out, err = run(capsys, "token", "ann", f"--ttl-s={ttl}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("perdure token: --ttl-s") and "seconds" in err


@pytest.mark.parametrize("setting", ["secret_file", "admin_token_file"])
def test_a_secrets_file_that_cannot_be_read_is_one_line_that_names_the_setting(
    setting: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(128, 192)))
    variable = f"PERDURE_{setting.upper()}"
    for path in ("/nowhere/token", str(tmp_path), str(tmp_path / "binary")):
        monkeypatch.setenv(variable, path)
        code, out, err = run(capsys, "coordinator", "--development")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith(f"perdure coordinator: {variable} names {path}, ")


def test_up_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--zones", "4by4"], ["--shards", "0"], ["--bots", "-1"]):
        code, _, err = run(capsys, "up", *wrong)
        assert code == 2 and len(err.splitlines()) == 1
    for port, gateways, most in (("70000", "1", "65535"), ("-1", "1", "65535"), ("65535", "2", "65534")):
        code, _, err = run(capsys, "up", "--port", port, "--gateways", gateways)
        assert code == 2 and len(err.splitlines()) == 1 and f"--port {port}: " in err and f"up to {most}" in err


def test_healthcheck_says_no_where_nobody_answers(capsys: pytest.CaptureFixture[str], free_port: int) -> None:
    assert run(capsys, "healthcheck", f"http://127.0.0.1:{free_port}")[0] == 1
    assert run(capsys, "healthcheck", "file:///etc/hostname")[0] == 2


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("verb", ["gateway", "shard", "coordinator", "status"])
@pytest.mark.parametrize(
    "given",
    [
        ["--redis-url", "redis://shard:a-password@127.0.0.1/0"],
        ["--redis-url=redis://:a-password@127.0.0.1/0"],
        ["--redis-url=unix:///nowhere.sock?password=a-password"],
    ],
)
def test_a_password_of_the_ledger_is_not_taken_from_the_command_line(
    verb: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([verb, *given])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err
    assert code == 2
    assert said == (
        f"perdure {verb}: --redis-url with a password is not taken from the command line, which others can read: set PERDURE_REDIS_URL\n"
    )
