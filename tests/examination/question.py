"""A question with its right answer, and what counts as right."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

IMAGE: dict[str, Any] = {"type": "image"}


@dataclass(frozen=True)
class Question:
    """messages are OpenAI's, with a part {"type": "image"} for each of `pictures` (encoded bytes), in order.

    kind is `group: detail`. With `is_pattern`, `answer` is a regular expression for what may be worded freely.
    """

    kind: str
    messages: tuple[dict[str, Any], ...]
    answer: str
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    tools: tuple[dict[str, Any], ...] = ()
    is_pattern: bool = False

    @property
    def group(self) -> str:
        return self.kind.split(":")[0]

    @property
    def text(self) -> str:
        """What is asked last, for people."""
        content = self.messages[-1]["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        return " ".join(part for part in parts if part) or "(no text)"

    def accepts(self, given: str) -> bool:
        """Spaces around an answer do not count, everything else does."""
        if self.is_pattern:
            return re.search(self.answer, given, re.IGNORECASE) is not None
        return given.strip() == self.answer


Maker = Callable[[random.Random], Question]


def user(*content: dict[str, Any] | str) -> dict[str, Any]:
    """A user's message of pictures (IMAGE) and texts."""
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "user", "content": content[0]}
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": "user", "content": parts}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def call_text(name: str, arguments: object) -> str:
    """One form for a tool call, whoever reports it; `arguments` are an object, or its JSON text."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            return f"call of {name} with what is no JSON: {arguments}"
    return f"call {name} {json.dumps(arguments, sort_keys=True)}"


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def listed(phrases: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last
