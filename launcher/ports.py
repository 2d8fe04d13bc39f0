"""Choosing and checking the four TCP ports; knows nothing of what listens on them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import socket
from contextlib import ExitStack
from pathlib import Path

from launcher.errors import LauncherError

FLAGS = {"http": "--port", "grpc": "--grpc-port", "metrics": "--metrics-port", "triton_http": "--triton-http-port"}

# Below Linux's range for outgoing connections, so that nobody gets the port between the choice and its use.
FREE_PORTS = range(15000, 32000)


@dataclasses.dataclass(frozen=True)
class Ports:
    """`http` is the gateway's; the other three are tritonserver's."""

    http: int
    grpc: int
    metrics: int
    triton_http: int

    def write(self, path: Path) -> None:
        """Write JSON so that a reader sees the whole file or none."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(dataclasses.asdict(self)) + "\n")
        os.replace(partial, path)


def choose_ports(host: str, wanted: Ports, triton_host: str | None = None) -> Ports:
    """Replace each 0 by a free port; raises LauncherError for one that is taken or asked for twice.

    tritonserver's ports are those of `triton_host`, or of `host` as well if it is None.
    """
    hosts = dict.fromkeys(FLAGS, triton_host or host) | {"http": host}
    with ExitStack() as held:
        chosen: dict[str, int] = {}
        # Given ports first: a free one must not take the place of one that was asked for.
        for name, port in sorted(dataclasses.asdict(wanted).items(), key=lambda item: item[1] == 0):
            listener = _bind_any(hosts[name]) if port == 0 else _bind(hosts[name], port, FLAGS[name])
            held.enter_context(listener)
            chosen[name] = listener.getsockname()[1]
        return Ports(**chosen)


def connect_host(host: str) -> str:
    """The address at which a server bound to `host` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_any(host: str) -> socket.socket:
    for port in random.SystemRandom().sample(FREE_PORTS, 200):
        try:
            return _open(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _explained(error, host, port, "--port") from error
    raise LauncherError(f"no free port found on {host} in 200 tries; name the ports with {', '.join(FLAGS.values())}")


def _bind(host: str, port: int, flag: str) -> socket.socket:
    try:
        return _open(host, port)
    except (OSError, OverflowError) as error:
        raise _explained(error, host, port, flag) from error


def _open(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it a port that was in use a minute ago counts as taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Two sockets of this kind may share a port until one listens.
        listener.listen(1)
    except BaseException:  # whatever it is, the socket is not handed out
        listener.close()
        raise
    return listener


def _explained(error: Exception, host: str, port: int, flag: str) -> LauncherError:
    if isinstance(error, OverflowError):
        return LauncherError(f"{flag} {port} is not a port number (0 to 65535)")
    if isinstance(error, socket.gaierror) or getattr(error, "errno", 0) == errno.EADDRNOTAVAIL:
        return LauncherError(f"--host {host} is not an address of this machine; 127.0.0.1 always is")
    if getattr(error, "errno", 0) == errno.EACCES:
        return LauncherError(f"{flag} {port} needs the rights of root; choose a port above 1023")
    return LauncherError(
        f"port {port} on {host} is taken: stop what uses it, or choose another with {flag} (0 = any free port)"
    )
