"""Images by URL: real HTTP servers on the loopback, and what the gateway refuses to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web

from gateway.errors import InvalidRequest
from gateway.fetch import MediaFetcher, is_public
from gateway.schemas.chat import read_chat_request
from gateway.schemas.messages import Limits, media_urls, read_prompt
from gateway.schemas.sampling import to_json
from tests.backends.vision_server import Vision, served

PNG = b"\x89PNG a picture"


async def _picture(request: web.Request) -> web.StreamResponse:
    return web.Response(body=PNG, content_type="image/png")


async def _page(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>", content_type="text/html")


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "image/png"})
    await response.prepare(request)
    while True:
        await response.write(bytes(1000))


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "image/png"})
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


def _changing() -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    numbers = count(1)

    async def another(request: web.Request) -> web.StreamResponse:
        return web.Response(body=PNG + str(next(numbers)).encode(), content_type="image/png")

    return another


def _to(location: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": location})

    return redirect


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """An HTTP server; gives its base URL."""
    app = web.Application()
    routes = {"/a.png": _picture, "/page": _page, "/endless": _endless, "/drip": _drip, "/changing": _changing()}
    redirects = {
        "/moved": "/a.png",
        "/round": "/round",
        "/inside": "http://10.0.0.1/a.png",
        "/file": "file:///etc/passwd",
    }
    for path, handler in {**routes, **{path: _to(place) for path, place in redirects.items()}}.items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fetching(hosts: str = "*", folder: str = "", local: bool = True) -> AsyncIterator[MediaFetcher]:
    """A fetcher that may ask the loopback too, if `local`."""
    fetcher = MediaFetcher(hosts, folder, 5000, 0.5, (lambda found: found.is_loopback) if local else is_public)
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def test_an_image_comes_also_over_a_redirect() -> None:
    async with server() as base, fetching() as fetcher:
        found = await fetcher.fetch_all({f"{base}/a.png": "a", f"{base}/moved": "b"})
    assert list(found.values()) == [PNG, PNG]


async def test_the_bytes_decide_what_is_encoded_and_not_the_url() -> None:
    vision = Vision()
    async with server() as base, fetching() as fetcher:
        with served(vision) as client:
            for path in ("/a.png", "/moved", "/a.png", "/changing", "/changing"):
                [image] = (await fetcher.fetch_all({base + path: "a"})).values()
                await asyncio.to_thread(client.features, [image])
    assert vision.asked == [PNG, PNG + b"1", PNG + b"2"]


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("/page", "invalid_value", "leads to text/html"),
        ("/endless", "payload_too_large", "larger than 5000"),
        ("/drip", "fetch_failed", "within 0.5 s"),
        ("/missing", "fetch_failed", "status 404"),
        ("/round", "url_not_allowed", "3 redirects"),
        ("/inside", "url_not_allowed", "no public address"),
        ("/file", "url_not_allowed", "only http and https"),
    ],
)
async def test_what_is_no_image_is_refused(path: str, code: str, text: str) -> None:
    async with server() as base, fetching() as fetcher:
        with pytest.raises(InvalidRequest, match=text) as caught:
            await fetcher.fetch_all({base + path: "messages.0"})
    assert (caught.value.param, caught.value.code) == ("messages.0", code)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0"]
)
async def test_no_address_of_this_network_is_asked(host: str) -> None:
    async with fetching(local=False) as fetcher:
        with pytest.raises(InvalidRequest, match=r"no public address|cannot be fetched") as caught:
            await fetcher.fetch_all({f"http://{host}:9/a.png": "messages.0"})
    assert caught.value.code in ("url_not_allowed", "fetch_failed")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("0.0.0.0", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1", False),
        ("fc00::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) == public


async def test_only_hosts_of_the_list_are_asked() -> None:
    async with server() as base, fetching("*.example.org, 127.0.0.1") as fetcher:
        assert await fetcher.fetch_all({f"{base}/a.png": "a"})
        for url in ("http://example.com/a", "http://example.org@evil.com/", "http://u:p@127.0.0.1/", r"http://a\@b/"):
            with pytest.raises(InvalidRequest, match=r"not fetched from|without a user|cannot be fetched") as caught:
                await fetcher.fetch_all({url: "a"})
            assert caught.value.param == "a"


async def test_all_is_off_by_default() -> None:
    async with fetching("") as fetcher:
        for url in ("http://example.org/a.png", "file:///etc/passwd", "ftp://example.org/a.png"):
            with pytest.raises(InvalidRequest, match="URLs are not accepted here") as caught:
                await fetcher.fetch_all({url: "a"})
            assert caught.value.code == "unsupported"


async def test_files_of_one_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a b.png").write_bytes(PNG)
    (folder / "large.png").write_bytes(bytes(5001))
    (tmp_path / "secret").write_text("secret")
    (folder / "link.png").symlink_to(tmp_path / "secret")
    async with fetching("", str(folder)) as fetcher:
        assert list((await fetcher.fetch_all({f"file://{folder}/a%20b.png": "a"})).values()) == [PNG]
        for path in ("link.png", "../secret", "%2e%2e/secret", "missing", ""):
            with pytest.raises(InvalidRequest, match="no such file"):
                await fetcher.fetch_all({f"file://{folder}/{path}": "a"})
        with pytest.raises(InvalidRequest, match="larger than 5000"):
            await fetcher.fetch_all({f"file://{folder}/large.png": "a"})


def test_urls_are_looked_for_in_image_parts_only() -> None:
    url = "http://example.org/a.png"
    part = {"type": "image_url", "image_url": {"url": url}}
    content = [{"type": "text", "text": f"![]({url})"}, part, part, {"type": "image", "image": "http://b/"}]
    body = {"messages": [{"role": "user", "content": f"![]({url})"}, {"role": "user", "content": content}]}
    messages = read_chat_request(to_json(body, "body")).messages
    found = media_urls(messages, "image", 3)
    assert found == {url: "messages.1.content.1.image_url.url", "http://b/": "messages.1.content.3.image"}
    fetched = {url: b"1", "http://b/": b"2"}
    assert read_prompt(messages, Limits(3, 100), Limits(0, 0), fetched).images == [b"1", b"1", b"2"]
    with pytest.raises(InvalidRequest, match="At most 2 images"):
        media_urls(messages, "image", 2)
