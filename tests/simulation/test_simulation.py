"""The simulated cluster itself: the same seed is the same run, faults do what they say, and seeds hold every invariant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.wire.tokens import make_resume, split_resume
from tests.simulation import campaign
from tests.simulation.clock import Machines, patched, simulated_time
from tests.simulation.cluster import program
from tests.simulation.faults import Faults, is_tight, kinds_of
from tests.simulation.mutants import MUTANTS, SEEDS, planted
from tests.simulation.mutants_pace import dear, sleepy
from tests.simulation.run import simulate

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)


def fingerprint(seed: int, hash_seed: int) -> str:
    """Run a seed in a process of its own; return its fingerprint."""
    script = f"from tests.simulation.run import simulate; print(simulate({seed}, 30.0).fingerprint)"
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_seed_is_the_same_run_in_every_process() -> None:
    assert len({fingerprint(3, 0), fingerprint(3, 1)}) == 1


def test_another_seed_is_another_run() -> None:
    assert simulate(1, 24.0).fingerprint != simulate(2, 24.0).fingerprint


def test_without_faults_nobody_is_disconnected() -> None:
    outcome = simulate(7, 30.0, faults=False)
    assert outcome.violations == []
    assert outcome.figures["acknowledged"] > 300
    assert outcome.figures["closes"] == 0
    assert outcome.figures["ghosts_seen"] > 1000


@pytest.mark.parametrize("kind", kinds_of(",".join(name.removeprefix("_do_") for name in dir(Faults) if name.startswith("_do_"))))
def test_every_kind_of_fault_happens_and_does_no_harm(kind: str) -> None:
    long = kind.startswith("late_owner") or kind in ("older_in_migration", "unaware_owner")  # up to 24 s, begun where that is left
    outcome = simulate(21, 60.0 if long else 30.0, kinds=(kind,))
    assert outcome.violations == [], "\n".join(outcome.trace[-40:])
    assert outcome.faults.total() > 0
    assert kind != "crowd" or outcome.figures["refused"] > 10
    assert kind != "older_in_migration" or outcome.faults["older in migration"] > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_zones_that_sleep_and_zones_that_are_dear_lose_nothing_and_serve_everybody(seed: int) -> None:
    program()
    with patched([*sleepy(), *dear()]):
        outcome = simulate(seed, 60.0)
    assert outcome.violations == [], "\n".join(outcome.trace[-40:])
    calm = simulate(seed, 60.0)
    assert outcome.figures["commits"] < 0.9 * calm.figures["commits"], "they slept, and slowed"


def test_some_runs_have_zones_without_room_for_everybody_and_others_are_what_they_were() -> None:
    tight = [seed for seed in range(1, 1001) if is_tight(seed, ())]
    assert 50 < len(tight) < 150
    assert is_tight(1, ("reset", "crowd")) and not is_tight(tight[0], ("reset",))
    assert simulate(1, 24.0).figures["refused"] == 0


def test_kinds_are_read_and_unknown_ones_refused() -> None:
    assert kinds_of("kill_shard, reset") == ("kill_shard", "reset")
    with pytest.raises(ValueError, match="no fault 'quake'"):
        kinds_of("quake")


def test_resume_tokens_of_a_simulated_run_are_ones() -> None:
    with simulated_time(Machines(1), 1):
        assert split_resume(make_resume("ann")) == "ann"


def test_a_planted_bug_is_gone_afterwards() -> None:
    for name in MUTANTS:
        patches = MUTANTS[name]()
        before = [where.__dict__[attribute] for where, attribute, _ in patches]
        with planted(name):
            assert [where.__dict__[attribute] for where, attribute, _ in patches] != before
        assert [where.__dict__[attribute] for where, attribute, _ in patches] == before


def test_a_run_that_fails_says_where_and_when() -> None:
    with planted("release_before_commit"):
        outcome = simulate(1, 30.0)
    assert outcome.violations
    assert "release:" in outcome.violations[0]
    with planted("missing_records_not_noticed"):  # which only a fault brings out
        outcome = simulate(SEEDS["missing_records_not_noticed"], 60.0, kinds=("log_gap",))
    assert outcome.violations
    assert any("FAULT" in line for line in outcome.trace)


def test_a_campaign_is_run_in_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "campaign.jsonl"
    row = {"seed": 1, "build": campaign.build(), "simulated_s": 60.0, "took_s": 3.0, "faults": {"partition": 7}, "violations": []}
    kept.write_text(json.dumps(row) + '\n{"seed": 2, "simu')
    assert campaign.main_many(1, 2, 20.0, 1, (), tmp_path, kept) == 0
    seeds, faults = capsys.readouterr().out.splitlines()
    assert seeds.startswith("2 seeds, 0.02 simulated hours") and seeds.endswith("0 seeds failed")
    assert "partition" in faults
    assert [outcome.seed for outcome in campaign.read_results(kept)[0]] == [1, 2]
    assert campaign.main_many(1, 2, 20.0, 1, (), tmp_path, kept) == 0
    assert len(kept.read_text().splitlines()) == 2, "nothing was run again"


def test_a_campaign_is_of_one_build(tmp_path: Path) -> None:
    kept = tmp_path / "campaign.jsonl"
    for build in ({"build": "another"}, {}):
        kept.write_text(json.dumps({"seed": 1, "simulated_s": 60.0, "took_s": 3.0, "faults": {}, "violations": []} | build) + "\n")
        with pytest.raises(campaign.OtherBuild, match=r"line 1: a seed of build .*, and this is .*: begin another file"):
            campaign.main_many(1, 2, 20.0, 1, (), tmp_path, kept)


def test_a_campaign_of_too_few_seeds_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main_many(1, 50, 20.0, 1, (), tmp_path, within_s=0.001, at_least=50) == 1
    assert "at least 50 were wanted" in capsys.readouterr().out


def test_a_campaign_ends_when_its_time_is_over() -> None:
    assert len(campaign.run_seeds(range(1, 100), 20.0, 1, within_s=0.001)) == 1
