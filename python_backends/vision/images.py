"""From encoded image bytes to an upright RGB image of 8 bits.

Knows file formats, base64, transparency and bit depths. Refuses to know models, pixel values and Triton.
"""

from __future__ import annotations

import base64
import binascii
import re
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from python_backends.errors import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 8192 * 8192

# decode_image checks the size in the header itself, and with an error instead of Pillow's warning.
Image.MAX_IMAGE_PIXELS = None

_DATA_URL = re.compile(rb"\s*data:[\w/+.;=-]*;base64,", re.ASCII)
_BASE64 = re.compile(rb"[A-Za-z0-9+/=\s]+")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as a person sees it: turned upright, on white where it is transparent, first frame if it moves.

    `data` is a file of one of FORMATS, or base64 of it (also as a data URL). Raises InvalidInput, naming `image`, for
    anything else and for more than `max_pixels` pixels; the limit is checked before any pixel is decoded.
    """
    if not data:
        raise InvalidInput("the image is empty", "image")
    try:
        with Image.open(BytesIO(_from_base64(data)), formats=FORMATS) as opened:
            _check_size(opened, max_pixels)
            return _to_rgb(ImageOps.exif_transpose(opened))
    except InvalidInput:
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(f"the image is none of {', '.join(FORMATS)}", "image") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise InvalidInput(f"the image cannot be decoded: {error}", "image") from error


def _from_base64(data: bytes) -> bytes:
    """Undo base64 if `data` is that; the files of FORMATS all hold bytes that base64 text cannot."""
    text = _DATA_URL.sub(b"", data, count=1) if data.lstrip()[:5] == b"data:" else data
    if not _BASE64.fullmatch(text):
        return data
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return data


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidInput(f"the image has {width} x {height} pixels, more than the limit of {max_pixels}", "image")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        image = Image.fromarray(_eight_bit(np.asarray(image)))
    if image.mode == "F":
        raise InvalidInput("the image has floating-point pixels, whose range is not known", "image")
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def _eight_bit(pixels: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """[h, w] of 0..65535 to 0..255; Pillow's own conversion would clip."""
    return (np.clip(pixels, 0, 65535).astype(np.uint32) // 257).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
