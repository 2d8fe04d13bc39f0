"""Reading an entry's `parameters` from config.pbtxt into a frozen dataclass, strictly.

An entry declares its options as a frozen dataclass; `read_options` turns Triton's strings into its field types. An
unknown key, or a value that does not parse, is an error that names both: a typo must not be served silently.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from python_backends.errors import OptionError

Options = TypeVar("Options")

# Told to the gateway, or used by Triton itself; an entry need not know them.
FOREIGN_KEYS = frozenset(
    {
        "task",
        "served_model_name",
        "input_modalities",
        "tool_call_parser",
        "reasoning_parser",
        "FORCE_CPU_ONLY_INPUT_TENSORS",
    }
)


def read_options(kind: type[Options], parameters: Mapping[str, str], folder: Path) -> Options:
    """Build `kind` (a frozen dataclass) from the `parameters` of the entry in `folder`.

    Raises OptionError for an unknown key, a missing required key, or a value that does not parse.
    """
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(set(parameters) - set(fields) - FOREIGN_KEYS)
    if unknown:
        key, known = unknown[0], ", ".join(sorted(fields))
        raise OptionError(f"{folder.name}: unknown parameter {key!r} = {parameters[key]!r}; known are {known}")
    # Annotations are text under `from __future__ import annotations`; this gives the types.
    hints = typing.get_type_hints(kind)
    values = {key: _parse(folder, key, hints[key], text) for key, text in parameters.items() if key in fields}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{folder.name}: {error}") from error


def checkpoint_path(folder: Path, model: str) -> str:
    """A relative path starts at the entry's folder; anything else is an absolute path or a hub id."""
    return str((folder / model).resolve()) if model.startswith((".", "..")) else model


def _parse(folder: Path, key: str, kind: Any, text: str) -> Any:
    try:
        return _parser(kind)(text)
    except ValueError as error:
        raise OptionError(f"{folder.name}: parameter {key!r} has the bad value {text!r}: {error}") from error


def _parser(kind: Any) -> Callable[[str], Any]:
    if typing.get_origin(kind) is typing.Literal:
        return lambda text: _one_of(typing.get_args(kind), text)
    parsers: dict[Any, Callable[[str], Any]] = {bool: _boolean, int: int, float: float, str: str}
    return parsers.get(kind, _json_object)


def _one_of(allowed: tuple[str, ...], text: str) -> str:
    if text not in allowed:
        raise ValueError(f"must be one of {', '.join(allowed)}")
    return text


def _boolean(text: str) -> bool:
    return _one_of(("true", "1", "false", "0"), text.lower()) in ("true", "1")


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return value
