"""LoRA adapters on the engine `tensorrt_llm`, whose library is a toy with the recorded signatures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from python_backends.engine import EngineOptions, create_engine
from python_backends.tensorrt_llm_engine.adapters import lora_arguments
from python_backends.tensorrt_llm_engine.engine import TensorRTLLMEngine
from python_backends.types import GenerationRequest, SamplingParams
from tests.backends.families import VOCAB, Family
from tests.backends.tensorrt_llm_stand_in import VERSIONS, maker, stand_in
from tests.backends.test_engine_contract import Ear

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PLAIN: dict[str, Any] = {
    # Most of what peft writes, as it writes it.
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": True,
    "use_dora": False,
    "fan_in_fan_out": False,
}


def adapter(folder: Path, **more: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **more}))
    return str(folder)


def test_what_all_adapters_need_together(tmp_path: Path) -> None:
    deep = {"model.layers.0.mlp.down_proj": 24}
    adapters = {
        "one": adapter(tmp_path / "one"),
        "two": adapter(tmp_path / "two", target_modules=["model.layers.0.mlp.down_proj"], rank_pattern=deep),
    }
    assert lora_arguments(adapters) == {
        "lora_target_modules": ["attn_k", "attn_q", "attn_v", "mlp_4h_to_h"],
        "max_lora_rank": 24,
        "max_loras": 2,
        "max_cpu_loras": 2,
    }
    assert lora_arguments({"two": adapters["two"]})["lora_target_modules"] == ["mlp_4h_to_h"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"peft_type": "IA3"}, "takes peft_type LORA with bias none, this has IA3 with none"),
        ({"bias": "all"}, "this has LORA with all"),
        ({"modules_to_save": ["lm_head"]}, "would leave out its modules_to_save"),
        ({"use_dora": True}, "would leave out its use_dora"),
        ({"alpha_pattern": {"q_proj": 3}}, "would leave out its alpha_pattern"),
        ({"target_modules": "all-linear"}, "target_modules must be a list of names, got 'all-linear'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "knows no LoRA of lm_head; known are q_proj"),
        ({"r": 0}, r"r and rank_pattern must be numbers above 0, got \[0\]"),
    ],
)
def test_what_would_be_left_out_of_an_adapter_fails_the_load(
    tmp_path: Path, more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=rf"^parameter 'lora_adapters', 'mine': .*{expected}"):
        lora_arguments({"mine": adapter(tmp_path / "mine", **more)})


def test_a_folder_that_is_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'mine': .*adapter_config\.json cannot be read"):
        lora_arguments({"mine": str(tmp_path)})
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a JSON object"):
        lora_arguments({"mine": str(tmp_path)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Family("qwen2", tmp_path_factory.mktemp("qwen2")).folder)


def say(engine: TensorRTLLMEngine, number: int, **more: Any) -> list[int]:
    ear = Ear()
    engine.submit(GenerationRequest(number, (5, 6, 7, 8), GREEDY, **more), ear)
    return ear.wait().tokens()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_gets_the_adapter_that_it_names(tmp_path: Path, folder: str, version: str) -> None:
    adapters = {"one": adapter(tmp_path / "one"), "two": adapter(tmp_path / "two", r=16)}
    engine = TensorRTLLMEngine(EngineOptions(folder, lora_adapters=adapters), stand_in(version, VOCAB))
    texts = [tuple(say(engine, number, lora_name=name)) for number, name in enumerate(["", "one", "two", "one", ""])]
    given, requests = engine._llm.arguments, [call.lora_request for call in engine._llm.calls]
    engine.close()
    assert len(set(texts)) == 3 and texts[0] == texts[4] and texts[1] == texts[3]
    assert [each and (each.lora_name, each.lora_int_id) for each in requests[:3]] == [None, ("one", 1), ("two", 2)]
    assert requests[2].lora_path == adapters["two"]
    assert (given.lora_config.max_lora_rank, given.lora_config.max_loras, given.lora_config.lora_dir) == (16, 2, [])
    assert given.cuda_graph_config is None


def test_without_adapters_the_library_is_told_of_none(folder: str) -> None:
    engine = TensorRTLLMEngine(EngineOptions(folder), stand_in(vocab_size=VOCAB))
    assert engine._llm.arguments.lora_config is None
    engine.close()


def test_a_version_without_an_argument_of_lora_fails_the_load(tmp_path: Path, folder: str) -> None:
    without = dataclasses.replace(stand_in(VERSIONS[0]), lora_config=maker(VERSIONS[0], "GuidedDecodingParams"))
    options = EngineOptions(folder, lora_adapters={"one": adapter(tmp_path / "one")})
    with pytest.raises(ValueError, match=r"TensorRT-LLM 1\.2\.1 lacks lora_target_modules, max_lora_rank"):
        TensorRTLLMEngine(options, without)


@pytest.mark.parametrize("name", ["torch", "echo"])
def test_engines_without_lora_refuse_adapters_at_load(name: str) -> None:
    with pytest.raises(ValueError, match=f"parameter 'lora_adapters': the engine {name} has no LoRA, tensorrt_llm has"):
        create_engine(name, EngineOptions("nowhere", lora_adapters={"one": "/adapters/one"}))


@pytest.mark.parametrize("adapters", [{"one": 3}, {"": "/adapters/one"}, {"one": ""}])
def test_adapters_are_folders_by_name(adapters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="parameter 'lora_adapters' must name a folder for each name"):
        EngineOptions("nowhere", lora_adapters=adapters)
