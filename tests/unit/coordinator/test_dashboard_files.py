"""The dashboard's files over ASGI: served without a token, safe headers, nothing else of the disk."""

from __future__ import annotations

import re

from perdure.runtime.web_files import FOLDER
from tests.unit.coordinator.admin_bench import AdminBench

TOKEN = "a-token-of-this-test-with-enough-characters"


def production() -> AdminBench:
    return AdminBench(development=False, secret="a-secret-of-this-test-with-enough-characters", admin_token=TOKEN)


async def test_page_and_its_files_need_no_token_and_have_safe_headers() -> None:
    async with production().client("") as client:
        page = await client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        named = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        modules = list((FOLDER / "dashboard").glob("*.js"))
        imported = [f"/dashboard/{path.name}" for path in modules]
        imported += [path for module in modules for path in re.findall(r'from "(/[^"]+)"', module.read_text())]
        assert len(named) >= 4 and len(imported) >= 8
        for path in ["/", *named, *imported]:
            found = await client.get(path)
            assert found.status_code == 200, path
            assert found.headers["x-content-type-options"] == "nosniff" and found.headers["x-frame-options"] == "DENY"
            policy = found.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


async def test_what_a_browser_has_costs_no_bytes_and_nothing_else_is_served() -> None:
    async with production().client("") as client:
        page = await client.get("/")
        again = await client.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await client.head("/")
        assert (head.content, head.headers["content-length"]) == (b"", str(len(page.content)))
        for path in ("/index.html", "/pyproject.toml", "/dashboard/%2e%2e/pyproject.toml", "/dashboard/none.js", "/vendor/msgpack.js"):
            assert (await client.get(path)).status_code == 404, path


async def test_a_page_learns_what_its_visitor_may_do() -> None:
    bench = production()
    async with bench.client("") as client:
        assert (await client.get("/access")).json() == {"read": False, "token": False, "development": False, "add_shard": False}
    async with bench.client(TOKEN) as client:
        assert (await client.get("/access")).json() == {"read": True, "token": True, "development": False, "add_shard": False}
    async with AdminBench().client("wrong") as client:
        found = (await client.get("/access")).json()
        assert (found["read"], found["token"], found["development"]) == (True, False, True)


def test_scripts_never_parse_what_they_are_told_as_markup() -> None:
    for path in sorted((FOLDER / "dashboard").glob("*.js")):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()), path.name
