"""The chaos bench's arguments, its list of rows and its table."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _disk, _shim, chaos
from benchmarks._disk import SmallDisk
from benchmarks._shim import Shim
from benchmarks._stage import Outcome
from perdure.cli import bench

COUNTS = {"players_lost": 0, "commands_lost": 0, "players_duplicated": 0, "commands_duplicated": 0, "gold_delta": 0,
          "replay_mismatches": 0, "commands_acknowledged": 100}  # fmt: skip


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "perdure", "bench", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chaos", "--rows", "no-such-row"), "there is no row 'no-such-row'"),
        (("chaos", "--rounds", "0"), "--rounds and --bots are 1 or more"),
        (("chaos", "--rounds", "many"), "--rounds is a whole number"),
        (("chaos", "--rows"), "--rows stands alone"),
        (("chaos", "--until-times", "10"), "name it with --results FILE"),
        (("chaos", "--table", "/nowhere/runs.jsonl"), "there is no file /nowhere/runs.jsonl"),
        (("chaos", "--table", __file__), "line 1, is no run of a row"),
        (("chaos", "--lines", "3"), "it has no option --lines"),
        (("nothing",), "there is no benchmark 'nothing'"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = _bench(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_rows_are_listed_with_what_is_expected() -> None:
    done = _bench("chaos", "--list", "--json")
    assert done.returncode == 0
    names = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert {"shard-kill", "power-cut", "rolling-restart", "poison-command", "ledger-empty"} <= set(names)
    assert all(any(line.startswith(f"{name} ") and len(line.split(" ", 1)[1]) > 20 for line in done.stdout.splitlines()) for name in names)


def test_where_no_zone_may_move_none_moves_for_the_balances_sake() -> None:
    pairs = ("partition-shard-gateway", "partition-shard-shard")
    said = ("no zone moves", "no epoch moves", "nobody is given up")
    rows = [row for row in chaos.known_rows().values() if row.name.startswith(pairs) or any(word in row.expected for word in said)]
    assert len(rows) == 14
    assert [row.name for row in rows if row.setup.settings.get("rebalance") != "off"] == []


def test_every_row_says_what_it_expects() -> None:
    for row in chaos.known_rows().values():
        assert row.expected[0].islower() or row.expected[0] in "S1V" or row.expected[:4] == "20 %", row.name
        assert ":" in row.expected, row.name


def test_modules_of_rows_are_no_benches() -> None:
    assert "chaos" in bench.names()
    assert not [name for name in bench.names() if "rows" in name]


def _outcomes() -> list[Outcome]:
    chaos.known_rows()
    return [
        Outcome("shard-kill", runs=3, passed_runs=3, took_s=9.0, blackouts_s=[0.2, 0.3], figures=dict(COUNTS)),
        Outcome("shard-kill", runs=1, took_s=9.0, blackouts_s=[0.4], figures={**COUNTS, "commands_lost": 2}, fault="expected x; seen: y"),
        Outcome("clocks", skipped="no compiler"),
    ]


def test_a_summary_adds_up_and_says_what_failed() -> None:
    found = chaos.summary(_outcomes(), seed=7, rounds=2, bots=200, build="abc")
    assert (found["rows_run"], found["rows_failed"], found["rows_skipped"]) == (2, ["shard-kill"], ["clocks"])
    assert (found["commands_lost"], found["commands_acknowledged"], found["passed"]) == (2, 200, False)
    assert found["rows"][1]["fault"] == "expected x; seen: y"
    json.dumps(found)


def test_a_run_that_only_skipped_has_not_passed() -> None:
    assert not chaos.summary([Outcome("clocks", skipped="no compiler")], seed=1, rounds=1, bots=1, build="abc")["passed"]


def test_the_table_has_one_line_a_row_over_all_its_runs() -> None:
    table = chaos.report(chaos.summary(_outcomes(), seed=7, rounds=2, bots=200, build="abc")).splitlines()
    assert table[2].startswith("| shard-kill | 4 | 3 of 4 | 300 / 400 / 400 | 2 | 0 | 20")
    assert table[3] == "| clocks | 0 | | | | | skipped: no compiler |"
    assert "200 bots. 3 of 4 runs passed; 200 acknowledged commands checked" in table[5]
    assert table[-1] == "- `shard-kill`, 1 times: expected x; seen: y"


def test_what_is_said_of_a_row() -> None:
    good, bad, skipped = (chaos.line(outcome) for outcome in _outcomes())
    assert good.startswith("ok   shard-kill (9 s, 3 times): blackout p50 250")
    assert bad.startswith("FAIL shard-kill (9 s): expected x; seen: y")
    assert skipped == "SKIP clocks: no compiler"


@pytest.mark.skipif(bool(_shim.missing()), reason=_shim.missing() or "-")
def test_the_shim_moves_wall_clocks_alone_and_while_a_process_runs(tmp_path: Path) -> None:
    shim = Shim(tmp_path / "it.shim")
    script = "import time; input(); print(time.time(), time.monotonic())"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=shim.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    shim.clock(3600)
    said, _ = process.communicate("\n", timeout=30)
    wall, monotonic = map(float, said.split())
    import time

    assert 3500 < wall - time.time() < 3700
    assert abs(monotonic - time.monotonic()) < 60
    assert struct.unpack("<qqq", (tmp_path / "it.shim").read_bytes()) == (3600, 0, 0)


@pytest.mark.skipif(bool(_shim.missing()), reason=_shim.missing() or "-")
def test_a_process_under_the_shim_is_refused_memory_while_it_runs_and_gets_it_again(tmp_path: Path) -> None:
    shim = Shim(tmp_path / "it.shim")
    script = """
def tried():
    try:
        return len(bytes(10_000_000))
    except MemoryError:
        return "none"
for _ in range(3):
    input()
    print(tried(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], env=shim.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        said = []
        for refused in (0, 1_000_000, 0):
            shim.refuse_memory(refused)
            process.stdin.write("\n")
            process.stdin.flush()
            said.append(process.stdout.readline().strip())
    assert said == ["10000000", "none", "10000000"]


@pytest.mark.skipif(bool(_disk.missing()), reason=_disk.missing() or "-")
def test_a_small_disk_is_filled_but_for_some_bytes_and_freed(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "data")
    try:
        for _ in range(2):
            before = disk._room()
            disk.fill(200_000)
            assert 0 <= disk._room() <= 200_000 + 4096
            disk.free()
            assert disk._room() == before
    finally:
        disk.close()
