"""The `tokenizer` entry: text or messages to ids, ids to text. A process without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from python_backends.errors import InvalidInput
from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_torch_out
from python_backends.triton_io import (
    Array,
    Inputs,
    answer_each,
    entry_folder,
    entry_parameters,
    load_errors_named,
    text_array,
)

if TYPE_CHECKING:
    from python_backends.tokenizer.codec import Codec, Encoding

_SOURCES = ("text", "messages", "input_ids")


@dataclass(frozen=True)
class TokenizerOptions:
    """Parameters of the `tokenizer` entry, see docs/contracts.md."""

    model: str


class TokenizerService:
    """Triton's Python model for `tokenizer`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            options = read_options(TokenizerOptions, entry_parameters(args), folder)
            keep_torch_out()
            # Imported here because transformers decides at import whether torch exists.
            from python_backends.tokenizer.codec import Codec

            self._codec: Codec = Codec(checkpoint_path(folder, options.model))

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_each(requests, self._answer)

    def _answer(self, inputs: Inputs) -> dict[str, Array]:
        made = self._encoding(inputs)
        return {
            "ids": np.array(made.ids, np.int32),
            "count": np.array([len(made.ids)], np.int32),
            "text": text_array(made.text),
        }

    def _encoding(self, inputs: Inputs) -> Encoding:
        given = [name for name in _SOURCES if inputs.array(name) is not None]
        if len(given) != 1:
            raise InvalidInput(f"exactly one of {', '.join(_SOURCES)} is required, got {len(given)}", "text")
        if given[0] == "text":
            return self._codec.from_text(inputs.text("text"), bool(inputs.scalar("add_special_tokens", True)))
        if given[0] == "messages":
            add_prompt = bool(inputs.scalar("add_generation_prompt", True))
            return self._codec.from_messages(inputs.json("messages"), inputs.json("tools"), add_prompt)
        return self._codec.from_ids(inputs.need("input_ids").reshape(-1).tolist())
