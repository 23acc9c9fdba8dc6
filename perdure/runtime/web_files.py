"""Files for browsers: the folder web/, read once, as a fixed table of paths, and how an HTTP request for one of them is answered.

Owns content types, entity tags and the headers that keep pages safe. A path that is not in the table is not there, whatever it
says: nothing is looked up on the disk after the start. Knows no server: the gateway and the coordinator each serve their part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "web"
"""Beside the packages: in a checkout, in the container and where a wheel was installed."""

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer with a body for browsers. 'self' covers the websocket of the same host, too."""


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file. `etag` changes with its bytes."""

    content_type: str
    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: what any server makes a response of. `headers` has neither Content-Length nor Connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    length: int


def read_web_files(folder: Path = FOLDER, without: tuple[str, ...] = ()) -> dict[str, WebFile]:
    """Return path -> file of all files with a known suffix, but for the top folders named in `without`.

    An index.html is found by its folder's path as well, with and without a slash at the end. Without the folder the table is empty.
    """
    files: dict[str, WebFile] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        content_type = CONTENT_TYPES.get(path.suffix)
        if content_type is None or name.parts[0] in without or not path.is_file():
            continue
        body = path.read_bytes()
        file = WebFile(content_type, body, f'"{hashlib.sha256(body).hexdigest()[:24]}"')
        files[f"/{name.as_posix()}"] = file
        if path.name == "index.html":
            at = "/" + "".join(f"{part}/" for part in name.parts[:-1])
            files[at] = file
            files[at.rstrip("/") or "/"] = file
    return files


def answer(files: Mapping[str, WebFile], method: str, path: str, if_none_match: str = "") -> Answer | None:
    """Return the answer to a GET or HEAD of `path` (without its query), or None where there is no such file.

    Browsers ask each time whether what they hold is still good: a new version is seen at the next load, an old one costs no bytes.
    """
    file = files.get(path)
    if file is None:
        return None
    headers = {"Content-Type": file.content_type, "Cache-Control": "no-cache", "ETag": file.etag, **PAGE_HEADERS}
    if file.etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(",")):
        return Answer(304, headers, b"", len(file.body))
    return Answer(200, headers, b"" if method == "HEAD" else file.body, len(file.body))


def text_answer(status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> Answer:
    """Return a short answer that is never stored."""
    body = text.encode()
    return Answer(status, {"Content-Type": content_type, "Cache-Control": "no-store", **PAGE_HEADERS}, body, len(body))
