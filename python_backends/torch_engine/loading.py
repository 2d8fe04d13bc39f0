"""From a folder or a hub id to a Hugging Face model in memory, with progress, or a sentence that says why not.

Knows files, the hub and the library's loaders; whether the engine can serve what was loaded is `structure.py`'s.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm import tqdm
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as untyped_logging

from python_backends.engine import EngineOptions
from python_backends.errors import OptionError
from python_backends.torch_engine.quantized import Tensors, check_quantization, make_weights_plain
from python_backends.transformers_setup import keep_quiet

# Weights in other formats can run code when they are read.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.py"]
# The same weights once more, in the form of their maker, and whatever lies in folders.
_UNWANTED = ["consolidated*.safetensors", "*/*"]
# The library of the format reads no longer header either.
_MAX_HEADER_BYTES = 100_000_000

_logging: Any = untyped_logging


def load_model(options: EngineOptions, attention: str) -> Any:
    """The checkpoint `options.model` with `attention`, without its vision tower, on the device that there is.

    Raises OptionError for what is no checkpoint, is damaged, or cannot be loaded here.
    """
    keep_quiet()
    folder = checkpoint_folder(options.model)
    config = _read_config(folder, options)
    check_quantization(config, check_weights(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    loader: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    make_weights_plain(config, keeps_int4=device == "cpu" and options.quantization in ("none", "int4_weight_only"))
    with _load_errors_told(folder, config, attention), _weights_counted(folder):
        model, told = loader.from_pretrained(
            folder,
            config=config,
            dtype=options.dtype,
            attn_implementation=attention,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
        )
    # The library would draw them at random.
    if missing := sorted(told["missing_keys"]):
        raise OptionError(f"{folder} lacks {len(missing)} of its weights: {', '.join(missing[:3])}")
    _drop_encoders(model)
    return model.to(device).eval().requires_grad_(False)


def checkpoint_folder(model: str) -> Path:
    """Where the checkpoint's files are; what is on the hub only is fetched into the library's cache first."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")):
        raise OptionError(f"parameter 'model' is {model!r}: there is no such folder")
    try:
        return Path(
            snapshot_download(model, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, tqdm_class=DownloadLines)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OptionError(
            f"parameter 'model' is {model!r}: neither a folder nor to be had from the hub: {reason}"
        ) from error


def check_weights(folder: Path) -> Tensors:
    """The types and shapes of all weights; OptionError if a file is missing, or shorter than its own header says."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = json.loads(index.read_text())["weight_map"].values()
        missing = sorted(name for name in set(named) if not (folder / name).is_file())
        if missing:
            raise OptionError(f"{folder} lacks {len(missing)} of its files of weights: {', '.join(missing[:3])}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise OptionError(f"{folder} has no weights in the safetensors format")
    return {name: tensor for file in files for name, tensor in _read_header(file).items() if name != "__metadata__"}


def _read_header(file: Path) -> Tensors:
    """The format: 8 bytes with the length of the header, a JSON header, the tensors; the file must be just as long."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(length)) if length < min(size, _MAX_HEADER_BYTES) else {}
        except ValueError:
            header = {}
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if not ends or size != expected:
        told = f"; its header says {expected}" if ends else ""
        raise OptionError(f"{file} is damaged or was not copied to its end: it has {size} bytes{told}")
    return dict(header)


def _read_config(folder: Path, options: EngineOptions) -> Any:
    path = folder / "config.json"
    if not path.is_file():
        raise OptionError(f"{folder} has no config.json; 'model' must be the folder of a Hugging Face checkpoint")
    try:
        plain = json.loads(path.read_text())
    except ValueError as error:
        raise OptionError(f"{path} is not JSON: {error}") from error
    if "model_type" not in plain and "auto_map" not in plain:
        raise OptionError(f"{path} names no model_type, so nobody knows what to load")
    if plain.get("is_encoder_decoder"):
        raise OptionError(
            f"the torch engine cannot serve the family {plain['model_type']!r}: it is an encoder with a decoder"
        )
    if "auto_map" in plain and not options.trust_remote_code and plain.get("model_type") not in CONFIG_MAPPING:
        raise OptionError(
            f"{folder} comes with code of its own for {plain.get('model_type')!r}; "
            "parameter 'trust_remote_code' must be true to run it"
        )
    if options.tensor_parallel_size > 1:
        raise OptionError(f"parameter 'tensor_parallel_size' is {options.tensor_parallel_size}; the torch engine has 1")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path} cannot be used: {_first_lines(error)}") from error
    return config


@contextmanager
def _load_errors_told(folder: Path, config: Any, attention: str) -> Iterator[None]:
    """The library's errors of loading as one sentence."""
    try:
        yield
    except (ImportError, RuntimeError, ValueError, TypeError, OSError, KeyError, NotImplementedError) as error:
        reason = _first_lines(error)
        if attention in reason:
            raise OptionError(
                f"the torch engine cannot serve the family {config.model_type!r}: "
                "its layers do not attend through the library's attention interface"
            ) from error
        raise OptionError(f"{folder} cannot be loaded: {reason}") from error


def _drop_encoders(model: Any) -> None:
    """What neither leads to the decoder nor lies in it, such as a vision tower, is another entry's and takes memory."""
    decoder = model.get_decoder()
    path = next((name for name, module in model.named_modules() if module is decoder), "")
    parents = path.split(".")[:-1]
    for depth in range(1, len(parents) + 1):
        parent = model.get_submodule(".".join(parents[:depth]))
        for name, child in list(parent.named_children()):
            if not any(module is decoder for module in child.modules()):
                setattr(parent, name, None)


def _first_lines(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:400] or type(error).__name__


# Progress, as lines in the entry's log: what follows the log can show the last one


class ProgressLines:
    """Says how far something is, at most once a second and at its end."""

    def __init__(self, what: str, say: Callable[[str], None] | None = None) -> None:
        self._what, self._say = what, say or (lambda line: print(line, flush=True))
        self._last = time.monotonic()

    def at(self, done: float, total: float, unit: str = "") -> None:
        now = time.monotonic()
        if total and (done >= total or now - self._last >= 1):
            self._last = now
            self._say(f"{self._what}: {100 * done / total:.0f} %{unit}")


class DownloadLines(tqdm):  # type: ignore[misc]  # tqdm has no types
    """Stands for the hub's progress bars; only the one that counts the bytes received speaks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        speaks = kwargs.get("desc") == "Downloading bytes"
        self._lines = ProgressLines("downloading the checkpoint") if speaks else None
        kwargs.pop("name", None)
        super().__init__(*args, **{**kwargs, "disable": True})
        self.n = kwargs.get("initial") or 0

    def update(self, n: float | None = 1) -> bool | None:
        self.n += n or 0
        total = self.total or 0
        if self._lines and self.n <= total:
            self._lines.at(self.n, total, f" of {total / 1e9:.2f} GB")
        return None


@contextmanager
def _weights_counted(folder: Path) -> Iterator[None]:
    """Tell how many of the tensors are loaded while the library loads them."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def counted(factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Any]:
        if args:
            return _counted(list(args[0]), f" of {size / 1e9:.2f} GB")
        bar: Iterable[Any] = factory(*args, **{**kwargs, "disable": True})
        return bar

    previous = _logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        _logging.set_tqdm_hook(previous)


def _counted(items: list[Any], unit: str) -> Iterator[Any]:
    lines = ProgressLines("loading the weights")
    for done, item in enumerate(items, start=1):
        yield item
        lines.at(done, len(items), unit)
