"""Where checkpoints come from, what is said meanwhile, and what loading costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from python_backends.engine import EngineOptions
from python_backends.errors import OptionError
from python_backends.torch_engine.loading import DownloadLines, ProgressLines, checkpoint_folder
from python_backends.torch_engine.model import DecoderModel
from tests.backends.families import EOS, Family

COMMIT = "0" * 40


def test_progress_is_said_at_its_end_and_not_more_than_once_a_second() -> None:
    said: list[str] = []
    lines = ProgressLines("loading the weights", said.append)
    for done in range(1, 1001):
        lines.at(done, 1000, " of 1.00 GB")
    assert said[-1] == "loading the weights: 100 % of 1.00 GB"
    assert len(said) <= 2


def test_the_bar_of_received_bytes_speaks_and_the_others_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    files = DownloadLines(total=2, desc="Fetching 2 files")
    received = DownloadLines(total=0, initial=0, desc="Downloading bytes", unit="B", unit_scale=True)
    # The hub's client learns the sizes file by file.
    received.total += 2_000_000_000
    for bar, step in ((received, 1_500_000_000), (files, 2), (received, 500_000_000)):
        bar.update(step)
    assert capsys.readouterr().out == "downloading the checkpoint: 100 % of 2.00 GB\n"


def test_loading_tells_how_far_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    family = Family("qwen2", tmp_path)
    capfd.readouterr()
    DecoderModel(EngineOptions(str(family.folder)))
    told = capfd.readouterr()
    assert told.out == "loading the weights: 100 % of 0.00 GB\n"
    assert told.err == ""


# `sys.argv[1]` is a hub id; prints the folder that it is loaded from, or the error.
_ASK = """
import sys
from python_backends.torch_engine.loading import checkpoint_folder
try:
    print(checkpoint_folder(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


def ask_offline(name: str, cache: Path) -> str:
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", _ASK, name], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_hub_id_is_found_in_the_librarys_cache(tmp_path: Path) -> None:
    stored = tmp_path / "models--some--model"
    Family("qwen2", stored / "snapshots" / COMMIT)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(COMMIT)
    assert ask_offline("some/model", tmp_path) == str(stored / "snapshots" / COMMIT)
    refused = "OptionError parameter 'model' is 'some/other': neither a folder nor to be had from the hub"
    assert ask_offline("some/other", tmp_path).startswith(refused)


def test_what_is_neither_a_folder_nor_an_id_is_refused() -> None:
    with pytest.raises(OptionError, match="parameter 'model' is 'a/b/c': neither a folder nor"):
        checkpoint_folder("a/b/c")


@pytest.mark.parametrize("saved", ["float32", "bfloat16", "float16"])
def test_auto_is_the_dtype_that_was_saved(saved: str, tmp_path: Path) -> None:
    hf.LlamaForCausalLM(hf.LlamaConfig(**TINY)).to(getattr(torch, saved)).save_pretrained(tmp_path)
    assert DecoderModel(EngineOptions(str(tmp_path))).dtype == getattr(torch, saved)
    assert DecoderModel(EngineOptions(str(tmp_path), dtype="float32")).dtype == torch.float32


def test_every_end_of_the_generation_config_ends_a_generation(tmp_path: Path) -> None:
    family = Family("qwen2", tmp_path)
    hf.GenerationConfig(eos_token_id=[3, 5]).save_pretrained(family.folder)
    assert DecoderModel(EngineOptions(str(family.folder))).eos_token_ids == {3, 5}
    (family.folder / "generation_config.json").unlink()
    assert DecoderModel(EngineOptions(str(family.folder))).eos_token_ids == {EOS}


def test_longrope_reaches_as_far_as_it_was_first_trained(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32, **factors}
    config = hf.Phi3Config(**TINY, pad_token_id=0, original_max_position_embeddings=32, rope_parameters=rope)
    hf.Phi3ForCausalLM(config).save_pretrained(tmp_path)
    assert DecoderModel(EngineOptions(str(tmp_path))).max_model_len == 32


TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
_PEAK = """
import resource, sys
from python_backends.engine import EngineOptions
from python_backends.torch_engine.loading import load_model
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
load_model(EngineOptions(sys.argv[1]), "sdpa")
print(peak() - before)
"""


@pytest.mark.slow
def test_loading_holds_the_weights_once(tmp_path: Path) -> None:
    config = {**TINY, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 8}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="200MB")
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    ran = subprocess.run([sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    peak = int(ran.stdout.splitlines()[-1])
    assert size > 400e6
    assert peak < 1.4 * size, f"{peak / size:.2f} times the size of the files"
