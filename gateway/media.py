"""Turns the media that a request holds into encoded bytes; fetches nothing and looks into none of them."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from gateway.errors import InvalidRequest, PayloadTooLarge, Unsupported

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
# The type that it names is often wrong; the content is looked at instead.
_DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;=]{1,100}=[^;,]{0,100}){0,10}(\s*;\s*base64)?\s*,", re.I)
# MIME tools break base64 into lines.
_SPACE = re.compile(r"\s+")


def remote_url(reference: str) -> str | None:
    """`reference` if it is the URL of something that must be fetched."""
    scheme = _SCHEME.match(reference.strip())
    return None if scheme is None or scheme[1].lower() == "data" else reference.strip()


def media_bytes(reference: str, param: str, max_bytes: int, kind: str = "image") -> bytes:
    """Returns the bytes of a data URL, or of bare base64; `kind` says in errors what they are.

    Raises InvalidRequest, Unsupported (other schemes) or PayloadTooLarge, each naming `param`.
    """
    reference = reference.strip()
    scheme = _SCHEME.match(reference)
    payload = reference if scheme is None else _data_url_payload(reference, scheme[1].lower(), param, kind)
    # Four characters carry three bytes, so the size is known before anything is decoded.
    if len(payload) // 4 * 3 > max_bytes + 2:
        raise PayloadTooLarge(f"the {kind} is larger than {max_bytes} bytes", param)
    data = _decode(payload, param, kind)
    if not data:
        raise InvalidRequest(f"the {kind} is empty", param)
    return data


def _data_url_payload(reference: str, scheme: str, param: str, kind: str) -> str:
    if scheme != "data":
        raise Unsupported(f"{scheme[:20]} URLs are not accepted here; data URLs are", param)
    header = _DATA_URL.match(reference)
    if header is None or header[1] is None:
        example = {"image": "image/png", "video": "video/mp4", "audio": "audio/wav"}[kind]
        raise InvalidRequest(f"the data URL must have the form data:{example};base64,...", param)
    return reference[header.end() :]


def _decode(payload: str, param: str, kind: str) -> bytes:
    try:
        return base64.b64decode(_SPACE.sub("", unquote(payload)), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"the {kind} is neither a data URL nor base64", param) from None
