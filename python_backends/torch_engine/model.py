"""A Hugging Face checkpoint as the runner needs it: embeddings, positions, decoder, logits. No family is named here."""

from __future__ import annotations

import copy
import inspect
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from python_backends.engine import EngineOptions
from python_backends.errors import InvalidInput, OptionError, Unsupported
from python_backends.torch_engine.attention import ATTENTION_NAME, StepContext
from python_backends.torch_engine.cache import CacheShape
from python_backends.torch_engine.cross_attention import ImageStates, Projection, sights
from python_backends.torch_engine.fused import fuse
from python_backends.torch_engine.linear import pack_linears
from python_backends.torch_engine.loading import load_model
from python_backends.torch_engine.structure import images_are_mutual, layer_calls
from python_backends.types import ImageSpan


class _RopeIndexed(Protocol):
    """A model whose positions depend on where the images are (M-RoPE)."""

    def get_rope_index(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor, image_grid_thw: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class DecoderModel:
    """The language part of a checkpoint, on its device, driven one step at a time.

    `max_model_len` is the checkpoint's own limit; `eos_token_ids` end a generation unless the request ignores them.
    `feature_size` is the width of image features: `hidden_size`, times one more for each layer that gets its own
    (DeepStack). `image_problem` says why images cannot be served, if they cannot. `images_are_mutual` says whether the
    tokens of an image see each other in both directions. `image_layers` attend to images beside the prompt. `fused`
    computes the layers where it can; set it to None, and the library's own do.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._model: Any = load_model(options, ATTENTION_NAME)
        self._decoder: PreTrainedModel = self._model.get_decoder()
        self._embed = self._model.get_input_embeddings()
        self._inner: Any = getattr(self._model, "model", None)
        config = self._model.config.get_text_config()
        self.family: str = self._model.config.model_type
        self.device: torch.device = self._model.device
        self.dtype: torch.dtype = self._model.dtype
        self.max_model_len = _context_length(config) or options.max_model_len
        if not self.max_model_len:
            raise OptionError("the checkpoint does not say how long its context is; parameter 'max_model_len' must")
        self.hidden_size: int = self._embed.weight.shape[1]
        # A token that is only ever read has no row in the head (the image's in Llama 3.2 Vision).
        self.vocab_size: int = max(
            layer.weight.shape[0] for layer in (self._embed, self._model.get_output_embeddings())
        )
        self.eos_token_ids = _eos_token_ids(self._model)
        self.min_rows = pack_linears(self._model, options.quantization)
        self._calls = layer_calls(self._model, self._decoder, self.max_model_len)
        self.image_layers = frozenset(call.index for call in self._calls if call.sees_images)
        sees = self.image_token_id is not None
        self.images_are_mutual = sees and images_are_mutual(self._model, self._decoder, self.max_model_len)
        self.fused = fuse(self._decoder, self._calls)
        self.image_problem = ""

    def __repr__(self) -> str:
        return f"<{self.family} {self.dtype} on {self.device}>"

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(tuple(call.shape for call in self._calls), self.dtype, self.device)

    @property
    def image_token_id(self) -> int | None:
        """The placeholder of image features; None for a family that sees no images."""
        sees = hasattr(self._inner, "get_image_features") or bool(self.image_layers)
        return getattr(self._model.config, "image_token_id", None) if sees else None

    @cached_property
    def media_token_ids(self) -> frozenset[int]:
        """Tokens that stand for, or surround, something that is not text."""
        named = self._model.config.to_dict().items()
        return frozenset(value for name, value in named if name.endswith(("token_id", "token_index")) and _is_id(value))

    @property
    def patches_per_token(self) -> int:
        return int(getattr(self._vision, "spatial_merge_size", 2)) ** 2

    @property
    def max_num_tiles(self) -> int:
        """That an image beside the prompt has, padding included."""
        return int(self._vision.max_num_tiles)

    @property
    def feature_size(self) -> int:
        return self.hidden_size * (1 + self._num_deep)

    @property
    def _vision(self) -> Any:
        return getattr(self._model.config, "vision_config", None)

    @cached_property
    def _num_deep(self) -> int:
        takes = "deepstack_visual_embeds" in inspect.signature(self._decoder.forward).parameters
        return len(getattr(self._vision, "deepstack_visual_indexes", ())) if takes else 0

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[rows] int64 -> [rows, hidden]."""
        return cast(torch.Tensor, self._embed(token_ids))

    def positions(self, prompt_ids: tuple[int, ...], images: tuple[ImageSpan, ...]) -> tuple[torch.Tensor, int]:
        """Positions [axes, prompt] of a prompt, and what to add to a later token's index to get its position."""
        if images and self.image_problem:
            reason = f"the torch engine cannot serve images of the family {self.family!r}: {self.image_problem}"
            raise Unsupported(reason, "image")
        if self.image_layers:
            _check_tiles(images, self.max_num_tiles)
        if not hasattr(self._inner, "get_rope_index"):
            return torch.arange(len(prompt_ids))[None], 0
        if not images:
            return torch.arange(len(prompt_ids)).expand(3, -1), 0
        return _image_positions(cast(_RopeIndexed, self._inner), prompt_ids, images)

    @torch.inference_mode()
    def forward(
        self, embeddings: torch.Tensor, positions: torch.Tensor, step: StepContext, wanted: list[int]
    ) -> torch.Tensor:
        """embeddings [rows, hidden or feature_size], positions [axes, rows] -> hidden states [wanted rows, hidden]."""
        # M-RoPE models take [3, batch, rows], all others [batch, rows].
        axes = positions[:, None] if positions.shape[0] > 1 else positions
        if self.fused and embeddings.shape[1] == self.hidden_size:
            return self.fused(embeddings, axes, step, wanted)
        rows, *deep = torch.split(embeddings[None], self.hidden_size, dim=-1)
        extra = _deepstack(deep) if deep else {}
        extra |= step.images.arguments if step.images else {}
        output = self._decoder(inputs_embeds=rows, position_ids=axes, use_cache=False, step=step, **extra)
        return cast(torch.Tensor, output.last_hidden_state[0, wanted])

    @torch.inference_mode()
    def image_states(self, images: tuple[ImageSpan, ...], step: StepContext) -> ImageStates:
        """What `image_layers` make of images beside a prompt; `step` has no rows but one of padding."""
        ordered = sorted(images, key=lambda image: image.start)
        features = torch.cat([torch.tensor(image.array) for image in ordered]).to(self.device, self.dtype)
        projection = Projection(self.image_layers)
        self._decoder(
            inputs_embeds=features.new_zeros(1, 1, self.hidden_size),
            position_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device),
            cross_attention_states=features[None],
            past_key_values=cast(Any, projection),
            use_cache=False,
            step=step,
        )
        return ImageStates(projection.kept, sights(images, self.max_num_tiles), len(features))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocabulary], by the checkpoint's own forward: it may scale or cap them."""
        return self._whole(self._after_decoder(inputs_embeds=hidden[None]).logits[0])

    def _whole(self, logits: torch.Tensor) -> torch.Tensor:
        missing = self.vocab_size - logits.shape[-1]
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits

    @torch.inference_mode()
    def own_logits(self, token_ids: list[int], image: ImageSpan | None) -> torch.Tensor:
        """Logits [tokens, vocabulary] by the checkpoint's own forward with the library's plain attention."""
        self._model.set_attn_implementation("eager")
        try:
            ids = torch.tensor([token_ids], device=self.device)
            extra = {} if image is None else self._own_image(ids, image)
            return self._whole(self._model(input_ids=ids, use_cache=False, **extra).logits[0])
        finally:
            self._model.set_attn_implementation(ATTENTION_NAME)

    def _own_image(self, ids: torch.Tensor, image: ImageSpan) -> dict[str, Any]:
        """How the library's models are told of an image whose features are there already."""
        features = torch.tensor(image.array).to(self.device, self.dtype)
        if image.beside:
            return self._own_image_beside(ids, image, features)
        first, *deep = torch.split(features, self.hidden_size, dim=-1)
        parameters = inspect.signature(self._model.forward).parameters
        output: Any = BaseModelOutputWithPooling(pooler_output=cast(Any, _Features([first])))
        if deep:
            output.deepstack_features = [[each] for each in deep]
        kinds = torch.isin(ids, torch.tensor([self.image_token_id], device=self.device)).int()
        given = {
            "mm_encoder_outputs": {"image": output},
            "image_grid_thw": torch.tensor([image.grid], device=self.device),
            "mm_token_type_ids": kinds,
            "token_type_ids": kinds,
        }
        if "mm_encoder_outputs" not in parameters:
            raise Unsupported(
                f"{type(self._model).__name__} takes no features, so it cannot be compared with the engine"
            )
        return {name: value for name, value in given.items() if name in parameters}

    def _own_image_beside(self, ids: torch.Tensor, image: ImageSpan, features: torch.Tensor) -> dict[str, Any]:
        tiles = features.view(self.max_num_tiles, -1, self.hidden_size)
        # The model asks its tower, which is another entry's, how long a tile is.
        self._inner.vision_model = _Tower(tiles.shape[1])
        mask = ids.new_zeros(1, ids.shape[1], 1, self.max_num_tiles)
        mask[:, image.start :, :, : image.grid[1] * image.grid[2]] = 1
        return {"cross_attention_states": tiles, "cross_attention_mask": mask}

    @cached_property
    def _after_decoder(self) -> Any:
        """The checkpoint's model with its decoder replaced by one that returns what it is given."""
        top = copy.copy(self._model)
        decoder = self._decoder
        name = next(name for name, child in top.named_children() if any(each is decoder for each in child.modules()))
        top._modules = {**top._modules, name: _Given(top.get_submodule(name), decoder)}
        return top


class _Given(torch.nn.Module):
    """Stands for a decoder, or the body that it is in: its input is its output. Some heads read a factor from it."""

    def __init__(self, body: torch.nn.Module, decoder: torch.nn.Module) -> None:
        super().__init__()
        # In a tuple, so that they do not become parts of this module.
        self._stands_for = (body, decoder)

    def __getattr__(self, name: str) -> Any:
        body, decoder = self._stands_for
        found = getattr(body, name)
        return self if found is decoder else found

    def forward(self, *args: Any, inputs_embeds: torch.Tensor, **others: Any) -> _Output:
        return _Output((inputs_embeds,))


class _Tower(torch.nn.Module):
    """Of a vision tower, what a language model asks it."""

    def __init__(self, num_patches: int) -> None:
        super().__init__()
        self.num_patches = num_patches


class _Output(tuple[torch.Tensor, ...]):
    """The output of a decoder of any family, with nothing in it but hidden states."""

    def __getattr__(self, name: str) -> torch.Tensor | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[0] if name == "last_hidden_state" else None


class _Features(list[torch.Tensor]):
    """Features of several images; most families take a list, those whose images are all of one size a tensor."""

    def to(self, *args: Any) -> torch.Tensor:
        return torch.stack(list(self)).to(*args)


def _deepstack(deep: list[torch.Tensor]) -> dict[str, Any]:
    # Rows without features of their own get zeros, which change nothing.
    everywhere = torch.ones(deep[0].shape[:2], dtype=torch.bool, device=deep[0].device)
    return {"visual_pos_masks": everywhere, "deepstack_visual_embeds": [each[0] for each in deep]}


def _context_length(config: Any) -> int:
    """How many tokens the checkpoint's positions reach; 0 if it does not say.

    Beyond the length of the original training longrope changes the positions of all tokens at once, those in the cache
    too; up to there it is exact.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    limits = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    named = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    known = next((value for name in named if (value := getattr(config, name, None))), 0)
    return int(min([known, *limits]))


def _check_tiles(images: tuple[ImageSpan, ...], max_tiles: int) -> None:
    for image in images:
        if len(image.features) % max_tiles or not 0 < image.grid[1] * image.grid[2] <= max_tiles:
            raise InvalidInput(
                f"{len(image.features)} features and the grid {image.grid} are not those of up to {max_tiles} tiles",
                "image_grid",
            )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
        kinds[0, image.start : image.end] = 2 if image.seconds_per_grid else 1
    videos = [image for image in images if image.seconds_per_grid]
    grids: dict[str, Any] = {
        "image_grid_thw": torch.tensor([image.grid for image in images if not image.seconds_per_grid]),
        "video_grid_thw": torch.tensor([video.grid for video in videos]) if videos else None,
    }
    if "second_per_grid_ts" in inspect.signature(inner.get_rope_index).parameters:
        grids["second_per_grid_ts"] = torch.tensor([video.seconds_per_grid for video in videos])
    ids = torch.tensor([prompt_ids])
    try:
        positions, delta = inner.get_rope_index(ids, mm_token_type_ids=kinds, **grids)
    except (RuntimeError, StopIteration) as error:
        given = [image.grid for image in images]
        raise InvalidInput(f"the grids {given} do not fit the features: {error}", "image_grid") from error
    return positions[:, 0], int(delta.item())
