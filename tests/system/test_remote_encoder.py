"""`llm` on one server, `vision` on another: the same text, and what is left when the encoder's server is gone."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from gateway.settings import Settings
from tests.bare_triton import bare_tritonserver
from tests.conftest import ROOT
from tests.gateway.conftest import running_gateway
from tests.native import Array, joined, number, stream, text
from tests.pictures import draw

pytestmark = [pytest.mark.triton, pytest.mark.slow]

VISION = ("image_frontend", "vision_encoder", "vision")
RED, BLUE = draw(("red", "circle")), draw(("blue", "square"))


def repository(folder: Path, *entries: str, more: str = "") -> Path:
    """A copy of some entries, with paths that hold anywhere and `more` at the end of `llm`'s configuration."""
    for entry in entries:
        shutil.copytree(ROOT / "model_repository" / entry, folder / entry)
        file = folder / entry / "config.pbtxt"
        config = file.read_text().replace("../../demo_models", str(ROOT / "demo_models"))
        file.write_text(config + more if entry == "llm" else config)
    return folder


def question(picture: bytes | None) -> dict[str, Array]:
    words = {"type": "text", "text": "What is in the picture?" if picture else "Who are you?"}
    content = [{"type": "image"}, words] if picture else [words]
    inputs = {"messages": text(json.dumps([{"role": "user", "content": content}]))}
    if picture:
        inputs["image"] = text(picture)
    return {**inputs, "temperature": number(0, np.float32), "max_tokens": number(24, np.int32)}


def test_the_encoder_may_live_in_another_server(tmp_path: Path) -> None:
    with ExitStack() as chat_server, ExitStack() as encoder_server:
        (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
        whole = repository(tmp_path / "whole", "llm", *VISION)
        encoder = encoder_server.enter_context(bare_tritonserver(whole, tmp_path / "a")).grpc
        parameter = f'parameters {{ key: "vision_endpoint" value {{ string_value: "{encoder}" }} }}\n'
        alone = repository(tmp_path / "alone", "llm", more=parameter)
        chat = chat_server.enter_context(bare_tritonserver(alone, tmp_path / "b")).grpc

        here = joined(stream(encoder, "llm", question(RED)))
        assert joined(stream(chat, "llm", question(RED))) == here
        assert "red circle" in here

        encoder_server.close()
        with pytest.raises(InferenceServerException, match=r"\[UNAVAILABLE\] image: the vision encoder did not answer"):
            stream(chat, "llm", question(BLUE))
        assert joined(stream(chat, "llm", question(RED))) == here, "an image seen before needs no encoder"
        assert joined(stream(chat, "llm", question(None)))

        new, seen, plain, after = asyncio.run(over_http(chat, [BLUE, RED, None, BLUE]))
        for refused in (new, after):
            error = refused.json()["error"]
            assert (refused.status_code, error["param"], error["code"]) == (503, "messages", "unavailable"), (
                refused.text
            )
            assert "the vision encoder did not answer" in error["message"]
        assert (seen.status_code, plain.status_code) == (200, 200)
        assert seen.json()["choices"][0]["message"]["content"] == here


async def over_http(triton: str, pictures: list[bytes | None]) -> list[httpx.Response]:
    """The same questions all at once, through a gateway."""
    async with running_gateway(Settings(port=0, triton_metrics="", triton_grpc=triton)) as gateway:
        found = await asyncio.gather(*(gateway.http.post("/v1/chat/completions", json=chat(each)) for each in pictures))
    return list(found)


def chat(picture: bytes | None) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": "What is in the picture?" if picture else "Who are you?"}]
    if picture:
        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"model": "demo-vl", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 24}
