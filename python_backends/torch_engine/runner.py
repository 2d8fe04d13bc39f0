"""From the scheduler's step to logits: flattens chunks to one row of tokens, runs the model, picks the last rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from python_backends.torch_engine.attention import Extent, StepContext
from python_backends.torch_engine.cache import KVCache
from python_backends.torch_engine.model import DecoderModel
from python_backends.torch_engine.scheduler import Chunk, Step
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import Copy


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

    def warm_up(self) -> None:
        """One token through the model: what it cannot do shows while it loads, and the first request finds it warm."""
        token = torch.zeros(1, dtype=torch.long, device=self._model.device)
        positions, _ = self._model.positions((0,), ())
        context = StepContext(self._cache, [Extent(slot=0, first=0, last=1, start=0, end=1)])
        self._model.logits(self._model.forward(self._model.embed(token), positions.to(token.device), context))

    def admit(self, sequence: Sequence) -> None:
        """Work out the positions of a new sequence's prompt."""
        request = sequence.request
        self._positions[sequence.id] = PromptPositions(*self._model.positions(request.prompt_ids, request.images))

    def forget(self, sequence: Sequence) -> None:
        self._positions.pop(sequence.id, None)

    @torch.inference_mode()
    def run(self, step: Step) -> torch.Tensor:
        """Compute a step; returns logits [chunks that sample, vocabulary] float32 in the order of the chunks."""
        # In this order: a copy may come from a slot that is forgotten after it.
        for move in step.moves:
            if isinstance(move, Copy):
                self._cache.copy(move.source, move.target, move.num_tokens)
            else:
                self._cache.forget(move.slot)
        device = self._model.device
        embeddings = torch.cat([self._embeddings(chunk) for chunk in step.chunks])
        positions = torch.cat([self._chunk_positions(chunk) for chunk in step.chunks], dim=1).to(device)
        context = StepContext(self._cache, _extents(step.chunks))
        hidden = self._model.forward(embeddings, positions, context)
        # The head is the widest matrix of the model; only rows that give a token go through it.
        last_rows = [
            extent.last - 1 for extent, chunk in zip(context.extents, step.chunks, strict=True) if chunk.samples
        ]
        return self._model.logits(hidden[last_rows])

    def _chunk_positions(self, chunk: Chunk) -> torch.Tensor:
        return self._positions[chunk.sequence.id].of(chunk.start, chunk.end)

    def _embeddings(self, chunk: Chunk) -> torch.Tensor:
        """[num_tokens, hidden]; rows that stand for an image are its features."""
        tokens = torch.tensor(chunk.sequence.tokens[chunk.start : chunk.end], device=self._model.device)
        rows = self._model.embed(tokens)
        for image in chunk.sequence.request.images:
            # A chunk may begin or end in the middle of an image.
            start, end = max(image.start, chunk.start), min(image.end, chunk.end)
            if start < end:
                features = torch.tensor(image.features[start - image.start : end - image.start])
                rows[start - chunk.start : end - chunk.start] = features.to(rows)
        return rows


def _extents(chunks: list[Chunk]) -> list[Extent]:
    extents: list[Extent] = []
    first = 0
    for chunk in chunks:
        assert chunk.sequence.slot is not None
        extents.append(Extent(chunk.sequence.slot, first, first + chunk.num_tokens, chunk.start, chunk.end))
        first += chunk.num_tokens
    return extents
