"""Second phase: the whole network learns to answer, the vision tower keeps its cell task."""

from __future__ import annotations

import random

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from training.vision_language.batches import Batch, random_batch
from training.vision_language.loop import Step
from training.vision_language.model import (
    CellHead,
    cell_accuracy,
    cell_loss,
    linear,
    text_features,
    vision_features,
)
from training.vision_language.packing import IMAGE, Packed
from training.vision_language.pixels import PictureSizes, picture_batch


def answer_loss(
    model: Qwen2_5_VLForConditionalGeneration, packed: Packed, features: torch.Tensor | None
) -> tuple[torch.Tensor, float]:
    """Weighted mean loss over answer tokens, and the share of them predicted right."""
    embeds = model.get_input_embeddings()(packed.ids)
    if features is not None:
        spots = (packed.ids == IMAGE)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(spots, features.to(embeds.dtype))
    hidden = text_features(model.model.language_model, embeds, packed.positions, packed.mask)
    rows, columns = packed.weights.nonzero(as_tuple=True)
    number = len(rows)
    # A number of rows seen before spares the CPU's matrix library from preparing for it; the
    # added ones point at the first token, whose weight is zero.
    rows, columns = (functional.pad(part, (0, -number % 256)) for part in (rows, columns))
    # The head runs only where there is something to learn: a small part of the tokens.
    logits = linear(hidden[rows, columns - 1], model.lm_head).float()
    truth = packed.ids[rows, columns]
    right = (logits.argmax(-1) == truth)[:number].float().mean().item()
    weights = packed.weights[rows, columns]
    losses = functional.cross_entropy(logits, truth, reduction="none")
    return (losses * weights).sum() / weights.sum(), right


def see(
    model: Qwen2_5_VLForConditionalGeneration, head: CellHead, batch: Batch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Features in order of appearance, the cell loss and how well shapes and letters were named."""
    loss, seen, kept = torch.zeros((), device=device), [], dict[str, float]()
    for grid, pictures in batch.pictures:
        cut, labels = (part.to(device) for part in picture_batch(pictures, grid))
        features = vision_features(model.model.visual, cut, grid)
        logits = head(features)
        figures = cell_accuracy(logits, labels)
        kept = {name: figures[name] for name in ("shape", "letter", "rank")}
        loss = loss + cell_loss(logits, labels) / len(batch.pictures)
        seen.append(features)
    # A row's pictures stand one behind the other.
    return torch.cat(seen, 1).flatten(0, 1), loss, kept


def dialogue_step(
    model: Qwen2_5_VLForConditionalGeneration,
    head: CellHead,
    tokenizer: PreTrainedTokenizerFast,
    size: int,
    device: torch.device,
) -> Step:
    """The step function of this phase; the weight of the cell loss falls from 0.7 to 0.2."""
    sizes = PictureSizes()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def step(rng: random.Random, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        batch = random_batch(rng, encode, sizes, size)
        figures: dict[str, float] = {}
        features, cells = None, torch.zeros((), device=device)
        if batch.pictures:
            features, cells, figures = see(model, head, batch, device)
        loss, right = answer_loss(model, batch.packed.to(device), features)
        figures |= {f"{batch.kind} loss": loss.item(), f"{batch.kind} right": right}
        # The cell task never goes to zero, or shapes might fade while words are learnt.
        return loss + max(0.2, 0.7 - 0.7 * progress) * cells, figures

    return step
