"""The tokenizer alone: text or messages to ids, ids to text, as the `llm` entry would read them.

Knows the checkpoint's tokenizer and chat template by way of llm/prompt.py. Refuses to know Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from python_backends.errors import InvalidInput
from python_backends.llm.prompt import Prompter


@dataclass(frozen=True)
class Encoding:
    ids: list[int]
    text: str


class Codec:
    """Tokenizer and chat template of the checkpoint in the folder or hub repository `model`."""

    def __init__(self, model: str) -> None:
        self._prompter = Prompter(model)
        self._vocab_size = self._prompter.backend.get_vocab_size()

    def from_text(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Special tokens written in the text are read as such; add_special_tokens adds the tokenizer's own."""
        return Encoding(list(self._prompter.backend.encode(text, add_special_tokens=add_special_tokens).ids), text)

    def from_messages(
        self, messages: Any, tools: list[Any] | None = None, add_generation_prompt: bool = True
    ) -> Encoding:
        """A conversation under the checkpoint's chat template; an image part is one placeholder token.

        Raises InvalidInput, naming `messages`, when they or the template do not allow it.
        """
        if not isinstance(messages, list):
            raise InvalidInput("must be a list of messages", "messages")
        options = {"add_generation_prompt": add_generation_prompt}
        ids = list(self._prompter.from_messages(messages, tools, options))
        return Encoding(ids, self._decode(ids))

    def from_ids(self, ids: Sequence[int]) -> Encoding:
        """Raises InvalidInput, naming `input_ids`, for an id that the tokenizer does not have."""
        strange = [token for token in ids if not 0 <= token < self._vocab_size]
        if strange:
            raise InvalidInput(f"{strange[0]} is not a token id; there are {self._vocab_size}", "input_ids")
        return Encoding(list(ids), self._decode(ids))

    def _decode(self, ids: Sequence[int]) -> str:
        return self._prompter.backend.decode(list(ids), skip_special_tokens=False)
