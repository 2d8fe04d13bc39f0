"""Rendering repositories for checkpoints, from the project's own entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from launcher.cli import main
from launcher.errors import LauncherError
from launcher.options import ROOT, Checkpoint, ModelOptions
from launcher.pbtxt import parameters_of, read_config
from launcher.repository import render
from launcher.welcome import chat_line, served_models
from tests.launcher.toys import SPEECH, TEXT, VISION, write_checkpoint

ENTRIES = ROOT / "model_repository"
TEXT_ENTRIES = {"llm", "tokenizer"}
VISION_ENTRIES = TEXT_ENTRIES | {"image_frontend", "vision_encoder", "vision", "multimodal_chat"}
SPEECH_ENTRIES = {"audio_frontend", "whisper", "whisper_bls", "transcription"}


def rendered(target: Path, options: ModelOptions) -> dict[str, ModelConfig]:
    render(ENTRIES, target, options)
    return {path.parent.name: read_config(path) for path in target.glob("*/config.pbtxt")}


def chat(folder: Path, name: str = "mine") -> ModelOptions:
    return ModelOptions(chat=(Checkpoint(str(folder), name),))


def test_a_text_checkpoint_gets_no_vision_entries(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "text", **TEXT)
    configs = rendered(tmp_path / "out", chat(folder))
    assert set(configs) == TEXT_ENTRIES
    card = parameters_of(configs["llm"])
    assert card["model"] == str(folder)
    assert (card["task"], card["served_model_name"], card["input_modalities"]) == ("chat", "mine", "text")
    assert card["max_model_len"] == "4096"
    # The demo model's own settings are not for another checkpoint.
    assert "dtype" not in card
    assert parameters_of(configs["tokenizer"])["model"] == str(folder)
    assert (tmp_path / "out/llm/1/model.py").read_text() == (ENTRIES / "llm/1/model.py").read_text()


def test_a_vision_checkpoint_gets_all_entries_of_the_pipeline(tmp_path: Path) -> None:
    configs = rendered(tmp_path / "out", chat(write_checkpoint(tmp_path / "vl", **VISION)))
    assert set(configs) == VISION_ENTRIES
    assert parameters_of(configs["llm"])["input_modalities"] == "text,image,video"
    assert parameters_of(configs["llm"])["max_model_len"] == "1024"
    assert parameters_of(configs["vision_encoder"])["model"] == str(tmp_path / "vl")
    assert (tmp_path / "out/vision/1").is_dir()


def test_a_second_model_gets_entries_of_its_own(tmp_path: Path) -> None:
    first = Checkpoint(str(write_checkpoint(tmp_path / "text", **TEXT)), "one")
    second = Checkpoint(str(write_checkpoint(tmp_path / "vl", **VISION)), "org/two")
    configs = rendered(tmp_path / "out", ModelOptions(chat=(first, second)))
    assert set(configs) == TEXT_ENTRIES | {f"{name}_org_two" for name in VISION_ENTRIES}
    assert configs["llm_org_two"].name == "llm_org_two"
    assert parameters_of(configs["llm_org_two"])["vision_model"] == "vision_org_two"
    assert step_names(configs["vision_org_two"]) == ["image_frontend_org_two", "vision_encoder_org_two"]
    assert step_names(configs["multimodal_chat_org_two"])[-1] == "llm_org_two"


def test_a_speech_model_alone(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "w", **SPEECH)
    configs = rendered(
        tmp_path / "out", ModelOptions(speech=Checkpoint(str(folder), "bench"), parameters={"dtype": "auto"})
    )
    assert set(configs) == SPEECH_ENTRIES
    assert parameters_of(configs["whisper"])["served_model_name"] == "bench"
    whisper = parameters_of(configs["whisper"])
    assert (whisper["model"], whisper["dtype"], whisper["task"]) == (str(folder), "auto", "transcription")
    assert "alignment_heads" not in whisper, "it belongs to the bundled checkpoint"
    assert served_models(tmp_path / "out") == {"transcription": "bench"}


def test_engine_options_alone_keep_the_bundled_checkpoints(tmp_path: Path) -> None:
    configs = rendered(tmp_path / "out", ModelOptions(parameters={"max_num_seqs": "3", "max_pixels": "50176"}))
    assert set(configs) == VISION_ENTRIES | SPEECH_ENTRIES
    assert parameters_of(configs["llm"])["max_num_seqs"] == "3"
    assert parameters_of(configs["image_frontend"])["max_pixels"] == "50176"
    assert Path(parameters_of(configs["llm"])["model"]).is_absolute()


def test_with_a_remote_encoder_no_vision_entry_runs_here(tmp_path: Path) -> None:
    source = Checkpoint(str(write_checkpoint(tmp_path / "vl", **VISION)), "mine")
    configs = rendered(tmp_path / "out", ModelOptions(chat=(source,), parameters={"vision_endpoint": "gpu1:8001"}))
    assert set(configs) == TEXT_ENTRIES
    assert parameters_of(configs["llm"])["input_modalities"] == "text,image,video"


def test_an_option_that_nobody_takes_is_refused(tmp_path: Path) -> None:
    speech = Checkpoint(str(write_checkpoint(tmp_path / "w", **SPEECH)), "w")
    with pytest.raises(LauncherError, match="--max-num-seqs has no effect"):
        rendered(tmp_path / "out", ModelOptions(speech=speech, parameters={"max_num_seqs": "3"}))


def test_each_kind_of_checkpoint_has_its_flag(tmp_path: Path) -> None:
    speech, text = write_checkpoint(tmp_path / "w", **SPEECH), write_checkpoint(tmp_path / "t", **TEXT)
    with pytest.raises(LauncherError, match="give it with --speech-model"):
        rendered(tmp_path / "out", chat(speech))
    with pytest.raises(LauncherError, match="give it with --model"):
        rendered(tmp_path / "out", ModelOptions(speech=Checkpoint(str(text), "t")))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, r"of the kind bert \(BertModel\)"),
        ({}, "of the kind unknown"),
    ],
)
def test_what_does_not_generate_is_refused(tmp_path: Path, config: dict[str, object], said: str) -> None:
    with pytest.raises(LauncherError, match=said):
        rendered(tmp_path / "out", chat(write_checkpoint(tmp_path / "other", **config)))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match=r"has no config\.json"):
        rendered(tmp_path / "out", chat(tmp_path))
    with pytest.raises(LauncherError, match="there is no folder"):
        rendered(tmp_path / "out", chat(tmp_path / "nowhere"))


def test_build_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "text", **TEXT)
    assert main(["repository", "build", str(tmp_path / "out"), "--model", str(folder), "--dtype", "float32"]) == 0
    assert "llm, tokenizer" in capsys.readouterr().out
    assert parameters_of(read_config(tmp_path / "out/llm/config.pbtxt"))["dtype"] == "float32"


def test_the_printed_request_can_be_pasted_whatever_the_name() -> None:
    assert chat_line("http://h", "it's").count("'\\''") == 1


def step_names(config: ModelConfig) -> list[str]:
    """The entries that an ensemble calls; none for anything else."""
    return [step.model_name for step in config.ensemble_scheduling.step]
