"""`perdure token PLAYER`: a login token, signed with the cluster's secret."""

from __future__ import annotations

import sys

from perdure.cli.cluster_access import find, parser
from perdure.wire.identifiers import name_fault
from perdure.wire.tokens import make_token

MOST_TTL_S = 1e9


def main(arguments: list[str]) -> int:
    made = parser("token", "Make a login token for a player, as your login service would.")
    made.add_argument("player", help="name of the player")
    made.add_argument("--ttl-s", type=float, default=300.0, help="how long it may be used")
    options = made.parse_args(arguments[1:])
    fault = name_fault(options.player)
    if fault:
        print(f"perdure token: {fault}", file=sys.stderr)
        return 2
    if not 0 < options.ttl_s <= MOST_TTL_S:  # NaN compares false
        print(f"perdure token: --ttl-s {options.ttl_s:g}: seconds, more than 0 and up to {MOST_TTL_S:.0f}", file=sys.stderr)
        return 2
    address = find(options)
    if not address.secret:
        print("perdure token: no secret is known; set PERDURE_SECRET (or PERDURE_SECRET_FILE) to the cluster's", file=sys.stderr)
        return 2
    print(make_token(address.secret, options.player, options.ttl_s))
    return 0
