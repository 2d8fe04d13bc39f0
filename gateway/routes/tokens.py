"""/tokenize, /detokenize and /v1/count_tokens, answered by the entry that has the model's tokenizer."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.deps import Services, ServicesDep
from gateway.discovery import ServedModel
from gateway.errors import GatewayError, Unsupported
from gateway.openapi import MODEL, described
from gateway.responses import json_response
from gateway.schemas.answers import Prompt, TokenCount, Tokens
from gateway.schemas.tokens import (
    COUNT,
    DETOKENIZE,
    TOKENIZE,
    count_as_tokenize,
    tokenize_inputs,
)
from gateway.schemas.translated import in_words_of
from gateway.tensors import TokenizerOutput, Value, tokenizer_output

router = APIRouter(tags=["text"])


@router.post("/tokenize", **described(Tokens, body=TOKENIZE, errors=MODEL))
@router.post("/v1/tokenize", **described(Tokens, body=TOKENIZE, errors=MODEL))
async def tokenize(request: Request, services: ServicesDep) -> Response:
    """The tokens of a text, or of a chat in the model's template; vLLM's route."""
    async with admitted(request, services) as answering:
        asked = TOKENIZE.read(await answering.body())
        model = await services.discovery.find(asked.model, "chat")
        output = await ask_tokenizer(services, model, tokenize_inputs(asked), {"text": "prompt"})
    body = {"count": len(output.ids), "max_model_len": model.max_model_len, "tokens": output.ids, "token_strs": None}
    return json_response(body)


@router.post("/detokenize", **described(Prompt, body=DETOKENIZE, errors=MODEL))
@router.post("/v1/detokenize", **described(Prompt, body=DETOKENIZE, errors=MODEL))
async def detokenize(request: Request, services: ServicesDep) -> Response:
    """The text of tokens; vLLM's route."""
    async with admitted(request, services) as answering:
        asked = DETOKENIZE.read(await answering.body())
        model = await services.discovery.find(asked.model, "chat")
        output = await ask_tokenizer(services, model, {"input_ids": asked.tokens}, {"input_ids": "tokens"})
    return json_response({"prompt": output.text})


@router.post("/v1/count_tokens", **described(TokenCount, body=COUNT, errors=MODEL))
async def count_tokens(request: Request, services: ServicesDep) -> Response:
    """The number of tokens of a text or a chat."""
    async with admitted(request, services) as answering:
        asked = COUNT.read(await answering.body())
        model = await services.discovery.find(asked.model, "chat")
        with in_words_of(dict.fromkeys(("prompt", "messages"), "conversation")):
            inputs = tokenize_inputs(count_as_tokenize(asked))
        output = await ask_tokenizer(services, model, inputs, {"text": "conversation", "messages": "conversation"})
    return json_response({"model": asked.model or model.ids[0], "count": len(output.ids)})


async def ask_tokenizer(
    services: Services, model: ServedModel, inputs: dict[str, Value], names: dict[str, str]
) -> TokenizerOutput:
    """Asks the model's tokenizer; `names` are the client's names for fields that have another one on the wire."""
    if model.tokenizer is None:
        raise Unsupported(f"No entry with the tokenizer of {model.ids[0]!r} is served.", "model")
    try:
        return tokenizer_output(await services.once(model.tokenizer, inputs))
    except GatewayError as error:
        raise error.under(names) from None
