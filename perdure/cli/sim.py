"""`perdure sim`: the whole cluster in one process, on a virtual clock, with faults that a seed chooses. Needs a checkout with tests/."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(
        prog="perdure sim", description="Run the simulated cluster: one seed with its trace, or many.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    made.add_argument("--seed", type=int, default=None, help="run this one seed, and print its trace")
    made.add_argument("--seeds", type=int, default=20, help="run so many seeds")
    made.add_argument("--first", type=int, default=1, help="the first of them")
    made.add_argument("--seconds", type=float, default=60.0, help="virtual seconds of a run")
    made.add_argument("--jobs", type=int, default=0, help="processes; 0: one a core")
    made.add_argument("--within", type=float, default=0.0, help="run as many of the seeds as this many seconds allow; 0: all")
    made.add_argument("--at-least", type=int, default=0, help="fail where --within allowed fewer seeds than this")
    made.add_argument("--faults", default="", help="kinds of faults, by commas, instead of the seed's choice")
    made.add_argument("--lines", type=int, default=80, help="lines of the trace to print; 0: all")
    made.add_argument("--results", default="", help="file that each seed's outcome is added to; seeds that are in it are not run again")
    made.add_argument("--mutants", action="store_true", help="look for every planted bug instead, in up to --seeds seeds each")
    made.add_argument("--traces", default=str(Path(tempfile.gettempdir()) / "perdure-sim"), help="folder for the traces of seeds that fail")
    options = made.parse_args(arguments[1:])
    if not 20 <= options.seconds <= 36_000 or options.seeds < 1:
        print("perdure sim: --seconds 20 to 36000 and --seeds 1 or more are possible", file=sys.stderr)
        return 2
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        from tests.simulation import campaign
        from tests.simulation.faults import kinds_of
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] == "tests":
            print("perdure sim: there is no tests/simulation here; run it in a checkout of the source", file=sys.stderr)
        else:
            print(f"perdure sim: a package is missing ({error}); `make setup` installs all", file=sys.stderr)
        return 2
    campaign.fixed_hashes()
    try:
        kinds = kinds_of(options.faults)
    except ValueError as error:
        print(f"perdure sim: {error}", file=sys.stderr)
        return 2
    if options.mutants:
        from tests.simulation import mutants

        found = mutants.search(options.seeds, options.first, options.jobs)
        missed = sorted(name for name, (count, _) in found.items() if not count)
        most = max(count for count, _ in found.values())
        print(f"{len(found) - len(missed)} of {len(found)} planted bugs found, the last in {most} seeds"
              + (f"; not found: {', '.join(missed)}" if missed else ""))  # fmt: skip
        return 1 if missed else 0
    if options.seed is not None:
        return campaign.main_one(options.seed, options.seconds, kinds, options.lines)
    try:
        return campaign.main_many(options.first, options.seeds, options.seconds, options.jobs, kinds, Path(options.traces),
                                  Path(options.results) if options.results else None, options.within, options.at_least)  # fmt: skip
    except campaign.OtherBuild as error:
        print(f"perdure sim: {error}", file=sys.stderr)
        return 2
