"""Guided decoding: which tokens a grammar allows next. The grammars are llguidance's; `grammar.py` writes them.

request threads   compile: guide -> Constraint; the tokenizer is read for the first of them
mask thread       what may come next, found out while the model computes the step
engine thread     begin a step's masks, draw, accept the token that was drawn
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from python_backends.errors import BackendError, InternalFault, InvalidInput, Unsupported
from python_backends.torch_engine.grammar import write_grammar
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import Guide

# A service asks for the same few schemas all day; a large one takes longer to compile than to answer.
_NUM_COMPILED = 64


class Constraint:
    """Where one sequence is in its grammar. The engine's and the mask thread use it in turns, never at once."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def fork(self) -> Constraint:
        return Constraint(self.matcher.deep_copy())

    def accept(self, token_id: int) -> None:
        if not self.matcher.consume_token(token_id):
            raise InternalFault(f"the grammar does not take token {token_id}: {self.matcher.get_error()}")

    @property
    def is_over(self) -> bool:
        """Nothing can follow but the end: the text is whole, or its end token came."""
        return bool(self.matcher.is_stopped())


@dataclass(frozen=True)
class Allowed:
    """What may come next: `tokens` [vocabulary] bool; `only_ends` when all of them are end tokens."""

    tokens: np.ndarray[Any, Any]
    only_ends: bool
    error: BackendError | None = None


class Masks:
    """What the grammars of one step allow, as soon as it is known."""

    def __init__(self, found: Future[dict[int, Allowed]] | None = None) -> None:
        self._found = found

    def wait(self) -> None:
        """Until the mask thread is done with the constraints, which may not be touched before."""
        if self._found:
            self._found.result()

    def of(self, sequence: Sequence) -> Allowed | None:
        """None for a sequence that has no guide."""
        if self._found is None or sequence.constraint is None:
            return None
        found = self._found.result()
        if sequence.id in found or sequence.parent is None:
            return found[sequence.id]
        # A new fork is where its parent was when the masks were begun.
        return found[sequence.parent]


NO_MASKS = Masks()


class Guidance:
    """The engine's grammars, over the checkpoint's tokenizer and the model's own idea of an end."""

    def __init__(
        self, checkpoint: str, trust_remote_code: bool, vocab_size: int, eos_token_ids: frozenset[int]
    ) -> None:
        self._checkpoint = checkpoint
        self._trust_remote_code = trust_remote_code
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._tokenizer: tuple[LLTokenizer, dict[str, int]] | None = None
        self._lock = Lock()
        self._compiled = lru_cache(_NUM_COMPILED)(self._compile)
        self._fill = LLExecutor()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")

    def compile(self, guide: Guide) -> Constraint:
        """A constraint at its beginning. Raises InvalidInput for a guide that is wrong or that the library lacks."""
        return self._compiled(guide).fork()

    def begin(self, sequences: list[Sequence]) -> Masks:
        """Start to find out what the guided ones among `sequences` may say next."""
        constraints = {each.id: each.constraint for each in sequences if each.constraint}
        return Masks(self._thread.submit(self._masks, constraints)) if constraints else NO_MASKS

    def close(self) -> None:
        self._thread.shutdown()

    def _compile(self, guide: Guide) -> Constraint:
        tokenizer, specials = self._read_tokenizer()
        try:
            matcher = LLMatcher(tokenizer, write_grammar(guide, specials), log_level=0)
        except ValueError as error:  # half a surrogate pair is no text for the library
            raise InvalidInput(str(error), "guided_decoding_guide") from error
        if matcher.is_error():
            raise InvalidInput(matcher.get_error().strip(), "guided_decoding_guide")
        return Constraint(matcher)

    def _masks(self, constraints: dict[int, Constraint]) -> dict[int, Allowed]:
        tokenizer, _ = self._read_tokenizer()
        bits = allocate_token_bitmask(len(constraints), tokenizer.vocab_size)
        matchers = [each.matcher for each in constraints.values()]
        fill_next_token_bitmask_par(self._fill, [(matcher, row) for row, matcher in enumerate(matchers)], bits)
        tokens = np.unpackbits(bits.view(np.uint8), axis=1, count=self._vocab_size, bitorder="little").view(np.bool_)
        return {
            number: self._allowed(matcher, row)
            for number, matcher, row in zip(constraints, matchers, tokens, strict=True)
        }

    def _allowed(self, matcher: LLMatcher, tokens: np.ndarray[Any, Any]) -> Allowed:
        if matcher.is_error():
            text = f"the grammar cannot be followed any further: {matcher.get_error().strip()}"
            return Allowed(tokens, False, InvalidInput(text, "guided_decoding_guide"))
        return Allowed(tokens, bool(tokens.sum() == tokens[self._eos_token_ids].sum()))

    def _read_tokenizer(self) -> tuple[LLTokenizer, dict[str, int]]:
        """The library's view of the tokenizer, and the special tokens, which no text can spell, by name."""
        with self._lock:
            if self._tokenizer is None:
                found = AutoTokenizer.from_pretrained(self._checkpoint, trust_remote_code=self._trust_remote_code)
                if not isinstance(found, PreTrainedTokenizerFast):
                    raise Unsupported(f"{type(found).__name__} has no grammars", "guided_decoding_guide_type")
                known = from_tokenizer(found, max(self._vocab_size, len(found)), self._eos_token_ids or None)
                added = found.added_tokens_decoder.items()
                self._tokenizer = known, {str(each.content): number for number, each in added if _is_special(each)}
            return self._tokenizer


def _is_special(token: AddedToken) -> bool:
    """As the library sees it: Qwen's <tool_call> is ordinary text to the tokenizer, and one piece to the grammar."""
    text = str(token.content)
    return bool(token.special) or (text.startswith("<") and text.endswith(">"))
