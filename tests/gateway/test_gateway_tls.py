"""TLS on both sides of the gateway, with certificates made for the test, and which web pages may ask."""

from __future__ import annotations

import hashlib
import json
import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from gateway.server import create_server
from gateway.settings import SettingError, Settings
from gateway.triton import read_credentials
from tests.fake_triton import FakeTriton
from tests.gateway.conftest import StartGateway

PAGE = "https://page.example"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(folder: Path, authority: trustme.CA, name: str) -> tuple[str, str]:
    """A certificate and its key."""
    made = authority.issue_cert(name)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    return str(certificate), str(key)


async def test_https(start_gateway: StartGateway, authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = files(tmp_path, authority, "127.0.0.1")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    gateway = await start_gateway(trusting, tls_cert_file=certificate, tls_key_file=key)
    assert gateway.base_url.startswith("https://")
    answer = await gateway.chat(stream=True)
    assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        async with httpx.AsyncClient(trust_env=False) as stranger:
            await stranger.get(gateway.base_url + "/liveness")
    with pytest.raises(httpx.RemoteProtocolError):
        async with httpx.AsyncClient(trust_env=False) as plain:
            await plain.get(gateway.base_url.replace("https", "http") + "/liveness")


async def test_triton_behind_mutual_tls(start_gateway: StartGateway, authority: trustme.CA, tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    authority.cert_pem.write_to_path(str(root))
    server, server_key = files(tmp_path, authority, "127.0.0.1")
    client, client_key = files(tmp_path, authority, "gateway.example")
    pair = (Path(server_key).read_bytes(), Path(server).read_bytes())
    fake = FakeTriton()
    fake.credentials = grpc.ssl_server_credentials([pair], root.read_bytes(), require_client_auth=True)
    await fake.start()
    try:
        known = {"triton_ca_file": str(root), "triton_cert_file": client, "triton_key_file": client_key}
        gateway = await start_gateway(triton_grpc=fake.endpoint, **known)
        assert (await gateway.chat()).json()["choices"][0]["message"]["content"] == "Hello world"
        unknown = await start_gateway(triton_grpc=fake.endpoint, triton_ca_file=str(root))
        assert (await unknown.chat()).status_code == 503
        # Plain gRPC to a port with TLS.
        plain = await start_gateway(triton_grpc=fake.endpoint)
        assert (await plain.chat()).status_code == 503
    finally:
        await fake.stop()


def test_bad_files_are_named(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, _ = files(tmp_path, authority, "a.example")
    _, other_key = files(tmp_path, authority, "b.example")
    for options in ({"tls_cert_file": certificate}, {"tls_key_file": other_key}, {"triton_cert_file": certificate}):
        with pytest.raises(SettingError, match=f"{next(iter(options))}.*needs"):
            Settings(**options)
    for cert, key in ((certificate, other_key), ("no/file", other_key), (other_key, other_key)):
        with pytest.raises(SettingError, match=r"tls_cert_file.*cannot be used"):
            create_server(Settings(tls_cert_file=cert, tls_key_file=key))
    with pytest.raises(SettingError, match=r"triton_ca_file.*No such file"):
        read_credentials(Settings(triton_ca_file="no/file"))


async def test_pages_of_other_origins_are_off_by_default(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    response = await gateway.http.get("/v1/models", headers={"Origin": PAGE})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_named_origins_may_ask(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(cors_origins=f"{PAGE}, http://localhost:3000", api_keys="tm-one-key-of-the-tests")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    # A browser asks beforehand, without a key.
    before = await gateway.http.options("/v1/chat/completions", headers={"Origin": PAGE, **asked})
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in before.headers["access-control-allow-headers"].lower()
    other = await gateway.http.options("/v1/chat/completions", headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in other.headers
    refused = await gateway.http.get("/v1/models", headers={"Origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE, "a page must be able to read why"
    assert "access-control-allow-credentials" not in refused.headers


async def test_a_page_may_read_what_its_key_has_left(start_gateway: StartGateway, tmp_path: Path) -> None:
    limits = {"requests_per_minute": 100, "tokens_per_minute": 100}
    sha256 = hashlib.sha256(b"tm-one-key-of-the-tests").hexdigest()
    keys = tmp_path / "keys.jsonl"
    keys.write_text(json.dumps({"name": "page", "sha256": sha256, **limits}))
    gateway = await start_gateway(cors_origins=PAGE, api_key_file=str(keys))
    who = {"Origin": PAGE, "Authorization": "Bearer tm-one-key-of-the-tests"}
    headers = (await gateway.http.get("/v1/models", headers=who)).headers
    exposed = headers["access-control-expose-headers"].split(", ")
    told = [name for name in headers if name.startswith("x-ratelimit-")]
    assert len(told) == 6 and {*told, "x-request-id", "retry-after"} == set(exposed)


@pytest.mark.parametrize("origin", ["*", "page.example", "https://page.example/", "ftp://page.example", "null"])
def test_an_origin_is_exact(origin: str) -> None:
    with pytest.raises(SettingError, match="cors_origins"):
        Settings(cors_origins=origin)
