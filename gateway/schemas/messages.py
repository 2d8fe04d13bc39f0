"""The messages of a chat: images and videos are split off, the rest goes to the model as it is. Knows no template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import ConfigDict, WithJsonSchema

from gateway.errors import InvalidRequest, PayloadTooLarge, Unsupported
from gateway.media import media_bytes, remote_url
from gateway.schemas.common import RequestSchema
from gateway.schemas.sampling import to_json
from gateway.schemas.shapes import ANYTHING, NONEMPTY, NULL, TEXT, list_of, object_of, one_of, typed, words

PART_TYPES = "text, image_url, video_url and, in a chat, input_audio and audio_url"
# Which field of such a part holds the sound; a chat has texts in their place before it is read here.
AUDIO_KINDS = {"input_audio": "data", "audio_url": "url"}
DETAILS = ("auto", "low", "high", "original")
# OpenAI's size for `low`: 512 x 512.
LOW_DETAIL_PIXELS = 512 * 512
PIXEL_BOUNDS = ("min_pixels", "max_pixels")
MAX_FPS = 1000
# Type of a part -> what it holds.
MEDIA_KINDS = {"image_url": "image", "image": "image", "video_url": "video"}
NOTHING: Mapping[str, bytes] = MappingProxyType({})


_PIXELS = one_of({"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, NULL)
_DETAIL = {"detail": one_of(words(*DETAILS), NULL)}
PIXELS_AND_DETAIL = _DETAIL | dict.fromkeys(PIXEL_BOUNDS, _PIXELS)
IMAGE = one_of(NONEMPTY, object_of({"url": NONEMPTY}, _DETAIL))
_FPS = one_of({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_FPS}, NULL)
_VIDEO = one_of(NONEMPTY, object_of({"url": NONEMPTY}))
# What `_wire_part` and `_wire_call` accept.
PARTS = one_of(
    typed("text", {"text": TEXT}),
    typed("refusal", {"refusal": TEXT}),
    typed("image_url", {"image_url": IMAGE}, PIXELS_AND_DETAIL),
    typed("image", {"image": IMAGE}, PIXELS_AND_DETAIL),
    typed("video_url", {"video_url": _VIDEO}, dict.fromkeys(PIXEL_BOUNDS, _PIXELS) | {"fps": _FPS}),
    *(typed(kind, {kind: object_of({key: NONEMPTY})}) for kind, key in AUDIO_KINDS.items()),
)
CALL = object_of({"function": object_of({"name": TEXT}, {"arguments": ANYTHING})})
_CONTENT = one_of(TEXT, list_of(PARTS))


class ChatMessage(RequestSchema):
    """One message; other keys (name, tool_call_id) belong to the model's template and are handed on."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "anyOf": [
                object_of({"role": words("assistant")}),
                object_of({"role": words("system", "developer", "user", "tool"), "content": _CONTENT}),
            ]
        },
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Any, WithJsonSchema(one_of(_CONTENT, NULL))] = None
    tool_calls: Annotated[Any, WithJsonSchema(one_of(list_of(CALL), NULL))] = None


class Prompt(NamedTuple):
    """The messages as the wire wants them (JSON), and their images and videos in order, as encoded bytes."""

    messages: bytes
    images: list[bytes]
    videos: list[bytes]


class Limits(NamedTuple):
    """How many of one kind a request may have, and how many bytes each."""

    max_count: int
    max_bytes: int


@dataclass
class _Media:
    """What was found so far of one kind, the bounds of a request and what was fetched for it."""

    kind: str
    max_bytes: int
    fetched: Mapping[str, bytes]
    found: list[bytes] = field(default_factory=list)

    def take(self, reference: str, path: str) -> None:
        fetched = self.fetched.get(remote_url(reference) or "")
        try:
            data = media_bytes(reference, path, self.max_bytes, self.kind) if fetched is None else fetched
            self.found.append(data)
        except PayloadTooLarge as error:
            raise InvalidRequest(str(error), path, error.code) from None


def media_urls(messages: list[ChatMessage], kind: str, max_count: int) -> dict[str, str]:
    """The URLs of images or videos to fetch, each with the path of the first part that names it.

    Raises InvalidRequest.
    """
    urls: dict[str, str] = {}
    count = 0
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else []):
            if isinstance(part, dict) and MEDIA_KINDS.get(_kind(part)) == kind:
                count += 1
                reference, where = _reference(part, f"messages.{i}.content.{j}", kind)
                if url := remote_url(reference):
                    urls.setdefault(url, where)
    _check_count(kind, count, max_count)
    return urls


def read_prompt(
    messages: list[ChatMessage],
    images: Limits,
    videos: Limits,
    fetched: Mapping[str, bytes] = NOTHING,
) -> Prompt:
    """Splits images and videos off; `fetched` holds those behind URLs.

    Raises InvalidRequest, Unsupported or PayloadTooLarge with the path of the part.
    """
    limits = {"image": images, "video": videos}
    media = {kind: _Media(kind, limit.max_bytes, fetched) for kind, limit in limits.items()}
    wire = [_wire_message(message, f"messages.{i}", media) for i, message in enumerate(messages)]
    for kind, limit in limits.items():
        _check_count(kind, len(media[kind].found), limit.max_count)
    return Prompt(to_json(wire, "messages"), media["image"].found, media["video"].found)


def _check_count(kind: str, count: int, max_count: int) -> None:
    if count > max_count:
        raise InvalidRequest(f"At most {max_count} {kind}s are allowed in one request, got {count}.", "messages")


def _wire_message(message: ChatMessage, path: str, media: Mapping[str, _Media]) -> dict[str, Any]:
    # OpenAI's newer name for the same role, which templates do not know.
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, list):
        content = [_wire_part(part, f"{path}.content.{index}", media) for index, part in enumerate(content)]
    elif content is None and message.role != "assistant":
        raise InvalidRequest("content is required", f"{path}.content", "missing_required")
    elif not isinstance(content, str | None):
        raise InvalidRequest("content must be a text or a list of parts", f"{path}.content")
    more = dict(message.model_extra or {})
    if message.tool_calls not in (None, []):
        more["tool_calls"] = _wire_calls(message.tool_calls, f"{path}.tool_calls")
    # Templates know the older of the two names.
    if "reasoning" in more:
        more.setdefault("reasoning_content", more.pop("reasoning"))
    return {"role": role, "content": content, **more}


def _wire_calls(calls: Any, path: str) -> list[Any]:
    if not isinstance(calls, list):
        raise InvalidRequest("must be a list", path)
    return [_wire_call(call, f"{path}.{index}") for index, call in enumerate(calls)]


def _wire_call(call: Any, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest("must be an object with a function that has a name", path)
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(arguments: Any) -> Any:
    """OpenAI sends text, templates want the object. Broken ones stay text: they may be what the model said."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments


def _wire_part(part: Any, path: str, media: Mapping[str, _Media]) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise InvalidRequest("a content part must be an object", path)
    kind = _kind(part)
    if kind in ("text", "refusal"):
        if not isinstance(part.get(kind), str):
            raise InvalidRequest(f"{kind} must be a text", f"{path}.{kind}")
        return {"type": "text", "text": part[kind]}
    if found := MEDIA_KINDS.get(kind):
        media[found].take(*_reference(part, path, found))
        return {"type": found, **(_image_wishes if found == "image" else _video_wishes)(part, path)}
    raise Unsupported(f"content parts of type {str(kind)[:50]!r} are not supported, only {PART_TYPES}", f"{path}.type")


def _kind(part: Mapping[str, Any]) -> Any:
    kind = part.get("type") or next((name for name in ("image_url", "video_url") if name in part), None)
    return kind if isinstance(kind, str) else str(kind)


def _image_wishes(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Qwen's names beside the image, or OpenAI's `detail`."""
    bounds = _bounds(part, path)
    inner = part.get("image_url")
    detail = inner.get("detail") if isinstance(inner, Mapping) else part.get("detail")
    if detail not in (None, *DETAILS):
        raise InvalidRequest(f"must be one of {', '.join(DETAILS)}, got {detail!r:.40}", f"{path}.image_url.detail")
    if detail == "low":
        bounds.setdefault("max_pixels", max(LOW_DETAIL_PIXELS, bounds.get("min_pixels", 0)))
    return bounds


def _video_wishes(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Bounds of each frame, and how many frames a second."""
    fps = part.get("fps")
    if fps is None:
        return _bounds(part, path)
    if type(fps) not in (int, float) or not 0 < fps <= MAX_FPS:
        raise InvalidRequest(f"must be above 0 and at most {MAX_FPS}, got {fps!r:.40}", f"{path}.fps")
    return {**_bounds(part, path), "fps": fps}


def _bounds(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What the client wishes for the size, in Qwen's names."""
    bounds: dict[str, Any] = {}
    for name in PIXEL_BOUNDS:
        if (value := part.get(name)) is not None:
            if type(value) is not int or not 0 < value < 2**31:
                raise InvalidRequest(f"must be a positive number of pixels, got {value!r:.40}", f"{path}.{name}")
            bounds[name] = value
    return bounds


def _reference(part: Mapping[str, Any], path: str, kind: str) -> tuple[str, str]:
    """Finds the image in {"image_url": {"url"}}, {"image_url": text}, {"image": text} or {"image": {"url"}}."""
    names = [name for name, found in MEDIA_KINDS.items() if found == kind]
    key = next((name for name in names if name in part), names[0])
    value, where = part.get(key), f"{path}.{key}"
    if isinstance(value, dict):
        value, where = value.get("url"), f"{where}.url"
    if not isinstance(value, str) or not value:
        raise InvalidRequest("must be a data URL or base64", where)
    return value, where
