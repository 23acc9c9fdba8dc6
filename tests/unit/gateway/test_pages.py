"""What a gateway answers to plain HTTP: the files of web/ and nothing else, and tokens for whoever asks in development alone."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from perdure.runtime.web_files import FOLDER, answer, read_web_files
from perdure.wire.tokens import check_token
from tests.unit.gateway.cluster_double import Cluster, cluster, settings_of
from tests.unit.gateway.shard_double import SECRET

pytestmark = pytest.mark.asyncio

MOST_BYTES = 96 * 1024
"""The library gives an answer to the kernel and then drops the connection: what is served must fit the send buffer."""


def at(c: Cluster, path: str) -> str:
    return f"http://127.0.0.1:{c.gateway.endpoint.port}{path}"


async def get(c: Cluster, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=60.0) as http:
        return await http.request(method, at(c, path), headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_every_file_is_served_with_its_type_and_with_headers_that_keep_pages_safe() -> None:
    async with cluster() as c:
        for path, file in read_web_files(without=("dashboard",)).items():
            found = await get(c, path)
            assert (found.status_code, found.content) == (200, file.body), path
            assert found.headers["content-type"] == file.content_type and found.headers["x-content-type-options"] == "nosniff"
            policy = found.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert len(file.body) < MOST_BYTES, f"{path} is too large to be served"
        assert (await get(c, "/")).headers["content-type"].startswith("text/html")


async def test_a_page_that_a_browser_has_already_costs_no_bytes() -> None:
    async with cluster() as c:
        first = await get(c, "/style.css")
        second = await get(c, "/style.css", if_none_match=first.headers["etag"])
        assert (second.status_code, second.content) == (304, b"")
        assert (await get(c, "/style.css", if_none_match='"other"')).status_code == 200


async def test_head_tells_the_length_without_the_bytes_and_other_methods_are_refused() -> None:
    async with cluster() as c:
        whole, head = await get(c, "/style.css"), await get(c, "/style.css", "HEAD")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole.content)))
        assert (await get(c, "/style.css", "DELETE")).status_code == 405


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/pyproject.toml", "//etc/passwd", "/style.css/", "/web/style.css", "/__init__.py"]
)
async def test_what_is_not_in_the_table_is_not_there(path: str) -> None:
    files = read_web_files()
    assert answer(files, "GET", path) is None


async def test_a_gateway_without_pages_serves_none() -> None:
    async with cluster(web_pages=False) as c:
        assert (await get(c, "/")).status_code == 404
        assert (await get(c, "/healthz")).status_code == 200


async def test_a_token_for_a_free_name_is_good_for_that_name() -> None:
    async with cluster(token_endpoint=True) as c:
        assert (await get(c, "/client.json")).json() == {"login": "name"}
        answered = (await get(c, "/dev/token?name=anna")).json()
        assert check_token(SECRET, answered["token"]) == answered["name"] == "anna"


async def test_no_token_for_a_name_that_somebody_plays_under_nor_for_one_that_is_none() -> None:
    async with cluster(token_endpoint=True) as c, c.client("anna"):
        assert (await get(c, "/dev/token?name=anna")).status_code == 409
        for query in ("", "?name=", "?name=%3Cb%3E", "?name=" + "a" * 33, "?name=" + "a" * 300, "?nom=anna", "?a&b&c&d&e&f&g&h&name=otto"):
            assert (await get(c, f"/dev/token{query}")).status_code == 400, query
        assert (await get(c, "/dev/token?name=otto", sec_fetch_site="cross-site")).status_code == 403


async def test_without_its_setting_there_is_no_token_and_outside_development_no_such_setting() -> None:
    async with cluster() as c:
        assert (await get(c, "/dev/token?name=anna")).status_code == 404
        assert (await get(c, "/client.json")).json() == {"login": "token"}
    with pytest.raises(ValidationError, match="token_endpoint"):
        settings_of(secret=SECRET, token_endpoint=True)


async def test_pages_hold_no_inline_script_and_no_inline_style() -> None:
    pages = [path for path in FOLDER.rglob("*.html") if "vendor" not in path.parts]
    assert pages
    for path in pages:
        _holds_nothing_inline(path)


def _holds_nothing_inline(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text), f"{path.name}: the policy refuses inline script"
    assert not re.search(r"\son\w+=|<style|\sstyle=|javascript:", text), f"{path.name}: the policy refuses inline handlers and styles"
