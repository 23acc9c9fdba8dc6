"""`perdure healthcheck [URL]`: exit code 0 where the member's /readyz says yes; used by containers."""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(prog="perdure healthcheck", description="Ask a member whether it is ready.")
    default = os.environ.get("PERDURE_HEALTH_URL", "http://127.0.0.1:8080")
    made.add_argument("url", nargs="?", default=default, help=f"its HTTP address (default: PERDURE_HEALTH_URL, here {default})")
    made.add_argument("--live", action="store_true", help="ask whether it lives (/healthz), not whether it is ready")
    options = made.parse_args(arguments[1:])
    if not options.url.startswith(("http://", "https://")):
        print(f"perdure healthcheck: {options.url} is no http:// or https:// address", file=sys.stderr)
        return 2
    url = options.url.rstrip("/") + ("/healthz" if options.live else "/readyz")
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:  # noqa: S310  (http and https only, see above)
            print(answer.read(200).decode("utf-8", "replace").strip())
            return 0
    except urllib.error.HTTPError as error:
        print(f"perdure healthcheck: {url}: {error.code} {error.read(200).decode('utf-8', 'replace').strip()}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"perdure healthcheck: {url}: {error}", file=sys.stderr)
    return 1
