"""Ending the gRPC streams of native clients from outside of tritonserver.

Triton never ends the open streams of a model process that was killed (docs/decisions/0021). Their connections can be:
the launcher borrows the sockets of its child and shuts them down, so the clients get UNAVAILABLE at once.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable

import psutil

SYS_PIDFD_GETFD = 438


def shut_connections(server_pid: int, port: int, kept: Iterable[int]) -> int:
    """Shut all connections to `port` of `server_pid`, except those made by the processes `kept`; return how many.

    Raises PermissionError or OSError where the kernel does not lend sockets (Linux before 5.6, ptrace forbidden).
    """
    # On one machine the port of the peer tells the process; a peer elsewhere is nobody's friend.
    own_ports = {local for pid in kept for local in _local_ports(pid)}
    server = os.pidfd_open(server_pid)
    try:
        found = [fd for fd, peer in _accepted(server_pid, port) if peer not in own_ports]
        return sum(_shut(server, fd) for fd in found)
    finally:
        os.close(server)


def _accepted(pid: int, port: int) -> list[tuple[int, int]]:
    """(file descriptor, port of the peer) of each connection that `pid` accepted at `port`."""
    connections = psutil.Process(pid).net_connections("tcp")
    return [(one.fd, one.raddr.port) for one in connections if one.raddr and one.laddr.port == port]


def _local_ports(pid: int) -> set[int]:
    try:
        return {one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.raddr}
    except psutil.Error:
        return set()


def _shut(server: int, fd: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    borrowed = libc.syscall(SYS_PIDFD_GETFD, server, fd, 0)
    if borrowed < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    with socket.socket(fileno=borrowed) as connection:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The client left in the meantime.
            return False
    return True
