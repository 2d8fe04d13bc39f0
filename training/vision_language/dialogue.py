"""Second phase: the whole network learns to answer, the vision tower keeps its cell task."""

from __future__ import annotations

import random

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from training.vision_language.batches import Batch, random_batch
from training.vision_language.loop import Step
from training.vision_language.model import CellHead, cell_accuracy, cell_loss, vision_features
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
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=packed.positions,
        attention_mask=packed.mask,
        use_cache=False,
    ).last_hidden_state
    rows, columns = packed.weights.nonzero(as_tuple=True)
    # The head runs only where there is something to learn: a small part of the tokens.
    logits = model.lm_head(hidden[rows, columns - 1]).float()
    truth = packed.ids[rows, columns]
    right = (logits.argmax(-1) == truth).float().mean().item()
    weights = packed.weights[rows, columns]
    losses = functional.cross_entropy(logits, truth, reduction="none")
    return (losses * weights).sum() / weights.sum(), right


def see(
    model: Qwen2_5_VLForConditionalGeneration, head: CellHead, batch: Batch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Picture features in order, the cell loss and the share of shapes named right."""
    cut, labels = (part.to(device) for part in picture_batch(batch.scenes, batch.grid))
    features = vision_features(model.model.visual, cut, batch.grid)
    logits = head(features)
    shape = cell_accuracy(logits, labels)[0]
    return features.flatten(0, 1), cell_loss(logits, labels), shape


def dialogue_step(
    model: Qwen2_5_VLForConditionalGeneration,
    head: CellHead,
    tokenizer: PreTrainedTokenizerFast,
    size: int,
    device: torch.device,
) -> Step:
    """The step function of this phase; the weight of the cell loss falls from 1 to 0.2."""
    sizes = PictureSizes()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def step(rng: random.Random, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        batch = random_batch(rng, encode, sizes, size)
        figures: dict[str, float] = {}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            features, cells = None, torch.zeros((), device=device)
            if batch.scenes:
                features, cells, figures["shape"] = see(model, head, batch, device)
            loss, right = answer_loss(model, batch.packed.to(device), features)
        figures |= {f"{batch.kind} loss": loss.item(), f"{batch.kind} right": right}
        # The cell task never goes to zero, or shapes might fade while words are learnt.
        return loss + max(0.2, 1 - 1.6 * progress) * cells, figures

    return step
