"""A Hugging Face checkpoint as the runner needs it: embeddings, positions, decoder, logits. No family is named here."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from python_backends.engine import EngineOptions
from python_backends.errors import InvalidInput, OptionError
from python_backends.torch_engine.attention import ATTENTION_NAME, StepContext
from python_backends.torch_engine.cache import CacheShape
from python_backends.types import ImageSpan


class _RopeIndexed(Protocol):
    """A model whose positions depend on where the images are (M-RoPE)."""

    def get_rope_index(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor, image_grid_thw: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class DecoderModel:
    """The language part of a checkpoint, on its device, driven one step at a time.

    `max_model_len` is the checkpoint's own limit; `eos_token_ids` end a generation unless the request ignores them.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._model = _load(options)
        self._decoder: PreTrainedModel = self._model.get_decoder()
        self._embed = self._model.get_input_embeddings()
        self._head = self._model.get_output_embeddings()
        self.config = self._model.config.get_text_config()
        self.device: torch.device = self._model.device
        self.max_model_len: int = self.config.max_position_embeddings
        self.vocab_size: int = self._head.weight.shape[0]
        self.hidden_size: int = self._embed.weight.shape[1]
        self.eos_token_ids = _eos_token_ids(self._model)

    def __repr__(self) -> str:
        return f"<{self.config.model_type} {self._model.dtype} on {self.device}>"

    @property
    def cache_shape(self) -> CacheShape:
        config = self.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return CacheShape(
            config.num_hidden_layers, config.num_key_value_heads, head_dim, self._model.dtype, self.device
        )

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[rows] int64 -> [rows, hidden]."""
        return cast(torch.Tensor, self._embed(token_ids))

    def positions(self, prompt_ids: tuple[int, ...], images: tuple[ImageSpan, ...]) -> tuple[torch.Tensor, int]:
        """Positions [axes, prompt] of a prompt, and what to add to a later token's index to get its position."""
        inner = self._model.model if hasattr(self._model, "model") else None
        if inner is None or not hasattr(inner, "get_rope_index"):
            return torch.arange(len(prompt_ids))[None], 0
        if not images:
            return torch.arange(len(prompt_ids)).expand(3, -1), 0
        return _image_positions(cast(_RopeIndexed, inner), prompt_ids, images)

    @torch.inference_mode()
    def forward(self, embeddings: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        """embeddings [rows, hidden], positions [axes, rows] -> hidden states [rows, hidden]."""
        # M-RoPE models take [3, batch, rows], all others [batch, rows].
        axes = positions[:, None] if positions.shape[0] > 1 else positions
        output = self._decoder(inputs_embeds=embeddings[None], position_ids=axes, use_cache=False, step=step)
        return cast(torch.Tensor, output.last_hidden_state[0])

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocabulary] float32."""
        return cast(torch.Tensor, self._head(hidden)).float()


def _load(options: EngineOptions) -> Any:
    source: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    config = AutoConfig.from_pretrained(options.model, **source)
    if options.tensor_parallel_size > 1:
        raise OptionError(f"parameter 'tensor_parallel_size' is {options.tensor_parallel_size}; the torch engine has 1")
    _refuse_what_would_be_wrong(config.get_text_config())
    sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    loader = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model = loader.from_pretrained(options.model, dtype=options.dtype, attn_implementation=ATTENTION_NAME, **source)
    _drop_vision(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return cast(Any, model).to(device).eval()


def _refuse_what_would_be_wrong(config: Any) -> None:
    """Families do more to scores and logits than the usual form, in their own forward, which is not called here."""
    for name in _UNSERVED:
        value = getattr(config, name, None)
        if value not in (None, 1.0):
            raise OptionError(f"this checkpoint has {name} = {value}, which the torch engine cannot serve")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise OptionError(f"this checkpoint has {rope} positions, which depend on the batch; the torch engine has none")


_UNSERVED = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")


def _drop_vision(model: Any) -> None:
    """The vision tower is `vision_encoder`'s; here it would only cost memory."""
    inner = getattr(model, "model", None)
    for name in ("visual", "vision_tower", "vision_model", "multi_modal_projector"):
        if hasattr(inner, name):
            setattr(inner, name, None)


def _eos_token_ids(model: Any) -> frozenset[int]:
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = model.config.get_text_config().eos_token_id
    # Chat checkpoints often have several: the end of a turn and the end of the text.
    return frozenset() if eos is None else frozenset(eos if isinstance(eos, list) else [eos])


def _image_positions(
    inner: _RopeIndexed, prompt_ids: tuple[int, ...], images: tuple[ImageSpan, ...]
) -> tuple[torch.Tensor, int]:
    kinds = torch.zeros(1, len(prompt_ids), dtype=torch.int32)
    for image in images:
        kinds[0, image.start : image.end] = 1
    grids = torch.tensor([image.grid for image in images])
    ids = torch.tensor([prompt_ids])
    try:
        positions, delta = inner.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids)
    except (RuntimeError, StopIteration) as error:
        raise InvalidInput(f"the grids {grids.tolist()} do not fit the features: {error}", "image_grid") from error
    return positions[:, 0], int(delta.item())
