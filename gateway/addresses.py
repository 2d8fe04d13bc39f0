"""From `host:port` to the addresses behind it: a name may stand for several servers, as a headless service does."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address


def is_literal(endpoint: str) -> bool:
    """Whether the host is an address already, which is never looked up."""
    try:
        ip_address(endpoint.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


async def addresses_of(endpoint: str) -> list[str]:
    """`ip:port` of every server behind `host:port`, in order. Raises OSError for a name that is not known."""
    if is_literal(endpoint):
        return [endpoint]
    host, _, port = endpoint.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    # A server with addresses of both families is still one server.
    four = sorted({f"{address[0]}:{port}" for family, *_, address in found if family == socket.AF_INET})
    return four or sorted({f"[{address[0]}]:{port}" for *_, address in found})
