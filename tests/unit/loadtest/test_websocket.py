"""The load test's websocket: what names a gateway, and whom it trusts."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.websocket import Websocket, gateway_url, tls_context
from tests.tls import server_context

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ws://one:8080/ws", "ws://one:8080/ws"), ("wss://one/", "wss://one/"), ("http://one:80", "ws://one:80/ws"),
        ("https://one", "wss://one/ws"), ("https://one:8443/play/ws", "wss://one:8443/play/ws"),
    ],
)  # fmt: skip
def test_a_gateway_is_named_by_its_url_or_its_host(given: str, url: str) -> None:
    assert gateway_url(given) == url


def test_what_names_no_gateway_is_told() -> None:
    for wrong in ("one:8080", "ftp://one/ws", "ws://"):
        with pytest.raises(ValueError, match="names no gateway"):
            gateway_url(wrong)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[str]:
    """A server that answers every upgrade over TLS, with a certificate that nobody vouches for; yields its URL."""
    context, listener = server_context(tmp_path), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            with taken, contextlib.suppress(OSError), context.wrap_socket(taken, server_side=True) as one:
                one.recv(4096)
                one.sendall(SWITCHING)
                one.recv(1)  # until the other side has gone

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"wss://127.0.0.1:{listener.getsockname()[1]}/ws"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def opened(url: str, tls: ssl.SSLContext | None) -> bool:
    websocket = Websocket(lambda _: None, tls)
    try:
        websocket.open(url)
        return True
    finally:
        websocket.end(None, "over")


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_it_is_trusted(secure: str, tmp_path: Path) -> None:
    for unknown in (None, tls_context()):
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate"):
            opened(secure, unknown)
    assert opened(secure, tls_context(ca_file=str(tmp_path / "certificate.pem")))
    assert opened(secure, tls_context(insecure=True))


def test_a_trusted_certificate_of_another_host_is_refused(secure: str, tmp_path: Path) -> None:
    trusted = tls_context(ca_file=str(tmp_path / "certificate.pem"))
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'localhost'"):
        opened(secure.replace("127.0.0.1", "localhost"), trusted)


def test_a_file_of_authorities_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tls_context(ca_file=str(tmp_path / "nowhere.pem"))
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ssl.SSLError):
        tls_context(ca_file=str(tmp_path / "empty.pem"))
