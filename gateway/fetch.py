"""Fetches the media that a request names by URL: http(s) from allowed hosts, files from one allowed folder.

Both are off until a setting allows them. A host is looked up once, every answer must be public, and the connection goes
to the address that was checked; each redirect is checked as if the client had sent it (OWASP's rules against SSRF).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.errors import InvalidRequest, Unsupported

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
_MAX_REDIRECTS = 3
_MAX_AT_ONCE = 32
_CHUNK = 64 * 1024
_UNTOLD = ("application/octet-stream", "binary/octet-stream")
# Content types by what they begin with; containers of sound are often told by the name of their pictures.
_TYPES = {
    "image": ("image/", *_UNTOLD),
    "video": ("video/", *_UNTOLD),
    "audio": ("audio/", "video/", "application/ogg", *_UNTOLD),
}


class NotAllowed(Exception):
    """A host or an address that must not be asked; the text may be shown."""


def is_public(address: Address) -> bool:
    """Whether `address` is one of the open internet. Addresses that carry another one inside count as that one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64 or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


class MediaFetcher:
    """`hosts` are names or patterns such as `*.example.org`, comma separated; `*` is any. `folder` holds files.

    `allows` decides about addresses; tests let the loopback through. `kind` is what is fetched: one of _TYPES.
    """

    def __init__(
        self,
        hosts: str,
        folder: str,
        max_bytes: int,
        timeout_s: float,
        allows: Callable[[Address], bool] = is_public,
        kind: str = "image",
    ) -> None:
        self._kind = kind
        self._hosts = [host.strip().lower() for host in hosts.split(",") if host.strip()]
        self._folder = Path(folder).resolve() if folder else None
        self._max_bytes = max_bytes
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._allows = allows
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def fetch_all(self, urls: Mapping[str, str]) -> dict[str, bytes]:
        """The bytes behind each URL. `urls` gives the path of the field that names it, for errors.

        Raises InvalidRequest for what cannot be had, and Unsupported for a scheme that is switched off.
        """
        tasks = [asyncio.ensure_future(self._fetch(url, param)) for url, param in urls.items()]
        try:
            return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _fetch(self, url: str, param: str) -> bytes:
        scheme = url.partition(":")[0].lower()
        if scheme == "file" and self._folder is not None:
            return await asyncio.to_thread(self._read_file, self._folder, url, param)
        if scheme not in ("http", "https") or not self._hosts:
            raise Unsupported(f"{scheme[:20]} URLs are not accepted here; data URLs are", param)
        try:
            async with self._places:
                return await asyncio.wait_for(self._download(URL(url), param), self._timeout.total)
        except NotAllowed as error:
            raise InvalidRequest(str(error), param, "url_not_allowed") from None
        except asyncio.TimeoutError:
            text = f"no {self._kind} came within {self._timeout.total:g} s"
            raise InvalidRequest(text, param, "fetch_failed") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            text = f"the {self._kind} cannot be fetched ({_reason(error)})"
            raise InvalidRequest(text, param, "fetch_failed") from None

    async def _download(self, url: URL, param: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(url)
            async with self._open_session().get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    return await self._body(response, param)
                url = url.join(URL(response.headers.get("Location", "")))
        raise NotAllowed(f"more than {_MAX_REDIRECTS} redirects")

    def _check(self, url: URL) -> None:
        """The host as the connection will use it: parsed once, by the library that connects."""
        if url.scheme not in ("http", "https") or not url.host or url.user is not None or url.password is not None:
            raise NotAllowed("only http and https URLs without a user are fetched")
        host = url.host.lower().rstrip(".")
        if not any(fnmatchcase(host, pattern) for pattern in self._hosts):
            raise NotAllowed(f"media are not fetched from {host[:100]!r}")
        try:
            literal = ip_address(host)
        except ValueError:
            return
        # The resolver is not asked about these.
        if not self._allows(literal):
            raise NotAllowed("the host has no public address")

    async def _body(self, response: aiohttp.ClientResponse, param: str) -> bytes:
        if response.status != 200:
            raise InvalidRequest(f"the host answered with status {response.status}", param, "fetch_failed")
        kind = response.headers.get("Content-Type", f"{self._kind}/").partition(";")[0].strip().lower()
        if not kind.startswith(_TYPES[self._kind]):
            raise InvalidRequest(f"the URL leads to {kind[:50]}, not to an {self._kind} file", param)
        data = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            data += chunk
            if len(data) > self._max_bytes:
                raise self._too_large(param)
        return bytes(data)

    def _read_file(self, folder: Path, url: str, param: str) -> bytes:
        address = URL(url)
        path = Path(unquote(address.raw_path)).resolve()
        # Resolved first, so that neither `..` nor a link leads out.
        if address.host or not path.is_relative_to(folder) or not path.is_file():
            raise InvalidRequest("there is no such file in the folder that is allowed", param, "url_not_allowed")
        if path.stat().st_size > self._max_bytes:
            raise self._too_large(param)
        return path.read_bytes()

    def _too_large(self, param: str) -> InvalidRequest:
        return InvalidRequest(f"the {self._kind} is larger than {self._max_bytes} bytes", param, "payload_too_large")

    def _open_session(self) -> aiohttp.ClientSession:
        """Made in the loop that uses it. No cookies, no proxies of the environment, nothing unpacked."""
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=_CheckedResolver(self._allows), use_dns_cache=False, limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept": f"{self._kind}/*", "Accept-Encoding": "identity", "User-Agent": "Trimodal"},
            )
        return self._session


class _CheckedResolver(AbstractResolver):
    """The system's names; one address that must not be asked spoils the host. aiohttp connects to what this returns."""

    def __init__(self, allows: Callable[[Address], bool]) -> None:
        self._allows = allows
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found: list[ResolveResult] = await self._system.resolve(host, port, family)
        if not all(self._allows(ip_address(each["host"].partition("%")[0])) for each in found):
            raise NotAllowed("the host has no public address")
        return found

    async def close(self) -> None:
        await self._system.close()


def _reason(error: Any) -> str:
    return "the host cannot be reached" if isinstance(error, OSError) else type(error).__name__
