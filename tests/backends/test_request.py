"""Every tensor and every key of `sampling_parameters` arrives where it belongs, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from python_backends.errors import InvalidInput
from python_backends.llm.request import ChatRequest, read_request
from python_backends.types import Guide, SamplingParams

TEXT = {"text_input": b"hello"}


class FakeTensors:
    """The request's tensors by name, without the batch dimension, as `triton_io.Inputs` gives them."""

    request_id = "r"

    def __init__(self, values: dict[str, Any]) -> None:
        self._arrays = {name: np.atleast_1d(_array(value)) for name, value in values.items()}

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        return self._arrays.get(name)

    def scalar(self, name: str, default: Any = None) -> Any:
        found = self._arrays.get(name)
        return default if found is None or found.size == 0 else found.reshape(-1).tolist()[0]

    def text(self, name: str, default: str = "") -> str:
        value = self.scalar(name)
        return default if value is None else str(value, "utf-8")

    def blobs(self, name: str) -> list[bytes]:
        found = self._arrays.get(name)
        return [] if found is None else found.tolist()

    def json(self, name: str) -> Any:
        words = self.text(name)
        return json.loads(words) if words else None


def _array(value: Any) -> Any:
    is_text = isinstance(value, bytes) or (isinstance(value, list) and bool(value) and isinstance(value[0], bytes))
    return np.array(value, np.object_) if is_text else np.asarray(value)


def read(defaults: SamplingParams | None = None, **values: Any) -> ChatRequest:
    return read_request(FakeTensors({**TEXT, **values}), defaults or SamplingParams())


def read_keys(**keys: Any) -> SamplingParams:
    return read(sampling_parameters=json.dumps(keys).encode()).sampling


@pytest.mark.parametrize(
    ("tensor", "value", "field", "expected"),
    [
        ("max_tokens", np.int32([7]), "max_tokens", 7),
        ("min_tokens", np.int32([2]), "min_tokens", 2),
        ("temperature", np.float32([0.5]), "temperature", 0.5),
        ("top_p", np.float32([0.25]), "top_p", 0.25),
        ("top_k", np.int32([5]), "top_k", 5),
        ("seed", np.uint64([2**64 - 1]), "seed", 2**64 - 1),
        ("repetition_penalty", np.float32([1.5]), "repetition_penalty", 1.5),
        ("presence_penalty", np.float32([-1.5]), "presence_penalty", -1.5),
        ("frequency_penalty", np.float32([0.5]), "frequency_penalty", 0.5),
        ("return_log_probs", np.array([True]), "logprobs", True),
        ("num_return_sequences", np.int32([3]), "n", 3),
        ("stop_words", [b"a", "é".encode(), b""], "stop", ("a", "é")),
    ],
)
def test_a_tensor_becomes_a_field(tensor: str, value: Any, field: str, expected: Any) -> None:
    sampling = read(**{tensor: value}).sampling
    assert getattr(sampling, field) == expected
    assert type(getattr(sampling, field)) is type(expected)
    assert sampling == SamplingParams(**{field: expected})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("min_p", 0.25, 0.25),
        ("ignore_eos", True, True),
        ("priority", -3, -3),
        ("skip_special_tokens", False, False),
        ("include_stop_str_in_output", True, True),
        ("logit_bias", {"5": 1, "7": -2.5}, {5: 1.0, 7: -2.5}),
        ("stop_token_ids", [3, 4], frozenset({3, 4})),
        ("stop", "end", ("end",)),
        ("stop", ["end", "", "stop"], ("end", "stop")),
        ("stop", "", ()),
        ("max_tokens", 7, 7),
        ("max_tokens", 7.0, 7),
        ("min_tokens", 2, 2),
        ("temperature", 1, 1.0),
        ("top_p", 0.5, 0.5),
        ("top_k", -1, -1),
        ("seed", 12, 12),
        ("repetition_penalty", 1.2, 1.2),
        ("presence_penalty", 1, 1.0),
        ("frequency_penalty", -1, -1.0),
        ("logprobs", True, True),
        ("n", 2, 2),
        ("temperature", None, 1.0),
        ("stop", None, ()),
        ("stop_token_ids", None, frozenset()),
    ],
)
def test_a_key_of_sampling_parameters_becomes_a_field(key: str, value: Any, expected: Any) -> None:
    assert read_keys(**{key: value}) == SamplingParams(**{key: expected})


def test_top_logprobs_ask_for_logprobs() -> None:
    assert read_keys(top_logprobs=3) == SamplingParams(top_logprobs=3, logprobs=True)


def test_a_tensor_goes_before_its_key_and_the_defaults_come_last() -> None:
    keys = json.dumps({"top_k": 4, "seed": 9}).encode()
    defaults = SamplingParams(temperature=0.75, top_k=2, top_p=0.5)
    sampling = read(defaults, top_k=np.int32([8]), sampling_parameters=keys).sampling
    assert sampling == SamplingParams(temperature=0.75, top_k=8, top_p=0.5, seed=9)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('{"top_q": 1}', "unknown key 'top_q'"),
        ('{"top_k": "5"}', "top_k must be of type int"),
        ('{"top_k": 1.5}', "top_k must be of type int, got 1.5"),
        ('{"top_k": true}', "top_k must be of type int, got True"),
        ('{"seed": Infinity}', "seed must be of type int, got inf"),
        ('{"seed": NaN}', "seed must be of type int, got nan"),
        ('{"temperature": NaN}', "temperature must be of type float, got nan"),
        ('{"temperature": 1' + "0" * 400 + "}", "temperature must be of type float, got 1000"),
        ('{"temperature": []}', "temperature must be of type float"),
        ('{"ignore_eos": 1}', "ignore_eos must be of type bool"),
        ('{"logit_bias": [1]}', "logit_bias must be an object"),
        ('{"logit_bias": {"x": 1}}', "logit_bias: invalid literal"),
        ('{"logit_bias": {"1": null}}', "logit_bias: "),
        ('{"stop_token_ids": 3}', "stop_token_ids must be a list"),
        ('{"stop_token_ids": [null]}', "stop_token_ids must be of type int, got None"),
        ('{"stop": [3]}', "stop must be text or a list of texts"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_bad_sampling_parameters_are_refused_by_name(keys: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected) as caught:
        read(sampling_parameters=keys.encode())
    assert caught.value.field == "sampling_parameters"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", 101),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", 101),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("n", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("logit_bias", {"3": 101}),
        ("logit_bias", {"3": "nan"}),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match="must be") as caught:
        read_keys(**{field: value})
    assert caught.value.field == field
    assert caught.value.wire_text.startswith(f"[INVALID_ARGUMENT] {field}: must be")


def test_a_tensor_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(temperature=np.float32([np.nan]))
    assert caught.value.field == "temperature"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"messages": b"null"},
        {"messages": b"[]", "text_input": b"x"},
        {"text_input": b"x", "input_ids": np.int32([1])},
    ],
)
def test_exactly_one_prompt_is_required(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="exactly one of messages, text_input and input_ids"):
        read_request(FakeTensors(values), SamplingParams())


def test_the_three_kinds_of_prompt() -> None:
    chat = read_request(FakeTensors({"messages": b'[{"role": "user"}]'}), SamplingParams())
    ids = read_request(FakeTensors({"input_ids": np.int32([3, 4])}), SamplingParams())
    assert (chat.messages, chat.text_input, chat.input_ids) == ([{"role": "user"}], "", None)
    assert (ids.messages, ids.text_input, ids.input_ids) == (None, "", [3, 4])
    assert (read().messages, read().text_input, read().input_ids) == (None, "hello", None)


def test_what_goes_with_the_prompt() -> None:
    request = read(
        tools=b'[{"name": "clock"}]',
        chat_template_kwargs=b'{"enable_thinking": false}',
        image=[b"first", b"second"],
        video=[b"film"],
        bad_words=[b"no", b""],
        image_embeds=np.zeros((2, 3), np.float32),
        image_grid=np.int64([1, 2, 4]),
    )
    assert request.tools == [{"name": "clock"}]
    assert request.chat_template_kwargs == {"enable_thinking": False}
    assert (request.images, request.videos) == ([b"first", b"second"], [b"film"])
    assert request.bad_words == ("no",)
    assert request.image_embeds is not None and request.image_embeds.shape == (2, 3)
    assert request.image_grid is not None and request.image_grid.tolist() == [1, 2, 4]


def test_an_adapter_is_chosen_by_name() -> None:
    assert (read().lora_name, read(lora_name=b"legal").lora_name) == ("", "legal")


def test_one_response_or_many_and_the_echo() -> None:
    assert (read().stream, read().echo, read().compact) == (True, False, False)
    other = read(stream=np.array([False]), exclude_input_in_output=np.array([False]), compact=np.array([True]))
    assert (other.stream, other.echo, other.compact) == (False, True, True)


@pytest.mark.parametrize(("tensor", "value"), [("messages", b"{}"), ("tools", b"{}"), ("chat_template_kwargs", b"[]")])
def test_json_of_the_wrong_shape_names_its_tensor(tensor: str, value: bytes) -> None:
    given = {tensor: value} if tensor == "messages" else {**TEXT, tensor: value}
    with pytest.raises(InvalidInput, match="must be a JSON") as caught:
        read_request(FakeTensors(given), SamplingParams())
    assert caught.value.field == tensor


@pytest.mark.parametrize("tensor", ["stop_words", "bad_words"])
def test_words_must_be_utf8(tensor: str) -> None:
    with pytest.raises(InvalidInput, match="not valid UTF-8") as caught:
        read(**{tensor: [b"\xff"]})
    assert caught.value.field == tensor


@pytest.mark.parametrize("kind", ["json_schema", "regex", "ebnf_grammar", "choice", "structural_tag"])
def test_a_guide_is_a_kind_and_a_text(kind: Any) -> None:
    given = {"guided_decoding_guide_type": kind.encode(), "guided_decoding_guide": "größe".encode()}
    assert read(**given).sampling == SamplingParams(guide=Guide(kind, "größe"))
    with pytest.raises(InvalidInput, match="is empty") as caught:
        read(guided_decoding_guide_type=kind.encode())
    assert caught.value.field == "guided_decoding_guide"


def test_json_needs_no_guide_and_none_is_no_guide() -> None:
    assert read(guided_decoding_guide_type=b"json").sampling.guide == Guide("json")
    assert read(guided_decoding_guide_type=b"", guided_decoding_guide=b"").sampling.guide is None


@pytest.mark.parametrize("kind", [b"", b"poem"])
def test_a_guide_of_no_known_kind_is_refused(kind: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(guided_decoding_guide_type=kind, guided_decoding_guide=b"x")
    assert caught.value.field == "guided_decoding_guide_type"
