"""The server itself: functions that were lost, servers that refuse or are too old, and the embedded one that perdure starts.

The twin in memory has no server, and no part in this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ledger_lab import Lab, free_port, ledger_at, member, own_lab, raw_client

from perdure.ledger import keys, redis_ledger
from perdure.ledger.embedded import EmbeddedServer
from perdure.ledger.ledger import LedgerError, LedgerRefused, LedgerUnavailable
from perdure.ledger.redis_functions import LIBRARY_NAME, library_build, library_source
from perdure.ledger.redis_ledger import RedisLedger
from perdure.ledger.values import Commit, CommitStatus

pytestmark = pytest.mark.asyncio


# --- functions --------------------------------------------------------------------------------------------------------


async def test_lost_functions_are_loaded_again_in_the_middle_of_a_call(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        assert lab.raw is not None
        await lab.zones(0, 1)
        await lab.raw.execute_command("FUNCTION", "FLUSH")
        answers = await lab.ledger.commit([lab.next(0), lab.next(1)])
        assert [answer.status for answer in answers] == [CommitStatus.OK] * 2
        await lab.raw.execute_command("FUNCTION", "FLUSH")
        assert (await lab.ledger.view()).ticks == {0: 1, 1: 1}
        await lab.raw.execute_command("FUNCTION", "FLUSH")
        assert (await lab.enter("ada")).session == 1


async def test_an_older_library_is_replaced_and_a_later_one_left_alone(own_server: EmbeddedServer) -> None:
    raw = raw_client(own_server.url)
    build = library_build()
    for found, expected in (("0:ab", build), (f"{int(build.split(':')[0]) + 1}:ab", f"{int(build.split(':')[0]) + 1}:ab")):
        await raw.execute_command("FUNCTION", "LOAD", "REPLACE", library_source().replace(build, found))
        async with ledger_at(own_server.url):
            answer: Any = await raw.execute_command("FCALL_RO", f"{LIBRARY_NAME}_build", 0)
            assert answer.decode() == expected
    await raw.aclose()


async def test_a_server_that_comes_back_with_older_functions_is_given_ours_by_the_next_reading(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        assert lab.raw is not None
        await lab.zones(0)
        build = library_build()
        await lab.ledger.view()
        await lab.raw.execute_command("FUNCTION", "LOAD", "REPLACE", library_source().replace(build, "0:ab"))
        own_server.kill()
        own_server.start()
        for _ in range(100):
            with contextlib.suppress(LedgerUnavailable):
                await lab.ledger.view()
                break
        answer: Any = await lab.raw.execute_command("FCALL_RO", f"{LIBRARY_NAME}_build", 0)
        assert answer.decode() == build
        assert (await lab.commit(0)).status is CommitStatus.OK


async def test_each_function_is_documented_and_registered(redis_lab: Lab) -> None:
    folder = Path(keys.__file__).parent / "functions"
    for file in folder.glob("[a-z]*.lua"):
        text = file.read_text()
        assert text.startswith(f"-- {LIBRARY_NAME}_{file.stem}: "), file.name
        assert ("KEYS[1]" in text and "ARGV" in text and "answer" in text) or file.stem == "view", file.name
        assert f"'{LIBRARY_NAME}_{file.stem}'" in text, file.name
    assert redis_lab.raw is not None
    listed: Any = await redis_lab.raw.execute_command("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY_NAME)
    row = dict(zip(listed[0][::2], listed[0][1::2], strict=True)) if isinstance(listed[0], list) else listed[0]
    functions = [dict(zip(one[::2], one[1::2], strict=True)) if isinstance(one, list) else one for one in row[b"functions"]]
    names = {one[b"name"].decode() for one in functions}
    assert names == {f"{LIBRARY_NAME}_{file.stem}" for file in folder.glob("[a-z]*.lua")} | {f"{LIBRARY_NAME}_build"}


# --- servers that refuse ----------------------------------------------------------------------------------------------


async def test_a_server_out_of_memory_looks_like_no_answer_to_commits_and_nothing_is_half_written(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server) as lab:
        assert lab.raw is not None
        await lab.zones(0, 1)
        await lab.enter("ada")
        before = await lab.dump()
        await lab.raw.config_set("maxmemory", "1")
        with pytest.raises(LedgerUnavailable, match="out of memory: raise maxmemory"):
            await lab.ledger.commit([lab.next(0), lab.next(1)])
        with pytest.raises(LedgerError, match="out of memory"):
            await lab.enter("bob")
        assert (await lab.ledger.view()).ticks == {0: 0, 1: 0}
        assert await lab.dump() == before
        await lab.raw.config_set("maxmemory", "0")
        assert (await lab.commit(0)).status is CommitStatus.OK


async def test_a_server_that_became_a_replica_looks_like_no_answer_to_commits(own_server: EmbeddedServer) -> None:
    async with own_lab(own_server, commit_deadline_s=1.0) as lab:
        assert lab.raw is not None
        await lab.zones(0)
        await lab.raw.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(LedgerUnavailable, match="read-only replica"):
            await lab.ledger.commit([lab.next(0)])
        with pytest.raises(LedgerError, match="read-only replica"):
            await RedisLedger.connect(own_server.url, "main")
        await lab.raw.execute_command("REPLICAOF", "NO", "ONE")
        assert (await lab.commit(0)).status is CommitStatus.OK


async def test_connecting_says_in_one_line_what_is_wrong(
    own_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refusal(url: str, world: str = "main") -> str:
        with pytest.raises(LedgerError) as caught:
            await RedisLedger.connect(url, world)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no answer from" in await refusal(f"unix://{tmp_path}/nobody.sock")
    assert "no answer from 127.0.0.1" in await refusal(f"redis://127.0.0.1:{free_port()}/0")
    assert "a world's name" in await refusal(own_server.url, "{bad}")
    assert await refusal("http://127.0.0.1/")
    raw = raw_client(own_server.url)
    await raw.execute_command("ACL", "SETUSER", "weak", "on", ">pass", "~*", "&*", "+@all", "-function")
    await raw.execute_command("ACL", "SETUSER", "good", "on", ">pass", "~perdure:{main}*", "&perdure:{main}*", "+@all")
    port = own_server.port
    monkeypatch.setattr(redis_ledger, "LIBRARY_WAIT_S", 0.1)
    weak = await refusal(f"redis://weak:pass@127.0.0.1:{port}/0")
    assert "holds no functions yet, and user weak may not do FUNCTION LOAD: start a coordinator" in weak
    async with ledger_at(f"redis://good:pass@127.0.0.1:{port}/3") as ledger:
        await ledger.heartbeat(member())
        (answer,) = await ledger.commit([Commit(0, 1, 1, 1, "", "ab" * 16, b"")])
        assert answer.status is CommitStatus.GAP
        assert (await ledger.view()).members
    await raw.config_set("requirepass", "secret")
    assert "wants a password" in await refusal(own_server.url)
    assert "user or password are wrong" in await refusal(f"redis://:wrong@127.0.0.1:{port}/0")
    async with ledger_at(f"redis://:secret@127.0.0.1:{port}/0") as ledger:
        assert (await ledger.commit([Commit(0, 1, 1, 1, "", "ab" * 16, b"")]))[0].status is CommitStatus.GAP
    await raw.aclose()


async def test_a_server_that_is_too_old_is_named() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                info = b"# Server\r\nredis_version:6.2.14\r\nrun_id:x\r\n"
                writer.write(b"$%d\r\n%s\r\n" % (len(info), info) if b"$4\r\nINFO" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(LedgerRefused, match=r"Redis 6\.2\.14, but functions need 7\.0 or later"):
        await RedisLedger.connect(f"redis://127.0.0.1:{port}/0", "main")
    server.close()


# --- the embedded server ----------------------------------------------------------------------------------------------


async def test_the_embedded_server_is_durable_and_ends_by_its_pid(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    server.start()
    raw = raw_client(server.url)
    wanted = {
        "appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "no", "maxmemory-policy": "noeviction", "save": "", "port": "0",
    }  # fmt: skip
    for name, value in wanted.items():
        assert await raw.config_get(name) == {name: value} or await raw.config_get(name) == {name.encode(): value.encode()}
    with pytest.raises(LedgerError, match="another server listens"):
        EmbeddedServer(tmp_path / "data").start()
    pid = server.pid
    assert pid is not None
    await raw.set("kept", "1")
    await raw.aclose()
    server.stop()
    server.stop()
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
    with server:
        raw = raw_client(server.url)
        assert await raw.get("kept") == b"1"
        await raw.aclose()


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot start"):
        EmbeddedServer(tmp_path / "a", binary=tmp_path / "none").start()
    with pytest.raises(LedgerError, match=r"ended with .* while starting"):
        EmbeddedServer(tmp_path / "b", extra=("--no-such-option", "1")).start()
    with pytest.raises(LedgerError, match="socket path"):
        EmbeddedServer(tmp_path / ("long" * 40))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(LedgerError, match="did not answer within"):
        EmbeddedServer(tmp_path / "c", binary=silent).start(deadline_s=0.2)
