"""What a drawn token means for its sequence: whether it goes on, and what its reader is told. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_backends.errors import BackendError
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import FinishReason, TokenEvent

if TYPE_CHECKING:
    from python_backends.torch_engine.sampler import Draw


def next_event(sequence: Sequence, draw: Draw | BackendError, eos_token_ids: frozenset[int]) -> TokenEvent:
    """Append the drawn token; the event has a finish_reason when it ends the sequence. Raises a draw that failed."""
    if isinstance(draw, BackendError):
        raise draw
    sampling, constraint, token_id = sequence.request.sampling, sequence.constraint, draw.token_id
    sequence.tokens.append(token_id)
    if constraint:
        constraint.accept(token_id)
    is_whole = constraint is not None and constraint.is_over
    # Whoever ignores the end token still ends with the grammar, which has nothing to say after it.
    ends = sampling.stop_token_ids | (frozenset() if sampling.ignore_eos and not is_whole else eos_token_ids)
    is_stop = token_id in ends
    reason = None
    if is_stop or is_whole:
        reason = FinishReason.STOP
    elif sequence.num_output_tokens >= sequence.max_tokens:
        reason = FinishReason.LENGTH
    stop_token_id = token_id if is_stop else None
    return TokenEvent(
        token_id,
        draw.logprob,
        reason,
        stop_token_id,
        sequence.num_cached,
        index=sequence.index,
        queued_s=sequence.queued_s,
    )
