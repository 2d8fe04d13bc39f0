"""Every setting of the gateway, in one frozen object: from the command line, else TRIMODAL_* variables, else a default.

Knows names, types and ranges; opens nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

MIB = 1024 * 1024


class SettingError(Exception):
    """A setting has a bad value; the text names the key and the value."""

    def __init__(self, key: str, value: object, why: str) -> None:
        super().__init__(f"{key}: {value!r} {why}")


def _option(default: Any, help_text: str, low: float = 0) -> Any:
    return field(default=default, metadata={"help": help_text, "low": low})


def _secret(help_text: str) -> Any:
    """Comes from the environment only: a command line can be read by everybody on the machine."""
    return field(default="", repr=False, metadata={"help": help_text, "low": 0, "secret": True})


@dataclass(frozen=True)
class Settings:
    """Names end in `_s` for seconds and `_bytes` for bytes. Raises SettingError when a value is out of range."""

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(8000, "port to listen on; 0 takes any free one")
    triton_grpc: str = _option("127.0.0.1:8001", "host:port of Triton's gRPC; of replicas: several, or one name of all")
    triton_metrics: str = _option("127.0.0.1:8002", "host:port of Triton's metrics, one or several, to show too")
    triton_ca_file: str = _option("", "root certificates (PEM) that Triton's gRPC must be signed by; empty: no TLS")
    triton_cert_file: str = _option("", "the gateway's own certificate for Triton (PEM), with triton_key_file")
    triton_key_file: str = _option("", "the key of triton_cert_file")
    tls_cert_file: str = _option("", "the server's certificate chain (PEM), with tls_key_file; empty: plain HTTP")
    tls_key_file: str = _option("", "the key of tls_cert_file")
    api_key_file: str = _option("", "who may ask: one JSON object per line, see docs/security.md; empty: everybody")
    api_keys: str = _secret("further keys themselves, separated by commas")
    open_routes: str = _option("/liveness", "paths that need no key, separated by commas")
    cors_origins: str = _option("", "web origins whose pages may ask, such as https://a.example; separated by commas")
    workers: int = _option(1, "processes on the one port; every limit is per worker", 1)
    log_level: str = _option("info", "debug, info, warning or error")
    max_concurrency: int = _option(256, "requests served at once; one more gets 429", 1)
    max_body_bytes: int = _option(64 * MIB, "largest JSON body", 1)
    max_audio_bytes: int = _option(25 * MIB, "largest audio file", 1)
    max_images: int = _option(16, "images in one request")
    max_image_bytes: int = _option(20 * MIB, "largest encoded image", 1)
    max_videos: int = _option(4, "videos in one request")
    max_video_bytes: int = _option(40 * MIB, "largest video file", 1)
    max_audio_parts: int = _option(8, "audio parts in one chat")
    max_audio_part_s: float = _option(600.0, "longest audio part of a chat, in seconds", 0.01)
    allowed_media_hosts: str = _option("", "hosts that media URLs may name, such as *.example.org; empty: none, *: any")
    allowed_media_folder: str = _option("", "folder that file:// media URLs may name; empty: none")
    media_timeout_s: float = _option(10.0, "time that fetching one image, video or sound may take", 0.01)
    loadable_models: str = _option("", "folders and checkpoints that /api/v1/inference/load may load; empty: none")
    stream_idle_s: float = _option(60.0, "a generation that says nothing for so long fails", 0.01)
    watch_interval_s: float = _option(0.25, "how often models with open streams are checked", 0.01)
    discovery_interval_s: float = _option(1.0, "how often Triton's models are listed", 0.01)
    keep_alive_s: float = _option(15.0, "an idle event stream gets a comment this often", 0.01)
    shutdown_s: float = _option(5.0, "time that open requests get at shutdown")

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            # Written so that NaN, which is never in a range, fails too.
            if isinstance(value, int | float) and not option.metadata["low"] <= value < 2**40:
                raise SettingError(option.name, value, f"must be at least {option.metadata['low']}")
        if self.port > 65535:
            raise SettingError("port", self.port, "is not a port")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise SettingError("log_level", self.log_level, "must be debug, info, warning or error")
        if not split(self.triton_grpc):
            raise SettingError("triton_grpc", self.triton_grpc, "must be host:port")
        for name in ("triton_grpc", "triton_metrics"):
            for endpoint in split(getattr(self, name)):
                _check_endpoint(name, endpoint)
        for name in ("tls", "triton"):
            _check_pair(f"{name}_cert_file", f"{name}_key_file", self)
        if self.triton_cert_file and not self.triton_ca_file:
            raise SettingError("triton_cert_file", self.triton_cert_file, "needs triton_ca_file as well")
        for origin in split(self.cors_origins):
            _check_origin(origin)

    @property
    def is_local(self) -> bool:
        """Only this machine can connect."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingError; SystemExit for --help and unknown options."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="OpenAI-compatible gateway to Triton.")
    for option in (option for option in fields(Settings) if "secret" not in option.metadata):
        help_text = f"{option.metadata['help']} (default {option.default!r}; environment {_variable(option.name)})"
        parser.add_argument("--" + option.name.replace("_", "-"), dest=option.name, help=help_text)
    given = vars(parser.parse_args(arguments))
    values = {}
    for option in fields(Settings):
        text = given[option.name] if given.get(option.name) is not None else environment.get(_variable(option.name))
        if text is not None:
            values[option.name] = _convert(option.name, text, type(option.default))
    return Settings(**values)


def split(text: str) -> list[str]:
    """The items of a list that is separated by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _variable(name: str) -> str:
    return "TRIMODAL_" + name.upper()


def _convert(key: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SettingError(key, text, f"is not of type {kind.__name__}") from None


def _check_endpoint(key: str, value: str) -> None:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal():
        raise SettingError(key, value, "must be host:port")


def _check_pair(cert: str, key: str, settings: Settings) -> None:
    given, other = (cert, key) if getattr(settings, cert) else (key, cert)
    if getattr(settings, given) and not getattr(settings, other):
        raise SettingError(given, getattr(settings, given), f"needs {other} as well")


def _check_origin(origin: str) -> None:
    # "*" would open a gateway on the loopback to every page that its user visits.
    url = urlsplit(origin)
    if origin != f"{url.scheme}://{url.netloc}" or url.scheme not in ("http", "https") or not url.netloc:
        raise SettingError("cors_origins", origin, "must be an exact origin: http or https, host, and port if any")
