"""The client's protocol for who has no use for entities: of a snapshot it decodes the header alone.

Zone, tick and acknowledgement are all that a crowd under a cluster needs; what it leaves out is most of what a client costs. No I/O,
no clock. Called by the benches' crowds and by the load test's players.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.client.protocol import ClientProtocol, Received
from perdure.client.world_view import Snapshot, SnapshotError, WorldView
from perdure.wire.opcodes import ServerOp

_SNAPSHOT = int(ServerOp.SNAPSHOT)


class _Header(msgspec.Struct, array_like=True, gc=False):
    """A snapshot's first fields; what follows is passed over."""

    op: int
    zone: int
    epoch: int
    tick: int
    flags: int
    ack: int
    me: int


_HEADER = msgspec.msgpack.Decoder(_Header)


class HeadersOnly(WorldView):
    """Keeps no entities: zone, tick and acknowledgement of each snapshot are all that is counted."""

    def apply(self, message: Sequence[Any]) -> Snapshot:
        _, zone, epoch, tick, flags, ack, me, *_ = message
        self.zone, self.epoch, self.tick, self.me_id = zone, epoch, tick, me
        return Snapshot(zone, epoch, tick, flags, ack, me)


class HeaderProtocol(ClientProtocol):
    """The SDK's protocol, which decodes of a snapshot its header alone."""

    def __init__(self) -> None:
        super().__init__()
        self.view_of = HeadersOnly

    def receive(self, data: bytes) -> Received:
        # Twelve elements: a fixarray, then the opcode.
        if len(data) < 2 or data[1] != _SNAPSHOT or data[0] >> 4 != 9:
            return super().receive(data)
        try:
            head = _HEADER.decode(data)
        except msgspec.MsgspecError as error:
            raise SnapshotError(f"a snapshot's header cannot be read: {error}") from error
        return self._snapshot([_SNAPSHOT, head.zone, head.epoch, head.tick, head.flags, head.ack, head.me])
