"""What a checkpoint can do, read from its config.json; no weights are opened."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
GENERATING = ("ForCausalLM", "ForConditionalGeneration")

# Those whose videos `image_frontend` reads.
VIDEO_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


@dataclasses.dataclass(frozen=True)
class CheckpointFacts:
    """`source` is an absolute path or a hub id; `max_model_len` is None when the checkpoint does not say."""

    source: str
    family: str
    task: str
    takes_images: bool
    takes_videos: bool
    max_model_len: int | None


def read_facts(source: str) -> CheckpointFacts:
    """Raises LauncherError when `source` is no checkpoint, or one that neither chats nor transcribes."""
    absolute, config = _read_config(source)
    family = str(config.get("model_type", ""))
    architectures = [str(name) for name in config.get("architectures") or []]
    if not any(name.endswith(GENERATING) for name in architectures):
        known = f"{family or 'unknown'} ({', '.join(architectures) or 'no architecture named'})"
        raise LauncherError(
            f"{source} is a checkpoint of the kind {known}; only models that generate text can be served"
        )
    text = config.get("text_config") or config
    return CheckpointFacts(
        source=absolute,
        family=family,
        task="transcription" if family == "whisper" else "chat",
        takes_images="vision_config" in config,
        takes_videos=family in VIDEO_FAMILIES,
        max_model_len=text.get("max_position_embeddings") or config.get("max_position_embeddings"),
    )


def default_name(source: str) -> str:
    """The folder's name, or the hub id as it is."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def _read_config(source: str) -> tuple[str, dict[str, Any]]:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder.resolve()), _read_json(folder / "config.json")
    if source.startswith(("/", ".", "~")) or not HUB_ID.fullmatch(source):
        raise LauncherError(
            f"there is no folder {source}; give a folder with a config.json, or a hub id such as ORG/NAME"
        )
    return source, _read_from_hub(source)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LauncherError(f"{path.parent} has no config.json; give the folder of a Hugging Face checkpoint")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LauncherError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise LauncherError(f"{path} is not a JSON object; give the folder of a Hugging Face checkpoint")
    return config


def _read_from_hub(name: str) -> dict[str, Any]:
    # Takes seconds to import, and a folder needs none of it.
    from transformers import AutoConfig

    try:
        return dict(AutoConfig.from_pretrained(name).to_dict())
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise LauncherError(
            f"{name} is neither a folder here nor a checkpoint that can be had from the hub: {reason}"
        ) from error
