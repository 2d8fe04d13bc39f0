"""Reading and writing config.pbtxt as the protobuf message that it is."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig

from launcher.errors import LauncherError


def read_config(path: Path) -> ModelConfig:
    try:
        return text_format.Parse(path.read_text(), ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise LauncherError(f"{path} is not a valid model configuration: {error}") from error


def write_config(config: ModelConfig, path: Path) -> None:
    path.write_text(text_format.MessageToString(config))


def parameters_of(config: ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}
