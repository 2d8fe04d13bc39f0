"""The engine options as flags: each becomes one `parameter` of config.pbtxt, see docs/contracts.md."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
DTYPES = ("auto", "float32", "bfloat16", "float16")


QUANTIZATIONS = ("none", "int8", "int8_weight_only", "int4_weight_only")


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine options", "they apply to the given checkpoints, else to the bundled ones")

    def flag(name: str, convert: Callable[[str], str], metavar: str, text: str) -> None:
        group.add_argument(
            name, type=convert, metavar=metavar, help=text, dest=f"parameter_{name[2:].replace('-', '_')}"
        )

    flag("--engine", str, "NAME", "torch, tensorrt_llm on NVIDIA GPUs, or echo: it says the prompt, for load tests")
    flag("--dtype", _one_of(*DTYPES), "DTYPE", ", ".join(DTYPES))
    flag("--quantization", _one_of(*QUANTIZATIONS), "KIND", ", ".join(QUANTIZATIONS))
    flag("--max-model-len", positive, "TOKENS", "context length; default: the checkpoint's")
    flag("--max-num-seqs", positive, "N", "sequences that run at once")
    flag("--max-num-batched-tokens", positive, "N", "tokens in one step")
    flag("--max-waiting", positive, "N", "requests that may wait; one more is refused")
    flag("--priority-ageing-s", not_negative, "SECONDS", "what one step of priority is worth in waiting; 0: strict")
    flag("--kv-cache-bytes", byte_size, "BYTES", "memory for the KV cache, such as 2GiB")
    flag("--gpu-memory-utilization", fraction, "PART", "part of the GPU's memory to use, such as 0.9")
    flag("--tensor-parallel-size", positive, "N", "GPUs that share one model")
    flag("--echo-tokens-per-second", not_negative, "N", "pace of each sequence of the engine echo; 0: no limit")
    flag("--lora-adapters", adapters, "NAME=FOLDER,...", "each a model under its name; with the engine tensorrt_llm")
    flag("--encoder-cache-bytes", byte_size, "BYTES", "memory for image features, such as 256MiB")
    flag("--limit-mm-per-prompt", media_limits, "KIND=N,...", "such as image=4,video=1")
    flag("--stream-interval", positive, "TOKENS", "tokens in one streamed response")
    flag("--min-pixels", positive, "N", "smaller images are enlarged")
    flag("--max-pixels", positive, "N", "larger images are made smaller")
    flag("--video-fps", positive, "N", "frames that are seen of a second of video; default: 2")
    flag("--max-video-frames", positive, "N", "frames that are seen of one video; default: 32")
    flag("--chat-template", _file, "FILE", "a Jinja file instead of the checkpoint's template")
    flag("--tool-call-parser", str, "NAME", "how tool calls are found in the text")
    flag("--reasoning-parser", str, "NAME", "how reasoning is found in the text")
    flag("--vision-endpoint", _endpoint, "HOST:PORT", "the gRPC address of another server that encodes the images")
    _add_switches(group)


def add_gateway_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("gateway options", "who may ask, and how; see docs/security.md")

    def flag(name: str, convert: Callable[[str], str], metavar: str, text: str) -> None:
        setting = name[2:].replace("-", "_")
        # From here on it is a flag of the gateway; the launcher has to know how to reach it.
        default = os.environ.get(f"TRIMODAL_{setting.upper()}") or None
        group.add_argument(name, type=convert, metavar=metavar, help=text, dest=f"gateway_{setting}", default=default)

    flag("--api-key-file", _file, "FILE", "only who has one of these keys is served; see `trimodal key`")
    flag("--open-routes", str, "PATH,...", "paths that need no key (default /liveness)")
    flag("--tls-cert-file", _file, "FILE", "the gateway's certificate chain (PEM): HTTPS instead of HTTP")
    flag("--tls-key-file", _file, "FILE", "the key of --tls-cert-file")
    flag("--cors-origins", str, "ORIGIN,...", "web origins whose pages may ask, such as https://a.example")
    flag("--workers", positive, "N", "gateway processes on the one port; its limits are per worker")


def gateway_settings_from(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings of the gateway whose flags were given."""
    return _given(arguments, "gateway_")


def parameters_from(arguments: argparse.Namespace) -> dict[str, str]:
    """The parameters whose flags were given."""
    return {key: _text(value) for key, value in _given(arguments, "parameter_").items()}


def _given(arguments: argparse.Namespace, prefix: str) -> dict[str, Any]:
    given = {key: value for key, value in vars(arguments).items() if key.startswith(prefix) and value is not None}
    return {key[len(prefix) :]: value for key, value in given.items()}


def positive(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return text


def not_negative(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return text


def fraction(text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return text


def byte_size(text: str) -> str:
    """'2GiB', '512M', '1.5 GB' or a plain number of bytes; K, M, G are powers of 1000 and Ki, Mi, Gi of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if not match or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 2GiB, 512MB or a number of bytes")
    return str(int(float(match[1]) * UNITS[match[2]]))


def media_limits(text: str) -> str:
    """'image=4,video=1' as a JSON object."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(kind in ("image", "video", "audio") and count.isdecimal() for kind, _, count in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} does not read like image=4,video=1")
    return json.dumps({kind: int(count) for kind, _, count in pairs})


def adapters(text: str) -> str:
    """'legal=folder,medical=other' as a JSON object, with absolute folders."""
    pairs = [part.partition("=") for part in text.split(",")]
    for name, _, folder in pairs:
        if not name or not Path(folder, "adapter_config.json").is_file():
            raise argparse.ArgumentTypeError(f"{name}={folder} is not a name and a folder with an adapter_config.json")
    return json.dumps({name: str(Path(folder).resolve()) for name, _, folder in pairs})


def _add_switches(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=None,
        dest="parameter_enable_prefix_caching",
        help="reuse the KV cache of prompts that begin alike",
    )
    group.add_argument(
        "--trust-remote-code",
        action="store_const",
        const=True,
        dest="parameter_trust_remote_code",
        help="run code that comes with the checkpoint",
    )


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(allowed)}")
        return text

    return convert


def _file(text: str) -> str:
    path = Path(text).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return str(path.resolve())


def _endpoint(text: str) -> str:
    if not re.fullmatch(r"\S+:\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
