"""From messages, text or ids to the token ids of a prompt, with a placeholder for each feature of an image or video.

Text that a user typed never becomes a control token: every special token in it is masked before the chat template runs,
and encoded as plain text after.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from python_backends.errors import InvalidInput, Unsupported
from python_backends.llm.feature_cache import ImageFeatures
from python_backends.llm.vision_client import Wishes
from python_backends.types import ImageSpan

# Private-use characters around the index of a masked special token. A typed _OPEN is masked itself, so none is forged.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MASKED = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]
    images: tuple[ImageSpan, ...]

    @property
    def num_image_tokens(self) -> int:
        return sum(image.end - image.start for image in self.images)


class Prompter:
    """The checkpoint's tokenizer and chat template."""

    def __init__(self, model: str, chat_template: str = "", trust_remote_code: bool = False) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, trust_remote_code=trust_remote_code
        )
        # A tokenizer.json may have been saved with limits of its training; a prompt must never be cut silently.
        self.backend.no_truncation()
        self.backend.no_padding()
        if chat_template:
            path = Path(chat_template)
            self.tokenizer.chat_template = path.read_text() if path.is_file() else chat_template
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        self._image_token_id: int | None = getattr(config, "image_token_id", None)
        self._video_token_id: int | None = getattr(config, "video_token_id", None)
        # Then features do not take the placeholder's place: layers of their own attend to them.
        self._beside = bool(getattr(config.get_text_config(), "cross_attention_layers", None))
        special = {number: token for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self._no_text = {*special, self._image_token_id, self._video_token_id}
        self._specials = sorted({_OPEN, *(token.content for token in special.values())}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, self._specials)))

    @property
    def backend(self) -> Tokenizer:
        """The `tokenizers` object behind Hugging Face's class."""
        return cast(Tokenizer, self.tokenizer.backend_tokenizer)

    def from_messages(
        self, messages: list[Any], tools: list[Any] | None = None, kwargs: dict[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation, images as one placeholder each, ready for the assistant's answer."""
        if not self.tokenizer.chat_template:
            raise Unsupported("this checkpoint has no chat template; send text_input", "messages")
        checked = [_check_message(message, index) for index, message in enumerate(messages)]
        if not checked:
            raise InvalidInput("must not be empty", "messages")
        if "chat_template" in (kwargs or {}):
            raise InvalidInput("the template is the server's to choose", "chat_template_kwargs")
        options = {"add_generation_prompt": True, **self._mask(kwargs or {})}
        try:
            text = self.tokenizer.apply_chat_template(
                self._mask(checked), tools=self._mask(tools), tokenize=False, **options
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidInput(f"the chat template refused them: {error}", "messages") from error
        return self._encode_masked(str(text))

    def from_text(self, text: str) -> list[int]:
        """Token ids of a finished prompt; special tokens in it are control tokens."""
        return list(self.backend.encode(text).ids)

    def word_ids(self, word: str) -> list[tuple[int, ...]]:
        """The ways a bad word can be spelt in tokens: at the start of a text, and after a space."""
        spellings = (self.backend.encode(form, add_special_tokens=False).ids for form in (word, f" {word}"))
        return sorted({tuple(ids) for ids in spellings if ids})

    def expand(self, ids: list[int], images: list[ImageFeatures], videos: list[ImageFeatures] | None = None) -> Prompt:
        """Put one token per feature in place of each placeholder. Raises InvalidInput if the counts differ."""
        found = self._placed(ids, self._image_mark(ids, images), images, "image")
        found |= self._placed(ids, self._video_token_id, videos or [], "video")
        expanded: list[int] = []
        spans: list[ImageSpan] = []
        rest = 0
        for place, image in sorted(found.items(), key=lambda each: each[0]):
            expanded = self._join(expanded, ids[rest:place])
            placeholder = cast(
                int, self._video_token_id if ids[place] == self._video_token_id else self._image_token_id
            )
            block = self._image_ids(image, placeholder)
            expanded = self._join(expanded, block)
            start = len(expanded) - len(block)
            if self._beside:
                spans.append(ImageSpan(start, image.features, image.grid, image.digest, beside=True))
            else:
                spans += _spans(image, block, start, placeholder)
            rest = place + 1
        return Prompt(tuple(self._join(expanded, ids[rest:])), tuple(spans))

    def _join(self, left: list[int], right: list[int]) -> list[int]:
        """Both, and the text where they meet as if tokenized at once: Gemma 3's images bring line breaks."""
        tail = list(itertools.takewhile(self._is_text, reversed(left)))[::-1]
        head = list(itertools.takewhile(self._is_text, right)) if tail else []
        if not head:
            return left + right
        words = [self.backend.decode(part, skip_special_tokens=False) for part in (tail, head)]
        whole, *parts = (self.backend.encode(text, add_special_tokens=False).ids for text in ("".join(words), *words))
        # What comes back as something else stays as it is, such as a special token that a user typed.
        if parts != [tail, head] or not all(map(self._is_text, whole)):
            return left + right
        return left[: -len(tail)] + whole + right[len(head) :]

    def _is_text(self, token_id: int) -> bool:
        return token_id not in self._no_text

    def _image_mark(self, ids: list[int], images: list[ImageFeatures]) -> int | None:
        """The token that stands for an image until its features are known: the placeholder, in most families.

        In Gemma 3 it is the mark that then goes before the placeholders.
        """
        if self._image_token_id is None or self._image_token_id in ids or not images:
            return self._image_token_id
        block = self._image_ids(images[0], self._image_token_id)
        first = block.index(self._image_token_id)
        return block[max(0, first - 1)]

    def _placed(
        self, ids: list[int], placeholder: int | None, media: list[ImageFeatures], kind: str
    ) -> dict[int, ImageFeatures]:
        """Which place of the prompt is whose."""
        if media and placeholder is None:
            raise Unsupported(f"this model does not see {kind}s", kind)
        places = [place for place, token in enumerate(ids) if token == placeholder]
        if len(places) != len(media):
            raise InvalidInput(f"the prompt has {len(places)} places for {kind}s, but {len(media)} came", kind)
        return dict(zip(places, media, strict=True))

    def _image_ids(self, image: ImageFeatures, placeholder: int) -> list[int]:
        """The tokens that take the place of a placeholder; as many placeholders among them as features."""
        if self._beside:
            return [placeholder]
        if not image.prompt:
            return [placeholder] * len(image.features)
        ids = list(self.backend.encode(image.prompt, add_special_tokens=False).ids)
        if ids.count(placeholder) != len(image.features):
            raise InvalidInput(f"has not one placeholder for each of {len(image.features)} features", "image_prompt")
        return ids

    def _mask(self, value: Any) -> Any:
        """Replace special tokens in everything that a user can have typed."""
        if isinstance(value, str):
            return self._special.sub(self._masked, value)
        if isinstance(value, list):
            return [self._mask(item) for item in value]
        if isinstance(value, dict):
            return {self._mask(name): self._mask(item) for name, item in value.items()}
        return value

    def _masked(self, found: re.Match[str]) -> str:
        return f"{_OPEN}{self._specials.index(found.group())}{_CLOSE}"

    def _encode_masked(self, text: str) -> list[int]:
        ids: list[int] = []
        for position, piece in enumerate(_MASKED.split(text)):
            if position % 2:
                ids += self._plain.encode(self._specials[int(piece)], add_special_tokens=False).ids
            elif piece:
                ids += self.backend.encode(piece, add_special_tokens=False).ids
        return ids

    @cached_property
    def _plain(self) -> Tokenizer:
        """A copy that reads special tokens as ordinary text; made only when somebody types one."""
        copy = Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = True
        return copy


def _spans(image: ImageFeatures, block: list[int], start: int, placeholder: int) -> list[ImageSpan]:
    """One span per run of placeholders; each further one has a key of its own."""
    spans: list[ImageSpan] = []
    # A text of its own marks the frames of a video: each run is one of them.
    grid = (1, *image.grid[1:]) if image.prompt else image.grid
    used = 0
    for is_image, run in itertools.groupby(block, lambda token: token == placeholder):
        length = len(list(run))
        if is_image:
            key = sha256(image.digest + used.to_bytes(8, "little")).digest() if used else image.digest
            spans.append(ImageSpan(start, image.features[used : used + length], grid, key, image.seconds_per_grid))
            used += length
        start += length
    return spans


def place_media(messages: list[Any], num_images: int, num_videos: int = 0) -> list[Any]:
    """Images and videos that no part of the messages stands for go before the text of the last user message."""
    missing = _missing(messages, image=num_images, video=num_videos)
    more = [{"type": kind} for kind, count in missing for _ in range(count)]
    users = [index for index, message in enumerate(messages) if _is_user(message)]
    if not more or not users:
        return messages
    last = messages[users[-1]]
    content = last.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        return messages
    placed = {**last, "content": more + parts}
    return [*messages[: users[-1]], placed, *messages[users[-1] + 1 :]]


def _missing(messages: list[Any], **wanted: int) -> list[tuple[str, int]]:
    return [(kind, count - len(_media_parts(messages, kind))) for kind, count in wanted.items()]


def wishes_of(messages: list[Any], kind: str = "image") -> list[Wishes]:
    """What each part of this kind wishes for its image or video, in order. Raises InvalidInput for a bad number."""
    return [
        Wishes(_pixels(part, "min_pixels"), _pixels(part, "max_pixels"), _fps(part) if kind == "video" else 0.0)
        for part in _media_parts(messages, kind)
    ]


def _pixels(part: dict[str, Any], name: str) -> int:
    value = part.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 < value < 2**62:
        raise InvalidInput(f"{name} of a part must be a positive number of pixels, got {value!r:.40}", "messages")
    return value


def _fps(part: dict[str, Any]) -> float:
    value = part.get("fps")
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not 0 < value <= 1000:
        raise InvalidInput(f"fps of a video must be above 0 and at most 1000, got {value!r:.40}", "messages")
    return float(value)


def _is_user(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


def _media_parts(messages: list[Any], kind: str) -> list[dict[str, Any]]:
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part for part in parts if isinstance(part, dict) and part.get("type") in (kind, f"{kind}_url")]


def _check_message(message: Any, index: int) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidInput(f"message {index} must be an object with a role", "messages")
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in parts):
        raise InvalidInput(f"the content of message {index} must be text or a list of parts", "messages")
    return message
