"""From messages, text or ids to the token ids of a prompt, with one run of placeholders per image.

Text that a user typed never becomes a control token: every special token in it is masked before the chat template runs,
and encoded as plain text after.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from python_backends.errors import InvalidInput, Unsupported
from python_backends.llm.vision_client import ImageFeatures
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
        return sum(len(image.features) for image in self.images)


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
        added = self.tokenizer.added_tokens_decoder.values()
        self._specials = sorted({_OPEN, *(token.content for token in added if token.special)}, key=len, reverse=True)
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

    def expand(self, ids: list[int], images: list[ImageFeatures]) -> Prompt:
        """Put one token per feature in place of each image's placeholder. Raises InvalidInput if the counts differ."""
        places = [place for place, token in enumerate(ids) if token == self._image_token_id]
        if images and self._image_token_id is None:
            raise Unsupported("this model does not see images", "image")
        if len(places) != len(images):
            raise InvalidInput(f"the prompt has {len(places)} places for images, but {len(images)} came", "image")
        expanded: list[int] = []
        spans: list[ImageSpan] = []
        rest = 0
        for place, image in zip(places, images, strict=True):
            expanded += ids[rest:place]
            spans.append(ImageSpan(len(expanded), image.features, image.grid, image.digest))
            expanded += [ids[place]] * len(image.features)
            rest = place + 1
        return Prompt((*expanded, *ids[rest:]), tuple(spans))

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


def place_images(messages: list[Any], num_images: int) -> list[Any]:
    """Images that no part of the messages stands for go before the text of the last user message."""
    missing = num_images - sum(_num_image_parts(message) for message in messages)
    users = [index for index, message in enumerate(messages) if _is_user(message)]
    if missing <= 0 or not users:
        return messages
    last = messages[users[-1]]
    content = last.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        return messages
    placed = {**last, "content": [{"type": "image"}] * missing + parts}
    return [*messages[: users[-1]], placed, *messages[users[-1] + 1 :]]


def _is_user(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


def _num_image_parts(message: Any) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and part.get("type") in ("image", "image_url") for part in parts)


def _check_message(message: Any, index: int) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidInput(f"message {index} must be an object with a role", "messages")
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in parts):
        raise InvalidInput(f"the content of message {index} must be text or a list of parts", "messages")
    return message
