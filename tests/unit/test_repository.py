"""What must hold of the repository itself: layers, lock files, the verbs of make, no traces of anyone's machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-loadtest.lock", "requirements-dev.lock")
TEXT = {"", ".py", ".md", ".toml", ".lock", ".lua", ".sh", ".yml", ".yaml", ".conf", ".env", ".txt", ".html", ".js", ".css", ".json"}


def files() -> list[Path]:
    """Return the text files that belong to the repository, whether committed yet or not."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file() and (ROOT / line).suffix in TEXT]


def test_imports_point_down_only() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_registry_and_pins_every_package_by_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text and "file:" not in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    for block in blocks:
        if not block.startswith("#"):
            assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", block) and "--hash=sha256:" in block, block[:100]


def test_the_lock_holds_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    developing = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    wanted = {re.split(r"[\[<>=]", line)[0].strip() for line in project["dependencies"]}
    extra = {re.split(r"[\[<>=]", line)[0].strip() for lines in project["optional-dependencies"].values() for line in lines} - {"perdure"}
    assert wanted <= locked, f"run make lock: {sorted(wanted - locked)}"
    assert wanted | extra <= developing, f"run make lock: {sorted((wanted | extra) - developing)}"


def test_make_help_lists_every_verb() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    said = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in phony.group(1).split():
        assert f"make {verb} " in said, f"`make {verb}` has no line in `make help`"


def test_nothing_names_a_machine() -> None:
    # Spelled in pieces, so that this file does not find itself.
    traces = re.compile(r"(?<![\w.])/(?:" + "|".join(("wor" + "k/", "ro" + "ot/", "ho" + "me/[a-z]", "Use" + "rs/")) + ")")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if traces.search(line)
    ]
    assert not found, "\n".join(found)


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", re.sub(r"`[^`]*`", "", path.read_text()))
        if not (path.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def test_compose_uses_only_what_env_documents() -> None:
    documented = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text())) - {"PERDURE_TAG"}
    assert used == documented


def test_compose_passes_on_what_gateways_behind_a_proxy_are_told() -> None:
    section = (ROOT / "docs" / "OPERATIONS.md").read_text().split("\n## TLS and the network\n")[1].split("\n## ")[0]
    told = re.findall(r"^- `(PERDURE_[A-Z_]+)=", section, re.MULTILINE)
    compose = (ROOT / "docker-compose.yml").read_text()
    gateway = compose[compose.index("\n  gateway:") : compose.index("\n  shard:")]
    assert "PERDURE_TRUSTED_PROXIES" in told
    assert [name for name in told if f"{name}: ${{{name}:-" not in gateway] == []
