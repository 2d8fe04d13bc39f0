"""Chat through the official client: text and pictures, streamed and whole, on the demo model."""

from __future__ import annotations

import time
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.conftest import System, model_process
from tests.pictures import COLORS, SHAPES, draw, draw_somewhere, part

pytestmark = pytest.mark.triton

DESCRIBE = "What is in the picture?"


def ask(client: openai.OpenAI, *content: Any, **options: Any) -> str:
    messages: Any = [{"role": "user", "content": list(content)}]
    answer = client.chat.completions.create(model="demo-vl", messages=messages, temperature=0, **options)
    return (answer.choices[0].message.content or "").lower()


def question(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_names_color_and_shape_of_fresh_pictures(client: openai.OpenAI) -> None:
    pairs = [(color, shape) for color in COLORS for shape in SHAPES]
    answers = {
        pair: ask(client, part(draw_somewhere(*pair, seed=number)), question(DESCRIBE))
        for number, pair in enumerate(pairs)
    }
    wrong = {pair: answer for pair, answer in answers.items() if not all(word in answer for word in pair)}
    assert len(wrong) <= len(pairs) // 18, wrong


def test_the_answer_changes_with_the_picture(client: openai.OpenAI) -> None:
    red = ask(client, part(draw(("red", "circle"))), question(DESCRIBE))
    blue = ask(client, part(draw(("blue", "square"))), question(DESCRIBE))
    assert "red circle" in red and "blue square" in blue


def test_the_second_picture_of_a_conversation_is_seen(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "user", "content": [part(draw(("red", "circle"))), question(DESCRIBE)]},
        {"role": "assistant", "content": "a red circle"},
        {"role": "user", "content": [part(draw(("green", "triangle"))), question(DESCRIBE)]},
    ]
    answer = client.chat.completions.create(model="demo-vl", messages=messages, temperature=0)
    assert answer.usage is not None and answer.usage.prompt_tokens > 50
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_has_the_same_text_as_a_whole_answer(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Who are you?"}]
    whole = client.chat.completions.create(model="demo-vl", messages=messages, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="demo-vl", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_max_tokens_ends_an_answer_with_length(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Who are you?"}]
    answer = client.chat.completions.create(model="demo-vl", messages=messages, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 2


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Who are you?"}]
    texts = {
        client.chat.completions.create(model="demo-vl", messages=messages, temperature=1.5, seed=7, max_tokens=30)
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) == 1


def test_errors_are_the_client_librarys_own(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=messages)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="demo-vl", messages=messages, max_tokens=10**6)
    assert bad.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="PNG"):
        ask(client, {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm90IGFuIGltYWdl"}})


def test_a_client_that_leaves_ends_its_generation(system: System, client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Who are you?"}]
    endless = {"ignore_eos": True, "max_tokens": 1900}
    process = model_process(system, "llm")
    stream = client.chat.completions.create(model="demo-vl", messages=messages, stream=True, extra_body=endless)
    next(iter(stream))
    assert cpu_seconds_within(process, 0.5) > 0.1, "the generation should still run"
    stream.close()
    time.sleep(0.5)
    assert cpu_seconds_within(process, 0.5) < 0.1


def cpu_seconds_within(process: psutil.Process, seconds: float) -> float:
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system) - (before.user + before.system)


def test_models_tell_task_and_modalities(client: openai.OpenAI) -> None:
    models = {model.id: model.model_dump() for model in client.models.list()}
    assert models["demo-vl"]["task"] == "chat"
    assert models["demo-vl"]["input_modalities"] == ["text", "image"]
    assert models["demo-vl"]["max_model_len"] == 2048
    assert models["demo-whisper"]["task"] == "transcription"


def test_probes(system: System) -> None:
    for path in ("liveness", "readiness", "health", "metrics"):
        assert httpx.get(f"http://{system.http}/{path}").status_code == 200
