"""Network namespaces for partitions: a hub with a bridge, and one namespace for each member that is to be cut off.

Namespaces have no names: each lives as long as the process that holds it and the members in it, all of which die with this process.
So nothing is left, whatever ends a run. Packets are dropped (or refused) by iptables inside the member's own namespace: nobody is told, as
in a network that fails. Needs root on Linux; `missing` says what is not there. Called by _stage.py and the chaos rows.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import time

from perdure.cli.children import die_with_parent

LEDGER_PORT = 6379
HUB = "10.77.0.1"
_WORDS_DEADLINE_S = 10.0


@functools.cache
def missing() -> str:
    """Return why there can be no namespaces here, in one line; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    for tool in ("unshare", "nsenter", "ip", "iptables"):
        if shutil.which(tool) is None:
            return f"network namespaces need the command {tool}"
    network = Network()
    try:
        network.open(("probe",))
        network.cut("probe", port=LEDGER_PORT)
    except (OSError, subprocess.SubprocessError) as error:
        return f"network namespaces are not to be had here: {error}"
    finally:
        network.close()
    return ""


class Network:
    """A hub (the ledger, the bots and whoever is not apart) and namespaces `apart`, each with an address of its own."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, str] = {}

    @property
    def redis_url(self) -> str:
        return f"redis://{HUB}:{LEDGER_PORT}/0"

    @property
    def valkey_options(self) -> tuple[str, ...]:
        return "--port", str(LEDGER_PORT), "--bind", HUB, "--protected-mode", "no"

    def open(self, apart: tuple[str, ...]) -> None:
        """Make the namespaces; raises OSError or SubprocessError where one cannot be made."""
        self._hold("hub")
        self._in("hub", "ip", "link", "set", "lo", "up")
        self._in("hub", "ip", "link", "add", "br0", "type", "bridge")
        self._in("hub", "ip", "addr", "add", f"{HUB}/24", "dev", "br0")
        self._in("hub", "ip", "link", "set", "br0", "up")
        for k, name in enumerate(apart):
            self._hold(name)
            self._addresses[name] = f"10.77.0.{10 + k}"
            peer = f"/proc/{self._holders[name].pid}/ns/net"
            self._in("hub", "ip", "link", "add", f"v{k}", "type", "veth", "peer", "name", "eth0", "netns", peer)
            self._in("hub", "ip", "link", "set", f"v{k}", "master", "br0", "up")
            self._in(name, "ip", "link", "set", "lo", "up")
            self._in(name, "ip", "addr", "add", f"{self._addresses[name]}/24", "dev", "eth0")
            self._in(name, "ip", "link", "set", "eth0", "up")

    def close(self) -> None:
        """End the holders: the namespaces go when their last member has gone."""
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
        self._holders.clear()

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return the words that start a command in a member's namespace, or in the hub."""
        holder = self._holders.get(name) or self._holders["hub"]
        return "nsenter", f"--net=/proc/{holder.pid}/ns/net"

    def cut(self, name: str, *, port: int = 0, peer: str = "", sends: bool = True, receives: bool = True) -> None:
        """Drop a member's packets to and from a port of the hub's, or all to and from another member; one way where one is False."""
        address = self._addresses.get(peer, HUB)
        remote = ("-p", "tcp", "--dport", str(port)) if port else ()
        answer = ("-p", "tcp", "--sport", str(port)) if port else ()
        if sends:
            self._in(name, "iptables", "-w", "-A", "OUTPUT", "-d", address, *remote, "-j", "DROP")
        if receives:
            self._in(name, "iptables", "-w", "-A", "INPUT", "-s", address, *answer, "-j", "DROP")

    def refuse(self, name: str, peer: str) -> None:
        """Answer all that comes to a member from another one by a reset, as some firewalls do: links break, and new ones are refused."""
        self._in(
            name, "iptables", "-w", "-A", "INPUT", "-s", self._addresses[peer], "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"
        )

    def mend(self, name: str) -> None:
        self._in(name, "iptables", "-w", "-F")

    def _hold(self, name: str) -> None:
        holder = subprocess.Popen(["sleep", "1000000"], stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_apart)
        self._holders[name] = holder
        own, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + _WORDS_DEADLINE_S
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if holder.poll() is not None or time.monotonic() > deadline:
                raise OSError("no network namespace could be made")
            time.sleep(0.005)

    def _in(self, name: str, *words: str) -> None:
        done = subprocess.run([*self.prefix(name), *words], capture_output=True, text=True, timeout=_WORDS_DEADLINE_S)
        if done.returncode:
            raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")


_CLONE_NEWNET = 0x40000000


def _apart() -> None:
    die_with_parent()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
