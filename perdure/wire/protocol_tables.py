"""The tables of docs/PROTOCOL.md that come from code: close codes, messages, flags and notices.

Run `python -m perdure.wire.protocol_tables docs/PROTOCOL.md` to write them anew; a test compares. Called by nobody else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from perdure.wire.opcodes import CLOSE_REASONS, ClientOp, Notice, ServerOp, SnapshotFlag


def close_table() -> str:
    """Return the close codes as a Markdown table."""
    lines = ["| code | reason | cause | what to do | resume? |", "|---|---|---|---|---|"]
    lines.extend(
        f"| {int(reason.code)} | {reason.name} | {reason.cause} | {reason.mend} | {'yes' if reason.resumable else 'no'} |"
        for reason in sorted(CLOSE_REASONS.values(), key=lambda reason: int(reason.code))
    )
    return "\n".join(lines)


def number_table() -> str:
    """Return the small numbers of the protocol as a Markdown table."""
    lines = ["| table | numbers |", "|---|---|"]
    for title, enum in (
        ("client messages", ClientOp),
        ("server messages", ServerOp),
        ("snapshot flags (bits)", SnapshotFlag),
        ("notices", Notice),
    ):
        lines.append(f"| {title} | {', '.join(f'{member.value} {member.name}' for member in enum)} |")
    return "\n".join(lines)


TABLES = {"close codes": close_table, "numbers": number_table}


def with_tables(text: str) -> str:
    """Return the document with the parts between its `<!-- table: ... -->` and `<!-- end -->` marks written anew."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the document has no <!-- table: {name} --> mark")
        text = pattern.sub(lambda match, made=make(): f"{match[1]}{made}\n{match[2]}", text)
    return text


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_tables(document.read_text()))
