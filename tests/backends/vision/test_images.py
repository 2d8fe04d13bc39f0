"""Every kind of image file comes out as the picture that a person sees, or is refused by name."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from python_backends.errors import InvalidInput
from python_backends.vision.images import MAX_PIXELS, decode_image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def left_and_right(data: bytes) -> list[tuple[int, ...]]:
    image = decode_image(data)
    assert image.mode == "RGB"
    return [
        image.getpixel((image.width // 4, image.height // 2)),
        image.getpixel((image.width * 3 // 4, image.height // 2)),
    ]  # type: ignore[list-item, return-value]


def close(found: list[tuple[int, ...]], wanted: list[tuple[int, int, int]]) -> bool:
    return bool(np.abs(np.array(found) - np.array(wanted)).max() <= 40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(kind: str) -> None:
    data = encode(halves("P") if kind == "GIF" else halves(), kind)
    assert close(left_and_right(data), [RED, BLUE])


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InvalidInput, match="is none of PNG, JPEG"):
        decode_image(encode(halves(), kind))


@pytest.mark.parametrize("mode", ["P", "1", "L"])
def test_palette_and_gray(mode: str) -> None:
    expected = halves(mode).convert("RGB")
    found = decode_image(encode(halves(mode)))
    assert found.tobytes() == expected.tobytes()


def test_cmyk_jpeg() -> None:
    assert close(left_and_right(encode(halves("CMYK"), "JPEG", quality=95)), [RED, BLUE])


def test_sixteen_bits_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    found = np.asarray(decode_image(encode(Image.fromarray(ramp))))
    assert np.abs(found[..., 0].astype(int).ravel() - np.arange(256)).max() <= 1


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(InvalidInput, match="floating-point"):
        decode_image(encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


def test_transparent_parts_are_white() -> None:
    image = halves("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    assert left_and_right(encode(image)) == [WHITE, BLUE]


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (40, 20), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (20, 0, 40, 20))
    assert left_and_right(encode(image, transparency=0)) == [WHITE, BLUE]


def test_exif_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert close(left_and_right(encode(halves(), "JPEG", quality=95, exif=exif)), [BLUE, RED])


def test_an_animation_shows_its_first_frame() -> None:
    second = Image.new("RGB", (40, 20), WHITE)
    data = encode(halves(), "GIF", save_all=True, append_images=[second])
    assert close(left_and_right(data), [RED, BLUE])


@pytest.mark.parametrize("prefix", [b"", b"data:image/png;base64,"])
def test_base64_is_understood(prefix: bytes) -> None:
    coded = prefix + base64.encodebytes(encode(halves()))
    assert left_and_right(coded) == [RED, BLUE]


def test_too_many_pixels_are_refused_before_decoding() -> None:
    # A header without any pixel data: whoever decodes first complains about that instead.
    header = struct.pack(">IIBBBBB", 8193, MAX_PIXELS // 8192, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(InvalidInput, match="8193 x 8192 pixels"):
        decode_image(data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"AAAA", encode(halves())[:60], b"\xff\xd8\xff\xe0" + bytes(100)])
def test_broken_files_name_the_field(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_image(data)
    assert caught.value.field == "image"
    assert caught.value.wire_text.startswith("[INVALID_ARGUMENT] image: ")
