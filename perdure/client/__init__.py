"""The Python SDK: play a Perdure world from Python. `Client` for asyncio, `ClientProtocol` for any other I/O, `run_bots`."""

from perdure.client.bots import BotReport, BotsReport, run_bots
from perdure.client.connection import Client, ClientClosed, ClientStats, CommandRefused, OutcomeUnknown
from perdure.client.protocol import (
    ChatReceived,
    ClientProtocol,
    NamesReceived,
    NoticeReceived,
    NotReady,
    ProtocolError,
    Refused,
    Welcome,
    WorldMap,
)
from perdure.client.world_view import EntityView, Event, Snapshot, SnapshotError, WorldView

__all__ = [
    "BotReport",
    "BotsReport",
    "ChatReceived",
    "Client",
    "ClientClosed",
    "ClientProtocol",
    "ClientStats",
    "CommandRefused",
    "OutcomeUnknown",
    "EntityView",
    "Event",
    "NamesReceived",
    "NotReady",
    "NoticeReceived",
    "ProtocolError",
    "Refused",
    "Snapshot",
    "SnapshotError",
    "Welcome",
    "WorldMap",
    "WorldView",
    "run_bots",
]
