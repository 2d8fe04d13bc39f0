"""Fused decoder layers against the library's own, in bfloat16: who is fused, and that nothing else comes of it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import pytest

from python_backends.engine import EngineOptions
from python_backends.torch_engine.engine import TorchEngine
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent
from tests.backends.families import FAMILIES, Family, parameters, text_prompt

COMMON = {
    *("llama", "llama3", "mistral", "qwen2", "qwen3"),
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision", "smolvlm"),
}
NEXT = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
NUM_PROMPTS = 40


def next_tokens(engine: TorchEngine) -> list[int | None]:
    """The likeliest token after each of many prompts that are read together."""
    events: SimpleQueue[tuple[int, TokenEvent]] = SimpleQueue()
    for number in range(NUM_PROMPTS):
        request = GenerationRequest(number, text_prompt(number, 3 + number).ids, NEXT)
        engine.submit(request, lambda event, number=number: events.put((number, event)))
    found = dict(events.get(timeout=60) for _ in range(NUM_PROMPTS))
    return [found[number].token_id for number in range(NUM_PROMPTS)]


@pytest.mark.parametrize("name", parameters(FAMILIES))
def test_the_common_kind_is_fused_and_says_the_same(name: str, tmp_path: Path) -> None:
    """Granite, too, has the common parts, but multiplies what goes in: the trial at load finds it out."""
    Family(name, tmp_path)
    options = EngineOptions(str(tmp_path), dtype="bfloat16", kv_cache_bytes=1 << 22, enable_prefix_caching=False)
    with closing(TorchEngine(options)) as engine:
        assert (engine._model.fused is not None) == (name in COMMON)
        found = next_tokens(engine)
        engine._model.fused = None
        library = next_tokens(engine)
    # Roundings of bfloat16 may turn a choice between near equals.
    assert sum(one == other for one, other in zip(found, library, strict=True)) >= NUM_PROMPTS - 4
    assert len(set(found)) > 5, "the model says the same whatever it reads"
