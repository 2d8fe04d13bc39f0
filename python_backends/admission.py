"""Who may come in, and in which order: what every engine asks of a request before it costs anything."""

from __future__ import annotations

from collections.abc import Iterable

from python_backends.errors import ContextOverflow, InvalidInput
from python_backends.types import GenerationRequest


def check_request(request: GenerationRequest, limit: int, vocab_size: int, max_num_seqs: int) -> int:
    """How many tokens it may generate: what it asks for, as far as the context of `limit` tokens has room.

    Raises ContextOverflow if none fits, InvalidInput for token ids out of the vocabulary or too many sequences.
    """
    num_prompt, sampling = len(request.prompt_ids), request.sampling
    if num_prompt == 0:
        raise InvalidInput("the prompt has no tokens", "text_input")
    _check_token_ids(request.prompt_ids, vocab_size, "input_ids")
    _check_token_ids(sampling.logit_bias, vocab_size, "logit_bias")
    _check_token_ids(sampling.stop_token_ids, vocab_size, "stop_token_ids")
    if sampling.n > max_num_seqs:
        raise InvalidInput(f"at most {max_num_seqs}, got {sampling.n}", "num_return_sequences")
    if num_prompt >= limit:
        raise ContextOverflow(f"the prompt has {num_prompt} tokens; the context holds {limit}", "messages")
    wanted = sampling.max_tokens
    if wanted is not None and wanted > limit:
        raise ContextOverflow(f"{wanted} tokens are more than the context holds, which is {limit}", "max_tokens")
    return min(wanted or limit, limit - num_prompt)


def turn(priority: int, arrived: float, ageing_s: float) -> tuple[int, float]:
    """Where a request stands in line; the lowest goes first.

    A request of priority p counts as if it had come p * `ageing_s` seconds later. So waiting lifts it over more urgent
    ones that come later, nobody starves, and the order of two requests never changes. With 0 priorities are strict.
    """
    return (0, arrived + priority * ageing_s) if ageing_s else (priority, arrived)


def _check_token_ids(token_ids: Iterable[int], vocab_size: int, field: str) -> None:
    # min and max run in C; a prompt may have 100,000 tokens.
    known = token_ids if isinstance(token_ids, tuple) else tuple(token_ids)
    if known and not (min(known) >= 0 and max(known) < vocab_size):
        bad = next(token_id for token_id in known if not 0 <= token_id < vocab_size)
        raise InvalidInput(f"token ids must be in 0..{vocab_size - 1}, got {bad}", field)
