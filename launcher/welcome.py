"""The text that `serve` ends its start with: the addresses, and a request that works when pasted."""

from __future__ import annotations

import json
import wave
from pathlib import Path

from launcher.options import CACHE, ServeOptions
from launcher.pbtxt import parameters_of, read_config
from launcher.ports import Ports, address, connect_host

QUESTION = "Tell me about yourself."


def welcome(options: ServeOptions, ports: Ports, repository: Path, log: str) -> str:
    host = connect_host(options.triton_host)
    lines = [
        f"gRPC (KServe v2)   {address(host, ports.grpc)}",
        f"Triton HTTP        http://{address(host, ports.triton_http)}",
        f"Triton metrics     http://{address(host, ports.metrics)}/metrics",
        f"log                {log}",
    ]
    if options.gateway:
        url = options.url(ports)
        lines.insert(0, f"OpenAI API         {url}/v1")
        lines += ["", "Try it:", "", *_request_lines(url, repository)]
        if options.gateway_settings.get("api_key_file"):
            lines += ["", "It asks for a key: add -H 'Authorization: Bearer KEY'."]
    return "\n".join(["", "Trimodal is ready.", "", *(f"  {line}".rstrip() for line in lines), "", "Ctrl-C stops it."])


def _request_lines(url: str, repository: Path) -> list[str]:
    models = served_models(repository)
    if "chat" in models:
        return [chat_line(url, models["chat"])]
    if "transcription" in models:
        return [speech_line(url, models["transcription"])]
    return [f"curl {url}/v1/models"]


def served_models(repository: Path) -> dict[str, str]:
    """The id of the first entry for each task."""
    found: dict[str, str] = {}
    for config in sorted(repository.glob("*/config.pbtxt")):
        parameters = parameters_of(read_config(config))
        if "task" in parameters:
            name = parameters.get("served_model_name", "").split(",")[0].strip()
            # The canonical id comes first, aliases follow.
            found.setdefault(parameters["task"], name or config.parent.name)
    return found


def chat_line(url: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 128}
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d {_quoted(json.dumps(body))}"


def speech_line(url: str, model: str) -> str:
    return f"curl {url}/v1/audio/transcriptions -F model={_quoted(model)} -F file=@{_quoted(str(_silence()))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _silence() -> Path:
    """A recording that every checkpoint takes; replace it by one that says something."""
    path = CACHE / "silence.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(16000)
        recording.writeframes(bytes(2 * 16000))
    return path
