"""What the torch engine would serve wrongly is refused while it loads, with a sentence that names the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, GptOssConfig, GptOssForCausalLM

from python_backends.engine import EngineOptions, create_engine

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("model_class", "config", "reason"),
    [
        (CohereForCausalLM, CohereConfig(**SMALL, logit_scale=0.5), "logit_scale = 0.5"),
        (GptOssForCausalLM, GptOssConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1), "s_aux|rope|yarn"),
    ],
)
def test_a_family_that_needs_more_is_refused(model_class: Any, config: Any, reason: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model_class(config).save_pretrained(tmp_path)
    with pytest.raises(Exception, match=reason):
        create_engine("torch", EngineOptions(model=str(tmp_path)))
