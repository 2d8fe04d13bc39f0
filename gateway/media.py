"""Turns the image references of a request into encoded bytes; fetches nothing and decodes no pixels."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from gateway.errors import InvalidRequest, PayloadTooLarge, Unsupported

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_DATA_URL = re.compile(r"data:([\w.+\-]+/[\w.+\-]+)?((?:;[\w.+\-]+=[^;,]*)*)(;base64)?,", re.I)
# MIME tools break base64 into lines.
_SPACE = re.compile(r"\s+")


def image_bytes(reference: str, param: str, max_bytes: int) -> bytes:
    """Returns the bytes of a data URL, or of bare base64.

    Raises InvalidRequest, Unsupported (other schemes) or PayloadTooLarge, each naming `param`.
    """
    scheme = _SCHEME.match(reference)
    payload = reference if scheme is None else _data_url_payload(reference, scheme[1].lower(), param)
    # Four characters carry three bytes, so the size is known before anything is decoded.
    if len(payload) // 4 * 3 > max_bytes + 2:
        raise PayloadTooLarge(f"the image is larger than {max_bytes} bytes", param)
    data = _decode(payload, param)
    if not data:
        raise InvalidRequest("the image is empty", param)
    return data


def _data_url_payload(reference: str, scheme: str, param: str) -> str:
    if scheme != "data":
        raise Unsupported(f"{scheme[:20]} URLs are not accepted for now; only data URLs are", param)
    header = _DATA_URL.match(reference)
    if header is None or header[3] is None:
        raise InvalidRequest("the data URL must have the form data:image/png;base64,...", param)
    if header[1] and not header[1].lower().startswith(("image/", "application/octet-stream")):
        raise InvalidRequest(f"the data URL holds {header[1][:50]}, not an image", param)
    return reference[header.end() :]


def _decode(payload: str, param: str) -> bytes:
    try:
        return base64.b64decode(_SPACE.sub("", unquote(payload)), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("the image is neither a data URL nor base64", param) from None
