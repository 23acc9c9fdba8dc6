"""The state file of `perdure up`: found again by other verbs, and not trusted where another user could have put it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from perdure.cli import main
from perdure.cli.cluster_access import ClusterAddress, make_state_folder, read_state, remove_state, state_fault, state_file, write_state

ADDRESS = ClusterAddress("unix:///ledger.sock", "main", "a secret", gateway_url="ws://127.0.0.1:1/ws")


@pytest.fixture(autouse=True)
def among_everybodys_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No XDG_RUNTIME_DIR: the folder stands among the temporary files."""
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"perdure-{os.getuid()}"


def test_what_is_written_is_read_and_removed_and_is_for_its_owner_alone(among_everybodys_files: Path) -> None:
    assert read_state() is None
    write_state(ADDRESS)
    assert read_state() == ADDRESS
    assert state_file().parent == among_everybodys_files
    assert stat.S_IMODE(state_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(among_everybodys_files.stat().st_mode) == 0o700
    remove_state(ClusterAddress("unix:///other.sock", "main", "a secret"))
    assert read_state() == ADDRESS
    remove_state(ADDRESS)
    assert list(among_everybodys_files.iterdir()) == []


def test_a_folder_that_another_user_made_first_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state(ADDRESS)
    us = os.getuid()
    state_file().parent.rename(tmp_path / f"perdure-{us + 1}")
    monkeypatch.setattr(os, "getuid", lambda: us + 1)  # to whom the folder is another user's
    _refused(capsys, "is no folder of this user's")


def test_a_folder_that_is_a_link_or_a_file_is_refused(
    among_everybodys_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    among_everybodys_files.symlink_to(tmp_path / "elsewhere")
    _refused(capsys, "is no folder of this user's")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_refused(mode: int, among_everybodys_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(ADDRESS)
    among_everybodys_files.chmod(mode)
    _refused(capsys, f"chmod 700 {among_everybodys_files}")
    among_everybodys_files.chmod(0o700)
    assert read_state() == ADDRESS


def _refused(capsys: pytest.CaptureFixture[str], why: str) -> None:
    assert why in state_fault()
    assert read_state() is None
    with pytest.raises(PermissionError, match="perdure-"):
        write_state(ADDRESS)
    for verb in ("status", "up"):
        try:
            code = main([verb])
        except SystemExit as end:
            code = end.code
        err = capsys.readouterr().err
        assert (code, len(err.splitlines())) == (2, 1), err
        assert why in err


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("not to be written over")
    make_state_folder()
    state_file().symlink_to(precious)
    write_state(ADDRESS)
    assert precious.read_text() == "not to be written over"
    assert read_state() == ADDRESS and not state_file().is_symlink()


def test_a_folder_that_is_given_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir(mode=0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(given))
    write_state(ADDRESS)
    assert read_state() == ADDRESS and state_file().parent == given
