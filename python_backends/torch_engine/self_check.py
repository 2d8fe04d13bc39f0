"""Before the first request: does the engine say what the checkpoint's own forward says?

A short text, and an image where the family sees, go through the engine as requests do: cut into chunks, then one token
at a time, from the cache. The logits are compared with those of the checkpoint's own forward, which has no cache and
the library's plain attention. Whatever an unknown family keeps between tokens, or does before or after its decoder,
shows here. What shows only in a long text is `structure.py`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from python_backends.errors import BackendError, OptionError
from python_backends.torch_engine.model import DecoderModel
from python_backends.torch_engine.runner import Runner
from python_backends.torch_engine.scheduler import Chunk, Step
from python_backends.torch_engine.sequence import Sequence, mutual_ranges
from python_backends.types import GenerationRequest, ImageSpan, SamplingParams

# Two chunks, then single tokens. The first ends inside the image, where there is one that may be cut, else before it.
_ENDS = (6, 11, 12, 13, 14)
_IMAGE_START = 4
_GRID = (1, 4, 4)
# Rounding differs between two orders of the same sums; a wrong mask, position or state differs by about 1.
_TOLERANCE = {torch.float32: 0.001}
_TOLERANCE_OF_HALVES = 0.1


def check_model(model: DecoderModel, runner: Runner) -> None:
    """Raises OptionError if text comes out wrong; images that do are refused request by request from then on."""
    ids = _token_ids(model)
    # Layers that only look like the common kind are computed by the library's own modules.
    if model.fused and _difference(model, runner, ids):
        model.fused = None
    if reason := _difference(model, runner, ids):
        raise OptionError(f"the torch engine cannot serve the family {model.family!r}: {reason}")
    if model.image_token_id is not None:
        image = _image(model)
        ids[image.start : image.end] = [model.image_token_id] * (image.end - image.start)
        model.image_problem = _difference(model, runner, ids, image)


def _difference(model: DecoderModel, runner: Runner, ids: list[int], image: ImageSpan | None = None) -> str:
    """Why the two do not agree; nothing if they do."""
    request = GenerationRequest(0, tuple(ids), SamplingParams(), () if image is None else (image,))
    mutual = mutual_ranges(request.images) if model.images_are_mutual else ()
    sequence = Sequence(request, lambda event: None, ids, max_tokens=1, mutual=mutual)
    ends = [sequence.chunk_end(end) for end in _ENDS]
    try:
        expected = model.own_logits(ids, image)[[end - 1 for end in ends]].float()
        served = _served_logits(runner, sequence, ends).float()
    except (BackendError, RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        return f"a trial ended with {type(error).__name__}: {error}"
    # Families pad their vocabulary with rows of -inf, or hold tokens back.
    finite = expected.isfinite() & served.isfinite()
    expected, served = expected.where(finite, 0), served.where(finite, 0)
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    # The median: in half precision a mixture of experts may choose another expert for a token.
    distance = float(((served - expected).norm(dim=-1) / spread).median())
    if distance < _TOLERANCE.get(model.dtype, _TOLERANCE_OF_HALVES):
        return ""
    return f"its logits differ from those of its own forward by {distance:.3f} of their spread"


def _served_logits(runner: Runner, sequence: Sequence, ends: list[int]) -> torch.Tensor:
    """Logits [ends, vocabulary] after each of `ends` tokens, by the way that requests go."""
    ids = sequence.tokens
    sequence.slot = 0
    runner.admit(sequence)
    try:
        return torch.cat([_logits_up_to(runner, sequence, ids[:end]) for end in ends])
    finally:
        runner.forget(sequence)


def _logits_up_to(runner: Runner, sequence: Sequence, ids: list[int]) -> torch.Tensor:
    sequence.tokens = ids
    logits = runner.run(Step([Chunk(sequence, sequence.num_uncomputed)], []))
    sequence.num_computed = len(ids)
    return logits


def _token_ids(model: DecoderModel) -> list[int]:
    """Tokens from everywhere in the vocabulary, but none that stands for an image or a sound."""
    drawn = torch.randperm(model.vocab_size, generator=torch.Generator().manual_seed(0)).tolist()
    return [token for token in drawn if token not in model.media_token_ids][: _ENDS[-1]]


def _image(model: DecoderModel) -> ImageSpan:
    """Features that look like embeddings of words, so that the layers get what they are used to."""
    beside = bool(model.image_layers)
    # Beside the prompt: two patches in each tile, and one tile of padding.
    grid = (1, 1, max(1, model.max_num_tiles - 1)) if beside else _GRID
    merged = 2 * model.max_num_tiles if beside else _GRID[1] * _GRID[2] // model.patches_per_token
    words = torch.arange(merged * model.feature_size // model.hidden_size) % model.vocab_size
    features: np.ndarray[Any, Any] = model.embed(words.to(model.device)).float().cpu().numpy()
    return ImageSpan(_IMAGE_START, features.reshape(merged, -1), grid, b"self-check", beside=beside)
