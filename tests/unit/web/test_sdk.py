"""web/perdure.js against the Python client: the same bytes, the same world. Node's test runner does the JavaScript side."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, cast

import msgpack
import pytest

import games.arena as arena
from perdure.client.protocol import ClientProtocol
from perdure.client.world_view import Snapshot
from perdure.runtime.web_files import FOLDER
from perdure.wire.client_messages import encode_command
from tests.unit.wire.naive_snapshot import TOY, Parts, packed

NODE = shutil.which("node")
KEY = (1 << 62) + 12345
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(NODE is None, reason="the JavaScript SDK is tested by node 20 or later, and there is none")


def welcome() -> bytes:
    body = {"session": 1, "player": "anna", "key": KEY, "resume": "anna.1", "schema": TOY.to_wire(), "schema_hash": TOY.hash,
            "tick_hz": 20, "zone": 0, "gateway": "g"}  # fmt: skip
    return packed([1, body])


def course(seed: int) -> list[dict[str, Any]]:
    """Snapshots of a world that chance makes, and what the Python client has of each."""
    chance = random.Random(seed)
    client = ClientProtocol()
    client.receive(welcome())
    handles: dict[int, tuple[int, int]] = {}
    steps = []
    for tick in range(1, 25):
        parts, keyframe = Parts(), tick == 1 or chance.random() < 0.1
        if keyframe:
            kept = [of for of in handles.values() if chance.random() < 0.8]
            handles = {}
            for handle, (type_, id_) in enumerate(kept):
                handles[handle] = (type_, id_)
                parts.enter(handle, type_, id_, _values(type_, chance))
        else:
            for handle in [handle for handle in handles if chance.random() < 0.2]:
                del handles[handle]
                parts.leave(handle)
        for _ in range(chance.randrange(3)):
            handle = next(k for k in range(100) if k not in handles)
            handles[handle] = (chance.randrange(2), chance.randrange(1, 1 << 48))
            parts.enter(handle, *handles[handle], _values(handles[handle][0], chance))
        for handle, (type_, _) in handles.items():
            changed = {name: value for name, value in _values(type_, chance).items() if chance.random() < 0.3}
            if changed:
                parts.update(handle, type_, changed)
        me = next((id_ for type_, id_ in handles.values() if type_ == 0), 0)
        if me:
            parts.own(0, {"ammo": chance.randrange(51), "fuel": chance.randrange(100_001)})
        if chance.random() < 0.5:
            parts.event(0, {"who": chance.randrange(1 << 24), "damage": chance.randrange(101)})
        message = parts.message(tick=tick, flags=int(keyframe), me=me)
        steps.append({"message": message.hex(), **_seen(client, message)})
    return steps


def _values(type_: int, chance: random.Random) -> dict[str, float]:
    return {f.name: f.value(chance.randrange(f.levels)) for f in TOY.entities[type_].public}


def _seen(client: ClientProtocol, message: bytes) -> dict[str, Any]:
    snapshot = client.receive(message)
    assert isinstance(snapshot, Snapshot) and client.world is not None
    return {
        "entered": snapshot.entered, "left": snapshot.left, "events": [{"name": e.name, "fields": dict(e.fields)} for e in snapshot.events],
        "entities": {str(id_): entity.fields for id_, entity in client.world.entities.items()},
    }  # fmt: skip


def flights() -> list[dict[str, Any]]:
    """What `fly` of the arena makes of ships that chance puts somewhere."""
    chance = random.Random(5)
    rule: Any = arena.fly  # as Python, without compiling
    fly = FunctionType(rule.py_func.__code__, {**rule.py_func.__globals__, "heading_of": cast(Any, arena.heading_of).py_func})
    world = SimpleNamespace(dt=0.05, width=4096.0, height=4096.0)
    out = []
    for _ in range(300):
        at_x, at_y = (chance.choice([0.0, 4095.9, chance.uniform(0, 4096)]) for _ in range(2))
        heading = chance.randrange(8)
        mx, my = chance.randint(-1, 1), chance.randint(-1, 1)
        made = SimpleNamespace(x=at_x, y=at_y, heading=heading, mx=0, my=0)
        fly(world, made, mx, my)
        out.append({"x": at_x, "y": at_y, "heading": heading, "mx": mx, "my": my, "after": [made.x, made.y, made.heading]})
    return out


def messages() -> list[dict[str, Any]]:
    """One message of every number that is neither welcome nor snapshot, and what the SDK makes of it."""
    plain = [
        ([3, 3, 7, "lost a"], {"type": "notice", "notice": 3, "zone": 7, "text": "lost a"}),
        ([4, 9], {"type": "pong", "number": 9}),
        ([5, 3, "too fast"], {"type": "refused", "seq": 3, "text": "too fast"}),
        ([6, "otto", "", "<b>hi</b>"], {"type": "chat", "from": "otto", "to": "", "text": "<b>hi</b>"}),
        ([7, [[KEY, "anna"], [5, ""]]], {"type": "names", "names": {str(KEY): "anna", "5": ""}}),
        ([8, 2, 60, 3, 4], {"type": "pace", "zone": 2, "clockPercent": 60, "snapshotEvery": 3, "farEvery": 4}),
        ([9, 41, 12], {"type": "queued", "position": 41, "estimateS": 12}),
        ([10, 2, [3, 6]], {"type": "stale", "zone": 2, "frozen": [3, 6]}),
        ([11, 2, 1, ["a", ""]], {"type": "map", "columns": 2, "rows": 1, "owners": ["a", ""]}),
        ([99, {"what": 1}], {"type": "ignored", "op": 99}),
    ]
    return [{"message": packed(message).hex(), "received": received} for message, received in plain]


def garbage() -> list[str]:
    broken = [[1], [1, {}], [2], [2, 1], [11, 2], [11, 1, 1, 5], [7, 1], [10, 1], [], ["a"], 5]
    snapshots = [
        Parts(updates=b"\x07\x00\x01\x00"),
        Parts(leaves=b"\x07\x00"),
        Parts(enters=b"\x01\x00\x09"),
        Parts(events=b"\x09"),
        Parts(owner=b"\x01"),
    ]
    return [packed(message).hex() for message in broken] + [parts.message(flags=1).hex() for parts in snapshots] + ["c1", "", "91a180"]


def commands() -> list[dict[str, Any]]:
    given = [("steer", {"mx": 1, "my": -1, "fire": 1}), ("steer", {}), ("aim", {"angle": 1.5}), ("aim", {"angle": 2})]
    made = []
    for seq, (name, fields) in enumerate(given, 4):
        schema = next(command for command in TOY.commands if command.name == name)
        values = [fields.get(f.name, 0) for f in schema.fields]
        made.append({"name": name, "fields": fields, "seq": seq, "message": encode_command(seq, schema.kind, values).hex()})
    return made


def test_the_javascript_client_sees_what_the_python_client_sees(tmp_path: Path) -> None:
    fixtures = {
        "welcome": welcome().hex(), "key": str(KEY), "courses": [course(seed) for seed in range(12)], "messages": messages(),
        "garbage": garbage(), "first": Parts().message(flags=1, ack=3).hex(), "commands": commands(), "flights": flights(),
    }  # fmt: skip
    path = tmp_path / "fixtures.json"
    path.write_text(json.dumps(fixtures))
    assert msgpack.unpackb(welcome())[1]["key"] == KEY
    command = [str(NODE), "--test", "--test-reporter=tap", str(HERE / "sdk.test.mjs")]
    environment = {"PERDURE_FIXTURES": str(path), "PATH": os.environ.get("PATH", "")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# pass 17" in done.stdout, done.stdout[-1000:]


def test_a_typed_line_of_chat_goes_where_it_is_meant_to() -> None:
    command = [str(NODE), "--test", "--test-reporter=tap", str(HERE / "chat_line.test.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# pass 2" in done.stdout, done.stdout[-1000:]


def test_every_script_is_sound_javascript() -> None:
    scripts = list(FOLDER.rglob("*.js"))
    assert len(scripts) > 10
    for path in scripts:
        command = [str(NODE), "--input-type=module", "--check"]
        done = subprocess.run(command, input=path.read_text(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{path.name}: {done.stderr}"
