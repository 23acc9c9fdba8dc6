"""`perdure report FOLDER`: one HTML page, and its pictures, of the results that benches have kept (`perdure bench NAME --keep FOLDER`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Write them; return 0, or 2 with one line that says what is missing."""
    made = argparse.ArgumentParser(prog="perdure report", description="Draw the results that benches have kept.")
    made.add_argument("folder", nargs="?", default="bench-results", help="where they are (perdure bench NAME --keep FOLDER)")
    made.add_argument("--html", default="", help="the page; FOLDER/report.html")
    made.add_argument("--images", default="", help="write each picture there too, as SVG")
    options = made.parse_args(arguments[1:])
    from benchmarks._report import page, pictures, read

    folder = Path(options.folder)
    try:
        results = read(folder)
        if not results:
            raise ValueError(f"{folder} has no results: `perdure bench NAME --keep {folder}`, or `make bench`, keeps them there")
        html = Path(options.html or folder / "report.html")
        html.write_text(page(results))
        if options.images:
            images = Path(options.images)
            images.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures(results).items():
                (images / f"{name}.svg").write_text(picture)
    except (OSError, ValueError) as error:
        print(f"perdure report: {error}", file=sys.stderr)
        return 2
    print(html)
    return 0
