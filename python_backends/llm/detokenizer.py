"""Token ids to text that is safe to send: whole characters, and nothing that could be the start of a stop word."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# GPT-2's byte-level alphabet: printable bytes stand for themselves, the others are counted from 256 on.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Text:
    """New text, and the stop word that ends the generation when one was found."""

    text: str
    stop: str = ""


class Detokenizer:
    """The text of one generation, token by token; `flush` gives the rest when it is over.

    A stop word counts when it ends in what came after the first `min_tokens` tokens, as in vLLM.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._skip_special_tokens = skip_special_tokens
        self._stop = stop
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._num_immune = 0
        self._ids: list[int] = []
        self._decoded = ""
        self._num_sent = 0

    def push(self, token_id: int) -> Text:
        """Add a token; returns what may be sent now."""
        self._ids.append(token_id)
        self._decoded += self._stream.step(self._tokenizer, token_id) or ""
        if len(self._ids) <= self._min_tokens:
            self._num_immune = len(self._decoded)
        return self._release(self._held_back())

    def flush(self) -> Text:
        """The end: what was held back, and bytes that never became a whole character."""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip_special_tokens)
        # The stream's text is a prefix of the whole one's but for tokenizers that rewrite what was said.
        if whole.startswith(self._decoded):
            self._decoded = whole
        return self._release(0)

    def _release(self, held_back: int) -> Text:
        found = self._find_stop()
        if found:
            start, word = found
            text = self._decoded[self._num_sent : start + (len(word) if self._include_stop else 0)]
            self._num_sent = len(self._decoded)
            return Text(text, word)
        end = len(self._decoded) - held_back
        text = self._decoded[self._num_sent : end]
        self._num_sent = max(end, self._num_sent)
        return Text(text)

    def _find_stop(self) -> tuple[int, str] | None:
        """The first stop word in what was not sent yet."""
        starts = ((word, max(self._num_sent, self._num_immune - len(word) + 1)) for word in self._stop)
        places = ((self._decoded.find(word, start), word) for word, start in starts)
        return min(((start, word) for start, word in places if start >= 0), default=None)

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop word could begin with."""
        unsent = self._decoded[self._num_sent :]
        lengths = (
            size
            for word in self._stop
            for size in range(min(len(word) - 1, len(unsent)), 0, -1)
            if unsent.endswith(word[:size])
        )
        return max(lengths, default=0)


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The UTF-8 bytes a token stands for, also when they are only a part of a character."""
    text = tokenizer.decode([token_id], skip_special_tokens=False)
    if "\ufffd" not in text:
        return str(text).encode()
    spelt = tokenizer.id_to_token(token_id) or ""
    if found := _BYTE_TOKEN.fullmatch(spelt):
        return bytes.fromhex(found.group(1))
    return bytes(_BYTE_OF[character] for character in spelt) if _BYTE_OF.keys() >= set(spelt) else str(text).encode()
