"""Rendering a model repository for given checkpoints from the entries of another one.

The first chat model keeps the plain names (`llm`, `vision`, ...); each further one gets entries with its name behind
(`llm_NAME`, `vision_NAME`, ...). The result stands by itself: paths are absolute, and plain tritonserver loads it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from launcher.checkpoint import CheckpointFacts, read_facts
from launcher.errors import LauncherError
from launcher.options import Checkpoint, ModelOptions
from launcher.pbtxt import parameters_of, read_config, write_config

CHAT_ENTRIES = ("llm", "tokenizer")
VISION_ENTRIES = ("image_frontend", "vision_encoder", "vision", "multimodal_chat")
SPEECH_ENTRIES = ("audio_frontend", "whisper", "whisper_bls", "transcription")

# What an operator sets for any checkpoint; all else was chosen for the checkpoint that is replaced.
KEPT = frozenset({"engine", "max_duration"})

# Which entries take an engine option; all others are for `llm` alone.
TAKERS = {
    "dtype": ("llm", "vision_encoder", "whisper"),
    "min_pixels": ("image_frontend",),
    "max_pixels": ("image_frontend",),
    "video_fps": ("image_frontend",),
    "max_video_frames": ("image_frontend",),
}

Configs = dict[str, tuple[Path, ModelConfig]]


def render(source: Path, target: Path, options: ModelOptions) -> None:
    """Write the entries for `options` into `target`, made when missing.

    Raises LauncherError for a checkpoint that does not fit, an entry that `source` lacks, and an option nobody takes.
    """
    rendered: Configs = {}
    if options.chat or options.speech:
        for number, checkpoint in enumerate(options.chat):
            rendered |= _chat_entries(
                source, checkpoint, _suffix(checkpoint.name) if number else "", options.parameters
            )
        if options.speech:
            rendered |= _speech_entries(source, options.speech)
    else:
        rendered = _pick(source, [path.parent.name for path in source.glob("*/config.pbtxt")], {})
        _anchor_paths(rendered)
    _apply(rendered, options.parameters)
    _write(rendered, target)


def _chat_entries(source: Path, checkpoint: Checkpoint, suffix: str, parameters: Mapping[str, str]) -> Configs:
    facts = _facts_for(checkpoint, "chat", "--model")
    # With a remote encoder nothing of the vision part runs here.
    local_vision = facts.takes_images and not parameters.get("vision_endpoint")
    names = [*CHAT_ENTRIES, *(VISION_ENTRIES if local_vision else ())]
    entries = _pick(source, names, {name: f"{name}{suffix}" for name in names})
    _point_to(entries, facts)
    length = {"max_model_len": str(facts.max_model_len)} if facts.max_model_len else {}
    vision = {"vision_model": f"vision{suffix}"} if local_vision and suffix else {}
    modalities = "text" + ",image" * facts.takes_images + ",video" * facts.takes_videos
    _set(entries[f"llm{suffix}"][1], {**_model_card("chat", checkpoint.name, modalities), **length, **vision})
    return entries


def _speech_entries(source: Path, checkpoint: Checkpoint) -> Configs:
    facts = _facts_for(checkpoint, "transcription", "--speech-model")
    entries = _pick(source, SPEECH_ENTRIES, {})
    _point_to(entries, facts)
    _set(entries["whisper"][1], _model_card("transcription", checkpoint.name, "audio"))
    return entries


def _facts_for(checkpoint: Checkpoint, task: str, flag: str) -> CheckpointFacts:
    facts = read_facts(checkpoint.source)
    if facts.task != task:
        other = "--speech-model" if flag == "--model" else "--model"
        raise LauncherError(
            f"{checkpoint.source} is a {facts.family} checkpoint, which does {facts.task}: give it with {other}"
        )
    return facts


def _model_card(task: str, name: str, modalities: str) -> dict[str, str]:
    return {"task": task, "served_model_name": name, "input_modalities": modalities}


def _pick(source: Path, names: Iterable[str], renamed: Mapping[str, str]) -> Configs:
    """The entries by their new names, with the steps of ensembles renamed alike."""
    picked: Configs = {}
    for name in sorted(names):
        folder = source / name
        if not (folder / "config.pbtxt").is_file():
            raise LauncherError(
                f"{source} has no entry {name}, which this checkpoint needs; name another with --model-repository"
            )
        config = read_config(folder / "config.pbtxt")
        config.name = renamed.get(name, name)
        for step in config.ensemble_scheduling.step:
            step.model_name = renamed.get(step.model_name, step.model_name)
        picked[config.name] = (folder, config)
    return picked


def _point_to(entries: Configs, facts: CheckpointFacts) -> None:
    for _, config in entries.values():
        has_model = "model" in config.parameters
        for key in set(config.parameters) - KEPT:
            del config.parameters[key]
        if has_model:
            _set(config, {"model": facts.source})


def _anchor_paths(entries: Configs) -> None:
    for folder, config in entries.values():
        model = parameters_of(config).get("model", "")
        if model.startswith("."):
            _set(config, {"model": str((folder / model).resolve())})


def _apply(entries: Configs, parameters: Mapping[str, str]) -> None:
    for key, value in parameters.items():
        takers = [config for folder, config in entries.values() if folder.name in TAKERS.get(key, ("llm",))]
        if not takers:
            raise LauncherError(f"--{key.replace('_', '-')} has no effect: no entry that is served takes {key}")
        for config in takers:
            _set(config, {key: value})


def _write(entries: Configs, target: Path) -> None:
    for name, (folder, config) in entries.items():
        entry = target / name
        shutil.copytree(folder, entry, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        # Triton wants a version folder in an ensemble too, and git keeps no empty ones.
        (entry / "1").mkdir(exist_ok=True)
        write_config(config, entry / "config.pbtxt")


def _set(config: ModelConfig, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        config.parameters[key].string_value = value


def _suffix(name: str) -> str:
    return "_" + re.sub(r"[^\w.-]+", "_", name)
