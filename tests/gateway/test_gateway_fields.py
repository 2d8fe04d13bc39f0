"""No field is forgotten: each of the API is honoured, refused or known to be harmless, and each is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import message_create_params as messages_params
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as responses_params

from gateway.schemas import chat, completions, sampling
from gateway.schemas.chat import ChatRequest
from gateway.schemas.completions import CompletionRequest

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/openai_api.md"
CHAT = {*ChatRequest.model_fields, *chat.NOT_SUPPORTED, *chat.REPLACED, *chat.IGNORED}
COMPLETIONS = {*CompletionRequest.model_fields, *completions.NOT_SUPPORTED, *sampling.IGNORED}


@pytest.mark.parametrize(
    ("params", "known"),
    [(chat_params.CompletionCreateParamsBase, CHAT), (text_params.CompletionCreateParamsBase, COMPLETIONS)],
)
def test_every_field_of_the_official_client_is_known(params: Any, known: set[str]) -> None:
    fields = set(params.__annotations__) | {"stream"}
    assert len(fields) > 15
    assert fields - known == set()


def test_every_known_field_is_documented() -> None:
    said = set(re.findall(r"\w+", DOCUMENT.read_text()))
    assert (CHAT | COMPLETIONS) - said == set()


@pytest.mark.parametrize(
    ("params", "heading"),
    [
        (responses_params.ResponseCreateParamsBase, "## Responses"),
        (messages_params.MessageCreateParamsBase, "## Messages"),
    ],
)
def test_fields_of_the_other_apis_are_documented(params: Any, heading: str) -> None:
    section = DOCUMENT.read_text().partition(heading)[2].partition("\n## ")[0]
    assert set(params.__annotations__) - {"model"} - set(re.findall(r"\w+", section)) == set()
