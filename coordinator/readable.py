"""A zone's log as people read it: records, commands and inbox entries as plain JSON values.

Pure functions over bytes that the ledger returned; never reads the ledger. Called by `admin_api`. What cannot be decoded is
shown as a fault beside its bytes: this is a tool for looking at trouble.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from perdure.game.schema import CommandSchema, Schema
from perdure.ledger.record import Record, unpack_record
from perdure.ledger.values import LoggedRecord, WorldSettings
from perdure.wire.entries import NO_ORIGIN, unpack_entry
from perdure.wire.identifiers import key_hex
from perdure.wire.link import COMMAND_HEADER

_HEADER = np.dtype(COMMAND_HEADER)
Json = dict[str, Any]


def world_json(world: WorldSettings) -> Json:
    """Return the world record; its schema is JSON within JSON, so it is opened."""
    return {
        "name": world.name,
        "game": world.game,
        "columns": world.columns,
        "rows": world.rows,
        "zones": world.columns * world.rows,
        "seed": str(world.seed),
        "tick_hz": world.tick_hz,
        "schema_hash": world.schema_hash,
        "schema": orjson.loads(world.schema),
    }


def world_commands(world: WorldSettings) -> dict[int, CommandSchema]:
    """Return the world's kinds of commands by number."""
    return {command.kind: command for command in Schema.from_wire(orjson.loads(world.schema)).commands}


def logged_json(logged: LoggedRecord, commands: Mapping[int, CommandSchema]) -> Json:
    """Return one log entry: the record, its commands, and the inbox page that its commit returned."""
    found: Json = {"tick": logged.tick, "digest": logged.digest}
    try:
        found |= _record_json(unpack_record(logged.record), commands)
    except ValueError as error:
        found |= {"fault": str(error), "bytes": logged.record.hex()}
    found["inbox"] = [_entry_json(entry) for entry in logged.page]
    return found


def _record_json(record: Record, commands: Mapping[int, CommandSchema]) -> Json:
    return {
        "kind": record.kind.name.lower(),
        "zone": record.zone,
        "generation": record.generation,
        "epoch": record.epoch,
        "state_hash": f"{record.state_hash:016x}",
        "build": f"{record.build:016x}",
        "effects_bytes": len(record.effects),
        "commands": [
            _command_json(record.commands[at : at + record.row_bytes], commands)
            for at in range(0, record.rows * record.row_bytes, max(record.row_bytes, 1))
        ],
    }


def _command_json(row: bytes, commands: Mapping[int, CommandSchema]) -> Json:
    if len(row) < _HEADER.itemsize:
        return {"fault": "a command row is shorter than its header", "bytes": row.hex()}
    header = np.frombuffer(row, _HEADER, 1)[0]
    found: Json = {"player": key_hex(int(header["player"])), "seq": int(header["seq"])}
    command, payload = commands.get(int(header["kind"])), row[_HEADER.itemsize :]
    if command is None or len(payload) < command.payload.itemsize:
        return found | {"kind": int(header["kind"]), "fault": "the world's schema has no such command", "bytes": payload.hex()}
    values = np.frombuffer(payload, command.payload, 1)[0]
    return found | {"kind": command.name, "fields": {name: values[name].item() for name in command.payload.names or ()}}


def _entry_json(data: bytes) -> Json:
    try:
        entry = unpack_entry(data)
    except ValueError as error:
        return {"fault": str(error), "bytes": data.hex()}
    found: Json = {"kind": entry.kind.name.lower(), "player": key_hex(entry.player), "session": entry.session, "gateway": entry.gateway}
    found |= {"slot": entry.slot, "hop": entry.hop, "last_seq": entry.last_seq, "payload_bytes": len(entry.payload)}
    if entry.origin != NO_ORIGIN:
        found["origin"] = entry.origin
    return found
