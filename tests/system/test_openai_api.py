"""The rest of the API on the real system: several answers, forms, tools, finished prompts, and counted tokens."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.conftest import System

pytestmark = pytest.mark.triton

USER: Any = [{"role": "user", "content": "Who are you?"}]


class Paint(BaseModel):
    """Paints a shape."""

    color: Literal["red", "green"]
    sides: int


def test_several_answers_to_one_prompt(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo-vl", messages=USER, n=3, temperature=0)
    texts = [choice.message.content for choice in answer.choices]
    assert len(texts) == 3 and len(set(texts)) == 1 and texts[0], "greedy answers are alike"
    single = client.chat.completions.create(model="demo-vl", messages=USER, temperature=0)
    assert answer.usage is not None and single.usage is not None
    assert answer.usage.prompt_tokens == single.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * single.usage.completion_tokens
    with client.chat.completions.stream(model="demo-vl", messages=USER, n=2, temperature=0) as stream:
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == texts[:2]


def test_an_answer_in_a_form(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="demo-vl", messages=USER, response_format=Paint, max_tokens=100)
    assert isinstance(answer.choices[0].message.parsed, Paint)
    choice: Any = {"structured_outputs": {"choice": ["left", "right"]}}
    answer_of_two = client.chat.completions.create(model="demo-vl", messages=USER, extra_body=choice)
    assert answer_of_two.choices[0].message.content in ("left", "right")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo-vl", messages=USER, extra_body={"guided_regex": "("})
    assert caught.value.param == "guided_regex"


def test_a_demanded_call(client: openai.OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(Paint)]
    fields: Any = {"model": "demo-vl", "messages": USER, "tools": tools, "tool_choice": "required", "temperature": 0}
    answer = client.chat.completions.create(**fields, parallel_tool_calls=False, max_tokens=100)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "Paint"
    painted = Paint.model_validate_json(call.function.arguments)
    with client.chat.completions.stream(**fields, parallel_tool_calls=False, max_tokens=100) as stream:
        final = stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls or []
    assert streamed.function.parsed_arguments == painted


def test_finished_prompts(client: openai.OpenAI, system: System) -> None:
    prompt = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    chat = client.chat.completions.create(model="demo-vl", messages=USER, temperature=0)
    ids = _post(system, "/tokenize", {"prompt": prompt})["tokens"]
    for prompts in ([prompt, prompt], [ids, ids]):
        answer = client.completions.create(model="demo-vl", prompt=prompts, temperature=0, max_tokens=200)
        assert [choice.text for choice in answer.choices] == [chat.choices[0].message.content] * 2
    echoed = client.completions.create(model="demo-vl", prompt=prompt, temperature=0, max_tokens=1, echo=True)
    assert echoed.choices[0].text.startswith(prompt)
    assert echoed.choices[0].finish_reason == "length"


def test_counted_tokens_are_those_of_the_usage(client: openai.OpenAI, system: System) -> None:
    usage = client.chat.completions.create(model="demo-vl", messages=USER, max_tokens=4).usage
    assert usage is not None
    assert _post(system, "/v1/count_tokens", {"conversation": USER})["count"] == usage.prompt_tokens
    tokens = _post(system, "/tokenize", {"messages": USER})["tokens"]
    assert len(tokens) == usage.prompt_tokens
    assert "Who are you?" in _post(system, "/detokenize", {"tokens": tokens})["prompt"]
    text = client.completions.create(model="demo-vl", prompt="Who are you?", max_tokens=1).usage
    assert text is not None
    assert _post(system, "/v1/count_tokens", {"conversation": "Who are you?"})["count"] == text.prompt_tokens


def test_times_are_consistent(client: openai.OpenAI) -> None:
    usage = client.chat.completions.create(model="demo-vl", messages=USER, temperature=0).usage
    assert usage is not None
    times = json.loads(usage.model_dump_json())
    assert 0 < times["first_token_time"] < times["processing_time"]
    decoding = times["processing_time"] - times["first_token_time"]
    assert times["tokens_per_second"] == pytest.approx((usage.completion_tokens - 1) / decoding, rel=0.01)


def _post(system: System, path: str, body: dict[str, Any]) -> Any:
    response = httpx.post(f"http://{system.http}{path}", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()
