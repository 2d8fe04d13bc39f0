"""What the torch engine would serve wrongly is refused while it loads, with a sentence that names the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.masking_utils import create_masks_for_generate
from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

from python_backends.engine import EngineOptions, create_engine
from python_backends.errors import OptionError, Unsupported
from python_backends.torch_engine.cache import KVCache
from python_backends.torch_engine.model import DecoderModel
from python_backends.torch_engine.runner import Runner
from python_backends.torch_engine.self_check import check_model
from python_backends.torch_engine.structure import images_are_mutual
from python_backends.types import ImageSpan
from tests.backends.families import Family

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MAMBA: dict[str, Any] = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}


DEEPSEEK: dict[str, Any] = {
    **SMALL,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name not in names}


@pytest.mark.parametrize(
    ("model_class", "config", "reason"),
    [
        # It hands its attention more than queries, keys and values.
        (hf.DeepseekV32ForCausalLM, hf.DeepseekV32Config(**DEEPSEEK), "'indices'"),
        (hf.DiffLlamaForCausalLM, hf.DiffLlamaConfig(**SMALL), r"another order than once each: \[0, 0, 1, 1\]"),
        # Layers that keep something else than keys and values.
        (hf.MambaForCausalLM, hf.MambaConfig(**without("head_dim")), r"layers \[0, 1\] do not attend"),
        (hf.Lfm2ForCausalLM, hf.Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]), r"layers \[0\] do not"),
        # Attention and a state side by side in one layer: only what comes out shows it.
        (hf.FalconH1ForCausalLM, hf.FalconH1Config(**SMALL, **MAMBA), "logits differ from those of its own forward"),
        # Positions are a part of the scores, and the scores are its own.
        (hf.BloomForCausalLM, hf.BloomConfig(**SMALL, n_layer=2, n_head=2), r"layers \[0, 1\] do not attend"),
        # Every token sees every other.
        (hf.BertLMHeadModel, hf.BertConfig(**without("head_dim"), is_decoder=False), "is more than causal"),
        (hf.T5ForConditionalGeneration, hf.T5Config(d_model=32, d_ff=32, num_layers=1, num_heads=2), "encoder"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_family_that_needs_more_is_refused(model_class: Any, config: Any, reason: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model_class(config).save_pretrained(tmp_path)
    with pytest.raises(OptionError, match=reason):
        create_engine("torch", EngineOptions(model=str(tmp_path)))


class _Changed(Runner):
    """A runner that makes one mistake."""

    def __init__(self, model: DecoderModel, mistake: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(model, KVCache(model.cache_shape, 1, 64))
        self._mistake = mistake

    def run(self, step: Any) -> torch.Tensor:
        return self._mistake(super().run(step))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trial_at_load_sees_a_small_mistake(dtype: Any, tmp_path: Path) -> None:
    model = DecoderModel(EngineOptions(str(Family("qwen2", tmp_path).folder), dtype=dtype))
    check_model(model, _Changed(model, lambda logits: logits))
    with pytest.raises(OptionError, match=r"differ from those of its own forward by 0\.(29|30)"):
        check_model(model, _Changed(model, lambda logits: logits * 1.3))


def test_images_that_see_more_are_refused_and_text_is_served(tmp_path: Path) -> None:
    # Their tokens and those of the question see each other.
    text = {"model_type": "gemma", **SMALL}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4}
    config = hf.PaliGemmaConfig(text_config=text, vision_config=vision, image_token_id=60, projection_dim=32)
    torch.manual_seed(0)
    hf.PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path)
    model = DecoderModel(EngineOptions(str(tmp_path), dtype="float32"))
    check_model(model, Runner(model, KVCache(model.cache_shape, 1, 64)))
    assert not model.images_are_mutual
    image = ImageSpan(1, np.zeros((4, 32), np.float32), (1, 4, 4), b"")
    with pytest.raises(Unsupported, match=r"cannot serve images of the family 'paligemma'.* logits differ") as caught:
        model.positions((1, 60, 60, 60, 60, 2), (image,))
    assert caught.value.field == "image"
    assert model.positions((1, 2, 3), ())[0].tolist() == [[0, 1, 2]]


class _WithoutWindows(hf.Gemma3ForConditionalGeneration):
    """Its images see themselves beyond any window."""

    @staticmethod
    def create_masks_for_generate(token_type_ids: torch.Tensor, **others: Any) -> Any:
        given = {
            name: value for name, value in others.items() if name not in ("mm_token_type_ids", "is_first_iteration")
        }
        return create_masks_for_generate(block_sequence_ids=get_block_sequence_ids_for_mask(token_type_ids), **given)


def test_masks_tell_which_images_see_themselves(tmp_path: Path) -> None:
    for name in ("gemma3", "llava", "qwen2_5_vl"):
        model = Family(name, tmp_path / name).model
        assert images_are_mutual(model, model.get_decoder(), 256) is (name == "gemma3")
    other = _WithoutWindows.from_pretrained(tmp_path / "gemma3")
    assert not images_are_mutual(other, other.get_decoder(), 256)


# Folders that hold no checkpoint, or not all of it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Family("qwen2", tmp_path).folder


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def shorten(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a file of weights at all")


def split(folder: Path) -> None:
    """Two files and an index, of which the second file is lost."""
    tensors = load_file(folder / "model.safetensors")
    names = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(tensors)}
    for file in sorted(set(names.values())):
        save_file({name: tensors[name] for name in tensors if names[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def lose_a_part(folder: Path) -> None:
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: change_config(folder, model_type=None), "names no model_type"),
        (lambda folder: change_config(folder, model_type="nonesuch"), "nonesuch"),
        (
            lambda folder: change_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config"}),
            "'trust_remote_code' must be true",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in the safetensors format"),
        (shorten, r"damaged or was not copied to its end: it has \d+ bytes; its header says \d+"),
        (scramble, "damaged or was not copied to its end"),
        (lose_a_part, "lacks 1 of its files of weights: model-00002-of-00002.safetensors"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: Callable[[Path], Any], reason: str) -> None:
    damage(folder)
    with pytest.raises(OptionError, match=reason):
        create_engine("torch", EngineOptions(model=str(folder)))


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(OptionError, match="'/no/such/folder': there is no such folder"):
        create_engine("torch", EngineOptions(model="/no/such/folder"))


def test_weights_in_several_files_are_one_model(folder: Path) -> None:
    split(folder)
    assert DecoderModel(EngineOptions(model=str(folder))).vocab_size == 96


# Quantized checkpoints


@pytest.mark.parametrize(
    ("quantization", "reason"),
    [
        (
            {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"},
            "'awq': it has no tensor named qweight",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "'bitsandbytes'; the torch engine serves awq, gptq, fp8",
        ),
        ({"quant_method": "hqq"}, "'hqq'; the torch engine serves"),
        ({"quant_method": "nonesuch"}, "'nonesuch'; the torch engine serves"),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_a_quantized_checkpoint_that_cannot_be_read_here_is_refused(
    folder: Path, quantization: dict[str, Any], reason: str
) -> None:
    change_config(folder, quantization_config=quantization)
    with pytest.raises(OptionError, match=reason):
        create_engine("torch", EngineOptions(model=str(folder)))
