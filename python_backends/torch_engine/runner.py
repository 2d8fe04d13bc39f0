"""From the scheduler's step to logits: flattens chunks to one row of tokens, runs the model, picks the last rows."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch

from python_backends.torch_engine.attention import StepContext
from python_backends.torch_engine.cache import KVCache
from python_backends.torch_engine.cross_attention import CrossAttention, ImageStates
from python_backends.torch_engine.model import DecoderModel
from python_backends.torch_engine.rows import Extent, Rows
from python_backends.torch_engine.scheduler import Chunk, Step
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import Copy
from python_backends.types import ImageSpan


@dataclass(frozen=True)
class PromptPositions:
    """positions [axes, prompt] of the prompt's tokens; an output token at index i has position i + delta."""

    positions: torch.Tensor
    delta: int

    def of(self, start: int, end: int) -> torch.Tensor:
        """[axes, end - start]."""
        axes, num_prompt = self.positions.shape
        if end <= num_prompt:
            return self.positions[:, start:end]
        later = torch.arange(max(start, num_prompt), end) + self.delta
        return torch.cat([self.positions[:, start:num_prompt], later.expand(axes, -1)], dim=1)


class Runner:
    """Owns the KV cache and computes steps with the model."""

    def __init__(self, model: DecoderModel, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._positions: dict[int, PromptPositions] = {}
        self._images: dict[int, ImageStates] = {}

    def admit(self, sequence: Sequence) -> None:
        """Work out the positions of a new sequence's prompt."""
        request = sequence.request
        self._positions[sequence.id] = PromptPositions(*self._model.positions(request.prompt_ids, request.images))
        if sequence.parent in self._images:
            self._images[sequence.id] = self._images[sequence.parent]

    def forget(self, sequence: Sequence) -> None:
        self._positions.pop(sequence.id, None)
        self._images.pop(sequence.id, None)

    @torch.inference_mode()
    def run(self, step: Step) -> torch.Tensor:
        """Compute a step; returns logits [chunks that sample, vocabulary] in the order of the chunks."""
        # In this order: a copy may come from a slot that is forgotten after it.
        for move in step.moves:
            if isinstance(move, Copy):
                self._cache.copy(move.source, move.target, move.num_tokens)
            else:
                self._cache.forget(move.slot)
        rows = Rows([(_slot(chunk), chunk.start, chunk.end) for chunk in step.chunks], self._model.min_rows)
        in_order = [step.chunks[index] for index in rows.order]
        mutual = _mutual(step.chunks) if self._model.images_are_mutual else {}
        images = self._cross_attention(rows, step.chunks) if self._model.image_layers else None
        context = StepContext(self._cache, rows, self._model.dtype, self._model.device, mutual, images)
        # The head is the widest matrix of the model; only rows that give a token go through it.
        last_rows = [extent.last - 1 for extent, chunk in zip(rows.extents, step.chunks, strict=True) if chunk.samples]
        wanted = last_rows + last_rows[-1:] * (self._model.min_rows - len(last_rows))
        embeddings, positions = self._embeddings(rows, in_order), self._row_positions(rows, in_order)
        hidden = self._model.forward(embeddings, positions, context, wanted)
        if not last_rows:
            return torch.empty(0, self._model.vocab_size)
        return self._model.logits(hidden)[: len(last_rows)]

    def _cross_attention(self, rows: Rows, chunks: Ordered[Chunk]) -> CrossAttention | None:
        """To the images beside the prompts; None if no sequence of the step has any."""
        pairs = zip(rows.extents, chunks, strict=True)
        parts = [(extent, self._states(chunk.sequence)) for extent, chunk in pairs if chunk.sequence.request.images]
        return self._attending(rows, parts) if parts else None

    def _states(self, sequence: Sequence) -> ImageStates:
        """Made when the sequence begins, and kept beside its slot until it ends."""
        if sequence.id not in self._images:
            nobody = Rows([])
            context = StepContext(
                self._cache, nobody, self._model.dtype, self._model.device, {}, self._attending(nobody, [])
            )
            self._images[sequence.id] = self._model.image_states(sequence.request.images, context)
        return self._images[sequence.id]

    def _attending(self, rows: Rows, parts: Ordered[tuple[Extent, ImageStates]]) -> CrossAttention:
        num_rows = sum(extent.last - extent.first for extent in rows.extents) + rows.num_padding
        like = torch.empty(0, dtype=self._model.dtype, device=self._model.device)
        return CrossAttention(parts, num_rows, self._model.image_layers, like)

    def _row_positions(self, rows: Rows, in_order: Ordered[Chunk]) -> torch.Tensor:
        """[axes, rows]."""
        parts = [self._positions[chunk.sequence.id].of(chunk.start, chunk.end) for chunk in in_order]
        if rows.num_padding:
            parts.append(parts[0].new_zeros(len(parts[0]), rows.num_padding))
        return torch.cat(parts, dim=1).to(self._model.device)

    def _embeddings(self, rows: Rows, in_order: Ordered[Chunk]) -> torch.Tensor:
        """[rows, hidden or feature_size]; rows that stand for an image are its features."""
        tokens = [token for chunk in in_order for token in chunk.sequence.tokens[chunk.start : chunk.end]]
        embeddings = self._model.embed(torch.tensor(tokens + [0] * rows.num_padding, device=self._model.device))
        first = 0
        for chunk in in_order:
            for image in chunk.sequence.request.images:
                if not image.beside:
                    embeddings = _with_image(embeddings, image, chunk, first)
            first += chunk.num_tokens
        return embeddings


def _with_image(embeddings: torch.Tensor, image: ImageSpan, chunk: Chunk, first: int) -> torch.Tensor:
    """The features of `image` in the rows of `chunk` that stand for it; row `first` is the chunk's first token."""
    # A chunk may begin or end in the middle of an image.
    start, end = max(image.start, chunk.start), min(image.end, chunk.end)
    if start >= end:
        return embeddings
    # The scheduler starts nobody whose features are missing.
    assert image.array is not None
    features = torch.tensor(image.array[start - image.start : end - image.start])
    # Features may be wider: what is beyond the embeddings goes to later layers (DeepStack).
    wide = _as_wide(embeddings, features.shape[1])
    wide[first + start - chunk.start : first + end - chunk.start] = features.to(wide)
    return wide


def _as_wide(rows: torch.Tensor, width: int) -> torch.Tensor:
    """rows [n, hidden] -> [n, width], zeros beyond."""
    return rows if rows.shape[1] == width else torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def _mutual(chunks: Ordered[Chunk]) -> dict[int, Ordered[range]]:
    """By slot, the ranges in the chunks whose tokens see each other; no chunk has only a part of one."""
    found = {
        _slot(chunk): [run for run in chunk.sequence.mutual if chunk.start <= run.start < chunk.end] for chunk in chunks
    }
    return {slot: ranges for slot, ranges in found.items() if ranges}


def _slot(chunk: Chunk) -> int:
    assert chunk.sequence.slot is not None
    return chunk.sequence.slot
