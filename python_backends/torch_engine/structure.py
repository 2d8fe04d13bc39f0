"""What a decoder's layers ask of attention, found by one dry run, and whether slots can give exactly that.

Every family of the library may hand its attention layers a mask, a window and more. Two tokens are sent through the
decoder with an attention that only takes notes. What it notes does not depend on the length of the prompt: the mask is
known as the function it is made of, so a window of 4096 tokens is seen without a prompt of 4097.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from python_backends.errors import OptionError
from python_backends.torch_engine.attention import sees
from python_backends.torch_engine.cache import LayerShape

PROBE_NAME = "trimodal_probe"
# What attention may be told without consequence: how to train, what to return, where the tokens are; of causality the
# mask says more, and that is compared.
_HARMLESS = frozenset({"dropout", "is_causal", "position_ids", "cache_position", "use_cache", "output_attentions"})
# What `Scores` does to the scores besides scaling them.
_SERVED = frozenset({"softcap", "s_aux"})
_NUM_TOKENS = 2
_NEAR = 2
# What the library's code raises when it is called in a way that a family does not know.
_STRANGE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, OptionError)

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LayerCall:
    """What one attention layer was called with; `allows` says which keys a query sees, None if nobody knows.

    One that `sees_images` attends to them and to nothing else; without images it is left out.
    """

    index: int
    shape: LayerShape
    scaling: float | None
    window: int | None
    allows: MaskFunction | None
    others: dict[str, Any]
    sees_images: bool = False

    @property
    def scales_only(self) -> bool:
        """Whether scores are scaled and nothing else: neither capped nor joined by sinks."""
        return all(self.others.get(name) is None for name in _SERVED)


def layer_calls(model: PreTrainedModel, decoder: PreTrainedModel, max_len: int) -> list[LayerCall]:
    """What each layer asks of attention, in order. Raises OptionError if slots cannot serve it.

    `max_len` tokens is how far the masks are compared with the engine's own.
    """
    calls = _dry_run(model, decoder)
    calls += _calls_to_images(model, decoder, {call.index for call in calls})
    family = model.config.model_type
    num_layers = model.config.get_text_config().num_hidden_layers
    if reason := next(_reasons(calls, num_layers, max_len), None):
        raise OptionError(f"the torch engine cannot serve the family {family!r}: {reason}")
    return sorted(calls, key=lambda call: call.index)


def images_are_mutual(model: PreTrainedModel, decoder: PreTrainedModel, max_len: int) -> bool:
    """Whether the tokens of an image see each other in both directions, and all else is as for text.

    The masks are those that the library composes before it generates. What is neither this nor causal, the trial of
    self_check.py finds.
    """
    # One image that is longer than any window, and a short one.
    images = (range(1, max_len - 8), range(max_len - 6, max_len - 2))
    try:
        with _probing(model, decoder):
            calls = _calls(model, decoder, attention_mask=_image_masks(model, images, max_len))
        return all(call.allows and _is_served(call.allows, call.window, max_len, images) for call in calls)
    except _STRANGE:
        return False


def _image_masks(model: Any, images: Sequence[range], max_len: int) -> Any:
    kinds = torch.zeros(1, max_len, dtype=torch.int)
    for image in images:
        kinds[:, image.start : image.stop] = 1
    return model.create_masks_for_generate(
        config=model.config,
        inputs_embeds=torch.empty(1, max_len, 0),
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        token_type_ids=kinds,
        mm_token_type_ids=kinds,
        is_first_iteration=True,
    )


def _calls_to_images(model: PreTrainedModel, decoder: PreTrainedModel, known: set[int]) -> list[LayerCall]:
    """Of the layers that are called only if there are images beside the prompt."""
    if "cross_attention_states" not in inspect.signature(decoder.forward).parameters:
        return []
    states = torch.zeros(1, _NUM_TOKENS, decoder.config.hidden_size, dtype=model.dtype, device=model.device)
    calls = [call for call in _dry_run(model, decoder, cross_attention_states=states) if call.index not in known]
    return [replace(call, shape=LayerShape(0, 0, 0), sees_images=True) for call in calls]


@contextmanager
def _probing(model: PreTrainedModel, decoder: PreTrainedModel) -> Iterator[None]:
    served = decoder.config._attn_implementation
    model.set_attn_implementation(PROBE_NAME)
    try:
        with torch.inference_mode():
            yield
    finally:
        model.set_attn_implementation(served)


def _dry_run(model: PreTrainedModel, decoder: PreTrainedModel, **more: Any) -> list[LayerCall]:
    try:
        with _probing(model, decoder):
            return _calls(model, decoder, **more)
    except _STRANGE as error:
        raise OptionError(
            f"the torch engine cannot serve the family {model.config.model_type!r}: "
            f"its decoder cannot be called alone, with embeddings and positions: {type(error).__name__}: {error}"
        ) from error


def _calls(model: PreTrainedModel, decoder: PreTrainedModel, **more: Any) -> list[LayerCall]:
    calls: list[LayerCall] = []
    embeddings: Any = model.get_input_embeddings()
    hidden = embeddings.weight.shape[1]
    rows = torch.zeros(1, _NUM_TOKENS, hidden, dtype=model.dtype, device=model.device)
    positions = torch.arange(_NUM_TOKENS, device=model.device)[None]
    decoder(inputs_embeds=rows, position_ids=positions, use_cache=False, calls=calls, **more)
    return calls


def _reasons(calls: list[LayerCall], num_layers: int, max_len: int) -> Iterator[str]:
    """Why slots cannot serve these layers, as far as anything speaks against it."""
    indices = [call.index for call in calls]
    if missing := sorted(set(range(num_layers)) - set(indices)):
        yield (
            f"its layers {missing} do not attend through the library's attention interface; "
            "they keep a state of their own (convolution, state space, cross-attention) or attend in their own way"
        )
    if sorted(indices) != list(range(num_layers)):
        yield f"its {num_layers} layers attend in another order than once each: {indices}"
    for call in calls:
        if call.sees_images:
            continue
        for name, value in call.others.items():
            if name not in _HARMLESS | _SERVED and value is not None:
                yield f"its attention needs {name!r}, which the engine does not have"
        if call.allows is None:
            yield f"the attention mask of layer {call.index} is not one of the library's, so it cannot be checked"
        elif not _is_served(call.allows, call.window, max_len):
            yield f"the attention mask of layer {call.index} is more than causal with a window of {call.window}"


def _is_served(allows: MaskFunction, window: int | None, max_len: int, mutual: Sequence[range] = ()) -> bool:
    """Whether a mask is the engine's own, for tokens near every place where it could change, and a few everywhere."""
    edges = {0, max_len // 2, max_len, *(() if window is None else (window, 2 * window))}
    edges |= {edge for run in mutual for edge in (run.start, run.stop)}
    near = {edge + step for edge in edges for step in range(-_NEAR, _NEAR + 1)}
    near |= set(range(0, max_len, max_len // 64 + 1))
    behind = {token - (window or 0) + step for token in near for step in range(-_NEAR, _NEAR + 1)}
    query = torch.tensor(sorted(token for token in near if 0 <= token < max_len))[:, None]
    key = torch.tensor(sorted(token for token in near | behind if 0 <= token < max_len))[None]
    zero = torch.zeros((), dtype=torch.long)
    own = sees(query, key, window, mutual)
    return torch.equal(allows(zero, zero, query, key).expand_as(own), own)


class _Mask(torch.Tensor):
    """A mask that remembers what it was made of."""

    allows: MaskFunction


def _noted_mask(
    batch_size: int, q_length: int, kv_length: int, mask_function: MaskFunction, device: torch.device, **others: Any
) -> torch.Tensor:
    # Without memory: a mask of a whole context would have gigabytes.
    mask = torch.ones((), dtype=torch.bool, device=device).expand(batch_size, 1, q_length, kv_length).as_subclass(_Mask)
    mask.allows = mask_function
    return mask


def _note(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    calls: list[LayerCall] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention that computes nothing; its result has the right shape."""
    if calls is None:
        raise OptionError(f"{type(module).__name__} gets none of the arguments that the model is called with")
    shape = LayerShape(key.shape[1], key.shape[3], value.shape[3])
    allows = getattr(attention_mask, "allows", None)
    calls.append(LayerCall(int(getattr(module, "layer_idx", -1)), shape, scaling, sliding_window, allows, others))
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None


AttentionInterface.register(PROBE_NAME, _note)
AttentionMaskInterface.register(PROBE_NAME, _noted_mask)
